//! Checks that the process may have the threads it starts with. With too few, the runtime would
//! panic, or work would wait for ever.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, Builder},
};

/// Threads besides the runtime's workers: for files, journals and the watch of a directory.
const BLOCKING_THREADS: usize = 8;

/// The system does not allow this many threads.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system allows too few threads ({cause}), and a connector needs {wanted} to begin with: raise the \
     limit of its user or container (ulimit -u, LimitNPROC= and TasksMax= in a unit, --pids-limit of \
     docker)"
)]
pub struct TooFewThreads {
    wanted: usize,
    cause: io::Error,
}

/// Checks that the runtime can start: creates as many threads as it will have, and ends them.
pub fn enough_threads() -> Result<(), TooFewThreads> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    can_spawn(workers + BLOCKING_THREADS, Builder::new)
}

fn can_spawn(wanted: usize, builder: impl Fn() -> Builder) -> Result<(), TooFewThreads> {
    let gate = Arc::new(Mutex::new(()));
    // All threads exist at the same time: each waits for this lock, which is released below.
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let one = |_| {
        let gate = gate.clone();
        builder().spawn(move || drop(gate.lock()))
    };
    let threads: Vec<_> = (0..wanted).map(one).collect();
    drop(closed);
    let mut short = None;
    for thread in threads {
        match thread {
            // Its closure cannot panic.
            Ok(thread) => drop(thread.join()),
            Err(cause) => short = Some(cause),
        }
    }
    short.map_or(Ok(()), |cause| Err(TooFewThreads { wanted, cause }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d8_too_few_threads_are_one_sentence() {
        assert!(enough_threads().is_ok());
        // No system has room for a stack of this size.
        let refused = can_spawn(3, || Builder::new().stack_size(1 << 60)).unwrap_err().to_string();
        assert!(refused.contains("ulimit -u") && refused.contains("needs 3"), "{refused}");
    }
}
