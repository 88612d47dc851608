//! What the kernel says of a process.

use std::{collections::BTreeSet, fs, time::Duration};

use super::{Error, Result};

/// Ticks of `/proc/<pid>/stat` in a second; Linux tells user space no other number.
const TICKS: u64 = 100;

/// What a process takes of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub rss_kib: u64,
    /// The most it ever was.
    pub peak_kib: u64,
    pub threads: u64,
    pub files: usize,
    pub sockets: usize,
    /// Processor time since it began.
    pub cpu: Duration,
    /// Bytes that were written to disk since it began.
    pub written: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).map_err(|e| Error::Io(path, e))
        };
        let status = read("status")?;
        let io = read("io")?;
        let number = |text: &str, name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let word = line.and_then(|line| line.split_whitespace().next());
            let number = word.and_then(|word| word.parse().ok());
            number.ok_or_else(|| Error::other(format!("/proc/{pid} tells no {name}")))
        };
        let field = |name: &str| number(&status, name);
        let stat = read("stat")?;
        // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse().unwrap_or(0))
            .sum();
        let targets = descriptors(pid)?;
        Ok(Self {
            rss_kib: field("VmRSS")?,
            peak_kib: field("VmHWM")?,
            threads: field("Threads")?,
            files: targets.len(),
            sockets: targets.iter().filter(|target| target.starts_with("socket:")).count(),
            cpu: Duration::from_millis(ticks * 1000 / TICKS),
            written: number(&io, "write_bytes")?,
        })
    }
}

/// The open TCP connections of a process to `127.0.0.1:port`, by the kernel's number of the socket:
/// the same number is the same connection.
pub fn connections(pid: u32, port: u16) -> Result<BTreeSet<u64>> {
    let sockets: BTreeSet<u64> = descriptors(pid)?
        .iter()
        .filter_map(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect();
    let path = format!("/proc/{pid}/net/tcp");
    let table = fs::read_to_string(&path).map_err(|e| Error::Io(path, e))?;
    let to = format!("0100007F:{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 01 is established.
        if fields.get(2) != Some(&to.as_str()) || fields.get(3) != Some(&"01") {
            return None;
        }
        fields.get(9)?.parse().ok()
    };
    Ok(table.lines().filter_map(inode).filter(|inode| sockets.contains(inode)).collect())
}

/// What the descriptors of a process stand for.
fn descriptors(pid: u32) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&path).map_err(|e| Error::Io(path, e))?;
    // One that was closed meanwhile does not count.
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(targets.map(|target| target.to_string_lossy().into_owned()).collect())
}
