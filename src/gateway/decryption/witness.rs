//! Whether the nodes agree that a request is on chain. One that lies could have anything decrypted:
//! before the Core is asked, two nodes have to show the event, where there are two.
//!
//! ```text
//! node shows the event in its block ----------------------------------> a witness
//! node has the block without the event, or another block there, twice -> it denies
//! node does not know the block, or does not answer -> asked again until the patience is over
//! node goes on and does not reach the block -> waited for a little longer, then it denies
//! ```
//!
//! A node goes on ([`crate::gateway::provider::choice`]) if blocks come from it that are new by its own
//! time. What it has not reached may be blocks that a liar put on top of the chain. On a chain that makes
//! none no node goes on, and one that is behind cannot be told from one that is right.
//!
//! Who told the request is not asked who: two nodes that show it are two, whichever told it first.
//! An index of logs may be broken, so who shows none is asked for the transaction's receipt too.
//!
//! Whoever forges one log may forge thousands in a block: they share what a node says of the block, so
//! that its answers cannot be made to come too late by asking it a lot.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex as Lock, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};

use super::DecryptionAdapter;
use crate::{
    domain::{B256, BlockRef, Event, Request, RequestKey},
    gateway::{
        abi,
        provider::{At, Emitted, LogRange, NodeId, Provider},
    },
};

/// How long a second node is waited for that is behind or does not answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long one is waited for that goes on and does not have the block: by its own time it is not
/// farther behind than that.
const REACHES_WITHIN: Duration = Duration::from_secs(6);
/// Between two questions to a node that does not know the block.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Between the two looks of a node that denies: it may be about to see a reorganisation.
const DENIED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What a node that denies may take for its second look.
const SECOND_LOOK: Duration = Duration::from_secs(5);
/// Nodes asked about one request, at most.
const ASKED: usize = 3;
/// Blocks and nodes whose requests are remembered: those of a block are asked about together.
const REMEMBERED: usize = 256;
/// What a node showed counts for so long: it may think better of it.
const FRESH: Duration = Duration::from_secs(10);
/// What it did not show: not until the second look of a node that denies.
const ABSENT_FOR: Duration = Duration::from_millis(500);

/// What the nodes say of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witnessed {
    /// There is only one node, and nothing speaks against its word.
    NobodyElse,
    ByTwo,
    /// The others are behind or do not answer.
    ByOne,
    /// So is every node.
    ByNobody,
    /// A node has the block without the event, or another block there, and says so again.
    Disputed {
        /// Hosts.
        shown_by: Vec<String>,
        denied_by: String,
    },
    /// Two nodes or more have the very block, none of them the event in it: it was never there.
    Nowhere,
}

/// What one node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Shows,
    /// The block has no such event.
    Absent,
    /// Another block has that height, or the block's logs have no such event and nothing else is told.
    Denies,
    /// It has no block there.
    Lacks,
    /// It is behind, or does not answer.
    Unknown,
}

/// What a node told of a block.
#[derive(Debug)]
struct Told {
    at: Instant,
    /// The requests in its logs; `None`: no answer.
    shown: Option<HashSet<RequestKey>>,
    /// What it has at that height, once it was asked: a block or none, or no answer.
    here: Option<Result<Option<BlockRef>, ()>>,
}

impl Told {
    /// Whether it need not be asked again about this request. What it showed is `fresh` for so long.
    fn answers(&self, key: &RequestKey, fresh: Duration) -> bool {
        let lasts = match (&self.shown, self.here) {
            (Some(shown), _) if shown.contains(key) => fresh,
            (Some(_), None | Some(Ok(Some(_)))) => ABSENT_FOR,
            (None, _) | (Some(_), Some(Ok(None) | Err(()))) => AGAIN_AFTER,
        };
        self.at.elapsed() < lasts.min(fresh)
    }
}

/// Empty until it has told something. Held while it is asked: whoever asks about the same block
/// meanwhile waits for this answer.
type Shown = Arc<Mutex<Option<Told>>>;

/// What nodes showed of the last blocks that were asked about.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Lock<VecDeque<(B256, NodeId, Shown)>>>);

impl Memory {
    fn of(&self, block: B256, node: NodeId) -> Shown {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |(hash, by, _): &&(B256, NodeId, Shown)| (*hash, *by) == (block, node);
        if let Some((_, _, shown)) = known.iter().find(is_it) {
            return shown.clone();
        }
        if known.len() >= REMEMBERED {
            known.pop_front();
        }
        let shown = Shown::default();
        known.push_back((block, node, shown.clone()));
        shown
    }
}

