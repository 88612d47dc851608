//! What ends a request on the words of nodes: all of them say so, or those that are there do for long.
//!
//! Who is away for a second may know better, and one of two nodes alone would have the say meanwhile. So
//! every node counts that is not known to be of another chain, in whatever state it is; one that is away,
//! behind or silent is waited for, and has no say if the others have said the same for [`STAYS_AWAY`].
//! Nobody sits and waits: it is asked again, as everything is that is not certain.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::DecryptionAdapter;
use crate::{
    domain::RequestKey,
    gateway::provider::{Provider, RpcError},
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

/// When something was said first without contradiction, and last.
#[derive(Clone, Copy, Debug)]
struct Said {
    first: Instant,
    last: Instant,
}

/// What is said while somebody is waited for. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Unopposed(Arc<Mutex<HashMap<(Ending, RequestKey), Said>>>);

impl Unopposed {
    /// It is said again. Whether it has been for long enough.
    fn said(&self, what: (Ending, RequestKey), now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED || known.contains_key(&what) {
            known.retain(|_, said| since(said.last) < FORGOTTEN_AFTER);
        }
        if known.len() >= REMEMBERED && !known.contains_key(&what) {
            return false;
        }
        let said = known.entry(what).or_insert(Said { first: now, last: now });
        said.last = now;
        since(said.first) >= STAYS_AWAY
    }

    /// Somebody says otherwise.
    fn contradicted(&self, what: (Ending, RequestKey)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&what);
    }
}

impl<P: Provider> DecryptionAdapter<P> {
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
        let nodes = self.provider.sound_nodes();
        let asked = nodes.iter().map(|node| timeout(ANSWERS_WITHIN, says(self.only(*node))));
        let (mut heard, mut all, mut failed) = (Vec::new(), true, None);
        for (node, said) in nodes.iter().zip(join_all(asked).await) {
            match said {
                Ok(Ok(said)) => {
                    heard.push(*node);
                    all &= said;
                }
                Ok(Err(error)) => _ = failed.get_or_insert(error),
                Err(_) => {}
            }
        }
        if heard.is_empty() {
            return Err(failed.unwrap_or_else(|| self.silence()));
        }
        if !all {
            self.unopposed.contradicted((ending, key));
            return Ok(Agreed::No);
        }
        let all_heard = self.provider.voters().iter().all(|node| heard.contains(node));
        let agreed = all_heard || self.unopposed.said((ending, key), Instant::now());
        Ok(if agreed { Agreed::Yes } else { Agreed::NotYet })
    }

    fn silence(&self) -> RpcError {
        let hosts = self.provider.voters().into_iter().map(|node| self.provider.host(node));
        let host = hosts.collect::<Vec<_>>().join(", ");
        RpcError::Unavailable { host, what: "no node answers".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{B256, U256};

    #[test]
    fn a14_what_is_said_for_long_without_contradiction_is_believed() {
        let (unopposed, begun) = (Unopposed::default(), Instant::now());
        let key = RequestKey { id: U256::from(1), content: B256::ZERO };
        let what = (Ending::Gone, key);
        let said = |second: u64| unopposed.said(what, begun + Duration::from_secs(second));
        assert_eq!([said(0), said(59), said(60)], [false, false, true]);
        unopposed.contradicted(what);
        assert_eq!([said(61), said(121)], [false, true]);
        // Nobody has asked for long, and what was said meanwhile is not known.
        assert_eq!([said(2_000), said(2_059), said(2_060)], [false, false, true]);
        let other = |id: u64| (Ending::Answered, RequestKey { id: U256::from(id), ..key });
        let at = begun + Duration::from_secs(2_060);
        assert!((0..10_000).all(|id| !unopposed.said(other(id), at)));
        assert!(unopposed.0.lock().unwrap().len() <= REMEMBERED);
        assert!(said(2_061), "who was there first stays");
    }
}
