//! The ground under a simulated world (`instance::simulation`): what the product asks of the
//! machine itself, and not of a port. Only in tests; without a [`Ground`] on the thread everything
//! is real.
//!
//! Three things would make a run differ from the next one of the same seed: the wall clock, the
//! threads that blocking work runs on, and how long the disk takes. Here the clock follows the
//! runtime's paused one, blocking work runs in place after a turn that the world decides on, and a
//! commit fails when the world says so. What is committed stays in the file: a process dies by being
//! dropped, and the file is what it leaves.

use std::{cell::RefCell, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

/// When a commit fails: the store had no room for it, or took it and could not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFault {
    NotStored,
    StoredUnsaid,
}

/// What the world decides for the machine.
#[derive(Clone)]
pub(crate) struct Ground {
    /// Where the clock begins.
    pub begun: Instant,
    /// Waited for before each piece of blocking work. A dead process waits for ever.
    pub turn: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Asked once at each commit.
    pub commit: Arc<dyn Fn() -> Option<DiskFault> + Send + Sync>,
}

thread_local! {
    static GROUND: RefCell<Option<Ground>> = const { RefCell::new(None) };
}

/// Midnight of the first day of 2025, in Unix milliseconds.
const EPOCH: u64 = 1_735_689_600_000;

/// Puts a ground under this thread, or takes it away.
pub(crate) fn set(ground: Option<Ground>) {
    GROUND.set(ground);
}

pub(crate) fn is_on() -> bool {
    GROUND.with_borrow(Option::is_some)
}

pub(crate) fn unix_millis() -> Option<u64> {
    let begun = GROUND.with_borrow(|ground| ground.as_ref().map(|ground| ground.begun))?;
    Some(EPOCH + u64::try_from(begun.elapsed().as_millis()).unwrap_or(0))
}

/// To be waited for before blocking work is done in place.
pub(crate) fn turn() -> Option<BoxFuture<'static, ()>> {
    let turn = GROUND.with_borrow(|ground| ground.as_ref().map(|ground| ground.turn.clone()))?;
    Some(turn())
}

/// Whether this commit fails.
pub(crate) fn commit() -> Option<DiskFault> {
    let commit =
        GROUND.with_borrow(|ground| ground.as_ref().map(|ground| ground.commit.clone()))?;
    commit()
}

/// What a full disk says.
pub(crate) fn disk_full() -> rusqlite::Error {
    let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    rusqlite::Error::SqliteFailure(full, Some("database or disk is full".to_owned()))
}

/// What a disk says that fails after it has taken everything.
pub(crate) fn disk_failure() -> rusqlite::Error {
    let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
    rusqlite::Error::SqliteFailure(failure, Some("disk I/O error".to_owned()))
}
