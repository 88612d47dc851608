//! What happens in each stage: the request is fetched and asked for, polled, submitted; and what follows from
//! what the Core, the nodes and the contract say.

use tokio::time::Instant;
use tracing::{Instrument, debug, debug_span, info};

use super::{
    Transition,
    foreign_answer::ExpectedAnswer,
    key_votes::kind_made,
    policy::{
        History,
        access_history::AccessHistory,
        blame::{self, Blame},
        core_history::NextCall,
        lifecycle::Part,
        overloads, representation,
        setback::{Cause, Setback},
    },
};
use crate::{
    chain::sender::TransactionSender,
    contracts::{
        abi::{self, Deployment},
        decryption::{DeploymentSupport, RequestLocation, WitnessVerdict},
    },
    domain::{
        Answer, BlockRef, EventShape, Hold, HoldReason, Operation, Outcome, Remedy, Request, U256,
        stage::Stage,
    },
    flow::{
        AnswerStages, Flow, Mode, RequestLedger, Step,
        access::{Access, AccessPass},
        ciphertexts::BucketRegistry,
        kms_core::{self, CoreError, Expected, PollingEnd, SendBefore, wire::ExtraDataMeaning},
        submission::{SubmissionError, SubmissionEvent, SubmissionProgress},
        walk_queue::{Activity, AttendanceGuard},
    },
    telemetry::metrics::Room,
};

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// Fetches the ciphertexts and asks the Core; the bytes are dropped once the Core has them. At a second
    /// ask (`again`) the request may have left the chain and its id may belong to another request: so it is
    /// asked only if it is still on chain. An observing instance ends the request before the ask.
    pub(super) async fn ask(
        &self,
        request: &Request,
        history: &mut History,
        attendance: &AttendanceGuard,
    ) -> Result<Transition, Setback> {
        let decryptions = self.decryptions.as_deref().ok_or_else(no_decryptions)?;
        let deployment = self.check_support(request).await?;
        self.check_overloads(request, &deployment).await?;
        kms_core::wire::check(request).map_err(|error| Setback::own(error.remedy(), error))?;
        let again = history.maybe_asked;
        // What was not granted lately, or may have to wait, is checked before it takes anybody's time.
        let mut pass = None;
        if history.access.is_troubled() || Access::<P>::may_wait(request) {
            attendance.set_activity(Activity::CheckingAccess);
            let block = match self.block_of(request, again).await? {
                Ok(block) => block,
                Err(end) => return Ok(Transition::End(end)),
            };
            let access = &mut history.access;
            pass = Some(self.check_access(request, block, &deployment, access).await?);
        }
        let turn = match &self.mode {
            Mode::Answer(rooms) => {
                attendance.set_activity(Activity::WaitingForCore);
                let turn = rooms.core.acquire_ask_permit().await;
                let setback = |error: CoreError| Setback::new(error.remedy(), error);
                Some((rooms, turn.map_err(setback)?))
            }
            Mode::Observe { .. } => None,
        };
        attendance.set_activity(Activity::CheckingChain);
        let block = match self.block_of(request, again).await? {
            Ok(block) => block,
            Err(end) => return Ok(Transition::End(end)),
        };
        let (refusals, doubted) = (&mut history.refusals, &mut history.doubted);
        let access = &mut history.access;
        // Requests that a node denies may be forged, by the thousand: their ciphertexts are not fetched
        // before the nodes agree.
        let known = if *doubted {
            Some(self.check_witnesses(request, block, again, doubted).await?)
        } else {
            None
        };
        attendance.set_activity(Activity::Fetching);
        let fetching = async {
            let begun = Instant::now();
            let fetching = decryptions.ciphertexts.fetch(request, deployment.ciphertext_source());
            let fetched = fetching.instrument(debug_span!("ciphertexts")).await;
            let fetched = fetched
                .map_err(|error| Setback::own(refusals.remedy(&error, Instant::now()), error))?;
            self.metrics.observe_room(Room::Ciphertexts, begun.elapsed());
            Ok(fetched)
        };
        let witnessing = async {
            match known {
                Some(known) => Ok(known),
                None => self.check_witnesses(request, block, again, doubted).await,
            }
        };
        let checking = async {
            match pass {
                Some(pass) => Ok(pass),
                None => self.check_access(request, block, &deployment, access).await,
            }
        };
        let (fetched, witnessed, pass) = tokio::try_join!(fetching, witnessing, checking)?;
        if let Some(end) = witnessed {
            return Ok(Transition::End(end));
        }
        // The contract may have been upgraded in the meantime.
        if self.check_support(request).await? != deployment {
            return Err(Setback::retry(Cause::Upgraded));
        }
        let access = &mut history.access;
        let before = self.fresh(pass, request, (block, &deployment), access).await?;
        // A failing journal ends the instance elsewhere.
        if let Err(error) = self.note_access(request.key, &mut history.access).await {
            debug!(%error, "could not note a step");
        }
        let Some((rooms, turn)) = turn else { return Ok(Transition::End(Outcome::Observed)) };
        let begun = Instant::now();
        attendance.set_activity(Activity::Asking);
        let ciphertexts = (fetched.key_id, fetched.ciphertexts);
        let extra_data = ExtraDataMeaning::of(&deployment);
        let asking = rooms.core.ask(turn, request, extra_data, ciphertexts, &before);
        match asking.instrument(debug_span!("kms_core_ask")).await {
            // The call was not connected in time, and the Core got nothing.
            Err(_) if before.was_late() => Err(Setback::own(Remedy::Retry, Cause::PassTooOld)),
            Ok(asked) => {
                history.core.on_asked(asked);
                self.metrics.observe_room(Room::CoreAsk, begun.elapsed());
                let asked = Step::Asked { core: rooms.core.address().clone() };
                Ok(Transition::Advance(Stage::Asked, asked))
            }
            Err(error) => {
                let setback = core_setback(rooms, &error).await;
                if matches!(error, CoreError::Unreachable { .. }) && setback.is_own {
                    // The Core may have the request: a poll shows that, and needs no ciphertexts.
                    history.core.on_cut_off();
                    return Ok(Transition::BackToCore(
                        Stage::Asked,
                        Some("the KMS Core broke off the ask"),
                    ));
                }
                Err(setback)
            }
        }
    }

    /// The block that the request is in now, or how it ends. Not `again`: it was just read there.
    pub(super) async fn block_of(
        &self,
        request: &Request,
        again: bool,
    ) -> Result<Result<BlockRef, Outcome>, Setback> {
        if !again {
            return Ok(Ok(request.block));
        }
        match self.whereabouts(request).await.map_err(Setback::retry)? {
            RequestLocation::In(now) => Ok(Ok(now)),
            RequestLocation::Unknown => Err(Setback::own(Remedy::Retry, Cause::BlockLeftChain)),
            RequestLocation::Gone => Ok(Err(Outcome::Orphaned)),
        }
    }

    /// Until when the Core may be asked on the strength of this pass, which is made again if it is too old.
    async fn fresh(
        &self,
        mut pass: AccessPass,
        request: &Request,
        (block, deployment): (BlockRef, &Deployment),
        history: &mut AccessHistory,
    ) -> Result<SendBefore, Setback> {
        let access = &self.decryptions.as_deref().ok_or_else(no_decryptions)?.access;
        if !access.is_fresh(&pass) {
            pass = self.check_access(request, block, deployment, history).await?;
        }
        if !access.is_fresh(&pass) {
            return Err(Setback::own(Remedy::Retry, Cause::PassTooOld));
        }
        Ok(SendBefore::new(access.options.clock, pass.good_until()))
    }

    /// Checks whether the request may be decrypted now.
    async fn check_access(
        &self,
        request: &Request,
        block: BlockRef,
        deployment: &Deployment,
        history: &mut AccessHistory,
    ) -> Result<AccessPass, Setback> {
        let begun = Instant::now();
        let access = &self.decryptions.as_deref().ok_or_else(no_decryptions)?.access;
        let checking = access.check(request, block, deployment, history.bound_context);
        let check = checking.instrument(debug_span!("access")).await;
        let pass = history.checked(check, Instant::now()).map_err(|without| {
            let (remedy, error) = *without;
            Setback { is_own: error.is_own(), ..Setback::new(remedy, error) }
        })?;
        self.metrics.observe_room(Room::Access, begun.elapsed());
        Ok(pass)
    }

    /// Holds a request that another event of its transaction contradicts: one request has two events there,
    /// and whichever is read first stands for both only if they say the same. An event that other nodes
    /// deny contradicts nothing.
    async fn check_overloads(
        &self,
        request: &Request,
        deployment: &Deployment,
    ) -> Result<(), Setback> {
        if !deployment.emits(EventShape::Head) {
            return Ok(());
        }
        let (key, transaction) = (request.key, request.transaction);
        let limit = overloads::MOST_COMPARED + 1;
        let Ok(others) = self.ledger.events_of_same_transaction(key, transaction, limit).await
        else {
            // A failing journal ends the instance elsewhere.
            return Err(Setback::retry(Cause::Stopping));
        };
        if let Some(hold) = overloads::too_many(request, others.len()) {
            return Err(Setback::held(hold));
        }
        for event in others {
            let Ok(other) = abi::decode(request.key.source, &event) else { continue };
            if !overloads::disagree(request, &other) {
                continue;
            }
            match self.confirmation.ask_witnesses(&other, other.block, true).await {
                WitnessVerdict::Disputed { .. } | WitnessVerdict::NeverExisted => {}
                WitnessVerdict::OnlyNode
                | WitnessVerdict::TwoNodes
                | WitnessVerdict::OneNode
                | WitnessVerdict::NoNode => {
                    let detail = format!(
                        "transaction {} tells of this id in two events, of {} and of {}, that ask for \
                         different things: neither is asked",
                        request.transaction, request.shape, other.shape
                    );
                    return Err(Setback::held(Hold::new(HoldReason::EventsDisagree, detail)));
                }
            }
        }
        Ok(())
    }

    /// The deployment that the request is judged by. Waits while the contract is looked at again.
    async fn check_support(&self, request: &Request) -> Result<Deployment, Setback> {
        let decryptions = self.decryptions.as_deref().ok_or_else(no_decryptions)?;
        let Some(support) = decryptions.support.looked_at().await else {
            return Err(Setback::retry(Cause::Stopping));
        };
        served_by(request, &support).map_err(|hold| {
            // Nodes may have told of a deployment that is no more.
            self.confirmation.doubt_deployment();
            Setback::held(hold)
        })
    }

    /// Polls the Core until it answers.
    pub(super) async fn poll(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        history: &mut History,
    ) -> Result<Transition, Setback> {
        let extra_data = match &request.operation {
            Operation::PublicDecryption(_) | Operation::UserDecryption(_) => {
                ExtraDataMeaning::of(&self.check_support(request).await?)
            }
            Operation::Key(operation) => ExtraDataMeaning::of_key_operation(operation.extra_data()),
        };
        let context = context_of(request, Some(extra_data), history);
        // Who only gives its shares to an epoch gets nothing that is signed for it, and sends nothing.
        let in_epoch = self.part_in_epoch(request).await?;
        let is_checked = in_epoch.is_none_or(|found| found.part != Part::PreviousOnly);
        let signers = self.registered_signers(rooms, request, context).await?;
        let expected = Expected { extra_data, signers: &signers, is_checked };
        let patience = self.options.answer_timeout[request.kind()];
        let begun = Instant::now();
        let polling = rooms.core_of(request).poll_until_answered(
            request,
            expected,
            patience,
            self.options.retry_interval,
        );
        let polled = polling.instrument(debug_span!("kms_core_answer")).await;
        let polled = match polled {
            Ok(polled) => polled,
            Err(error) => {
                let expecting = ExpectedAnswer { context, expected };
                if let Some(setback) = self.explain_answer(rooms, request, expecting, &error).await
                {
                    return Err(setback);
                }
                if let CoreError::Held(hold @ Hold { reason: HoldReason::CoreFailed, .. }) = &error
                {
                    return match history.core.on_failed(hold.clone()) {
                        NextCall::Ask => Ok(Transition::BackToCore(Stage::Arrived, None)),
                        NextCall::Poll => Ok(Transition::BackToCore(Stage::Asked, None)),
                        NextCall::Hold(hold) => Err(Setback::held(hold)),
                    };
                }
                return Err(core_setback(rooms, &error).await);
            }
        };
        match polled {
            PollingEnd::Answer(_) if !is_checked => Ok(Transition::End(Outcome::NoAnswerDue)),
            PollingEnd::Answer(answer) => {
                self.metrics.observe_room(Room::CoreAnswer, begun.elapsed());
                Ok(Transition::Advance(Stage::Answered(answer.clone()), Step::Answered(answer)))
            }
            PollingEnd::Forgotten => match history.core.on_unknown(Instant::now()) {
                (NextCall::Poll, odd) => Ok(Transition::BackToCore(Stage::Asked, odd)),
                (NextCall::Hold(hold), _) => Err(Setback::held(hold)),
                (NextCall::Ask, odd) => {
                    if let Some(times) = self.should_log("", "forgotten") {
                        info!(
                            times,
                            "the KMS Core does not know the request any more: asking again"
                        );
                    } else {
                        debug!("the KMS Core does not know the request any more: asking again");
                    }
                    Ok(Transition::BackToCore(Stage::Arrived, odd))
                }
            },
            PollingEnd::TimedOut if request.kind().is_key_operation() => {
                info!(polled_for = ?patience, "the KMS Core still works on it");
                Ok(Transition::BackToCore(Stage::Asked, None))
            }
            PollingEnd::TimedOut => Err(Setback::no_answer(Some(patience))),
        }
    }

    /// Hands the answer to the lane, and follows its transaction until it is mined.
    pub(super) async fn submit(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        (stage, answer): (&Stage, &Answer),
        sending: &mut SubmissionProgress,
        history: &History,
    ) -> Result<Transition, Setback> {
        if let Stage::Answered(_) = stage {
            if !sending.is_under_way()
                && let Some(end) = self.aborted_before_sending(request).await?
            {
                return Ok(end);
            }
            self.compare_votes(rooms, request, answer).await?;
        }
        let room = rooms.submission_of(request).ok_or_else(no_decryptions)?;
        let span = debug_span!("gateway");
        let begun = sending.begun;
        let event = if let Stage::Submitted(_) = stage {
            room.follow(request, answer, sending).instrument(span).await
        } else {
            room.send(request, answer, sending).instrument(span).await
        };
        match event {
            Ok(SubmissionEvent::Broadcast { transaction }) => {
                debug!(%transaction, "transaction broadcast");
                Ok(Transition::Advance(
                    Stage::Submitted(answer.clone()),
                    Step::Submitted { transaction },
                ))
            }
            Ok(SubmissionEvent::Waiting(hold)) => Ok(Transition::Wait(hold)),
            Ok(SubmissionEvent::Returned { why }) => {
                let why = why.to_owned();
                Ok(Transition::Advance(Stage::Answered(answer.clone()), Step::Returned { why }))
            }
            Ok(SubmissionEvent::Ended(outcome)) => {
                self.metrics.observe_room(Room::Submission, begun.elapsed());
                self.after_submission(request, outcome).await.map(Transition::End)
            }
            Err(error) => {
                if !matches!(error, SubmissionError::Stopped) {
                    let returned = Step::Returned { why: error.to_string() };
                    // A failing journal ends the instance elsewhere.
                    if let Err(error) = self.ledger.note(request.key, returned).await {
                        debug!(%error, "could not note a step");
                    }
                }
                Box::pin(self.explain_rejection(rooms, (request, answer), history, error)).await
            }
        }
    }

    /// Decides what follows from a rejected answer, after checking where the request is on chain.
    async fn explain_rejection(
        &self,
        rooms: &AnswerStages<P>,
        (request, answer): (&Request, &Answer),
        history: &History,
        error: SubmissionError,
    ) -> Result<Transition, Setback> {
        if let SubmissionError::Held(Hold { reason: HoldReason::ContractRejected, .. }) = &error
            && let Some(hold) =
                kind_made(request, answer).and_then(representation::refused_silently)
        {
            return Err(Setback::held(hold));
        }
        if !error.is_contract_error() {
            return Err(Setback::of_submission(error));
        }
        match self.whereabouts(request).await {
            Ok(RequestLocation::Gone) => return Ok(Transition::End(Outcome::Orphaned)),
            Ok(RequestLocation::Unknown) => {
                return Err(Setback::own(Remedy::Retry, Cause::BlockLeftChain));
            }
            Ok(RequestLocation::In(_)) | Err(_) => {}
        }
        let SubmissionError::Rejected(rejection) = &error else {
            return Err(Setback::of_submission(error));
        };
        let known = self.deployment();
        if known.as_ref().is_some_and(|known| !known.raises(rejection)) {
            self.confirmation.doubt_deployment();
        }
        let meaning = match &request.operation {
            Operation::PublicDecryption(_) | Operation::UserDecryption(_) => {
                known.as_ref().map(ExtraDataMeaning::of)
            }
            Operation::Key(operation) => {
                Some(ExtraDataMeaning::of_key_operation(operation.extra_data()))
            }
        };
        if let (Some(meaning), true) = (meaning, known.is_some_and(|known| known.pins_context())) {
            let named = [request.extra_data(), &answer.signed().extra_data]
                .map(|extra_data| meaning.named_context(extra_data).context);
            if let Some(why) = blame::context_changed(rejection, named) {
                let said = self.confirmation.current_context_taken(request).await;
                return Err(blame::setback_of_context(why, error, said.ok(), history.held));
            }
        }
        let context = context_of(request, meaning, history);
        let registered = match self.signers_of_all_nodes(rooms, request, context).await {
            Ok(registered) => registered,
            Err(Setback { cause, .. }) => {
                debug!(%cause, "the registration cannot be read");
                Vec::new()
            }
        };
        let fault = blame::blame_for(
            rejection,
            rooms.core_of(request).signer_of(request, answer),
            &registered,
        );
        if fault == Blame::Content {
            // The block may contain another request instead.
            self.confirmation_of(request).reread_block(request);
        }
        Err(blame::setback(fault, error, request.block.number))
    }
}

