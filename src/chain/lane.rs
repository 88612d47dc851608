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
//! - Nothing is broadcast before its nonce, bytes and hash are durable
//!   ([`TransactionLedger::record_signed`]).
//! - After an unknown outcome the same bytes are sent again. A nonce gets other bytes only as a fee bump
//!   of the same payload, as a no-op, or after every node proved that it rejected the old bytes.
//! - A request has at most one open transaction: submitting it again attaches to that one. So a restart
//!   needs no code of its own: the walk submits again and attaches. The same holds after a
//!   reorganisation: a mined transaction that left the chain is open again with the same bytes, its
//!   request walks again and attaches.
//! - A transaction behind a gap that is too wide to fill is **stranded**: the lane gives it up, and its
//!   request gets another nonce. If the chain reaches the old nonce later, the old bytes may still be
//!   mined: the contract refuses a second answer, and the lane recognises them as its own.
//! - Where transactions wait in pools ([`ChainKind::Mempool`]), a receipt ends a submission once its block is
//!   deep enough ([`confirmations`]). Until then a receipt that leaves the chain opens the transaction again:
//!   same nonce, same bytes, or a fee bump of them.
//! - Decisions are pure ([`state`], [`count`], [`nonces`], [`nonce_slot`], [`mined_window`]). One task carries
//!   them out ([`runner`]); slow work runs beside it in its `JoinSet`.

mod chain_kind;
mod ledger;
pub mod state;
mod count;
pub mod unsigned;
mod receipts;
mod fee_market;
mod events;
mod nonces;
mod runner;
mod mined_window;
mod confirmations;
mod nonce_slot;
mod first_count;
mod ask_all;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::{
    chain_kind::{ChainKind, MempoolRules},
    ledger::{
        GiveUpReason, MinedTransaction, Recovered, SignedTransaction, TransactionId,
        TransactionLedger,
    },
};
use self::{first_count::JournaledNonces, runner::Runner};
use super::wallet::Wallet;
use crate::{
    chain::{rpc_error::RpcError, sender::TransactionSender},
    dice::Dice,
    domain::{Address, B256, BlockRef, Bytes, Hold, LedgerError, RequestKey},
    telemetry::{heartbeat::Heartbeat, metrics::Metrics},
};

/// Highest plausible fee, in wei per gas (1,000 gwei, as the default of `max_fee_per_gas_gwei`): a
/// transaction signed for more counts as overpriced unless the operator's cap is higher. No chain of the
/// Gateway's kind comes near it.
pub const HIGHEST_FEE: u128 = 1_000_000_000_000;

/// Number of mined transactions that are watched for reorganisations; one that leaves the chain is sent
/// again.
pub const MINED_FOLLOWED: u64 = 4096;

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
pub struct Inclusion {
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
    NotTaken(#[source] RpcError),
    /// The lane is shutting down. Transactions that were broadcast stay in the journal.
    #[error("the lane was stopped")]
    Stopped,
}

/// Progress of a payload before its result.
#[derive(Clone, Debug)]
pub enum SubmissionUpdate {
    /// Recorded, and accepted by a node.
    Broadcast { transaction: B256 },
    /// Waits for an operator. It continues by itself once the cause is fixed.
    Waiting(Hold),
    /// Mined. The last notice.
    Included(Inclusion),
}

/// The caller's end of a submission.
#[derive(Debug)]
pub struct SubmissionHandle {
    /// Bounded: when it is full, further notices are dropped.
    updates: mpsc::Receiver<SubmissionUpdate>,
    inclusion: oneshot::Receiver<Result<Inclusion, SubmitError>>,
}

impl SubmissionHandle {
    /// Returns the next notice. Nothing follows an inclusion or an error. Cancel-safe.
    pub async fn next(&mut self) -> Result<SubmissionUpdate, SubmitError> {
        tokio::select! {
            biased;
            Some(notice) = self.updates.recv() => Ok(notice),
            landing = &mut self.inclusion => {
                landing.unwrap_or(Err(SubmitError::Stopped)).map(SubmissionUpdate::Included)
            }
        }
    }
}

/// A handle to the lane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lane {
    commands: mpsc::Sender<LaneCommand>,
    sender: Address,
    kind: ChainKind,
}

