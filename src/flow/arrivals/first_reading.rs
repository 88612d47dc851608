//! The first reading: far from the head by ranges, near it block by block. It alone moves the cursor.
//!
//! ```text
//! header (joined by its parent's hash) -> bloom: may it hold ours? -> logs by the block's hash
//!     -> the bloom holds more than is shown: all logs of the block, from the same node
//!         -> their bloom is the header's: a coincidence
//!         -> it is not: something is hidden; the block is listed, and proven by others (`proof`)
//! ```
//!
//! This costs at most one call more for such a block and none for others, and no block waits for the
//! proof of another one.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    Arrivals, ReadError,
    blooms::{BloomComparison, compare},
    expect_head,
    source::EventSource,
};
use crate::{
    chain::{
        reader::{BlockId, ChainReader as _, Head, LogRange, LogSource, NodeId},
        rpc_error::RpcError,
    },
    domain::{B256, BlockRef, Event},
    flow::ledger::RequestLedger,
};

/// The most concurrent calls for headers or logs.
const MAX_CALLS: usize = 8;
/// Blocks remembered, to find where a reorganised chain forked.
const MAX_RECENT: usize = 1024;
/// After this long without failures, the preferred node is asked for logs again.
const TURN_RESET_AFTER: Duration = Duration::from_mins(1);

/// A block that was read near the head.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadBlock {
    pub hash: B256,
    /// The node whose bloom excluded our events, so that the block's logs were not read.
    pub excluded_by: Option<NodeId>,
}

/// A node's logs of a block near the head.
struct BlockLogs {
    block: BlockRef,
    events: Vec<Event>,
    by: NodeId,
    doubt: Option<Doubt>,
}

/// Why they may be incomplete.
enum Doubt {
    /// The node shows fewer logs than its block has.
    Hidden,
    /// The block's logs without a filter show more than with it.
    HiddenBehindFilter,
    /// All logs of the block could not be read.
    Unknown(RpcError),
    /// The header's bloom lacks a log of its block.
    WrongBloom(NodeId),
}

/// The source restricted to the node whose turn it is; unrestricted if none is connected.
pub(super) fn node_for_turn<S: EventSource>(source: &S, turn: usize) -> (S, NodeId) {
    let nodes = source.chain().sound_nodes();
    match nodes.get(turn % nodes.len().max(1)) {
        Some(node) => (source.only(*node), *node),
        None => (source.clone(), NodeId(0)),
    }
}

impl<S: EventSource, L: RequestLedger> Arrivals<S, L> {
    /// By ranges of numbers, far from the head.
    pub(super) async fn read_far(
        &mut self,
        cursor: BlockRef,
        from: u64,
        to: u64,
    ) -> Result<BlockRef, ReadError> {
        let (source, node) = node_for_turn(&self.source, self.node_turn);
        let (from, to) = self.state.lock().pages.page(node, from, to);
        let range = match source.events_between(from, to).await {
            Ok(range) => range,
            Err(error) => {
                let now = Instant::now();
                if self.state.lock().pages.record_failure(node, (from, to), &error, now) {
                    debug!(from, to, %error, "the node wants smaller ranges");
                    // Nothing was read: the cursor stays.
                    return Ok(cursor);
                }
                return Err(error.into());
            }
        };
        self.state.lock().pages.record_success(node, (from, to), Instant::now());
        // The last block's header, from the node that returned the logs, proves that it knows the range; the
        // first one's, that the range follows the blocks read before.
        let first = expect_head(range.first_head.as_ref(), from)?;
        let last = expect_head(range.last_head.as_ref(), to)?.block;
        let other_fork = |event: &Event| event.block.number == to && event.block.hash != last.hash;
        if first.parent != cursor.hash || range.events.iter().any(other_fork) {
            return Err(ReadError::Reorganised { number: from });
        }
        debug!(from, to, events = range.events.len(), "read a range of blocks");
        self.node_turn = 0;
        self.state.lock().read_once.record_first_reading(
            from,
            to,
            Some(range.node),
            Instant::now(),
        );
        self.store(range.events, Some(last)).await?;
        Ok(last)
    }

