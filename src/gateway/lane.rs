//! nonce -> sign -> record -> broadcast -> receipt: the one owner of a wallet's nonces on one chain.
//!
//! ```text
//! waiting --take nonce, sign, record--> open --broadcast, again and again--> mined
//!    ^           │ not signed               │ provably rejected, displaced
//!    └───────────┴──────────────────────────┘
//! ```
//!
//! Invariants:
//! - Nothing is broadcast before nonce, bytes and hash are durable ([`TransactionLedger::signed`]).
//! - An unknown outcome means the same bytes again. A nonce gets other bytes only as a fee bump of
//!   the same payload, or when the node proved the rejection of the old ones.
//! - A request has at most one open transaction: asking again for a request that has one attaches
//!   to it. So a restart needs no path of its own: the walk submits again and finds it here.
//! - The lock-free owner of all this is one task; everything slow runs beside it in its `JoinSet`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use alloy::{
    consensus::{SignableTransaction, Transaction, TxEip1559, TxEnvelope},
    eips::{Decodable2718, Encodable2718},
    primitives::TxKind,
};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    nonce::Nonces,
    provider::{Head, Provider, Receipt, RpcError, quirks},
    wallet::{Wallet, WalletError},
};
use crate::{
    backoff::Backoff,
    domain::{
        Address, B256, BlockRef, Bytes, Hold, HoldReason, LedgerError, Remedy, RequestKey, U256,
    },
};

/// A signed transaction, as kept in the journal until its receipt's block is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransaction {
    pub nonce: u64,
    pub hash: B256,
    /// The EIP-2718 bytes as broadcast.
    pub raw: Bytes,
    /// Whose answer it carries. `None`: a no-op that fills a hole.
    pub request: Option<RequestKey>,
}

/// The port through which the lane records. The journal implements it.
pub trait TransactionLedger: Clone + Send + Sync + 'static {
    /// Door (b): nonce, signed bytes and hash are durable (fsync) before this returns, and so
    /// before the first broadcast. Several rows may share a nonce (fee bump, displaced payload).
    fn signed(
        &self,
        transactions: Vec<SignedTransaction>,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// The transaction was mined in `block`. Rides on the next commit.
    fn mined(
        &self,
        hash: B256,
        block: BlockRef,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Payload {
    pub request: RequestKey,
    pub to: Address,
    pub data: Bytes,
    pub gas_limit: u64,
}

/// A mined transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landing {
    pub transaction: B256,
    pub block: BlockRef,
    pub success: bool,
    pub gas_used: u64,
    pub gas_limit: u64,
}

/// Why a payload was not mined.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The node executed it in advance and refuses to take it: it would revert.
    #[error("refused before inclusion: it would revert")]
    WouldRevert { data: Bytes },
    #[error("{0}")]
    Held(Hold),
    /// The lane is shutting down. What was broadcast stays in the journal.
    #[error("the lane was stopped")]
    Stopped,
}

/// What happens to a payload while it waits.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Recorded and on its way.
    Broadcast { transaction: B256 },
    /// It goes on by itself as soon as somebody mends this.
    Waiting(Hold),
}

/// The caller's end of a submission.
#[derive(Debug)]
pub struct Submission {
    /// Bounded; when it is full further notices are dropped.
    pub notices: mpsc::Receiver<Notice>,
    pub landing: oneshot::Receiver<Result<Landing, SubmitError>>,
}

/// A handle to the lane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lane {
    jobs: mpsc::Sender<Task>,
    sender: Address,
}

impl Lane {
    /// Hands a payload to the lane. Waits while the lane's queue is full.
    pub async fn submit(&self, payload: Payload) -> Result<Submission, SubmitError> {
        let (reply, landing) = oneshot::channel();
        let (notify, notices) = mpsc::channel(4);
        let job = Job { payload, waiter: Waiter { reply, notify } };
        self.jobs.send(Task::Submit(job)).await.map_err(|_| SubmitError::Stopped)?;
        Ok(Submission { notices, landing })
    }

