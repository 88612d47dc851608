//! Whether the nodes agree that a request is on chain. One node that lies could have anything decrypted:
//! before the Core is asked, two nodes have to show the event, if there are two.
//!
//! ```text
//! node shows the event in its block -----------------------------------> a witness
//! node has the block without the event, or another block there, twice --> it denies
//! node does not know the block, or does not answer -> asked again until the patience is over
//! node advances and does not reach the block -> waited for a little longer, then it denies
//! node denied it minutes ago and does not answer now -> it denies
//! ```
//!
//! That a block does not contain an event is certain only by the block's own list of transactions, or by
//! the receipt of the event's transaction: log and receipt indices may be late or broken. Only a certain
//! denial ends a request ([`Witnessed::Nowhere`]).
//!
//! A node advances ([`crate::gateway::provider::choice`]) if it delivers blocks that are recent by their
//! own timestamps. A block that it does not reach may be one that a lying node put on top of the chain.
//! On a chain without new blocks no node advances, and a node that is behind cannot be told from a
//! correct one.
//!
//! It does not matter which node reported the request first: two nodes that show it are two witnesses.
//!
//! An attacker who forges one log may forge thousands in a block. So all requests of a block share a
//! node's answers about it, and a node cannot be made late by many questions. Cutting a node off for a
//! moment gains nothing either: one that was lost just now is waited for.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex as Lock, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Agreed, DecryptionAdapter, Ending};
use crate::{
    domain::{B256, BlockRef, Event, Request, RequestKey, Source},
    gateway::{
        abi,
        provider::{At, ChainReader, LogRange, NodeId},
    },
    lately::Lately,
};

/// How long to wait for a second node that is behind or does not answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for a node that advances and does not have the block: by its own timestamps it is
/// not further behind.
const REACHES_WITHIN: Duration = Duration::from_secs(6);
/// Pause between two questions to a node that does not know the block.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Pause before a denying node is asked again: it may be in a reorganisation.
const DENIED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Deadline of the second answer of a denying node.
const SECOND_LOOK: Duration = Duration::from_secs(5);
/// If the logs of a block take longer, its transactions are asked for instead.
const LOGS_WITHIN: Duration = Duration::from_secs(1);
/// How long a node counts as slow after that, and its shorter deadline for logs meanwhile.
const SLOW_FOR: Duration = Duration::from_mins(1);
const LOGS_OF_SLOW_WITHIN: Duration = Duration::from_millis(200);
/// After the second of two nodes was lost, or the process started, it is waited for during this time.
const LATELY: Duration = Duration::from_secs(30);
/// How long a denial counts if its node does not answer.
const DENIED_FOR: Duration = Duration::from_mins(10);
/// Denials remembered.
const DENIALS: usize = 8192;
/// Receipts of a block remembered per node.
const RECEIPTS: usize = 64;
/// Nodes asked about one request at a time.
const ASKED: usize = 3;
/// Number of (block, node) pairs whose answers are remembered.
const REMEMBERED: usize = 256;
/// How long a positive answer is reused: the node may change it.
const FRESH: Duration = Duration::from_secs(10);
/// How long a negative answer is reused: shorter than the pause before a denial is confirmed.
const ABSENT_FOR: Duration = Duration::from_millis(500);

/// What the nodes say of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witnessed {
    /// There is only one node, and nothing contradicts it.
    NobodyElse,
    ByTwo,
    /// The other nodes are behind or do not answer.
    ByOne,
    /// All nodes are behind or do not answer.
    ByNobody,
    /// A node has the block without the event, or another block there, and confirmed it.
    Disputed {
        /// Hosts.
        shown_by: Vec<String>,
        denied_by: String,
    },
    /// At least two nodes have this very block, none of them the event in it, and no node may know
    /// better: the request never existed.
    Nowhere,
}

/// One node's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Shows,
    /// Certain: the block has no such event.
    Absent,
    /// Another block has that height, or the block's logs have no such event and nothing makes it
    /// certain.
    Denies,
    /// It has no block of that height.
    Lacks,
    /// It is behind or does not answer.
    Unknown,
}

/// A node's answer about a block.
#[derive(Debug)]
struct Told {
    at: Instant,
    /// Requests in its logs. `None`: no answer.
    shown: Option<HashSet<RequestKey>>,
    /// The block at that height, once asked: a block, none, or no answer.
    here: Option<Result<Option<BlockRef>, ()>>,
}

impl Told {
    /// Whether the answer can be reused for this request. `fresh`: lifetime of a positive answer.
    fn answers(&self, key: &RequestKey, fresh: Duration) -> bool {
        let lasts = match (&self.shown, self.here) {
            (Some(shown), _) if shown.contains(key) => fresh,
            (Some(_), None | Some(Ok(Some(_)))) => ABSENT_FOR,
            (None, _) | (Some(_), Some(Ok(None) | Err(()))) => AGAIN_AFTER,
        };
        self.at.elapsed() < lasts.min(fresh)
    }
}

