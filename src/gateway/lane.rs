//! The lane: the only owner of a wallet's nonces on one chain. nonce -> sign -> record -> broadcast ->
//! receipt.
//!
//! ```text
//! waiting --take nonce, sign, record--> open --broadcast, again and again--> mined
//!    ^           │ signing failed           │ provably rejected, displaced     │
//!    └───────────┴──────────────────────────┘        open again <--------------┘ reorganised
//! ```
//!
//! A lane without a key ([`drain`]) runs the same code: it signs nothing, and ends when no transaction
//! is open.
//!
//! Invariants:
//! - Nothing is broadcast before its nonce, bytes and hash are durable ([`TransactionLedger::signed`]).
//! - After an unknown outcome the same bytes are sent again. A nonce gets other bytes only as a fee bump
//!   of the same payload, as a no-op, or after every node proved that it rejected the old bytes.
//! - A request has at most one open transaction: submitting it again attaches to that one. So a restart
//!   needs no code of its own: the walk submits again and attaches. The same holds after a
//!   reorganisation: a mined transaction that left the chain is open again with the same bytes, its
//!   request walks again and attaches.
//! - A transaction behind a gap that is too wide to fill is **stranded**: the lane gives it up, and its
//!   request gets another nonce. If the chain reaches the old nonce later, the old bytes may still be
//!   mined: the contract refuses a second answer, and the lane recognises them as its own.
//! - Decisions are pure ([`book`], [`count`], [`nonces`], [`slot`], [`recent`]). One task carries them
//!   out ([`owner`]); slow work runs beside it in its `JoinSet`.

pub mod book;
mod count;
pub mod draft;
mod look;
mod market;
mod news;
mod nonces;
mod owner;
mod recent;
mod slot;
mod start;
mod votes;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::{owner::Owner, start::Known};
use super::{
    provider::{RpcError, TransactionSender},
    wallet::Wallet,
};
use crate::{
    domain::{Address, B256, BlockRef, Bytes, Hold, LedgerError, RequestKey},
    heart::Heart,
    metrics::Metrics,
};

/// Highest plausible fee, in wei per gas (1,000 gwei, as the default of `max_fee_per_gas_gwei`): a
/// transaction signed for more counts as overpriced unless the operator's cap is higher. No chain of the
/// Gateway's kind comes near it.
pub const HIGHEST_FEE: u128 = 1_000_000_000_000;

/// Number of mined transactions that are watched for reorganisations; one that leaves the chain is sent
/// again.
pub const FOLLOWED: u64 = 4096;

/// A signed transaction. The journal keeps it until the block of its receipt is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransaction {
    pub nonce: u64,
    pub hash: B256,
    /// The EIP-2718 bytes as broadcast.
    pub raw: Bytes,
    /// The request whose answer it carries. `None`: a no-op that fills a hole.
    pub request: Option<RequestKey>,
}

/// Identifies a recorded transaction. The nonce is part of it because the journal looks transactions up
/// in nonce order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId {
    pub nonce: u64,
    pub hash: B256,
}

impl SignedTransaction {
    #[must_use]
    pub fn id(&self) -> TransactionId {
        TransactionId { nonce: self.nonce, hash: self.hash }
    }
}

/// The port through which the lane records. The journal implements it.
pub trait TransactionLedger: Clone + Send + Sync + 'static {
    /// Door (b). Returns once nonce, signed bytes and hash are durable (fsync), so before the first
    /// broadcast. Several rows may share a nonce (fee bump, displaced payload).
    fn signed(
        &self,
        transactions: Vec<SignedTransaction>,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// The transaction was mined in `block`. Written with the next commit.
    fn mined(
        &self,
        transaction: TransactionId,
        block: BlockRef,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// These transactions will not be mined; the lane stops following them. Written with the next
    /// commit.
    fn gave_up(
        &self,
        transactions: Vec<TransactionId>,
        why: GivenUp,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// These mined transactions left the chain: they are open again, and the requests they answered have
    /// no outcome any more. Durable when it returns. Returns all transactions recorded for their nonces
    /// that were not given up, ordered by nonce, then by age.
    fn reopen(
        &self,
        transactions: Vec<TransactionId>,
    ) -> impl Future<Output = Result<Vec<SignedTransaction>, LedgerError>> + Send;
}

/// Why a transaction will not be mined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// Every node proved that it did not take it. The nonce is free for another transaction.
    Rejected,
    /// A transaction that is not ours used the nonce.
    Displaced,
    /// Too many nonces below it are unused for the chain to reach it.
    Stranded,
}

impl GivenUp {
    /// The stable name, as stored in the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Displaced => "displaced",
            Self::Stranded => "stranded",
        }
    }
}

/// A mined transaction, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinedTransaction {
    pub nonce: u64,
    pub hash: B256,
    pub block: BlockRef,
}

/// What earlier runs left behind.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Not known to be mined, ordered by nonce, then by age.
    pub open: Vec<SignedTransaction>,
    /// The latest mined ones: a reorganisation may have removed them since.
    pub mined: Vec<MinedTransaction>,
    /// The highest recorded nonce whose transaction may be mined.
    pub highest: Option<u64>,
    /// Given up behind a gap. They may still be mined if the chain reaches their nonces.
    pub stranded: Vec<SignedTransaction>,
}

