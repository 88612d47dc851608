//! The walk of one request: one `match` on its stage. An instance that only observes ends the walk in
//! the first arm. [`policy`] decides what follows from a setback; this module carries it out.

pub(super) mod policy;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, info, warn};

use self::policy::{
    FailedAttempt, GIVE_WAY_AFTER, History, WalkDecision,
    blame::{self, Blame},
    core_history::{NextCall, stage_to_resume},
    setback::{Cause, Setback},
};
use super::{
    AnswerStages, Flow, Mode, QueuedRequest, RequestLedger, Step,
    capacity::PermitHolder,
    ciphertexts::BucketRegistry,
    kms_core::{self, CoreError, PollResult, PollingEnd},
    submission::{PriorAnswer, SubmissionError, SubmissionEvent, SubmissionProgress},
    walk_queue::{Activity, AttendanceGuard},
};
use crate::flow::finality::rule::FinalHeight;
use crate::{
    chain::provider::{RpcError, TransactionSender},
    contracts::{
        abi,
        decryption::{DeploymentSupport, RequestLocation},
    },
    domain::{
        Address, Answer, Hold, HoldReason, LedgerError, Operation, Outcome, Remedy, Request,
        RequestKey, stage::Stage,
    },
    telemetry::{log_throttle::warn_rarely, metrics::Room},
};

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WalkEnd {
    Settled,
    Held,
    /// Left in the journal for the next start.
    Stopped,
}

/// The result of running a stage.
pub(super) enum Transition {
    Advance(Stage, Step),
    /// Call the Core again after a pause. The text names what was inconsistent in its answers, if anything.
    BackToCore(Stage, Option<&'static str>),
    /// The request stays at its stage and continues by itself once the cause is fixed.
    Wait(Hold),
    End(Outcome),
}

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// Processes one request from its current stage to its end.
    pub(super) async fn walk(
        &self,
        intake: QueuedRequest,
        holder: PermitHolder<'_>,
        stop: CancellationToken,
    ) -> Result<WalkEnd, LedgerError> {
        let QueuedRequest { request, recovered, attendance: _hand, .. } = intake;
        let key = request.key;
        let standing =
            if recovered { Box::pin(self.ledger.request_state(key)).await? } else { None };
        if recovered && standing.is_none() {
            // It was settled in the meantime.
            return Ok(WalkEnd::Settled);
        }
        let (forgotten, pause) =
            (self.may_be_answered_already(&request), self.options.retry_interval);
        let mut history = History::begin(standing.as_ref(), forgotten, pause);
        let mut stage = standing.map_or(Stage::Arrived, stage_to_resume);
        let mut sending = None;
        loop {
            let begun = Instant::now();
            let at = (&stage, &mut sending);
            let transition = self.next_transition(&request, at, &mut history, holder, &stop).await;
            let Some(transition) = transition else { return Ok(WalkEnd::Stopped) };
            history.visited(&stage);
            let setback = match transition {
                Ok(Transition::Advance(Stage::Answered(answer), _))
                    if history.was_rejected(&answer) =>
                {
                    Setback::own(Remedy::Retry, Cause::SameAnswer)
                }
                Ok(Transition::Advance(entered, noted)) => {
                    debug!(from = stage.as_str(), to = entered.as_str(), "door passed");
                    self.ledger.note(key, noted).await?;
                    history.advanced(&stage, &entered);
                    stage = entered;
                    continue;
                }
                Ok(Transition::BackToCore(to, odd)) => {
                    Box::pin(self.note_back_to_core(key, &stage, &to, odd, holder.attendance))
                        .await?;
                    stage = to;
                    let pause = sleep(history.pause_before_core(self.dice.roll()));
                    if stop.run_until_cancelled(pause).await.is_none() {
                        return Ok(WalkEnd::Stopped);
                    }
                    continue;
                }
                Ok(Transition::Wait(hold)) => {
                    Box::pin(self.note_waiting(key, hold)).await?;
                    continue;
                }
                Ok(Transition::End(end)) => return Box::pin(self.settle(&request, end)).await,
                Err(setback) => setback,
            };
            // The transaction was mined without effect, or no node accepted it.
            sending = None;
            if let Stage::Submitted(answer) = stage {
                stage = Stage::Answered(answer);
            }
            let setback = setback.without_better_answer(&stage, &history);
            let confirming = Box::pin(self.confirm(&request, setback, history.held));
            let setback = match stop.run_until_cancelled(confirming).await {
                None => return Ok(WalkEnd::Stopped),
                Some(Ok(setback)) => setback,
                Some(Err(gone)) => return Box::pin(self.settle(&request, gone)).await,
            };
            let (wanted, dice) = (holder.is_recalled(), self.dice.roll());
            let at = FailedAttempt { begun, now: Instant::now(), is_recalled: wanted, dice };
            let expiry = self.options.request_expiry;
            match policy::decide(&stage, &setback, &mut history, at, expiry) {
                WalkDecision::Refuse(refusal) => {
                    return Box::pin(self.settle(&request, Outcome::Refused(refusal))).await;
                }
                WalkDecision::Expire { worked } => {
                    self.note_work_time(key, worked).await?;
                    return Box::pin(self.settle(&request, Outcome::Expired)).await;
                }
                WalkDecision::Hold { hold, worked } => {
                    self.note_work_time(key, worked).await?;
                    return Box::pin(self.hold(key, &stage, history.held, hold)).await;
                }
                WalkDecision::GiveWay(hold) => {
                    return Box::pin(self.hold(key, &stage, history.held, hold)).await;
                }
                WalkDecision::AskForBetterAnswer => {
                    debug!("the KMS Core is asked for its answer again");
                    stage = Stage::Asked;
                }
                WalkDecision::Retry { after, is_new_cause: news } => {
                    let (code, why) = (setback.cause.code(), setback.cause.to_string());
                    self.log_failure(&stage, code, &why);
                    holder.attendance.set_retrying();
                    if news {
                        Box::pin(self.note_failure(key, &stage, why)).await?;
                    }
                    if stop.run_until_cancelled(sleep(after)).await.is_none() {
                        return Ok(WalkEnd::Stopped);
                    }
                }
            }
        }
    }

