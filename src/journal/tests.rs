//! Tests the journal from outside: what is stored, what is read back, what an operator is told.

mod beside;
mod damage;
mod files;
mod listing;
mod model;
mod port;
mod reading;
mod requests;
mod succession;
mod transactions;
mod writing;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    chain::lane::{
        GiveUpReason, MinedTransaction, SignedTransaction, TransactionId, TransactionLedger as _,
    },
    contracts::abi::Counter,
    domain::{
        Address, Answer, B256, BlockRef, Bytes, Event, Generation, Hold, HoldReason, Kind, Outcome,
        Refusal, RequestKey, RequestSource, SignedResult, U256, stage::Stage,
    },
    flow::ledger::{
        AccessNote, AnsweredHere, Arrival, Batch, IdRange, RequestLedger as _, RequestState,
        Sighting, Step, StoredBatch, UnprovenRange,
    },
    machine::Machine,
    telemetry::{heartbeat::Heartbeat, metrics::Metrics},
};

pub(super) const CONTRACT: Address = Address::repeat_byte(0xdc);
pub(super) const SOURCE: RequestSource = RequestSource { chain_id: 31337, contract: CONTRACT };

pub(super) fn identity() -> Identity {
    Identity {
        chain_id: 31337,
        genesis: B256::repeat_byte(0x9e),
        wallet: Address::repeat_byte(0xaa),
    }
}

/// The one contract that is read.
pub(super) fn alone() -> ReadContracts {
    ReadContracts { first: CONTRACT, beside: Vec::new() }
}

pub(super) fn block(number: u64) -> BlockRef {
    BlockRef { number, hash: hash(number) }
}

pub(super) fn hash(number: u64) -> B256 {
    B256::from(U256::from(number) << 8)
}

pub(super) fn key(id: u64) -> RequestKey {
    RequestKey { source: SOURCE, id: U256::from(id), content: B256::repeat_byte(0xc0) }
}

pub(super) fn event(number: u64, data: usize) -> Event {
    Event {
        block: block(number),
        transaction: hash(number + 1_000_000),
        log_index: 3,
        topics: vec![B256::repeat_byte(1), hash(number)],
        data: Bytes::from(vec![0x5a; data]),
    }
}

fn kind(id: u64) -> Kind {
    if id.is_multiple_of(2) { Kind::PublicDecryption } else { Kind::UserDecryption }
}

pub(super) fn arrival(id: u64) -> Arrival {
    Arrival { key: key(id), kind: kind(id), event: event(id, 100), seen: Sighting::Found }
}

pub(super) fn batch(ids: impl IntoIterator<Item = u64>, cursor: Option<u64>) -> Batch {
    let seen = if cursor.is_some() { Sighting::Joined } else { Sighting::Found };
    Batch {
        arrivals: ids.into_iter().map(|id| Arrival { seen, ..arrival(id) }).collect(),
        cursor: cursor.map(block),
        ..Batch::default()
    }
}

fn of(source: RequestSource, mut batch: Batch) -> Batch {
    batch.arrivals.iter_mut().for_each(|arrival| arrival.key.source = source);
    batch
}

pub(super) fn answer(id: u64, text: &str) -> Answer {
    let signed = SignedResult {
        payload: Bytes::from(text.as_bytes().to_vec()),
        signature: Bytes::from(vec![7; 65]),
        extra_data: Bytes::from_static(&[0]),
    };
    Answer::new(kind(id), signed)
}

pub(super) fn signed(nonce: u64, variant: u64, request: Option<RequestKey>) -> SignedTransaction {
    let raw = Bytes::from(vec![2; 200]);
    SignedTransaction { nonce, hash: hash(nonce * 100 + variant), raw, request }
}

pub(super) fn asked() -> Step {
    Step::Asked { core: "core:50051".into() }
}

pub(super) fn hold(reason: HoldReason) -> Step {
    Step::Held(Hold::new(reason, "do something"))
}

/// A journal with its writer running.
pub(super) struct Running {
    pub(super) journal: Journal,
    stop: CancellationToken,
    writer: JoinSet<Result<IdleStore, JournalError>>,
}

impl Running {
    pub(super) fn open(dir: &Path) -> Self {
        Self::start(Journal::open(dir, identity(), CONTRACT).unwrap())
    }

    pub(super) fn start(opened: (Journal, Writer)) -> Self {
        Self::counting(opened, Metrics::default())
    }

    pub(super) fn counting((journal, writer): (Journal, Writer), metrics: Metrics) -> Self {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(writer.run(Heartbeat::default(), metrics, stop.clone()));
        Self { journal, stop, writer: tasks }
    }

    pub(super) async fn close(self) -> Result<(), JournalError> {
        self.keep().await.map(drop)
    }

    pub(super) async fn keep(mut self) -> Result<IdleStore, JournalError> {
        self.stop.cancel();
        self.writer.join_next().await.unwrap().unwrap()
    }
}

impl std::ops::Deref for Running {
    type Target = Journal;
    fn deref(&self) -> &Journal {
        &self.journal
    }
}

pub(super) async fn records(journal: &Journal, which: RequestFilter) -> Vec<RequestRecord> {
    let listing = RequestPage { filter: which, after: None, limit: 100 };
    journal.ask(|slot| Query::Records(listing, slot)).await.unwrap()
}

pub(super) async fn keys(journal: &Journal, which: RequestFilter) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let listing = RequestPage { filter: which, after, limit: 3 };
        let page = journal.ask(|slot| Query::Records(listing, slot)).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { return found };
        after = Some(last.position);
        found.extend(page.iter().map(|request| request.key.id.to::<u64>()));
    }
}

/// A handle on a store that a writer left, and the next writer.
fn reopen(dir: &Path, kept: IdleStore, contract: Address) -> (Journal, Writer) {
    let machine = Machine::default();
    let opened = open_as(&machine, dir, identity(), contract, "an instance", Some(kept)).unwrap();
    (opened.journal, opened.writer)
}
