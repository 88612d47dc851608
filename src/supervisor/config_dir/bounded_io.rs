//! File work with a deadline. A hung network mount or a dead FUSE server may block a call for ever.
//! Each file has a limit; a file that exceeds it is given up and not touched again until its thread
//! returns. So it costs one thread and delays no other file. The calls here block, too.
//!
//! One thread works on all files in order. Once a file does not finish, each file behind it gets
//! its own thread, so that a hundred files on one hung mount take no longer than two.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::Builder,
    time::{Duration, Instant},
};

use tracing::warn;

/// How long one file may take.
const FILE_DEADLINE: Duration = Duration::from_secs(3);
/// The most threads for files behind one that does not finish. The rest waits for the next reading.
const MAX_THREADS: usize = 128;

/// The kind of work. A file can be stuck in one kind and fine in another: one whose keys name a
/// file on a hung mount can be read itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileTask {
    Read,
    Load,
    /// Modes of a file and its ancestors, the identity of a directory, its other entries.
    Inspect,
    /// The entries of a directory.
    List,
    /// Opening a watch on a directory.
    Watch,
}

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoStall {
    /// It did not finish within its limit.
    Hangs,
    /// The system provides no thread.
    NoThread,
}

impl IoStall {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Hangs => {
                "fix its file system, which does not answer (a network mount that hangs?)"
            }
            Self::NoThread => {
                "the system allows no more threads: raise the limit (ulimit -u, TasksMax=)"
            }
        }
    }
}

impl fmt::Display for IoStall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hangs => "it does not answer (a network mount that hangs?)",
            Self::NoThread => "the system allows no more threads (ulimit -u, TasksMax=)",
        })
    }
}

type Stuck = BTreeMap<(FileTask, PathBuf), Arc<AtomicBool>>;

/// Runs file work and remembers what did not finish.
#[derive(Clone, Debug, Default)]
pub struct BoundedIo {
    /// The work given up, each with a flag that is set when its thread has returned.
    stuck: Arc<Mutex<Stuck>>,
}

/// A worker thread and its results.
struct Worker<T> {
    results: mpsc::Receiver<(usize, T)>,
    /// Tells the worker to end after its current file.
    is_given_up: Arc<AtomicBool>,
    /// The worker has returned after it was given up.
    has_returned: Arc<AtomicBool>,
}

impl BoundedIo {
    fn stuck(&self) -> MutexGuard<'_, Stuck> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` for one file or directory.
    pub fn run_one<T: Send + 'static>(
        &self,
        what: FileTask,
        file: &Path,
        work: impl Fn(&Path) -> T + Send + Sync + 'static,
    ) -> Result<T, IoStall> {
        let mut results = self.run_each(what, &[file.to_owned()], move |_, file| work(file));
        results.pop().unwrap_or(Err(IoStall::Hangs))
    }

    /// Runs `work` for each file, in this order.
    pub fn run_each<T: Send + 'static>(
        &self,
        what: FileTask,
        files: &[PathBuf],
        work: impl Fn(usize, &Path) -> T + Send + Sync + 'static,
    ) -> Vec<Result<T, IoStall>> {
        self.run_each_on(Builder::new, what, files, work)
    }

    fn run_each_on<T: Send + 'static>(
        &self,
        thread: impl Fn() -> Builder,
        what: FileTask,
        files: &[PathBuf],
        work: impl Fn(usize, &Path) -> T + Send + Sync + 'static,
    ) -> Vec<Result<T, IoStall>> {
        let work = Arc::new(work);
        let mut results: Vec<Result<T, IoStall>> =
            files.iter().map(|_| Err(IoStall::Hangs)).collect();
        let mut left: VecDeque<usize> = {
            let mut stuck = self.stuck();
            stuck.retain(|_, back| !back.load(Ordering::Acquire));
            let is_free = |index: &usize| !stuck.contains_key(&(what, files[*index].clone()));
            (0..files.len()).filter(is_free).collect()
        };
        // One thread is enough as long as every file finishes.
        let all = left.iter().map(|index| (*index, files[*index].clone())).collect();
        let Some(worker) = spawn_worker(thread(), all, work.clone()) else {
            for index in left {
                results[index] = Err(IoStall::NoThread);
            }
            return results;
        };
        while let Some(at) = left.front().copied() {
            left.pop_front();
            let Ok((index, result)) = worker.results.recv_timeout(FILE_DEADLINE) else {
                self.give_up((what, files[at].clone()), &worker);
                break;
            };
            results[index] = Ok(result);
        }
        // One thread for each of the remaining files. They run in parallel, so they share one
        // limit.
        let mut alone = Vec::new();
        for index in left.drain(..).take(MAX_THREADS) {
            match spawn_worker(thread(), vec![(index, files[index].clone())], work.clone()) {
                Some(worker) => alone.push((index, worker)),
                None => results[index] = Err(IoStall::NoThread),
            }
        }
        let until = Instant::now() + FILE_DEADLINE;
        for (index, worker) in alone {
            match worker.results.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((_, result)) => results[index] = Ok(result),
                Err(_) => self.give_up((what, files[index].clone()), &worker),
            }
        }
        results
    }

    fn give_up<T>(&self, of: (FileTask, PathBuf), worker: &Worker<T>) {
        worker.is_given_up.store(true, Ordering::Release);
        let file = of.1.display();
        warn!(%file, limit = ?FILE_DEADLINE, "a file, or one that its keys name, cannot be read to \
                                              its end: it is skipped");
        self.stuck().insert(of, worker.has_returned.clone());
    }
}

