//! Why reading could not continue.

use crate::{chain::rpc_error::RpcError, domain::LedgerError};

/// Why reading could not continue.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the node does not know block {0}")]
    UnknownBlock(u64),
    #[error("block {number} does not follow the cursor: the chain was reorganised")]
    Reorganised { number: u64 },
    #[error(
        "the blocks up to {cursor} that were read are no node's any more, the newest is {head}"
    )]
    CursorLost { cursor: u64, head: u64 },
    #[error("the connector is stopping")]
    Stopping,
}

impl ReadError {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Rpc(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::UnknownBlock(_) => "unknown_block",
            Self::Reorganised { .. } => "reorganised",
            Self::CursorLost { .. } => "astray",
            Self::Stopping => "stopping",
        }
    }
}