    /// The submission of a request that an earlier run sent, if there is one.
    pub async fn attach(&self, request: RequestKey) -> Result<Option<Submission>, SubmitError> {
        let (reply, landing) = oneshot::channel();
        let (notify, notices) = mpsc::channel(4);
        let (found, answer) = oneshot::channel();
        let task = Task::Attach { request, waiter: Waiter { reply, notify }, found };
        self.jobs.send(task).await.map_err(|_| SubmitError::Stopped)?;
        let found = answer.await.map_err(|_| SubmitError::Stopped)?;
        Ok(found.then_some(Submission { notices, landing }))
    }

    /// The wallet's address.
    #[must_use]
    pub fn sender(&self) -> Address {
        self.sender
    }
}

/// Limits of a lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneOptions {
    pub chain_id: u64,
    /// Transactions recorded and not mined. A sequencer buffers 1,024.
    pub max_in_flight: usize,
    /// Wei per gas; above it payloads wait.
    pub max_fee_per_gas: Option<u128>,
}

/// Signatures asked for at the same time (matters with AWS KMS).
const SIGNING_AT_ONCE: usize = 16;
/// Broadcasts under way at the same time.
const BROADCASTING_AT_ONCE: usize = 256;
/// An accepted transaction that is not mined after this is broadcast again.
const REBROADCAST_AFTER: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(100);
/// The tip is asked for at most this often.
const TIP_LIFETIME: Duration = Duration::from_secs(60);
/// A mined nonce without a receipt of ours is somebody else's only after this.
const DISPLACED_AFTER: Duration = Duration::from_secs(3);

/// What callers ask of the lane.
#[derive(Debug)]
enum Task {
    Submit(Job),
    Attach { request: RequestKey, waiter: Waiter, found: oneshot::Sender<bool> },
}

#[derive(Debug)]
struct Job {
    payload: Payload,
    waiter: Waiter,
}

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Result<Landing, SubmitError>>,
    notify: mpsc::Sender<Notice>,
}

/// One taken nonce with recorded bytes.
#[derive(Debug)]
struct Slot {
    /// Recorded bytes for this nonce, oldest first. The last one is broadcast.
    versions: Vec<SignedTransaction>,
    next_broadcast: Instant,
    pause: Backoff,
    sending: bool,
    announced: bool,
    /// Since when the chain counts this nonce as mined without showing our receipt.
    mined_unseen: Option<Instant>,
    /// Why the node refuses it at the moment; logged on change.
    refusal: Option<quirks::Refusal>,
}

impl Slot {
    fn new(version: SignedTransaction, now: Instant) -> Self {
        Self {
            versions: vec![version],
            next_broadcast: now,
            pause: Backoff::new(Duration::from_millis(250), Duration::from_secs(15)),
            sending: false,
            announced: false,
            mined_unseen: None,
            refusal: None,
        }
    }

    fn current(&self) -> &SignedTransaction {
        // A slot is made with one version and never loses it.
        &self.versions[self.versions.len() - 1]
    }
}

/// What ran beside the owner and came back.
enum Done {
    Prepared(Prepared),
    Sent { nonce: u64, hash: B256, result: Result<B256, RpcError> },
    Checked(Result<Checked, RpcError>),
    Tip(Result<u128, RpcError>),
}

struct Prepared {
    signed: Vec<SignedTransaction>,
    failed: Vec<(Draft, WalletError)>,
    recorded: Result<(), LedgerError>,
}

/// What the chain says about open nonces.
struct Checked {
    mined: u64,
    receipts: Vec<(u64, Option<Receipt>)>,
}

/// A transaction before its signature.
#[derive(Clone, Debug)]
struct Draft {
    transaction: TxEip1559,
    request: Option<RequestKey>,
    /// Other bytes for a nonce that is already open.
    bump: bool,
}

/// The task behind a [`Lane`].
#[derive(Debug)]
pub struct LaneTask<P, L> {
    provider: P,
    wallet: Arc<Wallet>,
    ledger: L,
    options: LaneOptions,
    jobs: mpsc::Receiver<Task>,
    recovered: Vec<SignedTransaction>,
    highest: Option<u64>,
}

