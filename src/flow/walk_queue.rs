//! Requests on their way into the walk, and who has them in hand.
//!
//! From the moment it is read to the end of its walk a request is an [`QueuedRequest`], in one place after the
//! other: where it waits for its block to be deep enough, in a channel, in a walk. As long as there is
//! one, the request is attended. One that is open in the ledger, not held, and in nobody's hands was
//! forgotten: that is what [`WalkSender::is_attended`] tells.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::domain::{Request, RequestKey};

/// What somebody does with a request that they have in hand, as operators read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Not walked yet.
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

/// Who looks after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttendanceState {
    Unattended,
    Active(Activity),
    /// What was done last failed, and is tried again after a pause.
    Retrying,
}

/// A request on its way into the walk.
#[derive(Clone, Debug)]
pub struct QueuedRequest {
    pub request: Request,
    /// It was walked before, by an earlier run or by this one: where it stands is asked of the
    /// ledger when its walk begins. What was read earlier may be outdated by then.
    pub recovered: bool,
    /// Its block was deep enough before: it does not wait for that.
    pub is_final: bool,
    /// Kept as long as somebody looks after it.
    pub(crate) attendance: AttendanceGuard,
}

impl QueuedRequest {
    /// In no hands that anybody asks for.
    #[cfg(test)]
    pub(crate) fn alone(request: Request, recovered: bool) -> Self {
        let key = request.key;
        Self { request, recovered, is_final: false, attendance: Attendances::default().attend(key) }
    }
}

/// Where requests come from.
#[derive(Debug)]
pub struct WalkReceivers {
    /// From the chain.
    pub from_chain: mpsc::Receiver<QueuedRequest>,
    /// Out of the journal. Never more than half of the walks, so that thousands that were left, or
    /// cannot be answered, do not delay what is new.
    pub from_journal: mpsc::Receiver<QueuedRequest>,
}

/// A way into the walk.
#[derive(Clone, Debug)]
pub struct WalkSender {
    sender: mpsc::Sender<QueuedRequest>,
    attendances: Attendances,
}

/// The ways into one walk, for so many requests each that wait: of what is fresh, and of what comes
/// again.
#[must_use]
pub fn walk_channels(fresh: usize, again: usize) -> (WalkReceivers, WalkSender, WalkSender) {
    let ((walk, fresh), (walk_again, again)) = (mpsc::channel(fresh), mpsc::channel(again));
    let attendances = Attendances::default();
    let entrance = |walk| WalkSender { sender: walk, attendances: attendances.clone() };
    (WalkReceivers { from_chain: fresh, from_journal: again }, entrance(walk), entrance(walk_again))
}

/// The walk takes no more: the instance is stopping.
#[derive(Debug)]
pub struct Closed;

impl WalkSender {
    /// Takes a request in hand.
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

    /// Whether anybody has the request in hand.
    #[must_use]
    pub fn is_attended(&self, key: RequestKey) -> bool {
        self.attendances.lock().contains_key(&key)
    }

    /// What is done with it.
    #[must_use]
    pub fn attendance_of(&self, key: RequestKey) -> AttendanceState {
        self.attendances.lock().get(&key).map_or(AttendanceState::Unattended, |held| held.state)
    }

    /// Waits until there is room for it. Cancel-safe but for the intake.
    pub async fn send(&self, queued: QueuedRequest) -> Result<(), Closed> {
        self.sender.send(queued).await.map_err(|_| Closed)
    }

    /// Waits until there is room for one.
    pub async fn reserve(&self) -> Result<mpsc::Permit<'_, QueuedRequest>, Closed> {
        self.sender.reserve().await.map_err(|_| Closed)
    }
}

/// How many hands hold each request.
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

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct AttendanceGuard {
    key: RequestKey,
    hands: Attendances,
}

impl AttendanceGuard {
    /// What is done with it from now on.
    pub(crate) fn set_activity(&self, doing: Activity) {
        self.set_state(AttendanceState::Active(doing));
    }

    /// It failed: why, the ledger tells.
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
