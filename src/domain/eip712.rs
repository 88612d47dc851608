//! The EIP-712 digest of a structure under a [`SigningDomain`] (protocol: gateway-abi 10).

use alloy::primitives::{Keccak256, keccak256};

use super::{B256, SigningDomain, U256};

/// The type of a [`SigningDomain`].
pub const DOMAIN_TYPE: &str =
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";

impl SigningDomain {
    /// The domain separator.
    #[must_use]
    pub fn separator(&self) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(keccak256(DOMAIN_TYPE));
        hasher.update(keccak256(&self.name));
        hasher.update(keccak256(&self.version));
        hasher.update(U256::from(self.chain_id).to_be_bytes::<32>());
        hasher.update(self.verifying_contract.into_word());
        hasher.finalize()
    }

    /// What is signed: the digest of a structure with this hash.
    #[must_use]
    pub fn digest(&self, structure: B256) -> B256 {
        let mut message = Keccak256::new();
        message.update([0x19, 0x01]);
        message.update(self.separator());
        message.update(structure);
        message.finalize()
    }
}
