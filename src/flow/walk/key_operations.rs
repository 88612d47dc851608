//! Key operations: what is done before the Core is asked for one, and before its answer is sent.

use alloy::hex;
use tracing::{Instrument, debug, debug_span};

use super::{
    Transition,
    policy::{Approval, History, setback::Setback},
    stages::core_setback,
};
use crate::{
    chain::sender::TransactionSender,
    contracts::{abi, decryption::Votes},
    domain::{
        Answer, B256, Bytes, Hold, HoldReason, KeyOperation, Request, U256, excerpt, stage::Stage,
    },
    flow::{
        AnswerStages, AnsweredHere, Flow, KeyManagement, KeyPolicy, Mode, RequestLedger, Step,
        ciphertexts::BucketRegistry,
        kms_core::{self, CoreAge, CoreError},
        walk_queue::{Activity, AttendanceGuard},
    },
};

/// The longest text of a digest in a hold, in hex digits.
const LONGEST_DIGEST: usize = 130;

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// The stages of a key operation. `None`: nothing here can serve it.
    pub(super) fn key_stages(
        &self,
        request: &Request,
    ) -> Option<(&AnswerStages<P>, &KeyManagement<P>)> {
        match &self.mode {
            Mode::Answer(rooms) => Some((rooms, rooms.keys_of(request)?)),
            Mode::Observe { .. } => None,
        }
    }

    /// Asks the Core for a key operation, once it may and can be asked.
    pub(super) async fn ask_key_operation(
        &self,
        request: &Request,
        operation: &KeyOperation,
        history: &mut History,
        attendance: &AttendanceGuard,
    ) -> Result<Transition, Setback> {
        kms_core::wire::check(request).map_err(|error| Setback::own(error.remedy(), error))?;
        let (rooms, keys) = self.key_stages(request).ok_or_else(not_configured)?;
        if let KeyOperation::UnsupportedEvent { topic } = operation {
            return Err(Setback::held(unsupported(*topic)));
        }
        if keys.policy == KeyPolicy::Hold && history.approval == Approval::Missing {
            let detail = format!(
                "key_management = \"hold\": `kms-connector requests approve {}` has it answered",
                request.key
            );
            return Err(Setback::held(Hold::new(HoldReason::OperatorApproval, detail)));
        }
        if let KeyOperation::Keygen { preparation } = operation {
            self.check_preparation(*preparation).await?;
        }
        attendance.set_activity(Activity::WaitingForCore);
        let turn = keys.core.acquire_ask_permit().await;
        let turn = turn.map_err(|error: CoreError| Setback::new(error.remedy(), error))?;
        attendance.set_activity(Activity::CheckingChain);
        let again = history.maybe_asked;
        let block = match self.block_of(request, again).await? {
            Ok(block) => block,
            Err(end) => return Ok(Transition::End(end)),
        };
        if let Some(end) = self.check_witnesses(request, block, again, &mut history.doubted).await?
        {
            return Ok(Transition::End(end));
        }
        attendance.set_activity(Activity::Asking);
        match keys.core.age().await {
            Ok(CoreAge::Before) => {}
            Ok(CoreAge::Since) => return Err(Setback::held(too_new())),
            Err(error) => return Err(core_setback(rooms, &error).await),
        }
        let asking = keys.core.ask_key_operation(turn, request, operation);
        match asking.instrument(debug_span!("kms_core_ask")).await {
            Ok(asked) => {
                history.core.on_asked(asked);
                let asked = Step::Asked { core: keys.core.address().clone() };
                Ok(Transition::Advance(Stage::Asked, asked))
            }
            Err(error) => Err(core_setback(rooms, &error).await),
        }
    }

    /// A key is made of this node's own preparation: until that is answered, the Core could only refuse. A
    /// preparation that is not in the journal may be at the Core all the same.
    async fn check_preparation(&self, preparation: U256) -> Result<(), Setback> {
        let answered = self.ledger.answered_here(vec![preparation]).await;
        match answered.ok().and_then(|answered| answered.first().copied()) {
            Some(AnsweredHere::Yes | AnsweredHere::Unknown) => Ok(()),
            Some(AnsweredHere::No) => {
                let detail = format!(
                    "its preparation {preparation:#066x} is not answered yet; `kms-connector requests \
                     show` tells of that"
                );
                Err(Setback::held(Hold::new(HoldReason::WaitsForPreparation, detail)))
            }
            // A failing journal ends the instance elsewhere.
            None => {
                debug!("the journal does not tell of a preparation");
                Ok(())
            }
        }
    }

    /// Holds an answer that differs from what another node has answered.
    pub(in crate::flow) async fn compare_votes(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        answer: &Answer,
    ) -> Result<(), Setback> {
        let Some(keys) = rooms.keys_of(request) else { return Ok(()) };
        let ours = &answer.signed().payload;
        if ours.is_empty() {
            // There is nothing in which a preparation could differ.
            return Ok(());
        }
        let votes = match keys.contract.votes_on(request).await.map_err(Setback::retry)? {
            Votes::All(votes) => votes,
            Votes::TooManyBlocks => {
                let detail = "the gateway nodes give too few blocks at a time to read what the other KMS \
                              nodes answered; use one that gives more";
                return Err(Setback::held(Hold::new(HoldReason::NoProgress, detail)));
            }
        };
        let Some(theirs) = votes.into_iter().map(|vote| vote.payload).find(|vote| vote != ours)
        else {
            return Ok(());
        };
        let detail = format!(
            "another KMS node has answered {}; this node's KMS Core has {}: a vote cannot be taken back, so \
             nothing is sent",
            describe(&theirs),
            describe(ours)
        );
        Err(Setback::held(Hold::new(HoldReason::ResultDiffers, detail)))
    }
}

