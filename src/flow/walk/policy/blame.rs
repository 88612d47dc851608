//! Decides who is responsible when the contract rejects an answer. The operator is not blamed for what
//! this process has checked itself.
//!
//! The Core's signature was checked over this request's content and identifies its signer. If the
//! contract recovers another signer, it has other content under this id: the request has left the
//! chain, or a node reported it wrongly. A single node's contract may also contradict its own registry.

use super::{
    refusals::is_confirmed,
    setback::{Cause, Setback},
};
use crate::{
    contracts::{
        abi::{ContractError, Subject},
        decryption::CurrentContext,
    },
    domain::{
        AccessRefusal, AccessRefusalReason, Address, Hold, HoldReason, Refusal, Remedy, U256,
    },
    flow::{access::Witnesses, submission::SubmissionError},
};

/// The refusal of a request that names no KMS context, if the contract rejects its answer because another
/// one is current by now than when it was made. If the request or the answer names one (`named`), they
/// contradict each other, and that is the answer's fault.
pub(in crate::flow) fn context_changed(
    error: &ContractError,
    named: [Option<U256>; 2],
) -> Option<AccessRefusal> {
    let ContractError::DecryptionContextMismatch { requested, answered, .. } = error else {
        return None;
    };
    if named != [None, None] {
        return None;
    }
    let detail = format!(
        "it was made in KMS context {requested:#066x} without naming it, and the answer is for \
         {answered:#066x}, which is current now: the contract takes none"
    );
    Some(AccessRefusal::new(AccessRefusalReason::ContextChanged, detail))
}

/// The setback of a request whose context has changed, as the contract says at the node that was asked to take
/// the answer. It ends when the contract repeats that at the retry, and every node says the same. `said`: what
/// all nodes say now (`None`: none answers). `held`: the reason for which it was held when its walk began.
pub(in crate::flow) fn setback_of_context(
    why: AccessRefusal,
    error: SubmissionError,
    said: Option<CurrentContext>,
    held: Option<HoldReason>,
) -> Setback {
    let witnesses = match said {
        Some(CurrentContext::Refused { by_one_of_several: false }) => Witnesses::TheOnlyOne,
        Some(CurrentContext::Refused { .. } | CurrentContext::Disputed | CurrentContext::Taken)
        | None => Witnesses::One,
    };
    if is_confirmed(witnesses, held) {
        return Setback::own(Remedy::Refuse(Refusal::AccessRefused(why)), error);
    }
    let detail = format!("{why}; it is checked again before it ends");
    Setback::held(Hold::new(HoldReason::Unconfirmed, detail))
}

/// Who can fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Blame {
    /// The operator, as the contract's error says.
    Operator,
    /// Nobody: the contract checks other content than the event had.
    Content,
    /// The node: its contract does not know a signer that its registry lists.
    Node,
}

/// `ours`: the signer of the answer to the request's content. `registered`: the signers that the nodes'
/// registry lists for this wallet, read just now.
pub(in crate::flow) fn blame_for(
    error: &ContractError,
    ours: Option<Address>,
    registered: &[Address],
) -> Blame {
    let (_, subject) = error.origin();
    match subject {
        Subject::Signer(signer) => match ours {
            Some(ours) if ours != signer => Blame::Content,
            Some(ours) if registered.contains(&ours) => Blame::Node,
            Some(_) | None => Blame::Operator,
        },
        Subject::Wallet if !registered.is_empty() => Blame::Node,
        Subject::Wallet
        | Subject::Id(_)
        | Subject::Done
        | Subject::Content
        | Subject::State
        | Subject::Other => Blame::Operator,
    }
}

/// Returns whether the contract might accept another answer of the Core.
pub(in crate::flow) fn blames_answer(reason: HoldReason) -> bool {
    matches!(
        reason,
        HoldReason::SignerNotRegistered
            | HoldReason::WalletCoreMismatch
            | HoldReason::InvalidAnswer
            | HoldReason::ContractRejected
            | HoldReason::ResultDiffers
    )
}

