//! Finds out whether an earlier run with this wallet, which the journal does not know of, has answered
//! a request.
//!
//! After a journal was lost, thousands of requests ask this at once. The first caller takes all waiting
//! ones along, up to the limit of one search; meanwhile the next search gathers others. So the number
//! of calls depends on the nodes and not on the number of requests, and no separate task is needed.
//!
//! An answer that one node shows ends a request, so another sound node has to show it too, if one
//! answers. If that one denies it, the request is answered anyway: the contract accepts no second
//! answer of a signer.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::{Semaphore, oneshot};
use tracing::{debug, warn};

use crate::{
    chain::{rpc_error::RpcError, sender::TransactionSender},
    contracts::decryption::{AnswerQuery, AnswerStatus, RequestContract},
    domain::Address,
};

/// Requests in one search.
const BATCH_SIZE: usize = 100;
/// Searches at the same time.
const MAX_SEARCHES: usize = 4;

/// What is known of an earlier answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SearchResult {
    No,
    Yes,
    /// It is in one of the last blocks, which may leave the chain.
    NotFinal,
    /// Too much to search at once.
    Incomplete,
}

/// A caller that waits for a result.
#[derive(Debug)]
struct PendingSearch {
    sought: AnswerQuery,
    reply: oneshot::Sender<Result<SearchResult, RpcError>>,
}

/// Searches for earlier answers.
#[derive(Debug)]
pub(super) struct PriorAnswers<P> {
    adapter: RequestContract<P>,
    wallet: Address,
    waiting: Mutex<VecDeque<PendingSearch>>,
    searches: Semaphore,
}

/// Combines the results of one node and of another one, if that answered.
fn combine(first: AnswerStatus, second: Option<AnswerStatus>) -> SearchResult {
    match (first, second) {
        (AnswerStatus::NotFound, _)
        | (AnswerStatus::Recent | AnswerStatus::Settled, Some(AnswerStatus::NotFound)) => {
            SearchResult::No
        }
        (AnswerStatus::Undetermined, _) | (_, Some(AnswerStatus::Undetermined)) => {
            SearchResult::Incomplete
        }
        (AnswerStatus::Recent, _) | (AnswerStatus::Settled, Some(AnswerStatus::Recent)) => {
            SearchResult::NotFinal
        }
        (AnswerStatus::Settled, Some(AnswerStatus::Settled) | None) => SearchResult::Yes,
    }
}

impl<P: TransactionSender> PriorAnswers<P> {
    pub(super) fn new(adapter: RequestContract<P>, wallet: Address) -> Self {
        let searches = Semaphore::new(MAX_SEARCHES);
        Self { adapter, wallet, waiting: Mutex::default(), searches }
    }

    /// Returns whether there is one. Dropping this future does not delay other callers.
    pub(super) async fn find(&self, sought: AnswerQuery) -> Result<SearchResult, RpcError> {
        loop {
            let mut answer = self.enqueue(sought);
            loop {
                tokio::select! {
                    biased;
                    answered = &mut answer => match answered {
                        Ok(found) => return found,
                        // The caller that searched for this one was dropped.
                        Err(_) => break,
                    },
                    Ok(_turn) = self.searches.acquire() => {
                        let these = self.next_batch();
                        if these.is_empty() {
                            match answer.await {
                                Ok(found) => return found,
                                Err(_) => break,
                            }
                        }
                        self.search_batch(these).await;
                    }
                }
            }
        }
    }

