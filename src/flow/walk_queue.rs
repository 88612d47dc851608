//! Requests on their way to a walk, and whether anything attends to them.
//!
//! From its arrival to the end of its walk a request exists as one [`QueuedRequest`]: while it waits
//! for its block to be final, in a channel, and in a walk. As long as that value exists, the request is
//! attended. A request that is open in the ledger, not held, and unattended was forgotten:
//! [`WalkSender::is_attended`] tells.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::domain::{Request, RequestKey};

/// What is being done with a request, as shown to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Its walk has not begun.
    Waiting,
    /// It may have been answered, or have left the chain.
    CheckingChain,
    WaitingForCore,
    Fetching,
    Asking,
    Polling,
    Submitting,
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waits for a place among the max_in_flight that are in hand",
            Self::CheckingChain => "the gateway nodes are asked what became of it",
            Self::WaitingForCore => "waits for its turn at the KMS Core",
            Self::Fetching => "its ciphertexts are fetched, or wait for memory",
            Self::Asking => "the KMS Core takes it in",
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

/// A request on its way to its walk.
#[derive(Clone, Debug)]
pub struct QueuedRequest {
    pub request: Request,
    /// It was processed before, by this run or an earlier one: its stage is read from the ledger when its
    /// walk begins, because anything read earlier may be outdated by then.
    pub recovered: bool,
    /// Its block was final before, so it does not wait for that again.
    pub is_final: bool,
    /// Exists as long as the request is attended.
    pub(crate) attendance: AttendanceGuard,
}

impl QueuedRequest {
    /// A request whose attendance nothing observes.
    #[cfg(test)]
    pub(crate) fn alone(request: Request, recovered: bool) -> Self {
        let key = request.key;
        Self { request, recovered, is_final: false, attendance: Attendances::default().attend(key) }
    }
}

/// The receiving ends of the channels to the walks.
#[derive(Debug)]
pub struct WalkReceivers {
    /// New requests from the chain.
    pub from_chain: mpsc::Receiver<QueuedRequest>,
    /// Requests from the journal. They never use more than half of the permits, so that thousands of old or
    /// unanswerable requests do not delay new ones.
    pub from_journal: mpsc::Receiver<QueuedRequest>,
}

/// A sending end of a channel to the walks.
#[derive(Clone, Debug)]
pub struct WalkSender {
    sender: mpsc::Sender<QueuedRequest>,
    attendances: Attendances,
}

/// The channels to the walks: one for new requests (capacity `fresh`), one for repeated ones (`again`).
#[must_use]
pub fn walk_channels(fresh: usize, again: usize) -> (WalkReceivers, WalkSender, WalkSender) {
    let ((walk, fresh), (walk_again, again)) = (mpsc::channel(fresh), mpsc::channel(again));
    let attendances = Attendances::default();
    let entrance = |walk| WalkSender { sender: walk, attendances: attendances.clone() };
    (WalkReceivers { from_chain: fresh, from_journal: again }, entrance(walk), entrance(walk_again))
}

/// The dispatcher takes no more requests: the instance is stopping.
#[derive(Debug)]
pub struct Closed;

impl WalkSender {
    /// Marks the request as attended.
    #[must_use]
    pub fn attend(&self, request: Request, recovered: bool) -> QueuedRequest {
        let key = request.key;
        QueuedRequest {
            request,
            recovered,
            is_final: false,
            attendance: self.attendances.attend(key),
        }
    }

    /// Returns whether the request is attended.
    #[must_use]
    pub fn is_attended(&self, key: RequestKey) -> bool {
        self.attendances.lock().contains_key(&key)
    }

    /// What is being done with it.
    #[must_use]
    pub fn attendance_of(&self, key: RequestKey) -> AttendanceState {
        self.attendances.lock().get(&key).map_or(AttendanceState::Unattended, |held| held.state)
    }

    /// Waits until there is room. Cancel-safe, except that the queued request is dropped.
    pub async fn send(&self, queued: QueuedRequest) -> Result<(), Closed> {
        self.sender.send(queued).await.map_err(|_| Closed)
    }

    /// Waits until there is room for one request.
    pub async fn reserve(&self) -> Result<mpsc::Permit<'_, QueuedRequest>, Closed> {
        self.sender.reserve().await.map_err(|_| Closed)
    }
}

/// The number of guards for each request.
#[derive(Clone, Debug, Default)]
struct Attendances(Arc<Mutex<HashMap<RequestKey, AttendanceEntry>>>);

#[derive(Clone, Copy, Debug)]
struct AttendanceEntry {
    guards: usize,
    state: AttendanceState,
}

impl Attendances {
    fn lock(&self) -> MutexGuard<'_, HashMap<RequestKey, AttendanceEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attend(&self, key: RequestKey) -> AttendanceGuard {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::fake_chain::{SOURCE, request_event},
        contracts::abi,
    };

    #[tokio::test]
    async fn a_request_is_attended_as_long_as_anybody_has_it() {
        let (mut intakes, entrance, again) = walk_channels(1, 1);
        let request = abi::decode(SOURCE, &request_event(1)).unwrap();
        let key = request.key;
        let intake = entrance.attend(request, false);
        assert!(entrance.is_attended(key) && again.is_attended(key));
        entrance.send(intake).await.unwrap();
        let taken = intakes.from_chain.recv().await.unwrap();
        let kept = taken.clone();
        drop(taken);
        assert!(again.is_attended(key));
        assert_eq!(again.attendance_of(key), AttendanceState::Active(Activity::Waiting));
        kept.attendance.set_activity(Activity::Polling);
        assert_eq!(again.attendance_of(key), AttendanceState::Active(Activity::Polling));
        kept.attendance.set_retrying();
        assert_eq!(again.attendance_of(key), AttendanceState::Retrying);
        drop(kept);
        assert!(!entrance.is_attended(key));
        assert_eq!(entrance.attendance_of(key), AttendanceState::Unattended);
        assert!(entrance.attendances.lock().is_empty());
    }
}
