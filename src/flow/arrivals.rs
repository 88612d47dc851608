//! Arrivals: head -> gap -> pages -> logs -> source decodes -> `batch{requests, up_to}`.
//!
//! ```text
//! wake-up -> far from the head: ranges    \
//!         -> near the head: block by block -> journal (door a) -> the walk
//! second reading: every block once more   /                  \\-> waits there until final
//! proof: blocks whose logs are in doubt  /
//! ```
//!
//! Three loops in one task: the first reading, which alone stores and moves the cursor, and beside it
//! the second reading and the proof, which hand it what they find. They share
//! [`reading_state::ReadingState`].
//!
//! Invariants:
//!
//! - The stored cursor moves only in the journal transaction that stores the requests it passed; that
//!   transaction also lists the passed blocks whose logs no node could prove complete.
//! - No answer moves the cursor unless the node proved that it knows the block (by its header, or by its
//!   logs by hash).
//! - Every block is read twice, seconds apart, because a node may show its logs late; the second time at
//!   another node if there is one.
//! - A full channel to the walks waits, and never drops.

pub mod source;
pub mod gap;
mod pages;
pub mod blooms;
mod lost_cursor;
mod checkpoints;
mod first_reading;
mod rewind;
mod read_once;
pub mod suspects;
mod second_reading;
pub mod unproven;
mod proof;
pub mod reading_state;
pub mod ids;
pub mod completeness;
mod consensus;
mod decoded;
pub mod backfill;
mod storing;
mod error;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    checkpoints::Checkpoints, error::ReadError, first_reading::ReadBlock, gap::ReadPlan,
    ids::SharedIds, lost_cursor::LostCursor, proof::ProofLoop, reading_state::ReadingState,
    second_reading::SecondReading, source::EventSource, storing::FoundEvents,
    suspects::SuspectBlocks,
};
use super::{
    ledger::{RequestLedger, UnprovenRange},
    walk_queue::WalkSender,
};
use crate::{
    chain::{
        reader::{BlockId, ChainReader as _, Head, RangeLogs},
        rpc_error::RpcError,
    },
    contracts::decryption::DeploymentSupport,
    dice::Dice,
    domain::{B256, BlockRef, LedgerError},
    telemetry::{heartbeat::Heartbeat, log_throttle::LogThrottle, metrics::Metrics},
    time::{backoff::Backoff, clock::Clock},
};

/// So many blocks below a stored cursor may have been read only once: what passes between two second
/// readings on a chain with ten blocks a second, plus a margin.
const READ_ONCE_AT_MOST: u64 = 512;
/// If the chain or the subscription stands still, the head is read at this interval.
const HEAD_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Where reading begins when the journal has no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the head of the first start.
    Latest,
    /// At this block.
    Block(u64),
}

/// Reads the chain: stores request events and sends them to the walks.
#[derive(Debug)]
pub struct Arrivals<S, L> {
    source: S,
    dice: Dice,
    ledger: L,
    walk_sender: WalkSender,
    /// Notified of an upgrade before any request after it is processed.
    support: watch::Sender<DeploymentSupport>,
    /// Upgrades seen, by transaction and log index.
    upgrades: HashSet<(B256, u64)>,
    progress: watch::Sender<Option<BlockRef>>,
    cursor: Option<BlockRef>,
    /// Blocks up to this one are never read.
    began_after: u64,
    /// Consecutive failures, which choose the node that is asked for logs; and the time of the last switch.
    node_turn: usize,
    turn_changed_at: Instant,
    lost_cursor: LostCursor,
    connection: watch::Sender<u64>,
    state: ReadingState,
    suspects: SuspectBlocks,
    ids: SharedIds,
    /// What the other loops find.
    found_events: mpsc::Receiver<FoundEvents>,
    found_events_sender: mpsc::Sender<FoundEvents>,
    /// Blocks read near the head, and some before those.
    recent: BTreeMap<u64, ReadBlock>,
    checkpoints: Checkpoints,
    /// By block and log index.
    damaged: BTreeSet<(u64, u64)>,
    /// Limits logs about faults of nodes.
    log_throttle: LogThrottle,
    /// When a cursor without requests is worth a commit.
    store_at: Instant,
    /// When the head that is being read up to arrived.
    head_seen_at: Instant,
    heart: Heartbeat,
    metrics: Metrics,
}

