//! The file system a journal is on, and the process that has it locked: facts that an error of `SQLite` does
//! not contain. `SQLite` reports every lock it does not get as held by another process, even where the file
//! system cannot lock at all (`ENOLCK`: NFS without its lock service). Blocking.

use std::{
    borrow::Cow,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{major, minor, statfs};

/// A kind of file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    name: Cow<'static, str>,
    /// Other hosts may write there too, and its locks are only as reliable as the network.
    pub is_network: bool,
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FileSystem {
    /// The file system of `path`. If `path` does not exist, that of its closest existing ancestor.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = path.ancestors().find_map(|above| statfs(above).ok())?;
        u32::try_from(found.f_type & 0xffff_ffff).ok().map(Self::of_magic)
    }

    /// By its magic number, as statfs(2) returns it.
    fn of_magic(magic: u32) -> Self {
        let (name, is_network) = match magic {
            0x6969 => ("nfs", true),
            0x517b | 0xff53_4d42 | 0xfe53_4d42 => ("smb", true),
            0x00c3_6400 => ("ceph", true),
            0x0102_1997 => ("9p", true),
            0x5346_414f | 0x6b41_4653 => ("afs", true),
            0x0bd0_0bd0 => ("lustre", true),
            0x4750_4653 => ("gpfs", true),
            0x0116_1970 => ("gfs2", true),
            0x7461_636f => ("ocfs2", true),
            0x6573_5546 => ("fuse", false),
            0xef53 => ("ext4", false),
            0x5846_5342 => ("xfs", false),
            0x9123_683e => ("btrfs", false),
            0x2fc1_2fc1 => ("zfs", false),
            0xf2f5_2010 => ("f2fs", false),
            0x0102_1994 => ("tmpfs", false),
            0x794c_7630 => ("overlay", false),
            other => return Self { name: format!("{other:#x}").into(), is_network: false },
        };
        Self { name: name.into(), is_network }
    }
}

/// What was found out about a file when an error occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FileDiagnosis {
    file_system: Option<FileSystem>,
    /// The process that has it locked, if it is visible from here.
    holder: Option<u32>,
    /// The process's limit on file sizes in bytes (`RLIMIT_FSIZE`), if the file has nearly reached it.
    full_at: Option<u64>,
}

impl FileDiagnosis {
    pub(super) fn of(path: &Path) -> Self {
        let full_at = file_size_limit().filter(|limit| is_near_limit(path, *limit));
        Self { file_system: FileSystem::of(path), holder: lock_holder(path), full_at }
    }

    fn network(&self) -> Option<&FileSystem> {
        self.file_system.as_ref().filter(|on| on.is_network)
    }

    /// Advice for a lock that was not acquired.
    pub(super) fn lock_advice(&self) -> String {
        match (self.holder, &self.file_system) {
            (Some(pid), _) => format!("process {pid} holds it locked: end its transaction"),
            (None, Some(on)) if on.is_network => format!(
                "no process here has it locked, and it is on {on}, a network file system, whose \
                 locks fail or are held elsewhere: {USE_LOCAL_DISK}"
            ),
            (None, Some(on)) => format!(
                "another program has it locked that cannot be seen from here, or its file system \
                 ({on}) cannot lock: find the program that has it open (lslocks, fuser)"
            ),
            (None, None) => "it is locked, and its file system does not answer".to_owned(),
        }
    }

    /// Advice for an I/O error.
    pub(super) fn failure_advice(&self) -> String {
        match (self.full_at, self.network()) {
            (Some(limit), _) => format!(
                "it is as large as this process may make a file ({limit} bytes): raise the limit \
                 (ulimit -f, LimitFSIZE=)"
            ),
            (None, Some(on)) => format!("it is on {on}, a network file system: {USE_LOCAL_DISK}"),
            (None, None) => "the file system fails: check the kernel log".to_owned(),
        }
    }

    /// Advice for a file system that cannot lock.
    pub(super) fn no_locks_advice(&self) -> String {
        let on = self.file_system.as_ref().map_or_else(String::new, |on| format!(" ({on})"));
        format!("its file system{on} cannot lock files: {USE_LOCAL_DISK}")
    }
}

/// Advice for a network file system.
pub const USE_LOCAL_DISK: &str = "put the state directory on a local disk";

