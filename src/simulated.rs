//! The wall clock of a simulated world (`instance::simulation`): it follows the runtime's paused one. Only
//! in tests; where none is set on the thread the machine's is read.

use std::cell::Cell;

use tokio::time::Instant;

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Midnight of the first day of 2025, in Unix milliseconds.
const EPOCH: u64 = 1_735_689_600_000;

/// Has this thread's clock begin at this moment, or be the machine's.
pub(crate) fn set(begun: Option<Instant>) {
    BEGUN.set(begun);
}

pub(crate) fn unix_millis() -> Option<u64> {
    let begun = BEGUN.get()?;
    Some(EPOCH + u64::try_from(begun.elapsed().as_millis()).unwrap_or(0))
}
