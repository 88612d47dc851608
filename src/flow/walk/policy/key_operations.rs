//! What each kind of key operation needs before the KMS Core is asked for it, in which order, and what follows
//! from what is found. Pure: the walk carries it out.
//!
//! ```text
//! kind               before the Core is asked, in this order
//! --------------------------------------------------------------------------------------------------
//! prep_keygen        not aborted, approval, context, turn, witnesses, age, representation
//! keygen             not aborted, approval, context, preparation, turn, witnesses, age, representation
//! crsgen             not aborted, approval, context, turn, witnesses, age
//! abort_keygen       turn, witnesses; then the Core is told, and no answer is due
//! abort_crsgen       turn, witnesses; then the Core is told, and no answer is due
//! prss_init, key_reshare_same_set
//!                    approval, turn, witnesses, age; then the Core is told, and no answer is due
//! unsupported_event  it is not asked, and held by its name
//!
//! check           is passed if                                                    else
//! --------------------------------------------------------------------------------------------------
//! not aborted     no abort of it has been carried out                             it ends (aborted)
//! approval        the operator has key operations answered, or approved this one  held (operator_approval)
//! context         the KMS context that it names is in force; up to G12 none is    see [`super::access_history`]
//! preparation     this node has answered it, or does not know it                  held (waits_for_preparation)
//! turn            the Core takes requests                                         retry
//! witnesses       two nodes show the event, if there are two                      see `contracts::decryption`
//! age             the Core is of the contract's time                              held (core_version)
//! representation  it is known which kind of key the nodes make                    held (key_representation)
//! ```
//!
//! An abort is an event of its own, whose walk is done once two nodes have shown it and the Core was told of it.
//! That is what counts for the request that it takes back: one node that lies takes nothing back. Such a request
//! looks for it before it is asked, while it is polled, and before its answer is sent; a transaction under way is
//! followed to its end. So the order in which the two events are read does not matter. An abort needs no approval:
//! the contract has taken the request back already.
//!
//! What takes nobody's time comes first. The witnesses come right before the ask: what they say is soon old. The
//! kind of key is recorded last, so that an operator may correct it until the Core is asked.
//!
//! ```text
//! contracts     key_representation  kind of key
//! --------------------------------------------------------------------------------------
//! up to G12     any                 nothing is said: the Cores of that time make uncompressed ones
//! G13, G14      auto, uncompressed  uncompressed
//!               compressed          held: these contracts know no compressed keys
//! HEAD          auto                held: the operators have to agree on one
//!               named               that one
//! not known     auto, compressed    held until it is known
//!               uncompressed        uncompressed
//! any           any                 of a key: what was recorded with its preparation, if that is known
//! ```

use crate::{
    contracts::abi::{self, Generation},
    domain::{B256, Hold, HoldReason, KeyOperation, KeyRepresentation, RequestKey, U256, abort_id},
    flow::{
        AnsweredHere, KeyPolicy, RepresentationChoice,
        kms_core::{CoreAge, Telling},
        walk::policy::Approval,
    },
};

/// What has to hold before the Core is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Check {
    /// The contract has not taken it back.
    NotAborted,
    Approval,
    /// The KMS context of its extraData.
    Context,
    /// This node's own preparation of the key is done: until then the Core could only refuse.
    Preparation,
    /// The Core's pace lets one more ask through.
    Turn,
    Witnesses,
    Age,
    /// Which kind of key is made, which is recorded with its preparation.
    Representation,
}

