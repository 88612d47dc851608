//! What each kind of key operation needs before the KMS Core is asked for it, in which order, and what follows
//! from what is found. Pure: the walk carries it out.
//!
//! ```text
//! kind               before the Core is asked, in this order
//! --------------------------------------------------------------------------------------------------
//! prep_keygen        not aborted, approval, context, turn, witnesses, age, representation
//! keygen             not aborted, approval, context, prerequisite, turn, witnesses, age, representation
//! crsgen             not aborted, approval, context, turn, witnesses, age
//! abort_keygen       turn, witnesses; then the Core is told, and no answer is due
//! abort_crsgen       turn, witnesses; then the Core is told, and no answer is due
//! prss_init, key_reshare_same_set
//!                    approval, turn, witnesses, age; then the Core is told, and no answer is due
//! new_kms_context    not aborted, approval, part, witnesses, age; there is no result to poll for
//! new_kms_epoch      not aborted, approval, prerequisite, part, material, witnesses, age
//! context_destroyed, epoch_destroyed
//!                    approval, witnesses; then the Core is told, and no answer is due
//! recorded_event, and the first KMS context of all
//!                    nothing: it is recorded
//! unsupported_event  it is not asked, and held by its name
//!
//! check           is passed if                                                    else
//! --------------------------------------------------------------------------------------------------
//! not aborted     no abort of it has been carried out                             it ends (aborted)
//! approval        the operator has key operations answered, or approved this one  held (operator_approval)
//! context         the KMS context that it names is in force; up to G12 none is    see [`super::access_history`]
//! prerequisite    this node has answered the key's preparation, or its Core was   held (waits_for_preparation,
//!                 told of the epoch's KMS context; or the journal knows neither   waits_for_context)
//! turn            the Core takes one more ask; contexts, epochs wait for none     retry
//! witnesses       two nodes show the event, if there are two                      see `contracts::decryption`
//! age             the Core is of the contract's time                              held (core_version)
//! representation  it is known which kind of key the nodes make                    held (key_representation)
//! part            this node is in the new KMS context or in the previous one      see [`super::lifecycle`]
//! material        nodes have the state of the block whose keys are shared anew    held (archive_node_needed)
//! ```
//!
//! An abort is an event of its own, whose walk is done once two nodes have shown it and the Core was told of it.
//! That is what counts for the request that it takes back: one node that lies takes nothing back. Such a request
//! looks for it before it is asked, while it is polled, and before its answer is sent; a transaction under way is
//! followed to its end. So the order in which the two events are read does not matter. An abort needs no approval:
//! the contract has taken the request back already. The end of a KMS context or of an epoch aborts what is open of
//! it in the same way; it destroys shares, so that an operator may have approved it before.
//!
//! What takes nobody's time comes first. The witnesses come right before the ask: what they say is soon old. The
//! kind of key is recorded last, so that an operator may correct it until the Core is asked.
//!
use crate::{
    contracts::abi,
    domain::{B256, Hold, HoldReason, KeyOperation, RequestKey, U256, abort_id, no_context},
    flow::{
        KeyPolicy,
        kms_core::{CoreAge, LifecycleEnd, Telling},
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
    /// What has to come first is done: until then the Core could only refuse. See [`prerequisite`].
    Prerequisite,
    Witnesses,
    Age,
    /// Which kind of key is made, which is recorded with its preparation.
    Representation,
    /// That this node is in one of the two KMS contexts.
    Part,
    /// The keys that an epoch shares anew.
    Material,
}

/// The checks of a row that asks in the Core's turn: its pace lets one more ask through, between these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) struct InTurn {
    pub before: &'static [Check],
    pub after: &'static [Check],
}

/// What comes of a KMS context or an epoch that the Core was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum LifecycleResult {
    /// It is polled for.
    Polled,
    /// None: that the Core has taken it is all there is to confirm.
    Taken,
}

/// What is done about a kind of key operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum KeyRule {
    /// The Core is asked once all of these are passed, in this order.
    Ask(InTurn),
    /// It is asked for a KMS context or an epoch, out of turn.
    AskLifecycle(&'static [Check], LifecycleResult),
    /// It is told this once all of these are passed, and no answer is due.
    Tell(InTurn, Telling),
    /// It is told that this is no more, out of turn.
    TellEnd(&'static [Check], LifecycleEnd),
    /// It asks nobody for anything.
    Record,
    /// It is held: this version does not know what this event asks for.
    Hold { topic: Option<B256> },
}

impl KeyRule {
    /// Whether there is nothing to poll the Core for.
    pub(in crate::flow) fn has_no_result(self) -> bool {
        matches!(self, Self::AskLifecycle(_, LifecycleResult::Taken))
    }
}

/// What the Core is told again of what was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Withdrawal {
    Abort(Telling),
    End(LifecycleEnd),
}

