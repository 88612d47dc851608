//! What a seed decides, and the state of the world: everything behind one lock, every choice from
//! one pair of dice, every event in one trace.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    chain::Chain,
    core::Core,
    endpoints::{Endpoint, Reading},
    lies::{Blooms, LIMITS},
    requests::Catalogue,
};
use crate::{
    clock::Clock,
    flow::depth::{Depth, Finality},
    gateway::provider::Head,
};

/// What one seed plays. Each fault is absent from about half of the seeds, so that those that are
/// left are seen alone and in pairs too.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Plan {
    pub requests: u64,
    /// They come in so many bursts, so that many are on their way at once; zero: one by one.
    pub bursts: u64,
    /// Blocks that were there before the connector.
    pub history: u64,
    pub block_time: Duration,
    /// A node with a mempool; otherwise a sequencer, which has none.
    pub mempool: bool,
    /// The node executes a transaction before it takes it.
    pub executes_ahead: bool,
    /// A sender waits for the receipt (EIP-7966).
    pub offers_receipts: bool,
    /// Machines, of which each URL has one at least.
    pub nodes: usize,
    pub urls: usize,
    /// Of each URL: what its headers say of logs, and which of the field's limits its ranges have.
    pub blooms: [Blooms; 2],
    pub limits: [Option<usize>; 2],
    /// The index of logs is broken before the connector's first start.
    pub broken_at_first: bool,
    /// How deep a block has to be before its requests are walked.
    pub depth: Depth,
    pub core: CoreAge,
    pub storm: Duration,
    pub faults: Faults,
}

/// What the Core makes of a request that it failed on and is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoreAge {
    /// Up to v0.13: it says that it knows it, and keeps it failed.
    KeepsFailed,
    DoesAgain,
}

