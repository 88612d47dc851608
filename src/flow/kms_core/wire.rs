//! Domain <-> protobuf. Pure.
//!
//! Sent: every handle of the request in on-chain order, or nothing. Received: the bytes the Core signed,
//! rebuilt exactly, because the contract hashes them again; one wrong byte here is a wrong signer there
//! (protocol: kms-core-grpc 4 and 5).

mod request;
mod reply;
mod keys;
mod lifecycle;
mod signed_bytes;

pub use self::{
    keys::{
        crsgen_request, key_digests, keygen_request, malformed_id, preparation_request,
        randomness_request, resharing_request,
    },
    lifecycle::{
        context_end_request, context_request, epoch_end_request, epoch_request, read_epoch_result,
    },
    reply::{PublicReply, ReplyError, is_id, public_reply, user_payload},
    request::{
        CiphertextMismatch, ExtraDataMeaning, NamedContext, RequestError, check, public_request,
        request_id, typed_ciphertexts, user_request,
    },
    signed_bytes::{ResultEncoding, decrypted_result, user_decrypted_share},
};

#[cfg(test)]
mod tests;
