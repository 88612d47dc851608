//! Domain <-> protobuf. Pure.
//!
//! Sent: every handle of the request in on-chain order, or nothing. Received: the bytes the Core signed,
//! rebuilt exactly, because the contract hashes them again; one wrong byte here is a wrong signer there
//! (protocol: kms-core-grpc 4 and 5).

use alloy::hex;
use alloy::primitives::U256;
use bytes::Bytes;
use prost::{
    Message as _,
    encoding::{self, DecodeContext},
};

use super::proto::kms::v1;
use crate::domain::{
    B256, Ciphertext, CiphertextFormat, Hold, HoldReason, Material, Operation, PublicDecryption,
    Refusal, Remedy, Request, SigningDomain, UntrustedText, UserDecryption,
};

/// The highest number in tfhe's `FheTypes` (Int248). All lower ones are in use.
const LAST_FHE_TYPE: u8 = 83;

/// Why no Core can be asked this request, whatever its ciphertexts are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the request names no ciphertext")]
    NoMaterials,
    #[error("the request names ciphertexts of different keys ({first:#066x} and {other:#066x})")]
    DifferentKeyIds { first: U256, other: U256 },
    #[error("handle {handle} is of FHE type {number}, which this connector does not know")]
    UnsupportedType { handle: B256, number: u8 },
    #[error("this connector cannot serve the event {event}")]
    UnsupportedEvent { event: &'static str },
}

impl RequestError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoMaterials => "no_materials",
            Self::DifferentKeyIds { .. } => "different_key_ids",
            Self::UnsupportedType { .. } => "unsupported_type",
            Self::UnsupportedEvent { .. } => "unsupported_event",
        }
    }

    /// What to do with the request.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NoMaterials | Self::DifferentKeyIds { .. } => {
                Remedy::Refuse(Refusal::Malformed(self.to_string()))
            }
            Self::UnsupportedType { .. } => {
                Remedy::Hold(Hold::new(HoldReason::UnsupportedType, self.to_string()))
            }
            Self::UnsupportedEvent { .. } => {
                Remedy::Hold(Hold::new(HoldReason::UnsupportedGeneration, self.to_string()))
            }
        }
    }
}

/// Checks whether a Core can be asked this request at all. Needs only the event, so it can be called before
/// anything is fetched.
pub fn check(request: &Request) -> Result<(), RequestError> {
    if let Operation::Unsupported { event, .. } = request.operation {
        return Err(RequestError::UnsupportedEvent { event });
    }
    key_id(request.materials())?;
    for material in request.materials() {
        let number = material.fhe_type();
        if number > LAST_FHE_TYPE {
            return Err(RequestError::UnsupportedType { handle: material.handle, number });
        }
    }
    Ok(())
}

/// The key that all materials were encrypted with.
pub fn key_id(materials: &[Material]) -> Result<U256, RequestError> {
    let (first, rest) = materials.split_first().ok_or(RequestError::NoMaterials)?;
    match rest.iter().find(|material| material.key_id != first.key_id) {
        None => Ok(first.key_id),
        Some(other) => {
            Err(RequestError::DifferentKeyIds { first: first.key_id, other: other.key_id })
        }
    }
}

/// What `extraData` means to the contract that emitted the request. The event cannot tell: those of v0.9 and
/// v0.13 are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExtraDataMeaning {
    /// Up to G10: opaque bytes that the Core signs. Passed on unchanged, as the other nodes' connectors of
    /// that time do: consensus needs equal bytes.
    #[default]
    Opaque,
    /// From G12 on: names a context. A single zero byte counts as empty, as it does for the other nodes'
    /// connectors. Versions 1 and 2 become `context_id` and `epoch_id`.
    Context,
}

impl ExtraDataMeaning {
    /// The bytes that the Core is asked to sign.
    #[must_use]
    pub fn signed_bytes(self, extra_data: &Bytes) -> Bytes {
        match self {
            Self::Context if extra_data.as_ref() == [0] => Bytes::new(),
            Self::Opaque | Self::Context => extra_data.clone(),
        }
    }

    /// The ids of context and epoch, if the bytes name them (protocol: gateway-abi 11).
    fn context_and_epoch(
        self,
        extra_data: &[u8],
    ) -> (Option<v1::RequestId>, Option<v1::RequestId>) {
        let word = |range| {
            let bytes: &[u8] = extra_data.get::<std::ops::Range<usize>>(range)?;
            Some(v1::RequestId { request_id: hex::encode(bytes) })
        };
        match (self, extra_data.first()) {
            (Self::Context, Some(1)) => (word(1..33), None),
            (Self::Context, Some(2)) => (word(1..33), word(33..65)),
            (Self::Opaque | Self::Context, _) => (None, None),
        }
    }
}