/// The setback of a key operation that nothing here can serve.
pub(super) fn not_configured() -> Setback {
    let detail = "the configuration does not name the contract that asks for it; set \
                  kms_generation_address";
    Setback::held(Hold::new(HoldReason::KeyManagementNotConfigured, detail))
}

/// Digests as operators compare them: of keys by their type, or of a CRS.
fn describe(payload: &Bytes) -> String {
    let digest = |digest: &[u8]| excerpt(LONGEST_DIGEST, hex::encode_prefixed(digest));
    match abi::key_digests(payload) {
        Some(digests) => {
            let named = digests
                .iter()
                .map(|(kind, bytes)| format!("{}: {}", key_type(*kind), digest(bytes)));
            named.collect::<Vec<_>>().join(", ")
        }
        None => digest(payload),
    }
}

fn key_type(number: u8) -> String {
    match number {
        0 => "server key".to_owned(),
        1 => "public key".to_owned(),
        other => format!("key of type {other}"),
    }
}

fn unsupported(topic: Option<B256>) -> Hold {
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

fn too_new() -> Hold {
    let detail = "the KMS Core is v0.13.20 or later, and these contracts are of its predecessors: it would \
                  make another kind of key than the other nodes, and sign other bytes; it is not asked";
    Hold::new(HoldReason::CoreVersion, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_in_digests_that_people_compare() {
        let keys = abi::key_digests_payload([
            (0, Bytes::from_static(&[0xab, 0xcd])),
            (1, Bytes::from_static(&[1])),
            (3, Bytes::from(vec![7; 200])),
        ]);
        let told = describe(&keys);
        assert!(told.starts_with("server key: 0xabcd, public key: 0x01, key of type 3: 0x0707"));
        assert!(told.len() < 250, "{told}");
        assert_eq!(describe(&Bytes::from_static(&[0xee])), "0xee");
    }

    #[test]
    fn an_unserved_event_is_told_by_name_or_by_topic() {
        let told = unsupported(None).detail;
        assert!(told.contains("without a topic"), "{told}");
        let told = unsupported(Some(B256::repeat_byte(0xaa))).detail;
        assert!(told.contains("0xaaaa"), "{told}");
    }
}
