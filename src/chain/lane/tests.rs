//! The lane against a node in memory that can report wrong facts, lose and refuse transactions, on a
//! paused clock.

mod counts;
mod fees;
mod mempool;
mod model;
mod scenes;

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use alloy::{
    consensus::{Transaction, TxEnvelope},
    eips::Decodable2718,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    fee_market::Fees,
    state::{ChainReport, Effect, LaneState},
    unsigned::UnsignedTransaction,
    *,
};
use crate::{
    chain::{
        fake_chain::{FakeChain, SOURCE, SendBehavior},
        reader::{ChainReader as _, Receipt},
        rpc_error::RpcError,
    },
    domain::{HoldReason, U256},
    telemetry::metrics::Metrics,
};

#[derive(Clone, Debug, Default)]
struct FakeLedger {
    rows: Arc<Mutex<Vec<SignedTransaction>>>,
    mined: Arc<Mutex<HashMap<B256, BlockRef>>>,
    given_up: Arc<Mutex<HashMap<B256, GiveUpReason>>>,
    reopened: Arc<Mutex<Vec<B256>>>,
    broken: bool,
}

impl FakeLedger {
    fn rows(&self) -> Vec<SignedTransaction> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open(&self) -> Vec<SignedTransaction> {
        let mined = lock(&self.mined);
        let used: HashSet<u64> = self
            .rows()
            .iter()
            .filter(|row| mined.contains_key(&row.hash))
            .map(|row| row.nonce)
            .collect();
        let given_up = lock(&self.given_up);
        let open = |row: &SignedTransaction| {
            !used.contains(&row.nonce) && !given_up.contains_key(&row.hash)
        };
        self.rows().into_iter().filter(open).collect()
    }

    /// Everything recorded for used nonces is open again: none of their requests has an outcome.
    fn unconfirmed(&self) -> Recovered {
        let recovered = self.recovered();
        let used: HashSet<u64> = recovered.mined.iter().map(|one| one.nonce).collect();
        let given_up = lock(&self.given_up);
        let mut open = self.rows();
        open.retain(|row| used.contains(&row.nonce) && !given_up.contains_key(&row.hash));
        open.extend(recovered.open);
        open.sort_by_key(|row| row.nonce);
        Recovered { open, ..recovered }
    }

    fn recovered(&self) -> Recovered {
        let open = self.open();
        let mined = lock(&self.mined);
        let mined = self.rows().into_iter().filter_map(|row| {
            let block = *mined.get(&row.hash)?;
            Some(MinedTransaction { nonce: row.nonce, hash: row.hash, block })
        });
        let given_up = lock(&self.given_up);
        let why = |row: &SignedTransaction| given_up.get(&row.hash).copied();
        let free = [Some(GiveUpReason::Rejected), Some(GiveUpReason::Stranded)];
        let rows = self.rows();
        let highest =
            rows.iter().filter(|row| !free.contains(&why(row))).map(|row| row.nonce).max();
        let stranded =
            rows.into_iter().filter(|row| why(row) == Some(GiveUpReason::Stranded)).collect();
        Recovered { mined: mined.collect(), open, highest, stranded }
    }
}

