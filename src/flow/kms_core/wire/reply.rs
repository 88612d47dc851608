//! What is received: replies of every Core version, counted before they are decoded, and checked to
//! belong to the request.

use alloy::primitives::U256;
use bytes::Bytes;
use prost::{
    Message as _,
    encoding::{self, DecodeContext},
};

use super::request::request_id;
use crate::{
    domain::{Request, UntrustedText},
    flow::kms_core::proto::kms::v1,
};

/// Why a reply makes no sense. The request is held for each of them (`invalid_answer`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("the reply has no payload")]
    NoPayload,
    #[error("the reply's payload is not the expected message")]
    Undecodable,
    #[error("the reply belongs to request {0}")]
    OtherRequest(UntrustedText),
    #[error("the reply holds {got} results for {want} handles")]
    Count { got: usize, want: usize },
    #[error("result {index} of the reply belongs to another handle")]
    OtherHandle { index: usize },
    #[error("a plaintext of FHE type {fhe_type} has {length} bytes, at most {most} fit")]
    TooLong { fhe_type: i32, length: usize, most: usize },
    #[error("FHE type {0} has no result encoding")]
    NoEncoding(i32),
    /// The contracts up to G14 know two.
    #[error("the reply has the digest of a {0:?}, for which this contract has no type")]
    KeyType(UntrustedText),
    #[error("the reply has no digest")]
    NoDigest,
}

/// The reply to a public decryption, of any Core version.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicReply {
    pub plaintexts: Vec<v1::TypedPlaintext>,
    /// The EIP-712 signature, not checked yet.
    pub signature: Bytes,
    /// The `extraData` that the Core says it signed. `None`: the Core is too old to tell.
    pub extra_data: Option<Bytes>,
}

/// Reads either shape of the reply and checks that it belongs to `request`.
pub fn public_reply(
    request: &Request,
    response: v1::PublicDecryptionResponse,
) -> Result<PublicReply, ReplyError> {
    let (id, reply) = match response.payload {
        Some(payload) => {
            check_count(occurrences(&payload, 2)?, request.handles().len())?;
            let payload = v1::PublicDecryptionResponsePayload::decode(payload)
                .map_err(|_| ReplyError::Undecodable)?;
            let reply = PublicReply {
                plaintexts: payload.plaintexts,
                signature: response.payload_or_external_signature,
                extra_data: Some(response.extra_data),
            };
            (payload.request_id, reply)
        }
        None if response.payload_or_external_signature.is_empty() => {
            return Err(ReplyError::NoPayload);
        }
        None => {
            let payload = response.payload_or_external_signature;
            check_count(occurrences(&payload, 3)?, request.handles().len())?;
            let payload = v1::EarlyPublicDecryptionResponsePayload::decode(payload)
                .map_err(|_| ReplyError::Undecodable)?;
            let reply = PublicReply {
                plaintexts: payload.plaintexts,
                signature: payload.external_signature.unwrap_or_default(),
                extra_data: None,
            };
            (payload.request_id, reply)
        }
    };
    if let Some(id) = id
        && !is_id(&id, request.key.id)
    {
        return Err(ReplyError::OtherRequest(id.request_id.into()));
    }
    Ok(reply)
}

/// Returns whether the Core's text is `id`. Newer Cores may write `0x` or upper case.
#[must_use]
pub fn is_id(text: &v1::RequestId, id: U256) -> bool {
    let digits = text.request_id.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    digits.eq_ignore_ascii_case(&request_id(id).request_id)
}

/// Counts a field in an encoded message. Done before decoding, because an element that takes two bytes here
/// takes twenty times as much when it is decoded.
fn occurrences(mut message: &[u8], field: u32) -> Result<usize, ReplyError> {
    let mut count = 0;
    while !message.is_empty() {
        let (tag, wire_type) =
            encoding::decode_key(&mut message).map_err(|_| ReplyError::Undecodable)?;
        encoding::skip_field(wire_type, tag, &mut message, DecodeContext::default())
            .map_err(|_| ReplyError::Undecodable)?;
        count += usize::from(tag == field);
    }
    Ok(count)
}

fn check_count(got: usize, want: usize) -> Result<(), ReplyError> {
    if got == want { Ok(()) } else { Err(ReplyError::Count { got, want }) }
}

/// Decodes the payload of the reply to a user decryption and checks that it belongs to `request`.
pub fn user_payload(
    request: &Request,
    payload: Option<Bytes>,
) -> Result<v1::UserDecryptionResponsePayload, ReplyError> {
    let payload = payload.ok_or(ReplyError::NoPayload)?;
    let handles = request.handles();
    check_count(occurrences(&payload, 3)?, handles.len())?;
    let payload =
        v1::UserDecryptionResponsePayload::decode(payload).map_err(|_| ReplyError::Undecodable)?;
    for (index, (share, asked)) in payload.signcrypted_ciphertexts.iter().zip(handles).enumerate() {
        // The signature covers the request's handles; this only reports a mix-up by name.
        let handle = &share.external_handle;
        if !handle.is_empty() && handle.as_ref() != asked.as_slice() {
            return Err(ReplyError::OtherHandle { index });
        }
    }
    Ok(payload)
}
