//! Probes the state directory and its journal.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{Access, FlockOperation, access, fcntl_lock, flock, statvfs};
use tokio::{task::spawn_blocking, time::timeout};

use super::{DEADLINE, Finding};
use crate::{
    admin::status::OtherContracts,
    domain::{Address, B256, HoldReason, RequestSource},
    journal::{self, FileSystem, Holder, Identity, Inspection, OpenError},
    time::clock,
};

const DIRECTORY: &str = "state directory";
const SPACE: &str = "disk space";
const JOURNAL: &str = "journal";
const REQUESTS: &str = "requests";
/// Warn below this: room for the journal of a busy week and for other files.
const LOW_BYTES: u64 = 1 << 30;
const FULL_BYTES: u64 = 64 << 20;
/// How many file names are tried; more than killed checks leave behind.
const NAMES: usize = 1000;
/// Written to test whether the directory is writable.
const SAMPLE: [u8; 16 * 1024] = [0x5a; 16 * 1024];
/// A running connector is never this many blocks behind.
const LAG_WARNING_BLOCKS: u64 = 300;
/// A request that failed once has usually succeeded within this time.
const SLOW_MS: u64 = 10_000;

/// Checks whether the directory is writable, whether files in it can be locked, and the free space.
pub(super) async fn diagnose_directory(dir: PathBuf) -> Vec<Finding> {
    let looking = spawn_blocking(move || {
        let (there, standing) = (dir.is_dir(), nearest_existing(&dir));
        let mut findings = vec![writable(&dir, there, &standing)];
        let on = FileSystem::of(&standing);
        findings.extend(on.and_then(|on| network_warning(&on)));
        findings.push(space(&standing));
        findings
    });
    match timeout(DEADLINE, looking).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(_)) | Err(_) => vec![Finding::fail(
            DIRECTORY,
            "the disk does not answer",
            "look at the kernel's log and at the mount",
        )],
    }
}

/// The directory, or its nearest existing ancestor.
fn nearest_existing(dir: &Path) -> PathBuf {
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let found = full.ancestors().find(|above| above.exists()).map(Path::to_owned);
    found.unwrap_or(full)
}

fn writable(dir: &Path, there: bool, standing: &Path) -> Finding {
    let shown = dir.display();
    let remedy = "make it writable for the user of the service (run the check as that user), and \
                  free space";
    if there {
        return match write_sample(dir) {
            Ok(()) => Finding::ok(DIRECTORY, format!("{shown} can be written")),
            Err(SampleError::Unwritten(error)) => {
                Finding::fail(DIRECTORY, format!("{shown}: {error}"), remedy)
            }
            Err(SampleError::Unlocked(error)) => {
                let found = format!("{shown}: no file there can be locked: {error}");
                Finding::fail(DIRECTORY, found, journal::USE_LOCAL_DISK)
            }
        };
    }
    if !standing.is_dir() {
        let found = format!("{shown} cannot be made: {} is not a directory", standing.display());
        return Finding::fail(DIRECTORY, found, "correct --state-dir or KMS_CONNECTOR_STATE_DIR");
    }
    match access(standing, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok(DIRECTORY, format!("{shown} is not there yet and can be made")),
        Err(error) => {
            let found = format!("{shown} is not there and cannot be made: {error}");
            Finding::fail(DIRECTORY, found, remedy)
        }
    }
}

/// What failed with a file written and locked like a journal.
#[derive(Debug)]
enum SampleError {
    Unwritten(io::Error),
    Unlocked(io::Error),
}

/// Writes a file as durably as a journal, and locks it in both ways that a journal is locked.
fn write_sample(dir: &Path) -> Result<(), SampleError> {
    let mut file = create_unnamed(dir).map_err(SampleError::Unwritten)?;
    let written = file.write_all(&SAMPLE).and_then(|()| file.sync_all());
    let locks = [flock, fcntl_lock];
    let locked = locks
        .into_iter()
        .try_for_each(|lock| lock(&file, FlockOperation::NonBlockingLockExclusive));
    written.map_err(SampleError::Unwritten)?;
    locked.map_err(|error| SampleError::Unlocked(error.into()))
}

/// Creates a file and removes its name at once, so that it vanishes when closed. Other checks use the
/// same directory meanwhile, in this process and in others, and a killed check may have left its file
/// name.
fn create_unnamed(dir: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut taken = io::ErrorKind::AlreadyExists.into();
    for _ in 0..NAMES {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".check-{}-{number}", std::process::id()));
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
            Ok(file) => return fs::remove_file(&path).map(|()| file),
        }
    }
    Err(taken)
}

/// Warns of a network file system.
fn network_warning(on: &FileSystem) -> Option<Finding> {
    let found = format!(
        "it is on {on}, a network file system: its locks are no better than the network, and a \
         journal that two hosts write is lost"
    );
    on.is_network.then(|| Finding::warn(DIRECTORY, found, journal::USE_LOCAL_DISK))
}