/// What is known of a block from one node.
#[derive(Debug, Default)]
struct OfBlock {
    told: Option<Told>,
    /// All transactions of the block with this hash; they never change.
    transactions: Option<HashSet<B256>>,
    /// Requests in their receipts.
    emitted: HashMap<B256, HashSet<RequestKey>>,
}

impl OfBlock {
    fn lacks(&self, transaction: &B256) -> bool {
        self.transactions.as_ref().is_some_and(|all| !all.contains(transaction))
    }
}

/// Locked while the node is asked: others that need the same block wait for this answer.
type Shared = Arc<Mutex<OfBlock>>;

/// Answers of nodes about recent blocks and requests.
#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Lock<Remembered>>);

#[derive(Debug)]
struct Remembered {
    blocks: Lately<(B256, NodeId), Shared>,
    /// The host that denied a request.
    denials: Lately<RequestKey, String>,
    /// Nodes that took too long for logs.
    slow: Lately<NodeId, ()>,
    /// When there last was more than one sound node; initially the start.
    two_at: Instant,
}

impl Default for Memory {
    fn default() -> Self {
        let blocks = Lately::new(REMEMBERED, Duration::MAX);
        let (denials, two_at) = (Lately::new(DENIALS, DENIED_FOR), Instant::now());
        let slow = Lately::new(REMEMBERED, SLOW_FOR);
        Self(Arc::new(Lock::new(Remembered { blocks, denials, slow, two_at })))
    }
}

impl Memory {
    fn of(&self, block: B256, node: NodeId) -> Shared {
        self.open().blocks.say((block, node), Instant::now(), Shared::default).clone()
    }

    /// Records the number of sound nodes. Returns whether another one was lost just now and may come
    /// back.
    fn is_lately_one(&self, sound: usize) -> bool {
        let mut known = self.open();
        if sound > 1 {
            known.two_at = Instant::now();
        }
        sound < 2 && known.two_at.elapsed() < LATELY
    }

    fn denied(&self, key: RequestKey, by: &str) {
        by.clone_into(self.open().denials.say(key, Instant::now(), String::new));
    }

    fn shown_by_two(&self, key: RequestKey) {
        self.open().denials.forget(&key);
    }

    /// The host that denied this request earlier, unless it shows it now.
    fn denier(&self, key: RequestKey, shown_by: &[String]) -> Option<String> {
        let known = self.open();
        known.denials.of(&key, Instant::now()).filter(|by| !shown_by.contains(by)).cloned()
    }

    /// Deadline of a node for the logs of a block, before its transactions are asked for.
    fn logs_within(&self, node: NodeId) -> Duration {
        let is_slow = self.open().slow.of(&node, Instant::now()).is_some();
        if is_slow { LOGS_OF_SLOW_WITHIN } else { LOGS_WITHIN }
    }

    fn was_slow(&self, node: NodeId) {
        self.open().slow.say(node, Instant::now(), || ());
    }

