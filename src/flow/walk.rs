//! The walk of one request: one `match` on its stage. An instance that only observes ends the walk in
//! the first arm. [`policy`] decides what follows from a setback; this module carries it out.

pub(super) mod policy;
mod stages;
mod key_operations;
mod key_votes;
mod lifecycle;
mod registration;
mod foreign_answer;
mod notes;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::policy::{
    FailedAttempt, GIVE_WAY_AFTER, History, WalkDecision,
    core_history::stage_to_resume,
    setback::{Cause, Setback},
};
use super::{
    AnswerStages, Flow, KeyManagement, KeyRooms, Mode, QueuedRequest, RequestLedger, RequestState,
    Step,
    capacity::PermitHolder,
    ciphertexts::BucketRegistry,
    finality::rule::FinalHeight,
    submission::{PriorAnswer, Submission, SubmissionProgress},
    walk_queue::{Activity, AttendanceGuard},
};
use crate::{
    chain::{rpc_error::RpcError, sender::TransactionSender},
    contracts::decryption::RequestLocation,
    domain::{
        BlockRef, Hold, HoldReason, LedgerError, Operation, Outcome, Remedy, Request, stage::Stage,
    },
};

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WalkEnd {
    Settled,
    Held,
    /// The chain has it in this block now, which is not final yet: it waits for that, without a permit.
    NotFinal(BlockRef),
    /// Held, and after this time the user's signature is valid.
    NotYetValid {
        after: Duration,
    },
    /// Left in the journal for the next start.
    Stopped,
}

impl WalkEnd {
    fn held(valid_after: Option<Duration>) -> Self {
        valid_after.map_or(Self::Held, |after| Self::NotYetValid { after })
    }
}

/// The result of running a stage.
pub(super) enum Transition {
    Advance(Stage, Step),
    /// Call the Core again after a pause. The text names what was inconsistent in its answers, if anything.
    BackToCore(Stage, Option<&'static str>),
    /// The request stays at its stage and continues by itself once the cause is fixed.
    Wait(Hold),
    /// Back to the gate ([`WalkEnd::NotFinal`]).
    NotFinal(BlockRef),
    End(Outcome),
}

/// What serves a key operation.
pub(super) struct KeyStages<'a, P> {
    pub rooms: &'a AnswerStages<P>,
    pub keys: &'a KeyManagement<P>,
    /// Of the contract that asks for it.
    pub own: &'a KeyRooms<P>,
}

