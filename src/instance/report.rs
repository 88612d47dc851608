//! Tells the supervisor how the instance is while it runs: what it waits for, where it stands, how far
//! it is with what it missed. Says in the log what changes: each once.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use super::{
    catch_up::{Seen, Tracker},
    errors::CoreTrouble,
    lag::Lag,
    stale,
    why::Why,
    world,
};
use crate::{
    backoff::Backoff,
    clock::Clock,
    dice::Dice,
    domain::{Address, BlockRef, ShownId},
    flow::{
        arrivals::{
            ids::Missing,
            lookout::{Sight, Unanswered},
            notes::{Notes, Uncertain},
            unproven::Unclear,
        },
        ciphertexts::MemoryUse,
        depth::Tag,
        kms_core::{Health, KmsCore},
    },
    gateway::provider::{ArbitrumProvider, ChainReader as _, TransactionSender as _},
    heart::Heart,
    journal::{Journal, JournalError, Query, Space},
    metrics::Standing,
    observe::status::{
        HiddenRequests, Phase, ReadOnce, Reporter, StaleNode, StillTag, UnansweredRequests,
        UnprovenBlocks, Unsent,
    },
    repeats::Repeats,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the journal is asked, if it was written.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// How often the log says how far a catch-up is.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How often the wallet and the journal's disk are looked at.
const STOCK_EVERY: Duration = Duration::from_secs(30);
/// Nothing is sent for so long while answers wait: somebody should know.
const UNSENT_AFTER: Duration = Duration::from_mins(1);
/// How often a Core that answered is asked how it is.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Commits that no journal has counted.
const NEVER: u64 = u64::MAX;

/// The task.
#[derive(Debug)]
pub(super) struct Report {
    pub reporter: Reporter,
    pub clock: Clock,
    pub dice: Dice,
    pub provider: ArbitrumProvider,
    pub mode: Mode,
    pub journal: Journal,
    /// The cursor, as it moves.
    pub progress: watch::Receiver<Option<BlockRef>>,
    /// Why requests wait.
    pub why: Why,
    /// What is not certain of what was read.
    pub notes: Notes,
    /// The finality tag, where one is waited for.
    pub tag: watch::Receiver<Option<Tag>>,
    /// What the contract says of the requests that were read.
    pub sighted: watch::Receiver<Sight>,
}

/// What is done with requests.
#[derive(Debug)]
pub(super) enum Mode {
    Answer {
        wallet: Address,
        core: Box<KmsCore>,
        /// What ciphertexts hold of their memory.
        memory: MemoryUse,
    },
    Observe {
        /// How many requests were.
        observed: watch::Receiver<u64>,
    },
}

impl Mode {
    pub(super) fn wallet(&self) -> Option<Address> {
        match self {
            Self::Answer { wallet, .. } => Some(*wallet),
            Self::Observe { .. } => None,
        }
    }
}

/// What was found of the Core. `None`: it was not asked yet.
type Found = Option<Result<(), CoreTrouble>>;

impl Report {
    pub(super) async fn run(self, heart: Heart) -> Result<(), JournalError> {
        let (sender, found) = watch::channel(None);
        let following = async {
            match &self.mode {
                Mode::Answer { core, .. } => follow_core(core, &sender, &self.dice).await,
                Mode::Observe { .. } => {
                    sender.send_replace(Some(Ok(())));
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            () = following => Ok(()),
            () = self.tell_phase(found) => Ok(()),
            told = self.tell(heart) => told,
            () = self.take_stock() => Ok(()),
        }
    }

    /// Beside [`Self::tell`], which reads the journal: a disk that does not answer keeps this from nothing.
    async fn tell_phase(&self, found: watch::Receiver<Found>) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some(phase) = self.phase(&found.borrow()) {
                self.reporter.phase.send_if_modified(|current| world::replace(current, phase));
            }
        }
    }

    async fn tell(&self, heart: Heart) -> Result<(), JournalError> {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tracker = Tracker::default();
        let mut said = Instant::now();
        let mut counted = (Instant::now(), NEVER, InHand::default());
        let mut oldest = None;
        let mut lag = Lag::default();
        loop {
            heart.rest();
            tick.tick().await;
            heart.beat().await;
            let moves = self.journal.statistics().moves;
            if counted.1 == NEVER || (counted.1 != moves && counted.0.elapsed() >= COUNT_EVERY) {
                let read = async {
                    Ok::<_, JournalError>((
                        self.journal.ask(Query::Standings).await?,
                        self.journal.ask(Query::Oldest).await?,
                    ))
                };
                let (standings, first) = heart.rest_while(read).await?;
                self.reporter.metrics.standings(&standings);
                oldest = first;
                counted = (Instant::now(), moves, InHand::of(&standings));
            }
            let (head, cursor) = (self.head(), self.progress.borrow().map(|block| block.number));
            let uncertain = self.notes.uncertain();
            self.reporter.metrics.unproven_blocks(uncertain.unclear.blocks);
            let seen = match (cursor, head) {
                (Some(cursor), Some(head)) => {
                    let behind_since = lag.look(cursor, head, self.clock.unix_millis());
                    // What was read and is in doubt is not read.
                    let since = behind_since.into_iter().chain(uncertain.since_ms());
                    self.reporter.metrics.behind_since(since.min());
                    tracker.look(cursor, head, Instant::now())
                }
                (None, _) | (_, None) => Seen::Near,
            };
            let observed = match &self.mode {
                Mode::Answer { memory, .. } => {
                    self.reporter.metrics.ciphertext_memory(memory.held(), memory.limit());
                    None
                }
                Mode::Observe { observed } => Some(*observed.borrow()),
            };
            say(&seen, &mut said);
            let (tag, now_ms) = (*self.tag.borrow(), self.clock.unix_millis());
            if let Some(tag) = tag {
                self.reporter.metrics.finality_tag(tag.still(now_ms));
            }
            let (answers, still) = self.reporter.metrics.unsent();
            let since_ms = now_ms.saturating_sub(still.as_secs() * 1000) / 1000 * 1000;
            let unsent = (still >= UNSENT_AFTER).then_some(Unsent { answers, since_ms });
            self.reporter.gauges.send_if_modified(|gauges| {
                let mut new = gauges.clone();
                (new.head, new.cursor) = (head, cursor);
                (new.in_hand, new.held) = (counted.2.requests, counted.2.held);
                new.held_by.clone_from(&counted.2.held_by);
                new.observed = observed;
                new.still_tag = tag.filter(|tag| tag.stands_still(now_ms)).map(|tag| StillTag {
                    tag: tag.finality.as_str().to_owned(),
                    at: tag.at,
                    since_ms: tag.since_ms,
                });
                let Uncertain { unclear: Unclear { blocks, first, since_ms }, read_once } =
                    uncertain;
                new.unproven = (blocks > 0).then_some(UnprovenBlocks { blocks, first, since_ms });
                new.read_once = read_once.map(|(first, since_ms)| ReadOnce { first, since_ms });
                new.unsent.clone_from(&unsent);
                new.waits = oldest.as_ref().and_then(|oldest| self.why.longest(oldest, now_ms));
                let sight = self.sighted.borrow();
                new.hidden = sight.hidden.iter().map(|missing| hidden(missing, now_ms)).collect();
                new.unanswered = sight.unanswered.as_ref().map(|one| unanswered(one, now_ms));
                new.catching_up = match seen {
                    Seen::Behind(catch_up) => Some(catch_up),
                    Seen::Near | Seen::Caught { .. } => None,
                };
                world::replace(gauges, new)
            });
        }
    }

    /// Looks now and then at what runs out. Nothing waits for this.
    async fn take_stock(&self) {
        let mut tick = interval(STOCK_EVERY);
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
                // Also when the runtime is ending.
                Err(error) => debug!(%error, "could not look at the journal's disk"),
            }
        }
    }

    fn head(&self) -> Option<u64> {
        self.provider.heads().borrow().map(|head| head.block.number)
    }

    /// `None`: not known yet.
    fn phase(&self, found: &Found) -> Option<Phase> {
        if let Some(why) = self.journal.condition().waits() {
            return Some(Phase::Waiting { on: super::ROOM.to_owned(), why: why.to_string() });
        }
        if let Some(error) = self.provider.trouble() {
            let on = world::gateway_name(&self.provider);
            return Some(Phase::Waiting { on, why: error.to_string() });
        }
        Some(match found.as_ref()? {
            Ok(()) => Phase::Running,
            Err(why) => {
                let on = match &self.mode {
                    Mode::Answer { core, .. } => core_name(core),
                    Mode::Observe { .. } => String::new(),
                };
                Phase::Waiting { on, why: why.to_string() }
            }
        })
    }
}