fn keys(events: &[Event]) -> HashSet<RequestKey> {
    events.iter().filter_map(|event| Some(abi::decode(event).ok()?.key)).collect()
}

impl<P: Provider> DecryptionAdapter<P> {
    /// Asks the sound nodes for a request, where it is now: in `block`. The only node there is told it
    /// just now, unless it was `again`, out of the journal: another one may have told it then.
    pub async fn witnessed(&self, request: &Request, block: BlockRef, again: bool) -> Witnessed {
        if self.provider.node_count() < 2 && !again {
            return Witnessed::NobodyElse;
        }
        self.ask_around(request, block, FRESH).await
    }

    /// The same, of what the nodes show now: nothing that they showed before counts.
    pub async fn witnessed_anew(&self, request: &Request) -> Witnessed {
        self.ask_around(request, request.block, Duration::ZERO).await
    }

    /// What a node showed counts for as long as it is `fresh`.
    async fn ask_around(&self, request: &Request, block: BlockRef, fresh: Duration) -> Witnessed {
        let alone = self.provider.node_count() < 2;
        let until = Instant::now() + PATIENCE;
        let nodes = self.provider.sound_nodes().into_iter().take(ASKED);
        let mut words: FuturesUnordered<_> =
            nodes.map(|node| self.word_of(node, request, (block, fresh), until)).collect();
        let (mut shown_by, mut denied_by, mut absent) = (Vec::new(), None, 0);
        while let Some((node, word)) = words.next().await {
            match word {
                Word::Shows => shown_by.push(self.provider.host(node)),
                Word::Absent => absent += 1,
                Word::Denies | Word::Lacks | Word::Unknown => {}
            }
            if matches!(word, Word::Absent | Word::Denies) {
                denied_by = Some(self.provider.host(node));
            }
            if shown_by.len() >= 2 {
                return Witnessed::ByTwo;
            }
        }
        match denied_by {
            Some(_) if shown_by.is_empty() && absent >= 2 => Witnessed::Nowhere,
            Some(denied_by) => Witnessed::Disputed { shown_by, denied_by },
            None if shown_by.is_empty() => Witnessed::ByNobody,
            None if alone => Witnessed::NobodyElse,
            None => Witnessed::ByOne,
        }
    }

    /// Its last word until then; one that denies may take a moment longer to say so again.
    async fn word_of(
        &self,
        node: NodeId,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
        until: Instant,
    ) -> (NodeId, Word) {
        let one = self.only(node);
        let look = |until| one.look(node, request, (block, fresh), until);
        let latest = until + REACHES_WITHIN.saturating_sub(PATIENCE);
        let mut limit = until;
        loop {
            match look(limit).await {
                Word::Shows => return (node, Word::Shows),
                Word::Absent | Word::Denies => {
                    sleep(DENIED_AGAIN_AFTER).await;
                    // Silence after that takes nothing back.
                    let again = look(Instant::now() + SECOND_LOOK).await;
                    let silent = matches!(again, Word::Lacks | Word::Unknown);
                    return (node, if silent { Word::Denies } else { again });
                }
                Word::Lacks if self.provider.goes_on(node) => {
                    limit = latest;
                    if Instant::now() + AGAIN_AFTER >= latest {
                        return (node, Word::Denies);
                    }
                    sleep(AGAIN_AFTER).await;
                }
                Word::Lacks | Word::Unknown if Instant::now() + AGAIN_AFTER >= until => {
                    return (node, Word::Unknown);
                }
                Word::Lacks | Word::Unknown => sleep(AGAIN_AFTER).await,
            }
        }
    }

    /// One look of one node, until then.
    async fn look(
        &self,
        node: NodeId,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
        until: Instant,
    ) -> Word {
        let key = request.key;
        let told = self.memory.of(block.hash, node);
        let asking = async {
            let mut told = told.lock().await;
            if !told.as_ref().is_some_and(|told| told.answers(&key, fresh)) {
                let shown = self.requests(LogRange::Block(block.hash)).await;
                let shown = shown.ok().map(|shown| keys(&shown.answer));
                *told = Some(Told { at: Instant::now(), shown, here: None });
            }
            told.as_ref()?.shown.as_ref().map(|shown| shown.contains(&key))
        };
        let shown = timeout_at(until, asking).await.ok().flatten();
        if shown == Some(true) {
            return Word::Shows;
        }
        let asking = async {
            let mut told = told.lock().await;
            if let Some(here) = told.as_ref().and_then(|told| told.here) {
                return here;
            }
            let here = self.provider.header(At::Number(block.number)).await;
            let here = here.map(|head| head.map(|head| head.block)).map_err(|_| ());
            if let Some(told) = told.as_mut() {
                told.here = Some(here);
            }
            here
        };
        match timeout_at(until, asking).await.unwrap_or(Err(())) {
            Ok(Some(here)) if here.hash != block.hash => Word::Denies,
            Ok(Some(_)) => {
                let looking = self.by_receipt(key, request.transaction, block);
                match (timeout_at(until, looking).await.unwrap_or(None), shown.is_some()) {
                    (Some(true), _) => Word::Shows,
                    (Some(false), true) => Word::Absent,
                    (None, true) => Word::Denies,
                    (_, false) => Word::Unknown,
                }
            }
            Ok(None) => Word::Lacks,
            Err(()) if shown.is_some() => Word::Denies,
            Err(()) => Word::Unknown,
        }
    }

