//! Whether an earlier life of this wallet, of which the journal does not know, has answered a request.
//!
//! Thousands ask at once after a journal was lost. Whoever comes first takes all who wait along, as far
//! as they fit into one look; the next look gathers meanwhile. So the number of calls follows the node
//! and not the requests, and nobody has to run beside.
//!
//! An answer that one node shows ends a request, so another sound one has to show it too, where there
//! is one that answers. What one denies is answered: the contract takes no second answer of a signer.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::{Semaphore, oneshot};
use tracing::{debug, warn};

use crate::{
    domain::Address,
    gateway::{
        decryption::{DecryptionAdapter, Shown, Sought},
        provider::{RpcError, TransactionSender},
    },
};

/// Requests in one look.
const TOGETHER: usize = 100;
/// Looks under way at the same time.
const LOOKS: usize = 4;

/// What is known of an earlier answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    No,
    Yes,
    /// It is in one of the last blocks, and may leave the chain.
    Young,
    /// There is too much to look through at once.
    NotYet,
}

/// One who waits for an answer.
#[derive(Debug)]
struct Waiting {
    sought: Sought,
    reply: oneshot::Sender<Result<Found, RpcError>>,
}

/// Looks for earlier answers.
#[derive(Debug)]
pub(super) struct Earlier<P> {
    adapter: DecryptionAdapter<P>,
    wallet: Address,
    waiting: Mutex<VecDeque<Waiting>>,
    looks: Semaphore,
}

/// What follows from what one node shows, and from what another one shows, if one answered.
fn together(first: Shown, second: Option<Shown>) -> Found {
    match (first, second) {
        (Shown::Nothing, _) | (Shown::Young | Shown::Settled, Some(Shown::Nothing)) => Found::No,
        (Shown::NotYet, _) | (_, Some(Shown::NotYet)) => Found::NotYet,
        (Shown::Young, _) | (Shown::Settled, Some(Shown::Young)) => Found::Young,
        (Shown::Settled, Some(Shown::Settled) | None) => Found::Yes,
    }
}

impl<P: TransactionSender> Earlier<P> {
    pub(super) fn new(adapter: DecryptionAdapter<P>, wallet: Address) -> Self {
        let looks = Semaphore::new(LOOKS);
        Self { adapter, wallet, waiting: Mutex::default(), looks }
    }

    /// Whether there is one. Dropping this keeps nobody else waiting.
    pub(super) async fn look(&self, sought: Sought) -> Result<Found, RpcError> {
        loop {
            let mut answer = self.wait(sought);
            loop {
                tokio::select! {
                    biased;
                    answered = &mut answer => match answered {
                        Ok(found) => return found,
                        // Who took it along is gone.
                        Err(_) => break,
                    },
                    Ok(_turn) = self.looks.acquire() => {
                        let these = self.next();
                        if these.is_empty() {
                            match answer.await {
                                Ok(found) => return found,
                                Err(_) => break,
                            }
                        }
                        self.look_for(these).await;
                    }
                }
            }
        }
    }