/// A lane and the task that runs it. `recovered` are the journal's transactions that are not known
/// to be mined; `highest` is the highest nonce it ever recorded.
pub fn lane<P: Provider, L: TransactionLedger>(
    provider: P,
    wallet: Arc<Wallet>,
    ledger: L,
    options: LaneOptions,
    recovered: Vec<SignedTransaction>,
    highest: Option<u64>,
) -> (Lane, LaneTask<P, L>) {
    let (sender, jobs) = mpsc::channel(options.max_in_flight);
    let lane = Lane { jobs: sender, sender: wallet.address() };
    (lane, LaneTask { provider, wallet, ledger, options, jobs, recovered, highest })
}

impl<P: Provider, L: TransactionLedger> LaneTask<P, L> {
    /// Runs until `stop`. Fails only when the journal does.
    pub async fn run(self, stop: CancellationToken) -> Result<(), LedgerError> {
        let Some(mined) = stop.run_until_cancelled(self.first_count()).await else {
            return Ok(());
        };
        let owner = Owner::new(self, mined);
        owner.run(stop).await
    }

    async fn first_count(&self) -> u64 {
        let mut pause = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        loop {
            match self.provider.transaction_count(self.wallet.address()).await {
                Ok(count) => return count,
                Err(error) => {
                    warn!(%error, "waiting for the wallet's transaction count");
                    sleep(pause.next_delay()).await;
                }
            }
        }
    }
}

/// The state of a running lane.
struct Owner<P, L> {
    provider: P,
    wallet: Arc<Wallet>,
    ledger: L,
    options: LaneOptions,
    jobs: mpsc::Receiver<Task>,
    nonces: Nonces,
    /// Accepted from callers, without a nonce.
    waiting: VecDeque<Payload>,
    /// Who waits for which request, whether its payload is waiting or open.
    waiters: HashMap<RequestKey, (Option<Payload>, Waiter)>,
    open: BTreeMap<u64, Slot>,
    by_request: HashMap<RequestKey, u64>,
    /// Mined while nobody waited: kept until somebody asks.
    landed: HashMap<RequestKey, Landing>,
    beside: JoinSet<Done>,
    /// Drafts being signed and recorded; one batch at a time keeps the broadcast in nonce order.
    preparing: usize,
    broadcasting: usize,
    checking: bool,
    check_again: bool,
    last_check: Instant,
    head: Option<Head>,
    tip: u128,
    tip_at: Option<Instant>,
    asking_tip: bool,
    /// The wallet refuses to sign before this.
    sign_after: Instant,
    sign_pause: Backoff,
    fee_hold: bool,
}

impl<P: Provider, L: TransactionLedger> Owner<P, L> {
    fn new(task: LaneTask<P, L>, mined: u64) -> Self {
        let now = Instant::now();
        let nonces = Nonces::new(mined, task.recovered.iter().map(|t| t.nonce), task.highest, now);
        if !task.recovered.is_empty() {
            info!(
                open = task.recovered.len(),
                mined,
                next = nonces.peek_next(),
                "following the transactions of an earlier run"
            );
        }
        let mut owner = Self {
            provider: task.provider,
            wallet: task.wallet,
            ledger: task.ledger,
            options: task.options,
            jobs: task.jobs,
            nonces,
            waiting: VecDeque::new(),
            waiters: HashMap::new(),
            open: BTreeMap::new(),
            by_request: HashMap::new(),
            landed: HashMap::new(),
            beside: JoinSet::new(),
            preparing: 0,
            broadcasting: 0,
            checking: false,
            check_again: true,
            last_check: now,
            head: None,
            tip: 0,
            tip_at: None,
            asking_tip: false,
            sign_after: now,
            sign_pause: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            fee_hold: false,
        };
        for transaction in task.recovered {
            owner.hold_open(transaction, now);
        }
        owner
    }

