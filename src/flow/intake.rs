//! Requests on their way into the walk, and who has them in hand.
//!
//! From the moment it is read to the end of its walk a request is an [`Intake`], in one place after the
//! other: where it waits for its block to be deep enough, in a channel, in a walk. As long as there is
//! one, the request is attended. One that is open in the ledger, not held, and in nobody's hands was
//! forgotten: that is what [`Entrance::attends`] tells.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::domain::{Request, RequestKey};

/// A request on its way into the walk.
#[derive(Clone, Debug)]
pub struct Intake {
    pub request: Request,
    /// It was walked before, by an earlier run or by this one: where it stands is asked of the
    /// ledger when its walk begins. What was read earlier may be outdated by then.
    pub recovered: bool,
    /// Kept as long as somebody looks after it.
    pub(super) hand: Hand,
}

impl Intake {
    /// In no hands that anybody asks for.
    #[cfg(test)]
    pub(crate) fn alone(request: Request, recovered: bool) -> Self {
        let key = request.key;
        Self { request, recovered, hand: Hands::default().take(key) }
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
        Intake { request, recovered, hand: self.hands.take(key) }
    }

    /// Whether anybody has the request in hand.
    #[must_use]
    pub fn attends(&self, key: RequestKey) -> bool {
        self.hands.counts().contains_key(&key)
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
struct Hands(Arc<Mutex<HashMap<RequestKey, usize>>>);

impl Hands {
    fn counts(&self) -> MutexGuard<'_, HashMap<RequestKey, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, key: RequestKey) -> Hand {
        *self.counts().entry(key).or_default() += 1;
        Hand { key, hands: self.clone() }
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Hand {
    key: RequestKey,
    hands: Hands,
}

impl Clone for Hand {
    fn clone(&self) -> Self {
        self.hands.take(self.key)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut counts = self.hands.counts();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{abi, fake_chain::request_event};

    #[tokio::test]
    async fn a_request_is_attended_as_long_as_anybody_has_it() {
        let (mut intakes, entrance, again) = entrances(1, 1);
        let request = abi::decode(&request_event(1)).unwrap();
        let key = request.key;
        let intake = entrance.take(request, false);
        assert!(entrance.attends(key) && again.attends(key));
        entrance.send(intake).await.unwrap();
        let taken = intakes.fresh.recv().await.unwrap();
        let kept = taken.clone();
        drop(taken);
        assert!(again.attends(key));
        drop(kept);
        assert!(!entrance.attends(key));
        assert!(entrance.hands.counts().is_empty());
    }
}