/// In so many of a thousand cases, as long as the storm lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// The process dies at an await.
    pub crash: u64,
    /// It is told to stop, once a second.
    pub stop: u64,
    /// A commit fails.
    pub disk: u64,
    /// A node's answer: late, never, an error packet.
    pub late: u64,
    pub never: u64,
    pub packet: u64,
    /// A raw transaction: lost, taken silently, refused with a text that is not true.
    pub lost: u64,
    pub silent: u64,
    pub untrue: u64,
    /// At each block: a node falls behind, forgets its pool, a block's logs are hidden for a while,
    /// no block's logs are shown for some seconds, the connection is lost, the head is not announced, the base fee rises, a reorganisation,
    /// somebody else uses the wallet.
    pub lag: u64,
    pub forgets: u64,
    pub hidden: u64,
    pub blind: u64,
    pub reconnect: u64,
    pub unannounced: u64,
    pub dear: u64,
    pub reorganisation: u64,
    pub foreign: u64,
    /// In a reorganisation, for each request or answer it drops: another request gets the id; the
    /// answer does not come back.
    pub namesake: u64,
    pub unanswered: u64,
    /// Logs of a range: twice and in the wrong order.
    pub shuffled: u64,
    /// The Core: restarts, deletes a request (at each block); has no time, fails, is cut.
    pub core_restart: u64,
    pub core_deletes: u64,
    pub core_busy: u64,
    pub core_fails: u64,
    pub core_cut: u64,
    /// The store of ciphertexts.
    pub store: u64,
    /// At each block, of one endpoint: it cannot be connected to; its index of logs breaks, or that of
    /// all; its count, tip, base fee, estimates are wrong for seconds; its tags stand still.
    pub away: u64,
    pub index: u64,
    pub count: u64,
    pub tip: u64,
    pub base: u64,
    pub estimate: u64,
    pub tag: u64,
    /// A receipt that nobody can read.
    pub odd_receipt: u64,
    /// At a start: the journal is gone. And if so, whether the Core has another signing key.
    pub journal_lost: u64,
    pub signer_changed: u64,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let dice = &mut Rng::with_seed(seed);
        let mut rate = |most: u64| if dice.bool() { dice.u64(1..=most) } else { 0 };
        let faults = Faults {
            crash: rate(12),
            stop: rate(60),
            disk: rate(30),
            late: rate(100),
            never: rate(60),
            packet: rate(150),
            lost: rate(300),
            silent: rate(300),
            untrue: rate(100),
            lag: rate(200),
            forgets: rate(60),
            hidden: rate(300),
            blind: rate(40),
            reconnect: rate(60),
            unannounced: rate(300),
            dear: rate(40),
            reorganisation: rate(80),
            foreign: rate(20),
            namesake: rate(300),
            unanswered: rate(300),
            shuffled: rate(500),
            core_restart: rate(60),
            core_deletes: rate(60),
            core_busy: rate(200),
            core_fails: rate(100),
            core_cut: rate(200),
            store: rate(300),
            away: rate(30),
            index: rate(60),
            count: rate(60),
            tip: rate(100),
            base: rate(60),
            estimate: rate(100),
            tag: rate(60),
            odd_receipt: rate(100),
            journal_lost: rate(200),
            signer_changed: rate(1000),
        };
        let blooms = [Blooms::Missing, Blooms::Full, Blooms::Empty];
        let mut bloom =
            || if dice.u8(..4) == 0 { *dice.choice(&blooms).unwrap() } else { Blooms::AsTheyAre };
        let blooms = [bloom(), bloom()];
        let mut limit = || dice.bool().then(|| dice.usize(..LIMITS.len()));
        let limits = [limit(), limit()];
        let urls = dice.usize(1..=2);
        let confirmations = Depth { public_decryption: 3, user_decryption: 1, ..Depth::NONE };
        let depths = [
            Depth::NONE,
            Depth::NONE,
            Depth::NONE,
            confirmations,
            Depth { finality: Finality::Safe, ..Depth::NONE },
            Depth { finality: Finality::Finalized, ..confirmations },
        ];
        Self {
            requests: dice.u64(3..=20),
            bursts: if dice.bool() { dice.u64(1..=3) } else { 0 },
            history: if dice.bool() { dice.u64(1..=5) } else { dice.u64(20..=150) },
            block_time: Duration::from_millis(*dice.choice(&[250, 1000, 2000]).unwrap()),
            mempool: dice.bool(),
            executes_ahead: dice.bool(),
            offers_receipts: dice.bool(),
            nodes: dice.usize(urls..=3),
            urls,
            blooms,
            limits,
            broken_at_first: dice.u8(..8) == 0,
            depth: *dice.choice(&depths).unwrap(),
            core: if dice.bool() { CoreAge::KeepsFailed } else { CoreAge::DoesAgain },
            storm: Duration::from_secs(dice.u64(20..=120)),
            faults,
        }
    }
}

impl Plan {
    /// Whether a payload may be mined a second time, in vain: where the chain takes a transaction
    /// back, or the wallet's count is of another node than the receipts, or is wrong, or the journal
    /// is lost, nobody can know better. Nor where gas was estimated too low.
    pub fn may_waste(&self) -> bool {
        let faults = self.faults;
        faults.reorganisation > 0
            || (self.nodes > 1 && faults.lag > 0)
            || faults.count > 0
            || faults.estimate > 0
            || faults.journal_lost > 0
    }

    /// Whether the wallet may be held as used elsewhere.
    pub fn may_hold_wallet(&self) -> bool {
        self.faults.foreign > 0 || self.faults.count > 0 || self.faults.journal_lost > 0
    }
}

