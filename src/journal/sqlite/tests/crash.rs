//! Power cuts: the write-ahead log is cut at every frame, and the journal must come back with everything it
//! had promised by then.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{
    chain::lane::{SignedTransaction, TransactionLedger as _},
    domain::Outcome,
    flow::ledger::{RequestLedger as _, Step},
    journal::{
        StageName,
        sqlite::{columns::SourceColumn, open::OpenFile, reader::Rows},
        tests::{CONTRACT, Running, SOURCE, answer, batch, event, hash, identity, key, signed},
    },
    machine::Machine,
};

const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// What a durable call promised when it returned.
#[derive(Debug)]
enum Promise {
    /// All requests of this batch, and the cursor at or after it.
    Arrived(u64),
    Signed(SignedTransaction),
}

/// The ids of a batch's requests.
fn ids(number: u64) -> [u64; 2] {
    [number * 2, number * 2 + 1]
}

/// Runs a journal, starting from a file that was checkpointed once (so that the cuts meet a file with
/// contents): one caller stores batches in order and notes their steps, two callers sign. Returns the file's
/// path, and each promise with the size of the log when it was made.
async fn run(dir: &Path, before: u64, batches: u64) -> (PathBuf, Vec<(u64, Promise)>) {
    let journal = Running::open(dir);
    for number in 0..before {
        journal.store_batch(batch(ids(number), Some(number))).await.unwrap();
    }
    journal.close().await.unwrap();

    let open = OpenFile::open(&Machine::default(), dir, identity()).unwrap();
    open.store.connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    let running = Running::start(open.assemble(&Machine::default(), CONTRACT));
    let path = running.path().to_owned();
    let wal = path.with_extension("sqlite3-wal");
    let size = move || fs::metadata(&wal).unwrap().len();
    let mut callers = JoinSet::new();
    let (journal, at) = (running.journal.clone(), size.clone());
    callers.spawn(async move {
        let mut kept = Vec::new();
        for number in before..before + batches {
            journal.store_batch(batch(ids(number), Some(number))).await.unwrap();
            kept.push((at(), Promise::Arrived(number)));
            let [first, second] = ids(number).map(key);
            let answer = answer(ids(number)[0], "an answer");
            journal.note(first, Step::Answered(answer)).await.unwrap();
            journal.note(first, Step::Submitted { transaction: hash(number) }).await.unwrap();
            journal.note(second, Step::Settled(Outcome::Expired)).await.unwrap();
        }
        kept
    });
    for caller in 0..2 {
        let (journal, at) = (running.journal.clone(), size.clone());
        callers.spawn(async move {
            let mut kept = Vec::new();
            for turn in 0..batches / 2 {
                let one = signed(turn, caller, Some(key(turn)));
                journal.record_signed(vec![one.clone()]).await.unwrap();
                kept.push((at(), Promise::Signed(one)));
            }
            kept
        });
    }
    let mut kept = Vec::new();
    while let Some(promises) = callers.join_next().await {
        kept.extend(promises.unwrap());
    }
    running.flush().await.unwrap();

    // The files as a power cut would leave them: copied before closing checkpoints the log.
    let copy = dir.join("cut");
    fs::create_dir(&copy).unwrap();
    for file in [path.clone(), path.with_extension("sqlite3-wal")] {
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    running.close().await.unwrap();
    (copy.join(path.file_name().unwrap()), kept)
}

/// Opens what a cut left, as a restart would, and compares it with the promises made while the log was up to
/// `whole` bytes long.
fn verify(file: &[u8], log: &[u8], whole: usize, promised: &[(u64, Promise)], before: u64) {
    let dir = fast_dir();
    let path = dir.path().join(identity().file_stem() + ".sqlite3");
    fs::write(&path, file).unwrap();
    fs::write(path.with_extension("sqlite3-wal"), log).unwrap();
    let open = OpenFile::open(&Machine::default(), dir.path(), identity()).unwrap();
    let connection = &open.store.connection;
    let rows = Rows { db: connection, of: SourceColumn::of(SOURCE, SOURCE.chain_id) };
    let cursor = rows.cursor().unwrap().unwrap();
    assert_eq!(cursor.hash, hash(cursor.number));
    assert!(cursor.number + 1 >= before);

    // The cursor counts exactly what is stored, and no step is stored without its request.
    let mut stored = 0;
    let last = ids(cursor.number)[1];
    for id in 0..=last + 8 {
        let Some(record) = rows.request(key(id)).unwrap() else {
            assert!(id > last, "request {id} below the cursor {cursor:?} is lost");
            continue;
        };
        stored += 1;
        assert!(id <= last, "request {id} above the cursor {cursor:?}");
        assert_eq!(record.event, event(id, 100));
        let progress = &record.progress;
        let has_answer = record.answer == Some(answer(id, "an answer"));
        let needs_answer = [StageName::Answered, StageName::Submitted].contains(&progress.stage);
        assert_eq!(has_answer, needs_answer, "{record:?}");
        assert_eq!(progress.outcome.is_some(), progress.settled_at_ms.is_some());
    }
    assert_eq!(stored, last + 1);

    for (size, promise) in promised.iter().filter(|(size, _)| *size <= whole as u64) {
        match promise {
            Promise::Arrived(number) => {
                assert!(*number <= cursor.number, "batch {number} of size {size} is lost");
            }
            Promise::Signed(one) => {
                let found = rows.transactions_of(one.request.unwrap()).unwrap();
                assert!(found.iter().any(|found| found.transaction == *one), "{one:?} is lost");
            }
        }
    }
}

/// A directory in memory, if there is one: hundreds of openings should not wait for a disk.
fn fast_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

#[tokio::test]
async fn every_frame_of_the_log_is_a_safe_place_to_lose_power() {
    let dir = TempDir::new().unwrap();
    let (before, batches) = (30, 50);
    let (path, promised) = run(dir.path(), before, batches).await;
    let file = fs::read(&path).unwrap();
    let log = fs::read(path.with_extension("sqlite3-wal")).unwrap();
    let page = u32::from_be_bytes(log[8..12].try_into().unwrap()) as usize;
    let frame = FRAME_HEADER + page;
    let frames = (log.len() - WAL_HEADER) / frame;
    assert_eq!(log.len(), WAL_HEADER + frames * frame, "the log was never reset");
    assert_eq!(promised.len() as u64, batches * 2);
    assert!(frames as u64 > batches);

    verify(&file, &[], 0, &promised, before);
    for count in 0..=frames {
        let end = WAL_HEADER + count * frame;
        verify(&file, &log[..end], end, &promised, before);
        // Every seventh: the next frame is half written, or its page was never written.
        if count < frames && count.is_multiple_of(7) {
            verify(&file, &log[..end + frame / 2], end, &promised, before);
            let mut hollow = log[..end + frame].to_vec();
            hollow[end + FRAME_HEADER..].fill(0);
            verify(&file, &hollow, end, &promised, before);
        }
    }
}