impl TransactionLedger for FakeLedger {
    async fn record_signed(&self, transactions: Vec<SignedTransaction>) -> Result<(), LedgerError> {
        if self.broken {
            return Err(LedgerError::new("store_full", "disk full"));
        }
        lock(&self.given_up).retain(|hash, _| transactions.iter().all(|one| one.hash != *hash));
        lock(&self.rows).extend(transactions);
        Ok(())
    }
    async fn record_mined(&self, id: TransactionId, block: BlockRef) -> Result<(), LedgerError> {
        lock(&self.mined).insert(id.hash, block);
        Ok(())
    }
    async fn record_given_up(
        &self,
        ids: Vec<TransactionId>,
        why: GiveUpReason,
    ) -> Result<(), LedgerError> {
        lock(&self.given_up).extend(ids.into_iter().map(|id| (id.hash, why)));
        Ok(())
    }
    async fn reopen(&self, ids: Vec<TransactionId>) -> Result<Vec<SignedTransaction>, LedgerError> {
        lock(&self.mined).retain(|hash, _| ids.iter().all(|id| id.hash != *hash));
        let given_up = lock(&self.given_up);
        let mut rows = self.rows();
        lock(&self.reopened).extend(ids.iter().map(|id| id.hash));
        rows.retain(|row| ids.iter().any(|id| id.nonce == row.nonce));
        rows.retain(|row| !given_up.contains_key(&row.hash));
        rows.sort_by_key(|row| row.nonce);
        Ok(rows)
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A chain at some height with a realistic base fee.
fn fake_chain() -> FakeChain {
    let chain = FakeChain::new(100);
    chain.state().base_fee = 1_000_000_000;
    chain.mine(Vec::new());
    chain
}

struct Scene {
    chain: FakeChain,
    ledger: FakeLedger,
    lane: Lane,
    stop: CancellationToken,
    running: JoinSet<Result<(), LedgerError>>,
    options: LaneOptions,
}

const SEQUENCER: LaneOptions = LaneOptions {
    chain_id: 1,
    max_in_flight: 64,
    max_fee_per_gas: HIGHEST_FEE,
    kind: ChainKind::Sequencer,
};

fn wallet() -> Arc<Wallet> {
    Arc::new(Wallet::from_private_key(&[7; 32]).expect("a valid key"))
}

impl Scene {
    fn new() -> Self {
        Self::over(fake_chain(), FakeLedger::default())
    }

    fn over(chain: FakeChain, ledger: FakeLedger) -> Self {
        Self::with(chain, ledger, SEQUENCER)
    }

    fn with(chain: FakeChain, ledger: FakeLedger, options: LaneOptions) -> Self {
        let recovered = match options.kind {
            ChainKind::Sequencer => ledger.recovered(),
            ChainKind::Mempool(_) => ledger.unconfirmed(),
        };
        let (node, metrics) = (chain.clone(), Metrics::default());
        let (lane, task) = lane(node, wallet(), ledger.clone(), options, recovered, metrics);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(task.run(Heartbeat::default(), stop.clone()));
        Self { chain, ledger, lane, stop, running, options }
    }

    async fn submit(&self, id: u64) -> SubmissionHandle {
        self.lane.submit(payload(id)).await.expect("the lane runs")
    }

    /// Lets time pass, with a block every 250 ms.
    async fn blocks(&self, count: usize) {
        for _ in 0..count {
            sleep(Duration::from_millis(250)).await;
            self.chain.mine(Vec::new());
        }
        sleep(Duration::from_millis(50)).await;
    }

    /// Kills the process and starts it again: only chain and ledger remain.
    async fn restart(mut self) -> Self {
        self.running.shutdown().await;
        Self::with(self.chain, self.ledger, self.options)
    }
}

fn key(id: u64) -> RequestKey {
    RequestKey { source: SOURCE, id: U256::from(id), content: B256::ZERO }
}

fn payload(id: u64) -> Payload {
    Payload {
        request: key(id),
        to: Address::ZERO,
        data: Bytes::from(vec![1; 40]),
        gas_limit: 100_000,
    }
}

fn landing(submission: &mut SubmissionHandle) -> Inclusion {
    submission.inclusion.try_recv().expect("landed by now").expect("mined")
}

/// Signs whatever the state asks for.
async fn signed_for(book: &mut LaneState) -> Vec<SignedTransaction> {
    let mut signed = Vec::new();
    for effect in book.take_effects() {
        let Effect::Sign(drafts) = effect else { continue };
        for draft in drafts {
            signed.push(draft.sign(&wallet()).await.expect("a local key signs"));
        }
    }
    signed
}

/// For each of these payloads, whether the state, which just saw a head, broadcasts it waiting for its
/// receipt.
async fn waits_of(book: &mut LaneState, ids: std::ops::Range<u64>) -> Vec<bool> {
    ids.for_each(|id| book.submit(payload(id)));
    book.plan_work(|_| true, Instant::now());
    let signed = signed_for(book).await;
    book.apply_signed(signed.clone(), Vec::new(), Instant::now(), 0.5);
    book.plan_work(|_| true, Instant::now());
    let effects = book.take_effects();
    let is_recorded_first = matches!(&effects[..], [Effect::Record(these)] if *these == signed);
    assert!(is_recorded_first, "{effects:?}");
    book.apply_recorded(signed, Instant::now());
    book.plan_work(|_| true, Instant::now());
    let mut waiting = Vec::new();
    for effect in book.take_effects() {
        if let Effect::Broadcast { awaits_receipt: waits, .. } = effect {
            waiting.push(waits);
        }
    }
    waiting
}
