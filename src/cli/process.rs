//! The limits of this process: core dumps, open files and threads.

mod limits;
pub(super) mod core_dumps;
pub(super) mod open_files;
mod threads;

pub use self::threads::{TooFewThreads, enough_threads};
