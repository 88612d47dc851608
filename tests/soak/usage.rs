//! What the process takes of the machine, over its life.

use std::{fmt::Write as _, time::Duration};

use tokio::time::Instant;
use world::{
    Error, Result,
    procfs::{Usage, connections},
};

/// How often it is looked at.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// The most that the last window may be above the first.
const GROWTH: f64 = 0.10;
const WINDOW: Duration = Duration::from_mins(5);
/// Caches fill (those of the journals' connections, 2 MiB an instance, for minutes), the first
/// connections are made.
const WARM_UP: Duration = Duration::from_mins(5);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    pid: u32,
    rss_kib: u64,
    files: usize,
    /// Of these, connections to the buckets: a pool that swells with each burst.
    pooled: usize,
}

/// The samples of all processes, in order.
#[derive(Debug)]
pub struct Samples {
    begun: Instant,
    list: Vec<Sample>,
}

impl Samples {
    pub fn new() -> Self {
        Self { begun: Instant::now(), list: Vec::new() }
    }

    /// Looks at a process and its connections to the buckets. One that was just killed is left out.
    pub fn take(&mut self, pid: u32, buckets: u16) {
        let Ok(Usage { rss_kib, files, .. }) = Usage::of(pid) else { return };
        let pooled = connections(pid, buckets).map_or(0, |pooled| pooled.len());
        self.list.push(Sample { at: self.begun.elapsed(), pid, rss_kib, files, pooled });
    }

    pub fn csv(&self) -> String {
        let mut text = String::from("seconds,pid,rss_kib,files,pooled\n");
        for Sample { at, pid, rss_kib, files, pooled } in &self.list {
            let _ = writeln!(text, "{:.0},{pid},{rss_kib},{files},{pooled}", at.as_secs_f64());
        }
        text
    }

    /// The last process: after kill -9 another one begins small, so only its own life tells whether
    /// it grows. Its first minutes, after a warm-up, against its last.
    pub fn verdict(&self) -> Result<Growth> {
        let last = self.list.last().ok_or_else(|| Error::other("nothing was measured"))?;
        let mine: Vec<Sample> =
            self.list.iter().filter(|sample| sample.pid == last.pid).copied().collect();
        let (born, life) = (mine[0].at, last.at.saturating_sub(mine[0].at));
        let warm = born + WARM_UP.min(life / 4);
        let window = WINDOW.min(last.at.saturating_sub(warm) / 3);
        let within = |from: Duration| {
            let to = from + window;
            Window::of(mine.iter().filter(|sample| (from..=to).contains(&sample.at)))
        };
        let (first, end) = (within(warm), within(last.at.saturating_sub(window)));
        Ok(Growth { life, window, first, last: end })
    }
}

/// What a process took over some minutes.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// The median, in MiB.
    rss: f64,
    /// The least: pools of connections swell with each fault and shrink a minute and a half later, so
    /// that any mean tells of the faults. What never comes back is in the least as well.
    files: usize,
    most_files: usize,
}

impl Window {
    fn of<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
        let samples: Vec<&Sample> = samples.collect();
        let mut rss: Vec<u64> = samples.iter().map(|sample| sample.rss_kib).collect();
        rss.sort_unstable();
        let median = rss.get(rss.len() / 2).copied().unwrap_or_default();
        let files = samples.iter().map(|sample| sample.files);
        Self {
            rss: f64::from(u32::try_from(median).unwrap_or(u32::MAX)) / 1024.0,
            files: files.clone().min().unwrap_or_default(),
            most_files: files.max().unwrap_or_default(),
        }
    }
}

/// The first window of a process against its last.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    life: Duration,
    window: Duration,
    first: Window,
    last: Window,
}

impl Growth {
    /// Whether the windows are long enough to say anything.
    pub fn is_telling(&self) -> bool {
        self.window >= WINDOW
    }

    pub fn is_flat(&self) -> bool {
        let (first, last) = (self.first, self.last);
        // In whole numbers: ten of the last are at most eleven of the first.
        last.rss <= first.rss * (1.0 + GROWTH) && last.files * 10 <= first.files * 11
    }
}

impl std::fmt::Display for Growth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Window { rss, files, most_files }, last) = (self.first, self.last);
        let seconds = self.window.as_secs();
        write!(
            f,
            "the process that lived last, {:.0} s; its first {seconds} s when warm against its last \
             {seconds} s:\n  resident     {rss:.1} -> {:.1} MiB, {:+.1} % (medians)\n  \
             open files   at least {files} -> {}, at most {most_files} -> {}",
            self.life.as_secs_f64(),
            last.rss,
            (last.rss / rss - 1.0) * 100.0,
            last.files,
            last.most_files,
        )
    }
}