impl Lane {
    /// Hands a payload to the lane. Waits while the lane's queue is full.
    pub async fn submit(&self, payload: Payload) -> Result<SubmissionHandle, SubmitError> {
        let (waiter, submission) = Waiter::new();
        let task = LaneCommand::Submit { payload, waiter };
        self.commands.send(task).await.map_err(|_| SubmitError::Stopped)?;
        Ok(submission)
    }

    /// Attaches to the transaction of a request that an earlier run sent, if there is one.
    pub async fn attach(
        &self,
        request: RequestKey,
    ) -> Result<Option<SubmissionHandle>, SubmitError> {
        let ((waiter, submission), (found, answer)) = (Waiter::new(), oneshot::channel());
        let task = LaneCommand::Attach { request, waiter, found };
        self.commands.send(task).await.map_err(|_| SubmitError::Stopped)?;
        let found = answer.await.map_err(|_| SubmitError::Stopped)?;
        Ok(found.then_some(submission))
    }

    #[must_use]
    pub fn sender(&self) -> Address {
        self.sender
    }

    /// Whether a receipt ends a submission only when its block is deep.
    #[must_use]
    pub fn waits_for_depth(&self) -> bool {
        self.kind.confirmations() > 0
    }
}

/// Limits of a lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneOptions {
    pub chain_id: u64,
    /// Transactions that are recorded and not mined yet. Below 1,024, the number of transactions a Nitro
    /// sequencer buffers; at most 16 where there are pools, which take so many of one account at least. Zero: nothing is signed, and open transactions are sent until they are mined.
    pub max_in_flight: usize,
    /// Cap in wei per gas; while the chain costs more, payloads wait.
    pub max_fee_per_gas: u128,
    pub kind: ChainKind,
}

/// Commands from callers.
#[derive(Debug)]
enum LaneCommand {
    Submit { payload: Payload, waiter: Waiter },
    Attach { request: RequestKey, waiter: Waiter, found: oneshot::Sender<bool> },
}

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Result<Inclusion, SubmitError>>,
    notify: mpsc::Sender<SubmissionUpdate>,
}

impl Waiter {
    fn new() -> (Self, SubmissionHandle) {
        let ((reply, landing), (notify, notices)) = (oneshot::channel(), mpsc::channel(4));
        (Self { reply, notify }, SubmissionHandle { updates: notices, inclusion: landing })
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
    commands: mpsc::Receiver<LaneCommand>,
    recovered: Recovered,
    metrics: Metrics,
    dice: Dice,
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
    let dice = Dice::default();
    let task = LaneTask {
        provider,
        sender,
        wallet,
        ledger,
        options,
        commands: jobs,
        recovered,
        metrics,
        dice,
    };
    (Lane { commands: asks, sender, kind: options.kind }, task)
}

/// Creates the task for transactions that `sender` has signed and whose key is not available any more
/// (the wallet was changed by a reload). It ends once every nonce is used, or after an hour in which no
/// transaction was accepted or mined; the ledger says what is left.
pub fn drain<P: TransactionSender, L: TransactionLedger>(
    provider: P,
    sender: Address,
    ledger: L,
    kind: ChainKind,
    recovered: Recovered,
    metrics: Metrics,
) -> LaneTask<P, L> {
    let options = LaneOptions { chain_id: 0, max_in_flight: 0, max_fee_per_gas: HIGHEST_FEE, kind };
    // The sender is dropped: a draining lane has no callers.
    let (_, jobs) = mpsc::channel(1);
    let (wallet, dice) = (None, Dice::default());
    LaneTask { provider, sender, wallet, ledger, options, commands: jobs, recovered, metrics, dice }
}

impl<P: TransactionSender, L: TransactionLedger> LaneTask<P, L> {
    /// Takes the random part of its pauses from these dice.
    #[must_use]
    pub fn rolling(self, dice: Dice) -> Self {
        Self { dice, ..self }
    }

    /// Runs until `stop`, or until the lane is drained. Fails only if the journal fails.
    pub async fn run(self, heart: Heartbeat, stop: CancellationToken) -> Result<(), LedgerError> {
        let known = JournaledNonces::of(&self.recovered);
        let (wallet, told) = (self.sender, (&heart, &self.metrics, &self.dice));
        let counting =
            first_count::read_first_count(&self.provider, wallet, known, &self.commands, told);
        let Some(count) = stop.run_until_cancelled(counting).await else { return Ok(()) };
        let owner = Runner::new(self, count);
        owner.run(heart, stop).await
    }
}

#[cfg(test)]
mod tests;
