//! What a user signs for a decryption, and who signed (protocol: gateway-abi 10). Pure.
//!
//! The chain id of the domain is that of the handles' host chain; everything else is the gateway's.
//! The handles themselves are not signed: who may see them is the ACL's matter.

use alloy::primitives::{Keccak256, Signature, keccak256};

use crate::{
    contracts::abi::LegacyUserCall,
    domain::{Address, B256, SigningDomain, U256, UnifiedTerms, UserDecryption},
};

const DIRECT: &str = "UserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,uint256 startTimestamp,uint256 durationDays,bytes extraData)";
const DELEGATED: &str = "DelegatedUserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,address delegatorAddress,uint256 startTimestamp,uint256 durationDays,bytes extraData)";
const UNIFIED: &str = "UserDecryptRequestVerification(address userAddress,bytes publicKey,address[] allowedContracts,uint256 startTimestamp,uint256 durationSeconds,bytes extraData)";

/// The digest of a legacy request, direct or delegated.
pub(super) fn legacy_digest(domain: &SigningDomain, chain_id: u64, call: &LegacyUserCall) -> B256 {
    let mut structure = Structure::of(if call.delegator.is_some() { DELEGATED } else { DIRECT });
    structure.bytes(&call.public_key);
    structure.addresses(&call.contracts);
    if let Some(delegator) = call.delegator {
        structure.word(delegator.into_word());
    }
    structure.number(call.start);
    structure.number(call.duration_days);
    structure.bytes(&call.extra_data);
    structure.digest(domain, chain_id)
}

/// The digest of a unified request.
pub(super) fn unified_digest(
    domain: &SigningDomain,
    chain_id: u64,
    user: &UserDecryption,
    terms: &UnifiedTerms,
) -> B256 {
    let mut structure = Structure::of(UNIFIED);
    structure.word(user.user.into_word());
    structure.bytes(&user.public_key);
    structure.addresses(&terms.allowed_contracts);
    structure.number(terms.start);
    structure.number(terms.duration_secs);
    structure.bytes(&user.extra_data);
    structure.digest(domain, chain_id)
}

/// The hash of a structure in the making, member by member.
struct Structure(Keccak256);

impl Structure {
    fn of(type_string: &str) -> Self {
        let mut hasher = Keccak256::new();
        hasher.update(keccak256(type_string));
        Self(hasher)
    }

    fn word(&mut self, word: B256) {
        self.0.update(word);
    }

    fn number(&mut self, number: U256) {
        self.0.update(number.to_be_bytes::<32>());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.word(keccak256(bytes));
    }

    fn addresses(&mut self, addresses: &[Address]) {
        let mut hasher = Keccak256::new();
        for address in addresses {
            hasher.update(address.into_word());
        }
        self.word(hasher.finalize());
    }

    fn digest(self, domain: &SigningDomain, chain_id: u64) -> B256 {
        SigningDomain { chain_id, ..domain.clone() }.digest(self.0.finalize())
    }
}

/// The account whose key signed `digest`. `None`: these bytes are no key's signature.
///
/// Every form that proves the key is taken (`v` 0, 1, 27 or 28), as by the other nodes; the contract
/// was stricter with a legacy request before it emitted the event.
pub(super) fn signer(digest: B256, signature: &[u8]) -> Option<Address> {
    if signature.len() != 65 {
        return None;
    }
    Signature::from_raw(signature).ok()?.recover_address_from_prehash(&digest).ok()
}

#[cfg(test)]
mod tests;