    /// Block by block near the head, each joined to the previous one by its parent hash. Ends before the
    /// first block that could not be read; the blocks before it are kept.
    pub(super) async fn read_near(
        &mut self,
        cursor: BlockRef,
        from: u64,
        to: u64,
        head: &Head,
    ) -> Result<BlockRef, ReadError> {
        if self.turn_changed_at.elapsed() >= TURN_RESET_AFTER {
            self.node_turn = 0;
        }
        // Futures first, streams after: borrowed closures in a stream cannot be sent.
        let reads: Vec<_> = (from..=to).map(|number| self.header_near(number, head)).collect();
        let mut reads = stream::iter(reads).buffered(MAX_CALLS);
        let (mut headers, mut parent) = (Vec::new(), cursor.hash);
        while let Some(read) = reads.next().await {
            let header = match read {
                Ok(header) if header.parent == parent => header,
                Ok(header) if headers.is_empty() => {
                    return Err(ReadError::Reorganised { number: header.block.number });
                }
                Err(error) if headers.is_empty() => return Err(error),
                Ok(_) | Err(_) => break,
            };
            parent = header.block.hash;
            headers.push(header);
        }
        drop(reads);
        self.heart.beat().await;
        let (reads, mut passed): (Vec<_>, Vec<_>) = {
            let notes = self.state.lock();
            let wanted = self.source.filter();
            let (asked, passed): (Vec<&Head>, Vec<&Head>) =
                headers.iter().partition(|head| wanted.may_match(notes.bloom_trust.bloom(head)));
            let reads = asked.into_iter().map(|head| {
                let bloom = notes.bloom_trust.bloom(head).is_some();
                self.logs_near(head, bloom)
            });
            (reads.collect(), passed.into_iter().map(|head| head.block.number).collect())
        };
        passed.sort_unstable();
        let mut reads = stream::iter(reads).buffered(MAX_CALLS);
        let (mut shown, mut unread) = (Vec::new(), None);
        while let Some((number, read)) = reads.next().await {
            match read {
                Ok(one) => shown.push(one),
                Err(error) if number == from => return Err(error.into()),
                Err(_) => {
                    unread = Some(number);
                    break;
                }
            }
        }
        drop(reads);
        headers.retain(|head| unread.is_none_or(|unread| head.block.number < unread));
        // `from <= to` and all were read, so there is a last header.
        let (last, by) =
            headers.last().map_or((cursor, None), |head| (head.block, Some(head.node)));
        for one in &shown {
            self.handle_doubt(one);
        }
        let by = shown.last().map(|one| one.by).or(by);
        self.state.lock().read_once.record_first_reading(from, last.number, by, Instant::now());
        let events = shown.into_iter().flat_map(|one| one.events).collect();
        self.store(events, Some(last)).await?;
        for head in headers {
            let number = head.block.number;
            let excluded_by = passed.binary_search(&number).is_ok().then_some(head.node);
            self.recent.insert(number, ReadBlock { hash: head.block.hash, excluded_by });
        }
        while self.recent.len() > MAX_RECENT {
            self.recent.pop_first();
        }
        Ok(last)
    }

    /// The logs of one block. `says`: its bloom is trusted.
    async fn logs_near(&self, head: &Head, says: bool) -> (u64, Result<BlockLogs, RpcError>) {
        let block = head.block;
        // A node that fails is asked again later.
        let (source, _) = node_for_turn(&self.source, self.node_turn);
        let asked = if self.node_turn == 0 { &self.source } else { &source };
        let told = match asked.events(LogRange::Block(block.hash)).await {
            Ok(told) => told,
            Err(error) => return (block.number, Err(error)),
        };
        let (by, mut events) = (told.node, told.value);
        let wanted = self.source.filter();
        let mut doubt = None;
        if let Some(bloom) = head.bloom.filter(|_| says)
            && wanted.may_hide(&bloom, &events)
        {
            let provider = self.source.chain().for_node(by);
            doubt = match provider.block_logs(block.hash, LogSource::Logs).await {
                Err(error) => Some(Doubt::Unknown(error)),
                Ok(all) => match compare(&bloom, &all.value) {
                    BloomComparison::Complete => {
                        let whole = wanted.select(&all.value);
                        let hidden = whole.len() > events.len();
                        events = whole;
                        hidden.then_some(Doubt::HiddenBehindFilter)
                    }
                    BloomComparison::LogsMissing => Some(Doubt::Hidden),
                    BloomComparison::WrongBloom => Some(Doubt::WrongBloom(head.node)),
                },
            };
        }
        // They were read by this block's hash, so a log that names another block is invalid.
        if events.iter().any(|event| event.block != block) {
            let (host, what) = (self.source.chain().host(by), "a log of another block".into());
            return (block.number, Err(RpcError::Unreadable { host, what }));
        }
        (block.number, Ok(BlockLogs { block, events, by, doubt }))
    }

    /// Applies the consequences.
    fn handle_doubt(&mut self, shown: &BlockLogs) {
        let Some(doubt) = &shown.doubt else { return };
        let (block, host) = (shown.block.number, self.source.chain().host(shown.by));
        match doubt {
            Doubt::Hidden | Doubt::HiddenBehindFilter => {
                if let Some(times) =
                    self.log_throttle.should_log_for(&host, "hides_logs", Instant::now())
                {
                    warn!(host, block, times, "a gateway node hides logs of a block");
                } else {
                    debug!(host, block, "the gateway node still hides logs");
                }
            }
            Doubt::Unknown(error) => {
                debug!(host, block, %error, "all logs of a block could not be read");
            }
            Doubt::WrongBloom(node) => self.distrust(*node),
        }
        if matches!(doubt, Doubt::Hidden | Doubt::Unknown(_)) {
            self.state.lock().unproven.add(shown.block, self.state.now_ms());
            self.state.notify_listed();
        }
    }

    /// Stops trusting a node's blooms.
    pub(super) fn distrust(&mut self, node: NodeId) {
        if self.state.lock().bloom_trust.revoke(node) {
            let host = self.source.chain().host(node);
            warn!(
                host,
                "a gateway node reported a wrong bloom: the logs of every block are requested from \
                 now on"
            );
        }
    }

    async fn header_near(&self, number: u64, head: &Head) -> Result<Head, ReadError> {
        if number == head.block.number { Ok(*head) } else { self.header(number).await }
    }

    pub(super) async fn header(&self, number: u64) -> Result<Head, ReadError> {
        expect_head(self.source.chain().header(BlockId::Number(number)).await?.as_ref(), number)
    }
}