    fn wait(&self, sought: Sought) -> oneshot::Receiver<Result<Found, RpcError>> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(Waiting { sought, reply });
        answer
    }

    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| !one.reply.is_closed());
        let these = waiting.len().min(TOGETHER);
        waiting.drain(..these).collect()
    }

    async fn look_for(&self, these: Vec<Waiting>) {
        let sought: Vec<Sought> = these.iter().map(|one| one.sought).collect();
        match self.find(&sought).await {
            Ok(found) => {
                for (one, found) in these.into_iter().zip(found) {
                    // Who asked may have gone.
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

    async fn find(&self, sought: &[Sought]) -> Result<Vec<Found>, RpcError> {
        let mut nodes = self.adapter.provider().sound_nodes().into_iter();
        let (mut shown, mut failed) = (None, None);
        for node in nodes.by_ref() {
            match self.adapter.only(node).answers_of(self.wallet, sought).await {
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
            // None is connected now.
            (None, None) => self.adapter.answers_of(self.wallet, sought).await?,
        };
        let claimed: Vec<usize> =
            (0..shown.len()).filter(|index| shown[*index] == Shown::Settled).collect();
        let mut second = vec![None; shown.len()];
        if !claimed.is_empty() {
            let these: Vec<Sought> = claimed.iter().map(|index| sought[*index]).collect();
            for node in nodes {
                match self.adapter.only(node).answers_of(self.wallet, &these).await {
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
        let denied = second.iter().filter(|second| **second == Some(Shown::Nothing)).count();
        if denied > 0 {
            warn!(
                requests = denied,
                "one gateway node shows earlier answers that another one does not have"
            );
        }
        Ok(shown.into_iter().zip(second).map(|(first, second)| together(first, second)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::task::JoinSet;

    use super::*;
    use crate::{
        domain::{Kind, U256},
        gateway::fake_chain::{ADDRESSES, FakeChain, Lies},
    };

    const WALLET: Address = Address::repeat_byte(7);

    fn sought(number: u64) -> Sought {
        let id = (U256::from(2) << 248_usize) | U256::from(number);
        Sought { id, kind: Kind::UserDecryption, block: 50 }
    }

    /// Requests with an even number are answered.
    fn scene(nodes: usize) -> (FakeChain, Arc<Earlier<FakeChain>>) {
        let chain = FakeChain::new(200);
        for number in (0..5_000).step_by(2) {
            chain.list(sought(number).id, 60, WALLET);
        }
        chain.node().lies.resize(nodes, Lies::default());
        chain.node().past.takes = Duration::from_millis(50);
        let earlier = Earlier::new(DecryptionAdapter::new(chain.clone(), ADDRESSES), WALLET);
        (chain, Arc::new(earlier))
    }

    /// Thousands at once after a journal was lost: a message for a hundred of them, at each of two
    /// nodes, and the same again for what is not found.
    #[tokio::test(start_paused = true)]
    async fn a13_calls_follow_the_node_and_not_the_requests() {
        let (chain, earlier) = scene(2);
        let mut looking = JoinSet::new();
        for number in 0..5_000 {
            let earlier = earlier.clone();
            looking.spawn(async move {
                let found = earlier.look(sought(number)).await.unwrap();
                let expected = if number % 2 == 0 { Found::Yes } else { Found::No };
                assert_eq!(found, expected, "{number}");
            });
        }
        while let Some(looked) = looking.join_next().await {
            looked.unwrap();
        }
        let messages = ["calls", "header", "logs_with"].map(|of| chain.calls(of));
        // 5,000 at the first node, and those found once more as of some blocks ago; the same of those
        // 2,500 at the second.
        assert_eq!(chain.calls("calls in messages"), 12_500);
        assert!(messages[0] <= 4 * (5_000 / TOGETHER + LOOKS), "{messages:?}");
        assert!(messages[1] + messages[2] <= 3 * (5_000 / TOGETHER + LOOKS), "{messages:?}");
    }

    /// What one node says and another denies ends nothing.
    #[tokio::test(start_paused = true)]
    async fn a13_one_liar_does_not_make_a_request_answered() {
        let (chain, earlier) = scene(2);
        chain.node().lies[0].lists = Some(vec![WALLET]);
        assert_eq!(earlier.look(sought(1)).await.unwrap(), Found::No);
        assert_eq!(earlier.look(sought(2)).await.unwrap(), Found::Yes);
        // Nor is a liar that denies believed by itself where it is the second one.
        chain.node().lies[0].lists = None;
        chain.node().lies[1].lists = Some(vec![]);
        assert_eq!(earlier.look(sought(2)).await.unwrap(), Found::No, "it is tried");
        // Who does not answer has no say; the next one has.
        chain.node().lies[1].mute = true;
        assert_eq!(earlier.look(sought(2)).await.unwrap(), Found::Yes);
        chain.node().lies.push(Lies { lists: Some(vec![]), ..Lies::default() });
        assert_eq!(earlier.look(sought(2)).await.unwrap(), Found::No);
        chain.node().lies[0].mute = true;
        assert_eq!(earlier.look(sought(2)).await.unwrap(), Found::No);
        chain.node().lies[2].mute = true;
        earlier.look(sought(2)).await.unwrap_err();
    }

    /// Who took others along and is gone keeps nobody waiting.
    #[tokio::test(start_paused = true)]
    async fn a13_who_leaves_keeps_nobody_waiting() {
        let (_, earlier) = scene(1);
        let turns = earlier.looks.acquire_many(u32::try_from(LOOKS).unwrap()).await.unwrap();
        let mut looking = JoinSet::new();
        for number in 0..300 {
            let earlier = earlier.clone();
            looking.spawn(async move { earlier.look(sought(number)).await.unwrap() });
        }
        while earlier.waiting.lock().unwrap().len() < 300 {
            tokio::task::yield_now().await;
        }
        let taken = earlier.next();
        assert_eq!(taken.len(), TOGETHER);
        drop((turns, taken));
        let mut found = 0;
        while let Some(looked) = looking.join_next().await {
            found += usize::from(looked.unwrap() == Found::Yes);
        }
        assert_eq!(found, 150);
    }

    #[test]
    fn a13_two_words_make_one() {
        use Shown::{NotYet, Nothing, Settled, Young};
        for (first, second, found) in [
            (Nothing, None, Found::No),
            (Settled, None, Found::Yes),
            (Settled, Some(Settled), Found::Yes),
            (Settled, Some(Nothing), Found::No),
            (Settled, Some(Young), Found::Young),
            (Settled, Some(NotYet), Found::NotYet),
            (Young, None, Found::Young),
            (NotYet, None, Found::NotYet),
        ] {
            assert_eq!(together(first, second), found, "{first:?} {second:?}");
        }
    }
}
