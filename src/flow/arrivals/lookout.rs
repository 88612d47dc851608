//! What the contract itself says of the requests that were read: whether it knows ids that nobody has
//! shown ([`super::ids`]), and which requests others have answered ([`super::consensus`]).
//!
//! ```text
//! ids: a hole, or an id that only the contract knows --> suspects: read again at every sound node
//!  ^                                                \--> told: log, status, metric
//!  \-- is the id after the last one known requested? (eth_call, every 30 s)
//! consensus logs --> not answered within a minute? --> told
//! ```
//!
//! A task of its own beside the reading: nothing waits for it, and it needs no log index. It asks the
//! node that is read from and the others by turns.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

pub use super::consensus::Unanswered;
use super::{
    consensus::Consensus,
    gap::NEAR,
    ids::{Missing, SharedIds},
    pages::Pages,
    suspects::Suspects,
};
use crate::{
    domain::{Address, BlockRef, LedgerError, ShownId},
    flow::ledger::{Answered, RequestLedger},
    gateway::{
        abi::{self, Counter, HIGHEST_COUNT},
        decryption::{DecryptionAdapter, Question, Requested},
        provider::{At, ChainReader, NodeId, RpcError},
    },
    metrics::Metrics,
    repeats::Repeats,
};

/// How often holes are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the contract is asked.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// A contract that tells nothing may be upgraded.
const ASK_AGAIN_AFTER: Duration = Duration::from_mins(10);
/// How far above the last one known the contract's last id is looked for.
const FARTHEST: u64 = 1 << 20;
/// So often it is asked where a counter stood when reading began. That block's state may be gone.
const MOST_TRIES: u32 = 10;
/// Ranges of blocks read for consensus at a time.
const PAGES: usize = 4;
/// Requests that nobody has shown and others have answered, asked about at a time.
const MOST_BEYOND: usize = 16;
/// What is farther back is not read for consensus.
const FAR_BACK: u64 = 10_000;

/// What an operator should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Requests that nobody shows.
    pub hidden: Vec<Missing>,
    /// Requests that others have answered.
    pub unanswered: Option<Unanswered>,
}

/// The task.
#[derive(Debug)]
pub struct Lookout<P, L> {
    pub adapter: DecryptionAdapter<P>,
    pub ledger: L,
    pub ids: SharedIds,
    pub suspects: Suspects,
    /// The cursor, as it moves.
    pub progress: watch::Receiver<Option<BlockRef>>,
    /// Absent where only observed: then it is nobody's to answer.
    pub wallet: Option<Address>,
    pub sight: watch::Sender<Sight>,
    pub metrics: Metrics,
}

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
struct Memory {
    asked: Option<Instant>,
    /// Counts the rounds of questions.
    turn: usize,
    question: Telling,
    /// How often the beginning of a counter was looked for in vain.
    begun: BTreeMap<Counter, u32>,
    consensus: Consensus,
    pages: Pages,
    /// Up to this block consensus was looked for.
    looked: Option<u64>,
    repeats: Repeats,
}

/// Whether the contract tells which ids it knows.
#[derive(Clone, Copy, Debug, Default)]
enum Telling {
    #[default]
    NotAsked,
    By(Question),
    Nothing {
        asked: Instant,
    },
}