    /// A run whose journal is gone may have answered a request that was on chain before this start.
    fn may_be_answered_already(&self, request: &Request) -> bool {
        match &self.mode {
            Mode::Answer(rooms) => request.block.number <= rooms.maybe_answered_up_to,
            Mode::Observe { .. } => false,
        }
    }

    /// Runs the stage, after checking that no earlier run has answered the request without the journal's
    /// knowledge. A transaction that the journal does know of is checked by the submission stage.
    async fn next_transition(
        &self,
        request: &Request,
        (stage, sending): (&Stage, &mut Option<SubmissionProgress>),
        history: &mut History,
        holder: PermitHolder<'_>,
        stop: &CancellationToken,
    ) -> Option<Result<Transition, Setback>> {
        if let (Mode::Answer(rooms), PriorAnswer::MaybeForgotten) =
            (&self.mode, history.prior_answer)
            && matches!(stage, Stage::Arrived | Stage::Asked)
        {
            holder.attendance.set_activity(Activity::CheckingChain);
            let looking = Box::pin(rooms.submission.find_prior_answer(request));
            match stop.run_until_cancelled(looking).await? {
                Ok(Some(outcome)) => return Some(Ok(Transition::End(outcome))),
                Ok(None) => history.no_forgotten_answer(),
                Err(error) => return Some(Err(Setback::of_submission(error))),
            }
        }
        self.run_stage(request, (stage, sending), history, holder, stop).await
    }

