//! Turns a Core's reply into an answer whose signature was checked. Pure.
//!
//! The contract rebuilds the EIP-712 digest from the bytes we send, recovers the signer and compares it with
//! the registered one. The same is done here before gas is spent. Where a reply leaves open which bytes were
//! signed (two result encodings, old Cores that do not echo `extraData`), each candidate is tried, the
//! likeliest first, and the signature decides (protocol: gateway-abi 10).

mod keys;
mod epochs;

use alloy::primitives::Signature;
use bytes::Bytes;

pub use self::keys::{KeyReply, key_answer, signer_of_key};
use super::{
    answer_error::{AnswerError, WrongSigner, WrongSignerCause},
    eip712::{public_digest, user_digest},
    proto::kms::v1,
    wire::{self, ExtraDataMeaning, PublicReply, ResultEncoding},
};
use crate::domain::{
    Address, Answer, B256, Operation, PublicDecryption, Request, SignedResult, SigningDomain,
    UserDecryption,
};

/// Why a signature is invalid, whatever it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature is empty")]
    Empty,
    #[error("the signature has {0} bytes instead of 65")]
    Length(usize),
    #[error("the signature's last byte is {0} instead of 27 or 28")]
    RecoveryId(u8),
    #[error("the signature's s is in the upper half, which the contract refuses")]
    HighS,
    #[error("the signature recovers to no address")]
    Unrecoverable,
}

/// Parses a signature as strictly as the contract does: 65 bytes, v 27 or 28, low s.
pub fn parse_signature(bytes: &[u8]) -> Result<Signature, SignatureError> {
    if bytes.is_empty() {
        return Err(SignatureError::Empty);
    }
    let bytes: &[u8; 65] = bytes.try_into().map_err(|_| SignatureError::Length(bytes.len()))?;
    let parity = match bytes[64] {
        27 => false,
        28 => true,
        other => return Err(SignatureError::RecoveryId(other)),
    };
    let signature = Signature::from_bytes_and_parity(&bytes[..64], parity);
    if signature.normalize_s().is_some() {
        return Err(SignatureError::HighS);
    }
    Ok(signature)
}

/// Returns the signer of `digest`.
pub fn recover(signature: &Signature, digest: B256) -> Result<Address, SignatureError> {
    signature.recover_address_from_prehash(&digest).map_err(|_| SignatureError::Unrecoverable)
}

/// Returns the signer of an answer to this request's content, in the form that the contract takes.
pub fn signer_of(
    domain: &SigningDomain,
    request: &Request,
    answer: &Answer,
) -> Result<Address, SignatureError> {
    let SignedResult { payload, signature, extra_data } = answer.signed();
    let signature = parse_signature(signature)?;
    let extra_data = request.shape.has_extra_data().then_some(&extra_data[..]);
    let handles = request.handles();
    let digest = match &request.operation {
        Operation::UserDecryption(user) => {
            user_digest(domain, &user.public_key, handles, payload, extra_data)
        }
        Operation::PublicDecryption(_) => public_digest(domain, handles, payload, extra_data),
        Operation::Key(operation) => {
            return signer_of_key(domain, request, operation, answer.signed());
        }
    };
    recover(&signature, digest)
}