impl<S: EventSource, L: RequestLedger> Arrivals<S, L> {
    /// `cursor`: the journal's. `began_after`: the number of its first one. `walk_sender` receives new
    /// requests in order.
    pub fn new(
        source: S,
        ledger: L,
        walk_sender: WalkSender,
        support: watch::Sender<DeploymentSupport>,
        cursor: Option<BlockRef>,
        began_after: Option<u64>,
        metrics: Metrics,
    ) -> Self {
        let (found_events_sender, found_events) = mpsc::channel(1);
        // If the start block was on a chain that never existed, it does not bound a rewind.
        let highest = cursor.map_or(u64::MAX, |cursor| cursor.number);
        let began_after = began_after.unwrap_or(0).min(highest);
        let state = ReadingState::new(began_after);
        if let Some(cursor) = cursor {
            let from = cursor.number.saturating_sub(READ_ONCE_AT_MOST);
            state.lock().read_once.record_first_reading(from, cursor.number, None, Instant::now());
        }
        Self {
            source,
            dice: Dice::default(),
            ledger,
            walk_sender,
            support,
            upgrades: HashSet::new(),
            progress: watch::channel(cursor).0,
            cursor,
            began_after,
            node_turn: 0,
            turn_changed_at: Instant::now(),
            lost_cursor: LostCursor::default(),
            connection: watch::channel(0).0,
            state,
            suspects: SuspectBlocks::default(),
            ids: SharedIds::default(),
            found_events,
            found_events_sender,
            recent: BTreeMap::new(),
            checkpoints: Checkpoints::default(),
            damaged: BTreeSet::new(),
            log_throttle: LogThrottle::default(),
            store_at: Instant::now(),
            head_seen_at: Instant::now(),
            heart: Heartbeat::default(),
            metrics,
        }
    }

    /// Continues where an earlier run stopped: with its unproven blocks, and the block up to which all were
    /// read twice.
    #[must_use]
    pub fn resuming(self, unproven: Vec<UnprovenRange>, read_twice: Option<u64>) -> Self {
        {
            let mut notes = self.state.lock();
            notes.unproven = unproven::UnprovenList::from_stored(unproven);
            if let (Some(cursor), Some(twice)) = (self.cursor, read_twice) {
                notes.read_once = read_once::ReadOnceBlocks::default();
                notes.read_once.record_first_reading(
                    twice + 1,
                    cursor.number,
                    None,
                    Instant::now(),
                );
            }
        }
        self
    }

    /// Uses this set of suspected blocks, which are read again.
    #[must_use]
    pub fn with_suspects(mut self, suspects: SuspectBlocks) -> Self {
        self.suspects = suspects;
        self
    }

    /// Uses this set of known ids, to which ids that are read are added; stored with each batch.
    #[must_use]
    pub fn with_ids(mut self, ids: SharedIds) -> Self {
        if self.cursor.is_some() {
            ids.lock().set_origin(self.began_after);
        }
        self.ids = ids;
        self
    }

