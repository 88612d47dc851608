//! Requests on their way into the walk, and who has them in hand.
//!
//! From the moment it is read to the end of its walk a request is an [`Intake`], in one place after the
//! other: where it waits for its block to be deep enough, in a channel, in a walk. As long as there is
//! one, the request is attended. One that is open in the ledger, not held, and in nobody's hands was
//! forgotten: that is what [`Entrance::attends`] tells.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::domain::{Request, RequestKey};

/// What somebody does with a request that they have in hand, as operators read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Not walked yet.
    Waiting,
    /// It may have been answered, or have left the chain.
    LookingBack,
    WaitingForCore,
    Fetching,
    Asking,
    Polling,
    Sending,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waits for a place among the max_in_flight that are in hand",
            Self::LookingBack => "the gateway nodes are asked what became of it",
            Self::WaitingForCore => "waits for its turn at the KMS Core",
            Self::Fetching => "its ciphertexts are fetched, or wait for memory",
            Self::Asking => "the KMS Core takes it in",
            Self::Polling => "the KMS Core works on it",
            Self::Sending => "its answer is signed and sent, after those before it",
        })
    }
}

/// Who looks after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attended {
    Nobody,
    By(Doing),
    /// What was done last failed, and is tried again after a pause.
    InVain,
}

/// A request on its way into the walk.
#[derive(Clone, Debug)]
pub struct Intake {
    pub request: Request,
    /// It was walked before, by an earlier run or by this one: where it stands is asked of the
    /// ledger when its walk begins. What was read earlier may be outdated by then.
    pub recovered: bool,
    /// Its block was deep enough before: it does not wait for that.
    pub is_ripe: bool,
    /// Kept as long as somebody looks after it.
    pub(crate) hand: Hand,
}

impl Intake {
    /// In no hands that anybody asks for.
    #[cfg(test)]
    pub(crate) fn alone(request: Request, recovered: bool) -> Self {
        let key = request.key;
        Self { request, recovered, is_ripe: false, hand: Hands::default().take(key) }
    }
}

/// Where requests come from.
#[derive(Debug)]
pub struct Intakes {
    /// From the chain.
    pub fresh: mpsc::Receiver<Intake>,
    /// Out of the journal. Never more than half of the walks, so that thousands that were left, or
    /// cannot be answered, do not delay what is new.
    pub again: mpsc::Receiver<Intake>,
}

/// A way into the walk.
#[derive(Clone, Debug)]
pub struct Entrance {
    walk: mpsc::Sender<Intake>,
    hands: Hands,
}

/// The ways into one walk, for so many requests each that wait: of what is fresh, and of what comes
/// again.
#[must_use]
pub fn entrances(fresh: usize, again: usize) -> (Intakes, Entrance, Entrance) {
    let ((walk, fresh), (walk_again, again)) = (mpsc::channel(fresh), mpsc::channel(again));
    let hands = Hands::default();
    let entrance = |walk| Entrance { walk, hands: hands.clone() };
    (Intakes { fresh, again }, entrance(walk), entrance(walk_again))
}

/// The walk takes no more: the instance is stopping.
#[derive(Debug)]
pub struct Closed;

impl Entrance {
    /// Takes a request in hand.
    #[must_use]
    pub fn take(&self, request: Request, recovered: bool) -> Intake {
        let key = request.key;
        Intake { request, recovered, is_ripe: false, hand: self.hands.take(key) }
    }

    /// Whether anybody has the request in hand.
    #[must_use]
    pub fn attends(&self, key: RequestKey) -> bool {
        self.hands.held().contains_key(&key)
    }

    /// What is done with it.
    #[must_use]
    pub fn attended(&self, key: RequestKey) -> Attended {
        self.hands.held().get(&key).map_or(Attended::Nobody, |held| held.now)
    }

    /// Waits until there is room for it. Cancel-safe but for the intake.
    pub async fn send(&self, intake: Intake) -> Result<(), Closed> {
        self.walk.send(intake).await.map_err(|_| Closed)
    }

    /// Waits until there is room for one.
    pub async fn reserve(&self) -> Result<mpsc::Permit<'_, Intake>, Closed> {
        self.walk.reserve().await.map_err(|_| Closed)
    }
}

/// How many hands hold each request.
#[derive(Clone, Debug, Default)]
struct Hands(Arc<Mutex<HashMap<RequestKey, Held>>>);

#[derive(Clone, Copy, Debug)]
struct Held {
    hands: usize,
    now: Attended,
}

impl Hands {
    fn held(&self) -> MutexGuard<'_, HashMap<RequestKey, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, key: RequestKey) -> Hand {
        let new = Held { hands: 0, now: Attended::By(Doing::Waiting) };
        self.held().entry(key).or_insert(new).hands += 1;
        Hand { key, hands: self.clone() }
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hand {
    key: RequestKey,
    hands: Hands,
}

impl Hand {
    /// What is done with it from now on.
    pub(crate) fn does(&self, doing: Doing) {
        self.set(Attended::By(doing));
    }

    /// It failed: why, the ledger tells.
    pub(crate) fn failed(&self) {
        self.set(Attended::InVain);
    }

    fn set(&self, now: Attended) {
        if let Some(held) = self.hands.held().get_mut(&self.key) {
            held.now = now;
        }
    }
}

impl Clone for Hand {
    fn clone(&self) -> Self {
        self.hands.take(self.key)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut all = self.hands.held();
        if let Some(held) = all.get_mut(&self.key) {
            held.hands -= 1;
            if held.hands == 0 {
                all.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{
        abi,
        fake_chain::{SOURCE, request_event},
    };

    #[tokio::test]
    async fn a_request_is_attended_as_long_as_anybody_has_it() {
        let (mut intakes, entrance, again) = entrances(1, 1);
        let request = abi::decode(SOURCE, &request_event(1)).unwrap();
        let key = request.key;
        let intake = entrance.take(request, false);
        assert!(entrance.attends(key) && again.attends(key));
        entrance.send(intake).await.unwrap();
        let taken = intakes.fresh.recv().await.unwrap();
        let kept = taken.clone();
        drop(taken);
        assert!(again.attends(key));
        assert_eq!(again.attended(key), Attended::By(Doing::Waiting));
        kept.hand.does(Doing::Polling);
        assert_eq!(again.attended(key), Attended::By(Doing::Polling));
        kept.hand.failed();
        assert_eq!(again.attended(key), Attended::InVain);
        drop(kept);
        assert!(!entrance.attends(key));
        assert_eq!(entrance.attended(key), Attended::Nobody);
        assert!(entrance.hands.held().is_empty());
    }
}
