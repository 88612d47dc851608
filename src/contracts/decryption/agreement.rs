//! When the word of nodes ends a request: if all nodes that have a vote agree, or if all that answer
//! have agreed for long.
//!
//! A node that is away for a second may know better; without it one of two nodes would decide alone. So
//! every voter counts ([`Survey`]): one that is away, behind or silent is waited for, and loses its
//! vote once the others have agreed for [`UNCONTESTED_FOR`]. Nothing blocks meanwhile: the question is asked
//! again, like everything uncertain.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::RequestContract;
use crate::{
    chain::{
        reader::{ChainReader, NodeId},
        rpc_error::RpcError,
        survey::{Survey, covers_all_voters},
    },
    domain::RequestKey,
    time::recent_map::RecentMap,
};

/// A node that has not answered for this long loses its vote.
const UNCONTESTED_FOR: Duration = Duration::from_mins(1);
/// Deadline of a node's answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Number of claims whose age is remembered. Further ones wait for room.
const REMEMBERED: usize = 4096;
/// A claim that nobody repeated for this long starts again.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);

/// Claims that end a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndClaim {
    Gone,
    /// The request never existed.
    NeverExisted,
    Answered,
    NotRequested,
}

/// What the nodes say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    Yes,
    No,
    /// All that answer agree, but others may know better.
    NotYet,
}

/// Since when a claim is uncontested while nodes are missing. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct UncontestedClaims(Arc<Mutex<RecentMap<(EndClaim, RequestKey), Instant>>>);

impl Default for UncontestedClaims {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(RecentMap::new(REMEMBERED, FORGOTTEN_AFTER))))
    }
}

impl UncontestedClaims {
    /// Records the claim again. Returns whether it has lasted long enough.
    fn record(&self, what: (EndClaim, RequestKey), now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Without room no entry is replaced: otherwise claims would displace each other and none would
        // ever end.
        if !known.has_room_for(&what, now) {
            return false;
        }
        now.saturating_duration_since(*known.touch(what, now, || now)) >= UNCONTESTED_FOR
    }

    /// A node contradicts the claim.
    fn clear(&self, what: (EndClaim, RequestKey)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&what);
    }
}

impl<P: ChainReader> RequestContract<P> {
    /// Asks every sound node the same question about the contract.
    pub async fn hearing<T, Asking>(&self, ask: impl Fn(Self) -> Asking) -> Survey<T>
    where
        Asking: Future<Output = Result<T, RpcError>>,
    {
        let ask = |provider| ask(Self { provider, ..self.clone() });
        Survey::run(&self.provider, ANSWERS_WITHIN, ask).await
    }

    /// Returns whether every voter says that a request has ended so. An error: no node answers.
    pub async fn agreement_on<Saying>(
        &self,
        ending: EndClaim,
        key: RequestKey,
        says: impl Fn(Self) -> Saying,
    ) -> Result<Agreement, RpcError>
    where
        Saying: Future<Output = Result<bool, RpcError>>,
    {
        let hearing = self.hearing(says).await;
        let answering: Vec<NodeId> = hearing.replies.iter().map(|(node, _)| *node).collect();
        let all = hearing.into_answers(&self.provider)?.into_iter().all(|said| said);
        Ok(self.weigh_claim((ending, key), all.then_some(&answering[..])))
    }

    /// What follows if these nodes make the claim. `None`: a node contradicts it.
    pub(super) fn weigh_claim(
        &self,
        what: (EndClaim, RequestKey),
        by: Option<&[NodeId]>,
    ) -> Agreement {
        let Some(heard) = by else {
            self.uncontested.clear(what);
            return Agreement::No;
        };
        let agreed = covers_all_voters(&self.provider, heard)
            || self.uncontested.record(what, Instant::now());
        if agreed { Agreement::Yes } else { Agreement::NotYet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake_chain::SOURCE;
    use crate::domain::{B256, U256};

    #[test]
    fn a14_what_is_said_for_long_without_contradiction_is_believed() {
        let (unopposed, begun) = (UncontestedClaims::default(), Instant::now());
        let key = RequestKey { source: SOURCE, id: U256::from(1), content: B256::ZERO };
        let what = (EndClaim::Gone, key);
        let said = |second: u64| unopposed.record(what, begun + Duration::from_secs(second));
        assert_eq!([said(0), said(59), said(60)], [false, false, true]);
        unopposed.clear(what);
        assert_eq!([said(61), said(121)], [false, true]);
        // Nobody asked for long, so the claim starts again.
        assert_eq!([said(2_000), said(2_059), said(2_060)], [false, false, true]);
        let other = |id: u64| {
            (EndClaim::Answered, RequestKey { source: SOURCE, id: U256::from(id), ..key })
        };
        let at = begun + Duration::from_secs(2_060);
        assert!((0..10_000).all(|id| !unopposed.record(other(id), at)));
        assert!(said(2_061), "who was there first stays");
    }
}
