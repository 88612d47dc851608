//! Grants that were read at a finalized block. Pure.
//!
//! Only what the ACL cannot take back is kept: that an account, or everybody, is allowed a handle.
//! Delegations, invalidations and denials are asked each time, and an answer at `latest` serves its own
//! attempt only. A grant counts for the very contract that gave it: chain, address and implementation
//! are part of its key, and when any of them changes all grants of that chain are unreachable at once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use alloy::primitives::Keccak256;

use crate::{
    contracts::acl::{AclIdentity, AclQuestion},
    domain::B256,
};

/// Grants that are kept, in two halves.
const MOST_GRANTS: usize = 100_000;

/// The grants of an instance. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct GrantCache(Arc<Mutex<Grants>>);

/// When the younger half is full, it becomes the older one, which is dropped. What is used moves to the
/// younger half.
#[derive(Debug, Default)]
struct Grants {
    younger: HashSet<B256>,
    older: HashSet<B256>,
}

/// The key of a grant: of fixed length, so that no two grants have the same bytes. `None`: the answer is
/// never kept.
fn key(identity: &AclIdentity, question: &AclQuestion) -> Option<B256> {
    let (tag, handle, account) = match question {
        AclQuestion::AllowedForDecryption { handle } => (0_u8, handle, None),
        AclQuestion::Allowed { handle, account } => (1, handle, Some(account)),
        AclQuestion::Delegated { .. }
        | AclQuestion::InvalidatedBefore { .. }
        | AclQuestion::ValidSignature { .. }
        | AclQuestion::CodeSize { .. } => return None,
    };
    let mut hasher = Keccak256::new();
    hasher.update(identity.chain_id.to_be_bytes());
    hasher.update(identity.genesis);
    hasher.update(identity.acl);
    hasher.update(identity.implementation);
    hasher.update([tag]);
    hasher.update(handle);
    hasher.update(account.copied().unwrap_or_default());
    Some(hasher.finalize())
}

impl GrantCache {
    /// Which of these are known to be granted, in their order.
    pub(super) fn known(&self, identity: &AclIdentity, questions: &[AclQuestion]) -> Vec<bool> {
        let keys: Vec<_> = questions.iter().map(|question| key(identity, question)).collect();
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.into_iter().map(|key| key.is_some_and(|key| grants.use_(key))).collect()
    }

    /// Keeps a grant that was read at a finalized block.
    pub(super) fn keep<'q>(
        &self,
        identity: &AclIdentity,
        granted: impl Iterator<Item = &'q AclQuestion>,
    ) {
        let keys: Vec<_> = granted.filter_map(|question| key(identity, question)).collect();
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            grants.insert(key);
        }
    }
}

impl Grants {
    fn use_(&mut self, key: B256) -> bool {
        if self.younger.contains(&key) {
            return true;
        }
        let known = self.older.remove(&key);
        if known {
            self.insert(key);
        }
        known
    }

    fn insert(&mut self, key: B256) {
        if self.younger.len() >= MOST_GRANTS / 2 {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Address, Bytes};

    fn identity() -> AclIdentity {
        AclIdentity {
            chain_id: 1,
            genesis: B256::repeat_byte(1),
            acl: Address::repeat_byte(2),
            implementation: B256::repeat_byte(3),
        }
    }

    fn public(number: u64) -> AclQuestion {
        AclQuestion::AllowedForDecryption { handle: B256::from(crate::domain::U256::from(number)) }
    }

    #[test]
    fn a_grant_counts_for_its_account_and_its_contract_only() {
        let cache = GrantCache::default();
        let (handle, account) = (B256::repeat_byte(7), Address::repeat_byte(8));
        let granted = AclQuestion::Allowed { handle, account };
        let known = |identity: &AclIdentity, question: &AclQuestion| {
            cache.known(identity, std::slice::from_ref(question))[0]
        };
        assert!(!known(&identity(), &granted));
        cache.keep(&identity(), [&granted].into_iter());
        assert!(known(&identity(), &granted));
        for other in [
            AclQuestion::Allowed { handle, account: Address::ZERO },
            AclQuestion::Allowed { handle: B256::ZERO, account },
            AclQuestion::AllowedForDecryption { handle },
        ] {
            assert!(!known(&identity(), &other), "{other:?}");
        }
        let genesis = B256::ZERO;
        for changed in [
            AclIdentity { chain_id: 2, ..identity() },
            AclIdentity { genesis, ..identity() },
            AclIdentity { acl: Address::ZERO, ..identity() },
            AclIdentity { implementation: B256::ZERO, ..identity() },
        ] {
            assert!(!known(&changed, &granted), "{changed:?}");
        }
    }

    #[test]
    fn nothing_that_may_be_taken_back_is_kept() {
        let cache = GrantCache::default();
        let (account, handle, digest) = (Address::ZERO, B256::ZERO, B256::ZERO);
        let questions = [
            AclQuestion::Delegated {
                delegator: account,
                delegate: account,
                contract: account,
                handle,
            },
            AclQuestion::InvalidatedBefore { account },
            AclQuestion::ValidSignature { account, digest, signature: Bytes::default() },
            AclQuestion::CodeSize { account },
        ];
        cache.keep(&identity(), questions.iter());
        assert_eq!(cache.known(&identity(), &questions), [false; 4]);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let cache = GrantCache::default();
        cache.keep(&identity(), [&public(0)].into_iter());
        for number in 1..3 * MOST_GRANTS as u64 {
            cache.keep(&identity(), [&public(number)].into_iter());
            if number % 1_000 == 0 {
                assert_eq!(cache.known(&identity(), &[public(0)]), [true], "{number}");
            }
        }
        assert_eq!(cache.known(&identity(), &[public(1)]), [false]);
        let grants = cache.0.lock().unwrap();
        assert!(grants.younger.len() + grants.older.len() <= MOST_GRANTS);
    }
}
