//! Key operations: what is done before the Core is asked for one, and before its answer is sent.

use alloy::hex;
use tracing::{Instrument, debug, debug_span};

use super::{
    Transition,
    policy::{
        History,
        key_operations::{self as policy, Check, KeyRule},
        setback::Setback,
    },
    stages::core_setback,
};
use crate::{
    chain::sender::TransactionSender,
    contracts::{abi, decryption::Votes},
    domain::{
        Answer, Bytes, Hold, HoldReason, KeyOperation, Outcome, Request, excerpt, stage::Stage,
    },
    flow::{
        AnswerStages, Flow, KeyManagement, Mode, RequestLedger, Step,
        ciphertexts::BucketRegistry,
        kms_core::{self, KmsCore, rate_limiter::AskPermit},
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
        let checks = match policy::rule(operation) {
            KeyRule::Ask(checks) => checks,
            KeyRule::Hold { topic } => return Err(Setback::held(policy::unsupported(topic))),
        };
        let mut turn = None;
        for check in checks {
            match check {
                Check::Approval => policy::approval(keys.policy, history.approval, request.key)
                    .map_err(Setback::held)?,
                Check::Preparation => self.check_preparation(operation).await?,
                Check::Turn => {
                    attendance.set_activity(Activity::WaitingForCore);
                    turn = Some(turn_at(&keys.core).await?);
                }
                Check::Witnesses => {
                    attendance.set_activity(Activity::CheckingChain);
                    if let Some(end) = self.check_on_chain(request, history).await? {
                        return Ok(Transition::End(end));
                    }
                }
                Check::Age => {
                    attendance.set_activity(Activity::Asking);
                    match keys.core.age().await {
                        Ok(age) => policy::age(age).map_err(Setback::held)?,
                        Err(error) => return Err(core_setback(rooms, &error).await),
                    }
                }
            }
        }
        attendance.set_activity(Activity::Asking);
        let turn = match turn {
            Some(turn) => turn,
            None => turn_at(&keys.core).await?,
        };
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

    /// How the request ends, if the nodes show that it is not on chain.
    async fn check_on_chain(
        &self,
        request: &Request,
        history: &mut History,
    ) -> Result<Option<Outcome>, Setback> {
        let again = history.maybe_asked;
        match self.block_of(request, again).await? {
            Ok(block) => self.check_witnesses(request, block, again, &mut history.doubted).await,
            Err(end) => Ok(Some(end)),
        }
    }

    /// A key is made of this node's own preparation.
    async fn check_preparation(&self, operation: &KeyOperation) -> Result<(), Setback> {
        let KeyOperation::Keygen { preparation } = operation else { return Ok(()) };
        let answered = self.ledger.answered_here(vec![*preparation]).await;
        match answered.ok().and_then(|answered| answered.first().copied()) {
            Some(answered) => policy::preparation(*preparation, answered).map_err(Setback::held),
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

/// Waits for the turn to ask this Core once.
async fn turn_at(core: &KmsCore) -> Result<AskPermit, Setback> {
    core.acquire_ask_permit().await.map_err(|error| Setback::new(error.remedy(), error))
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
}
