//! What ciphertexts decrypt to, and both kinds of result as the contracts take them.

use alloy::primitives::{B256, U256, keccak256};
use bytes::Bytes;

use crate::proto::kms::v1;

/// What a ciphertext of this stub decrypts to: little-endian, as long as its type.
pub fn plaintext_of(fhe_type: u8, ciphertext: &[u8]) -> Vec<u8> {
    plaintext_of_digest(fhe_type, keccak256(ciphertext))
}

/// The same by the ciphertext's keccak256.
pub fn plaintext_of_digest(fhe_type: u8, digest: B256) -> Vec<u8> {
    let length = match fhe_type {
        0..=2 => 1,
        3..=6 => 1 << (fhe_type - 2),
        7 => 20,
        8..=11 => 32 << (fhe_type - 8),
        other => panic!("the stub cannot decrypt type {other}"),
    };
    let mut block = digest;
    let mut value = Vec::new();
    while value.len() < length {
        value.extend_from_slice(block.as_slice());
        block = keccak256(block);
    }
    value.truncate(length);
    match fhe_type {
        0 => value[0] &= 1,
        1 => value[0] &= 0x0F,
        _ => {}
    }
    value
}

/// The `decryptedResult` of values (FHE type, little-endian bytes): `words` from v0.12 on.
pub fn decrypted_result(words: bool, values: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let big_endian = |value: &[u8]| value.iter().rev().copied().collect::<Vec<u8>>();
    let mut members = Vec::new();
    for (fhe_type, value) in values {
        let value = big_endian(value);
        if *fhe_type >= 9 {
            assert!(!words, "no encoding for type {fhe_type} from v0.12 on");
            members.push(AbiMember::Bytes(value));
        } else {
            members.push(AbiMember::Word(U256::from_be_slice(&value)));
        }
    }
    if words {
        return abi_encode(&members);
    }
    members.insert(0, AbiMember::Word(U256::from(1)));
    members.push(AbiMember::EmptyArray);
    let encoded = abi_encode(&members);
    encoded[32..encoded.len() - 32].to_vec()
}

enum AbiMember {
    Word(U256),
    Bytes(Vec<u8>),
    EmptyArray,
}

/// The ABI encoding of a tuple.
fn abi_encode(members: &[AbiMember]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut offset = members.len() * 32;
    for member in members {
        match member {
            AbiMember::Word(value) => out.extend_from_slice(&value.to_be_bytes::<32>()),
            AbiMember::Bytes(value) => {
                out.extend_from_slice(&U256::from(offset).to_be_bytes::<32>());
                offset += 32 + value.len().next_multiple_of(32);
            }
            AbiMember::EmptyArray => {
                out.extend_from_slice(&U256::from(offset).to_be_bytes::<32>());
                offset += 32;
            }
        }
    }
    for member in members {
        match member {
            AbiMember::Word(_) => {}
            AbiMember::Bytes(value) => {
                out.extend_from_slice(&U256::from(value.len()).to_be_bytes::<32>());
                out.extend_from_slice(value);
                out.resize(out.len().next_multiple_of(32), 0);
            }
            AbiMember::EmptyArray => out.extend_from_slice(&[0; 32]),
        }
    }
    out
}

/// What the stub "signcrypts" for a user: the hash of the user's key, then the plaintext.
pub fn signcrypted(enc_key: &[u8], plaintext: &[u8]) -> Vec<u8> {
    [keccak256(enc_key).as_slice(), plaintext].concat()
}

pub(super) fn share_payload(
    enc_key: &[u8],
    handles: &[B256],
    values: &[(u8, Vec<u8>)],
) -> v1::UserDecryptionResponsePayload {
    v1::UserDecryptionResponsePayload {
        verification_key: Bytes::from_static(&[4; 33]),
        digest: Bytes::copy_from_slice(keccak256(enc_key).as_slice()),
        signcrypted_ciphertexts: handles
            .iter()
            .zip(values)
            .map(|(handle, (fhe_type, value))| v1::TypedSigncryptedCiphertext {
                fhe_type: i32::from(*fhe_type),
                signcrypted_ciphertext: signcrypted(enc_key, value).into(),
                external_handle: Bytes::copy_from_slice(handle.as_slice()),
                packing_factor: 1,
            })
            .collect(),
        party_id: 3,
        degree: 1,
    }
}

/// The `userDecryptedShare` this stub signs for a request's key, handles and values.
pub fn user_decrypted_share(enc_key: &[u8], handles: &[B256], values: &[(u8, Vec<u8>)]) -> Vec<u8> {
    share_bytes(&share_payload(enc_key, handles, values))
}

pub(super) fn share_bytes(payload: &v1::UserDecryptionResponsePayload) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let mut out = u64::try_from(bytes.len()).expect("fits").to_le_bytes().to_vec();
        out.extend_from_slice(bytes);
        out
    };
    let shares = &payload.signcrypted_ciphertexts;
    let mut parts = vec![
        sized(&payload.verification_key),
        sized(&payload.digest),
        u64::try_from(shares.len()).expect("fits").to_le_bytes().to_vec(),
    ];
    for share in shares {
        parts.push(share.fhe_type.to_le_bytes().to_vec());
        parts.push(sized(&share.signcrypted_ciphertext));
        parts.push(sized(&share.external_handle));
        parts.push(share.packing_factor.to_le_bytes().to_vec());
    }
    parts.push(payload.party_id.to_le_bytes().to_vec());
    parts.push(payload.degree.to_le_bytes().to_vec());
    parts.concat()
}