/// The largest file this process may write, in bytes. Read from `/proc`, because a sandbox may forbid
/// getrlimit(2).
fn file_size_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let words = limits.lines().find_map(|line| line.strip_prefix("Max file size"))?;
    words.split_whitespace().next()?.parse().ok()
}

/// Returns whether the journal or its write-ahead log is so large that a write may have met the limit. One
/// write is never larger than the margin of 1 MiB.
fn is_near_limit(path: &Path, limit: u64) -> bool {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    [path.to_owned(), PathBuf::from(wal)].iter().any(|file| {
        fs::metadata(file).is_ok_and(|found| found.len() > limit.saturating_sub(1 << 20))
    })
}

/// Returns the process that has the journal at `path` locked. Does not open the file: closing it would
/// release this process's own locks on it (fcntl(2)).
fn lock_holder(path: &Path) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let mut shm = path.as_os_str().to_owned();
    shm.push("-shm");
    [path.to_owned(), PathBuf::from(shm)].iter().find_map(|file| {
        let found = fs::metadata(file).ok()?;
        let file = (major(found.dev()), minor(found.dev()), found.ino());
        parse_lock_holder(&locks, file, std::process::id())
    })
}

/// Returns the process, other than `us`, that holds an fcntl(2) lock on this file (device and inode),
/// according to `/proc/locks`:
///
/// ```text
/// 1: POSIX  ADVISORY  WRITE 4711 08:01:1312 1073741824 1073742335
/// ```
fn parse_lock_holder(locks: &str, (major, minor, inode): (u32, u32, u64), us: u32) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let kind = words.nth(1)?;
        let pid: u32 = words.nth(2)?.parse().ok()?;
        (kind == "POSIX" && words.next()? == file && pid != us).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_network_file_systems_are_known_by_their_number() {
        for (magic, name) in [(0x6969, "nfs"), (0xff53_4d42, "smb"), (0x0102_1997, "9p")] {
            let found = FileSystem::of_magic(magic);
            assert!(found.is_network && found.to_string() == name, "{found}");
        }
        for magic in [0xef53, 0x5846_5342, 0x0102_1994, 0x1234] {
            assert!(!FileSystem::of_magic(magic).is_network);
        }
        let dir = tempfile::tempdir().unwrap();
        let there = FileSystem::of(dir.path()).unwrap();
        assert_eq!(FileSystem::of(&dir.path().join("not/yet")), Some(there.clone()));
        assert!(!there.is_network, "{there}");
    }

    #[test]
    fn c8_a_holder_is_named_only_if_there_is_one() {
        let locks = "1: FLOCK  ADVISORY  WRITE 7 08:01:1312 0 EOF\n\
                     2: POSIX  ADVISORY  READ 8 08:02:1312 1073741826 1073742335\n\
                     2: -> POSIX  ADVISORY  WRITE 9 08:01:1312 1073741824 1073742335\n\
                     3: OFDLCK ADVISORY  WRITE -1 08:01:1312 0 EOF\n\
                     4: POSIX  ADVISORY  WRITE 4711 08:01:1312 1073741824 1073742335\n";
        assert_eq!(parse_lock_holder(locks, (8, 1, 1312), 1), Some(4711));
        assert_eq!(parse_lock_holder(locks, (8, 1, 1312), 4711), None, "that is us");
        assert_eq!(parse_lock_holder(locks, (8, 1, 1313), 1), None);
        assert_eq!(parse_lock_holder("", (8, 1, 1312), 1), None);

        let said = |on: Option<u32>, holder| {
            FileDiagnosis { file_system: on.map(FileSystem::of_magic), holder, full_at: None }
                .lock_advice()
        };
        assert!(said(Some(0xef53), Some(4711)).contains("process 4711 holds it"));
        let network = said(Some(0x6969), None);
        assert!(network.contains("on nfs") && network.contains("local disk"), "{network}");
        assert!(!said(Some(0xef53), None).contains("local disk"));
    }

    #[test]
    fn c8_a_limit_of_file_sizes_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sqlite3");
        fs::write(&path, vec![0; 3 << 20]).unwrap();
        for (limit, is_near) in [(3 << 20, true), (7 << 19, true), (5 << 20, false)] {
            assert_eq!(is_near_limit(&path, limit), is_near, "{limit}");
        }
        let said =
            FileDiagnosis { full_at: Some(1 << 20), ..FileDiagnosis::default() }.failure_advice();
        assert!(said.contains("ulimit -f") && !said.contains("kernel log"), "{said}");
    }
}
