//! When the word of nodes ends a request: if all nodes that have a vote agree, or if all that answer
//! have agreed for long.
//!
//! A node that is away for a second may know better; without it one of two nodes would decide alone. So
//! every voter counts ([`Hearing`]): one that is away, behind or silent is waited for, and loses its
//! vote once the others have agreed for [`STAYS_AWAY`]. Nothing blocks meanwhile: the question is asked
//! again, like everything uncertain.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::DecryptionAdapter;
use crate::{
    domain::RequestKey,
    gateway::provider::{ChainReader, Hearing, NodeId, RpcError, are_all},
    lately::Lately,
};

/// A node that has not answered for this long loses its vote.
const STAYS_AWAY: Duration = Duration::from_mins(1);
/// Deadline of a node's answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Number of claims whose age is remembered. Further ones wait for room.
const REMEMBERED: usize = 4096;
/// A claim that nobody repeated for this long starts again.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);

/// Claims that end a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    Gone,
    /// The request never existed.
    Nowhere,
    Answered,
    NotRequested,
}

/// What the nodes say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    Yes,
    No,
    /// All that answer agree, but others may know better.
    NotYet,
}

/// Since when a claim is uncontested while nodes are missing. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Unopposed(Arc<Mutex<Lately<(Ending, RequestKey), Instant>>>);

impl Default for Unopposed {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Lately::new(REMEMBERED, FORGOTTEN_AFTER))))
    }
}

impl Unopposed {
    /// Records the claim again. Returns whether it has lasted long enough.
    fn said(&self, what: (Ending, RequestKey), now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Without room no entry is replaced: otherwise claims would displace each other and none would
        // ever end.
        if !known.has_room_for(&what, now) {
            return false;
        }
        now.saturating_duration_since(*known.say(what, now, || now)) >= STAYS_AWAY
    }

    /// A node contradicts the claim.
    fn contradicted(&self, what: (Ending, RequestKey)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).forget(&what);
    }
}

impl<P: ChainReader> DecryptionAdapter<P> {
    /// Asks every sound node the same question about the contract.
    pub async fn hearing<T, Asking>(&self, ask: impl Fn(Self) -> Asking) -> Hearing<T>
    where
        Asking: Future<Output = Result<T, RpcError>>,
    {
        let ask = |provider| ask(Self { provider, ..self.clone() });
        Hearing::of(&self.provider, ANSWERS_WITHIN, ask).await
    }

    /// Returns whether every voter says that a request has ended so. An error: no node answers.
    pub async fn agreed<Saying>(
        &self,
        ending: Ending,
        key: RequestKey,
        says: impl Fn(Self) -> Saying,
    ) -> Result<Agreed, RpcError>
    where
        Saying: Future<Output = Result<bool, RpcError>>,
    {
        let hearing = self.hearing(says).await;
        let heard: Vec<NodeId> = hearing.said.iter().map(|(node, _)| *node).collect();
        let all = hearing.answers(&self.provider)?.into_iter().all(|said| said);
        Ok(self.together((ending, key), all.then_some(&heard[..])))
    }

    /// What follows if these nodes make the claim. `None`: a node contradicts it.
    pub(super) fn together(&self, what: (Ending, RequestKey), by: Option<&[NodeId]>) -> Agreed {
        let Some(heard) = by else {
            self.unopposed.contradicted(what);
            return Agreed::No;
        };
        let agreed = are_all(&self.provider, heard) || self.unopposed.said(what, Instant::now());
        if agreed { Agreed::Yes } else { Agreed::NotYet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{B256, U256};
    use crate::gateway::fake_chain::SOURCE;

    #[test]
    fn a14_what_is_said_for_long_without_contradiction_is_believed() {
        let (unopposed, begun) = (Unopposed::default(), Instant::now());
        let key = RequestKey { source: SOURCE, id: U256::from(1), content: B256::ZERO };
        let what = (Ending::Gone, key);
        let said = |second: u64| unopposed.said(what, begun + Duration::from_secs(second));
        assert_eq!([said(0), said(59), said(60)], [false, false, true]);
        unopposed.contradicted(what);
        assert_eq!([said(61), said(121)], [false, true]);
        // Nobody asked for long, so the claim starts again.
        assert_eq!([said(2_000), said(2_059), said(2_060)], [false, false, true]);
        let other =
            |id: u64| (Ending::Answered, RequestKey { source: SOURCE, id: U256::from(id), ..key });
        let at = begun + Duration::from_secs(2_060);
        assert!((0..10_000).all(|id| !unopposed.said(other(id), at)));
        assert!(said(2_061), "who was there first stays");
    }
}
