//! The stack of one chain of an instance: its journal, lane, walk, arrivals and what supports them, in a task
//! tree of its own. Every instance has the gateway's. One that serves key operations on Ethereum has a second
//! one, of the same parts ([`super::second_chain`]).

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    BuildError, Exit, Supervision,
    build::GatewayParts,
    journal_state::{JournalState, KeptJournal},
    second_chain::EthereumParts,
    tasks::{Tasks, unexpected_end},
};
use crate::{config::Config, journal::IdleStore, machine::Machine, telemetry::heartbeat};

/// How long the journal may take to flush at the end.
pub(super) const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// How long dropping the tasks may take; only a task that blocks its thread takes longer.
pub(super) const DROP_DEADLINE: Duration = Duration::from_secs(1);
/// How long to look for the cause of a failure among the other tasks.
const CAUSE_DEADLINE: Duration = Duration::from_millis(100);

/// The stack.
pub(super) struct Stack {
    pub(super) tasks: Tasks,
    pub(super) journal_state: JournalState,
    pub(super) supervision: Supervision,
    pub(super) machine: Machine,
    /// Stops the tasks the walk depends on, once the walk has ended.
    pub(super) support_stop: CancellationToken,
}

/// What a stack is built from, by its chain.
pub(super) enum StackParts {
    Gateway(Box<GatewayParts>),
    Ethereum(Box<EthereumParts>),
}

/// The end of a stack, and the journal that it leaves, open and locked.
pub(super) struct EndedStack {
    pub(super) exit: Exit,
    pub(super) kept: Option<IdleStore>,
}

impl Stack {
    /// A stack that is not built yet. `kept`: the journal that the one before it has left.
    pub(super) fn new(supervision: Supervision, machine: Machine, kept: Option<IdleStore>) -> Self {
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
    pub(super) async fn run(&mut self, config: &Config, parts: StackParts) -> Exit {
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
    pub(super) async fn close(self, exit: Exit) -> EndedStack {
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