/// The KMS context whose signers answer a request: the one that it names, or else the one that was current
/// when it was made. `None`: there are no contexts, or it is not known.
fn context_of(
    request: &Request,
    meaning: Option<ExtraDataMeaning>,
    history: &History,
) -> Option<U256> {
    let named = meaning.and_then(|meaning| meaning.named_context(request.extra_data()).context);
    named.or(history.access.bound_context)
}

/// The setback of a decryption where nothing can serve one.
fn no_decryptions() -> Setback {
    let detail = "on this chain key operations alone are served, and this asks for a decryption: see which \
                  contract is at kms_generation_address";
    Setback::held(Hold::new(HoldReason::UnsupportedEvent, detail))
}

/// If the Core answers others but not this request, the problem is this request's own.
pub(super) async fn core_setback<P>(rooms: &AnswerStages<P>, error: &CoreError) -> Setback {
    let unanswered = matches!(error, CoreError::Unreachable { .. });
    let own = unanswered && rooms.core.is_answering().await;
    Setback { is_own: own, ..Setback::new(error.remedy(), error.clone()) }
}

/// The deployment by which a request is judged, or why this version cannot answer it. The caller waits
/// for the new deployment to be read after an upgrade.
fn served_by(request: &Request, support: &DeploymentSupport) -> Result<Deployment, Hold> {
    let why = match support {
        DeploymentSupport::Served(deployment) if deployment.emits(request.shape) => {
            return Ok(deployment.clone());
        }
        DeploymentSupport::Served(deployment) => format!(
            "its event is one of {}, the contract is {deployment}; if it stays so, upgrade the connector",
            request.shape
        ),
        DeploymentSupport::Newer { version } => format!(
            "the contract is \"{version}\", newer than this version knows; upgrade the connector"
        ),
        DeploymentSupport::Upgraded { block } => {
            format!("the contract was upgraded in block {block} and is not read again yet")
        }
        DeploymentSupport::WentBack { told, known } => {
            let why = format!(
                "the contract is told to be {told}, and {known} has stood there: ask another gateway node. Only if \
                 you know from elsewhere that it was taken back, set minimum_generation = \"{}\"{}",
                told.generation.name(),
                if told.checks_access() { "" } else { ": nobody here checks access then" }
            );
            return Err(Hold::new(HoldReason::ContractWentBack, why));
        }
    };
    Err(Hold::new(HoldReason::UnsupportedGeneration, why))
}
