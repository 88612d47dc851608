//! nonce -> sign -> record -> broadcast -> receipt. (skeleton)

use crate::domain::{B256, BlockRef, Bytes, LedgerError, RequestKey};

/// A signed transaction, as kept in the journal until its receipt's block is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransaction {
    pub nonce: u64,
    pub hash: B256,
    /// The EIP-2718 bytes as broadcast.
    pub raw: Bytes,
    /// Whose answer it carries. `None`: a no-op that fills a gap.
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
