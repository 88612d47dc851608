//! The KMS Core of a simulated world: its requests in memory. It knows them by id alone and forgets
//! them when it restarts.

pub(super) mod served;

use std::collections::BTreeMap;

use alloy::{
    primitives::U256,
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use tokio::time::Instant;

use super::keys::{KeyPlan, core::KeyCore};
use crate::domain::{Address, B256};

/// What the Core remembers of a request.
#[derive(Clone, Debug)]
struct Entry {
    handles: Vec<B256>,
    /// Of a user decryption.
    public_key: Option<Vec<u8>>,
    extra_data: bytes::Bytes,
    ready: Instant,
    /// It failed, and says so until it is asked again; an old Core until it restarts.
    failed: bool,
    /// An ask says that it exists, a poll that it does not; counts the asks since the deletion.
    deleted: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Core {
    signer: PrivateKeySigner,
    entries: BTreeMap<String, Entry>,
    pub keys: KeyCore,
    forgets_preparations: bool,
}

impl Core {
    pub fn new(plan: &KeyPlan) -> Self {
        let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x51)).unwrap();
        let forgets_preparations = plan.forgets_preparations;
        Self { signer, entries: BTreeMap::new(), keys: KeyCore::default(), forgets_preparations }
    }

    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// Switches to another signing key.
    pub fn change_key(&mut self) {
        self.signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x52)).unwrap();
        self.restart();
    }

    /// Restarts and forgets everything, at most but preparations of keys.
    pub fn restart(&mut self) {
        self.entries.clear();
        self.keys.restart(self.forgets_preparations);
    }

    /// Deletes the oldest request. Returns its number, if there was one.
    pub fn delete(&mut self) -> Option<String> {
        let (id, entry) = self.entries.iter_mut().find(|(_, entry)| entry.deleted.is_none())?;
        entry.deleted = Some(0);
        Some(short(id))
    }

    pub fn sign(&self, digest: B256) -> bytes::Bytes {
        self.signer.sign_hash_sync(&digest).unwrap().as_bytes().to_vec().into()
    }
}

fn short(id: &str) -> String {
    U256::from_str_radix(id, 16)
        .map_or_else(|_| id.to_owned(), |id| (id & U256::from(u64::MAX)).to_string())
}
