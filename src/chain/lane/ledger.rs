//! What the lane records of its transactions, the port through which it does, and what an earlier run left.
//! The journal implements the port.

use crate::domain::{B256, BlockRef, Bytes, LedgerError, RequestKey};

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
    fn record_signed(
        &self,
        transactions: Vec<SignedTransaction>,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// The transaction was mined in `block`. Written with the next commit.
    fn record_mined(
        &self,
        transaction: TransactionId,
        block: BlockRef,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// These transactions will not be mined; the lane stops following them. Written with the next
    /// commit.
    fn record_given_up(
        &self,
        transactions: Vec<TransactionId>,
        why: GiveUpReason,
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
pub enum GiveUpReason {
    /// Every node proved that it did not take it. The nonce is free for another transaction.
    Rejected,
    /// A transaction that is not ours used the nonce.
    Displaced,
    /// Too many nonces below it are unused for the chain to reach it.
    Stranded,
}

impl GiveUpReason {
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
