//! What a KMS Core's signer signs, computed by hand from the protocol's text (gateway-abi 10), so
//! that a mistake in the product is not repeated here.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::SolValue,
};

use super::{Error, Result, contracts::Variant};

/// What makes signatures of one deployment differ from those of another.
#[derive(Clone, Copy, Debug)]
pub struct Domain {
    pub chain_id: u64,
    pub decryption: Address,
    /// Decides whether the signed structures hold `extraData`.
    pub variant: Variant,
}

impl Domain {
    /// The digest a Core signs for a public decryption.
    pub fn public_digest(&self, handles: &[B256], result: &[u8], extra_data: &[u8]) -> B256 {
        let structure = if self.variant.has_extra_data() {
            (
                keccak256("PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult,bytes extraData)"),
                list_hash(handles),
                keccak256(result),
                keccak256(extra_data),
            )
                .abi_encode()
        } else {
            (
                keccak256("PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult)"),
                list_hash(handles),
                keccak256(result),
            )
                .abi_encode()
        };
        self.digest(&structure)
    }

    /// The digest a Core signs for a user decryption.
    pub fn user_digest(
        &self,
        public_key: &[u8],
        handles: &[B256],
        share: &[u8],
        extra_data: &[u8],
    ) -> B256 {
        let structure = if self.variant.has_extra_data() {
            (
                keccak256("UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare,bytes extraData)"),
                keccak256(public_key),
                list_hash(handles),
                keccak256(share),
                keccak256(extra_data),
            )
                .abi_encode()
        } else {
            (
                keccak256("UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare)"),
                keccak256(public_key),
                list_hash(handles),
                keccak256(share),
            )
                .abi_encode()
        };
        self.digest(&structure)
    }

    /// EIP-712 under this domain: the digest of a structure that is encoded with its type's hash.
    pub fn digest(&self, structure: &[u8]) -> B256 {
        let domain = (
            keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
            keccak256("Decryption"),
            keccak256("1"),
            U256::from(self.chain_id),
            self.decryption,
        )
            .abi_encode();
        let mut message = vec![0x19, 0x01];
        message.extend_from_slice(keccak256(domain).as_slice());
        message.extend_from_slice(keccak256(structure).as_slice());
        keccak256(message)
    }
}

/// EIP-712: an array of words is hashed as their concatenation.
fn list_hash(words: &[B256]) -> B256 {
    keccak256(words.concat())
}

/// A 65-byte signature r, s, v with v 27 or 28.
pub fn sign(key: &PrivateKeySigner, digest: B256) -> Result<Bytes> {
    let signature =
        key.sign_hash_sync(&digest).map_err(|e| Error::other(format!("signing: {e}")))?;
    Ok(signature.as_bytes().into())
}