    /// Runs the request's current stage. If the instance stops before the Core's answer is here, the
    /// request is left to the next start (`None`). After that it is finished first, unless it waits for an
    /// operator or the whole task is aborted.
    ///
    /// The future of each stage is boxed: thousands of walks wait at the same time, each in one stage, and
    /// should not reserve memory for the largest of them.
    async fn run_stage(
        &self,
        request: &Request,
        (stage, sending): (&Stage, &mut Option<SubmissionProgress>),
        history: &mut History,
        holder: PermitHolder<'_>,
        stop: &CancellationToken,
    ) -> Option<Result<Transition, Setback>> {
        match (&self.mode, stage) {
            (Mode::Observe { .. }, _) | (Mode::Answer(_), Stage::Arrived) => {
                holder.attendance.set_activity(Activity::CheckingChain);
                let asking = async {
                    match self.wait_until_final(request).await? {
                        Some(gone) => Ok(Transition::End(gone)),
                        None => self.ask(request, history, holder.attendance).await,
                    }
                };
                stop.run_until_cancelled(Box::pin(asking)).await
            }
            (Mode::Answer(rooms), Stage::Asked) => {
                holder.attendance.set_activity(Activity::Polling);
                let polling = async {
                    tokio::select! {
                        biased;
                        door = self.poll(rooms, request, history) => door,
                        () = holder.wait_recalled_after(GIVE_WAY_AFTER) => Err(Setback::no_answer(None)),
                    }
                };
                stop.run_until_cancelled(Box::pin(polling)).await
            }
            (Mode::Answer(rooms), Stage::Answered(answer) | Stage::Submitted(answer)) => {
                holder.attendance.set_activity(Activity::Submitting);
                let sending =
                    sending.get_or_insert_with(|| SubmissionProgress::begin(history.prior_answer));
                // The lane continues with what was recorded, at the latest at the next start.
                let may_stop = sending.is_waiting();
                let bringing = Box::pin(self.submit(rooms, request, (stage, answer), sending));
                if may_stop {
                    stop.run_until_cancelled(bringing).await
                } else {
                    Some(bringing.await)
                }
            }
        }
    }

    /// Logs a failed attempt. Requests that fail for the same reason share one throttle.
    fn log_failure(&self, stage: &Stage, code: &'static str, why: &str) {
        let stage = stage.as_str();
        let repeats = self.should_log(stage, code);
        warn_rarely!(repeats, "attempt failed, trying again", stage, why);
    }

    async fn note_back_to_core(
        &self,
        key: RequestKey,
        from: &Stage,
        to: &Stage,
        odd: Option<&'static str>,
        attendance: &AttendanceGuard,
    ) -> Result<(), LedgerError> {
        if let Some(why) = odd {
            attendance.set_retrying();
            self.log_failure(from, "core_contradicts_itself", why);
            self.note_failure(key, from, why.to_owned()).await?;
        }
        if *to == Stage::Arrived {
            self.ledger.note(key, Step::Forgotten).await?;
        }
        Ok(())
    }

    async fn note_failure(
        &self,
        key: RequestKey,
        stage: &Stage,
        why: String,
    ) -> Result<(), LedgerError> {
        self.metrics.attempt_failed(stage.as_str());
        self.ledger.note(key, Step::Failed { why }).await
    }

    async fn note_work_time(&self, key: RequestKey, worked: Duration) -> Result<(), LedgerError> {
        if worked.is_zero() {
            return Ok(());
        }
        self.ledger.note(key, Step::WorkTime(worked)).await
    }

    /// Records that the request waits at its stage, keeping its permit, until the cause is fixed.
    async fn note_waiting(&self, key: RequestKey, hold: Hold) -> Result<(), LedgerError> {
        let (reason, detail) = (hold.reason.as_str(), &hold.detail);
        let repeats = self.should_log("waits", reason);
        warn_rarely!(repeats, "request waits", reason, detail);
        self.metrics.held(hold.reason);
        self.ledger.note(key, Step::Held(hold)).await
    }

