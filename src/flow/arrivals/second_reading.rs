//! The second reading: every block once more, some time after the first reading, and at another node if
//! there is one. In addition suspected blocks are read at every node.
//!
//! A regular reading begins every half minute and with every new connection. It reaches from the first
//! block that waits for it, if that is not far, to the cursor. Blocks farther below are read in
//! between. An interrupted reading continues where it stopped. Calls are paced, so that they do not
//! load a node.

use std::{convert::Infallible, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info};

use super::{
    ReadError, expect_range_known,
    reading_state::ReadingState,
    source::EventSource,
    storing::{FoundEvents, FoundKind},
    suspects::SuspectBlocks,
};
use crate::{
    chain::reader::{ChainReader as _, NodeId},
    dice::Dice,
    domain::{BlockRef, Event},
    telemetry::log_throttle::LogThrottle,
    time::backoff::Backoff,
};

/// How often a regular reading begins.
const REGULAR_INTERVAL: Duration = Duration::from_secs(30);
/// Between two calls.
const PACE: Duration = Duration::from_millis(100);
/// Suspected ranges up to this length are also read block by block, by their headers.
const MAX_BY_HEADERS: u64 = 4096;

/// The loop.
pub(super) struct SecondReading<S> {
    source: S,
    state: ReadingState,
    suspects: SuspectBlocks,
    progress: watch::Receiver<Option<BlockRef>>,
    connection: watch::Receiver<u64>,
    found_events: mpsc::Sender<FoundEvents>,
    /// The rest of the regular reading.
    regular: Option<(u64, u64)>,
    /// When the next one begins.
    due: Instant,
    /// The number of rounds, so that each node has its turn.
    rounds_begun: usize,
    /// Consecutive failures.
    failures: usize,
    pause: Backoff,
    dice: Dice,
    log_throttle: LogThrottle,
}

/// What to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Regular(u64, u64),
    /// Far below the cursor.
    Overdue(u64, u64),
    Suspected(u64, u64),
}

impl<S: EventSource> SecondReading<S> {
    pub(super) fn new(
        source: S,
        state: ReadingState,
        suspects: SuspectBlocks,
        (progress, connection): (watch::Receiver<Option<BlockRef>>, watch::Receiver<u64>),
        found_events: mpsc::Sender<FoundEvents>,
        dice: Dice,
    ) -> Self {
        Self {
            source,
            state,
            suspects,
            progress,
            connection,
            found_events,
            regular: None,
            due: Instant::now(),
            rounds_begun: 0,
            failures: 0,
            pause: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            dice,
            log_throttle: LogThrottle::default(),
        }
    }

