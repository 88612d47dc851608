//! A setback: the reason why a stage did not advance, either a stage's error or something the walk
//! itself found.

use std::time::Duration;

use super::History;
use crate::{
    chain::rpc_error::RpcError,
    contracts::{gateway_config::RegistryError, kms_lifecycle::LifecycleError},
    domain::{Hold, HoldReason, Remedy, U256, stage::Stage},
    flow::{
        access::{AccessError, Grounds},
        ciphertexts::FetchError,
        kms_core::{CoreError, wire::RequestError},
        submission::SubmissionError,
    },
};

/// The cause of a setback.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::flow) enum Cause {
    #[error(transparent)]
    Gateway(#[from] RpcError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    #[error(transparent)]
    Ciphertexts(#[from] FetchError),
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error(transparent)]
    Submission(#[from] SubmissionError),
    #[error("the node contradicts its own registry, which lists this one: {0}")]
    NodeContradictsItself(#[source] SubmissionError),
    #[error("{0}")]
    Held(Hold),
    #[error("its block has left the chain, and may come back")]
    BlockLeftChain,
    #[error("no gateway node shows the request just now")]
    NoNodeShowsIt,
    #[error(
        "the gateway node {denied_by} does not have this request, which {}: the KMS Core is not asked \
         until they agree; one of them is broken, or lies",
        list_showing(shown_by)
    )]
    Disputed { shown_by: Vec<String>, denied_by: String },
    #[error("this node's registration has changed; its Core's answer is checked again")]
    RegistrationChanged,
    /// The Core repeated an answer that the contract has rejected.
    #[error("the KMS Core gives the same answer again")]
    SameAnswer,
    #[error("the contract was upgraded while access was checked; it is checked again")]
    Upgraded,
    #[error("the access check took too long to count; it is made again")]
    PassTooOld,
    #[error("the instance is stopping")]
    Stopping,
}

fn list_showing(by: &[String]) -> String {
    match by {
        [] => "was reported before".to_owned(),
        [one] => format!("{one} shows"),
        more => format!("{} show", more.join(" and ")),
    }
}

impl Cause {
    /// The stable code: failures with the same code share one log throttle.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gateway(error) => error.code(),
            Self::Registry(error) => error.code(),
            Self::Request(error) => error.code(),
            Self::Access(error) => error.code(),
            Self::Lifecycle(error) => error.code(),
            Self::Ciphertexts(error) => error.code(),
            Self::Core(error) => error.code(),
            Self::Submission(error) => error.code(),
            Self::NodeContradictsItself(_) => "node_contradicts_itself",
            Self::Held(hold) => hold.reason.as_str(),
            Self::BlockLeftChain => "left_its_block",
            Self::NoNodeShowsIt => "shown_by_nobody",
            Self::Disputed { .. } => "disputed",
            Self::RegistrationChanged => "registered_anew",
            Self::SameAnswer => "same_answer",
            Self::Upgraded => "upgraded",
            Self::PassTooOld => "pass_too_old",
            Self::Stopping => "stopping",
        }
    }
}

impl Cause {
    /// Why the request is set aside if its permit is wanted now.
    pub fn hold_to_give_way(&self) -> Hold {
        let own = if let Self::Access(error) = self { error.hold() } else { None };
        own.unwrap_or_else(|| Hold::new(HoldReason::NoProgress, self.to_string()))
    }
}

/// A setback's cause and the remedy it asks for.
#[derive(Clone, Debug)]
pub(in crate::flow) struct Setback {
    pub remedy: Remedy,
    pub cause: Cause,
    /// Other requests need not have the same problem.
    pub is_own: bool,
}

impl Setback {
    /// A problem that all requests have: the chain or the Core does not answer.
    pub fn new(remedy: Remedy, cause: impl Into<Cause>) -> Self {
        Self { remedy, cause: cause.into(), is_own: false }
    }

    /// The same, if it is transient.
    pub fn retry(cause: impl Into<Cause>) -> Self {
        Self::new(Remedy::Retry, cause)
    }

    /// From the submission.
    pub fn of_submission(error: SubmissionError) -> Self {
        Self { is_own: error.is_own(), ..Self::new(error.remedy(), error) }
    }

    pub fn own(remedy: Remedy, cause: impl Into<Cause>) -> Self {
        Self { is_own: true, ..Self::new(remedy, cause) }
    }

    /// What Ethereum tells of contexts and epochs is not known.
    pub fn of_lifecycle(error: LifecycleError) -> Self {
        Self::own(error.remedy(), error)
    }

    pub fn held(hold: Hold) -> Self {
        Self::own(Remedy::Hold(hold.clone()), Cause::Held(hold))
    }

    /// Whether it is a refusal that follows from the event alone.
    pub fn rests_on_event(&self) -> bool {
        matches!(self.cause, Cause::Access(AccessError::Refused { grounds: Grounds::Event, .. }))
    }

    /// How long it takes until the user's signature is valid, if that is all that it waits for.
    pub fn valid_after(&self) -> Option<Duration> {
        let Cause::Access(AccessError::Early { now, start, .. }) = &self.cause else {
            return None;
        };
        let secs = start.saturating_sub(U256::from(*now));
        Some(Duration::from_secs(secs.saturating_to()))
    }

    /// The Core has the request and no answer. `within`: its timeout, which has passed. `None`: the permit
    /// is wanted earlier.
    pub fn no_answer(within: Option<Duration>) -> Self {
        let what = within
            .map_or("no answer yet, and other requests waited for its place".to_owned(), |time| {
                format!("given no answer within {} s", time.as_secs())
            });
        let why = format!("the KMS Core has {what}; it is polled again");
        Self::held(Hold::new(HoldReason::CoreSilent, why))
    }

    /// The Core was asked for a better answer than the one that the contract held for this reason. If it
    /// has none, the contract's reason stands, and the next retry starts with that answer.
    pub fn without_better_answer(self, stage: &Stage, history: &History) -> Self {
        match (stage, &self.remedy, &history.rejected) {
            (
                Stage::Arrived | Stage::Asked,
                Remedy::Hold(_) | Remedy::Retry,
                Some((_, contract_said)),
            ) => Self::held(contract_said.clone()),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b5_a_dispute_names_both_nodes() {
        let (shown_by, denied_by) = (vec!["a:1".to_owned()], "b:2".to_owned());
        let said = Cause::Disputed { shown_by, denied_by }.to_string();
        assert!(said.contains("a:1 shows") && said.contains("b:2 does not have"), "{said}");
    }
}
