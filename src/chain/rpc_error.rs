//! Why a call to a node has no result. What a node's refusal means stands in [`super::quirks`].

use crate::{
    chain::quirks::{self, RangeRefusal},
    domain::{B256, Bytes, UntrustedText},
};

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// No answer: not connected, connection lost, timed out, overloaded. Whether the node acted is
    /// unknown.
    #[error("no answer from {host}: {what}")]
    Unavailable { host: String, what: UntrustedText },
    /// The node answered with a JSON-RPC error object.
    #[error("{host} answered error {code}: {message}")]
    Refused { host: String, code: i64, message: UntrustedText, data: Option<Bytes> },
    /// The URL leads to another chain than configured. Nothing is read or sent.
    #[error("{host} serves chain id {found}, the configuration says chain_id = {expected}")]
    WrongChain { host: String, expected: u64, found: u64 },
    /// The URL leads to another chain with the same id: its block 0 differs.
    #[error("{host} is of another chain: its block 0 is {found}, and not {expected}")]
    WrongGenesis { host: String, expected: B256, found: B256 },
    /// The answer does not fit the question.
    #[error("{host} gave an unreadable answer: {what}")]
    Unreadable { host: String, what: UntrustedText },
    /// Rate limited, or "come back later": the node did not process the call.
    #[error("{host} is asked too often: {what}")]
    RateLimited { host: String, what: UntrustedText },
    /// The answer exceeds the bound and was not read: no legal answer about a single block does.
    #[error("{host} answered more than {} MiB", bound.div_ceil(1 << 20))]
    TooLarge { host: String, bound: usize },
}

impl RpcError {
    /// Stable, for metrics and throttling. For a refusal its meaning, if known.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::RateLimited { .. } => "busy",
            Self::Refused { code, message, .. } => quirks::error_code(*code, message),
            Self::WrongChain { .. } | Self::WrongGenesis { .. } => "wrong_chain",
            Self::Unreadable { .. } => "unreadable",
            Self::TooLarge { .. } => "too_large",
        }
    }

    /// Whether the node refused a block hash in a call's place for a block (EIP-1898).
    #[must_use]
    pub fn refuses_block_hash(&self) -> bool {
        matches!(self, Self::Refused { code, message, .. }
            if quirks::refuses_block_hash(*code, message))
    }

    /// The revert data, if the call was executed and reverted, or ended otherwise without a result (out
    /// of gas, say): then it is empty.
    #[must_use]
    pub fn failed_execution(&self) -> Option<Bytes> {
        self.revert_data().or_else(|| {
            let Self::Refused { message, .. } = self else { return None };
            quirks::is_failed_execution(message).then(Bytes::new)
        })
    }

    /// Whether the node is rate limiting us, whatever was asked: it is left alone for a while.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        matches!(self, Self::RateLimited { .. })
            || matches!(self, Self::Refused { code, message, .. }
                if quirks::is_rate_limited(*code, message))
    }

    /// Whether the node is overloaded: the same call may succeed later.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_rate_limited()
            || matches!(self, Self::Refused { code, message, .. }
            if matches!(
                quirks::pool_error(*code, message),
                quirks::PoolError::Busy | quirks::PoolError::PoolFull
            ))
    }

    /// Whether the node says that it has dropped the state of an earlier block.
    #[must_use]
    pub fn is_state_pruned(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if quirks::is_state_pruned(message))
    }

    /// Why the answer was too large, if a smaller range may be answered.
    #[must_use]
    pub fn range_refusal(&self) -> Option<RangeRefusal> {
        if let Self::Refused { code, message, .. } = self {
            return quirks::range_refusal(*code, message);
        }
        matches!(self, Self::TooLarge { .. }).then_some(RangeRefusal::Results)
    }

    /// The revert data, if the call was executed and reverted. Empty data: a revert without a reason.
    #[must_use]
    pub fn revert_data(&self) -> Option<Bytes> {
        let Self::Refused { code, message, data, .. } = self else { return None };
        quirks::is_revert(*code, message)
            .then(|| data.clone().unwrap_or_default())
            .or_else(|| data.clone().filter(|data| data.len() >= 4))
    }
}