/// A transaction to send.
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
    /// The node executed the transaction before inclusion and refused it because it would revert.
    #[error("refused before inclusion: it would revert")]
    WouldRevert { data: Bytes },
    #[error("{0}")]
    Held(Hold),
    /// Every node proved that it does not take the transaction, for a reason that is not the contract's.
    #[error("the node does not take the transaction: {0}")]
    NotTaken(RpcError),
    /// The lane is shutting down. Transactions that were broadcast stay in the journal.
    #[error("the lane was stopped")]
    Stopped,
}

/// Progress of a payload before its result.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Recorded, and accepted by a node.
    Broadcast { transaction: B256 },
    /// Waits for an operator. It continues by itself once the cause is fixed.
    Waiting(Hold),
    /// Mined. The last notice.
    Landed(Landing),
}

/// The caller's end of a submission.
#[derive(Debug)]
pub struct Submission {
    /// Bounded: when it is full, further notices are dropped.
    notices: mpsc::Receiver<Notice>,
    landing: oneshot::Receiver<Result<Landing, SubmitError>>,
}

impl Submission {
    /// Returns the next notice. Nothing follows an inclusion or an error. Cancel-safe.
    pub async fn next(&mut self) -> Result<Notice, SubmitError> {
        tokio::select! {
            biased;
            Some(notice) = self.notices.recv() => Ok(notice),
            landing = &mut self.landing => {
                landing.unwrap_or(Err(SubmitError::Stopped)).map(Notice::Landed)
            }
        }
    }
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
        let (waiter, submission) = Waiter::new();
        let task = Task::Submit { payload, waiter };
        self.jobs.send(task).await.map_err(|_| SubmitError::Stopped)?;
        Ok(submission)
    }

    /// Attaches to the transaction of a request that an earlier run sent, if there is one.
    pub async fn attach(&self, request: RequestKey) -> Result<Option<Submission>, SubmitError> {
        let ((waiter, submission), (found, answer)) = (Waiter::new(), oneshot::channel());
        let task = Task::Attach { request, waiter, found };
        self.jobs.send(task).await.map_err(|_| SubmitError::Stopped)?;
        let found = answer.await.map_err(|_| SubmitError::Stopped)?;
        Ok(found.then_some(submission))
    }

    #[must_use]
    pub fn sender(&self) -> Address {
        self.sender
    }
}

/// Limits of a lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneOptions {
    pub chain_id: u64,
    /// Transactions that are recorded and not mined yet. Below 1,024, the number of transactions a Nitro
    /// sequencer buffers. Zero: nothing is signed, and open transactions are sent until they are mined.
    pub max_in_flight: usize,
    /// Cap in wei per gas; while the chain costs more, payloads wait.
    pub max_fee_per_gas: u128,
}

/// Commands from callers.
#[derive(Debug)]
enum Task {
    Submit { payload: Payload, waiter: Waiter },
    Attach { request: RequestKey, waiter: Waiter, found: oneshot::Sender<bool> },
}

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Result<Landing, SubmitError>>,
    notify: mpsc::Sender<Notice>,
}

impl Waiter {
    fn new() -> (Self, Submission) {
        let ((reply, landing), (notify, notices)) = (oneshot::channel(), mpsc::channel(4));
        (Self { reply, notify }, Submission { notices, landing })
    }
}

/// The task behind a [`Lane`].
#[derive(Debug)]
pub struct LaneTask<P, L> {
    provider: P,
    sender: Address,
    /// `None`: the key is not available. Recorded transactions are sent until each nonce is used;
    /// nothing is signed.
    wallet: Option<Arc<Wallet>>,
    ledger: L,
    options: LaneOptions,
    jobs: mpsc::Receiver<Task>,
    recovered: Recovered,
    metrics: Metrics,
}

/// Creates a lane and the task that runs it.
pub fn lane<P: TransactionSender, L: TransactionLedger>(
    provider: P,
    wallet: Arc<Wallet>,
    ledger: L,
    options: LaneOptions,
    recovered: Recovered,
    metrics: Metrics,
) -> (Lane, LaneTask<P, L>) {
    let (asks, jobs) = mpsc::channel(options.max_in_flight);
    let (sender, wallet) = (wallet.address(), Some(wallet));
    let task = LaneTask { provider, sender, wallet, ledger, options, jobs, recovered, metrics };
    (Lane { jobs: asks, sender }, task)
}

/// Creates the task for transactions that `sender` has signed and whose key is not available any more
/// (the wallet was changed by a reload). It ends once every nonce is used, or after an hour in which no
/// transaction was accepted or mined; the ledger says what is left.
pub fn drain<P: TransactionSender, L: TransactionLedger>(
    provider: P,
    sender: Address,
    ledger: L,
    recovered: Recovered,
    metrics: Metrics,
) -> LaneTask<P, L> {
    let options = LaneOptions { chain_id: 0, max_in_flight: 0, max_fee_per_gas: HIGHEST_FEE };
    // The sender is dropped: a draining lane has no callers.
    let (_, jobs) = mpsc::channel(1);
    let wallet = None;
    LaneTask { provider, sender, wallet, ledger, options, jobs, recovered, metrics }
}

impl<P: TransactionSender, L: TransactionLedger> LaneTask<P, L> {
    /// Runs until `stop`, or until the lane is drained. Fails only if the journal fails.
    pub async fn run(self, heart: Heart, stop: CancellationToken) -> Result<(), LedgerError> {
        let known = Known::of(&self.recovered);
        let (wallet, told) = (self.sender, (&heart, &self.metrics));
        let counting = start::first_count(&self.provider, wallet, known, &self.jobs, told);
        let Some(count) = stop.run_until_cancelled(counting).await else { return Ok(()) };
        let owner = Owner::new(self, count);
        owner.run(heart, stop).await
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