    /// Uses this clock and these dice.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock, dice: Dice) -> Self {
        self.state = self.state.with_clock(clock);
        self.dice = dice;
        self
    }

    /// The cursor as it moves.
    pub fn progress(&self) -> watch::Receiver<Option<BlockRef>> {
        self.progress.subscribe()
    }

    /// The set to which blocks are added that may hide a request.
    pub fn suspects(&self) -> SuspectBlocks {
        self.suspects.clone()
    }

    /// What is uncertain about the blocks read.
    pub fn state(&self) -> ReadingState {
        self.state.clone()
    }

    /// Reads until `stop`. Fails only when the journal does.
    pub async fn run(
        mut self,
        start: Start,
        heart: Heartbeat,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        self.heart = heart;
        let second = SecondReading::new(
            self.source.clone(),
            self.state.clone(),
            self.suspects.clone(),
            (self.progress.subscribe(), self.connection.subscribe()),
            self.found_events_sender.clone(),
            self.dice.clone(),
        );
        let proof = ProofLoop::new(
            self.source.clone(),
            self.state.clone(),
            self.ids.clone(),
            self.found_events_sender.clone(),
            self.dice.clone(),
        );
        let reading = async {
            tokio::select! {
                biased;
                ended = self.read_loop(start) => ended,
                never = Box::pin(second.run()) => match never {},
                never = Box::pin(proof.run()) => match never {},
            }
        };
        match stop.run_until_cancelled(reading).await {
            Some(Err(ReadError::Ledger(error))) => Err(error),
            Some(Err(_)) | None => Ok(()),
            Some(Ok(never)) => match never {},
        }
    }

    async fn read_loop(&mut self, start: Start) -> Result<std::convert::Infallible, ReadError> {
        let mut heads = self.source.chain().heads();
        let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut repeats = LogThrottle::default();
        loop {
            let due = Instant::now() + HEAD_CHECK_INTERVAL;
            self.heart.rest();
            tokio::select! {
                biased;
                changed = heads.changed() => if changed.is_err() { return Err(ReadError::Stopping) },
                Some(found) = self.found_events.recv() => {
                    self.store_finding(found).await?;
                    if !heads.has_changed().unwrap_or(true) {
                        continue;
                    }
                }
                () = sleep_until(due) => {}
            }
            self.head_seen_at = Instant::now();
            loop {
                let Some(head) = *heads.borrow_and_update() else { break };
                self.heart.beat().await;
                let before = self.cursor;
                let read = match self.catch_up(&head, start).await {
                    Err(ReadError::Reorganised { number }) => {
                        // Two nodes behind one URL may disagree for long: the pause is not reset.
                        let rewound = self.rewind(number, gap::NEAR).await;
                        rewound.and(Err(ReadError::Reorganised { number }))
                    }
                    Err(error @ ReadError::CursorLost { .. }) => {
                        let rewound =
                            self.rewind(head.block.number + 1, lost_cursor::REREAD_BLOCKS).await;
                        rewound.and(Err(error))
                    }
                    read => read,
                };
                match read {
                    Ok(()) => {
                        pause.reset();
                        repeats.reset();
                        break;
                    }
                    Err(error @ (ReadError::Ledger(_) | ReadError::Stopping)) => return Err(error),
                    Err(error) => {
                        if let Some(times) = repeats.should_log(error.code(), Instant::now()) {
                            warn!(problem = %error, times, "reading the chain failed, trying again");
                        } else {
                            debug!(problem = %error, "reading the chain still fails");
                        }
                        if self.cursor.map(|at| at.number) > before.map(|at| at.number) {
                            // It made progress: even a node that knows only half of the blocks is worth
                            // asking.
                            pause.reset();
                        }
                        (self.node_turn, self.turn_changed_at) =
                            (self.node_turn + 1, Instant::now());
                        sleep(pause.next_delay(self.dice.roll())).await;
                    }
                }
            }
        }
    }

    /// Reads everything between the cursor and `head`.
    async fn catch_up(&mut self, head: &Head, start: Start) -> Result<(), ReadError> {
        let mut cursor = match self.cursor {
            Some(cursor) => cursor,
            None => match self.first_cursor(head, start).await? {
                Some(cursor) => cursor,
                // `starting_block` is in the future.
                None => return Ok(()),
            },
        };
        self.connection.send_if_modified(|connection| {
            let is_new = *connection != head.connection;
            *connection = head.connection;
            is_new
        });
        loop {
            self.heart.beat().await;
            while let Ok(found) = self.found_events.try_recv() {
                self.store_finding(found).await?;
            }
            cursor = match gap::plan(cursor.number, head.block.number) {
                ReadPlan::Idle => return self.check_cursor_known(cursor, head).await,
                ReadPlan::Far { from, to } => self.read_far(cursor, from, to).await?,
                ReadPlan::Near { from, to } => self.read_near(cursor, from, to, head).await?,
            };
        }
    }

    /// Fails if the cursor has been above the head for long and no sound node has its block.
    async fn check_cursor_known(&mut self, cursor: BlockRef, head: &Head) -> Result<(), ReadError> {
        if !self.lost_cursor.should_ask(cursor.number, head.block.number, Instant::now()) {
            return Ok(());
        }
        let provider = self.source.chain();
        let mut denied = false;
        for node in provider.sound_nodes() {
            match provider.for_node(node).header(BlockId::Hash(cursor.hash)).await {
                Ok(None) => denied = true,
                // Some nodes report an unknown block as an error.
                Err(error @ RpcError::Refused { .. }) if !error.is_busy() => denied = true,
                // The node has the block, or may have it.
                Ok(Some(_)) | Err(_) => return Ok(()),
            }
        }
        let (cursor, head) = (cursor.number, head.block.number);
        if denied { Err(ReadError::CursorLost { cursor, head }) } else { Ok(()) }
    }

    async fn first_cursor(
        &mut self,
        head: &Head,
        start: Start,
    ) -> Result<Option<BlockRef>, ReadError> {
        // The cursor is the last block that need not be read.
        let number = match start {
            Start::Latest => head.block.number.saturating_sub(1),
            Start::Block(number) => number.saturating_sub(1),
        };
        if number > head.block.number {
            debug!(starting_block = number + 1, head = head.block.number, "not there yet");
            return Ok(None);
        }
        let block = self.header(number).await?.block;
        info!(first_block = number + 1, head = head.block.number, "reading begins");
        // Blocks before the first one are out of scope.
        self.began_after = number;
        self.state.lock().began_after = number;
        self.ids.lock().set_origin(number);
        self.store(Vec::new(), Some(block)).await?;
        Ok(Some(block))
    }
}

fn expect_head(head: Option<&Head>, number: u64) -> Result<Head, ReadError> {
    let head = head.filter(|head| head.block.number == number);
    head.copied().ok_or(ReadError::UnknownBlock(number))
}

/// Checks that the node that returned the logs of a range knows the range's blocks.
fn expect_range_known(range: &RangeLogs, from: u64, to: u64) -> Result<(), ReadError> {
    expect_head(range.first_head.as_ref(), from)?;
    expect_head(range.last_head.as_ref(), to)?;
    Ok(())
}

#[cfg(test)]
mod tests;