fn hidden(missing: &Missing, now_ms: u64) -> HiddenRequests {
    let id = |number| ShownId(missing.counter.id(number)).to_string();
    HiddenRequests {
        requests: missing.count(),
        first: id(missing.first),
        last: id(missing.last),
        from_block: missing.from,
        to_block: missing.to,
        since_ms: at_ms(missing.since, now_ms),
    }
}

fn unanswered(of: &Unanswered, now_ms: u64) -> UnansweredRequests {
    UnansweredRequests {
        requests: of.requests as u64,
        id: ShownId(of.id).to_string(),
        block: of.block,
        since_ms: at_ms(of.since, now_ms),
    }
}

/// A moment by the calendar.
fn at_ms(moment: Instant, now_ms: u64) -> u64 {
    let ago = u64::try_from(moment.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Not another one at each look.
    now_ms.saturating_sub(ago) / 1_000 * 1_000
}

/// Requests without an outcome.
#[derive(Clone, Debug, Default)]
struct InHand {
    /// Held ones included.
    requests: u64,
    held: u64,
    held_by: BTreeMap<String, u64>,
}

impl InHand {
    fn of(standings: &[Standing]) -> Self {
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

/// Tells how each gateway node is, also while the instance is built: that may wait for one.
pub(super) async fn follow_endpoints(provider: ArbitrumProvider, reporter: Reporter, clock: Clock) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut nodes, mut repeats) = (stale::Nodes::default(), Repeats::default());
    loop {
        tick.tick().await;
        let (gauges, stale) = nodes.look(&provider.endpoints(), clock.unix_millis());
        reporter.metrics.endpoints(gauges);
        for node in &stale {
            say_stale(node, &mut repeats);
        }
        reporter.gauges.send_if_modified(|gauges| world::replace(&mut gauges.stale, stale));
    }
}

/// A chain on which nothing happens is no warning.
fn say_stale(StaleNode { host, head, others, .. }: &StaleNode, repeats: &mut Repeats) {
    let cause = if others.is_some() { "behind" } else { "still" };
    let Some(times) = repeats.heard_of(host, cause, Instant::now()) else { return };
    if let Some(newest) = others {
        warn!(host, head, newest, times, "a gateway node is behind another one");
    } else {
        info!(host, head, times, "no gateway node shows a new block");
    }
}

/// What keeps a Core from being of use, if anything.
pub(super) async fn ask_core(core: &KmsCore) -> Result<(), CoreTrouble> {
    match core.health().await? {
        Health::Serving | Health::Unknown => Ok(()),
        Health::NotServing => Err(CoreTrouble::NotServing),
    }
}

/// Asks the Core now and then how it is. Nothing waits for this: each request asks by itself.
async fn follow_core(core: &KmsCore, found: &watch::Sender<Found>, dice: &Dice) {
    let mut pause = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut repeats = Repeats::default();
    loop {
        let now = ask_core(core).await;
        let before = found.send_replace(Some(now.clone()));
        match &now {
            Ok(()) if before != Some(Ok(())) => {
                repeats.over();
                info!(host = core.host(), "KMS Core reached");
            }
            Ok(()) => {}
            Err(why) => {
                if let Some(times) = repeats.heard(why.code(), Instant::now()) {
                    warn!(%why, times, "waiting for {}", core_name(core));
                }
            }
        }
        if now.is_ok() {
            pause.reset();
            sleep(PROBE_EVERY).await;
        } else {
            sleep(pause.next_delay(dice.roll())).await;
        }
    }
}

fn say(seen: &Seen, said: &mut Instant) {
    match seen {
        Seen::Near => {}
        Seen::Behind(behind) => {
            if said.elapsed() >= SAY_EVERY {
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
        Seen::Caught { blocks, took } => info!(blocks, ?took, "caught up"),
    }
}