const WITH_REPRESENTATION: &[Check] = &[Check::Witnesses, Check::Age, Check::Representation];
const PREPARATION: KeyRule = KeyRule::Ask(InTurn {
    before: &[Check::NotAborted, Check::Approval, Check::Context],
    after: WITH_REPRESENTATION,
});
const KEY: KeyRule = KeyRule::Ask(InTurn {
    before: &[Check::NotAborted, Check::Approval, Check::Context, Check::Prerequisite],
    after: WITH_REPRESENTATION,
});
const CRS: KeyRule = KeyRule::Ask(InTurn {
    before: &[Check::NotAborted, Check::Approval, Check::Context],
    after: &[Check::Witnesses, Check::Age],
});
/// One node that lies must not end hours of work.
const ABORT: InTurn = InTurn { before: &[], after: &[Check::Witnesses] };
const RESHARING: InTurn =
    InTurn { before: &[Check::Approval], after: &[Check::Witnesses, Check::Age] };
const CONTEXT: KeyRule = KeyRule::AskLifecycle(
    &[Check::NotAborted, Check::Approval, Check::Part, Check::Witnesses, Check::Age],
    LifecycleResult::Taken,
);
const EPOCH: KeyRule = KeyRule::AskLifecycle(
    &[
        Check::NotAborted,
        Check::Approval,
        Check::Prerequisite,
        Check::Part,
        Check::Material,
        Check::Witnesses,
        Check::Age,
    ],
    LifecycleResult::Polled,
);
const END: &[Check] = &[Check::Approval, Check::Witnesses];

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
        KeyOperation::NewKmsContext { previous, .. } if *previous == no_context() => {
            KeyRule::Record
        }
        KeyOperation::NewKmsContext { .. } => CONTEXT,
        KeyOperation::NewKmsEpoch { .. } => EPOCH,
        KeyOperation::ContextDestroyed { context } => {
            KeyRule::TellEnd(END, LifecycleEnd::Context(*context))
        }
        KeyOperation::EpochDestroyed { epoch } => {
            KeyRule::TellEnd(END, LifecycleEnd::Epoch(*epoch))
        }
        KeyOperation::RecordedEvent { .. } => KeyRule::Record,
        KeyOperation::UnsupportedEvent { topic } => KeyRule::Hold { topic: *topic },
    }
}

/// What takes this request back: the ids of the requests to abort it, and what the Core is told then. Up to G12
/// there are none.
pub(in crate::flow) fn aborts_of(id: U256, operation: &KeyOperation) -> Vec<(U256, Withdrawal)> {
    if !operation.is_of_ethereum() {
        return Vec::new();
    }
    let abort = |of, telling| vec![(of, Withdrawal::Abort(telling))];
    let context_end = |context| (context, Withdrawal::End(LifecycleEnd::Context(context)));
    let aborted = match operation {
        KeyOperation::PrepKeygen { .. } => abort(id, Telling::AbortKeygen(id)),
        KeyOperation::Keygen { preparation, .. } => {
            abort(*preparation, Telling::AbortKeygen(*preparation))
        }
        KeyOperation::Crsgen { .. } => abort(id, Telling::AbortCrsgen(id)),
        KeyOperation::NewKmsContext { .. } => vec![context_end(id)],
        KeyOperation::NewKmsEpoch { context, .. } => {
            vec![(id, Withdrawal::End(LifecycleEnd::Epoch(id))), context_end(*context)]
        }
        KeyOperation::AbortKeygen { .. }
        | KeyOperation::AbortCrsgen { .. }
        | KeyOperation::PrssInit
        | KeyOperation::KeyReshare { .. }
        | KeyOperation::ContextDestroyed { .. }
        | KeyOperation::EpochDestroyed { .. }
        | KeyOperation::RecordedEvent { .. }
        | KeyOperation::UnsupportedEvent { .. } => Vec::new(),
    };
    aborted.into_iter().map(|(aborted, telling)| (abort_id(aborted), telling)).collect()
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

/// Another request of this node that has to come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Prerequisite {
    /// The preparation of a key, which has to be answered.
    Preparation(U256),
    /// The KMS context of an epoch, which the Core has to be told of.
    Context(U256),
}

/// What has to come first. What is not in the journal may be at the Core all the same, and is not waited for.
pub(in crate::flow) fn prerequisite(operation: &KeyOperation) -> Option<Prerequisite> {
    if let KeyOperation::Keygen { preparation, .. } = operation {
        Some(Prerequisite::Preparation(*preparation))
    } else if let KeyOperation::NewKmsEpoch { context, .. } = operation {
        Some(Prerequisite::Context(*context))
    } else {
        None
    }
}

