//! What a stub remembers, and what all of its parts look at.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use alloy::{
    primitives::{B256, U256},
    signers::local::PrivateKeySigner,
};
use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use super::{Ask, Behaviour, CoreOptions, Hopeless};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: CoreOptions,
    pub(super) state: Mutex<State>,
    /// Wakes held polls after a change.
    pub(super) changed: Notify,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) signer: PrivateKeySigner,
    pub(super) behaviour: Behaviour,
    pub(super) entries: HashMap<String, Entry>,
    pub(super) deleted: HashSet<String>,
    pub(super) asks: Vec<Ask>,
    pub(super) polls: HashMap<String, usize>,
    /// The second that counts for [`Behaviour::per_second`], and the asks in it.
    pub(super) second: (Instant, u32),
}

impl State {
    pub(super) fn hopeless(&self, id: &str) -> Option<Hopeless> {
        let id = U256::from_str_radix(id, 16).ok()?;
        self.behaviour.hopeless.get(&id).copied()
    }

    /// Whether the rate is exhausted by this ask.
    pub(super) fn exhausted(&mut self) -> bool {
        let Some(most) = self.behaviour.per_second else { return false };
        if self.second.0.elapsed() >= Duration::from_secs(1) {
            self.second = (Instant::now(), 0);
        }
        self.second.1 += 1;
        self.second.1 > most
    }
}

/// What it remembers of a request.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) since: Instant,
    /// When its answer was first told.
    pub(super) told: Option<Instant>,
    /// Accepted although the key is unknown: the old Cores' way.
    pub(super) stuck: bool,
    pub(super) handles: Vec<B256>,
    pub(super) values: Vec<(u8, Vec<u8>)>,
    pub(super) extra_data: Bytes,
    pub(super) enc_key: Option<Bytes>,
}