/// What is done about a kind of key operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum KeyRule {
    /// The Core is asked once all of these are passed, in this order.
    Ask(&'static [Check]),
    /// The Core is told this once all of these are passed, and no answer is due.
    Tell(&'static [Check], Telling),
    /// It is held: this version does not know what this event asks for.
    Hold { topic: Option<B256> },
}

const PREPARATION: KeyRule = KeyRule::Ask(&[
    Check::NotAborted,
    Check::Approval,
    Check::Context,
    Check::Turn,
    Check::Witnesses,
    Check::Age,
    Check::Representation,
]);
const KEY: KeyRule = KeyRule::Ask(&[
    Check::NotAborted,
    Check::Approval,
    Check::Context,
    Check::Preparation,
    Check::Turn,
    Check::Witnesses,
    Check::Age,
    Check::Representation,
]);
/// One node that lies must not end hours of work.
const ABORT: &[Check] = &[Check::Turn, Check::Witnesses];
const CRS: KeyRule = KeyRule::Ask(&[
    Check::NotAborted,
    Check::Approval,
    Check::Context,
    Check::Turn,
    Check::Witnesses,
    Check::Age,
]);

const RESHARING: &[Check] = &[Check::Approval, Check::Turn, Check::Witnesses, Check::Age];

/// The table: one row per kind. `id`: of the request.
pub(in crate::flow) fn rule(id: U256, operation: &KeyOperation) -> KeyRule {
    match operation {
        KeyOperation::PrepKeygen { .. } => PREPARATION,
        KeyOperation::Keygen { .. } => KEY,
        KeyOperation::Crsgen { .. } => CRS,
        KeyOperation::AbortKeygen { preparation } => {
            KeyRule::Tell(ABORT, Telling::AbortKeygen(*preparation))
        }
        KeyOperation::AbortCrsgen { crs } => KeyRule::Tell(ABORT, Telling::AbortCrsgen(*crs)),
        KeyOperation::PrssInit => KeyRule::Tell(RESHARING, Telling::InitRandomness),
        KeyOperation::KeyReshare { preparation, key, parameters } => {
            let (preparation, key, parameters) = (*preparation, *key, *parameters);
            KeyRule::Tell(RESHARING, Telling::Reshare { id, preparation, key, parameters })
        }
        KeyOperation::UnsupportedEvent { topic } => KeyRule::Hold { topic: *topic },
    }
}

/// What takes this request back: the id of the request to abort it, and what the Core is told then. `None`:
/// nothing does (up to G12 there is no abort).
pub(in crate::flow) fn abort_of(id: U256, operation: &KeyOperation) -> Option<(U256, Telling)> {
    operation.extra_data()?;
    let (aborted, telling) = match operation {
        KeyOperation::PrepKeygen { .. } => (id, Telling::AbortKeygen(id)),
        KeyOperation::Keygen { preparation, .. } => {
            (*preparation, Telling::AbortKeygen(*preparation))
        }
        KeyOperation::Crsgen { .. } => (id, Telling::AbortCrsgen(id)),
        KeyOperation::AbortKeygen { .. }
        | KeyOperation::AbortCrsgen { .. }
        | KeyOperation::PrssInit
        | KeyOperation::KeyReshare { .. }
        | KeyOperation::UnsupportedEvent { .. } => return None,
    };
    Some((abort_id(aborted), telling))
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

/// Whether a Core of this age makes and signs what the contract of this operation wants.
pub(in crate::flow) fn age(operation: &KeyOperation, age: CoreAge) -> Result<(), Hold> {
    let detail = match (operation.extra_data(), age) {
        (None, CoreAge::Before) | (Some(_), CoreAge::Since) => return Ok(()),
        (None, CoreAge::Since) => {
            "the KMS Core is v0.13.20 or later, and these contracts are of its predecessors: it would make \
             another kind of key than the other nodes, and sign other bytes; it is not asked"
        }
        (Some(_), CoreAge::Before) => {
            "the KMS Core is older than v0.13.20, and these contracts are of its successors: it signs no \
             extraData, which they check, and reads the kind of key in another way; it is not asked"
        }
    };
    Err(Hold::new(HoldReason::CoreVersion, detail))
}

/// The kind of key that the Core is told to make; `None`: it is told of none. `recorded`: with the preparation
/// of this key. `gateway`: the generation of the gateway's contracts, if that is known.
pub(in crate::flow) fn representation(
    operation: &KeyOperation,
    choice: RepresentationChoice,
    gateway: Option<Generation>,
    recorded: Option<KeyRepresentation>,
) -> Result<Option<KeyRepresentation>, Hold> {
    use KeyRepresentation::{Compressed, Uncompressed};

    if operation.extra_data().is_none() {
        return Ok(None);
    }
    let missing = |detail: String| Err(Hold::new(HoldReason::KeyRepresentation, detail));
    match (recorded, choice, gateway) {
        (Some(recorded), ..) => Ok(Some(recorded)),
        (None, RepresentationChoice::Named(Uncompressed), _)
        | (
            None,
            RepresentationChoice::Auto,
            Some(Generation::UpToG10 | Generation::G12 | Generation::G13 | Generation::G14),
        ) => Ok(Some(Uncompressed)),
        (None, RepresentationChoice::Named(Compressed), Some(Generation::Head)) => {
            Ok(Some(Compressed))
        }
        (None, RepresentationChoice::Named(Compressed), Some(earlier)) => missing(format!(
            "key_representation = \"compressed\", and contracts of {earlier} know no compressed keys: they \
             would take no answer"
        )),
        (None, RepresentationChoice::Auto, Some(Generation::Head)) => missing(
            "the contracts are those of v0.15-dev, which take uncompressed and compressed keys: all nodes \
             have to make the same; agree with the other operators, and set key_representation"
                .to_owned(),
        ),
        (None, RepresentationChoice::Auto | RepresentationChoice::Named(Compressed), None) => missing(
            "the version of the gateway's contracts is not known, which tells what kinds of keys there \
             are: it is tried again"
                .to_owned(),
        ),
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
    use crate::domain::{Address, Bytes, KeyParameters, RequestSource};

    fn checks(operation: &KeyOperation) -> Option<Vec<Check>> {
        match rule(U256::from(9), operation) {
            KeyRule::Ask(checks) | KeyRule::Tell(checks, _) => Some(checks.to_vec()),
            KeyRule::Hold { .. } => None,
        }
    }

    /// The table as a whole: a row that changes changes here too.
    #[test]
    fn each_kind_is_asked_for_in_its_order() {
        use Check::{
            Age, Approval, Context, NotAborted, Preparation, Representation, Turn, Witnesses,
        };
        let (parameters, extra_data) = (KeyParameters::Test, None);
        let rows = [
            (
                KeyOperation::PrepKeygen { parameters, extra_data: extra_data.clone() },
                Some(vec![NotAborted, Approval, Context, Turn, Witnesses, Age, Representation]),
            ),
            (
                keygen(None),
                Some(vec![
                    NotAborted,
                    Approval,
                    Context,
                    Preparation,
                    Turn,
                    Witnesses,
                    Age,
                    Representation,
                ]),
            ),
            (
                KeyOperation::Crsgen { max_bits: U256::ONE, parameters, extra_data },
                Some(vec![NotAborted, Approval, Context, Turn, Witnesses, Age]),
            ),
            (KeyOperation::AbortKeygen { preparation: U256::ONE }, Some(vec![Turn, Witnesses])),
            (KeyOperation::AbortCrsgen { crs: U256::ONE }, Some(vec![Turn, Witnesses])),
            (KeyOperation::PrssInit, Some(vec![Approval, Turn, Witnesses, Age])),
            (
                KeyOperation::KeyReshare { preparation: U256::ONE, key: U256::ONE, parameters },
                Some(vec![Approval, Turn, Witnesses, Age]),
            ),
            (KeyOperation::UnsupportedEvent { topic: None }, None),
        ];
        for (operation, expected) in rows {
            assert_eq!(checks(&operation), expected, "{operation:?}");
        }
    }

    #[test]
    fn an_abort_takes_back_a_preparation_its_key_or_a_crs() {
        let (id, other) = (U256::from(7), U256::from(1));
        let (parameters, max_bits) = (KeyParameters::Test, U256::ONE);
        let some = || Some(Bytes::from_static(&[1]));
        let prep = |extra_data| KeyOperation::PrepKeygen { parameters, extra_data };
        let crs = |extra_data| KeyOperation::Crsgen { max_bits, parameters, extra_data };
        for (operation, expected) in [
            (prep(some()), Some((abort_id(id), Telling::AbortKeygen(id)))),
            (keygen(Some(&[1])), Some((abort_id(other), Telling::AbortKeygen(other)))),
            (crs(some()), Some((abort_id(id), Telling::AbortCrsgen(id)))),
            (prep(None), None),
            (keygen(None), None),
            (crs(None), None),
            (KeyOperation::AbortKeygen { preparation: id }, None),
            (KeyOperation::UnsupportedEvent { topic: None }, None),
        ] {
            assert_eq!(abort_of(id, &operation), expected, "{operation:?}");
        }
        for (operation, telling) in [
            (KeyOperation::AbortKeygen { preparation: id }, Telling::AbortKeygen(id)),
            (KeyOperation::AbortCrsgen { crs: id }, Telling::AbortCrsgen(id)),
        ] {
            let row = KeyRule::Tell(&[Check::Turn, Check::Witnesses], telling);
            assert_eq!(rule(U256::from(9), &operation), row);
        }
    }

    fn keygen(extra_data: Option<&'static [u8]>) -> KeyOperation {
        let extra_data = extra_data.map(Bytes::from_static);
        KeyOperation::Keygen { preparation: U256::ONE, extra_data }
    }

    fn reason<T>(found: Result<T, Hold>) -> Option<HoldReason> {
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
        let wrong = Some(HoldReason::CoreVersion);
        let (gateway, host) = (keygen(None), keygen(Some(&[1])));
        for (operation, core, expected) in [
            (&gateway, CoreAge::Before, None),
            (&gateway, CoreAge::Since, wrong),
            (&host, CoreAge::Before, wrong),
            (&host, CoreAge::Since, None),
        ] {
            assert_eq!(reason(age(operation, core)), expected, "{operation:?} {core:?}");
        }
    }

    /// The table of the file's head, row by row.
    #[test]
    fn the_kind_of_key_is_what_the_operators_agreed_on() {
        use KeyRepresentation::{Compressed, Uncompressed};
        use RepresentationChoice::{Auto, Named};
        let held = Err(HoldReason::KeyRepresentation);
        let of = |operation: &KeyOperation, choice, gateway, recorded| {
            representation(operation, choice, gateway, recorded).map_err(|hold| hold.reason)
        };
        let host = keygen(Some(&[1]));
        let early = [Generation::G12, Generation::G13, Generation::G14].map(Some);
        let every = early.into_iter().chain([Some(Generation::Head), None]);
        for gateway in every.clone() {
            for choice in [Auto, Named(Uncompressed), Named(Compressed)] {
                assert_eq!(of(&keygen(None), choice, gateway, Some(Compressed)), Ok(None));
                for recorded in KeyRepresentation::ALL {
                    let found = of(&host, choice, gateway, Some(recorded));
                    assert_eq!(found, Ok(Some(recorded)), "{choice:?} {gateway:?}");
                }
            }
            let named = of(&host, Named(Uncompressed), gateway, None);
            assert_eq!(named, Ok(Some(Uncompressed)), "{gateway:?}");
        }
        for gateway in early {
            assert_eq!(of(&host, Auto, gateway, None), Ok(Some(Uncompressed)), "{gateway:?}");
            assert_eq!(of(&host, Named(Compressed), gateway, None), held, "{gateway:?}");
        }
        assert_eq!(of(&host, Auto, Some(Generation::Head), None), held);
        let named = of(&host, Named(Compressed), Some(Generation::Head), None);
        assert_eq!(named, Ok(Some(Compressed)));
        assert_eq!(of(&host, Auto, None, None), held);
        assert_eq!(of(&host, Named(Compressed), None, None), held);
    }

    #[test]
    fn an_unserved_event_is_told_by_name_or_by_topic() {
        let told = unsupported(None).detail;
        assert!(told.contains("without a topic"), "{told}");
        let told = unsupported(Some(B256::repeat_byte(0xaa))).detail;
        assert!(told.contains("0xaaaa"), "{told}");
    }
}
