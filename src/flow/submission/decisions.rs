//! What follows from the gateway nodes' replies to an answer: the one table of the submission's
//! decisions. Pure. What that means for the request's walk is in [`SubmissionError::remedy`] and in
//! `walk::policy`.
//!
//! ```text
//! a node replies            next                                     all agree         else
//! -------------------------------------------------------------------------------------------------------
//! it has an answer          all are asked after 5 s, and again       already answered  retry: contradicted,
//!                           after 10 s if we know of no answer                         or a node is silent
//! it waits for none now     all are asked after 5 s                  no answer due     retry: contradicted,
//!                                                                                      or a node is silent
//! it knows no such request  looked for on chain: gone                orphaned
//!                           all are asked after 5 s, at its block    refused           retry
//! an error that holds the   all are asked after 5 s: all reject it   held, as the      retry: contradicted
//! request, or no reason     for a reason that holds it               first one says
//! it is paused                                                       retry
//!
//! gas was spent in vain     all are asked before more is spent       sent, or as above retry: contradicted
//! ```
//!
//! Neither a single node's reply nor a single moment's ends a request or holds it.

use super::{SubmissionError, rejected};
use crate::contracts::{
    abi::{ContractError, RevertMeaning},
    decryption::Agreement,
};

/// A node's simulation of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opinion {
    Accepts,
    /// `None`: without a reason.
    Rejects(Option<ContractError>),
}

/// What to check before one node's rejection has consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recheck {
    IsAnswered,
    IsOver,
    IsRequested,
    IsHeld,
    /// Nothing: the contract is paused.
    Paused,
}

/// The check that a node's error asks for. `None`: it gave no reason.
pub(super) fn recheck_for(error: Option<&ContractError>) -> Recheck {
    match error.map(ContractError::meaning) {
        Some(RevertMeaning::AlreadyAnswered) => Recheck::IsAnswered,
        Some(RevertMeaning::Over) => Recheck::IsOver,
        Some(RevertMeaning::NotRequested) => Recheck::IsRequested,
        Some(RevertMeaning::Retry) => Recheck::Paused,
        Some(RevertMeaning::Hold(_)) | None => Recheck::IsHeld,
    }
}

/// Returns whether the nodes agree that there is an answer, or that none is wanted any more.
pub(super) fn answered(agreed: Agreement) -> Result<(), SubmissionError> {
    match agreed {
        Agreement::Yes => Ok(()),
        Agreement::No => Err(SubmissionError::NodesContradict),
        Agreement::NotYet => Err(SubmissionError::NotSaidByAll),
    }
}

/// What follows when one node does not know the request, given what all nodes reply.
pub(super) fn requested(agreed: Agreement) -> SubmissionError {
    match agreed {
        Agreement::Yes => SubmissionError::NotRequested,
        Agreement::No | Agreement::NotYet => SubmissionError::NotRequestedYet,
    }
}

/// What follows when one node's error would hold the request, given the opinions of all nodes.
pub(super) fn held(opinions: Vec<Opinion>) -> SubmissionError {
    let holds = |one: &Opinion| match one {
        Opinion::Accepts => false,
        Opinion::Rejects(error) => recheck_for(error.as_ref()) == Recheck::IsHeld,
    };
    // That the context has changed may end the request: it counts if all say it.
    let changes = opinions.iter().filter(|one| tells_of_another_context(one)).count();
    if !opinions.iter().all(holds) || (changes > 0 && changes < opinions.len()) {
        return SubmissionError::NodesContradict;
    }
    match opinions.into_iter().next() {
        Some(Opinion::Rejects(Some(error))) => SubmissionError::Rejected(error),
        Some(Opinion::Rejects(None)) => rejected("the contract reverts without a reason"),
        Some(Opinion::Accepts) | None => SubmissionError::NodesContradict,
    }
}

fn tells_of_another_context(opinion: &Opinion) -> bool {
    matches!(opinion, Opinion::Rejects(Some(ContractError::DecryptionContextMismatch { .. })))
}

