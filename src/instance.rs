//! One connector: one config, one wallet, one Gateway deployment, one KMS Core. The only place where rooms,
//! adapters, journal and config are wired together.
//!
//! An instance is a [stack](stack) of tasks for each of its chains, with a journal each: the gateway's, and, if key
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
mod stack;
mod second_chain;
mod inquiries;
mod preflight;
pub mod diagnose;
mod dependencies;
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
};

use tokio::sync::watch;

use self::{
    build::GatewayParts,
    second_chain::{RunningSecond, SecondChain},
    stack::{EndedStack, Stack, StackParts},
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
use crate::{config::Config, domain::Address};

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
