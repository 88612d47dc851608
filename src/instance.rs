//! One connector: one config, one wallet, one Gateway deployment, one KMS Core. The only place where rooms,
//! adapters, journal and config are wired together.
//!
//! An instance is a stack of tasks ([`Stack`]) for each of its chains, with a journal each: the gateway's, and, if key
//! operations are asked for on Ethereum, a second one beside it. Neither waits for the other's nodes.
//!
//! ```text
//! build: gateway node -> wallet -> journal (lock) -> contracts -> Core     each waits and says so
//! run:   connection   journal writer   lane   walk   arrivals   recovery   housekeeping   report
//! stop:  arrivals, recovery, walk (what is answered is finished) -> lane -> journal -> connection
//! ```
//!
//! External dependencies come in as [`Edges`]; the simulation uses the same [`run`].
//!
//! Instances share nothing. A task that ends by itself, or hangs, ends the instance: the end is a value
//! ([`Exit`]), and a restart is a rebuild. Only the journal outlives the instance, open and locked
//! ([`JournalTenure`]), so that the next generation of the same instance begins at once and no other
//! process can take the lock in between.

mod supervision;
pub mod exit;
mod second_chain;
mod inquiries;
mod preflight;
pub mod diagnose;
mod dependencies;
mod deployment;
mod genesis;
mod stored_state;
mod build;
mod recovery;
mod unattended;
mod rebuild;
mod operator_requests;
mod wait_reasons;
mod request_overview;
mod observer;
mod earlier_wallet;
mod housekeeping;
mod report;
mod catch_up;
mod lag;
mod stale_nodes;
mod prior_answers;
mod bucket_lookup;
mod edges;
mod host_chains;
mod key_requests;
mod errors;
mod rooms;
mod journal_state;
mod tasks;
#[cfg(test)]
mod simulation;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::{
    build::GatewayParts,
    journal_state::{JournalState, KeptJournal},
    second_chain::{EthereumParts, RunningSecond, SecondChain},
    tasks::{Tasks, unexpected_end},
};
pub use self::{
    edges::{ConnectTask, Edges, HostEdges},
    errors::{BuildError, Failure, PreflightError, RebuildError, Unready},
    exit::Exit,
    operator_requests::answer_stopped,
    preflight::preflight,
    rebuild::rebuild,
    second_chain::second_keeper,
    supervision::{EndedInstance, JournalTenure, Supervision},
};
use crate::{
    config::Config, domain::Address, journal::IdleStore, machine::Machine, telemetry::heartbeat,
};

/// How long the journal may take to flush at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// How long dropping the tasks may take; only a task that blocks its thread takes longer.
const DROP_DEADLINE: Duration = Duration::from_secs(1);
/// How long to look for the cause of a failure among the other tasks.
const CAUSE_DEADLINE: Duration = Duration::from_millis(100);
/// Task name in the exit of an instance that failed before it ran.
pub const START_TASK: &str = "start";
/// What an instance waits for when its journal cannot be written.
const JOURNAL_DISK: &str = "the disk of its journal";

/// Stands for the wallet in the journal names of observing instances.
const OBSERVER_WALLET: Address = Address::ZERO;

/// The journal directory of an observing instance. It is separate from journals that record answers, so
/// that neither is ever taken for the other.
#[must_use]
pub fn observe_dir(state_dir: &Path, name: &str) -> PathBuf {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    state_dir.join(format!("observe-{}", name.chars().map(plain).collect::<String>()))
}

/// [`run`] with the real edges.
pub async fn run_with_real_edges(
    config: Arc<Config>,
    supervision: Supervision,
    estate: Option<JournalTenure>,
) -> EndedInstance {
    match Edges::for_config(&config, &supervision.reporter.metrics) {
        Ok(edges) => Box::pin(run(config, supervision, edges, estate)).await,
        Err(error) => EndedInstance { exit: error.into(), tenure: estate },
    }
}

/// Builds the instance and runs it to its end. `estate` is what the previous generation left, if it left
/// anything.
pub async fn run(
    config: Arc<Config>,
    supervision: Supervision,
    edges: Edges,
    estate: Option<JournalTenure>,
) -> EndedInstance {
    let JournalTenure { gateway: kept, ethereum } = estate.unwrap_or_default();
    let (machine, (node, of_node)) = (edges.machine.clone(), watch::channel(None));
    let second = SecondChain::of(&config, &edges, of_node);
    let (mut second, supervision) = RunningSecond::start(second, supervision, ethereum).await;
    let mut gateway = Stack::new(supervision, machine, kept);
    let parts = StackParts::Gateway(Box::new(GatewayParts { edges, node }));
    let exit = tokio::select! {
        biased;
        exit = gateway.run(&config, parts) => exit,
        broken = second.broken() => broken,
    };
    // The nodes of both are connected until both have ended.
    let ethereum = second.end(&exit).await;
    let EndedStack { exit, kept } = gateway.close(exit).await;
    EndedInstance { exit, tenure: JournalTenure::of(kept, ethereum) }
}