/// An id as the Core writes it: 64 lower-case hex digits.
#[must_use]
pub fn request_id(id: U256) -> v1::RequestId {
    v1::RequestId { request_id: hex::encode(id.to_be_bytes::<32>()) }
}

/// The ciphertexts are not those of the request: the caller's mistake. It is caught here because a request
/// that is sent in part can never get a valid answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ciphertexts do not match the request's handles (got {got}, want {want}, in order)")]
pub struct CiphertextMismatch {
    pub got: usize,
    pub want: usize,
}

/// Pairs the ciphertexts with the materials. Moves their bytes.
pub fn typed_ciphertexts(
    materials: &[Material],
    ciphertexts: Vec<Ciphertext>,
) -> Result<Vec<v1::TypedCiphertext>, CiphertextMismatch> {
    let mismatch = CiphertextMismatch { got: ciphertexts.len(), want: materials.len() };
    if ciphertexts.len() != materials.len() {
        return Err(mismatch);
    }
    materials
        .iter()
        .zip(ciphertexts)
        .map(|(material, ciphertext)| {
            if material.handle != ciphertext.handle {
                return Err(mismatch.clone());
            }
            let format = match ciphertext.format {
                CiphertextFormat::BigCompressed => v1::CiphertextFormat::BigCompressed,
                CiphertextFormat::BigExpanded => v1::CiphertextFormat::BigExpanded,
            };
            Ok(v1::TypedCiphertext {
                ciphertext: ciphertext.body.0,
                fhe_type: i32::from(material.fhe_type()),
                external_handle: Bytes::copy_from_slice(material.handle.as_slice()),
                ciphertext_format: format.into(),
            })
        })
        .collect()
}

fn domain_message(domain: &SigningDomain) -> v1::Eip712DomainMsg {
    v1::Eip712DomainMsg {
        name: domain.name.clone(),
        version: domain.version.clone(),
        chain_id: Bytes::copy_from_slice(&U256::from(domain.chain_id).to_be_bytes::<32>()),
        verifying_contract: domain.verifying_contract.to_checksum(None),
        salt: None,
    }
}

#[must_use]
pub fn public_request(
    id: U256,
    key_id: U256,
    operation: &PublicDecryption,
    ciphertexts: Vec<v1::TypedCiphertext>,
    domain: &SigningDomain,
    meaning: ExtraDataMeaning,
) -> v1::PublicDecryptionRequest {
    let (context_id, epoch_id) = meaning.context_and_epoch(&operation.extra_data);
    v1::PublicDecryptionRequest {
        request_id: Some(request_id(id)),
        ciphertexts,
        key_id: Some(request_id(key_id)),
        domain: Some(domain_message(domain)),
        extra_data: meaning.signed_bytes(&operation.extra_data.0),
        context_id,
        epoch_id,
    }
}

#[must_use]
pub fn user_request(
    id: U256,
    key_id: U256,
    operation: &UserDecryption,
    ciphertexts: Vec<v1::TypedCiphertext>,
    domain: &SigningDomain,
    meaning: ExtraDataMeaning,
) -> v1::UserDecryptionRequest {
    let (context_id, epoch_id) = meaning.context_and_epoch(&operation.extra_data);
    v1::UserDecryptionRequest {
        request_id: Some(request_id(id)),
        typed_ciphertexts: ciphertexts,
        key_id: Some(request_id(key_id)),
        client_address: operation.user.to_checksum(None),
        enc_key: operation.public_key.0.clone(),
        domain: Some(domain_message(domain)),
        extra_data: meaning.signed_bytes(&operation.extra_data.0),
        context_id,
        epoch_id,
    }
}

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
            check_count(occurrences(&payload, 2)?, request.materials().len())?;
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
            check_count(occurrences(&payload, 3)?, request.materials().len())?;
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
fn is_id(text: &v1::RequestId, id: U256) -> bool {
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
    let materials = request.materials();
    check_count(occurrences(&payload, 3)?, materials.len())?;
    let payload =
        v1::UserDecryptionResponsePayload::decode(payload).map_err(|_| ReplyError::Undecodable)?;
    for (index, (share, material)) in
        payload.signcrypted_ciphertexts.iter().zip(materials).enumerate()
    {
        // The signature covers the request's handles; this only reports a mix-up by name.
        let handle = &share.external_handle;
        if !handle.is_empty() && handle.as_ref() != material.handle.as_slice() {
            return Err(ReplyError::OtherHandle { index });
        }
    }
    Ok(payload)
}