impl Prerequisite {
    /// The hold of a request that waits for it.
    pub(in crate::flow) fn hold(self) -> Hold {
        let (reason, what, lacks) = match self {
            Self::Preparation(id) => (
                HoldReason::WaitsForPreparation,
                format!("its preparation {id:#066x}"),
                "is not answered yet",
            ),
            Self::Context(id) => (
                HoldReason::WaitsForContext,
                format!("its KMS context {id:#066x}"),
                "is not known to this node's KMS Core yet",
            ),
        };
        Hold::new(reason, format!("{what} {lacks}; `kms-connector requests show` tells why"))
    }
}

/// Whether a Core of this age makes and signs what the contract of this operation wants.
pub(in crate::flow) fn age(operation: &KeyOperation, age: CoreAge) -> Result<(), Hold> {
    let detail = match (operation.is_of_ethereum(), age) {
        (false, CoreAge::Before) | (true, CoreAge::Since) => return Ok(()),
        (false, CoreAge::Since) => {
            "the KMS Core is v0.13.20 or later, and these contracts are of its predecessors: it would make \
             another kind of key than the other nodes, and sign other bytes; it is not asked"
        }
        (true, CoreAge::Before) => {
            "the KMS Core is older than v0.13.20, and these contracts are of its successors: it signs no \
             extraData, which they check, and reads the kind of key in another way; it is not asked"
        }
    };
    Err(Hold::new(HoldReason::CoreVersion, detail))
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
    use crate::domain::{Address, Bytes, KeyParameters, KmsContext, RequestSource};

    /// The checks before the turn and after it, or all of them.
    fn checks(operation: &KeyOperation) -> Option<[Vec<Check>; 2]> {
        match rule(U256::from(9), operation) {
            KeyRule::Ask(InTurn { before, after }) | KeyRule::Tell(InTurn { before, after }, _) => {
                Some([before.to_vec(), after.to_vec()])
            }
            KeyRule::AskLifecycle(checks, _) | KeyRule::TellEnd(checks, _) => {
                Some([checks.to_vec(), Vec::new()])
            }
            KeyRule::Record => Some([Vec::new(), Vec::new()]),
            KeyRule::Hold { .. } => None,
        }
    }

    /// The table as a whole: a row that changes changes here too.
    #[test]
    fn each_kind_is_asked_for_in_its_order() {
        use Check::{
            Age, Approval, Context, Material, NotAborted, Part, Prerequisite, Representation,
            Witnesses,
        };
        let (parameters, extra_data) = (KeyParameters::Test, None);
        let row = |before: &[Check], after: &[Check]| Some([before.to_vec(), after.to_vec()]);
        let rows = [
            (
                KeyOperation::PrepKeygen { parameters, extra_data: extra_data.clone() },
                row(&[NotAborted, Approval, Context], &[Witnesses, Age, Representation]),
            ),
            (
                keygen(None),
                row(
                    &[NotAborted, Approval, Context, Prerequisite],
                    &[Witnesses, Age, Representation],
                ),
            ),
            (
                KeyOperation::Crsgen { max_bits: U256::ONE, parameters, extra_data },
                row(&[NotAborted, Approval, Context], &[Witnesses, Age]),
            ),
            (KeyOperation::AbortKeygen { preparation: U256::ONE }, row(&[], &[Witnesses])),
            (KeyOperation::AbortCrsgen { crs: U256::ONE }, row(&[], &[Witnesses])),
            (KeyOperation::PrssInit, row(&[Approval], &[Witnesses, Age])),
            (
                KeyOperation::KeyReshare { preparation: U256::ONE, key: U256::ONE, parameters },
                row(&[Approval], &[Witnesses, Age]),
            ),
            (new_context(U256::ONE), row(&[NotAborted, Approval, Part, Witnesses, Age], &[])),
            (
                new_epoch(),
                row(&[NotAborted, Approval, Prerequisite, Part, Material, Witnesses, Age], &[]),
            ),
            (
                KeyOperation::ContextDestroyed { context: U256::ONE },
                row(&[Approval, Witnesses], &[]),
            ),
            (KeyOperation::EpochDestroyed { epoch: U256::ONE }, row(&[Approval, Witnesses], &[])),
            (new_context(no_context()), row(&[], &[])),
            (KeyOperation::RecordedEvent { event: "" }, row(&[], &[])),
            (KeyOperation::UnsupportedEvent { topic: None }, None),
        ];
        for (operation, expected) in rows {
            assert_eq!(checks(&operation), expected, "{operation:?}");
            let is_context = expected.is_some_and(|[before, _]| before.contains(&Part))
                && !matches!(operation, KeyOperation::NewKmsEpoch { .. });
            assert_eq!(rule(U256::ONE, &operation).has_no_result(), is_context, "{operation:?}");
        }
    }

    fn new_context(previous: U256) -> KeyOperation {
        let context = KmsContext {
            nodes: Vec::new(),
            mpc_threshold: U256::ONE,
            software_version: String::new(),
            pcr_values: Vec::new(),
        };
        KeyOperation::NewKmsContext { previous, context: context.into(), info_hash: B256::ZERO }
    }

    fn new_epoch() -> KeyOperation {
        KeyOperation::NewKmsEpoch {
            context: U256::from(2),
            previous_context: U256::ONE,
            previous_epoch: U256::ONE,
            material_block: U256::ONE,
            extra_data: Bytes::from_static(&[2]),
        }
    }

    #[test]
    fn the_end_of_a_context_takes_back_what_is_open_of_it() {
        let (id, context) = (U256::from(7), U256::from(2));
        let of_context =
            |context| (abort_id(context), Withdrawal::End(LifecycleEnd::Context(context)));
        assert_eq!(aborts_of(id, &new_context(U256::ONE)), [of_context(id)]);
        let of_epoch = (abort_id(id), Withdrawal::End(LifecycleEnd::Epoch(id)));
        assert_eq!(aborts_of(id, &new_epoch()), [of_epoch, of_context(context)]);
        let end = KeyOperation::ContextDestroyed { context };
        assert_eq!(aborts_of(id, &end), []);
        assert_eq!(rule(id, &end), KeyRule::TellEnd(END, LifecycleEnd::Context(context)));
    }

    #[test]
    fn an_abort_takes_back_a_preparation_its_key_or_a_crs() {
        let (id, other) = (U256::from(7), U256::from(1));
        let (parameters, max_bits) = (KeyParameters::Test, U256::ONE);
        let some = || Some(Bytes::from_static(&[1]));
        let abort = |of, telling| vec![(abort_id(of), Withdrawal::Abort(telling))];
        let prep = |extra_data| KeyOperation::PrepKeygen { parameters, extra_data };
        let crs = |extra_data| KeyOperation::Crsgen { max_bits, parameters, extra_data };
        for (operation, expected) in [
            (prep(some()), abort(id, Telling::AbortKeygen(id))),
            (keygen(Some(&[1])), abort(other, Telling::AbortKeygen(other))),
            (crs(some()), abort(id, Telling::AbortCrsgen(id))),
            (prep(None), Vec::new()),
            (keygen(None), Vec::new()),
            (crs(None), Vec::new()),
            (KeyOperation::AbortKeygen { preparation: id }, Vec::new()),
            (KeyOperation::UnsupportedEvent { topic: None }, Vec::new()),
        ] {
            assert_eq!(aborts_of(id, &operation), expected, "{operation:?}");
        }
        for (operation, telling) in [
            (KeyOperation::AbortKeygen { preparation: id }, Telling::AbortKeygen(id)),
            (KeyOperation::AbortCrsgen { crs: id }, Telling::AbortCrsgen(id)),
        ] {
            assert_eq!(rule(U256::from(9), &operation), KeyRule::Tell(ABORT, telling));
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
        for (operation, expected) in [
            (keygen(None), Some(HoldReason::WaitsForPreparation)),
            (new_epoch(), Some(HoldReason::WaitsForContext)),
            (new_context(U256::ONE), None),
            (KeyOperation::PrssInit, None),
        ] {
            let waits = prerequisite(&operation).map(|first| first.hold().reason);
            assert_eq!(waits, expected, "{operation:?}");
        }
        let wrong = Some(HoldReason::CoreVersion);
        let (gateway, host) = (keygen(None), keygen(Some(&[1])));
        let context = new_context(U256::ONE);
        for (operation, core, expected) in [
            (&context, CoreAge::Before, wrong),
            (&context, CoreAge::Since, None),
            (&gateway, CoreAge::Before, None),
            (&gateway, CoreAge::Since, wrong),
            (&host, CoreAge::Before, wrong),
            (&host, CoreAge::Since, None),
        ] {
            assert_eq!(reason(age(operation, core)), expected, "{operation:?} {core:?}");
        }
    }

    #[test]
    fn an_unserved_event_is_told_by_name_or_by_topic() {
        let told = unsupported(None).detail;
        assert!(told.contains("without a topic"), "{told}");
        let told = unsupported(Some(B256::repeat_byte(0xaa))).detail;
        assert!(told.contains("0xaaaa"), "{told}");
    }
}
