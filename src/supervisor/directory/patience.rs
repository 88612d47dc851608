//! File work that may never end: a hung network mount, a FUSE server that died. Each file has a limit;
//! one that keeps its thread longer is given up, and not touched again before that thread is back, so
//! that it costs one thread and no other file its turn. Blocks, as file work does.
//!
//! In order, all files are one thread's work. Once one of them does not end, each of those behind it
//! gets a thread of its own, so that a hundred files on one hung mount take no longer than two.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

/// How long one file may take.
const LIMIT: Duration = Duration::from_secs(3);
/// Threads for those behind a file that does not end. More wait for the next reading.
const AT_ONCE: usize = 128;

/// What is done with files. One whose keys name a file that hangs can be read itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Read,
    Load,
    /// Its modes and those of what is above it.
    Look,
}

type Stuck = BTreeMap<(Work, PathBuf), Arc<AtomicBool>>;

/// What is known of files that did not end.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// Whether their threads are back.
    stuck: Arc<Mutex<Stuck>>,
}

/// A worker's list, and whether somebody waits for its results.
struct Worker<T> {
    results: mpsc::Receiver<(usize, T)>,
    /// The worker is to end after the file it is at.
    given_up: Arc<AtomicBool>,
    /// It is done with the file it was at when it was given up.
    back: Arc<AtomicBool>,
}

impl Patience {
    fn stuck(&self) -> MutexGuard<'_, Stuck> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` for each file, in this order. `None`: it did not end.
    pub fn each<T: Send + 'static>(
        &self,
        what: Work,
        files: &[PathBuf],
        work: impl Fn(usize, &Path) -> T + Send + Sync + 'static,
    ) -> Vec<Option<T>> {
        let work = Arc::new(work);
        let mut results: Vec<Option<T>> = files.iter().map(|_| None).collect();
        let mut left: VecDeque<usize> = {
            let mut stuck = self.stuck();
            stuck.retain(|_, back| !back.load(Ordering::Acquire));
            let is_free = |index: &usize| !stuck.contains_key(&(what, files[*index].clone()));
            (0..files.len()).filter(is_free).collect()
        };
        // One thread, as long as all of them end.
        let all = left.iter().map(|index| (*index, files[*index].clone())).collect();
        let Some(worker) = start(all, work.clone()) else { return results };
        while let Some(at) = left.front().copied() {
            left.pop_front();
            let Ok((index, result)) = worker.results.recv_timeout(LIMIT) else {
                self.give_up((what, files[at].clone()), &worker);
                break;
            };
            results[index] = Some(result);
        }
        // A thread for each of those behind.
        let alone = left.drain(..).take(AT_ONCE).filter_map(|index| {
            let worker = start(vec![(index, files[index].clone())], work.clone())?;
            Some((index, worker))
        });
        // They run at the same time, so they share one limit.
        let alone: Vec<_> = alone.collect();
        let until = Instant::now() + LIMIT;
        for (index, worker) in alone {
            match worker.results.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((_, result)) => results[index] = Some(result),
                Err(_) => self.give_up((what, files[index].clone()), &worker),
            }
        }
        results
    }

    fn give_up<T>(&self, of: (Work, PathBuf), worker: &Worker<T>) {
        worker.given_up.store(true, Ordering::Release);
        let file = of.1.display();
        warn!(%file, limit = ?LIMIT, "a file, or one that its keys name, is not read to its end: it is left out");
        self.stuck().insert(of, worker.back.clone());
    }
}

/// Begins; `None`: the system has no thread. Nobody joins it, because it may never end; the process
/// does not wait for it.
fn start<T: Send + 'static>(
    files: Vec<(usize, PathBuf)>,
    work: Arc<impl Fn(usize, &Path) -> T + Send + Sync + 'static>,
) -> Option<Worker<T>> {
    let (sender, results) = mpsc::sync_channel(files.len().max(1));
    let (given_up, back) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (ends, is_back) = (given_up.clone(), back.clone());
    let thread = thread::Builder::new().name("files".to_owned()).spawn(move || {
        for (index, file) in files {
            let result = work(index, &file);
            if ends.load(Ordering::Acquire) || sender.send((index, result)).is_err() {
                break;
            }
        }
        is_back.store(true, Ordering::Release);
    });
    thread.is_ok().then_some(Worker { results, given_up, back })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    /// Two of five files do not end; the others are read, once and in order, and the next reading
    /// waits for nobody. However many hang, they take two limits together.
    #[test]
    fn d1_a_file_that_does_not_end_costs_no_other_its_turn() {
        let (patience, hung) = (Patience::default(), Arc::new(AtomicBool::new(true)));
        let files = names(&["a", "b", "c", "d", "e"]);
        // Not for ever, so that who waits for them fails here.
        let begun = Instant::now();
        let read = |patience: &Patience| {
            let hung = hung.clone();
            patience.each(Work::Read, &files, move |index, file| {
                while file.to_str().is_some_and(|name| "bd".contains(name))
                    && hung.load(Ordering::Acquire)
                    && begun.elapsed() < LIMIT * 4
                {
                    thread::sleep(Duration::from_millis(10));
                }
                index
            })
        };
        let expected = vec![Some(0), None, Some(2), None, Some(4)];
        assert_eq!(read(&patience), expected);
        let begun = Instant::now();
        assert_eq!(read(&patience), expected, "known to hang");
        assert!(begun.elapsed() < LIMIT);
        hung.store(false, Ordering::Release);
        while patience.stuck().values().any(|back| !back.load(Ordering::Acquire)) {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(read(&patience), (0..5).map(Some).collect::<Vec<_>>(), "they answer again");
        assert!(patience.stuck().is_empty());
        assert_eq!(patience.each(Work::Read, &[], |index, _| index), []);

        hung.store(true, Ordering::Release);
        let (begun, many) = (Instant::now(), names(&["b"; 6]));
        let none = patience.each(Work::Load, &many, {
            let hung = hung.clone();
            move |_, _| {
                while hung.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        assert_eq!(none, vec![None; 6]);
        assert!(begun.elapsed() < LIMIT * 3, "{:?}", begun.elapsed());
        hung.store(false, Ordering::Release);
    }
}