pub(super) struct State {
    pub plan: Plan,
    pub dice: Rng,
    /// Faults happen.
    pub storm: bool,
    pub chain: Chain,
    pub core: Core,
    pub catalogue: Catalogue,
    /// Who hears of heads: one channel each, because receivers of one channel wake in no fixed
    /// order.
    pub listeners: Vec<watch::Sender<Option<Head>>>,
    pub endpoints: Vec<Endpoint>,
    pub reading: Reading,
    /// How often an index of logs broke.
    pub broken_indices: u32,
    /// The journal was lost once.
    pub lost: bool,
    /// How often the connector was told what is not so, by what it was.
    pub fired: BTreeMap<&'static str, u64>,
    /// Until then no node shows logs. Once in a story: every block is read twice, and who hides it at
    /// both times hides it for good.
    pub blind_until: Option<Instant>,
    /// Numbers of requests given so far.
    pub numbered: u64,
    /// What must not happen and did.
    pub violations: Vec<String>,
    trace: String,
    /// So that a world that stands still, and is busy at it, ends.
    points: u64,
}

/// Awaits of one seed that no run has come near.
const MOST_POINTS: u64 = 3_000_000;

impl State {
    pub fn new(plan: &Plan, seed: u64) -> Self {
        let core = Core::default();
        Self {
            chain: Chain::new(plan.nodes, core.address()),
            endpoints: (0..plan.urls).map(|_| Endpoint::default()).collect(),
            reading: Reading::new(plan.urls),
            broken_indices: 0,
            lost: false,
            fired: BTreeMap::new(),
            plan: *plan,
            dice: Rng::with_seed(seed ^ 0x5eed),
            storm: true,
            core,
            catalogue: Catalogue::default(),
            listeners: Vec::new(),
            blind_until: None,
            numbered: 0,
            violations: Vec::new(),
            trace: String::new(),
            points: 0,
        }
    }

    /// Whether a fault of this rate happens now.
    pub fn fault(&mut self, rate: u64) -> bool {
        self.storm && rate > 0 && self.dice.u64(..1000) < rate
    }

    /// Milliseconds, up to `most`.
    pub fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.dice.u64(0..=most))
    }

    pub fn fired(&mut self, fault: &'static str) {
        *self.fired.entry(fault).or_default() += 1;
    }
}

/// The world. Cheap to clone.
#[derive(Clone)]
pub(super) struct World {
    state: Arc<Mutex<State>>,
    begun: Instant,
}

impl World {
    pub fn new(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), begun: Instant::now() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It begins with the year 2025.
    pub fn clock(&self) -> Clock {
        Clock::Runtime { at: self.begun, unix_ms: 1_735_689_600_000 }
    }

    /// One line of the trace.
    pub fn say(&self, what: fmt::Arguments<'_>) {
        let now = self.begun.elapsed();
        let trace = &mut self.state().trace;
        let _ = writeln!(trace, "{:>6}.{:03} {what}", now.as_secs(), now.subsec_millis());
    }

    pub fn trace(&self) -> String {
        self.state().trace.clone()
    }
}

/// One life of the process, from its start to its death.
#[derive(Clone)]
pub(super) struct Life {
    pub world: World,
    pub died: CancellationToken,
}

impl Life {
    pub fn new(world: World) -> Self {
        Self { world, died: CancellationToken::new() }
    }

    /// A place where the process may die; the dead never return from it.
    pub async fn point(&self) {
        self.point_of(1).await;
    }

    /// A place where a death is worth seeing: it comes so many times as often.
    pub async fn point_of(&self, weight: u64) {
        let dies = {
            let mut state = self.world.state();
            state.points += 1;
            if state.points == MOST_POINTS {
                state.violations.push("the world is busy and gets nowhere".to_owned());
            }
            let stuck = state.points >= MOST_POINTS;
            let rate = state.plan.faults.crash * weight;
            !self.died.is_cancelled() && (stuck || state.fault(rate))
        };
        if dies {
            self.world.say(format_args!("the process dies"));
            self.died.cancel();
        }
        if self.died.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// The time something takes, with a place to die before and after.
    pub async fn takes(&self, most: u64) {
        self.point().await;
        let pause = self.world.state().millis(most);
        sleep(pause).await;
        self.point().await;
    }
}