    fn open(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keys(source: Source, events: &[Event]) -> HashSet<RequestKey> {
    events.iter().filter_map(|event| Some(abi::decode(source, event).ok()?.key)).collect()
}

impl<P: ChainReader> DecryptionAdapter<P> {
    /// Asks the sound nodes for a request, which is in `block` now. With a single node only if `again`
    /// (read from the journal): then another node may have reported it.
    pub async fn witnessed(&self, request: &Request, block: BlockRef, again: bool) -> Witnessed {
        if self.provider.node_count() < 2 && !again {
            return Witnessed::NobodyElse;
        }
        self.ask_around(request, block, FRESH).await
    }

    /// The same without reusing earlier answers.
    pub async fn witnessed_anew(&self, request: &Request) -> Witnessed {
        self.ask_around(request, request.block, Duration::ZERO).await
    }

    /// `fresh`: lifetime of a positive answer.
    async fn ask_around(&self, request: &Request, block: BlockRef, fresh: Duration) -> Witnessed {
        let (key, alone) = (request.key, self.provider.node_count() < 2);
        let mut until = Instant::now() + PATIENCE;
        let nodes = self.those_there(until).await;
        let (mut shown_by, mut denied_by, mut absent) = (Vec::new(), None, Vec::new());
        for some in nodes.chunks(ASKED) {
            let words = some.iter().map(|node| self.word_of(*node, request, (block, fresh), until));
            let mut words: FuturesUnordered<_> = words.collect();
            while let Some((node, word)) = words.next().await {
                match word {
                    Word::Shows => shown_by.push(self.provider.host(node)),
                    Word::Absent => absent.push(node),
                    Word::Denies | Word::Lacks | Word::Unknown => {}
                }
                if matches!(word, Word::Absent | Word::Denies) {
                    denied_by = Some(self.provider.host(node));
                }
                if shown_by.len() >= 2 {
                    self.memory.shown_by_two(key);
                    return Witnessed::ByTwo;
                }
            }
            if absent.is_empty() || !shown_by.is_empty() {
                break;
            }
            // The request may end: ask the other nodes, too.
            until = Instant::now() + PATIENCE;
        }
        match &denied_by {
            Some(by) => self.memory.denied(key, by),
            None => denied_by = self.memory.denier(key, &shown_by),
        }
        let never = (Ending::Nowhere, key);
        let never = if shown_by.is_empty() {
            absent.len() >= 2 && self.together(never, Some(&absent)) == Agreed::Yes
        } else {
            self.together(never, None) == Agreed::Yes
        };
        match denied_by {
            Some(_) if never => Witnessed::Nowhere,
            Some(denied_by) => Witnessed::Disputed { shown_by, denied_by },
            None if shown_by.is_empty() => Witnessed::ByNobody,
            None if alone => Witnessed::NobodyElse,
            None => Witnessed::ByOne,
        }
    }

    /// The sound nodes. If only one is left and there were two a moment ago, waits for the other.
    async fn those_there(&self, until: Instant) -> Vec<NodeId> {
        loop {
            let nodes = self.provider.sound_nodes();
            let waits = self.memory.is_lately_one(nodes.len()) && self.provider.node_count() > 1;
            if !waits || Instant::now() + AGAIN_AFTER > until {
                return nodes;
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// A node's last answer before `until`; a denial may take longer to be confirmed.
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
                    // Silence does not take a denial back.
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

    /// One answer of one node, before `until`.
    async fn look(
        &self,
        node: NodeId,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
        until: Instant,
    ) -> Word {
        let of_block = self.memory.of(block.hash, node);
        let looking = async {
            let mut of_block = of_block.lock().await;
            self.look_into(node, &mut of_block, request, (block, fresh)).await
        };
        timeout_at(until, looking).await.unwrap_or(Word::Unknown)
    }

    /// Asks for what is not known of the block yet, as far as needed.
    async fn look_into(
        &self,
        node: NodeId,
        known: &mut OfBlock,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
    ) -> Word {
        let (key, transaction) = (request.key, request.transaction);
        if known.lacks(&transaction) {
            return Word::Absent;
        }
        if !known.told.as_ref().is_some_and(|told| told.answers(&key, fresh)) {
            let within = self.memory.logs_within(node);
            let logs = self.provider.logs(self.filter(), LogRange::Block(block.hash));
            let asking = timeout(within, logs).await;
            if asking.is_err() {
                self.memory.was_slow(node);
            }
            let shown =
                asking.ok().and_then(Result::ok).map(|shown| keys(self.source(), &shown.answer));
            known.told = Some(Told { at: Instant::now(), shown, here: None });
        }
        let Some(told) = known.told.as_mut() else { return Word::Unknown };
        if told.shown.as_ref().is_some_and(|shown| shown.contains(&key)) {
            return Word::Shows;
        }
        let uncertain = if told.shown.is_some() { Word::Denies } else { Word::Unknown };
        let here = if let Some(here) = told.here {
            here
        } else {
            let here = self.provider.header(At::Number(block.number)).await;
            *told.here.insert(here.map(|head| head.map(|head| head.block)).map_err(drop))
        };
        match here {
            Ok(Some(here)) if here.hash != block.hash => return Word::Denies,
            Ok(Some(_)) => {}
            Ok(None) => return Word::Lacks,
            Err(()) => return uncertain,
        }
        if known.transactions.is_none() {
            let told = self.provider.block_transactions(block.hash).await;
            known.transactions = told.ok().flatten().map(HashSet::from_iter);
        }
        if known.lacks(&transaction) {
            return Word::Absent;
        }
        if !known.emitted.contains_key(&transaction)
            && let Some(emitted) = self.emitted_in(transaction, block).await
        {
            if known.emitted.len() >= RECEIPTS {
                known.emitted.clear();
            }
            known.emitted.insert(transaction, emitted);
        }
        match known.emitted.get(&transaction).map(|emitted| emitted.contains(&key)) {
            Some(true) => Word::Shows,
            Some(false) => Word::Absent,
            None => uncertain,
        }
    }

    /// The requests in the receipt of a transaction of this block. `None`: no receipt yet, or of another
    /// block.
    async fn emitted_in(&self, transaction: B256, block: BlockRef) -> Option<HashSet<RequestKey>> {
        let emitted = self.provider.emitted_by(transaction).await.ok()??;
        if emitted.iter().any(|emitted| emitted.event.block.hash != block.hash) {
            return None;
        }
        let own = emitted.iter().filter(|emitted| emitted.address == self.address());
        Some(own.filter_map(|emitted| Some(self.decode(&emitted.event).ok()?.key)).collect())
    }
}

#[cfg(test)]
mod tests;
