//! Whether anything attends to a request, and what is being done with it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::domain::RequestKey;

/// What is being done with a request, as shown to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Its walk has not begun.
    Waiting,
    /// Its walk found it in a block that is not final yet.
    NotFinal,
    /// It may have been answered, or have left the chain.
    CheckingChain,
    CheckingAccess,
    WaitingForCore,
    Fetching,
    Asking,
    Polling,
    Submitting,
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waits for a place among the max_requests_in_flight requests in hand",
            Self::NotFinal => {
                "waits for its block to be final: the chain has it in a higher one now"
            }
            Self::CheckingChain => "the gateway nodes are asked what became of it",
            Self::CheckingAccess => "the host chains are asked whether they allow it",
            Self::WaitingForCore => "waits for its turn at the KMS Core",
            Self::Fetching => "its ciphertexts are fetched, or wait for memory",
            Self::Asking => "the KMS Core is asked for it, and has not taken it yet",
            Self::Polling => "the KMS Core works on it",
            Self::Submitting => "its answer is signed and sent, after those before it",
        })
    }
}

/// Whether a request is attended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttendanceState {
    Unattended,
    Active(Activity),
    /// The last attempt failed and is repeated after a pause.
    Retrying,
}

/// The number of guards for each request.
#[derive(Clone, Debug, Default)]
pub(super) struct Attendances(Arc<Mutex<HashMap<RequestKey, AttendanceEntry>>>);

#[derive(Clone, Copy, Debug)]
pub(super) struct AttendanceEntry {
    guards: usize,
    pub(super) state: AttendanceState,
}

impl Attendances {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<RequestKey, AttendanceEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attend(&self, key: RequestKey) -> AttendanceGuard {
        let new = AttendanceEntry { guards: 0, state: AttendanceState::Active(Activity::Waiting) };
        self.lock().entry(key).or_insert(new).guards += 1;
        AttendanceGuard { key, hands: self.clone() }
    }
}

/// Marks a request as attended until it is dropped.
#[derive(Debug)]
pub(crate) struct AttendanceGuard {
    key: RequestKey,
    hands: Attendances,
}

impl AttendanceGuard {
    /// Sets the current activity.
    pub(crate) fn set_activity(&self, doing: Activity) {
        self.set_state(AttendanceState::Active(doing));
    }

    /// The attempt failed; the ledger has the reason.
    pub(crate) fn set_retrying(&self) {
        self.set_state(AttendanceState::Retrying);
    }

    fn set_state(&self, now: AttendanceState) {
        if let Some(held) = self.hands.lock().get_mut(&self.key) {
            held.state = now;
        }
    }
}

impl Clone for AttendanceGuard {
    fn clone(&self) -> Self {
        self.hands.attend(self.key)
    }
}

impl Drop for AttendanceGuard {
    fn drop(&mut self) {
        let mut all = self.hands.lock();
        if let Some(held) = all.get_mut(&self.key) {
            held.guards -= 1;
            if held.guards == 0 {
                all.remove(&self.key);
            }
        }
    }
}
