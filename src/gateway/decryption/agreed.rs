//! What ends a request on the words of nodes: all of them say so, or those that are there do for long.
//!
//! Who is away for a second may know better, and one of two nodes alone would have the say meanwhile. So
//! every node counts that has a say ([`Hearing`]); one that is away, behind or silent is waited for, and
//! has none if the others have said the same for [`STAYS_AWAY`]. Nobody sits and waits: it is asked again,
//! as everything is that is not certain.

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

/// Who has said nothing for so long has no say.
const STAYS_AWAY: Duration = Duration::from_mins(1);
/// Within this a node answers, or is silent.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Of which it is remembered since when it is said. Of more, when there is room.
const REMEMBERED: usize = 4096;
/// What nobody has asked for so long begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);

/// What ends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    Gone,
    /// It was never there.
    Nowhere,
    Answered,
    NotRequested,
}

/// What the nodes say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    Yes,
    No,
    /// All that are there say so; others may know better.
    NotYet,
}

/// Since when something is said without contradiction, while somebody is waited for. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Unopposed(Arc<Mutex<Lately<(Ending, RequestKey), Instant>>>);

impl Default for Unopposed {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Lately::new(REMEMBERED, FORGOTTEN_AFTER))))
    }
}

impl Unopposed {
    /// It is said again. Whether it has been for long enough.
    fn said(&self, what: (Ending, RequestKey), now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who came first comes to an end; if each pushed another one out, nobody would.
        if !known.has_room_for(&what, now) {
            return false;
        }
        now.saturating_duration_since(*known.say(what, now, || now)) >= STAYS_AWAY
    }

    /// Somebody says otherwise.
    fn contradicted(&self, what: (Ending, RequestKey)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).forget(&what);
    }
}

impl<P: ChainReader> DecryptionAdapter<P> {
    /// Whether every node that may know says that a request has ended so. An error: none answers.
    pub async fn agreed<Saying>(
        &self,
        ending: Ending,
        key: RequestKey,
        says: impl Fn(Self) -> Saying,
    ) -> Result<Agreed, RpcError>
    where
        Saying: Future<Output = Result<bool, RpcError>>,
    {
        let ask = |provider| says(Self { provider, ..self.clone() });
        let hearing = Hearing::of(&self.provider, ANSWERS_WITHIN, ask).await;
        let heard: Vec<NodeId> = hearing.said.iter().map(|(node, _)| *node).collect();
        let all = hearing.answers(&self.provider)?.into_iter().all(|said| said);
        Ok(self.together((ending, key), all.then_some(&heard[..])))
    }

    /// What follows where these nodes say that a request has ended so; `None`: one says otherwise.
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
        // Nobody has asked for long, and what was said meanwhile is not known.
        assert_eq!([said(2_000), said(2_059), said(2_060)], [false, false, true]);
        let other =
            |id: u64| (Ending::Answered, RequestKey { source: SOURCE, id: U256::from(id), ..key });
        let at = begun + Duration::from_secs(2_060);
        assert!((0..10_000).all(|id| !unopposed.said(other(id), at)));
        assert!(said(2_061), "who was there first stays");
    }
}
