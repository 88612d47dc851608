//! Room 1: head -> gap -> pages -> logs -> adapter decodes -> batch{requests, up to}.
//!
//! ```text
//! wake-up -> far from the head: ranges    \
//!         -> near the head: block by block -> journal (door a) -> the walk
//!         -> now and then: the last blocks again                  \\-> unripe until deep enough
//! ```
//!
//! Invariants: the stored cursor moves only in the journal transaction that stores what it passed; no
//! answer moves it unless the node proved that it knows the block (its header, or its logs by
//! hash); every block is read twice, seconds apart, because a node may show its logs
//! late; a full channel to the walk waits, never drops.

pub mod gap;
pub mod backfill;
pub mod suspects;
mod unripe;

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    gap::{PageSize, Plan, ReadOnce},
    suspects::Suspects,
    unripe::Unripe,
};
use super::{
    Arrival, Batch, Intake, RequestLedger,
    depth::{Depth, Line, Tag},
};
use crate::{
    backoff::Backoff,
    clock,
    domain::{B256, BlockRef, Event, Generation, LedgerError, Request},
    gateway::{
        decryption::{DecryptionAdapter, Support},
        provider::{At, Head, LogRange, Provider, RpcError},
    },
    heart::Heart,
    metrics::Metrics,
    repeats::Repeats,
};

/// How often the last blocks are read again.
const REREAD_EVERY: Duration = Duration::from_secs(30);
/// A cursor that passed nothing is stored within this time.
const CURSOR_STORED_WITHIN: Duration = Duration::from_secs(30);
/// So many blocks before a cursor out of the journal may have been read only once: what passes
/// between two re-reads, on a chain with ten blocks a second, and some more.
const READ_ONCE_AT_MOST: u64 = 512;
/// Pages of them that are read again before what is new has its turn.
const PAGES_AGAIN: usize = 8;
/// How often the node is asked for its finality tag, at most.
const TAG_EVERY: Duration = Duration::from_secs(1);
/// Calls for headers or logs under way at the same time.
const AT_ONCE: usize = 8;
/// Block hashes remembered, to find where a reorganised chain forked.
const REMEMBERED: usize = 1024;

/// Where reading begins when the journal has no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the head as it is at the first start.
    Latest,
    /// With this block.
    Block(u64),
}

/// The room.
#[derive(Debug)]
pub struct Arrivals<P, L> {
    adapter: DecryptionAdapter<P>,
    ledger: L,
    walk: mpsc::Sender<Intake>,
    /// Told of an upgrade before any request that came after it is walked.
    support: watch::Sender<Support>,
    /// Upgrades seen, by transaction and log index.
    upgrades: HashSet<(B256, u64)>,
    progress: watch::Sender<Option<BlockRef>>,
    depth: Depth,
    /// Under the last head.
    line: watch::Sender<Line>,
    unripe: Unripe,
    /// The finality tag, and when it was asked for.
    tag: watch::Sender<Option<Tag>>,
    tag_asked: Option<Instant>,
    tag_repeats: Repeats,
    cursor: Option<BlockRef>,
    /// Nothing up to this block is ever read.
    begun_after: u64,
    page: PageSize,
    bloom_trusted: bool,
    connection: u64,
    reread_at: Instant,
    read_once: ReadOnce,
    suspects: Suspects,
    /// Hashes of blocks read near the head.
    recent: BTreeMap<u64, B256>,
    /// When a cursor alone is worth a commit.
    store_at: Instant,
    /// When the head was heard of that is being read up to.
    woken: Instant,
    heart: Heart,
    metrics: Metrics,
}

/// Why reading could not go on.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the node does not know block {0}")]
    UnknownBlock(u64),
    #[error("block {number} does not follow the cursor: the chain was reorganised")]
    Reorganised { number: u64 },
    #[error("the connector is stopping")]
    Stopping,
}

impl<P: Provider, L: RequestLedger> Arrivals<P, L> {
    /// `cursor` is the journal's, `begun_after` its first one's number; `walk` takes what is new, in order.
    pub fn new(
        adapter: DecryptionAdapter<P>,
        ledger: L,
        walk: mpsc::Sender<Intake>,
        support: watch::Sender<Support>,
        cursor: Option<BlockRef>,
        begun_after: Option<u64>,
    ) -> Self {
        Self {
            adapter,
            ledger,
            walk,
            support,
            upgrades: HashSet::new(),
            progress: watch::channel(cursor).0,
            depth: Depth::NONE,
            line: watch::channel(Line::OPEN).0,
            unripe: Unripe::default(),
            tag: watch::channel(None).0,
            tag_asked: None,
            tag_repeats: Repeats::default(),
            cursor,
            begun_after: begun_after.unwrap_or(0),
            page: PageSize::new(),
            bloom_trusted: true,
            connection: 0,
            reread_at: Instant::now(),
            read_once: ReadOnce::since(
                cursor.map_or(0, |cursor| cursor.number.saturating_sub(READ_ONCE_AT_MOST)),
            ),
            suspects: Suspects::default(),
            recent: BTreeMap::new(),
            store_at: Instant::now(),
            woken: Instant::now(),
            heart: Heart::default(),
            metrics: Metrics::default(),
        }
    }