    async fn run(mut self, stop: CancellationToken) -> Result<(), LedgerError> {
        let mut heads = self.provider.heads();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = self.waiting.len() < self.options.max_in_flight;
            let busy = !self.open.is_empty() || !self.waiting.is_empty() || self.nonces.has_holes();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(done) = self.beside.join_next() => match done {
                    Ok(done) => self.take_in(done).await?,
                    // Nothing in here is meant to panic: it is this task's panic then.
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                Some(job) = self.jobs.recv(), if room => {
                    self.accept(job);
                    while self.waiting.len() < self.options.max_in_flight {
                        let Ok(job) = self.jobs.try_recv() else { break };
                        self.accept(job);
                    }
                }
                Ok(()) = heads.changed() => {
                    self.head = *heads.borrow_and_update();
                    self.check_again = true;
                }
                _ = tick.tick(), if busy => {}
            }
            self.act();
        }
    }

    fn accept(&mut self, task: Task) {
        match task {
            Task::Submit(Job { payload, waiter }) => {
                let key = payload.request;
                let Some(waiter) = self.attach(key, Some(&payload), waiter) else { return };
                self.waiting.push_back(payload.clone());
                self.waiters.insert(key, (Some(payload), waiter));
            }
            Task::Attach { request, waiter, found } => {
                let attached = self.attach(request, None, waiter).is_none();
                // The caller may have gone; its waiter then counts as closed.
                let _ = found.send(attached);
            }
        }
    }

    /// Ties a caller to what is known of its request; gives the caller back if nothing is.
    fn attach(
        &mut self,
        key: RequestKey,
        payload: Option<&Payload>,
        waiter: Waiter,
    ) -> Option<Waiter> {
        if let Some(landing) = self.landed.remove(&key) {
            // The caller may have gone: then the landing is still in the contract.
            let _ = waiter.reply.send(Ok(landing));
            return None;
        }
        if let Some(slot) = self.by_request.get(&key).and_then(|nonce| self.open.get(nonce)) {
            let transaction = slot.current().hash;
            // A fresh channel has room.
            let _ = waiter.notify.try_send(Notice::Broadcast { transaction });
            let payload = payload
                .cloned()
                .or_else(|| self.waiters.remove(&key).and_then(|(payload, _)| payload))
                .or_else(|| recover_payload(key, slot.current()));
            self.waiters.insert(key, (payload, waiter));
            return None;
        }
        match self.waiters.get_mut(&key) {
            // Queued or being signed: the newest caller gets the receipt.
            Some(known) => {
                known.1 = waiter;
                None
            }
            None => Some(waiter),
        }
    }

    /// Starts whatever can be started now.
    fn act(&mut self) {
        let now = Instant::now();
        self.refresh_tip(now);
        self.prepare(now);
        self.broadcast_due(now);
        self.check(now);
    }

    fn refresh_tip(&mut self, now: Instant) {
        let fresh = self.tip_at.is_some_and(|at| now.duration_since(at) < TIP_LIFETIME);
        let needed = !self.waiting.is_empty() || self.nonces.has_holes();
        if fresh || self.asking_tip || !needed {
            return;
        }
        self.asking_tip = true;
        let provider = self.provider.clone();
        self.beside.spawn(async move { Done::Tip(provider.priority_fee().await) });
    }

    /// Fees for a transaction made now; `None` while the chain is dearer than allowed.
    fn fees(&self) -> Option<(u128, u128)> {
        let base = self.head.and_then(|head| head.base_fee).unwrap_or(0);
        let cap = self.options.max_fee_per_gas.unwrap_or(u128::MAX);
        if base > cap {
            return None;
        }
        let max_fee = base.saturating_mul(2).saturating_add(self.tip).min(cap);
        Some((max_fee, self.tip.min(max_fee)))
    }

    fn prepare(&mut self, now: Instant) {
        if self.preparing > 0 || now < self.sign_after || self.head.is_none() {
            return;
        }
        // Once the tip is known; a node that does not tell is answered by zero.
        if self.tip_at.is_none() {
            return;
        }
        let overdue = self.nonces.overdue(now).filter(|hole| {
            self.waiting.is_empty()
                && self.open.last_key_value().is_some_and(|(last, _)| last > hole)
        });
        if self.waiting.is_empty() && overdue.is_none() {
            return;
        }
        let Some((max_fee, tip)) = self.fees() else {
            self.announce_fee_hold();
            return;
        };
        self.fee_hold = false;
        let mut drafts = Vec::new();
        if overdue.is_some() {
            let nonce = self.nonces.take();
            warn!(nonce, "filling a nonce nobody needs with a no-op");
            drafts.push(Draft {
                transaction: self.noop(nonce, max_fee, tip),
                request: None,
                bump: false,
            });
        }
        while self.open.len() + drafts.len() < self.options.max_in_flight {
            let Some(payload) = self.waiting.pop_front() else { break };
            // Its caller has gone (drain): not needed before somebody asks again.
            let wanted = self
                .waiters
                .get(&payload.request)
                .is_some_and(|(_, waiter)| !waiter.reply.is_closed());
            if !wanted {
                self.waiters.remove(&payload.request);
                continue;
            }
            let nonce = self.nonces.take();
            drafts.push(Draft {
                transaction: TxEip1559 {
                    chain_id: self.options.chain_id,
                    nonce,
                    gas_limit: payload.gas_limit,
                    max_fee_per_gas: max_fee,
                    max_priority_fee_per_gas: tip,
                    to: TxKind::Call(payload.to),
                    value: U256::ZERO,
                    access_list: alloy::eips::eip2930::AccessList::default(),
                    input: payload.data.clone(),
                },
                request: Some(payload.request),
                bump: false,
            });
        }
        self.sign_and_record(drafts);
    }

    fn noop(&self, nonce: u64, max_fee: u128, tip: u128) -> TxEip1559 {
        TxEip1559 {
            chain_id: self.options.chain_id,
            nonce,
            // A plain transfer plus Arbitrum's share for the parent chain.
            gas_limit: 500_000,
            max_fee_per_gas: max_fee,
            max_priority_fee_per_gas: tip,
            to: TxKind::Call(self.wallet.address()),
            value: U256::ZERO,
            access_list: alloy::eips::eip2930::AccessList::default(),
            input: Bytes::new(),
        }
    }

    fn announce_fee_hold(&mut self) {
        if self.fee_hold {
            return;
        }
        self.fee_hold = true;
        let base = self.head.and_then(|head| head.base_fee).unwrap_or(0);
        let hold = Hold::new(
            HoldReason::FeeCap,
            format!(
                "the chain's base fee is {base} wei per gas, above max_fee_per_gas_gwei; \
                 raise it or wait"
            ),
        );
        warn!(base_fee = base, "base fee is above max_fee_per_gas_gwei: answers wait");
        for payload in &self.waiting {
            if let Some((_, waiter)) = self.waiters.get(&payload.request) {
                let _ = waiter.notify.try_send(Notice::Waiting(hold.clone()));
            }
        }
    }

    fn sign_and_record(&mut self, drafts: Vec<Draft>) {
        if drafts.is_empty() {
            return;
        }
        self.preparing += drafts.len();
        let (wallet, ledger) = (self.wallet.clone(), self.ledger.clone());
        self.beside.spawn(async move {
            let mut results: Vec<_> = stream::iter(drafts)
                .map(|draft| {
                    let wallet = wallet.clone();
                    async move {
                        let result = sign(&wallet, &draft).await;
                        (draft, result)
                    }
                })
                .buffered(SIGNING_AT_ONCE)
                .collect()
                .await;
            let mut prepared =
                Prepared { signed: Vec::new(), failed: Vec::new(), recorded: Ok(()) };
            for (draft, result) in results.drain(..) {
                match result {
                    Ok(signed) => prepared.signed.push(signed),
                    Err(error) => prepared.failed.push((draft, error)),
                }
            }
            if !prepared.signed.is_empty() {
                prepared.recorded = ledger.signed(prepared.signed.clone()).await;
            }
            Done::Prepared(prepared)
        });
    }

    fn broadcast_due(&mut self, now: Instant) {
        let due: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, slot)| !slot.sending && slot.next_broadcast <= now)
            .map(|(nonce, _)| *nonce)
            .take(BROADCASTING_AT_ONCE.saturating_sub(self.broadcasting))
            .collect();
        for nonce in due {
            let Some(slot) = self.open.get_mut(&nonce) else { continue };
            slot.sending = true;
            self.broadcasting += 1;
            let (provider, transaction) = (self.provider.clone(), slot.current().clone());
            self.beside.spawn(async move {
                let result = provider.send_raw_transaction(&transaction.raw).await;
                Done::Sent { nonce, hash: transaction.hash, result }
            });
        }
    }

    /// One count per head tells which nonces are mined; only their receipts are asked for.
    fn check(&mut self, now: Instant) {
        let stale = now.duration_since(self.last_check) >= Duration::from_secs(1);
        if self.checking || self.open.is_empty() || !(self.check_again || stale) {
            return;
        }
        self.checking = true;
        self.check_again = false;
        self.last_check = now;
        let (provider, sender) = (self.provider.clone(), self.wallet.address());
        let open: Vec<(u64, B256)> = self
            .open
            .iter()
            .flat_map(|(nonce, slot)| slot.versions.iter().map(|version| (*nonce, version.hash)))
            .collect();
        self.beside.spawn(async move {
            let checking = async {
                let mined = provider.transaction_count(sender).await?;
                let asked: Vec<(u64, B256)> =
                    open.into_iter().take_while(|(nonce, _)| *nonce < mined).collect();
                let hashes: Vec<B256> = asked.iter().map(|(_, hash)| *hash).collect();
                let mut receipts = Vec::with_capacity(asked.len());
                for (asked, hashes) in asked.chunks(100).zip(hashes.chunks(100)) {
                    let answers = provider.receipts(hashes).await?;
                    receipts.extend(asked.iter().map(|(nonce, _)| *nonce).zip(answers));
                }
                Ok(Checked { mined, receipts })
            };
            Done::Checked(checking.await)
        });
    }

    async fn take_in(&mut self, done: Done) -> Result<(), LedgerError> {
        match done {
            Done::Prepared(prepared) => self.take_prepared(prepared)?,
            Done::Sent { nonce, hash, result } => {
                self.broadcasting -= 1;
                self.take_sent(nonce, hash, result);
            }
            Done::Checked(checked) => {
                self.checking = false;
                match checked {
                    Ok(checked) => self.take_checked(checked).await?,
                    Err(error) => debug!(%error, "could not look for receipts"),
                }
            }
            Done::Tip(tip) => {
                self.asking_tip = false;
                self.tip_at = Some(Instant::now());
                match tip {
                    Ok(tip) => self.tip = tip,
                    Err(error) => debug!(%error, "the node suggests no tip"),
                }
            }
        }
        Ok(())
    }

    fn take_prepared(&mut self, prepared: Prepared) -> Result<(), LedgerError> {
        self.preparing -= prepared.signed.len() + prepared.failed.len();
        prepared.recorded?;
        let now = Instant::now();
        for (draft, error) in prepared.failed.into_iter().rev() {
            if draft.bump {
                continue;
            }
            self.nonces.give_back(draft.transaction.nonce, now);
            let Some(key) = draft.request else { continue };
            match error.remedy() {
                Remedy::Retry => {
                    debug!(request = %key, %error, "signing failed, trying again");
                    self.requeue(key);
                    self.sign_after = now + self.sign_pause.next_delay();
                }
                Remedy::Hold(hold) => self.fail(key, SubmitError::Held(hold)),
                Remedy::Refuse(refusal) => self.fail(
                    key,
                    SubmitError::Held(Hold::new(HoldReason::ContractRejected, refusal.to_string())),
                ),
            }
        }
        if !prepared.signed.is_empty() {
            self.sign_pause.reset();
        }
        for transaction in prepared.signed {
            self.hold_open(transaction, now);
        }
        Ok(())
    }

    /// A recorded transaction becomes, or joins, the slot of its nonce.
    fn hold_open(&mut self, transaction: SignedTransaction, now: Instant) {
        if let Some(key) = transaction.request {
            self.by_request.insert(key, transaction.nonce);
        }
        match self.open.get_mut(&transaction.nonce) {
            Some(slot) => {
                slot.versions.push(transaction);
                slot.next_broadcast = now;
                slot.announced = false;
            }
            None => {
                self.open.insert(transaction.nonce, Slot::new(transaction, now));
            }
        }
    }

    fn take_sent(&mut self, nonce: u64, hash: B256, result: Result<B256, RpcError>) {
        let now = Instant::now();
        let Some(slot) = self.open.get_mut(&nonce) else { return };
        slot.sending = false;
        if slot.current().hash != hash {
            slot.next_broadcast = now;
            return;
        }
        let refusal = match &result {
            Ok(_) => quirks::Refusal::AlreadyKnown,
            Err(RpcError::Refused { code, message, .. }) => quirks::refusal(*code, message),
            Err(_) => quirks::Refusal::Unknown,
        };
        if let Err(error) = &result
            && refusal != quirks::Refusal::AlreadyKnown
            && slot.refusal != Some(refusal)
        {
            slot.refusal = Some(refusal);
            warn!(nonce, transaction = %hash, %error, "broadcast not accepted");
        }
        match refusal {
            quirks::Refusal::AlreadyKnown | quirks::Refusal::Underpriced => {
                slot.next_broadcast = now + REBROADCAST_AFTER.max(slot.pause.next_delay());
                if !slot.announced {
                    slot.announced = true;
                    let request = slot.current().request;
                    self.notify(request, Notice::Broadcast { transaction: hash });
                }
            }
            quirks::Refusal::NonceTooLow => {
                slot.next_broadcast = now + REBROADCAST_AFTER;
                self.check_again = true;
            }
            quirks::Refusal::NonceTooHigh | quirks::Refusal::Busy | quirks::Refusal::Unknown => {
                slot.next_broadcast = now + slot.pause.next_delay();
            }
            quirks::Refusal::InsufficientFunds => {
                slot.next_broadcast = now + slot.pause.next_delay().max(Duration::from_secs(1));
                let request = slot.current().request;
                let hold = Hold::new(
                    HoldReason::NoFunds,
                    format!(
                        "wallet {} cannot pay for gas; send it funds, nothing else is needed",
                        self.wallet.address()
                    ),
                );
                self.notify(request, Notice::Waiting(hold));
            }
            quirks::Refusal::FeeTooLow => {
                slot.next_broadcast = now + slot.pause.next_delay();
                self.bump_fee(nonce);
            }
            quirks::Refusal::Unacceptable | quirks::Refusal::Reverted => {
                self.reject(nonce, refusal, result);
            }
        }
    }

    /// The node proved that it will not take these bytes: the nonce is free again.
    fn reject(&mut self, nonce: u64, refusal: quirks::Refusal, result: Result<B256, RpcError>) {
        let Some(slot) = self.open.remove(&nonce) else { return };
        self.nonces.give_back(nonce, Instant::now());
        let Some(key) = slot.current().request else { return };
        self.by_request.remove(&key);
        let error = match (refusal, &result) {
            (quirks::Refusal::Reverted, Err(error)) => {
                SubmitError::WouldRevert { data: error.revert_data().unwrap_or_default() }
            }
            (_, Err(error)) => SubmitError::Held(Hold::new(
                HoldReason::ContractRejected,
                format!("the node does not take the transaction: {error}; check gas_limit"),
            )),
            (_, Ok(_)) => return,
        };
        self.fail(key, error);
    }

    /// The same payload under the same nonce with a higher fee.
    fn bump_fee(&mut self, nonce: u64) {
        let Some((max_fee, tip)) = self.fees() else {
            self.announce_fee_hold();
            return;
        };
        let Some(slot) = self.open.get(&nonce) else { return };
        let current = slot.current();
        let Ok(old) = TxEnvelope::decode_2718(&mut current.raw.as_ref()) else {
            warn!(nonce, "a recorded transaction cannot be decoded");
            return;
        };
        if max_fee <= old.max_fee_per_gas() {
            return;
        }
        let transaction = TxEip1559 {
            chain_id: self.options.chain_id,
            nonce,
            gas_limit: old.gas_limit(),
            max_fee_per_gas: max_fee.max(old.max_fee_per_gas() + old.max_fee_per_gas() / 8),
            max_priority_fee_per_gas: tip,
            to: old.kind(),
            value: old.value(),
            access_list: alloy::eips::eip2930::AccessList::default(),
            input: old.input().clone(),
        };
        let draft = Draft { transaction, request: current.request, bump: true };
        self.sign_and_record(vec![draft]);
    }

    async fn take_checked(&mut self, checked: Checked) -> Result<(), LedgerError> {
        let now = Instant::now();
        if let Some(foreign) = self.nonces.observe_mined(checked.mined) {
            warn!(
                first = foreign.start(),
                last = foreign.end(),
                "nonces were used by transactions this journal does not know: \
                 is the wallet used elsewhere?"
            );
        }
        let mut unseen = Vec::new();
        for (nonce, receipt) in checked.receipts {
            match receipt {
                Some(receipt) => self.land(nonce, receipt).await?,
                None => unseen.push(nonce),
            }
        }
        for nonce in unseen {
            let Some(slot) = self.open.get_mut(&nonce) else { continue };
            let since = *slot.mined_unseen.get_or_insert(now);
            if now.duration_since(since) >= DISPLACED_AFTER {
                self.displace(nonce);
            }
            // Otherwise the next head, or a second, shows whether the node only lagged.
        }
        Ok(())
    }

    async fn land(&mut self, nonce: u64, receipt: Receipt) -> Result<(), LedgerError> {
        let Some(slot) = self.open.remove(&nonce) else { return Ok(()) };
        self.ledger.mined(receipt.hash, receipt.block).await?;
        for version in slot.versions {
            let Some(key) = version.request else { continue };
            if self.by_request.get(&key) == Some(&nonce) {
                self.by_request.remove(&key);
            }
            if version.hash == receipt.hash {
                let gas_limit = TxEnvelope::decode_2718(&mut version.raw.as_ref())
                    .map_or(0, |transaction| transaction.gas_limit());
                let landing = Landing {
                    transaction: receipt.hash,
                    block: receipt.block,
                    success: receipt.success,
                    gas_used: receipt.gas_used,
                    gas_limit,
                };
                match self.waiters.remove(&key) {
                    Some((_, waiter)) => {
                        if waiter.reply.send(Ok(landing)).is_err() {
                            self.landed.insert(key, landing);
                        }
                    }
                    None => {
                        self.landed.insert(key, landing);
                    }
                }
            } else if !self.landed.contains_key(&key) && !self.by_request.contains_key(&key) {
                // Other bytes took its nonce: now, and not before, it may have a new one.
                self.requeue(key);
            }
        }
        Ok(())
    }

    /// The nonce was used by a transaction that is none of ours.
    fn displace(&mut self, nonce: u64) {
        let Some(slot) = self.open.remove(&nonce) else { return };
        warn!(
            nonce,
            transaction = %slot.current().hash,
            "the nonce was used by a transaction this journal does not know; \
             the answer is sent again: is the wallet used elsewhere?"
        );
        for version in slot.versions {
            let Some(key) = version.request else { continue };
            if self.by_request.get(&key) == Some(&nonce) {
                self.by_request.remove(&key);
                self.requeue(key);
            }
        }
    }

    /// Back to the front of the queue, if somebody still waits for it.
    fn requeue(&mut self, key: RequestKey) {
        if let Some((Some(payload), _)) = self.waiters.get(&key) {
            self.waiting.push_front(payload.clone());
        }
    }

    fn fail(&mut self, key: RequestKey, error: SubmitError) {
        if let Some((_, waiter)) = self.waiters.remove(&key) {
            // The caller may have gone; then there is nobody to tell.
            let _ = waiter.reply.send(Err(error));
        }
    }

    fn notify(&self, request: Option<RequestKey>, notice: Notice) {
        if let Some((_, waiter)) = request.and_then(|key| self.waiters.get(&key)) {
            // Notices inform; a caller that does not read them loses nothing.
            let _ = waiter.notify.try_send(notice);
        }
    }
}

async fn sign(wallet: &Wallet, draft: &Draft) -> Result<SignedTransaction, WalletError> {
    let signature = wallet.sign_hash(draft.transaction.signature_hash()).await?;
    let signed = draft.transaction.clone().into_signed(signature);
    let hash = *signed.hash();
    let raw = TxEnvelope::from(signed).encoded_2718();
    Ok(SignedTransaction {
        nonce: draft.transaction.nonce,
        hash,
        raw: raw.into(),
        request: draft.request,
    })
}

/// What an earlier run sent, out of its signed bytes.
fn recover_payload(request: RequestKey, transaction: &SignedTransaction) -> Option<Payload> {
    let decoded = TxEnvelope::decode_2718(&mut transaction.raw.as_ref()).ok()?;
    Some(Payload {
        request,
        to: decoded.to()?,
        data: decoded.input().clone(),
        gas_limit: decoded.gas_limit(),
    })
}

#[cfg(test)]
mod tests;
