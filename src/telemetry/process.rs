//! The resources of the process as the kernel reports them. `None`: not reported, as on systems
//! other than Linux.

use std::fs;

/// The values now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<f64>,
    pub open_fds: Option<f64>,
    pub max_fds: Option<f64>,
    pub threads: Option<f64>,
}

/// Reads `/proc`, which never waits for a disk.
#[must_use]
pub fn usage() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // One entry is the directory being read.
    let open = fs::read_dir("/proc/self/fd").ok().map(|open| open.count().saturating_sub(1));
    Usage {
        cpu_seconds: cpu_seconds(&stat),
        resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024.0),
        open_fds: open.and_then(|open| u32::try_from(open).ok()).map(f64::from),
        max_fds: field(&limits, "Max open files"),
        threads: field(&status, "Threads:"),
    }
}

/// The first number after this name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User plus system time: fields 14 and 15, see proc(5). Counted after the program's name, which
/// may contain blanks.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    let hundredths = ticks()? + ticks()?;
    // USER_HZ is 100 on every Linux that Rust supports.
    Some(hundredths / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_this_process_takes() {
        let Usage { cpu_seconds, resident_bytes, open_fds, max_fds, threads } = usage();
        assert!(cpu_seconds.unwrap() >= 0.0);
        assert!(resident_bytes.unwrap() > 1_000_000.0);
        assert!(open_fds.unwrap() >= 3.0 && open_fds <= max_fds);
        assert!(threads.unwrap() >= 1.0);
    }

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
    }
}