/// Starts a worker; `None`: the system provides no thread. Nobody joins it, because it may never
/// end; the process does not wait for it at exit.
fn spawn_worker<T: Send + 'static>(
    thread: Builder,
    files: Vec<(usize, PathBuf)>,
    work: Arc<impl Fn(usize, &Path) -> T + Send + Sync + 'static>,
) -> Option<Worker<T>> {
    let (sender, results) = mpsc::sync_channel(files.len().max(1));
    let (given_up, back) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (ends, is_back) = (given_up.clone(), back.clone());
    let thread = thread.name("files".to_owned()).spawn(move || {
        for (index, file) in files {
            let result = work(index, &file);
            if ends.load(Ordering::Acquire) || sender.send((index, result)).is_err() {
                break;
            }
        }
        is_back.store(true, Ordering::Release);
    });
    thread.is_ok().then_some(Worker { results, is_given_up: given_up, has_returned: back })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn names(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    /// Two of five files do not finish. The others are read once and in order, and the next reading
    /// does not wait. Any number of hanging files takes two limits together.
    #[test]
    fn d1_a_file_that_does_not_end_costs_no_other_its_turn() {
        let (patience, hung) = (BoundedIo::default(), Arc::new(AtomicBool::new(true)));
        let files = names(&["a", "b", "c", "d", "e"]);
        // Bounded, so that waiting for them fails the test instead of blocking it.
        let begun = Instant::now();
        let read = |patience: &BoundedIo| {
            let hung = hung.clone();
            patience.run_each(FileTask::Read, &files, move |index, file| {
                while file.to_str().is_some_and(|name| "bd".contains(name))
                    && hung.load(Ordering::Acquire)
                    && begun.elapsed() < FILE_DEADLINE * 4
                {
                    thread::sleep(Duration::from_millis(10));
                }
                index
            })
        };
        let late = Err(IoStall::Hangs);
        let expected = vec![Ok(0), late, Ok(2), late, Ok(4)];
        assert_eq!(read(&patience), expected);
        let begun = Instant::now();
        assert_eq!(read(&patience), expected, "known to hang");
        assert!(begun.elapsed() < FILE_DEADLINE);
        hung.store(false, Ordering::Release);
        while patience.stuck().values().any(|back| !back.load(Ordering::Acquire)) {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(read(&patience), (0..5).map(Ok).collect::<Vec<_>>(), "they answer again");
        assert!(patience.stuck().is_empty());
        assert_eq!(patience.run_each(FileTask::Read, &[], |index, _| index), []);

        hung.store(true, Ordering::Release);
        let (begun, many) = (Instant::now(), names(&["b"; 6]));
        let none = patience.run_each(FileTask::Load, &many, {
            let hung = hung.clone();
            move |_, _| {
                while hung.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        assert_eq!(none, vec![Err(IoStall::Hangs); 6]);
        assert!(begun.elapsed() < FILE_DEADLINE * 3, "{:?}", begun.elapsed());
        hung.store(false, Ordering::Release);
    }

    /// As for a user at its thread limit: that is not a hanging file.
    #[test]
    fn d8_no_thread_is_not_taken_for_a_file_that_hangs() {
        let patience = BoundedIo::default();
        let files = names(&["a", "b"]);
        let results = patience.run_each_on(
            || Builder::new().stack_size(1 << 60),
            FileTask::Read,
            &files,
            |index, _| index,
        );
        assert_eq!(results, [Err(IoStall::NoThread); 2]);
        assert!(IoStall::NoThread.remedy().contains("ulimit -u"));
        assert_eq!(patience.run_each(FileTask::Read, &files, |index, _| index), [Ok(0), Ok(1)]);
    }
}
