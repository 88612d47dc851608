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
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tonic::{Code, Status};

use super::{
    Ask, Behaviour, CoreOptions, Hopeless, KeyAsk, KeyOperation, keys::KeyEntry,
    lifecycle::Ceremonies,
};

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

    /// Whether it has the context and the epoch that a request is for.
    pub(super) fn check_context(
        &self,
        state: &State,
        id: &str,
        context: Option<&str>,
        epoch: Option<&str>,
    ) -> Result<(), Status> {
        let version = self.options.version;
        let contexts = self.options.contexts.as_ref();
        let context = version.context(context);
        if context.is_some_and(|context| !state.has_context(contexts, &context)) {
            return Err(self.refusal(version.unknown_context(), id, "unknown context"));
        }
        if epoch.is_some_and(|epoch| !state.ceremonies.has_epoch(epoch)) {
            return Err(self.refusal(version.unknown_context(), id, "unknown epoch"));
        }
        Ok(())
    }

    pub(super) fn refusal(&self, code: Code, id: &str, why: &str) -> Status {
        let version = self.options.version;
        let mut text = version.text(code, id, why);
        if version.says_aborted() {
            text.truncate(128);
            return Status::aborted(text);
        }
        Status::new(code, text)
    }

    /// Waits for the result of `id` as the real Core does, and looks again after every change.
    pub(super) async fn wait<T>(
        &self,
        id: &str,
        mut look: impl FnMut(&mut State) -> Result<Look<T>, Status>,
    ) -> Result<T, Status> {
        let begin = Instant::now();
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let (ready, hold) = match look(&mut self.state())? {
                Look::Done(result) => return Ok(result),
                Look::Pending { ready, hold } => (ready, hold),
            };
            let patience = begin + hold;
            if patience <= Instant::now() {
                return Err(Status::unavailable(format!("{id} is still running")));
            }
            let wake = ready.map_or(patience, |ready| ready.min(patience));
            tokio::select! {
                () = sleep_until(wake) => {}
                () = changed => {}
            }
        }
    }
}

/// What a poll sees.
pub(super) enum Look<T> {
    Done(T),
    /// There is no result before `ready`, if ever; the poll is held for so long from its beginning on.
    Pending {
        ready: Option<Instant>,
        hold: Duration,
    },
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) signer: PrivateKeySigner,
    pub(super) behaviour: Behaviour,
    pub(super) entries: HashMap<String, Entry>,
    pub(super) deleted: HashSet<String>,
    pub(super) asks: Vec<Ask>,
    pub(super) keys: HashMap<(KeyOperation, String), KeyEntry>,
    pub(super) key_asks: Vec<KeyAsk>,
    pub(super) ceremonies: Ceremonies,
    pub(super) polls: HashMap<String, usize>,
    /// The second that counts for [`Behaviour::per_second`], and the asks in it.
    pub(super) second: (Instant, u32),
}

impl State {
    pub(super) fn hopeless(&self, id: &str) -> Option<Hopeless> {
        let id = U256::from_str_radix(id, 16).ok()?;
        self.behaviour.hopeless.get(&id).copied()
    }

    /// What is said to an ask, whatever it asks for.
    pub(super) fn admit(&mut self, id: &str) -> Result<(), Status> {
        if let Some((code, text)) = self.behaviour.ask_status {
            return Err(Status::new(code, text));
        }
        if self.behaviour.busy > 0 {
            self.behaviour.busy -= 1;
            return Err(Status::resource_exhausted("rate limit exceeded"));
        }
        if self.exhausted() {
            return Err(Status::resource_exhausted("rate limit exceeded"));
        }
        if self.hopeless(id) == Some(Hopeless::Breaks) {
            return Err(Status::unknown("broken"));
        }
        Ok(())
    }

    /// Whether the rate is exhausted by this ask.
    fn exhausted(&mut self) -> bool {
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