impl<P> Clone for KeyStages<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for KeyStages<'_, P> {}

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// Processes one request from its current stage to its end.
    pub(super) async fn walk(
        &self,
        intake: QueuedRequest,
        holder: PermitHolder<'_>,
        stop: CancellationToken,
    ) -> Result<WalkEnd, LedgerError> {
        let QueuedRequest { mut request, recovered, attendance: _hand, .. } = intake;
        let key = request.key;
        let standing =
            if recovered { Box::pin(self.ledger.request_state(key)).await? } else { None };
        if recovered && standing.is_none() {
            // It was settled in the meantime.
            return Ok(WalkEnd::Settled);
        }
        let mut history = self.begin_history(&request, standing.as_ref());
        let mut stage = standing.map_or(Stage::Arrived, stage_to_resume);
        let mut sending = None;
        loop {
            let begun = Instant::now();
            let at = (&stage, &mut sending);
            let transition = self.next_transition(&request, at, &mut history, holder, &stop).await;
            let Some(transition) = transition else { return Ok(WalkEnd::Stopped) };
            let transition = self.follow(&mut request, transition).await;
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
                Ok(Transition::NotFinal(block)) => return Ok(WalkEnd::NotFinal(block)),
                Ok(Transition::End(end)) => return Box::pin(self.settle(&request, end)).await,
                Err(setback) => setback,
            };
            // The transaction was mined without effect, or no node accepted it.
            sending = None;
            if let Stage::Submitted(answer) = stage {
                stage = Stage::Answered(answer);
            }
            let setback = setback.without_better_answer(&stage, &history);
            let confirming = Box::pin(self.confirm_or_follow(&mut request, setback, history.held));
            let setback = match stop.run_until_cancelled(confirming).await {
                None => return Ok(WalkEnd::Stopped),
                Some(Ok(setback)) => setback,
                Some(Err(gone)) => return Box::pin(self.settle(&request, gone)).await,
            };
            let (wanted, dice) = (holder.is_recalled(), self.dice.roll());
            let at = FailedAttempt { begun, now: Instant::now(), is_recalled: wanted, dice };
            let expiry = self.expiry_of(&request);
            let decision = policy::decide(&stage, &setback, &mut history, at, expiry);
            self.note_decided(key, &decision, &mut history.access).await?;
            match decision {
                WalkDecision::Refuse(refusal) => {
                    return Box::pin(self.settle(&request, Outcome::Refused(refusal))).await;
                }
                WalkDecision::Expire { worked } => {
                    self.note_work_time(key, worked).await?;
                    return Box::pin(self.settle(&request, Outcome::Expired)).await;
                }
                WalkDecision::Hold { hold, worked, valid_after } => {
                    self.note_work_time(key, worked).await?;
                    Box::pin(self.hold(key, &stage, history.held, hold)).await?;
                    return Ok(WalkEnd::held(valid_after));
                }
                WalkDecision::GiveWay { hold, valid_after } => {
                    Box::pin(self.hold(key, &stage, history.held, hold)).await?;
                    return Ok(WalkEnd::held(valid_after));
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

    fn begin_history(&self, request: &Request, standing: Option<&RequestState>) -> History {
        let (forgotten, pause) =
            (self.may_be_answered_already(request), self.options.retry_interval);
        let mut history = History::begin(standing, forgotten, pause);
        if request.kind().is_key_operation() {
            history.simulate_first();
        }
        history
    }

    /// Working time after which the request ends. A key operation takes as long as it takes.
    fn expiry_of(&self, request: &Request) -> Duration {
        let expires = !request.kind().is_key_operation();
        if expires { self.options.request_expiry } else { Duration::MAX }
    }

    /// Asks the Core for what the request asks for.
    async fn ask_stage(
        &self,
        request: &Request,
        history: &mut History,
        attendance: &AttendanceGuard,
    ) -> Result<Transition, Setback> {
        match &request.operation {
            Operation::PublicDecryption(_) | Operation::UserDecryption(_) => {
                self.ask(request, history, attendance).await
            }
            Operation::Key(operation) => {
                self.ask_key_operation(request, operation, history, attendance).await
            }
        }
    }

    /// Polls the Core until it answers.
    async fn poll_stage(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        history: &mut History,
    ) -> Result<Transition, Setback> {
        match &request.operation {
            Operation::PublicDecryption(_) | Operation::UserDecryption(_) => {
                self.poll(rooms, request, history).await
            }
            Operation::Key(operation) => {
                self.poll_key_operation(rooms, (request, operation), history).await
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
            && let Some(submission) = rooms.submission_of(request)
        {
            holder.attendance.set_activity(Activity::CheckingChain);
            let looking = Box::pin(submission.find_prior_answer(request));
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
        if request.kind().is_key_operation() && self.key_stages(request).is_none() {
            return Some(Err(key_operations::not_configured(request)));
        }
        match (&self.mode, stage) {
            (Mode::Observe { .. }, _) | (Mode::Answer(_), Stage::Arrived) => {
                holder.attendance.set_activity(Activity::CheckingChain);
                let asking = async {
                    match self.check_final(request).await? {
                        Some(instead) => Ok(instead),
                        None => self.ask_stage(request, history, holder.attendance).await,
                    }
                };
                stop.run_until_cancelled(Box::pin(asking)).await
            }
            (Mode::Answer(rooms), Stage::Asked) => {
                holder.attendance.set_activity(Activity::Polling);
                let polling = async {
                    tokio::select! {
                        biased;
                        door = self.poll_stage(rooms, request, history) => door,
                        () = holder.wait_recalled_after(GIVE_WAY_AFTER) => Err(Setback::no_answer(None)),
                    }
                };
                stop.run_until_cancelled(Box::pin(polling)).await
            }
            (Mode::Answer(rooms), Stage::Answered(answer) | Stage::Submitted(answer)) => {
                holder.attendance.set_activity(Activity::Submitting);
                let sending =
                    sending.get_or_insert_with(|| SubmissionProgress::begin(history.prior_answer));
                // The lane continues with what was recorded, at the latest at the next start. An end of the instance
                // waits for no depth.
                let is_sent = matches!(stage, Stage::Submitted(_));
                let submission = rooms.submission_of(request);
                let waits_for_depth =
                    is_sent && submission.is_some_and(Submission::waits_for_depth);
                let may_stop = sending.is_waiting() || waits_for_depth;
                let bringing =
                    Box::pin(self.submit(rooms, request, (stage, answer), sending, history));
                if may_stop {
                    stop.run_until_cancelled(bringing).await
                } else {
                    Some(bringing.await)
                }
            }
        }
    }

    /// Checks that the chain still has the request, in a final block. `None`: it has. The request waited
    /// for its block at the gate; since then it may have moved to a higher one, or have left the chain.
    async fn check_final(&self, request: &Request) -> Result<Option<Transition>, Setback> {
        if *self.final_height.borrow() == FinalHeight::EVERYTHING {
            // The contract itself reports this when the answer is submitted.
            return Ok(None);
        }
        match self.whereabouts(request).await.map_err(Setback::retry)? {
            RequestLocation::In(now) => {
                let is_final = self.final_height.borrow().covers(request.kind(), now.number);
                Ok((!is_final).then_some(Transition::NotFinal(now)))
            }
            RequestLocation::Unknown => Err(Setback::own(Remedy::Retry, Cause::BlockLeftChain)),
            RequestLocation::Gone => Ok(Some(Transition::End(Outcome::Orphaned))),
        }
    }

    /// A request that the chain does not have where this walk knows it goes on where it was read last.
    async fn follow(
        &self,
        request: &mut Request,
        found: Result<Transition, Setback>,
    ) -> Result<Transition, Setback> {
        let is_lost = match &found {
            Ok(Transition::End(Outcome::Orphaned)) => true,
            Err(setback) => matches!(setback.cause, Cause::BlockLeftChain),
            Ok(_) => false,
        };
        if is_lost && self.has_moved(request).await {
            return Err(Setback::own(Remedy::Retry, Cause::BlockLeftChain));
        }
        found
    }

    /// [`Self::confirm`], and the same of a request that would end as gone.
    async fn confirm_or_follow(
        &self,
        request: &mut Request,
        setback: Setback,
        before: Option<HoldReason>,
    ) -> Result<Setback, Outcome> {
        match self.confirm(request, setback, before).await {
            Err(Outcome::Orphaned) if self.has_moved(request).await => {
                Ok(Setback::own(Remedy::Retry, Cause::BlockLeftChain))
            }
            confirmed => confirmed,
        }
    }

    /// Whether the request was read in another block or transaction since: there it is from now on. After a
    /// reorganisation its event may be that of another transaction: a key is asked for by whichever vote on its
    /// preparation is the last one needed.
    async fn has_moved(&self, request: &mut Request) -> bool {
        // Without an answer of the journal it is where it was.
        let read = Box::pin(self.ledger.event_of(request.key)).await;
        let Some(event) = read.ok().flatten() else { return false };
        let is_same = event.block == request.block && event.transaction == request.transaction;
        let moved = self.confirmation_of(request).decode(&event);
        match moved.filter(|moved| !is_same && moved.key == request.key) {
            Some(moved) => *request = moved,
            None => return false,
        }
        true
    }

    /// Returns where the chain has the request now. The journal knows other requests with the same id.
    pub(super) async fn whereabouts(&self, request: &Request) -> Result<RequestLocation, RpcError> {
        let found = self.confirmation_of(request).whereabouts(request, &[]).await?;
        if found != RequestLocation::Unknown {
            return Ok(found);
        }
        match self.ledger.events_of_same_id(request.key).await {
            Ok(namesakes) if !namesakes.is_empty() => {
                self.confirmation_of(request).whereabouts(request, &namesakes).await
            }
            Ok(_) | Err(_) => Ok(found),
        }
    }
}