/// Before more gas is spent on an answer: the first node's opinion, if the nodes do not contradict each
/// other.
pub(super) fn another(opinions: Vec<Opinion>) -> Result<Opinion, SubmissionError> {
    let takes = opinions.iter().filter(|one| **one == Opinion::Accepts).count();
    if takes > 0 && takes < opinions.len() {
        return Err(SubmissionError::NodesContradict);
    }
    opinions.into_iter().next().ok_or(SubmissionError::NodesContradict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Address, Remedy, U256};

    /// One opinion of each kind.
    fn opinions() -> Vec<Opinion> {
        let (id, signer) = (U256::ONE, Address::ZERO);
        let errors = [
            ContractError::KmsNodeAlreadySigned { id, signer },
            ContractError::DecryptionNotRequested(id),
            ContractError::KmsContextNotPending(id),
            ContractError::EnforcedPause,
            ContractError::NotKmsSigner(signer),
            ContractError::Error("no".into()),
        ];
        let refusals = errors.into_iter().map(|error| Opinion::Rejects(Some(error)));
        [Opinion::Accepts, Opinion::Rejects(None)].into_iter().chain(refusals).collect()
    }

    /// Every combination of opinions of up to three nodes.
    fn each_hearing(check: impl Fn(&[Opinion])) {
        let all = opinions();
        for one in &all {
            check(std::slice::from_ref(one));
            for other in &all {
                check(&[one.clone(), other.clone()]);
                for third in &all {
                    check(&[one.clone(), other.clone(), third.clone()]);
                }
            }
        }
    }

    fn is_held(one: &Opinion) -> bool {
        matches!(one, Opinion::Rejects(error)
            if error.as_ref().is_none_or(|error| matches!(error.meaning(), RevertMeaning::Hold(_))))
    }

    #[test]
    fn m3_a_request_is_held_for_what_all_say() {
        each_hearing(|replies| {
            let follows = held(replies.to_vec());
            match follows.remedy() {
                Remedy::Hold(_) => assert!(replies.iter().all(is_held), "{replies:?}"),
                Remedy::Retry => assert!(!replies.iter().all(is_held), "{replies:?}"),
                Remedy::Refuse(_) => panic!("{replies:?}"),
            }
            if let SubmissionError::Rejected(error) = follows {
                assert_eq!(replies[0], Opinion::Rejects(Some(error)));
            }
        });
    }

    #[test]
    fn that_the_context_has_changed_counts_if_all_say_it() {
        let mismatch = |answered: u64| {
            let (id, requested) = (U256::ONE, U256::from(7));
            let answered = U256::from(answered);
            ContractError::DecryptionContextMismatch { id, requested, answered }
        };
        let says = |error: ContractError| Opinion::Rejects(Some(error));
        let all = vec![says(mismatch(8)), says(mismatch(9))];
        assert!(matches!(held(all), SubmissionError::Rejected(error) if error == mismatch(8)));
        for other in opinions() {
            for replies in [[says(mismatch(8)), other.clone()], [other, says(mismatch(8))]] {
                let follows = held(replies.to_vec());
                assert!(matches!(follows, SubmissionError::NodesContradict), "{replies:?}");
            }
        }
    }

    #[test]
    fn g1_more_gas_is_spent_if_all_take_it() {
        each_hearing(|replies| {
            let takes = |one: &Opinion| *one == Opinion::Accepts;
            let contradicts = replies.iter().any(takes) && !replies.iter().all(takes);
            match another(replies.to_vec()) {
                Ok(first) => assert!(first == replies[0] && !contradicts, "{replies:?}"),
                Err(error) => {
                    assert!(contradicts && error.remedy() == Remedy::Retry, "{replies:?}");
                }
            }
        });
    }

    /// Also while some nodes are silent.
    #[test]
    fn a13_what_not_all_say_ends_nothing() {
        for agreed in [Agreement::Yes, Agreement::No, Agreement::NotYet] {
            let ends = matches!(requested(agreed).remedy(), Remedy::Refuse(_));
            assert_eq!(
                (ends, answered(agreed).is_ok()),
                (agreed == Agreement::Yes, agreed == Agreement::Yes)
            );
            assert!(ends || requested(agreed).remedy() == Remedy::Retry);
            assert!(answered(agreed).is_err_and(|error| error.remedy() == Remedy::Retry) != ends);
        }
    }

    #[test]
    fn whatever_a_node_refuses_it_for_is_looked_into() {
        let rechecks = opinions().into_iter().filter_map(|one| match one {
            Opinion::Accepts => None,
            Opinion::Rejects(error) => Some(recheck_for(error.as_ref())),
        });
        let (answered, requested) = (Recheck::IsAnswered, Recheck::IsRequested);
        let expected = [
            Recheck::IsHeld,
            answered,
            requested,
            Recheck::IsOver,
            Recheck::Paused,
            Recheck::IsHeld,
            Recheck::IsHeld,
        ];
        assert_eq!(rechecks.collect::<Vec<_>>(), expected);
    }
}
