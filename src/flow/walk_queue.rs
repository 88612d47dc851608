//! Requests on their way to a walk, and whether anything attends to them.
//!
//! From its arrival to the end of its walk a request exists as one [`QueuedRequest`]: while it waits
//! for its block to be final, in a channel, and in a walk. As long as that value exists, the request is
//! attended. A request that is open in the ledger, not held, and unattended was forgotten:
//! [`WalkSender::is_attended`] tells.

mod attendance;

use tokio::sync::mpsc;

pub(crate) use self::attendance::AttendanceGuard;
use self::attendance::Attendances;
pub use self::attendance::{Activity, AttendanceState};
use crate::domain::{Kind, Request, RequestKey};

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

/// The receiving ends of the channels to the walks: decryptions never delay a key operation.
#[derive(Debug)]
pub struct WalkReceivers {
    pub decryptions: QueueReceivers,
    pub key_operations: QueueReceivers,
}

#[cfg(test)]
impl WalkReceivers {
    /// Without key operations.
    pub(crate) fn of_decryptions(
        from_chain: mpsc::Receiver<QueuedRequest>,
        from_journal: mpsc::Receiver<QueuedRequest>,
    ) -> Self {
        let decryptions = QueueReceivers { from_chain, from_journal };
        let (from_chain, from_journal) = (mpsc::channel(1).1, mpsc::channel(1).1);
        Self { decryptions, key_operations: QueueReceivers { from_chain, from_journal } }
    }
}

/// Those of one class of requests.
#[derive(Debug)]
pub struct QueueReceivers {
    /// New requests from the chain.
    pub from_chain: mpsc::Receiver<QueuedRequest>,
    /// Requests from the journal. They never use more than half of the permits, so that thousands of old or
    /// unanswerable requests do not delay new ones.
    pub from_journal: mpsc::Receiver<QueuedRequest>,
}

/// A sending end of a channel to the walks.
#[derive(Clone, Debug)]
pub struct WalkSender {
    decryptions: mpsc::Sender<QueuedRequest>,
    key_operations: mpsc::Sender<QueuedRequest>,
    attendances: Attendances,
}

/// Key operations on their way: a contract asks for a few a month.
const KEY_OPERATION_QUEUE: usize = 16;

/// The channels to the walks: one for new requests (capacity `fresh`), one for repeated ones (`again`).
#[must_use]
pub fn walk_channels(fresh: usize, again: usize) -> (WalkReceivers, WalkSender, WalkSender) {
    let channels = |fresh, again| {
        let ((walk, from_chain), (walk_again, from_journal)) =
            (mpsc::channel(fresh), mpsc::channel(again));
        (walk, walk_again, QueueReceivers { from_chain, from_journal })
    };
    let (walk, walk_again, decryptions) = channels(fresh, again);
    let (key_walk, key_walk_again, key_operations) =
        channels(KEY_OPERATION_QUEUE, KEY_OPERATION_QUEUE);
    let attendances = Attendances::default();
    let entrance = |decryptions, key_operations| {
        let attendances = attendances.clone();
        WalkSender { decryptions, key_operations, attendances }
    };
    let receivers = WalkReceivers { decryptions, key_operations };
    (receivers, entrance(walk, key_walk), entrance(walk_again, key_walk_again))
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
        self.sender(queued.request.kind()).send(queued).await.map_err(|_| Closed)
    }

    /// Waits until there is room for one request of this kind.
    pub async fn reserve(&self, kind: Kind) -> Result<mpsc::Permit<'_, QueuedRequest>, Closed> {
        self.sender(kind).reserve().await.map_err(|_| Closed)
    }

    fn sender(&self, kind: Kind) -> &mpsc::Sender<QueuedRequest> {
        if kind.is_key_operation() { &self.key_operations } else { &self.decryptions }
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
        let taken = intakes.decryptions.from_chain.recv().await.unwrap();
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