impl<P: ChainReader, L: RequestLedger> Lookout<P, L> {
    /// Looks until it is dropped. Fails only when the journal does.
    pub async fn run(self) -> Result<std::convert::Infallible, LedgerError> {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut memory = Memory::default();
        loop {
            tick.tick().await;
            let Some(cursor) = *self.progress.borrow() else { continue };
            if memory.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
                memory.asked = Some(Instant::now());
                self.ask(cursor, &mut memory).await?;
            }
            self.forget_the_gone().await?;
            self.look_at_holes(cursor, &mut memory).await;
            let hidden = self.ids.lock().missing(cursor.number, Instant::now());
            self.metrics.hidden_requests(hidden.iter().map(Missing::count).sum());
            let sight = Sight { hidden, unanswered: memory.consensus.unanswered() };
            self.sight.send_if_modified(|current| {
                let changed = *current != sight;
                *current = sight;
                changed
            });
        }
    }

    /// The id of a request that was never there, or has left the chain, is not known any more, unless
    /// another request has it now.
    async fn forget_the_gone(&self) -> Result<(), LedgerError> {
        for (key, block) in self.suspects.gone() {
            let others = self.ledger.namesakes(key).await?;
            let answered = self.ledger.answered(vec![key.id]).await?;
            if others.is_empty() && !answered.contains(&Answered::Yes) {
                self.ids.lock().lost(key.id, block.number, Instant::now());
            }
        }
        Ok(())
    }

    /// Tells of holes, and has their blocks read again.
    async fn look_at_holes(&self, cursor: BlockRef, memory: &mut Memory) {
        let due = self.ids.lock().due(cursor.number, Instant::now());
        for (missing, news) in due {
            if self.is_denied(&missing, memory).await {
                continue;
            }
            let Missing { counter, first, last, from, to, .. } = missing;
            if news {
                let (first, last) = (counter.id(first), counter.id(last));
                warn!(
                    kind = counter.as_str(),
                    first = %ShownId(first),
                    last = %ShownId(last),
                    requests = missing.count(),
                    from,
                    to,
                    "requests are hidden: no node shows their events"
                );
            }
            self.suspects.read_everywhere(from, to);
        }
    }

    /// Whether the contract does not know the id that proves the hole: then whoever showed that
    /// lied, or it has left the chain.
    async fn is_denied(&self, missing: &Missing, memory: &mut Memory) -> bool {
        let (Some(above), Telling::By(question)) = (missing.above, memory.question) else {
            return false;
        };
        let nodes = self.adapter.provider().sound_nodes();
        for node in &nodes {
            let adapter = self.adapter.only(*node);
            let head = match adapter.provider().header(At::Latest).await {
                Ok(Some(head)) if head.block.number >= missing.to => At::Hash(head.block.hash),
                // It cannot know.
                Ok(_) | Err(_) => return false,
            };
            let said = adapter.is_requested(question, missing.counter, above, head).await;
            if !matches!(said, Ok(Requested::No)) {
                return false;
            }
        }
        if nodes.is_empty() {
            return false;
        }
        let id = ShownId(missing.counter.id(above)).to_string();
        if let Some(times) = memory.repeats.heard("id_denied", Instant::now()) {
            warn!(
                id,
                block = missing.to,
                times,
                "the contract does not know a request that was shown: its id is not believed"
            );
        }
        self.ids.lock().forget(missing.counter, above);
        true
    }

    /// Asks the contract for what was not shown.
    async fn ask(&self, cursor: BlockRef, memory: &mut Memory) -> Result<(), LedgerError> {
        let Some(node) = self.whom(memory.turn) else { return Ok(()) };
        memory.turn = memory.turn.wrapping_add(1);
        let adapter = self.adapter.only(node);
        let head = self.adapter.provider().heads().borrow().map(|head| head.block.number);
        // Before that the reading itself is on its way there.
        if head.is_some_and(|head| head.saturating_sub(cursor.number) <= NEAR)
            && let Err(error) = self.ask_for_ids(&adapter, cursor, memory).await
        {
            debug!(%error, "could not ask the contract which ids it knows");
        }
        if self.wallet.is_some() {
            if let Err(error) = self.read_consensus(node, cursor, memory).await {
                debug!(%error, "could not read what others have answered");
            }
            self.judge(memory).await?;
        }
        Ok(())
    }

    /// The node that is read from, and each other one, by turns.
    fn whom(&self, turn: usize) -> Option<NodeId> {
        let nodes = self.adapter.provider().sound_nodes();
        let (first, others) = nodes.split_first()?;
        if turn.is_multiple_of(2) || others.is_empty() {
            return Some(*first);
        }
        others.get(turn / 2 % others.len()).copied()
    }

    async fn ask_for_ids(
        &self,
        adapter: &DecryptionAdapter<P>,
        cursor: BlockRef,
        memory: &mut Memory,
    ) -> Result<(), RpcError> {
        let question = match memory.question {
            Telling::By(question) => question,
            Telling::Nothing { asked } if asked.elapsed() < ASK_AGAIN_AFTER => return Ok(()),
            before @ (Telling::NotAsked | Telling::Nothing { .. }) => {
                let found = adapter.question(self.wallet).await?;
                let Some(question) = found else {
                    if matches!(before, Telling::NotAsked) {
                        info!(
                            "the contract does not tell which ids it knows: a hidden request shows \
                             by the next one only"
                        );
                    }
                    memory.question = Telling::Nothing { asked: Instant::now() };
                    return Ok(());
                };
                memory.question = Telling::By(question);
                question
            }
        };
        self.find_beginnings(adapter, question, cursor, memory).await?;
        let known = self.ids.lock().last_known();
        for (counter, last) in known {
            self.ask_beyond(adapter, question, cursor, (counter, last), memory).await?;
        }
        Ok(())
    }

    /// Where the counters stood when reading began, as far as that is not known: what was asked for
    /// since then, and is below the first one that was shown, is hidden.
    async fn find_beginnings(
        &self,
        adapter: &DecryptionAdapter<P>,
        question: Question,
        cursor: BlockRef,
        memory: &mut Memory,
    ) -> Result<(), RpcError> {
        let (open, origin) = {
            let ids = self.ids.lock();
            (ids.without_beginning(), ids.origin())
        };
        let Some(origin) = origin else { return Ok(()) };
        for (counter, first) in open {
            let tries = memory.begun.entry(counter).or_default();
            if *tries >= MOST_TRIES {
                continue;
            }
            *tries += 1;
            let found = match beginning(adapter, question, counter, first, origin).await {
                Ok(count) => count.map(|count| (count, origin)),
                // The state of that block is gone, or the node does not have it yet.
                Err(error @ RpcError::Refused { .. }) => {
                    debug!(%error, counter = counter.as_str(), "where the ids began is not known");
                    let now = adapter.is_requested(question, counter, 1, At::Latest).await?;
                    match (now, first) {
                        (Requested::No, _) => Some((0, origin)),
                        // Nothing was shown up to the cursor: what is hidden below stays so.
                        (Requested::Yes, None) if *tries >= MOST_TRIES => {
                            let at = At::Hash(cursor.hash);
                            let count = count_at(adapter, question, counter, 0, at).await?;
                            count.map(|count| (count, cursor.number))
                        }
                        (Requested::Yes | Requested::Untold, _) => None,
                    }
                }
                Err(error) => return Err(error),
            };
            if let Some((count, block)) = found {
                self.ids.lock().begins(counter, count, block, Instant::now());
            }
        }
        Ok(())
    }

    /// Whether there is an id above the last one known.
    async fn ask_beyond(
        &self,
        adapter: &DecryptionAdapter<P>,
        question: Question,
        cursor: BlockRef,
        (counter, last): (Counter, u64),
        memory: &mut Memory,
    ) -> Result<(), RpcError> {
        // At the cursor: up to there all was read.
        let at = At::Hash(cursor.hash);
        let (said, at) = match adapter.is_requested(question, counter, last + 1, at).await {
            Ok(said) => (said, at),
            // It does not have that block, or its state no more.
            Err(RpcError::Refused { .. }) => {
                let said = adapter.is_requested(question, counter, last + 1, At::Latest).await?;
                (said, At::Latest)
            }
            Err(error) => return Err(error),
        };
        match said {
            Requested::No if at == At::Latest => {}
            Requested::No => self.ids.lock().ends(counter, last, cursor.number),
            Requested::Untold => memory.question = Telling::NotAsked,
            Requested::Yes => {
                if !adapter.denies_the_impossible(question, at).await? {
                    memory.question = Telling::NotAsked;
                    return Ok(());
                }
                let Some(count) = count_at(adapter, question, counter, last, at).await? else {
                    return Ok(());
                };
                let block = match at {
                    At::Latest => {
                        let head = adapter.provider().header(At::Latest).await?;
                        head.map_or(cursor.number, |head| head.block.number)
                    }
                    At::Safe | At::Finalized | At::Number(_) | At::Hash(_) => cursor.number,
                };
                self.ids.lock().exists(counter, count, block, Instant::now());
            }
        }
        Ok(())
    }

    /// Hears of consensus in the blocks that were read since the last time.
    async fn read_consensus(
        &self,
        node: NodeId,
        cursor: BlockRef,
        memory: &mut Memory,
    ) -> Result<(), RpcError> {
        let adapter = self.adapter.only(node);
        let mut beyond = Vec::new();
        let looked = memory.looked.unwrap_or(cursor.number);
        let mut looked = looked.max(cursor.number.saturating_sub(FAR_BACK)).min(cursor.number);
        memory.looked = Some(looked);
        for _ in 0..PAGES {
            if looked >= cursor.number {
                break;
            }
            let (from, to) = memory.pages.page(node, looked + 1, cursor.number);
            let events = match adapter.consensus(from, to).await {
                Ok(events) => events,
                Err(error) => {
                    if memory.pages.failed(node, (from, to), &error, Instant::now()) {
                        continue;
                    }
                    return Err(error);
                }
            };
            memory.pages.worked(node, (from, to), Instant::now());
            let ids = self.ids.lock();
            for event in &events {
                let Some(id) = abi::answered_id(event) else { continue };
                let Some((counter, number)) = Counter::of(id) else { continue };
                if !ids.is_ours(counter, number) {
                    continue;
                }
                memory.consensus.heard(id, event.block.number, Instant::now());
                if !ids.is_known(counter, number) && beyond.len() < MOST_BEYOND {
                    beyond.push((counter, number, event.block.number));
                }
            }
            drop(ids);
            looked = to;
            memory.looked = Some(looked);
        }
        for (counter, number, block) in beyond {
            // A log may be a lie; the contract's own word is better.
            let denied = match memory.question {
                Telling::By(question) => {
                    let at = At::Hash(cursor.hash);
                    let said = adapter.is_requested(question, counter, number, at).await;
                    matches!(said, Ok(Requested::No))
                }
                Telling::NotAsked | Telling::Nothing { .. } => false,
            };
            if !denied {
                self.ids.lock().exists(counter, number, block, Instant::now());
            }
        }
        Ok(())
    }

    /// Which of the requests that others have answered were answered here.
    async fn judge(&self, memory: &mut Memory) -> Result<(), LedgerError> {
        let due = memory.consensus.due(Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        let answered = self.ledger.answered(due.clone()).await?;
        let mut more = 0;
        for (id, answered) in due.into_iter().zip(answered) {
            let hidden = Counter::of(id)
                .is_some_and(|(counter, number)| !self.ids.lock().is_known(counter, number));
            more += u64::from(memory.consensus.judge(id, answered, hidden));
        }
        self.metrics.consensus_without_us(more);
        if more > 0
            && let Some(Unanswered { requests, id, block, .. }) = memory.consensus.unanswered()
            && let Some(times) = memory.repeats.heard("answered_without_us", Instant::now())
        {
            let id = ShownId(id).to_string();
            warn!(
                requests,
                id, block, times, "others have answered requests that this node has not"
            );
        }
        Ok(())
    }
}