/// The setback of a request of this block whose answer the contract rejects.
pub(in crate::flow) fn setback(fault: Blame, error: SubmissionError, block: u64) -> Setback {
    match fault {
        Blame::Operator => Setback::of_submission(error),
        Blame::Content => Setback::held(Hold::new(
            HoldReason::ContractRejected,
            format!(
                "the contract checks other content under this id, or under another domain, than the \
                 event of block {block} has ({error}); Core and registration are in order. The block \
                 is read again now, and whatever it really asks for is answered: compare what the \
                 gateway nodes show of it"
            ),
        )),
        Blame::Node => Setback::own(Remedy::Retry, Cause::NodeContradictsItself(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: Address = Address::repeat_byte(1);
    const OTHER: Address = Address::repeat_byte(2);
    const WALLET: Address = Address::repeat_byte(3);

    #[test]
    fn a_context_has_changed_if_neither_request_nor_answer_names_one() {
        let (requested, answered) = (U256::from(7), U256::from(8));
        let mismatch =
            ContractError::DecryptionContextMismatch { id: U256::ONE, requested, answered };
        let why = context_changed(&mismatch, [None, None]).expect("it has changed");
        assert_eq!(why.reason, AccessRefusalReason::ContextChanged);
        for named in [[Some(requested), None], [None, Some(answered)], [Some(answered); 2]] {
            assert_eq!(context_changed(&mismatch, named), None, "{named:?}");
        }
        let other = ContractError::InvalidKmsContext(answered);
        assert_eq!(context_changed(&other, [None, None]), None);
        let rejected = || SubmissionError::Rejected(mismatch.clone());
        let by_all = Some(CurrentContext::Refused { by_one_of_several: false });
        let by_one = Some(CurrentContext::Refused { by_one_of_several: true });
        let unconfirmed = Some(HoldReason::Unconfirmed);
        for (said, held, ends) in [
            (by_all, None, false),
            (by_all, Some(HoldReason::CoreSilent), false),
            (by_all, unconfirmed, true),
            // One of several nodes ends no request, nor does one that the others contradict.
            (by_one, unconfirmed, false),
            (Some(CurrentContext::Disputed), unconfirmed, false),
            (Some(CurrentContext::Taken), unconfirmed, false),
            (None, unconfirmed, false),
        ] {
            let setback = setback_of_context(why.clone(), rejected(), said, held);
            assert!(!setback.rests_on_event());
            match setback.remedy {
                Remedy::Refuse(refusal) => {
                    assert_eq!((ends, refusal), (true, Refusal::AccessRefused(why.clone())));
                }
                Remedy::Hold(hold) => {
                    assert_eq!((ends, hold.reason), (false, HoldReason::Unconfirmed));
                }
                Remedy::Retry => panic!("{held:?}"),
            }
        }
    }

    #[test]
    fn a14_what_was_checked_here_is_not_blamed_on_the_operator() {
        let unregistered = |signer| ContractError::NotKmsSigner(signer);
        let of_another =
            |signer| ContractError::KmsSignerDoesNotMatchTxSender { signer, tx_sender: WALLET };
        for rejected in [unregistered, of_another] {
            assert_eq!(blame_for(&rejected(OTHER), Some(CORE), &[CORE]), Blame::Content);
            assert_eq!(blame_for(&rejected(OTHER), Some(CORE), &[]), Blame::Content);
            assert_eq!(blame_for(&rejected(CORE), Some(CORE), &[CORE]), Blame::Node);
            assert_eq!(blame_for(&rejected(CORE), Some(CORE), &[OTHER]), Blame::Operator);
            assert_eq!(blame_for(&rejected(CORE), Some(CORE), &[]), Blame::Operator);
            assert_eq!(blame_for(&rejected(CORE), None, &[CORE]), Blame::Operator);
        }
        let wallet = ContractError::NotKmsTxSender(WALLET);
        assert_eq!(blame_for(&wallet, Some(CORE), &[CORE]), Blame::Node);
        assert_eq!(blame_for(&wallet, Some(CORE), &[]), Blame::Operator);
        let text = ContractError::Error("no".into());
        assert_eq!(blame_for(&text, Some(CORE), &[CORE]), Blame::Operator);
    }
}