/// Checks the reply to a public decryption and returns its answer. `registered`: the signers registered for
/// this node. Without any, the signature must only recover to some address.
pub fn public_answer(
    domain: &SigningDomain,
    request: &Request,
    operation: &PublicDecryption,
    meaning: ExtraDataMeaning,
    reply: &PublicReply,
    registered: &[Address],
) -> Result<SignedResult, AnswerError> {
    let sent = meaning.signed_bytes(&operation.extra_data.0);
    let mut payloads = Vec::with_capacity(2);
    let mut refused = None;
    for encoding in ResultEncoding::by_likelihood(request.key.id) {
        match wire::decrypted_result(encoding, &reply.plaintexts) {
            Ok(result) => payloads.push(Bytes::from(result)),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    if let Some(error) = refused
        && payloads.is_empty()
    {
        return Err(AnswerError::invalid(error));
    }
    let handles = request.handles();
    SignatureCheck {
        request,
        extra_data: candidates_of_extra_data(reply.extra_data.as_ref(), sent),
        payloads,
        signature: &reply.signature,
        registered,
    }
    .verify(|payload, extra_data| public_digest(domain, handles, payload, extra_data))
}

/// Checks the reply to a user decryption and returns its answer. `registered` as in [`public_answer`].
pub fn user_answer(
    domain: &SigningDomain,
    request: &Request,
    operation: &UserDecryption,
    meaning: ExtraDataMeaning,
    response: v1::UserDecryptionResponse,
    registered: &[Address],
) -> Result<SignedResult, AnswerError> {
    let sent = meaning.signed_bytes(&operation.extra_data.0);
    let payload = wire::user_payload(request, response.payload).map_err(AnswerError::invalid)?;
    // Protobuf does not tell an empty echo from a Core that does not echo.
    let echoed = Some(&response.extra_data);
    let handles = request.handles();
    SignatureCheck {
        request,
        extra_data: candidates_of_extra_data(echoed, sent),
        payloads: vec![Bytes::from(wire::user_decrypted_share(&payload))],
        signature: &response.external_signature,
        registered,
    }
    .verify(|share, extra_data| {
        user_digest(domain, &operation.public_key, handles, share, extra_data)
    })
}

/// Reads the response to a public decryption, of either shape, and returns its checked answer.
pub fn decode_public_answer(
    domain: &SigningDomain,
    request: &Request,
    operation: &PublicDecryption,
    meaning: ExtraDataMeaning,
    response: v1::PublicDecryptionResponse,
    registered: &[Address],
) -> Result<SignedResult, AnswerError> {
    let reply = wire::public_reply(request, response).map_err(AnswerError::invalid)?;
    public_answer(domain, request, operation, meaning, &reply, registered)
}

/// What the Core says it signed, then what we asked it to sign.
fn candidates_of_extra_data(echoed: Option<&Bytes>, sent: Bytes) -> Vec<Bytes> {
    match echoed {
        Some(echoed) if *echoed != sent => vec![echoed.clone(), sent],
        Some(_) | None => vec![sent],
    }
}

/// The candidates of one reply, the likeliest first, and what decides between them.
struct SignatureCheck<'a> {
    request: &'a Request,
    payloads: Vec<Bytes>,
    extra_data: Vec<Bytes>,
    signature: &'a [u8],
    registered: &'a [Address],
}

impl SignatureCheck<'_> {
    fn verify(
        &self,
        digest: impl Fn(&[u8], Option<&[u8]>) -> B256,
    ) -> Result<SignedResult, AnswerError> {
        let signature = parse_signature(self.signature).map_err(AnswerError::invalid)?;
        let with_extra_data = self.request.shape.has_extra_data();
        let mut first_signer = None;
        for (payload, extra_data) in self.candidates() {
            let digest = digest(payload, with_extra_data.then_some(extra_data.as_ref()));
            let signer = recover(&signature, digest).map_err(AnswerError::invalid)?;
            if self.registered.is_empty() || self.registered.contains(&signer) {
                let extra_data = if with_extra_data { extra_data.clone() } else { Bytes::new() };
                return Ok(SignedResult {
                    payload: payload.clone().into(),
                    signature: Bytes::copy_from_slice(self.signature).into(),
                    extra_data: extra_data.into(),
                });
            }
            first_signer.get_or_insert(signer);
        }
        // Without registered signers the first candidate was returned above, and there is always one.
        let (Some(expected), Some(signer)) = (self.registered.first(), first_signer) else {
            return Err(AnswerError::invalid("no candidate"));
        };
        // The most common cause besides a wrong key: a Core of another generation.
        let other_generation = self.candidates().any(|(payload, extra_data)| {
            let digest = digest(payload, (!with_extra_data).then_some(extra_data.as_ref()));
            recover(&signature, digest).is_ok_and(|signer| self.registered.contains(&signer))
        });
        let cause = match (other_generation, with_extra_data) {
            (false, _) => WrongSignerCause::Unknown,
            (true, true) => WrongSignerCause::CoreTooOld,
            (true, false) => WrongSignerCause::CoreTooNew,
        };
        Err(WrongSigner { expected: *expected, signer, cause }.into())
    }

    fn candidates(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.extra_data
            .iter()
            .flat_map(|extra_data| self.payloads.iter().map(move |payload| (payload, extra_data)))
    }
}

#[cfg(test)]
mod tests;