    /// Sets the request aside. Logged when the reason is new, not at each failed retry.
    async fn hold(
        &self,
        key: RequestKey,
        stage: &Stage,
        held_before: Option<HoldReason>,
        hold: Hold,
    ) -> Result<WalkEnd, LedgerError> {
        let (stage, reason, detail) = (stage.as_str(), hold.reason.as_str(), &hold.detail);
        if held_before == Some(hold.reason) {
            debug!(stage, reason, detail, "request still held");
        } else {
            let repeats = self.should_log("held", reason);
            warn_rarely!(repeats, "request held", stage, reason, detail);
        }
        self.metrics.held(hold.reason);
        self.ledger.note(key, Step::Held(hold)).await?;
        Ok(WalkEnd::Held)
    }

    async fn settle(&self, request: &Request, outcome: Outcome) -> Result<WalkEnd, LedgerError> {
        match &outcome {
            Outcome::Accepted { transaction, block } => {
                info!(outcome = outcome.as_str(), %transaction, block = block.number, "request settled");
            }
            Outcome::Refused(refusal) => {
                warn!(outcome = outcome.as_str(), why = %refusal, "request settled");
            }
            Outcome::AlreadyAnswered | Outcome::Expired | Outcome::Orphaned | Outcome::Observed => {
                info!(outcome = outcome.as_str(), "request settled");
            }
        }
        if let (Mode::Observe { observed }, Outcome::Observed) = (&self.mode, &outcome) {
            observed.send_modify(|count| *count += 1);
        }
        if outcome == Outcome::Orphaned {
            self.confirmation.report_orphan(request);
        }
        self.ledger.note(request.key, Step::Settled(outcome)).await?;
        Ok(WalkEnd::Settled)
    }

    /// Waits until the request's block is final by the operator's rule, wherever the chain has it now.
    /// Returns an outcome if the request is not on chain any more.
    async fn wait_until_final(&self, request: &Request) -> Result<Option<Outcome>, Setback> {
        let mut final_height = self.final_height.clone();
        if *final_height.borrow_and_update() == FinalHeight::EVERYTHING {
            // The contract itself reports this when the answer is submitted.
            return Ok(None);
        }
        let mut block = request.block;
        loop {
            let kind = request.kind();
            if final_height.wait_for(|line| line.covers(kind, block.number)).await.is_err() {
                return Err(Setback::retry(Cause::Stopping));
            }
            let found = self.whereabouts(request).await;
            match found.map_err(Setback::retry)? {
                RequestLocation::In(now) if now.number <= block.number => return Ok(None),
                RequestLocation::In(now) => block = now,
                RequestLocation::Unknown => {
                    return Err(Setback::own(Remedy::Retry, Cause::BlockLeftChain));
                }
                RequestLocation::Gone => return Ok(Some(Outcome::Orphaned)),
            }
        }
    }

    /// Returns where the chain has the request now. The journal knows other requests with the same id.
    pub(super) async fn whereabouts(&self, request: &Request) -> Result<RequestLocation, RpcError> {
        let found = self.confirmation.whereabouts(request, &[]).await?;
        if found != RequestLocation::Unknown {
            return Ok(found);
        }
        match self.ledger.events_of_same_id(request.key).await {
            Ok(namesakes) if !namesakes.is_empty() => {
                self.confirmation.whereabouts(request, &namesakes).await
            }
            Ok(_) | Err(_) => Ok(found),
        }
    }