    pub(super) async fn run(mut self) -> Infallible {
        let mut turns = 0_usize;
        loop {
            let cursor = self.progress.borrow_and_update().map(|cursor| cursor.number);
            let Some(cursor) = cursor else {
                self.wait().await;
                continue;
            };
            turns = turns.wrapping_add(1);
            let Some(job) = self.next_job(cursor, turns) else {
                self.wait().await;
                continue;
            };
            match job {
                Job::Regular(from, to) | Job::Overdue(from, to) => self.read(job, from, to).await,
                Job::Suspected(from, to) => self.read_everywhere(from, to).await,
            }
            sleep(PACE).await;
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self) {
        let none_yet = self.progress.borrow().is_none();
        tokio::select! {
            biased;
            changed = self.connection.changed() => match changed {
                // Logs that a lost connection hid are looked for at once.
                Ok(()) => (self.due, self.regular) = (Instant::now(), None),
                Err(_) => std::future::pending().await,
            },
            changed = self.progress.changed(), if none_yet => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = self.suspects.wait_added() => {}
            () = sleep_until(self.due.max(Instant::now() + PACE)) => {}
        }
    }

    /// Each kind has its turn, so that none waits for another one to finish.
    fn next_job(&mut self, cursor: u64, turns: usize) -> Option<Job> {
        let now = Instant::now();
        if self.connection.has_changed().unwrap_or(false) {
            self.connection.mark_unchanged();
            (self.due, self.regular) = (now, None);
        }
        let notes = self.state.lock();
        if self.regular.is_none() && now >= self.due {
            self.regular = notes.read_once.next_regular(cursor, notes.began_after + 1);
            self.due = now + REGULAR_INTERVAL;
            self.rounds_begun = self.rounds_begun.wrapping_add(1);
        }
        // The chain may have been reorganised in the meantime.
        let regular = self.regular.filter(|(from, _)| *from <= cursor);
        let regular = regular.map(|(from, to)| Job::Regular(from, to.min(cursor)));
        let overdue =
            notes.read_once.next_overdue(cursor, now).map(|(from, to)| Job::Overdue(from, to));
        drop(notes);
        let suspected = self.suspects.first().filter(|(from, _)| *from <= cursor);
        let suspected = suspected.map(|(from, to)| Job::Suspected(from, to.min(cursor)));
        let mut jobs = [regular, suspected, overdue];
        jobs.rotate_left(turns % 3);
        jobs.into_iter().flatten().next()
    }

    /// One page, at the next node.
    async fn read(&mut self, job: Job, from: u64, to: u64) {
        let node = self.choose_node(from);
        let (from, to) = self.state.lock().pages.page(node, from, to);
        let asked = Instant::now();
        let read = self.source.only(node).events_between(from, to).await;
        let range = match read {
            Ok(range) => range,
            Err(error) => {
                let now = Instant::now();
                if !self.state.lock().pages.record_failure(node, (from, to), &error, now) {
                    self.after_failure(node, &error.into()).await;
                }
                return;
            }
        };
        if let Err(error) = expect_range_known(&range, from, to) {
            self.after_failure(node, &error).await;
            return;
        }
        self.failures = 0;
        self.pause.reset();
        self.log_throttle.reset();
        self.state.lock().pages.record_success(node, (from, to), Instant::now());
        if range.events.is_empty() {
            self.state.lock().read_once.record_second_reading(from, to, asked);
        } else {
            self.store_finding(range.events, node, FoundKind::Reread { from, to, asked }).await;
        }
        if let (Job::Regular(..), Some((_, last))) = (job, self.regular) {
            self.regular = (to < last).then_some((to + 1, last));
        }
    }

    /// Another node than the one that read this block first, if there is one; in turn.
    fn choose_node(&self, block: u64) -> NodeId {
        let first = self.state.lock().read_once.first_reader(block);
        let nodes = self.source.chain().sound_nodes();
        let (own, mut others): (Vec<NodeId>, Vec<NodeId>) =
            nodes.into_iter().partition(|node| Some(*node) == first);
        if !others.is_empty() {
            let turn = self.rounds_begun % others.len();
            others.rotate_left(turn);
        }
        others.extend(own);
        others.get(self.failures % others.len().max(1)).copied().unwrap_or(NodeId(0))
    }

    async fn after_failure(&mut self, node: NodeId, error: &ReadError) {
        self.failures = self.failures.wrapping_add(1);
        let host = self.source.chain().host(node);
        if let Some(times) = self.log_throttle.should_log_for(&host, error.code(), Instant::now()) {
            info!(host, %error, times, "blocks could not be read again: trying again");
        } else {
            debug!(host, %error, "blocks still cannot be read again");
        }
        sleep(self.pause.next_delay(self.dice.roll())).await;
    }

    /// A page of suspected blocks, at every sound node. A node that does not answer is skipped: suspected
    /// blocks are reported again if needed. If nothing is found, a header may still show it.
    async fn read_everywhere(&mut self, from: u64, to: u64) {
        let nodes = self.source.chain().sound_nodes();
        let last = {
            let pages = &self.state.lock().pages;
            nodes.iter().map(|node| pages.page(*node, from, to).1).min().unwrap_or(from)
        };
        for node in nodes {
            let read = self.source.only(node).events_between(from, last).await;
            let now = Instant::now();
            match read {
                Ok(range) => {
                    self.state.lock().pages.record_success(node, (from, last), now);
                    if !range.events.is_empty() {
                        self.store_finding(range.events, node, FoundKind::Suspected).await;
                    }
                }
                Err(error) => {
                    if self.state.lock().pages.record_failure(node, (from, last), &error, now) {
                        return;
                    }
                    debug!(from, last, %error, "suspected blocks could not be read at a node");
                }
            }
            sleep(PACE).await;
        }
        self.suspects.remove_up_to(last);
        if to - from < MAX_BY_HEADERS {
            self.state.lock().unproven.add_range(from, last, self.state.now_ms());
            self.state.notify_listed();
        }
    }

    /// Sends events to the first reading, and waits until they are stored.
    async fn store_finding(&self, events: Vec<Event>, by: NodeId, how: FoundKind) {
        let (stored, done) = oneshot::channel();
        if self.found_events.send(FoundEvents { events, by, how, stored }).await.is_ok() {
            let _ = done.await;
        }
    }
}