fn space(standing: &Path) -> Finding {
    let found = match statvfs(standing) {
        Ok(found) => found,
        Err(error) => {
            return Finding::warn(SPACE, error.to_string(), "look at the mount");
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let shown = format!("{} MiB free below {}", free >> 20, standing.display());
    let remedy = "free space, or move the state directory to a larger disk";
    if found.f_files > 0 && found.f_favail == 0 {
        return Finding::fail(SPACE, format!("{shown}, and no inode"), remedy);
    }
    match free {
        0..FULL_BYTES => Finding::fail(SPACE, shown, remedy),
        FULL_BYTES..LOW_BYTES => Finding::warn(SPACE, shown, remedy),
        LOW_BYTES.. => Finding::ok(SPACE, shown),
    }
}

/// The instance whose journal is diagnosed, and the chain's head.
pub(super) struct JournalTarget {
    /// Chain and contract.
    pub source: RequestSource,
    pub genesis: B256,
    pub wallet: Address,
    pub head: Option<u64>,
}

/// Diagnoses the journal and its requests.
pub(super) async fn diagnose_journal(dir: PathBuf, whose: &JournalTarget) -> Vec<Finding> {
    let JournalTarget { source, genesis, wallet, head } = *whose;
    let identity = Identity { chain_id: source.chain_id, genesis, wallet };
    let contract = source.contract;
    let looking = spawn_blocking(move || journal::inspect(&dir, identity, contract));
    match timeout(DEADLINE, looking).await {
        Ok(Ok(Ok(glance))) => judge(&glance, head),
        Ok(Ok(Err(error))) => vec![of_error(&error)],
        Ok(Err(_)) | Err(_) => {
            vec![Finding::fail(JOURNAL, "the disk does not answer", "look at the kernel's log")]
        }
    }
}

/// The error's text already names the remedy.
fn of_error(error: &OpenError) -> Finding {
    let remedy = match error {
        OpenError::Corrupt { .. } | OpenError::SetAside { .. } => {
            "kms-connector journal rebuild, as the message says"
        }
        OpenError::Newer { .. }
        | OpenError::NotOurs { .. }
        | OpenError::Locked { .. }
        | OpenError::Store { .. }
        | OpenError::Predecessor { .. } => "as the message says",
    };
    Finding::fail(JOURNAL, error.to_string(), remedy)
}

fn judge(glance: &Inspection, head: Option<u64>) -> Vec<Finding> {
    let holder = match glance.holder {
        Holder::Process(pid) => format!("in use by process {pid}"),
        Holder::Somebody => "in use".to_owned(),
        Holder::Nobody => "not in use".to_owned(),
    };
    let Some(content) = &glance.content else {
        let found = format!("none yet, {holder}: reading begins at starting_block");
        return vec![Finding::ok(JOURNAL, found)];
    };
    let shown = format!("{holder}, {} KiB", content.bytes >> 10);
    let of_journal = match (content.cursor.map(|cursor| cursor.number), head) {
        (None, _) => Finding::ok(JOURNAL, format!("{shown}, nothing read yet")),
        (Some(cursor), None) => Finding::ok(JOURNAL, format!("{shown}, read to block {cursor}")),
        // The two heads are read a moment apart.
        (Some(cursor), Some(head)) if cursor > head.saturating_add(LAG_WARNING_BLOCKS) => {
            Finding::fail(
                JOURNAL,
                format!("{shown}, read to block {cursor}, and the gateway node is at {head} only"),
                "the node is stale, or its chain was reset: look at it",
            )
        }
        (Some(cursor), Some(head)) => {
            let lag = head.saturating_sub(cursor);
            let found = format!("{shown}, read to block {cursor}, {lag} blocks to go");
            match (lag > LAG_WARNING_BLOCKS, glance.holder) {
                // An observing instance saves its cursor only now and then.
                (false, Holder::Process(_) | Holder::Somebody) => {
                    let found = format!("{shown}, noted as read: block {cursor} of {head}");
                    Finding::ok(JOURNAL, found)
                }
                (false, Holder::Nobody) => Finding::ok(JOURNAL, found),
                (true, Holder::Process(_) | Holder::Somebody) => Finding::warn(
                    JOURNAL,
                    found,
                    "it should be catching up: kms-connector status says how far it is",
                ),
                (true, Holder::Nobody) => {
                    Finding::warn(JOURNAL, found, "start the connector: it catches up by itself")
                }
            }
        }
    };
    let mut findings = vec![of_journal, of_requests(&content.counts, clock::unix_millis())];
    if content.elsewhere > 0 {
        let of_others = OtherContracts { requests: content.elsewhere };
        findings.push(Finding::warn(REQUESTS, of_others.found(), OtherContracts::REMEDY));
    }
    findings
}

fn of_requests(counts: &journal::Counts, now_ms: u64) -> Finding {
    let in_hand: u64 = counts.unfinished.values().sum();
    let failing = counts.oldest_failing.as_ref().and_then(|failing| {
        let age_ms = now_ms.saturating_sub(failing.arrived_at_ms);
        let seconds = age_ms / 1_000;
        let told = format!("one has waited for {seconds} s, last error: {}", failing.last_error);
        (age_ms >= SLOW_MS).then_some(told)
    });
    if counts.held.is_empty() && failing.is_none() {
        return Finding::ok(REQUESTS, format!("{in_hand} in hand, none held"));
    }
    let held: u64 = counts.held.values().sum();
    let reasons: Vec<String> =
        counts.held.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let held = match held {
        0 => format!("{in_hand} in hand, none held"),
        held => format!("{in_hand} in hand, {held} held: {}", reasons.join(", ")),
    };
    let mut remedies: Vec<String> =
        counts.held.keys().map(|name| format!("{name}: {}", HoldReason::remedy_of(name))).collect();
    if failing.is_some() {
        remedies.push(
            "fix what that error names: the request continues by itself (`kms-connector requests` \
             lists all of them)"
                .to_owned(),
        );
    }
    let found: Vec<String> = std::iter::once(held).chain(failing).collect();
    Finding::warn(REQUESTS, found.join("; "), remedies.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::BlockRef, instance::diagnose::Severity, journal::JournalContents};

    fn glance(cursor: u64, holder: Holder) -> Inspection {
        let cursor = Some(BlockRef { number: cursor, hash: B256::ZERO });
        let counts = journal::Counts::default();
        let content = JournalContents { cursor, counts, elsewhere: 0, bytes: 4096 };
        Inspection { path: PathBuf::new(), holder, content: Some(content) }
    }

    #[test]
    fn a_cursor_is_held_against_the_head() {
        let verdict = |cursor, head| judge(&glance(cursor, Holder::Nobody), Some(head))[0].verdict;
        assert_eq!(verdict(1_000, 1_000), Severity::Ok);
        assert_eq!(verdict(1_000, 1_300), Severity::Ok);
        assert_eq!(verdict(1_000, 1_301), Severity::Warn);
        assert_eq!(verdict(1_301, 1_000), Severity::Fail);
        assert_eq!(verdict(1_300, 1_000), Severity::Ok);
    }

    #[test]
    fn c10_what_a_running_instance_noted_last_is_no_way_to_go() {
        let found = |holder| judge(&glance(1_000, holder), Some(1_090))[0].found.clone();
        assert!(found(Holder::Nobody).contains("90 blocks to go"));
        for holder in [Holder::Process(7), Holder::Somebody] {
            let found = found(holder);
            assert!(!found.contains("to go") && found.contains("block 1000 of 1090"), "{found}");
        }
    }

    #[test]
    fn requests_of_another_contract_are_told() {
        let mut glance = glance(1_000, Holder::Nobody);
        assert_eq!(judge(&glance, Some(1_000)).len(), 2);
        glance.content.as_mut().unwrap().elsewhere = 3;
        let last = judge(&glance, Some(1_000)).pop().unwrap();
        assert_eq!(last.verdict, Severity::Warn);
        assert!(last.found.contains("3 unfinished requests of another"), "{last:?}");
    }

    #[test]
    fn held_requests_are_told_with_what_to_do() {
        let mut counts = journal::Counts::default();
        counts.held.insert("signer_mismatch", 2);
        let finding = of_requests(&counts, 0);
        assert_eq!(finding.verdict, Severity::Warn);
        assert!(finding.found.contains("signer_mismatch 2"), "{finding:?}");
        assert!(finding.remedy.contains("right Core"), "{finding:?}");
    }

    #[test]
    fn a_request_that_is_tried_again_is_told_once_it_is_slow() {
        let last_error = "no bucket has handle 0x01".to_owned();
        let failing = journal::FailingRequest { arrived_at_ms: 1_000, last_error };
        let counts =
            journal::Counts { oldest_failing: Some(failing), ..journal::Counts::default() };
        assert_eq!(of_requests(&counts, 10_999).verdict, Severity::Ok);
        let finding = of_requests(&counts, 13_000);
        assert_eq!(finding.verdict, Severity::Warn);
        assert!(finding.found.contains("12 s, last error: no bucket has"), "{finding:?}");
    }

    /// Like `check --values` where an earlier check was killed under the same process id.
    #[test]
    fn d8_many_look_at_one_directory_at_once() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..2 {
            let left = dir.path().join(format!(".check-{}-{number}", std::process::id()));
            fs::write(left, "").unwrap();
        }
        let look = || writable(dir.path(), true, dir.path());
        std::thread::scope(|scope| {
            let looking: Vec<_> = (0..16).map(|_| scope.spawn(look)).collect();
            for looked in looking {
                let found = looked.join().unwrap();
                assert_eq!(found.verdict, Severity::Ok, "{found:?}");
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(writable(dir.path(), true, dir.path()).verdict, Severity::Ok);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = dir.path().join("a/b");
        assert_eq!(nearest_existing(&missing), dir.path());
        assert_eq!(writable(&missing, false, dir.path()).verdict, Severity::Ok);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let below = file.join("state");
        assert_eq!(writable(&below, false, &nearest_existing(&below)).verdict, Severity::Fail);
        assert_eq!(writable(Path::new("/proc/x"), true, Path::new("/")).verdict, Severity::Fail);
        // A local disk gives no finding.
        assert_eq!(FileSystem::of(dir.path()).and_then(|on| network_warning(&on)), None);
    }
}