    fn enqueue(&self, sought: AnswerQuery) -> oneshot::Receiver<Result<SearchResult, RpcError>> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(PendingSearch { sought, reply });
        answer
    }

    fn next_batch(&self) -> Vec<PendingSearch> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| !one.reply.is_closed());
        let these = waiting.len().min(BATCH_SIZE);
        waiting.drain(..these).collect()
    }

    async fn search_batch(&self, these: Vec<PendingSearch>) {
        let sought: Vec<AnswerQuery> = these.iter().map(|one| one.sought).collect();
        match self.ask_nodes(&sought).await {
            Ok(found) => {
                for (one, found) in these.into_iter().zip(found) {
                    // The caller may have been dropped.
                    let _ = one.reply.send(Ok(found));
                }
            }
            Err(error) => {
                for one in these {
                    let _ = one.reply.send(Err(error.clone()));
                }
            }
        }
    }

    async fn ask_nodes(&self, sought: &[AnswerQuery]) -> Result<Vec<SearchResult>, RpcError> {
        let mut nodes = self.adapter.provider().sound_nodes().into_iter();
        let (mut shown, mut failed) = (None, None);
        for node in nodes.by_ref() {
            match self.adapter.for_node(node).find_answers(self.wallet, sought).await {
                Ok(first) => {
                    shown = Some(first);
                    break;
                }
                Err(error) => {
                    debug!(%error, "this node does not show earlier answers");
                    failed.get_or_insert(error);
                }
            }
        }
        let shown = match (shown, failed) {
            (Some(shown), _) => shown,
            (None, Some(error)) => return Err(error),
            // No node is connected now.
            (None, None) => self.adapter.find_answers(self.wallet, sought).await?,
        };
        let claimed: Vec<usize> =
            (0..shown.len()).filter(|index| shown[*index] == AnswerStatus::Settled).collect();
        let mut second = vec![None; shown.len()];
        if !claimed.is_empty() {
            let these: Vec<AnswerQuery> = claimed.iter().map(|index| sought[*index]).collect();
            for node in nodes {
                match self.adapter.for_node(node).find_answers(self.wallet, &these).await {
                    Ok(confirmed) => {
                        for (index, confirmed) in claimed.iter().zip(confirmed) {
                            second[*index] = Some(confirmed);
                        }
                        break;
                    }
                    Err(error) => debug!(%error, "an earlier answer is not confirmed by this node"),
                }
            }
        }
        let denied =
            second.iter().filter(|second| **second == Some(AnswerStatus::NotFound)).count();
        if denied > 0 {
            warn!(
                requests = denied,
                "one gateway node shows earlier answers that another one does not have"
            );
        }
        Ok(shown.into_iter().zip(second).map(|(first, second)| combine(first, second)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::task::JoinSet;

    use super::*;
    use crate::{
        chain::fake_chain::{ADDRESSES, FakeChain, NodeFaults},
        domain::{Kind, U256},
    };

    const WALLET: Address = Address::repeat_byte(7);

    fn sought(number: u64) -> AnswerQuery {
        let id = (U256::from(2) << 248_usize) | U256::from(number);
        AnswerQuery { id, kind: Kind::UserDecryption, block: 50 }
    }

    /// Requests with an even number are answered.
    fn scene(nodes: usize) -> (FakeChain, Arc<PriorAnswers<FakeChain>>) {
        let chain = FakeChain::new(200);
        for number in (0..5_000).step_by(2) {
            chain.list_answerer(sought(number).id, 60, WALLET);
        }
        chain.state().faults.resize(nodes, NodeFaults::default());
        chain.state().answer_history.answers_after = Duration::from_millis(50);
        let earlier = PriorAnswers::new(RequestContract::new(chain.clone(), ADDRESSES), WALLET);
        (chain, Arc::new(earlier))
    }

    /// Thousands at once after a journal was lost: one batch for a hundred of them at each of two nodes,
    /// and the same again for those not found.
    #[tokio::test(start_paused = true)]
    async fn a13_calls_follow_the_node_and_not_the_requests() {
        let (chain, earlier) = scene(2);
        let mut looking = JoinSet::new();
        for number in 0..5_000 {
            let earlier = earlier.clone();
            looking.spawn(async move {
                let found = earlier.find(sought(number)).await.unwrap();
                let expected = if number % 2 == 0 { SearchResult::Yes } else { SearchResult::No };
                assert_eq!(found, expected, "{number}");
            });
        }
        while let Some(looked) = looking.join_next().await {
            looked.unwrap();
        }
        let messages = ["calls", "header", "logs_with"].map(|of| chain.call_count(of));
        // 5,000 at the first node, and those found once more at a block a little older; the same for 2,500 at
        // the second node.
        assert_eq!(chain.call_count("calls in messages"), 12_500);
        assert!(messages[0] <= 4 * (5_000 / BATCH_SIZE + MAX_SEARCHES), "{messages:?}");
        assert!(
            messages[1] + messages[2] <= 3 * (5_000 / BATCH_SIZE + MAX_SEARCHES),
            "{messages:?}"
        );
    }

    /// An answer that one node shows and another one denies ends nothing.
    #[tokio::test(start_paused = true)]
    async fn a13_one_liar_does_not_make_a_request_answered() {
        let (chain, earlier) = scene(2);
        chain.state().faults[0].lists = Some(vec![WALLET]);
        assert_eq!(earlier.find(sought(1)).await.unwrap(), SearchResult::No);
        assert_eq!(earlier.find(sought(2)).await.unwrap(), SearchResult::Yes);
        // A lying second node that denies everything is not believed on its own either.
        chain.state().faults[0].lists = None;
        chain.state().faults[1].lists = Some(vec![]);
        assert_eq!(earlier.find(sought(2)).await.unwrap(), SearchResult::No, "it is tried");
        // A silent node is ignored; the next one is asked.
        chain.state().faults[1].is_silent = true;
        assert_eq!(earlier.find(sought(2)).await.unwrap(), SearchResult::Yes);
        chain.state().faults.push(NodeFaults { lists: Some(vec![]), ..NodeFaults::default() });
        assert_eq!(earlier.find(sought(2)).await.unwrap(), SearchResult::No);
        chain.state().faults[0].is_silent = true;
        assert_eq!(earlier.find(sought(2)).await.unwrap(), SearchResult::No);
        chain.state().faults[2].is_silent = true;
        earlier.find(sought(2)).await.unwrap_err();
    }

    /// A caller that searches for others and is dropped does not delay them.
    #[tokio::test(start_paused = true)]
    async fn a13_who_leaves_keeps_nobody_waiting() {
        let (_, earlier) = scene(1);
        let turns =
            earlier.searches.acquire_many(u32::try_from(MAX_SEARCHES).unwrap()).await.unwrap();
        let mut looking = JoinSet::new();
        for number in 0..300 {
            let earlier = earlier.clone();
            looking.spawn(async move { earlier.find(sought(number)).await.unwrap() });
        }
        while earlier.waiting.lock().unwrap().len() < 300 {
            tokio::task::yield_now().await;
        }
        let taken = earlier.next_batch();
        assert_eq!(taken.len(), BATCH_SIZE);
        drop((turns, taken));
        let mut found = 0;
        while let Some(looked) = looking.join_next().await {
            found += usize::from(looked.unwrap() == SearchResult::Yes);
        }
        assert_eq!(found, 150);
    }

    #[test]
    fn a13_two_words_make_one() {
        use AnswerStatus::{NotFound, Recent, Settled, Undetermined};
        for (first, second, found) in [
            (NotFound, None, SearchResult::No),
            (Settled, None, SearchResult::Yes),
            (Settled, Some(Settled), SearchResult::Yes),
            (Settled, Some(NotFound), SearchResult::No),
            (Settled, Some(Recent), SearchResult::NotFinal),
            (Settled, Some(Undetermined), SearchResult::Incomplete),
            (Recent, None, SearchResult::NotFinal),
            (Undetermined, None, SearchResult::Incomplete),
        ] {
            assert_eq!(combine(first, second), found, "{first:?} {second:?}");
        }
    }
}
