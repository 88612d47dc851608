//! Key operations: what is done before the Core is asked for one, and before its answer is sent.

use std::time::Duration;

use alloy::hex;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, debug_span};

use super::{
    Transition,
    policy::{
        History,
        key_operations::{self as policy, Check, KeyRule},
        setback::{Cause, Setback},
    },
    stages::core_setback,
};
use crate::{
    chain::sender::TransactionSender,
    contracts::{abi, decryption::Votes},
    domain::{
        Answer, Bytes, Hold, HoldReason, KeyOperation, KeyRepresentation, Operation, Outcome,
        Remedy, Request, excerpt, stage::Stage,
    },
    flow::{
        AnswerStages, AnsweredHere, Flow, KeyManagement, Mode, RequestLedger, Step, access,
        ciphertexts::BucketRegistry,
        kms_core::{self, KeyAsk, KmsCore, Telling, rate_limiter::AskPermit},
        walk_queue::{Activity, AttendanceGuard},
    },
};

/// How often a request that is polled looks for its abort.
const LOOKS_FOR_ABORT_EVERY: Duration = Duration::from_secs(10);
/// How long after the Core knows of an abort the journal may not: the abort's walk has told the one, and is about
/// to note the other.
const ABORT_SHOWS_WITHIN: Duration = Duration::from_secs(5);
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
        let (rooms, keys) = self.key_stages(request).ok_or_else(|| not_configured(request))?;
        let (checks, telling) = match policy::rule(request.key.id, operation) {
            KeyRule::Ask(checks) => (checks, None),
            KeyRule::Tell(checks, telling) => (checks, Some(telling)),
            KeyRule::Hold { topic } => return Err(Setback::held(policy::unsupported(topic))),
        };
        let (mut turn, mut representation) = (None, None);
        for check in checks {
            match check {
                Check::NotAborted => {
                    if let Some(telling) = self.was_aborted(request).await? {
                        // The Core may have been asked after it was told of the abort.
                        let again = Some(telling).filter(|_| history.maybe_asked);
                        return self.end_aborted(request, again).await;
                    }
                }
                Check::Approval => policy::approval(keys.policy, history.approval, request.key)
                    .map_err(Setback::held)?,
                Check::Context => self.check_key_context(keys, operation, history).await?,
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
                        Ok(age) => policy::age(operation, age).map_err(Setback::held)?,
                        Err(error) => return Err(core_setback(rooms, &error).await),
                    }
                }
                Check::Representation => {
                    representation = self.choose_representation(keys, request, operation).await?;
                }
            }
        }
        attendance.set_activity(Activity::Asking);
        let turn = match turn {
            Some(turn) => turn,
            None => turn_at(&keys.core).await?,
        };
        if let Some(telling) = telling {
            return match keys.core.tell(turn, request, telling).await {
                Ok(()) => Ok(Transition::End(Outcome::NoAnswerDue)),
                Err(error) => Err(core_setback(rooms, &error).await),
            };
        }
        let ask = KeyAsk { operation, representation };
        let asking = keys.core.ask_key_operation(turn, request, ask);
        match asking.instrument(debug_span!("kms_core_ask")).await {
            Ok(asked) => {
                history.core.on_asked(asked);
                let asked = Step::Asked { core: keys.core.address().clone() };
                Ok(Transition::Advance(Stage::Asked, asked))
            }
            Err(error) => Err(core_setback(rooms, &error).await),
        }
    }

    /// What the Core is told of the abort of this request, if one was carried out.
    async fn was_aborted(&self, request: &Request) -> Result<Option<Telling>, Setback> {
        let Operation::Key(operation) = &request.operation else { return Ok(None) };
        let Some((abort, telling)) = policy::abort_of(request.key.id, operation) else {
            return Ok(None);
        };
        match self.ledger.is_done(abort).await {
            Ok(is_done) => Ok(is_done.then_some(telling)),
            // A failing journal ends the instance elsewhere.
            Err(_) => Err(Setback::retry(Cause::Stopping)),
        }
    }

    /// Ends a request that the contract has taken back. `again`: what the Core is told once more, as it may have
    /// been asked after it was told of the abort.
    async fn end_aborted(
        &self,
        request: &Request,
        again: Option<Telling>,
    ) -> Result<Transition, Setback> {
        let (rooms, keys) = self.key_stages(request).ok_or_else(|| not_configured(request))?;
        if let Some(telling) = again {
            let turn = turn_at(&keys.core).await?;
            let told = keys.core.tell(turn, request, telling).await;
            if let Err(error) = told {
                return Err(core_setback(rooms, &error).await);
            }
        }
        Ok(Transition::End(Outcome::Aborted))
    }

    /// How a request ends whose answer has not been handed to the lane: not at all, unless the contract has taken
    /// it back.
    pub(super) async fn aborted_before_sending(
        &self,
        request: &Request,
    ) -> Result<Option<Transition>, Setback> {
        let aborted = self.was_aborted(request).await?;
        Ok(aborted.map(|_| Transition::End(Outcome::Aborted)))
    }

    /// Polls the Core for a key operation, and looks now and then whether the contract has taken it back.
    pub(super) async fn poll_key_operation(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        history: &mut History,
    ) -> Result<Transition, Setback> {
        let is_aborted = async {
            loop {
                match self.was_aborted(request).await {
                    Ok(Some(telling)) => break Ok(telling),
                    Ok(None) => sleep(LOOKS_FOR_ABORT_EVERY).await,
                    Err(setback) => break Err(setback),
                }
            }
        };
        let polled = tokio::select! {
            biased;
            aborted = is_aborted => {
                return self.end_aborted(request, Some(aborted?)).await;
            }
            polled = self.poll(rooms, request, history) => polled,
        };
        // The Core may know of the abort a moment earlier than the journal.
        if let Err(Setback { remedy: Remedy::Hold(hold), .. }) = &polled
            && hold.reason == HoldReason::CoreAborted
        {
            sleep(ABORT_SHOWS_WITHIN).await;
            if self.was_aborted(request).await?.is_some() {
                return Ok(Transition::End(Outcome::Aborted));
            }
        }
        polled
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

    /// The KMS context that it names has to be in force.
    async fn check_key_context(
        &self,
        keys: &KeyManagement<P>,
        operation: &KeyOperation,
        history: &mut History,
    ) -> Result<(), Setback> {
        let Some(extra_data) = operation.extra_data() else { return Ok(()) };
        let checked = access::check_key_context(keys.contexts.as_ref(), extra_data).await;
        history.access.context_checked(checked, Instant::now()).map_err(|without| {
            let (remedy, error) = *without;
            Setback { is_own: error.is_own(), ..Setback::new(remedy, error) }
        })
    }

    /// The kind of key that the Core is told to make, which is recorded with its preparation.
    async fn choose_representation(
        &self,
        keys: &KeyManagement<P>,
        request: &Request,
        operation: &KeyOperation,
    ) -> Result<Option<KeyRepresentation>, Setback> {
        // A failing journal ends the instance elsewhere.
        let failing = |_| Setback::retry(Cause::Stopping);
        let preparation = if let KeyOperation::Keygen { preparation, .. } = operation {
            *preparation
        } else {
            request.key.id
        };
        let recorded = self.ledger.representation_of(preparation).await.map_err(failing)?;
        let gateway = keys.gateway.borrow().answered().map(|known| known.generation);
        let chosen = policy::representation(operation, keys.representation, gateway, recorded);
        match chosen.map_err(Setback::held)? {
            Some(chosen) if matches!(operation, KeyOperation::PrepKeygen { .. }) => {
                let recording = self.ledger.choose_representation(request.key, chosen);
                recording.await.map(Some).map_err(failing)
            }
            chosen => Ok(chosen),
        }
    }

    /// A key is made of this node's own preparation.
    async fn check_preparation(&self, operation: &KeyOperation) -> Result<(), Setback> {
        let KeyOperation::Keygen { preparation, .. } = operation else { return Ok(()) };
        // A failing journal ends the instance elsewhere.
        let answered = self.ledger.answered_here(vec![*preparation]).await;
        let answered = answered.map_err(|_| Setback::retry(Cause::Stopping))?;
        let answered = answered.first().copied().unwrap_or(AnsweredHere::Unknown);
        policy::preparation(*preparation, answered).map_err(Setback::held)
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
                let detail = format!(
                    "the nodes of chain {} give too few blocks at a time to read what the other KMS nodes \
                     answered; use one that gives more",
                    request.key.source.chain_id
                );
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
pub(super) fn not_configured(request: &Request) -> Setback {
    let is_on_ethereum = match &request.operation {
        Operation::Key(operation) => operation.extra_data().is_some(),
        Operation::PublicDecryption(_) | Operation::UserDecryption(_) => false,
    };
    let detail = if is_on_ethereum {
        "the configuration does not name the contract that asks for it: set ethereum_url, \
         ethereum_chain_id and kms_generation_address"
    } else {
        "the configuration does not name the contract that asks for it: set kms_generation_address"
    };
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
        3 => "compressed key set".to_owned(),
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
            (3, Bytes::from_static(&[2])),
            (4, Bytes::from(vec![7; 200])),
        ]);
        let told = describe(&keys);
        assert!(told.starts_with(
            "server key: 0xabcd, public key: 0x01, compressed key set: 0x02, key of type 4: 0x0707"
        ));
        assert!(told.len() < 280, "{told}");
        assert_eq!(describe(&Bytes::from_static(&[0xee])), "0xee");
    }
}