/// How far a counter had counted at the block `origin`. `first`: the first of its ids that was shown,
/// and in which block. `None`: not told.
async fn beginning<P: ChainReader>(
    adapter: &DecryptionAdapter<P>,
    question: Question,
    counter: Counter,
    first: Option<(u64, u64)>,
    origin: u64,
) -> Result<Option<u64>, RpcError> {
    let at = At::Number(origin);
    let Some((below, block)) = first.map(|(first, block)| (first.saturating_sub(1), block)) else {
        return count_at(adapter, question, counter, 0, at).await;
    };
    if below == 0 {
        return Ok(Some(0));
    }
    match adapter.is_requested(question, counter, below, at).await? {
        Requested::Yes => return Ok(Some(below)),
        Requested::No => {}
        Requested::Untold => return Ok(None),
    }
    // One that counts from somewhere since an upgrade has none below.
    match adapter.is_requested(question, counter, below, At::Number(block)).await? {
        Requested::Yes => count_at(adapter, question, counter, 0, at).await,
        Requested::No => Ok(Some(below)),
        Requested::Untold => Ok(None),
    }
}

/// How far a counter has counted at that block, from a number on that it has reached. `None`: not told,
/// or too far to be true.
async fn count_at<P: ChainReader>(
    adapter: &DecryptionAdapter<P>,
    question: Question,
    counter: Counter,
    reached: u64,
    at: At,
) -> Result<Option<u64>, RpcError> {
    let farthest = if reached == 0 { HIGHEST_COUNT / 2 } else { FARTHEST };
    let (mut low, mut step) = (reached, 1);
    // Up in ever larger steps, then the middle between what is and what is not.
    let mut high = loop {
        let number = reached + step;
        match adapter.is_requested(question, counter, number, at).await? {
            Requested::Yes => low = number,
            Requested::No => break number,
            Requested::Untold => return Ok(None),
        }
        step *= 2;
        if step > farthest {
            // More than enough to look for.
            return Ok((reached > 0).then_some(low));
        }
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match adapter.is_requested(question, counter, middle, at).await? {
            Requested::Yes => low = middle,
            Requested::No => high = middle,
            Requested::Untold => return Ok(None),
        }
    }
    Ok(Some(low))
}

#[cfg(test)]
mod tests;
