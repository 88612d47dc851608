//! What each kind of key operation needs before the KMS Core is asked for it, in which order, and what follows
//! from what is found. Pure: the walk carries it out.
//!
//! ```text
//! kind               before the Core is asked, in this order
//! ------------------------------------------------------------------
//! prep_keygen        approval, turn, witnesses, age
//! keygen             approval, preparation, turn, witnesses, age
//! crsgen             approval, turn, witnesses, age
//! unsupported_event  it is not asked, and held by its name
//!
//! check        is passed if                                                   else
//! ---------------------------------------------------------------------------------------------
//! approval     the operator has key operations answered, or approved this one  held (operator_approval)
//! preparation  this node has answered it, or does not know it                   held (waits_for_preparation)
//! turn         the Core takes requests                                          retry
//! witnesses    two nodes show the event, if there are two                       see `contracts::decryption`
//! age          the Core is of the contract's time                               held (core_version)
//! ```
//!
//! What takes nobody's time comes first. The witnesses come right before the ask: what they say is soon old.

use crate::{
    contracts::abi,
    domain::{B256, Hold, HoldReason, KeyOperation, RequestKey, U256},
    flow::{AnsweredHere, KeyPolicy, kms_core::CoreAge, walk::policy::Approval},
};

/// What has to hold before the Core is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Check {
    Approval,
    /// This node's own preparation of the key is done: until then the Core could only refuse.
    Preparation,
    /// The Core's pace lets one more ask through.
    Turn,
    Witnesses,
    Age,
}

/// What is done about a kind of key operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum KeyRule {
    /// The Core is asked once all of these are passed, in this order.
    Ask(&'static [Check]),
    /// It is held: this version does not know what this event asks for.
    Hold { topic: Option<B256> },
}

const PREPARATION: KeyRule =
    KeyRule::Ask(&[Check::Approval, Check::Turn, Check::Witnesses, Check::Age]);
const KEY: KeyRule =
    KeyRule::Ask(&[Check::Approval, Check::Preparation, Check::Turn, Check::Witnesses, Check::Age]);
const CRS: KeyRule = KeyRule::Ask(&[Check::Approval, Check::Turn, Check::Witnesses, Check::Age]);

/// The table: one row per kind.
pub(in crate::flow) fn rule(operation: &KeyOperation) -> KeyRule {
    match operation {
        KeyOperation::PrepKeygen { .. } => PREPARATION,
        KeyOperation::Keygen { .. } => KEY,
        KeyOperation::Crsgen { .. } => CRS,
        KeyOperation::UnsupportedEvent { topic } => KeyRule::Hold { topic: *topic },
    }
}

/// Whether the operator lets it be asked.
pub(in crate::flow) fn approval(
    policy: KeyPolicy,
    approval: Approval,
    key: RequestKey,
) -> Result<(), Hold> {
    match (policy, approval) {
        (KeyPolicy::Answer, _) | (KeyPolicy::Hold, Approval::Given) => Ok(()),
        (KeyPolicy::Hold, Approval::Missing) => {
            let detail = format!(
                "key_management = \"hold\": `kms-connector requests approve {key}` has it answered"
            );
            Err(Hold::new(HoldReason::OperatorApproval, detail))
        }
    }
}

/// Whether the preparation of a key is done, as the journal tells. One that is not in the journal may be at
/// the Core all the same.
pub(in crate::flow) fn preparation(preparation: U256, answered: AnsweredHere) -> Result<(), Hold> {
    match answered {
        AnsweredHere::Yes | AnsweredHere::Unknown => Ok(()),
        AnsweredHere::No => {
            let detail = format!(
                "its preparation {preparation:#066x} is not answered yet; `kms-connector requests \
                 show` tells of that"
            );
            Err(Hold::new(HoldReason::WaitsForPreparation, detail))
        }
    }
}

/// Whether a Core of this age makes and signs what these contracts want.
pub(in crate::flow) fn age(age: CoreAge) -> Result<(), Hold> {
    match age {
        CoreAge::Before => Ok(()),
        CoreAge::Since => {
            let detail = "the KMS Core is v0.13.20 or later, and these contracts are of its predecessors: \
                          it would make another kind of key than the other nodes, and sign other bytes; \
                          it is not asked";
            Err(Hold::new(HoldReason::CoreVersion, detail))
        }
    }
}

/// The hold of an event that this version does not serve.
pub(in crate::flow) fn unsupported(topic: Option<B256>) -> Hold {
    let what = match topic.map(|topic| (topic, abi::unserved_event(topic))) {
        None => "an event without a topic".to_owned(),
        Some((_, Some(signature))) => format!("the event {signature}"),
        Some((topic, None)) => format!("an event with the topic {topic}"),
    };
    let detail = format!(
        "the contract that asks for key operations emitted {what}, which this version does not serve: find \
         out what it asks for, and upgrade the connector"
    );
    Hold::new(HoldReason::UnsupportedEvent, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Address, KeyParameters, RequestSource};

    fn checks(operation: &KeyOperation) -> Option<Vec<Check>> {
        match rule(operation) {
            KeyRule::Ask(checks) => Some(checks.to_vec()),
            KeyRule::Hold { .. } => None,
        }
    }

    /// The table as a whole: a row that changes changes here too.
    #[test]
    fn each_kind_is_asked_for_in_its_order() {
        use Check::{Age, Approval, Preparation, Turn, Witnesses};
        let parameters = KeyParameters::Test;
        let rows = [
            (KeyOperation::PrepKeygen { parameters }, Some(vec![Approval, Turn, Witnesses, Age])),
            (
                KeyOperation::Keygen { preparation: U256::ONE },
                Some(vec![Approval, Preparation, Turn, Witnesses, Age]),
            ),
            (
                KeyOperation::Crsgen { max_bits: U256::ONE, parameters },
                Some(vec![Approval, Turn, Witnesses, Age]),
            ),
            (KeyOperation::UnsupportedEvent { topic: None }, None),
        ];
        for (operation, expected) in rows {
            assert_eq!(checks(&operation), expected, "{operation:?}");
        }
    }

    fn reason(found: Result<(), Hold>) -> Option<HoldReason> {
        found.err().map(|hold| hold.reason)
    }

    #[test]
    fn what_a_check_finds_decides() {
        let source = RequestSource { chain_id: 1, contract: Address::ZERO };
        let key = RequestKey { source, id: U256::ONE, content: B256::ZERO };
        for (policy, given, expected) in [
            (KeyPolicy::Answer, Approval::Missing, None),
            (KeyPolicy::Answer, Approval::Given, None),
            (KeyPolicy::Hold, Approval::Missing, Some(HoldReason::OperatorApproval)),
            (KeyPolicy::Hold, Approval::Given, None),
        ] {
            assert_eq!(reason(approval(policy, given, key)), expected, "{policy:?} {given:?}");
        }
        for (answered, expected) in [
            (AnsweredHere::Yes, None),
            (AnsweredHere::Unknown, None),
            (AnsweredHere::No, Some(HoldReason::WaitsForPreparation)),
        ] {
            assert_eq!(reason(preparation(U256::ONE, answered)), expected, "{answered:?}");
        }
        assert_eq!(reason(age(CoreAge::Before)), None);
        assert_eq!(reason(age(CoreAge::Since)), Some(HoldReason::CoreVersion));
    }

    #[test]
    fn an_unserved_event_is_told_by_name_or_by_topic() {
        let told = unsupported(None).detail;
        assert!(told.contains("without a topic"), "{told}");
        let told = unsupported(Some(B256::repeat_byte(0xaa))).detail;
        assert!(told.contains("0xaaaa"), "{told}");
    }
}