    /// Fetches the ciphertexts and asks the Core; the bytes are dropped once the Core has them. At a second
    /// ask (`again`) the request may have left the chain and its id may belong to another request: so it is
    /// asked only if it is still on chain. An observing instance ends the request before the ask.
    async fn ask(
        &self,
        request: &Request,
        history: &mut History,
        attendance: &AttendanceGuard,
    ) -> Result<Transition, Setback> {
        self.check_support(request).await?;
        kms_core::wire::check(request).map_err(|error| Setback::own(error.remedy(), error))?;
        let turn = match &self.mode {
            Mode::Answer(rooms) => {
                attendance.set_activity(Activity::WaitingForCore);
                let turn = rooms.core.acquire_ask_permit().await;
                let setback = |error: CoreError| Setback::new(error.remedy(), error);
                Some((rooms, turn.map_err(setback)?))
            }
            Mode::Observe { .. } => None,
        };
        let (mut block, again) = (request.block, history.maybe_asked);
        attendance.set_activity(Activity::CheckingChain);
        if again {
            let found = self.whereabouts(request).await;
            match found.map_err(Setback::retry)? {
                RequestLocation::In(now) => block = now,
                RequestLocation::Unknown => {
                    return Err(Setback::own(Remedy::Retry, Cause::BlockLeftChain));
                }
                RequestLocation::Gone => return Ok(Transition::End(Outcome::Orphaned)),
            }
        }
        let (refusals, doubted) = (&mut history.refusals, &mut history.doubted);
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
            let fetching = self.ciphertexts.fetch(request.materials());
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
        let (fetched, witnessed) = tokio::try_join!(fetching, witnessing)?;
        if let Some(end) = witnessed {
            return Ok(Transition::End(end));
        }
        // The contract may have been upgraded in the meantime.
        self.check_support(request).await?;
        let Some((rooms, turn)) = turn else { return Ok(Transition::End(Outcome::Observed)) };
        let begun = Instant::now();
        attendance.set_activity(Activity::Asking);
        let asking = rooms.core.ask(turn, request, fetched.ciphertexts);
        match asking.instrument(debug_span!("kms_core_ask")).await {
            Ok(asked) => {
                history.core.on_asked(asked);
                self.metrics.observe_room(Room::CoreAsk, begun.elapsed());
                Ok(Transition::Advance(Stage::Asked, Step::Asked))
            }
            Err(error) => {
                let setback = core_setback(rooms, &error).await;
                if matches!(error, CoreError::Unreachable { .. }) && setback.is_own {
                    // The Core may have the request: a poll shows that, and needs no ciphertexts.
                    history.core.on_cut_off();
                    return Ok(Transition::BackToCore(
                        Stage::Asked,
                        Some("the KMS Core broke the ask off"),
                    ));
                }
                Err(setback)
            }
        }
    }

    async fn check_support(&self, request: &Request) -> Result<(), Setback> {
        let mut support = self.support.clone();
        let known = support
            .wait_for(|support| !matches!(support, DeploymentSupport::Upgraded { .. }))
            .await;
        let Ok(support) = known else {
            return Err(Setback::retry(Cause::Stopping));
        };
        match unsupported(request, &support) {
            Some(hold) => Err(Setback::held(hold)),
            None => Ok(()),
        }
    }

