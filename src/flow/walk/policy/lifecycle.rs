//! Who takes part in a new KMS context or a new epoch, and what a lost result means. Pure.
//!
//! ```text
//! this node's wallet is in     new KMS context        new epoch
//! ------------------------------------------------------------------------------------------------
//! the new one (and another)    asked, confirmed       asked, its result confirmed
//! the previous one alone       asked, confirmed       asked: the old nodes give their shares; its end is
//!                                                     watched, and no answer is due
//! neither                      held (wallet_not_registered) while it is open, then recorded
//! new or previous one, and it
//!   is in force                asked, confirmed       recorded
//!   was destroyed              aborted                aborted
//! ```
//!
//! An epoch is over once it is in force, for which every node has confirmed it, or once it was destroyed: a node that
//! reads of it as late as that cannot take part, and a Core that has it would refuse it. A context in force is told
//! to the Core all the same.
//!
//! A wallet is judged by what the contexts' events say, not by who is registered now: a node that is new is
//! registered only once the context is in force. Who is in neither may have the wrong wallet; a change of the
//! wallet takes the request along, until the chain needs nobody for it any more.

use crate::{
    contracts::protocol_config::ContextStatus,
    domain::{Address, Hold, HoldReason, KmsContext, U256, first_epoch},
};

/// In which of the two contexts a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Part {
    /// In the new one, whether it was in the previous one or not.
    New,
    PreviousOnly,
    Neither,
}

/// The part of the node with this wallet.
pub(in crate::flow) fn part(wallet: Address, new: &KmsContext, previous: &KmsContext) -> Part {
    match (new.node_of(wallet), previous.node_of(wallet)) {
        (Some(_), _) => Part::New,
        (None, Some(_)) => Part::PreviousOnly,
        (None, None) => Part::Neither,
    }
}

/// What is asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Asked {
    Take,
    /// It is over, or of others.
    Nothing,
    /// The contract has taken back what was asked of it.
    TakenBack,
    /// It is open, and this node is in neither context.
    Unclear,
}

/// What is asked of a node of this part, given what the contract says of context and epoch.
pub(in crate::flow) fn asked_of(part: Part, is_epoch: bool, status: ContextStatus) -> Asked {
    let (is_open, is_destroyed) = match status {
        ContextStatus::Unknown | ContextStatus::EpochUnknown => (true, false),
        ContextStatus::Valid => (false, false),
        ContextStatus::Destroyed | ContextStatus::EpochDestroyed => (false, true),
    };
    match part {
        Part::Neither if is_open => Asked::Unclear,
        Part::Neither => Asked::Nothing,
        Part::New | Part::PreviousOnly if is_open => Asked::Take,
        Part::New | Part::PreviousOnly if is_destroyed => Asked::TakenBack,
        Part::New | Part::PreviousOnly if is_epoch => Asked::Nothing,
        Part::New | Part::PreviousOnly => Asked::Take,
    }
}

/// The hold of a node that is in neither context.
pub(in crate::flow) fn uninvolved(wallet: Address, context: U256) -> Hold {
    let detail = format!(
        "wallet {wallet} is a transaction sender neither of KMS context {context:#066x} nor of the one before: if \
         this node belongs to one of them, configure its wallet; else there is nothing to do, and it ends once the \
         others are done"
    );
    Hold::new(HoldReason::WalletNotRegistered, detail)
}

/// The hold of the end of a context that was in force when the contract began to keep definitions (v0.14), and has none.
pub(in crate::flow) fn end_of_unkept(context: U256) -> Hold {
    let first = first_epoch();
    let detail = format!(
        "KMS context {context:#066x} is older than v0.14 of ProtocolConfig, which keeps neither its definition nor the \
         block in which it began: so it is not known which epochs it has (the first one, {first:#066x}, if it was in \
         force at that upgrade, and those opened since), and DestroyMpcContext needs all of them. The KMS Core is \
         not told: remove the context there by hand, with all its epochs. Nothing else waits for this request, and an \
         approval does not help"
    );
    Hold::new(HoldReason::ContextUnproven, detail)
}

/// What a Core means that refuses an epoch which it had accepted and does not know the result of.
pub(in crate::flow) fn lost_result(refusal: &Hold) -> Hold {
    let detail = format!(
        "the KMS Core had taken this epoch and has lost its result, which a restart does; it does not make it a \
         second time ({})",
        refusal.detail
    );
    Hold::new(HoldReason::EpochResultLost, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Bytes, KmsContextNode};

    fn context(wallets: &[u8]) -> KmsContext {
        let node = |wallet: &u8| KmsContextNode {
            tx_sender: Address::repeat_byte(*wallet),
            signer: Address::ZERO,
            external_url: String::new(),
            storage_url: String::new(),
            party_id: 1,
            identity: String::new(),
            ca_cert: Bytes::new(),
            storage_prefix: String::new(),
        };
        KmsContext {
            nodes: wallets.iter().map(node).collect(),
            mpc_threshold: U256::ONE,
            software_version: String::new(),
            pcr_values: Vec::new(),
        }
    }

    #[test]
    fn a_wallet_takes_part_by_the_contexts_it_is_in() {
        let (new, previous) = (context(&[2, 3]), context(&[1, 2]));
        for (wallet, expected) in
            [(1, Part::PreviousOnly), (2, Part::New), (3, Part::New), (4, Part::Neither)]
        {
            assert_eq!(part(Address::repeat_byte(wallet), &new, &previous), expected, "{wallet}");
        }
        // An epoch in place.
        assert_eq!(part(Address::repeat_byte(2), &new, &new), Part::New);
    }

    #[test]
    fn what_is_over_is_asked_of_nobody() {
        use ContextStatus::{Destroyed, EpochDestroyed, EpochUnknown, Unknown, Valid};
        for part in [Part::New, Part::PreviousOnly] {
            for status in [Unknown, EpochUnknown] {
                assert_eq!(asked_of(part, false, status), Asked::Take);
                assert_eq!(asked_of(part, true, status), Asked::Take);
            }
            // The Core has to know a context in force; of an epoch in force all have voted.
            assert_eq!(asked_of(part, false, Valid), Asked::Take);
            assert_eq!(asked_of(part, true, Valid), Asked::Nothing);
            assert_eq!(asked_of(part, false, Destroyed), Asked::TakenBack);
            assert_eq!(asked_of(part, true, EpochDestroyed), Asked::TakenBack);
        }
        for (status, expected) in [
            (Unknown, Asked::Unclear),
            (EpochUnknown, Asked::Unclear),
            (Valid, Asked::Nothing),
            (Destroyed, Asked::Nothing),
            (EpochDestroyed, Asked::Nothing),
        ] {
            assert_eq!(asked_of(Part::Neither, true, status), expected, "{status:?}");
        }
    }

    #[test]
    fn a_lost_result_is_told_with_the_cores_words() {
        let hold = lost_result(&Hold::new(HoldReason::CoreRefused, "already exists"));
        assert_eq!(hold.reason, HoldReason::EpochResultLost);
        assert!(hold.detail.contains("already exists"), "{}", hold.detail);
    }
}
