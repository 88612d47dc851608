//! Why a check gave no pass.

use crate::{
    chain::rpc_error::RpcError,
    contracts::{gateway_config::RegistryError, pinned_reads::HostChainError},
    domain::{B256, Hold, HoldReason, Refusal, U256},
};

/// Why a request may not be decrypted now, or ever. None of them lets anything through.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AccessError {
    /// A host chain does not grant it.
    #[error("host chain {chain_id} does not grant it: {what}")]
    Denied {
        chain_id: u64,
        /// The call and its answer.
        what: String,
    },
    #[error(
        "the user's signature is valid from {start} on, and it is {now} on host chain {chain_id}"
    )]
    Early { chain_id: u64, now: u64, start: U256 },
    #[error("{refusal}")]
    Refused { refusal: Refusal, grounds: Grounds },
    #[error(
        "no [[host_chains]] entry of the configuration has chain_id = {chain_id}, to which its \
         handles belong"
    )]
    NotConfigured { chain_id: u64 },
    #[error("host chain {chain_id}: {cause}")]
    HostChain {
        chain_id: u64,
        #[source]
        cause: HostChainError,
    },
    #[error(
        "it names KMS context {context:#066x}, which is checked on Ethereum: set `ethereum_url`, \
         `ethereum_chain_id` and `protocol_config_address`"
    )]
    EthereumNotConfigured { context: U256 },
    #[error("KMS contexts cannot be read: {0}")]
    Ethereum(#[source] HostChainError),
    #[error("KMS context {context:#066x}, which it names, is not in force")]
    ContextUnknown { context: U256 },
    #[error("epoch {epoch:#066x} of KMS context {context:#066x}, which it names, is not in force")]
    EpochUnknown { context: U256, epoch: U256 },
    #[error(
        "no gateway node shows its transaction {transaction} in its block, where the user's \
         signature is"
    )]
    NoTransaction { transaction: B256 },
    #[error(
        "the contract of its block {block} is newer than the one that is known: it is looked at again"
    )]
    Upgraded { block: u64 },
    /// Not the chain: this instance asks so much of others already.
    #[error(
        "its {questions} questions to host chains found no room beside those of other large requests within \
         {secs} s"
    )]
    NoTurn { questions: usize, secs: u64 },
    #[error(transparent)]
    Gateway(#[from] RpcError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What a refusal rests on, and so what confirms it (`walk::policy::refusals`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds {
    /// The event alone: confirmed as that of a malformed request.
    Event,
    /// The calldata of its transaction.
    Calldata {
        /// Two gateway nodes show it, or the only one there is.
        witnesses: Witnesses,
    },
    /// The state of a chain, as told once.
    State {
        /// [`Witnesses::One`]: a second endpoint was asked and does not show it.
        witnesses: Witnesses,
    },
}

/// Who shows what a refusal rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witnesses {
    Two,
    /// The only node that can be asked, or one reading of a chain's state.
    TheOnlyOne,
    /// One of several nodes: it may be wrong.
    One,
}

impl AccessError {
    /// Stable, for metrics and throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { refusal: Refusal::AccessRefused(why), .. } => why.reason.as_str(),
            Self::Refused { refusal: Refusal::Malformed(_), .. } => "malformed",
            Self::Refused { refusal: Refusal::NotRequested, .. } => "not_requested",
            Self::Upgraded { .. } => "upgraded",
            Self::NoTurn { .. } => "access_no_turn",
            Self::Gateway(error) => error.code(),
            Self::Registry(error) => error.code(),
            Self::HostChain { cause, .. } | Self::Ethereum(cause) => cause.code(),
            Self::Denied { .. } => HoldReason::AccessDeniedOnChain.as_str(),
            Self::Early { .. } => HoldReason::NotYetValid.as_str(),
            Self::NotConfigured { .. } => HoldReason::HostChainNotConfigured.as_str(),
            Self::EthereumNotConfigured { .. } => HoldReason::EthereumNotConfigured.as_str(),
            Self::ContextUnknown { .. } => HoldReason::ContextUnknown.as_str(),
            Self::EpochUnknown { .. } => HoldReason::EpochUnknown.as_str(),
            Self::NoTransaction { .. } => HoldReason::NoTransaction.as_str(),
        }
    }

    /// Why the request is held, if this lasts. `None`: it is no reason to hold it (the gateway does not
    /// answer, which all requests wait for, or others are asked for first), or it ends the request.
    #[must_use]
    pub fn hold_reason(&self) -> Option<HoldReason> {
        Some(match self {
            Self::Denied { .. } => HoldReason::AccessDeniedOnChain,
            Self::Early { .. } => HoldReason::NotYetValid,
            Self::NotConfigured { .. } => HoldReason::HostChainNotConfigured,
            Self::HostChain { cause, .. } | Self::Ethereum(cause) => match cause {
                HostChainError::Stale { .. } => HoldReason::HostChainStale,
                HostChainError::Disagree { .. } => HoldReason::HostNodesDisagree,
                HostChainError::Unreachable { .. }
                | HostChainError::TimedOut { .. }
                | HostChainError::WrongChain { .. }
                | HostChainError::NoContract { .. }
                | HostChainError::NoFinalizedBlock { .. }
                | HostChainError::Unreadable { .. } => HoldReason::HostChainUnreachable,
            },
            Self::EthereumNotConfigured { .. } => HoldReason::EthereumNotConfigured,
            Self::ContextUnknown { .. } => HoldReason::ContextUnknown,
            Self::EpochUnknown { .. } => HoldReason::EpochUnknown,
            Self::NoTransaction { .. } => HoldReason::NoTransaction,
            Self::Refused { .. } => HoldReason::Unconfirmed,
            Self::NoTurn { .. } | Self::Upgraded { .. } | Self::Gateway(_) | Self::Registry(_) => {
                return None;
            }
        })
    }

    /// The hold, if this lasts.
    #[must_use]
    pub fn hold(&self) -> Option<Hold> {
        Some(Hold::new(self.hold_reason()?, self.to_string()))
    }

    /// Whether other requests need not have the same problem. A host chain that does not answer concerns
    /// its own requests only, so these give way to others.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !matches!(self, Self::Upgraded { .. } | Self::Gateway(_) | Self::Registry(_))
    }

    /// Which of the errors of one check decides: what ends the request, then what the chains say, then
    /// what could not be asked.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Refused { .. } => 0,
            Self::Denied { .. } | Self::Early { .. } => 1,
            Self::NotConfigured { .. }
            | Self::HostChain { .. }
            | Self::EthereumNotConfigured { .. }
            | Self::Ethereum(_)
            | Self::ContextUnknown { .. }
            | Self::EpochUnknown { .. }
            | Self::NoTransaction { .. } => 2,
            Self::NoTurn { .. } | Self::Upgraded { .. } | Self::Gateway(_) | Self::Registry(_) => 3,
        }
    }
}