    /// Polls the Core until it answers.
    async fn poll(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        history: &mut History,
    ) -> Result<Transition, Setback> {
        let signers = rooms.gateway_config.core_signers().await.map_err(Setback::retry)?;
        let patience = self.options.answer_timeout[request.kind()];
        let begun = Instant::now();
        let polling = rooms.core.poll_until_answered(
            request,
            &signers,
            patience,
            self.options.retry_interval,
        );
        let polled = polling.instrument(debug_span!("kms_core_answer")).await;
        let polled = match polled {
            Ok(polled) => polled,
            Err(error) => {
                let remedy = error.remedy();
                if let Remedy::Hold(Hold { reason: HoldReason::SignerMismatch, .. }) = &remedy
                    && rooms
                        .gateway_config
                        .core_signers_of_all_nodes()
                        .await
                        .is_ok_and(|now| now != signers)
                {
                    return Err(Setback::retry(Cause::RegistrationChanged));
                }
                if let Remedy::Hold(hold) = &remedy
                    && matches!(hold.reason, HoldReason::SignerMismatch | HoldReason::InvalidAnswer)
                    && self.answers_other_request_of_same_id(rooms, request, &signers).await
                {
                    let hold = Hold::new(
                        HoldReason::StaleAnswer,
                        "the KMS Core still has the answer to another request of this id, which \
                         has left the chain; it goes on once the Core has forgotten that",
                    );
                    return Err(Setback::held(hold));
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
            PollingEnd::TimedOut => Err(Setback::no_answer(Some(patience))),
        }
    }

    /// Returns whether the Core's answer belongs to a request with the same id and other content: the Core
    /// knows requests by id alone, but its signature covers the content.
    async fn answers_other_request_of_same_id(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        signers: &[Address],
    ) -> bool {
        let namesakes = self.ledger.events_of_same_id(request.key).await.unwrap_or_default();
        for event in namesakes {
            let Ok(other) = abi::decode(request.key.source, &event) else { continue };
            if other.kind() == request.kind()
                && matches!(rooms.core.poll(&other, signers).await, Ok(PollResult::Answer(_)))
            {
                return true;
            }
        }
        false
    }

    /// Hands the answer to the lane, and follows its transaction until it is mined.
    async fn submit(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        (stage, answer): (&Stage, &Answer),
        sending: &mut SubmissionProgress,
    ) -> Result<Transition, Setback> {
        let (room, span) = (&rooms.submission, debug_span!("gateway"));
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
                Ok(Transition::End(outcome))
            }
            Err(error) => {
                if !matches!(error, SubmissionError::Stopped) {
                    let returned = Step::Returned { why: error.to_string() };
                    // A failing journal ends the instance elsewhere.
                    if let Err(error) = self.ledger.note(request.key, returned).await {
                        debug!(%error, "could not note a step");
                    }
                }
                Box::pin(self.explain_rejection(rooms, request, answer, error)).await
            }
        }
    }

    /// Decides what follows from a rejected answer, after checking where the request is on chain.
    async fn explain_rejection(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        answer: &Answer,
        error: SubmissionError,
    ) -> Result<Transition, Setback> {
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
        let registered = match rooms.gateway_config.core_signers_of_all_nodes().await {
            Ok(registered) => registered,
            Err(unknown) => {
                debug!(%unknown, "the registry cannot be asked who is registered");
                Vec::new()
            }
        };
        let fault = blame::blame_for(rejection, rooms.core.signer_of(request, answer), &registered);
        if fault == Blame::Content {
            // The block may contain another request instead.
            self.confirmation.reread_block(request);
        }
        Err(blame::setback(fault, error, request.block.number))
    }
}

/// If the Core answers others but not this request, the problem is this request's own.
async fn core_setback<P>(rooms: &AnswerStages<P>, error: &CoreError) -> Setback {
    let unanswered = matches!(error, CoreError::Unreachable { .. });
    let own = unanswered && rooms.core.is_answering().await;
    Setback { is_own: own, ..Setback::new(error.remedy(), error.clone()) }
}

/// Returns why this version cannot answer a request of this contract. The caller waits for the new
/// deployment to be read after an upgrade.
fn unsupported(request: &Request, support: &DeploymentSupport) -> Option<Hold> {
    let why = match (&request.operation, support) {
        (Operation::Unsupported { event, .. }, _) => format!(
            "{event} is an event of {}, which this version cannot serve; upgrade the connector",
            request.shape
        ),
        (_, DeploymentSupport::FromG12 { version }) => format!(
            "the contract is \"{version}\", from G12 on, where access is checked on the host \
             chain; this version cannot do that; upgrade the connector"
        ),
        (_, DeploymentSupport::Served | DeploymentSupport::Upgraded { .. }) => return None,
    };
    Some(Hold::new(HoldReason::UnsupportedGeneration, why))
}