    /// What is not so deep in the chain is stored, and not walked yet. Up to where it is, `line`
    /// tells whoever else walks requests.
    #[must_use]
    pub fn only_from(mut self, depth: Depth, line: watch::Sender<Line>) -> Self {
        (self.depth, self.line) = (depth, line);
        self
    }

    /// Counts there.
    #[must_use]
    pub fn counting(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// The cursor, as it moves.
    pub fn progress(&self) -> watch::Receiver<Option<BlockRef>> {
        self.progress.subscribe()
    }

    /// Where to say that a request may be hidden in some blocks.
    pub fn suspects(&self) -> Suspects {
        self.suspects.clone()
    }

    /// The finality tag, where one is asked for.
    pub fn tag(&self) -> watch::Receiver<Option<Tag>> {
        self.tag.subscribe()
    }

    /// Reads until `stop`. Fails only when the journal does.
    pub async fn run(
        mut self,
        start: Start,
        heart: Heart,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        self.heart = heart;
        match stop.run_until_cancelled(self.read_on(start)).await {
            Some(Err(ReadError::Ledger(error))) => Err(error),
            Some(Err(_)) | None => Ok(()),
            Some(Ok(never)) => match never {},
        }
    }

    async fn read_on(&mut self, start: Start) -> Result<std::convert::Infallible, ReadError> {
        let mut heads = self.adapter.provider().heads();
        let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut repeats = Repeats::default();
        loop {
            // A timer beside the wake-up: the re-read is due even when the chain stands still.
            // Overdue (nothing was read yet) it is due now and then, not at once and for ever.
            let mut due = self.reread_at + REREAD_EVERY;
            if self.depth.tag().is_some() {
                // A tag moves by itself.
                due = due.min(Instant::now() + TAG_EVERY);
            }
            let due = due.max(Instant::now() + Duration::from_secs(1));
            self.heart.rest();
            tokio::select! {
                biased;
                changed = heads.changed() => if changed.is_err() { return Err(ReadError::Stopping) },
                () = sleep_until(due) => {}
            }
            self.woken = Instant::now();
            loop {
                let Some(head) = *heads.borrow_and_update() else { break };
                self.heart.beat().await;
                let before = self.cursor;
                let read = match self.catch_up(&head, start).await {
                    Err(ReadError::Reorganised { number }) => {
                        // Two nodes behind one URL may disagree for long: the pause stands.
                        self.rewind(number).await.and(Err(ReadError::Reorganised { number }))
                    }
                    read => read,
                };
                match read {
                    Ok(()) => {
                        pause.reset();
                        repeats.over();
                        break;
                    }
                    Err(error @ (ReadError::Ledger(_) | ReadError::Stopping)) => return Err(error),
                    Err(error) => {
                        let problem = error.to_string();
                        if let Some(times) = repeats.heard(&problem, Instant::now()) {
                            warn!(problem, times, "reading the chain failed, trying again");
                        } else {
                            debug!(problem, "reading the chain still fails");
                        }
                        if self.cursor.map(|at| at.number) > before.map(|at| at.number) {
                            // It got on: a node that knows half of it is worth asking.
                            pause.reset();
                        }
                        sleep(pause.next_delay()).await;
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
                // `starting_block` lies in the future.
                None => return Ok(()),
            },
        };
        if self.connection != head.connection || self.reread_at.elapsed() >= REREAD_EVERY {
            // Not whole: the rest is read again at the next head, and what is new comes between.
            if self.reread(cursor).await? {
                self.connection = head.connection;
                self.reread_at = Instant::now();
            }
        }
        self.read_suspects(cursor).await?;
        loop {
            self.heart.beat().await;
            self.ripen(head).await?;
            if self.unripe.is_full() {
                debug!("reading waits for blocks to be deep enough");
                return Ok(());
            }
            cursor = match gap::plan(cursor.number, head.block.number) {
                Plan::Idle => return Ok(()),
                Plan::Far { from, to } => self.read_far(cursor, from, to).await?,
                Plan::Near { from, to } => self.read_near(cursor, from, to, head).await?,
            };
        }
    }

    async fn first_cursor(
        &mut self,
        head: &Head,
        start: Start,
    ) -> Result<Option<BlockRef>, ReadError> {
        // The cursor is the last block that needs no reading.
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
        // What is before the first block is nobody's business.
        self.read_once = ReadOnce::since(number + 1);
        self.store(Vec::new(), Some(block)).await?;
        self.begun_after = number;
        Ok(Some(block))
    }

    /// By ranges of numbers, far from the head.
    async fn read_far(
        &mut self,
        cursor: BlockRef,
        from: u64,
        to: u64,
    ) -> Result<BlockRef, ReadError> {
        let (from, to) = self.page.page(from, to);
        let read = self.adapter.requests_between(from, to).await;
        // Nothing was read: the cursor stays.
        let Some(range) = self.sized(from, to, read)? else { return Ok(cursor) };
        // The last block's header, by the node that told the logs, proves that it knows the range;
        // the first one's, that the range follows what was read.
        let first = known(range.first.as_ref(), from)?;
        let last = known(range.last.as_ref(), to)?.block;
        let other_fork = |event: &Event| event.block.number == to && event.block.hash != last.hash;
        if first.parent != cursor.hash || range.events.iter().any(other_fork) {
            return Err(ReadError::Reorganised { number: from });
        }
        debug!(from, to, events = range.events.len(), "read a range of blocks");
        self.store(range.events, Some(last)).await?;
        Ok(last)
    }

    /// A range of blocks; `None`: the node wants smaller ranges, and there are. The page shrinks
    /// with every failure, because too much may also show as no answer in time.
    fn sized<T>(
        &mut self,
        from: u64,
        to: u64,
        read: Result<T, RpcError>,
    ) -> Result<Option<T>, ReadError> {
        match read {
            Ok(read) => {
                self.page.grow();
                Ok(Some(read))
            }
            Err(error) => {
                let smaller = self.page.shrink();
                if smaller && error.wants_smaller_range() {
                    debug!(from, to, %error, "the node wants smaller ranges");
                    return Ok(None);
                }
                Err(error.into())
            }
        }
    }

    /// Block by block near the head, each joined to the one before by its parent hash. Ends before
    /// the first one that could not be read: what was read before it is not read again.
    async fn read_near(
        &mut self,
        cursor: BlockRef,
        from: u64,
        to: u64,
        head: &Head,
    ) -> Result<BlockRef, ReadError> {
        // Futures first, streams after: borrowed closures in a stream cannot be sent.
        let reads: Vec<_> = (from..=to).map(|number| self.header_near(number, head)).collect();
        let mut reads = stream::iter(reads).buffered(AT_ONCE);
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
        let (address, topics) = (self.adapter.address(), self.adapter.topics());
        let reads: Vec<_> = headers
            .iter()
            .filter(|head| {
                !self.bloom_trusted || gap::may_contain(head.bloom.as_ref(), address, topics)
            })
            .map(|head| async {
                (head.block.number, self.adapter.requests(LogRange::Block(head.block.hash)).await)
            })
            .collect();
        let mut reads = stream::iter(reads).buffered(AT_ONCE);
        let (mut events, mut unread) = (Vec::new(), None);
        while let Some((number, read)) = reads.next().await {
            match read {
                Ok(more) => events.extend(more.answer),
                Err(error) if number == from => return Err(error.into()),
                Err(_) => {
                    unread = Some(number);
                    break;
                }
            }
        }
        drop(reads);
        headers.retain(|head| unread.is_none_or(|unread| head.block.number < unread));
        // `from <= to`, and it was read, so there is a last header.
        let last = headers.last().map_or(cursor, |head| head.block);
        self.store(events, Some(last)).await?;
        self.recent.extend(headers.iter().map(|head| (head.block.number, head.block.hash)));
        while self.recent.len() > REMEMBERED {
            self.recent.pop_first();
        }
        Ok(last)
    }

    /// Known blocks again: what a lagging node did not show the first time. Answers whether that were
    /// all of them.
    async fn reread(&mut self, cursor: BlockRef) -> Result<bool, ReadError> {
        let now = Instant::now();
        let floor = self.begun_after + 1;
        let Some((first, last)) = self.read_once.range(cursor.number, floor, now) else {
            return Ok(true);
        };
        let (mut next, mut pages) = (first, 0);
        while next <= last && pages < PAGES_AGAIN {
            self.heart.beat().await;
            let (from, to) = self.page.page(next, last);
            let read = self.adapter.requests(LogRange::Numbers { from, to }).await;
            let Some(told) = self.sized(from, to, read)? else { continue };
            let late = self.store(told.answer, None).await?;
            if late > 0 {
                warn!(
                    late,
                    from, to, "requests were missing at the first reading and are stored now"
                );
                self.bloom_trusted = false;
            }
            next = to + 1;
            pages += 1;
        }
        let whole = next > last;
        self.read_once.read_again(next - 1, whole, cursor.number, now);
        Ok(whole)
    }

    /// One page of what is suspected, at every sound node. A node that does not answer is passed over:
    /// whoever suspects asks again.
    async fn read_suspects(&mut self, cursor: BlockRef) -> Result<(), ReadError> {
        let first = self.suspects.first().filter(|(from, _)| *from <= cursor.number);
        let Some((from, to)) = first else { return Ok(()) };
        let (from, to) = self.page.page(from, to.min(cursor.number));
        for node in self.adapter.provider().sound_nodes() {
            self.heart.beat().await;
            let read = self.adapter.only(node).requests(LogRange::Numbers { from, to }).await;
            let told = match self.sized(from, to, read) {
                Ok(Some(told)) => told,
                Ok(None) => return Ok(()),
                Err(error) => {
                    debug!(from, to, %error, "suspected blocks could not be read at a node");
                    continue;
                }
            };
            let late = self.store(told.answer, None).await?;
            if late > 0 {
                let host = self.adapter.provider().host(node);
                warn!(late, from, to, host, "hidden requests were found and are stored now");
            }
        }
        self.suspects.read_up_to(to);
        Ok(())
    }

    /// After a reorganisation: back by as many blocks as are always read again, and on until the
    /// chain is the known one, as far as it is remembered.
    async fn rewind(&mut self, number: u64) -> Result<(), ReadError> {
        let mut depth = gap::NEAR;
        loop {
            self.heart.beat().await;
            let back_to = number.saturating_sub(depth).max(self.begun_after);
            let block = self.header(back_to).await?.block;
            let forked = self.recent.get(&back_to).is_some_and(|known| *known != block.hash);
            if forked && back_to > self.begun_after {
                depth = depth.saturating_mul(2);
                continue;
            }
            warn!(at = number, back_to, "the chain was reorganised: reading again");
            self.metrics.reorganised();
            self.recent.split_off(&back_to);
            self.read_once.back_to(back_to);
            self.cursor = Some(block);
            return Ok(());
        }
    }

    async fn header_near(&self, number: u64, head: &Head) -> Result<Head, ReadError> {
        if number == head.block.number { Ok(*head) } else { self.header(number).await }
    }

    async fn header(&self, number: u64) -> Result<Head, ReadError> {
        known(self.adapter.provider().header(At::Number(number)).await?.as_ref(), number)
    }

    /// Moves the line under this head, and hands on what it covers now.
    async fn ripen(&mut self, head: &Head) -> Result<(), ReadError> {
        if self.depth == Depth::NONE {
            return Ok(());
        }
        self.ask_for_tag(head.block.number).await;
        let tagged = self.tag.borrow().and_then(|tag| tag.at);
        let line = self.depth.line(head.block.number, tagged);
        self.line.send_if_modified(|current| {
            let changed = *current != line;
            *current = line;
            changed
        });
        for intake in self.unripe.take(line) {
            self.hand_on(intake).await?;
        }
        Ok(())
    }

    /// Asks where the finality tag is, now and then, and says so if that is where it was long ago.
    async fn ask_for_tag(&mut self, head: u64) {
        let Some(at) = self.depth.tag() else { return };
        if self.tag_asked.is_some_and(|asked| asked.elapsed() < TAG_EVERY) {
            return;
        }
        let told = self.adapter.provider().header(at).await;
        self.tag_asked = Some(Instant::now());
        let told = told.unwrap_or_else(|error| {
            debug!(tag = ?at, %error, "could not ask for the finality tag");
            None
        });
        let now_ms = clock::unix_millis();
        let known = *self.tag.borrow();
        let mut tag = known.unwrap_or_else(|| Tag::new(self.depth.finality, head, now_ms));
        tag.look(told.map(|block| block.block.number), head, now_ms);
        if known != Some(tag) {
            self.tag.send_replace(Some(tag));
        }
        if !tag.stands_still(now_ms) {
            self.tag_repeats.over();
        } else if let Some(times) = self.tag_repeats.heard("still", Instant::now()) {
            let (name, still) = (tag.finality.as_str(), tag.still(now_ms));
            let at = tag.at;
            warn!(
                tag = name,
                at,
                head,
                ?still,
                times,
                "the finality tag stands still: requests wait for it"
            );
        }
    }

    async fn hand_on(&self, intake: Intake) -> Result<(), ReadError> {
        // The journal has it: a stop here only means that the next start walks it.
        let sent = self.heart.rest_while(self.walk.send(intake)).await;
        sent.map_err(|_| ReadError::Stopping)
    }

    fn go_to(&mut self, cursor: Option<BlockRef>) {
        self.cursor = cursor;
        self.progress.send_replace(cursor);
    }

    /// Door (a), then on to the walk. Answers how many requests were new.
    ///
    /// Blocks without anything are not worth a commit each: their cursor is stored with the next
    /// request, or now and then. A restart reads them again.
    async fn store(
        &mut self,
        events: Vec<Event>,
        cursor: Option<BlockRef>,
    ) -> Result<usize, ReadError> {
        let Sorted { mut batch, requests, upgrades } = sort(&self.adapter, events);
        batch.cursor = cursor;
        batch.skipped.iter().for_each(|_| self.metrics.undecodable_log());
        for event in upgrades {
            if self.upgrades.insert((event.transaction, event.log_index)) {
                info!(block = event.block.number, "the Decryption contract was upgraded");
                let block = event.block.number;
                self.support.send_replace(Support::Upgraded { block });
            }
        }
        if batch.arrivals.is_empty() && batch.skipped.is_empty() && batch.cursor.is_none() {
            return Ok(0);
        }
        let empty = batch.arrivals.is_empty() && batch.skipped.is_empty();
        if empty && Instant::now() < self.store_at {
            self.go_to(cursor);
            return Ok(0);
        }
        let taken = self.heart.rest_while(self.ledger.arrive(batch)).await?;
        if cursor.is_some() {
            self.go_to(cursor);
            // Not all instances of a process at the same block.
            self.store_at =
                Instant::now() + CURSOR_STORED_WITHIN.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        let mut requests: Vec<Option<Request>> = requests.into_iter().map(Some).collect();
        let late = taken.new.len();
        let new = taken.new.into_iter().map(|index| (index, false));
        for (index, recovered) in new.chain(taken.reopened.into_iter().map(|index| (index, true))) {
            let Some(request) = requests.get_mut(index).and_then(Option::take) else { continue };
            if recovered {
                warn!(request = %request.key, block = request.block.number,
                    "request is in another block now: looking at it again");
            } else {
                self.metrics.arrived(request.kind(), self.woken.elapsed());
                info!(request = %request.key, kind = %request.kind(), block = request.block.number,
                    "request arrived");
            }
            let covered = self.line.borrow().covers(request.kind(), request.block.number);
            let intake = Intake { request, recovered };
            if covered {
                self.hand_on(intake).await?;
            } else {
                self.unripe.put(intake);
            }
        }
        Ok(late)
    }
}

/// What events say.
struct Sorted {
    /// Without a cursor.
    batch: Batch,
    /// The requests of the batch, in its order.
    requests: Vec<Request>,
    upgrades: Vec<Event>,
}

fn sort<P: Provider>(adapter: &DecryptionAdapter<P>, events: Vec<Event>) -> Sorted {
    let mut sorted = Sorted { batch: Batch::default(), requests: Vec::new(), upgrades: Vec::new() };
    let mut seen: HashSet<(B256, crate::domain::U256)> = HashSet::new();
    for event in events {
        if adapter.is_upgrade(&event) {
            sorted.upgrades.push(event);
            continue;
        }
        match adapter.decode(&event) {
            Ok(request) => {
                // From v0.15-dev a request is announced twice in one transaction: once with its
                // materials, once by handles only. It is one request.
                let first = seen.insert((event.transaction, request.key.id));
                if !first && request.generation == Generation::Head {
                    continue;
                }
                let arrival = Arrival { key: request.key, kind: request.kind(), event };
                sorted.batch.arrivals.push(arrival);
                sorted.requests.push(request);
            }
            Err(error) => {
                warn!(
                    block = event.block.number,
                    transaction = %event.transaction,
                    log_index = event.log_index,
                    %error,
                    "a log cannot be decoded: stored and skipped"
                );
                sorted.batch.skipped.push((event, error.to_string()));
            }
        }
    }
    sorted
}

fn known(head: Option<&Head>, number: u64) -> Result<Head, ReadError> {
    let head = head.filter(|head| head.block.number == number);
    head.copied().ok_or(ReadError::UnknownBlock(number))
}

#[cfg(test)]
mod tests;
