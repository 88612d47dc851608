//! The EIP-712 digests that a Core signs, as the contract computes them. Pure.

use alloy::primitives::{Keccak256, keccak256};

use crate::domain::{B256, Bytes, SigningDomain, U256};

/// The type strings of one structure, without and with `extraData`.
struct Types {
    without_extra_data: &'static str,
    with_extra_data: &'static str,
}

const PUBLIC: Types = Types {
    without_extra_data: "PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult)",
    with_extra_data: "PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult,bytes extraData)",
};

const USER: Types = Types {
    without_extra_data: "UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare)",
    with_extra_data: "UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare,bytes extraData)",
};

const PREPARATION: Types = Types {
    without_extra_data: "PrepKeygenVerification(uint256 prepKeygenId)",
    with_extra_data: "PrepKeygenVerification(uint256 prepKeygenId,bytes extraData)",
};

const KEY: Types = Types {
    without_extra_data: "KeygenVerification(uint256 prepKeygenId,uint256 keyId,KeyDigest[] keyDigests)KeyDigest(uint8 keyType,bytes digest)",
    with_extra_data: "KeygenVerification(uint256 prepKeygenId,uint256 keyId,KeyDigest[] keyDigests,bytes extraData)KeyDigest(uint8 keyType,bytes digest)",
};

const KEY_DIGEST: &str = "KeyDigest(uint8 keyType,bytes digest)";

const CRS: Types = Types {
    without_extra_data: "CrsgenVerification(uint256 crsId,uint256 maxBitLength,bytes crsDigest)",
    with_extra_data: "CrsgenVerification(uint256 crsId,uint256 maxBitLength,bytes crsDigest,bytes extraData)",
};

/// The digest a Core signs for a public decryption. `extra_data` is `None` where the contract's
/// structure has no such member (G7).
#[must_use]
pub fn public_digest(
    domain: &SigningDomain,
    handles: &[B256],
    decrypted_result: &[u8],
    extra_data: Option<&[u8]>,
) -> B256 {
    let members = [hash_of_handles(handles), keccak256(decrypted_result)];
    digest(domain, &PUBLIC, &members, extra_data)
}

/// The digest a Core signs for a user decryption. `extra_data` as in [`public_digest`].
#[must_use]
pub fn user_digest(
    domain: &SigningDomain,
    public_key: &[u8],
    handles: &[B256],
    user_decrypted_share: &[u8],
    extra_data: Option<&[u8]>,
) -> B256 {
    let members =
        [keccak256(public_key), hash_of_handles(handles), keccak256(user_decrypted_share)];
    digest(domain, &USER, &members, extra_data)
}

/// The digest a Core signs for a preparation. `extra_data` is `None` up to G12, as in the next two.
#[must_use]
pub fn preparation_digest(domain: &SigningDomain, id: U256, extra_data: Option<&[u8]>) -> B256 {
    digest(domain, &PREPARATION, &[id.into()], extra_data)
}

/// The digest a Core signs for a key. `digests`: by key type, in the order received.
#[must_use]
pub fn key_digest(
    domain: &SigningDomain,
    preparation: U256,
    id: U256,
    digests: &[(u8, Bytes)],
    extra_data: Option<&[u8]>,
) -> B256 {
    let mut hasher = Keccak256::new();
    for (key_type, digest) in digests {
        let mut structure = Keccak256::new();
        structure.update(keccak256(KEY_DIGEST));
        structure.update(B256::with_last_byte(*key_type));
        structure.update(keccak256(digest));
        hasher.update(structure.finalize());
    }
    let members = [preparation.into(), id.into(), hasher.finalize()];
    digest(domain, &KEY, &members, extra_data)
}

/// The digest a Core signs for a CRS.
#[must_use]
pub fn crs_digest(
    domain: &SigningDomain,
    id: U256,
    max_bits: U256,
    crs: &[u8],
    extra_data: Option<&[u8]>,
) -> B256 {
    digest(domain, &CRS, &[id.into(), max_bits.into(), keccak256(crs)], extra_data)
}

fn hash_of_handles(handles: &[B256]) -> B256 {
    let mut hasher = Keccak256::new();
    for handle in handles {
        hasher.update(handle);
    }
    hasher.finalize()
}

fn digest(
    domain: &SigningDomain,
    types: &Types,
    members: &[B256],
    extra_data: Option<&[u8]>,
) -> B256 {
    let mut structure = Keccak256::new();
    structure.update(keccak256(match extra_data {
        None => types.without_extra_data,
        Some(_) => types.with_extra_data,
    }));
    for member in members {
        structure.update(member);
    }
    if let Some(extra_data) = extra_data {
        structure.update(keccak256(extra_data));
    }
    domain.digest(structure.finalize())
}

#[cfg(test)]
mod tests;
