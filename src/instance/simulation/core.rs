//! What the KMS Core of a simulated world remembers: its requests, in memory. It knows them by id alone
//! and forgets them when it restarts.

pub(super) mod served;

use std::collections::BTreeMap;

use alloy::{
    primitives::U256,
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use tokio::time::Instant;

use crate::domain::{Address, B256};

/// What the Core remembers.
#[derive(Clone, Debug)]
struct Entry {
    handles: Vec<B256>,
    /// Of a user decryption.
    public_key: Option<Vec<u8>>,
    extra_data: bytes::Bytes,
    ready: Instant,
    /// It failed, and says so until it is asked again; or until the Core restarts, if it is an old one.
    failed: bool,
    /// It exists, says an ask, and does not exist, says a poll. How often it was asked since.
    deleted: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Core {
    signer: PrivateKeySigner,
    entries: BTreeMap<String, Entry>,
}

impl Default for Core {
    fn default() -> Self {
        let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x51)).unwrap();
        Self { signer, entries: BTreeMap::new() }
    }
}

impl Core {
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// It has another key to sign with.
    pub fn change_key(&mut self) {
        self.signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x52)).unwrap();
        self.restart();
    }

    /// It restarts and knows nothing any more.
    pub fn restart(&mut self) {
        self.entries.clear();
    }

    /// It deletes what it was asked for first. Its number, if there was anything.
    pub fn delete(&mut self) -> Option<String> {
        let (id, entry) = self.entries.iter_mut().find(|(_, entry)| entry.deleted.is_none())?;
        entry.deleted = Some(0);
        Some(short(id))
    }

    fn sign(&self, digest: B256) -> bytes::Bytes {
        self.signer.sign_hash_sync(&digest).unwrap().as_bytes().to_vec().into()
    }
}

fn short(id: &str) -> String {
    U256::from_str_radix(id, 16)
        .map_or_else(|_| id.to_owned(), |id| (id & U256::from(u64::MAX)).to_string())
}