/// The two encodings of `decryptedResult` (protocol: kms-core-grpc 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultEncoding {
    /// Core up to v0.11: ABI-encoded after a placeholder and before an empty `bytes[]`, both cut off.
    Legacy,
    /// Core from v0.12 on: one 32-byte word per value.
    Words,
}

impl ResultEncoding {
    /// Both encodings, the likelier first. The id's top byte tells the contract's generation, and with it the
    /// Core's: plain counters mean v0.8 or older.
    #[must_use]
    pub fn by_likelihood(id: U256) -> [Self; 2] {
        if id.byte(31) == 0 { [Self::Legacy, Self::Words] } else { [Self::Words, Self::Legacy] }
    }
}

/// The bytes of `decryptedResult` as the Core signed them.
pub fn decrypted_result(
    encoding: ResultEncoding,
    plaintexts: &[v1::TypedPlaintext],
) -> Result<Vec<u8>, ReplyError> {
    match encoding {
        ResultEncoding::Words => words_result(plaintexts),
        ResultEncoding::Legacy => legacy_result(plaintexts),
    }
}

const WORD: usize = 32;

fn words_result(plaintexts: &[v1::TypedPlaintext]) -> Result<Vec<u8>, ReplyError> {
    let mut result = Vec::with_capacity(plaintexts.len() * WORD);
    for plaintext in plaintexts {
        match plaintext.fhe_type {
            // Bool, Uint8, 16, 32, 64, 128, 160, 256.
            0 | 2..=8 => push_big_endian(&mut result, plaintext, WORD)?,
            other => return Err(ReplyError::NoEncoding(other)),
        }
    }
    Ok(result)
}

fn legacy_result(plaintexts: &[v1::TypedPlaintext]) -> Result<Vec<u8>, ReplyError> {
    // Offsets count from the start of the full tuple: placeholder, values, empty array.
    let heads = (plaintexts.len() + 2) * WORD;
    let mut head = Vec::with_capacity(heads);
    let mut tail = Vec::new();
    for plaintext in plaintexts {
        match plaintext.fhe_type {
            0..=8 => push_big_endian(&mut head, plaintext, WORD)?,
            // Uint512, 1024, 2048: dynamic `bytes`, whose length is a multiple of the word.
            9..=11 => {
                let length = 64 << (plaintext.fhe_type - 9);
                push_word(&mut head, heads + tail.len());
                push_word(&mut tail, length);
                push_big_endian(&mut tail, plaintext, length)?;
            }
            other => return Err(ReplyError::NoEncoding(other)),
        }
    }
    push_word(&mut head, heads + tail.len());
    head.append(&mut tail);
    Ok(head)
}

fn push_word(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&U256::from(value).to_be_bytes::<WORD>());
}

/// Appends a little-endian value as `width` big-endian bytes.
fn push_big_endian(
    out: &mut Vec<u8>,
    plaintext: &v1::TypedPlaintext,
    width: usize,
) -> Result<(), ReplyError> {
    let value = &plaintext.bytes;
    let Some(padding) = width.checked_sub(value.len()) else {
        return Err(ReplyError::TooLong {
            fhe_type: plaintext.fhe_type,
            length: value.len(),
            most: width,
        });
    };
    out.resize(out.len() + padding, 0);
    out.extend(value.iter().rev());
    Ok(())
}

/// The bytes of `userDecryptedShare` as the Core signed them: bincode 1 of the payload, that is
/// little-endian, fixed-width integers, 64-bit lengths (protocol: kms-core-grpc 5.2).
#[must_use]
pub fn user_decrypted_share(payload: &v1::UserDecryptionResponsePayload) -> Vec<u8> {
    fn push_length(out: &mut Vec<u8>, length: usize) {
        out.extend_from_slice(&(length as u64).to_le_bytes());
    }
    fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
        push_length(out, bytes.len());
        out.extend_from_slice(bytes);
    }
    let mut out = Vec::with_capacity(payload.encoded_len() + 64);
    push_bytes(&mut out, &payload.verification_key);
    push_bytes(&mut out, &payload.digest);
    push_length(&mut out, payload.signcrypted_ciphertexts.len());
    for share in &payload.signcrypted_ciphertexts {
        out.extend_from_slice(&share.fhe_type.to_le_bytes());
        push_bytes(&mut out, &share.signcrypted_ciphertext);
        push_bytes(&mut out, &share.external_handle);
        out.extend_from_slice(&share.packing_factor.to_le_bytes());
    }
    out.extend_from_slice(&payload.party_id.to_le_bytes());
    out.extend_from_slice(&payload.degree.to_le_bytes());
    out
}

#[cfg(test)]
mod tests;
