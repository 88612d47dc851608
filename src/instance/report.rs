//! Reports the running instance to the supervisor: what it waits for, its position, the progress of a
//! catch-up. Logs each change once.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use super::{
    catch_up::{CatchUpState, CatchUpTracker},
    dependencies,
    errors::CoreProblem,
    lag::Lag,
    stale_nodes,
    wait_reasons::WaitReasons,
};
use crate::{
    admin::status::{
        HiddenRequests, Phase, ReadOnce, Reporter, StaleNode, StaleTag, UnansweredRequests,
        UnprovenBlocks, UnsentAnswers,
    },
    chain::{provider::ArbitrumProvider, reader::ChainReader as _, sender::TransactionSender as _},
    dice::Dice,
    domain::{Address, BlockRef, DisplayId},
    flow::{
        arrivals::{
            completeness::{CompletenessReport, MissedConsensus},
            ids::MissingIds,
            reading_state::{ReadingState, UncertainBlocks},
            unproven::UnprovenSummary,
        },
        ciphertexts::MemoryUse,
        finality::rule::TagPosition,
        kms_core::{CoreHealth, KmsCore},
    },
    journal::{Journal, JournalError, Query, Space},
    telemetry::{heartbeat::Heartbeat, log_throttle::LogThrottle, metrics::RequestGauges},
    time::{backoff::Backoff, clock::Clock},
};

const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the journal is counted, if it was written.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// How often the log reports the progress of a catch-up.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How often wallet balance and disk space are read.
const RESOURCE_INTERVAL: Duration = Duration::from_secs(30);
/// Answers wait this long without anything being sent: an operator should know.
const UNSENT_AFTER: Duration = Duration::from_mins(1);
/// How often a Core that answered is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Sentinel: the journal was not counted at any commit yet.
const NOT_COUNTED: u64 = u64::MAX;

/// The task.
#[derive(Debug)]
pub(super) struct Report {
    pub reporter: Reporter,
    pub clock: Clock,
    pub dice: Dice,
    pub provider: ArbitrumProvider,
    pub mode: ReportMode,
    pub journal: Journal,
    /// The cursor.
    pub progress: watch::Receiver<Option<BlockRef>>,
    /// Why requests wait.
    pub wait_reasons: WaitReasons,
    /// Doubtful reads: blocks whose logs are not certain.
    pub notes: ReadingState,
    /// The finality tag, where one is waited for.
    pub tag: watch::Receiver<Option<TagPosition>>,
    /// Comparison of the contract's counters with the requests read.
    pub completeness: watch::Receiver<CompletenessReport>,
}

/// What the instance does with requests.
#[derive(Debug)]
pub(super) enum ReportMode {
    Answer {
        wallet: Address,
        core: Box<KmsCore>,
        /// Memory held by ciphertexts.
        memory: MemoryUse,
    },
    Observe {
        /// Number of observed requests.
        observed: watch::Receiver<u64>,
    },
}

impl ReportMode {
    pub(super) fn wallet(&self) -> Option<Address> {
        match self {
            Self::Answer { wallet, .. } => Some(*wallet),
            Self::Observe { .. } => None,
        }
    }
}

/// Result of probing the Core; `None` before the first probe.
type CoreStatus = Option<Result<(), CoreProblem>>;

