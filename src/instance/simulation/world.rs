//! The state of the world: everything behind one lock, every choice from one random generator, every
//! event in one trace.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    asks::Ask,
    chain::Chain,
    core::Core,
    deployment::{CHAIN_ID, HOST_IDS},
    ethereum::Ethereum,
    hosts::HostChain,
    keys::KeyProgress,
    lies::Endpoint,
    plan::Plan,
    requests::Catalogue,
};
use crate::{domain::Address, time::clock::Clock};

pub(super) struct WorldState {
    pub plan: Plan,
    pub dice: Rng,
    /// Whether faults happen.
    pub storm: bool,
    pub chain: Chain,
    pub ethereum: Option<Ethereum>,
    pub hosts: Vec<HostChain>,
    pub core: Core,
    pub catalogue: Catalogue,
    pub endpoints: Vec<Endpoint>,
    /// How often a log index broke.
    pub broken_indices: u32,
    /// The journal was lost once.
    pub lost: bool,
    /// How often each kind of wrong answer was given to the connector.
    pub fired: BTreeMap<&'static str, u64>,
    /// Until then no node shows logs. Once per story: every block is read twice, and a node that hides
    /// it both times hides it for good.
    pub blind_until: Option<Instant>,
    pub key_progress: KeyProgress,
    /// Blocks until an upgrade that left the chain may be made again.
    pub upgrade_waits: u64,
    /// Request numbers assigned so far.
    pub numbered: u64,
    /// Violated invariants.
    pub violations: Vec<String>,
    trace: String,
    begun: Instant,
    /// Counts awaits, so that a busy world without progress ends.
    points: u64,
}

/// The world's wall clock at its beginning: the year 2025, in Unix milliseconds.
const BEGINNING: u64 = 1_735_689_600_000;
/// Awaits per seed; no run has come near.
const MAX_POINTS: u64 = 3_000_000;

impl WorldState {
    pub fn new(plan: &Plan, wallet: Address, seed: u64) -> Self {
        let core = Core::new(&plan.keys);
        Self {
            ethereum: Ethereum::of(plan, (core.address(), wallet)),
            chain: Chain::new(
                (CHAIN_ID, plan.nodes),
                (core.address(), wallet),
                plan.path[0],
                plan.keys_on_gateway(),
            ),
            key_progress: KeyProgress::default(),
            hosts: HOST_IDS[..plan.hosts.chains]
                .iter()
                .map(|id| HostChain::new(*id, &plan.hosts, BEGINNING / 1_000))
                .collect(),
            endpoints: (0..plan.urls).map(|_| Endpoint::default()).collect(),
            broken_indices: 0,
            lost: false,
            fired: BTreeMap::new(),
            plan: *plan,
            dice: Rng::with_seed(seed ^ 0x5eed),
            storm: true,
            core,
            catalogue: Catalogue::new(plan.hosts.chains),
            blind_until: None,
            upgrade_waits: 0,
            numbered: 0,
            violations: Vec::new(),
            trace: String::new(),
            begun: Instant::now(),
            points: 0,
        }
    }

    /// The world's wall clock, in Unix seconds.
    pub fn now(&self) -> u64 {
        BEGINNING / 1_000 + self.begun.elapsed().as_secs()
    }

    /// Draws whether a fault of this rate happens now.
    pub fn fault(&mut self, rate: u64) -> bool {
        self.storm && rate > 0 && self.dice.u64(..1000) < rate
    }

    /// Grants for good what everybody needs; `even_withheld`: to those too who were refused it so far.
    pub fn grant_everything(&mut self, even_withheld: bool) {
        for host in &mut self.hosts {
            host.grant_everything(even_withheld);
        }
    }

    /// Whether a host chain denies something of the ask until the end.
    pub fn is_withheld(&self, ask: &Ask) -> bool {
        self.hosts.iter().any(|host| host.is_withheld(ask))
    }

    /// Draws a duration of up to `most` milliseconds.
    pub fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.dice.u64(0..=most))
    }

    pub fn record_fault(&mut self, fault: &'static str) {
        *self.fired.entry(fault).or_default() += 1;
    }
}

/// The world. Cheap to clone.
#[derive(Clone)]
pub(super) struct World {
    state: Arc<Mutex<WorldState>>,
    begun: Instant,
}

impl World {
    pub fn new(state: WorldState) -> Self {
        Self { state: Arc::new(Mutex::new(state)), begun: Instant::now() }
    }

    pub fn state(&self) -> MutexGuard<'_, WorldState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn clock(&self) -> Clock {
        Clock::Runtime { at: self.begun, unix_ms: BEGINNING }
    }

    /// Adds one line to the trace.
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

    /// A point at which the process may die; a dead process never returns from it.
    pub async fn death_point(&self) {
        self.weighted_death_point(1).await;
    }

    /// A point at which a death is interesting: `weight` times as likely.
    pub async fn weighted_death_point(&self, weight: u64) {
        let dies = {
            let mut state = self.world.state();
            state.points += 1;
            if state.points == MAX_POINTS {
                state.violations.push("the world is busy and gets nowhere".to_owned());
            }
            let stuck = state.points >= MAX_POINTS;
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

    /// Takes up to `most` milliseconds, with a point to die before and after.
    pub async fn takes(&self, most: u64) {
        self.death_point().await;
        let pause = self.world.state().millis(most);
        sleep(pause).await;
        self.death_point().await;
    }
}
