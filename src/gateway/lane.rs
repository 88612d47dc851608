//! nonce -> sign -> record -> broadcast -> receipt: the one owner of a wallet's nonces on one chain.
//!
//! ```text
//! waiting --take nonce, sign, record--> open --broadcast, again and again--> mined
//!    ^           │ not signed               │ provably rejected, displaced     │
//!    └───────────┴──────────────────────────┘        open again <--------------┘ reorganised
//! ```
//!
//! A lane whose key is gone ([`drain`]) is the same one: it signs nothing, and ends when nothing is open.
//!
//! Invariants:
//! - Nothing is broadcast before nonce, bytes and hash are durable ([`TransactionLedger::signed`]).
//! - An unknown outcome means the same bytes again. A nonce gets other bytes only as a fee bump of
//!   the same payload, as a no-op, or when the nodes proved the rejection of the old ones.
//! - A request has at most one open transaction: asking again for a request that has one attaches
//!   to it. So a restart needs no path of its own: the walk submits again and finds it here. Nor has
//!   a reorganisation: a mined transaction that is dropped is open again, with the same bytes, and the
//!   request that it had settled walks again and finds it here.
//! - What lies beyond a gap that nobody fills is **stranded**: it is given up, and its request gets
//!   another nonce. Should the chain ever come to its nonce, the old bytes may be mined after all: the
//!   contract refuses a second answer, and they are known as ours.
//! - Decisions are pure ([`book`], [`count`], [`nonces`], [`slot`], [`recent`]); one task carries them out ([`owner`]), and
//!   everything slow runs beside it in its `JoinSet`.

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
    provider::{Provider, RpcError},
    wallet::Wallet,
};
use crate::{
    domain::{Address, B256, BlockRef, Bytes, Hold, LedgerError, RequestKey},
    heart::Heart,
    metrics::Metrics,
};

/// The most per gas that makes sense (wei): what is signed for more is out of all proportion, unless the
/// operator allows more. 1,000 gwei: no chain of the Gateway's kind comes near.
pub const HIGHEST_FEE: u128 = 1_000_000_000_000;

/// So many mined transactions are followed: what a reorganisation drops is sent again.
pub const FOLLOWED: u64 = 4096;

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

/// A recorded transaction. The nonce says where to look: nonces come in their order, hashes do not.
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
    /// Door (b): nonce, signed bytes and hash are durable (fsync) before this returns, and so
    /// before the first broadcast. Several rows may share a nonce (fee bump, displaced payload).
    fn signed(
        &self,
        transactions: Vec<SignedTransaction>,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// The transaction was mined in `block`. Rides on the next commit.
    fn mined(
        &self,
        transaction: TransactionId,
        block: BlockRef,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// These will not be mined, and are not to be followed any more. Rides on the next commit.
    fn gave_up(
        &self,
        transactions: Vec<TransactionId>,
        why: GivenUp,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// These were mined and have left the chain: they are open again, and the requests they had
    /// answered have no outcome any more. Durable. Answers what is recorded for their nonces and not
    /// given up, ordered by nonce, then by age.
    fn reopen(
        &self,
        transactions: Vec<TransactionId>,
    ) -> impl Future<Output = Result<Vec<SignedTransaction>, LedgerError>> + Send;
}

/// Why a transaction will not be mined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// Every node proved that it did not take it: the nonce is another one's.
    Rejected,
    /// The nonce was used by a transaction that is none of ours.
    Displaced,
    /// So many nonces below it are unused that the chain will not come to it.
    Stranded,
}

impl GivenUp {
    /// The stable name, as the journal has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Displaced => "displaced",
            Self::Stranded => "stranded",
        }
    }
}

/// A transaction that was mined, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinedTransaction {
    pub nonce: u64,
    pub hash: B256,
    pub block: BlockRef,
}

/// What earlier runs left.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Not known to be mined, ordered by nonce, then by age.
    pub open: Vec<SignedTransaction>,
    /// The last ones known to be mined: the chain may have gone back since.
    pub mined: Vec<MinedTransaction>,
    /// The highest nonce that was ever recorded, and may be mined.
    pub highest: Option<u64>,
    /// Given up beyond a gap: should the chain come to their nonces, they may be mined after all.
    pub stranded: Vec<SignedTransaction>,
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
    /// Every node proved that it does not take the transaction, whatever the contract says.
    #[error("the node does not take the transaction: {0}")]
    NotTaken(RpcError),
    /// The lane is shutting down. What was broadcast stays in the journal.
    #[error("the lane was stopped")]
    Stopped,
}

/// What happens to a payload while it waits.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Recorded and on its way.
    Broadcast { transaction: B256 },
    /// It goes on by itself as soon as somebody fixes this.
    Waiting(Hold),
    /// Mined: nothing comes after this.
    Landed(Landing),
}

/// The caller's end of a submission.
#[derive(Debug)]
pub struct Submission {
    /// Bounded; when it is full further notices are dropped.
    notices: mpsc::Receiver<Notice>,
    landing: oneshot::Receiver<Result<Landing, SubmitError>>,
}

impl Submission {
    /// Waits for what happens next. After a landing or an error nothing does. Cancel-safe.
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

    /// The submission of a request that an earlier run sent, if there is one.
    pub async fn attach(&self, request: RequestKey) -> Result<Option<Submission>, SubmitError> {
        let ((waiter, submission), (found, answer)) = (Waiter::new(), oneshot::channel());
        let task = Task::Attach { request, waiter, found };
        self.jobs.send(task).await.map_err(|_| SubmitError::Stopped)?;
        let found = answer.await.map_err(|_| SubmitError::Stopped)?;
        Ok(found.then_some(submission))
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
    /// Transactions recorded and not mined. A sequencer buffers 1,024. None: nothing is signed, and what
    /// was is sent on to its end.
    pub max_in_flight: usize,
    /// Wei per gas; above it payloads wait.
    pub max_fee_per_gas: u128,
}

/// What callers ask of the lane.
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
    /// `None`: its key is gone. What was signed is sent on until each nonce is used, and nothing else.
    wallet: Option<Arc<Wallet>>,
    ledger: L,
    options: LaneOptions,
    jobs: mpsc::Receiver<Task>,
    recovered: Recovered,
    metrics: Metrics,
}

/// A lane and the task that runs it.
pub fn lane<P: Provider, L: TransactionLedger>(
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

/// The task of a lane for what `sender` has signed, whose key is not at hand. It ends once each nonce is
/// used, or nothing was taken or mined for an hour: the ledger tells what is left.
pub fn drain<P: Provider, L: TransactionLedger>(
    provider: P,
    sender: Address,
    ledger: L,
    recovered: Recovered,
    metrics: Metrics,
) -> LaneTask<P, L> {
    let options = LaneOptions { chain_id: 0, max_in_flight: 0, max_fee_per_gas: HIGHEST_FEE };
    // Nobody can ask it for anything.
    let (_, jobs) = mpsc::channel(1);
    let wallet = None;
    LaneTask { provider, sender, wallet, ledger, options, jobs, recovered, metrics }
}

impl<P: Provider, L: TransactionLedger> LaneTask<P, L> {
    /// Runs until `stop`, or until it is drained. Fails only when the journal does.
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
