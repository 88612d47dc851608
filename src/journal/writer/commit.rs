//! The blocking half of the writer: an open store, and one commit to it.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;

use super::IdleStore;
use crate::{
    journal::{
        JournalError, StoreError, StoreFault,
        commands::{Command, CommandResult, Settlement},
        handle::JournalShared,
        store::{Store, StoreReader},
    },
    machine::CommitFate,
    telemetry::metrics::Metrics,
};

/// The result of a commit.
pub(super) enum CommitResult {
    Stored,
    /// Nothing of it is stored; it may be repeated.
    NoRoom(Vec<Command>, JournalError),
    Failed(JournalError),
}

pub(super) fn answer_all(commands: Vec<Command>, error: &JournalError) {
    for reply in commands.into_iter().filter_map(|command| command.reply) {
        let _ = reply.send(Err(error.clone().into()));
    }
}

/// Closes the reading side with a dropped writer, unless a read is in progress: then it goes with the
/// last handle.
pub(super) struct ReaderGuard(pub(super) Arc<JournalShared>);

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        if let Ok(mut reads) = self.0.reads.try_lock() {
            reads.take();
        }
    }
}

/// An open store. Fields drop in this order: the store last, and with it the tenure.
pub(super) struct OpenStore<S> {
    pub(super) reads: ReaderGuard,
    pub(super) store: S,
    pub(super) shared: Arc<JournalShared>,
}

impl<S: Store> OpenStore<S> {
    /// Commits all commands or none, then answers the callers. Without commands only the tenure is checked.
    pub(super) fn commit(&mut self, commands: Vec<Command>, metrics: &Metrics) -> CommitResult {
        if commands.is_empty() {
            return self.store.tenure_loss().map_or(CommitResult::Stored, CommitResult::Failed);
        }
        let begun = Instant::now();
        let done = match self.commit_to_store(&commands) {
            Ok(done) => {
                metrics.committed(begun.elapsed());
                done
            }
            Err(cause) => {
                let error = self.shared.store_error("a commit", cause);
                if error.is_transient() {
                    return CommitResult::NoRoom(commands, error);
                }
                answer_all(commands, &error);
                return CommitResult::Failed(error);
            }
        };
        let lost = self.store.tenure_loss();
        if let Some(
            error @ (JournalError::Lost { .. }
            | JournalError::LockLost { .. }
            | JournalError::Replaced { .. }),
        ) = lost
        {
            answer_all(commands, &error);
            return CommitResult::Failed(error);
        }
        let counters = &self.shared.counters;
        let durable = commands.iter().filter(|command| command.reply.is_some()).count();
        let moves = commands.iter().any(|command| command.work.moves_requests());
        counters.commands.fetch_add(commands.len() as u64, Ordering::Relaxed);
        counters.durable.fetch_add(durable as u64, Ordering::Relaxed);
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.moves.fetch_add(u64::from(moves), Ordering::Relaxed);
        for (command, done) in commands.into_iter().zip(done) {
            // After the commit, so that a repeated step is counted once.
            if let CommandResult::Settled(Settlement { kind, outcome, after }) = &done {
                metrics.settled(*kind, outcome, *after);
                // Others may be held until this one has ended: a key for its preparation, or what is aborted.
                if kind.is_key_operation() {
                    self.shared.reopened.notify_one();
                }
            }
            if let Some(reply) = command.reply {
                let _ = reply.send(Ok(done)); // a caller that gave up is not missed
            }
        }
        lost.map_or(CommitResult::Stored, CommitResult::Failed)
    }

    fn commit_to_store(&mut self, commands: &[Command]) -> Result<Vec<CommandResult>, StoreError> {
        match self.shared.machine.commit_fate() {
            CommitFate::Stored => self.store.commit(commands),
            CommitFate::NotStored => Err(StoreError::new(
                StoreFault::Full,
                "database or disk is full",
                "free space on its filesystem",
            )),
            CommitFate::StoredButReportedFailed => {
                self.store.commit(commands)?;
                Err(StoreError::new(
                    StoreFault::Failing,
                    "disk I/O error",
                    "look at the kernel log",
                ))
            }
        }
    }

    /// With its reading side, if no read is in progress.
    pub(super) fn into_idle_store(self, reads: Option<Box<dyn StoreReader>>) -> IdleStore<S> {
        let Self { reads: end, store, shared } = self;
        drop(end);
        IdleStore { reads, store, shared }
    }
}