    /// It has the block, and does not show the event by its index of logs; `None`: no answer.
    async fn by_receipt(
        &self,
        key: RequestKey,
        transaction: B256,
        block: BlockRef,
    ) -> Option<bool> {
        let is_it = |emitted: &Emitted| {
            emitted.address == self.address()
                && emitted.event.block.hash == block.hash
                && abi::decode(&emitted.event).is_ok_and(|request| request.key == key)
        };
        let emitted = self.provider.emitted_by(transaction).await.ok()?;
        Some(emitted.is_some_and(|emitted| emitted.iter().any(is_it)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fake_chain::{FakeChain, Lies, request_event};

    /// A block with requests 1 and 2, told by two nodes.
    fn ground() -> (FakeChain, DecryptionAdapter<FakeChain>, [Request; 2]) {
        let chain = FakeChain::new(10);
        chain.node().lies.push(Lies::default());
        chain.mine(vec![request_event(1), request_event(2)]);
        let block = chain.block(11);
        let request = |id| abi::decode(&Event { block, ..request_event(id) }).unwrap();
        let adapter = DecryptionAdapter::new(chain.clone());
        (chain, adapter, [request(1), request(2)])
    }

    async fn ask(adapter: &DecryptionAdapter<FakeChain>, request: &Request) -> Witnessed {
        adapter.witnessed(request, request.block, false).await
    }

    #[tokio::test(start_paused = true)]
    async fn b5_two_nodes_that_show_it_are_enough_and_asked_once_for_a_block() {
        let (chain, adapter, [first, second]) = ground();
        let begun = Instant::now();
        let both = tokio::join!(ask(&adapter, &first), ask(&adapter, &second));
        assert_eq!(both, (Witnessed::ByTwo, Witnessed::ByTwo));
        assert_eq!((chain.calls("logs"), begun.elapsed()), (2, Duration::ZERO));
        chain.node().lies.pop();
        assert_eq!(ask(&adapter, &first).await, Witnessed::NobodyElse);
        assert_eq!(chain.calls("logs"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn b5_a_log_that_another_node_does_not_have_is_disputed() {
        let (chain, adapter, _) = ground();
        let forged = Event { block: chain.block(11), ..request_event(3) };
        chain.node().lies[0].forges.push(forged.clone());
        let request = abi::decode(&forged).unwrap();
        let disputed = Witnessed::Disputed {
            shown_by: vec!["node-0".to_owned()],
            denied_by: "node-1".to_owned(),
        };
        assert_eq!(ask(&adapter, &request).await, disputed);
        // The same event of a block that nobody else has.
        let hash = B256::repeat_byte(7);
        let elsewhere = BlockRef { hash, ..request.block };
        let denied = adapter.witnessed(&request, elsewhere, false).await;
        assert!(matches!(denied, Witnessed::Disputed { .. }), "{denied:?}");
        // It was real, and came late.
        chain.node().lies[1].forges.push(forged);
        assert_eq!(ask(&adapter, &request).await, Witnessed::ByTwo);
    }

    /// The node that denies them answers in time, and had to answer for each by itself.
    #[tokio::test(start_paused = true)]
    async fn b5_many_forged_logs_of_a_block_are_denied_by_one_answer() {
        let (chain, adapter, _) = ground();
        chain.node().lies[1].slow_logs = Duration::from_millis(1_100);
        let forged = [3, 4].map(|id| Event { block: chain.block(11), ..request_event(id) });
        chain.node().lies[0].forges.extend(forged.clone());
        let [third, fourth] = forged.map(|event| abi::decode(&event).unwrap());
        let (third, fourth) = tokio::join!(ask(&adapter, &third), ask(&adapter, &fourth));
        assert!(matches!(third, Witnessed::Disputed { .. }), "{third:?}");
        assert!(matches!(fourth, Witnessed::Disputed { .. }), "{fourth:?}");
        assert_eq!(chain.calls("logs"), 3, "one by who forged them, and two looks");
    }

    /// A flood makes a node refuse what it is asked: it has said already that they are not there.
    #[tokio::test(start_paused = true)]
    async fn b5_who_falls_silent_has_not_taken_its_denial_back() {
        let (chain, adapter, _) = ground();
        let forged = Event { block: chain.block(11), ..request_event(3) };
        chain.node().lies[0].forges.push(forged.clone());
        let request = abi::decode(&forged).unwrap();
        let silence = async {
            sleep(DENIED_AGAIN_AFTER / 2).await;
            chain.node().lies[1].mute = true;
        };
        let (denied, ()) = tokio::join!(ask(&adapter, &request), silence);
        assert!(matches!(denied, Witnessed::Disputed { .. }), "{denied:?}");
    }

    /// A liar puts blocks on top of the chain. Or they are real, and the other one is a little late.
    #[tokio::test(start_paused = true)]
    async fn b5_a_block_that_a_node_which_goes_on_has_not_reached_is_waited_for() {
        let (chain, adapter, [first, second]) = ground();
        chain.node().lies[1] = Lies { goes_on: true, lags_from: Some(11), ..Lies::default() };
        let begun = Instant::now();
        let denied = ask(&adapter, &first).await;
        assert!(matches!(denied, Witnessed::Disputed { .. }), "{denied:?}");
        assert!(begun.elapsed() <= REACHES_WITHIN, "{:?}", begun.elapsed());
        let reaching = async {
            sleep(PATIENCE + Duration::from_secs(1)).await;
            chain.node().lies[1].lags_from = None;
        };
        let (witnessed, ()) = tokio::join!(ask(&adapter, &second), reaching);
        assert_eq!(witnessed, Witnessed::ByTwo);
        // It does not go on any more: the others are not waited for either.
        chain.node().lies[1] = Lies { goes_on: true, lags_from: Some(11), ..Lies::default() };
        sleep(FRESH).await;
        let (begun, standing_still) = (Instant::now(), async {
            sleep(PATIENCE / 2).await;
            chain.node().lies[1].goes_on = false;
        });
        let (witnessed, ()) = tokio::join!(ask(&adapter, &first), standing_still);
        assert_eq!(witnessed, Witnessed::ByOne);
        assert!(begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
    }

    /// The operator took the liar out, or it is honest now: what it forged stands in the journal.
    #[tokio::test(start_paused = true)]
    async fn b5_what_a_node_forged_that_is_gone_is_not_believed_either() {
        let (chain, adapter, [first, _]) = ground();
        let request = abi::decode(&Event { block: first.block, ..request_event(3) }).unwrap();
        assert_eq!(ask(&adapter, &request).await, Witnessed::Nowhere);
        chain.node().lies.pop();
        let again = async |request: &Request| adapter.witnessed(request, request.block, true).await;
        assert!(matches!(again(&request).await, Witnessed::Disputed { .. }), "one does not end it");
        assert_eq!(again(&first).await, Witnessed::NobodyElse);
        sleep(ABSENT_FOR).await;
        chain.node().lies[0].mute = true;
        assert_eq!(again(&request).await, Witnessed::ByNobody);
    }

    /// Real nodes have broken indices for hours.
    #[tokio::test(start_paused = true)]
    async fn b5_a_node_without_an_index_of_logs_is_a_witness_by_its_receipts() {
        let (chain, adapter, [first, _]) = ground();
        chain.node().lies[1].blind = true;
        assert_eq!(ask(&adapter, &first).await, Witnessed::ByTwo);
    }

    #[tokio::test(start_paused = true)]
    async fn b5_a_node_that_is_behind_or_down_delays_by_two_seconds_at_most() {
        for down in [true, false] {
            let (chain, adapter, [first, second]) = ground();
            chain.node().lies[1].mute = down;
            chain.node().lies[1].lags_from = Some(11);
            let begun = Instant::now();
            assert_eq!(ask(&adapter, &first).await, Witnessed::ByOne);
            assert!(begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
            let (begun, catching_up) = (Instant::now(), async {
                sleep(Duration::from_millis(600)).await;
                chain.node().lies[1] = Lies::default();
            });
            let (witnessed, ()) = tokio::join!(ask(&adapter, &second), catching_up);
            assert_eq!(witnessed, Witnessed::ByTwo);
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        }
    }
}
