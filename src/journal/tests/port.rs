//! The writer over a fake store: how it reacts to what the port returns.

use std::sync::{
    Arc, Mutex as Lock,
    atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::journal::{
    commands::{Command, CommandResult},
    store::{Query, Store, StoreId, StoreReader},
    writer::{JournalParts, assemble},
};

/// A store with scripted results.
#[derive(Clone, Default)]
struct Fake {
    /// The number of commands in each commit.
    commits: Arc<Lock<Vec<usize>>>,
    /// This many commits fail because it is locked.
    locked: Arc<AtomicU32>,
    lost: Option<JournalError>,
}

impl Store for Fake {
    fn commit(&mut self, commands: &[Command]) -> Result<Vec<CommandResult>, StoreError> {
        let is_one = |left: u32| left.checked_sub(1);
        if self.locked.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_one).is_ok() {
            return Err(StoreError::new(StoreFault::Locked, "somebody has it", "wait"));
        }
        self.commits.lock().unwrap().push(commands.len());
        Ok(commands.iter().map(|_| CommandResult::Nothing).collect())
    }

    fn tenure_loss(&mut self) -> Option<JournalError> {
        self.lost.clone()
    }

    fn id(&self) -> StoreId {
        StoreId(None)
    }
}

/// Answers no query.
struct Nobody;

impl StoreReader for Nobody {
    fn query(&self, _: RequestSource, _: Query) {}
}

fn run(fake: Fake) -> (Journal, JoinSet<Result<(), JournalError>>) {
    let opening = JournalParts {
        path: "fake".into(),
        identity: identity(),
        source: RequestSource { chain_id: 1, contract: CONTRACT },
        machine: Machine::default(),
        warnings: Vec::new(),
    };
    let (journal, writer) = assemble(fake, Box::new(Nobody), opening);
    let mut tasks = JoinSet::new();
    let running = writer.run(Heartbeat::default(), Metrics::default(), CancellationToken::new());
    tasks.spawn(async move { running.await.map(drop) });
    (journal, tasks)
}

#[tokio::test]
async fn what_is_asked_for_at_once_is_one_commit_and_a_lock_is_waited_for() {
    let fake = Fake { locked: Arc::new(2.into()), ..Fake::default() };
    let (journal, _running) = run(fake.clone());
    let stored = (0..40).map(|_| journal.store_batch(batch([1], None)));
    let stored =
        tokio::time::timeout(Duration::from_secs(20), futures_util::future::join_all(stored));
    assert!(stored.await.unwrap().iter().all(Result::is_ok));
    let commits = fake.commits.lock().unwrap().clone();
    assert_eq!(commits.iter().sum::<usize>(), 40);
    // The first command is repeated alone until it is stored.
    assert!(commits.len() <= 2, "{commits:?}");
    journal.flush().await.unwrap();
    assert!(journal.condition().waiting_reason().is_none());
    assert!(journal.ask(Query::Cursor).await.is_err(), "no answer");
}

/// With the tenure lost nothing counts as stored, unless the store reports that nothing is lost.
#[tokio::test]
async fn a_lost_tenure_ends_the_writer_and_everybody_hears_of_it() {
    let path = || "fake".into();
    for (lost, is_stored) in [
        (JournalError::Replaced { path: path() }, false),
        (JournalError::Deleted { path: path() }, true),
    ] {
        let (journal, mut running) = run(Fake { lost: Some(lost.clone()), ..Fake::default() });
        let told = journal.store_batch(batch([1], None)).await;
        assert_eq!(told.is_ok(), is_stored);
        if let Err(error) = told {
            assert_eq!(error.code(), lost.code());
        }
        let ended = running.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(ended.code(), lost.code());
        let late = journal.flush().await.unwrap_err();
        assert_eq!(late.code(), lost.code(), "and why it ended");
    }
}
