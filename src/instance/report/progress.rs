//! The instance's position and counts, and the progress of a catch-up.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;

use super::{BesideReading, REPORT_INTERVAL, Report, ReportMode};
use crate::{
    admin::status::{
        HiddenRequests, KeyOperationStatus, ReadOnce, StaleTag, UnansweredRequests, UnprovenBlocks,
        UnsentAnswers,
    },
    chain::reader::ChainReader as _,
    domain::DisplayId,
    flow::arrivals::{
        completeness::MissedConsensus, ids::MissingIds, reading_state::UncertainBlocks,
        unproven::UnprovenSummary,
    },
    instance::{
        catch_up::{CatchUpState, CatchUpTracker},
        dependencies,
        lag::Lag,
    },
    journal::{JournalError, Query},
    telemetry::{heartbeat::Heartbeat, metrics::RequestGauges},
};

/// How often the journal is counted, if it was written.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// How often the log reports the progress of a catch-up.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Answers wait this long without anything being sent: an operator should know.
const UNSENT_AFTER: Duration = Duration::from_mins(1);
/// Sentinel: the journal was not counted at any commit yet.
const NOT_COUNTED: u64 = u64::MAX;

impl Report {
    pub(super) async fn report_progress(&self, heart: Heartbeat) -> Result<(), JournalError> {
        let mut tick = interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tracker = CatchUpTracker::default();
        let mut logged_at = Instant::now();
        let mut counted = (Instant::now(), NOT_COUNTED, RequestCounts::default());
        let mut oldest = None;
        let mut lag = Lag::default();
        loop {
            heart.rest();
            tick.tick().await;
            heart.beat().await;
            let moves = self.journal.statistics().moves;
            if counted.1 == NOT_COUNTED
                || (counted.1 != moves && counted.0.elapsed() >= COUNT_INTERVAL)
            {
                let read = async {
                    Ok::<_, JournalError>((
                        self.journal.ask(Query::RequestGauges).await?,
                        self.journal.ask(Query::Oldest).await?,
                    ))
                };
                let (standings, first) = heart.rest_while(read).await?;
                self.reporter.metrics.set_requests(&standings);
                oldest = first;
                counted = (Instant::now(), moves, RequestCounts::of(&standings));
            }
            let (head, cursor) = (self.head(), self.progress.borrow().map(|block| block.number));
            let beside: Vec<_> = self.beside.iter().map(BesideReading::position).collect();
            let lowest = beside.iter().filter_map(|contract| contract.cursor).chain(cursor).min();
            let uncertain = self.beside.iter().map(BesideReading::uncertain);
            let uncertain = uncertain.fold(self.notes.uncertain(), UncertainBlocks::and);
            self.reporter.metrics.unproven_blocks(uncertain.unproven.blocks);
            let seen = match (lowest, head) {
                (Some(cursor), Some(head)) => {
                    let behind_since = lag.update(cursor, head, self.clock.unix_millis());
                    // Doubtful blocks count as unread.
                    let since = behind_since.into_iter().chain(uncertain.since_ms());
                    self.reporter.metrics.behind_since(since.min());
                    tracker.update(cursor, head, Instant::now())
                }
                (None, _) | (_, None) => CatchUpState::Near,
            };
            let observed = match &self.mode {
                ReportMode::Answer { memory, .. } => {
                    self.reporter.metrics.ciphertext_memory(memory.held(), memory.limit());
                    None
                }
                ReportMode::Observe { observed } => Some(*observed.borrow()),
                ReportMode::Keys { .. } => None,
            };
            log_catch_up(&seen, &mut logged_at);
            let (tag, now_ms) = (*self.tag.borrow(), self.clock.unix_millis());
            if let Some(tag) = tag {
                self.reporter.metrics.finality_tag(tag.unmoved_for(now_ms));
            }
            let (answers, still) = self.reporter.metrics.unsent();
            let since_ms = now_ms.saturating_sub(still.as_secs() * 1000) / 1000 * 1000;
            let unsent = (still >= UNSENT_AFTER).then_some(UnsentAnswers { answers, since_ms });
            self.reporter.gauges.send_if_modified(|gauges| {
                let mut new = gauges.clone();
                (new.head, new.cursor) = (head, cursor);
                new.beside.clone_from(&beside);
                (new.in_hand, new.held) = (counted.2.requests, counted.2.held);
                new.held_by.clone_from(&counted.2.held_by);
                new.key_operations.clone_from(&counted.2.key_operations);
                new.observed = observed;
                new.still_tag = tag.filter(|tag| tag.is_stale(now_ms)).map(|tag| StaleTag {
                    tag: tag.finality.as_str().to_owned(),
                    at: tag.at,
                    since_ms: tag.since_ms,
                });
                let UncertainBlocks {
                    unproven: UnprovenSummary { blocks, first, since_ms },
                    read_once,
                } = uncertain;
                new.unproven = (blocks > 0).then_some(UnprovenBlocks { blocks, first, since_ms });
                new.read_once = read_once.map(|(first, since_ms)| ReadOnce { first, since_ms });
                new.unsent.clone_from(&unsent);
                new.waits = oldest
                    .as_ref()
                    .and_then(|oldest| self.wait_reasons.longest_wait(oldest, now_ms));
                let sight = self.completeness.borrow();
                new.hidden =
                    sight.hidden.iter().map(|missing| hidden_requests(missing, now_ms)).collect();
                new.unanswered =
                    sight.unanswered.as_ref().map(|one| unanswered_requests(one, now_ms));
                new.catching_up = match seen {
                    CatchUpState::Behind(catch_up) => Some(catch_up),
                    CatchUpState::Near | CatchUpState::CaughtUp { .. } => None,
                };
                dependencies::replace_if_changed(gauges, new)
            });
        }
    }

