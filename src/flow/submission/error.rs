//! Why a submission did not end, and what to do about it.

use crate::{
    chain::rpc_error::RpcError,
    contracts::abi::{ContractError, RevertMeaning},
    domain::{Hold, Refusal, Remedy},
};

/// Why there is no outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmissionError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("{0}")]
    Held(Hold),
    /// The contract executed the answer and rejected it.
    #[error(transparent)]
    Rejected(ContractError),
    #[error(
        "an earlier answer of this wallet is in one of the last blocks: it is searched for again"
    )]
    PriorAnswerNotFinal,
    #[error("earlier answers of this wallet are searched for, in parts")]
    PriorAnswerSearchIncomplete,
    #[error(
        "the gateway nodes contradict each other, or themselves, on whether this was answered or \
         can be"
    )]
    NodesContradict,
    #[error("not every gateway node has confirmed yet that this was answered")]
    NotSaidByAll,
    #[error(
        "the contract takes no answer just now: it is paused, or what has to come first (a key's preparation, a \
         KMS context) is not complete there"
    )]
    Paused,
    #[error("the contract does not know this request; the node may lag")]
    NotRequestedYet,
    #[error("the contract does not know this request")]
    NotRequested,
    #[error("the lane was stopped")]
    Stopped,
}

impl SubmissionError {
    /// The stable code, for log throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rpc(error) => error.code(),
            Self::Held(hold) => hold.reason.as_str(),
            Self::Rejected(error) => error.code(),
            Self::PriorAnswerNotFinal => "earlier_young",
            Self::PriorAnswerSearchIncomplete => "earlier_not_yet",
            Self::NodesContradict => "contradicted",
            Self::NotSaidByAll => "unheard",
            Self::Paused => "paused",
            Self::NotRequestedYet => "not_requested_yet",
            Self::NotRequested => "not_requested",
            Self::Stopped => "stopped",
        }
    }

    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Held(hold) => Remedy::Hold(hold.clone()),
            Self::Rejected(error) => match error.meaning() {
                RevertMeaning::Hold(reason) => Remedy::Hold(Hold::new(reason, error.to_string())),
                RevertMeaning::AlreadyAnswered
                | RevertMeaning::Over
                | RevertMeaning::NotRequested
                | RevertMeaning::Retry => Remedy::Retry,
            },
            Self::NotRequested => Remedy::Refuse(Refusal::NotRequested),
            Self::Rpc(_)
            | Self::PriorAnswerNotFinal
            | Self::PriorAnswerSearchIncomplete
            | Self::NodesContradict
            | Self::NotSaidByAll
            | Self::Paused
            | Self::NotRequestedYet
            | Self::Stopped => Remedy::Retry,
        }
    }

    /// Returns whether other requests need not have the same problem.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !matches!(
            self,
            Self::Rpc(_) | Self::PriorAnswerSearchIncomplete | Self::Paused | Self::Stopped
        )
    }

    /// Returns whether the error is about what the contract has under the request's id.
    #[must_use]
    pub fn is_contract_error(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::NotRequested | Self::NotRequestedYet)
    }
}