impl Report {
    pub(super) async fn run(self, heart: Heartbeat) -> Result<(), JournalError> {
        let (sender, found) = watch::channel(None);
        let following = async {
            match &self.mode {
                ReportMode::Answer { core, .. } => follow_core(core, &sender, &self.dice).await,
                ReportMode::Observe { .. } => {
                    sender.send_replace(Some(Ok(())));
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            () = following => Ok(()),
            () = self.report_phase(found) => Ok(()),
            told = self.report_progress(heart) => told,
            () = self.report_resources() => Ok(()),
        }
    }

    /// Runs beside [`Self::report_progress`], which reads the journal: a disk that does not answer must
    /// not block the phase.
    async fn report_phase(&self, found: watch::Receiver<CoreStatus>) {
        let mut tick = interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some(phase) = self.phase(&found.borrow()) {
                self.reporter
                    .phase
                    .send_if_modified(|current| dependencies::replace_if_changed(current, phase));
            }
        }
    }

    async fn report_progress(&self, heart: Heartbeat) -> Result<(), JournalError> {
        let mut tick = interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tracker = CatchUpTracker::default();
        let mut said = Instant::now();
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
            let uncertain = self.notes.uncertain();
            self.reporter.metrics.unproven_blocks(uncertain.unproven.blocks);
            let seen = match (cursor, head) {
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
            };
            log_catch_up(&seen, &mut said);
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
                (new.in_hand, new.held) = (counted.2.requests, counted.2.held);
                new.held_by.clone_from(&counted.2.held_by);
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

    /// Reads balance and disk space periodically. Nothing waits for this.
    async fn report_resources(&self) {
        let mut tick = interval(RESOURCE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some(wallet) = self.mode.wallet() {
                match self.provider.balance(wallet).await {
                    Ok(balance) => self.reporter.metrics.balance(balance),
                    Err(error) => debug!(%error, "could not ask for the wallet's balance"),
                }
            }
            match self.journal.ask(Query::Space).await {
                Ok(Space { taken, free }) => self.reporter.metrics.journal(taken, free),
                // Also when the runtime is shutting down.
                Err(error) => debug!(%error, "could not look at the journal's disk"),
            }
        }
    }

    fn head(&self) -> Option<u64> {
        self.provider.heads().borrow().map(|head| head.block.number)
    }

    /// The phase; `None` if unknown yet.
    fn phase(&self, found: &CoreStatus) -> Option<Phase> {
        if let Some(why) = self.journal.condition().waiting_reason() {
            return Some(Phase::Waiting {
                on: super::JOURNAL_DISK.to_owned(),
                why: why.to_string(),
            });
        }
        if let Some(error) = self.provider.connection_error() {
            let on = dependencies::gateway_name(&self.provider);
            return Some(Phase::Waiting { on, why: error.to_string() });
        }
        Some(match found.as_ref()? {
            Ok(()) => Phase::Running,
            Err(why) => {
                let on = match &self.mode {
                    ReportMode::Answer { core, .. } => core_name(core),
                    ReportMode::Observe { .. } => String::new(),
                };
                Phase::Waiting { on, why: why.to_string() }
            }
        })
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
}

impl RequestCounts {
    fn of(standings: &[RequestGauges]) -> Self {
        let mut held_by = BTreeMap::new();
        for one in standings {
            if let Some(reason) = one.held {
                *held_by.entry(reason.as_str().to_owned()).or_default() += one.requests;
            }
        }
        Self {
            requests: standings.iter().map(|one| one.requests).sum(),
            held: held_by.values().sum(),
            held_by,
        }
    }
}

pub(super) fn core_name(core: &KmsCore) -> String {
    format!("the KMS Core at {}", core.host())
}

/// Publishes the state of each gateway node, also during the build, which may wait for one.
pub(super) async fn follow_endpoints(provider: ArbitrumProvider, reporter: Reporter, clock: Clock) {
    let mut tick = interval(REPORT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut nodes, mut repeats) = (stale_nodes::StaleNodes::default(), LogThrottle::default());
    loop {
        tick.tick().await;
        let (gauges, stale) = nodes.update(&provider.endpoint_statuses(), clock.unix_millis());
        reporter.metrics.endpoints(gauges);
        for node in &stale {
            log_stale_node(node, &mut repeats);
        }
        reporter
            .gauges
            .send_if_modified(|gauges| dependencies::replace_if_changed(&mut gauges.stale, stale));
    }
}

/// A chain without new blocks is not logged as a warning.
fn log_stale_node(StaleNode { host, head, others, .. }: &StaleNode, repeats: &mut LogThrottle) {
    let cause = if others.is_some() { "behind" } else { "still" };
    let Some(times) = repeats.should_log_for(host, cause, Instant::now()) else { return };
    if let Some(newest) = others {
        warn!(host, head, newest, times, "a gateway node is behind another one");
    } else {
        info!(host, head, times, "no gateway node shows a new block");
    }
}

/// Returns the problem with the Core, if any.
pub(super) async fn ask_core(core: &KmsCore) -> Result<(), CoreProblem> {
    match core.health().await? {
        CoreHealth::Serving | CoreHealth::Unknown => Ok(()),
        CoreHealth::NotServing => Err(CoreProblem::NotServing),
    }
}

/// Probes the Core periodically. Nothing waits for this: each request asks the Core by itself.
async fn follow_core(core: &KmsCore, found: &watch::Sender<CoreStatus>, dice: &Dice) {
    let mut pause = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut repeats = LogThrottle::default();
    loop {
        let now = ask_core(core).await;
        let before = found.send_replace(Some(now.clone()));
        match &now {
            Ok(()) if before != Some(Ok(())) => {
                repeats.reset();
                info!(host = core.host(), "KMS Core reached");
            }
            Ok(()) => {}
            Err(why) => {
                if let Some(times) = repeats.should_log(why.code(), Instant::now()) {
                    warn!(%why, times, "waiting for {}", core_name(core));
                }
            }
        }
        if now.is_ok() {
            pause.reset();
            sleep(PROBE_INTERVAL).await;
        } else {
            sleep(pause.next_delay(dice.roll())).await;
        }
    }
}

fn log_catch_up(seen: &CatchUpState, said: &mut Instant) {
    match seen {
        CatchUpState::Near => {}
        CatchUpState::Behind(behind) => {
            if said.elapsed() >= LOG_INTERVAL {
                *said = Instant::now();
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