    fn head(&self) -> Option<u64> {
        self.provider.heads().borrow().map(|head| head.block.number)
    }
}

fn hidden_requests(missing: &MissingIds, now_ms: u64) -> HiddenRequests {
    let id = |number| DisplayId(missing.counter.id(number)).to_string();
    HiddenRequests {
        requests: missing.count(),
        first: id(missing.first),
        last: id(missing.last),
        from_block: missing.from,
        to_block: missing.to,
        since_ms: unix_ms_of(missing.since, now_ms),
    }
}

fn unanswered_requests(of: &MissedConsensus, now_ms: u64) -> UnansweredRequests {
    UnansweredRequests {
        requests: of.requests as u64,
        id: DisplayId(of.id).to_string(),
        block: of.block,
        since_ms: unix_ms_of(of.since, now_ms),
    }
}

/// Converts an instant to wall-clock time (Unix ms).
fn unix_ms_of(moment: Instant, now_ms: u64) -> u64 {
    let ago = u64::try_from(moment.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Rounded to seconds, so that it stays the same at each sample.
    now_ms.saturating_sub(ago) / 1_000 * 1_000
}

/// Open requests.
#[derive(Clone, Debug, Default)]
struct RequestCounts {
    /// Including held ones.
    requests: u64,
    held: u64,
    held_by: BTreeMap<String, u64>,
    key_operations: Vec<KeyOperationStatus>,
}

impl RequestCounts {
    fn of(standings: &[RequestGauges]) -> Self {
        let mut held_by = BTreeMap::new();
        for one in standings {
            if let Some(reason) = one.held {
                *held_by.entry(reason.as_str().to_owned()).or_default() += one.requests;
            }
        }
        let key_operations = standings.iter().filter(|one| one.kind.is_key_operation());
        Self {
            requests: standings.iter().map(|one| one.requests).sum(),
            held: held_by.values().sum(),
            held_by,
            key_operations: key_operations.map(key_operation).collect(),
        }
    }
}

fn key_operation(standing: &RequestGauges) -> KeyOperationStatus {
    KeyOperationStatus {
        kind: standing.kind.as_str().to_owned(),
        stage: standing.stage.to_owned(),
        held: standing.held.map(|reason| reason.as_str().to_owned()),
        requests: standing.requests,
        since_ms: standing.oldest_ms,
    }
}

fn log_catch_up(seen: &CatchUpState, logged_at: &mut Instant) {
    match seen {
        CatchUpState::Near => {}
        CatchUpState::Behind(behind) => {
            if logged_at.elapsed() >= LOG_INTERVAL {
                *logged_at = Instant::now();
                info!(
                    done = behind.done,
                    to_do = behind.to_do,
                    blocks_per_second = behind.blocks_per_second.round(),
                    seconds_left = behind.seconds_left,
                    "catching up"
                );
            }
        }
        CatchUpState::CaughtUp { blocks, took } => info!(blocks, ?took, "caught up"),
    }
}