/// The stack of one chain: its journal, lane, walk, arrivals and what supports them, in a task tree of its own.
/// Every instance has the gateway's. One that serves key operations on Ethereum has a second one, of the same
/// parts ([`second_chain`]).
struct Stack {
    tasks: Tasks,
    journal_state: JournalState,
    supervision: Supervision,
    machine: Machine,
    /// Stops the tasks the walk depends on, once the walk has ended.
    support_stop: CancellationToken,
}

/// What a stack is built from, by its chain.
enum StackParts {
    Gateway(Box<GatewayParts>),
    Ethereum(Box<EthereumParts>),
}

/// The end of a stack, and the journal that it leaves, open and locked.
struct EndedStack {
    exit: Exit,
    kept: Option<IdleStore>,
}

impl Stack {
    /// A stack that is not built yet. `kept`: the journal that the one before it has left.
    fn new(supervision: Supervision, machine: Machine, kept: Option<IdleStore>) -> Self {
        let kept = kept.map(|kept| KeptJournal::of(kept, &machine));
        Self {
            tasks: Tasks::default(),
            journal_state: JournalState::NotOpen(kept),
            supervision,
            machine,
            support_stop: CancellationToken::new(),
        }
    }

    /// Builds it, and runs it until a task ends by itself or hangs, or it is asked to end.
    async fn run(&mut self, config: &Config, parts: StackParts) -> Exit {
        let Supervision { stop, abort, heartbeats: hearts, .. } = self.supervision.clone();
        let tasks = self.tasks.clone();
        let built = {
            let building = Box::pin(self.build(config, parts));
            tokio::select! {
                biased;
                () = stop.cancelled() => Ok(Some(Exit::Stopped)),
                () = abort.cancelled() => Ok(Some(Exit::Stopped)),
                built = building => built.map(|()| None),
                failed = tasks.first_failure() => Ok(Some(failed)),
                task = hearts.wait_stalled() => Ok(Some(Exit::Hung { task })),
            }
        };
        match built {
            Ok(None) => self.watch().await,
            Ok(Some(exit)) => exit,
            Err(error) => error.into(),
        }
    }

    async fn build(&mut self, config: &Config, parts: StackParts) -> Result<(), BuildError> {
        match parts {
            StackParts::Gateway(parts) => Box::pin(self.build_gateway(config, *parts)).await,
            StackParts::Ethereum(parts) => Box::pin(self.build_ethereum(config, *parts)).await,
        }
    }

    async fn watch(&mut self) -> Exit {
        let (stop, abort) = (self.supervision.stop.clone(), self.supervision.abort.clone());
        let hearts = self.supervision.heartbeats.clone();
        let condition = self.journal_state.condition();
        let mut hanging = Box::pin(hearts.wait_stalled());
        loop {
            let (task, exit) = tokio::select! {
                biased;
                () = abort.cancelled() => return Exit::Stopped,
                task = &mut hanging => {
                    // A task that waits for disk space does not hang.
                    if condition.waiting_reason().is_none() {
                        return Exit::Hung { task };
                    }
                    hanging = Box::pin(hearts.wait_stalled());
                    continue;
                }
                damage = condition.wait_damaged() => {
                    return Exit::failed(heartbeat::JOURNAL, damage.cause);
                }
                Some(ended) = self.tasks.next_ended() => ended,
                ended = self.journal_state.writer_ended() => ended,
            };
            match exit {
                Exit::Stopped if stop.is_cancelled() => {
                    debug!(task, "task ended");
                    if task == heartbeat::WALK {
                        return Exit::Stopped;
                    }
                }
                exit @ (Exit::Stopped
                | Exit::Refused { .. }
                | Exit::Failed { .. }
                | Exit::Panicked { .. }
                | Exit::Hung { .. }) => return self.root_cause(unexpected_end(task, exit)).await,
            }
        }
    }

    /// Finds the cause of an exit. A task may fail because another one did whose exit is read later: a
    /// panic or the journal's end is the cause of the exits that follow it.
    async fn root_cause(&mut self, exit: Exit) -> Exit {
        if !matches!(exit, Exit::Failed { .. }) {
            return exit;
        }
        let looking = async {
            loop {
                let (task, other) = tokio::select! {
                    biased;
                    Some(ended) = self.tasks.next_ended() => ended,
                    ended = self.journal_state.writer_ended() => ended,
                };
                let panicked = matches!(other, Exit::Panicked { .. });
                if panicked || (task == heartbeat::JOURNAL && !other.is_stopped()) {
                    return other;
                }
            }
        };
        timeout(CAUSE_DEADLINE, looking).await.unwrap_or(exit)
    }

    /// Ends the remaining tasks, from the top down; the journal last.
    async fn close(self, exit: Exit) -> EndedStack {
        self.support_stop.cancel();
        if exit.is_stopped() && !self.supervision.abort.is_cancelled() {
            let ending = async { while self.tasks.next_ended().await.is_some() {} };
            if timeout(FLUSH_DEADLINE, ending).await.is_err() {
                warn!("some tasks did not end in time and are dropped");
            }
        }
        if !self.tasks.drop_within(DROP_DEADLINE).await {
            warn!("a task blocks its thread and is left behind");
        }
        self.journal_state.close(exit, &self.machine).await
    }
}
