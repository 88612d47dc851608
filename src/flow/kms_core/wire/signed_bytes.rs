//! The bytes that the Core signed, rebuilt from its reply, because the contract hashes them again. One
//! wrong byte here is a wrong signer there (protocol: kms-core-grpc 5).

use alloy::primitives::U256;
use prost::Message as _;

use super::reply::ReplyError;
use crate::flow::kms_core::proto::kms::v1;

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
