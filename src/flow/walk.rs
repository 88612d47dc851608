//! The walk of one request: one `match` on its stage, each arm a room. Where only observed it is the
//! first arm's, and ends in it. What follows from a setback is decided by [`policy`], and done here.

pub(super) mod policy;

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, info, warn};

use self::policy::{
    GIVE_WAY_AFTER, History, Moment, Then,
    blame::{self, Fault},
    dealings::{Next, resume},
    setback::{Cause, Setback},
};
use super::{
    Flow, Intake, Mode, RequestLedger, Rooms, Step,
    capacity::Seat,
    ciphertexts::Buckets,
    depth::Line,
    intake::{Doing, Hand},
    kms_core::{self, CoreError, Ending, Poll},
    submission::{Before, Heard, Sending, SubmissionError},
};
use crate::{
    domain::{
        Address, Answer, Hold, HoldReason, LedgerError, Operation, Outcome, Remedy, Request,
        RequestKey, stage::Stage,
    },
    gateway::{
        abi,
        decryption::{Support, Whereabouts},
        provider::{RpcError, TransactionSender},
    },
    metrics::Room,
    repeats::warn_rarely,
};

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Settled,
    Held,
    /// Left in the journal for the next start.
    Stopped,
}

/// Where a stage leads.
pub(super) enum Door {
    To(Stage, Step),
    /// To the Core once more, after a pause, and what is odd in what it said.
    Back(Stage, Option<&'static str>),
    /// It stays where it is, and goes on by itself once somebody has fixed this.
    Waits(Hold),
    Out(Outcome),
}

impl<P: TransactionSender, B: Buckets, L: RequestLedger> Flow<P, B, L> {
    /// One request, from where it stands to its end.
    pub(super) async fn walk(
        &self,
        intake: Intake,
        seat: Seat<'_>,
        stop: CancellationToken,
    ) -> Result<Ended, LedgerError> {
        let Intake { request, recovered, hand: _hand, .. } = intake;
        let key = request.key;
        let standing = if recovered { Box::pin(self.ledger.standing(key)).await? } else { None };
        if recovered && standing.is_none() {
            // Settled meanwhile: nothing is left to do.
            return Ok(Ended::Settled);
        }
        let (forgotten, pause) = (self.is_forgotten(&request), self.options.retry_interval);
        let mut history = History::begin(standing.as_ref(), forgotten, pause);
        let mut stage = standing.map_or(Stage::Arrived, resume);
        let mut sending = None;
        loop {
            let begun = Instant::now();
            let at = (&stage, &mut sending);
            let door = self.step(&request, at, &mut history, seat, &stop).await;
            let Some(door) = door else { return Ok(Ended::Stopped) };
            history.was_at(&stage);
            let setback = match door {
                Ok(Door::To(Stage::Answered(answer), _)) if history.was_rejected(&answer) => {
                    Setback::own(Remedy::Retry, Cause::SameAnswer)
                }
                Ok(Door::To(entered, noted)) => {
                    debug!(from = stage.as_str(), to = entered.as_str(), "door passed");
                    self.ledger.note(key, noted).await?;
                    history.entered(&stage, &entered);
                    stage = entered;
                    continue;
                }
                Ok(Door::Back(to, odd)) => {
                    Box::pin(self.go_back(key, &stage, &to, odd, seat.hand)).await?;
                    stage = to;
                    let pause = sleep(history.went_back(self.dice.roll()));
                    if stop.run_until_cancelled(pause).await.is_none() {
                        return Ok(Ended::Stopped);
                    }
                    continue;
                }
                Ok(Door::Waits(hold)) => {
                    Box::pin(self.wait(key, hold)).await?;
                    continue;
                }
                Ok(Door::Out(end)) => return Box::pin(self.settle(&request, end)).await,
                Err(setback) => setback,
            };
            // Whatever was sent is mined and brought nothing, or was never taken.
            sending = None;
            if let Stage::Submitted(answer) = stage {
                stage = Stage::Answered(answer);
            }
            let setback = setback.without_better_answer(&stage, &history);
            let confirming = Box::pin(self.confirm(&request, setback, history.held));
            let setback = match stop.run_until_cancelled(confirming).await {
                None => return Ok(Ended::Stopped),
                Some(Ok(setback)) => setback,
                Some(Err(gone)) => return Box::pin(self.settle(&request, gone)).await,
            };
            let (wanted, dice) = (seat.is_wanted(), self.dice.roll());
            let at = Moment { begun, now: Instant::now(), wanted, dice };
            let expiry = self.options.request_expiry;
            match policy::decide(&stage, &setback, &mut history, at, expiry) {
                Then::Refuse(refusal) => {
                    return Box::pin(self.settle(&request, Outcome::Refused(refusal))).await;
                }
                Then::Expire { worked } => {
                    self.note_work(key, worked).await?;
                    return Box::pin(self.settle(&request, Outcome::Expired)).await;
                }
                Then::Hold { hold, worked } => {
                    self.note_work(key, worked).await?;
                    return Box::pin(self.hold(key, &stage, history.held, hold)).await;
                }
                Then::GiveWay(hold) => {
                    return Box::pin(self.hold(key, &stage, history.held, hold)).await;
                }
                Then::AskForAnother => {
                    debug!("the KMS Core is asked for its answer again");
                    stage = Stage::Asked;
                }
                Then::Retry { after, news } => {
                    let (code, why) = (setback.cause.code(), setback.cause.to_string());
                    self.say_failed(&stage, code, &why);
                    seat.hand.failed();
                    if news {
                        Box::pin(self.note_failure(key, &stage, why)).await?;
                    }
                    if stop.run_until_cancelled(sleep(after)).await.is_none() {
                        return Ok(Ended::Stopped);
                    }
                }
            }
        }
    }

    /// A request that was on chain before this start may have been answered by a run whose journal is
    /// gone.
    fn is_forgotten(&self, request: &Request) -> bool {
        match &self.mode {
            Mode::Answer(rooms) => request.block.number <= rooms.maybe_answered_up_to,
            Mode::Observe { .. } => false,
        }
    }

    /// [`Self::enter`], once nobody can have answered the request before without the journal's knowing.
    /// What was sent by its own account is looked at by the room that sends.
    async fn step(
        &self,
        request: &Request,
        (stage, sending): (&Stage, &mut Option<Sending>),
        history: &mut History,
        seat: Seat<'_>,
        stop: &CancellationToken,
    ) -> Option<Result<Door, Setback>> {
        if let (Mode::Answer(rooms), Before::MaybeForgotten) = (&self.mode, history.before)
            && matches!(stage, Stage::Arrived | Stage::Asked)
        {
            seat.hand.does(Doing::LookingBack);
            let looking = Box::pin(rooms.submission.earlier_answer(request));
            match stop.run_until_cancelled(looking).await? {
                Ok(Some(outcome)) => return Some(Ok(Door::Out(outcome))),
                Ok(None) => history.is_unanswered(),
                Err(error) => return Some(Err(Setback::of(error))),
            }
        }
        self.enter(request, (stage, sending), history, seat, stop).await
    }

    /// The room of this stage. Before the answer is in hand a stop leaves the request to the next
    /// start (`None`); after that it is finished, unless it waits for somebody to mend something, or
    /// the whole task is aborted.
    ///
    /// Each room has its state in a box of its own: thousands of walks wait, each in one room, and
    /// need not have room for all of them.
    async fn enter(
        &self,
        request: &Request,
        (stage, sending): (&Stage, &mut Option<Sending>),
        history: &mut History,
        seat: Seat<'_>,
        stop: &CancellationToken,
    ) -> Option<Result<Door, Setback>> {
        match (&self.mode, stage) {
            (Mode::Observe { .. }, _) | (Mode::Answer(_), Stage::Arrived) => {
                seat.hand.does(Doing::LookingBack);
                let asking = async {
                    match self.settled_in_chain(request).await? {
                        Some(gone) => Ok(Door::Out(gone)),
                        None => self.ask(request, history, seat.hand).await,
                    }
                };
                stop.run_until_cancelled(Box::pin(asking)).await
            }
            (Mode::Answer(rooms), Stage::Asked) => {
                seat.hand.does(Doing::Polling);
                let polling = async {
                    tokio::select! {
                        biased;
                        door = self.poll(rooms, request, history) => door,
                        () = seat.wanted_after(GIVE_WAY_AFTER) => Err(Setback::no_answer(None)),
                    }
                };
                stop.run_until_cancelled(Box::pin(polling)).await
            }
            (Mode::Answer(rooms), Stage::Answered(answer) | Stage::Submitted(answer)) => {
                seat.hand.does(Doing::Sending);
                let sending = sending.get_or_insert_with(|| Sending::begin(history.before));
                // The lane goes on with what was recorded, at the latest at the next start.
                let may_stop = sending.waits();
                let bringing = Box::pin(self.bring(rooms, request, (stage, answer), sending));
                if may_stop {
                    stop.run_until_cancelled(bringing).await
                } else {
                    Some(bringing.await)
                }
            }
        }
    }

    /// Requests that fail for one reason are one thing to say.
    fn say_failed(&self, stage: &Stage, code: &'static str, why: &str) {
        let stage = stage.as_str();
        let heard = self.heard(stage, code);
        warn_rarely!(heard, "attempt failed, trying again", stage, why);
    }

    async fn go_back(
        &self,
        key: RequestKey,
        from: &Stage,
        to: &Stage,
        odd: Option<&'static str>,
        hand: &Hand,
    ) -> Result<(), LedgerError> {
        if let Some(why) = odd {
            hand.failed();
            self.say_failed(from, "core_contradicts_itself", why);
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

    async fn note_work(&self, key: RequestKey, worked: Duration) -> Result<(), LedgerError> {
        if worked.is_zero() {
            return Ok(());
        }
        self.ledger.note(key, Step::Worked(worked)).await
    }

    /// It waits in its place for somebody to fix something, and goes on by itself.
    async fn wait(&self, key: RequestKey, hold: Hold) -> Result<(), LedgerError> {
        let (reason, detail) = (hold.reason.as_str(), &hold.detail);
        let heard = self.heard("waits", reason);
        warn_rarely!(heard, "request waits", reason, detail);
        self.metrics.held(hold.reason);
        self.ledger.note(key, Step::Held(hold)).await
    }

    /// Said when it is news, not at each time it was tried again in vain.
    async fn hold(
        &self,
        key: RequestKey,
        stage: &Stage,
        held_before: Option<HoldReason>,
        hold: Hold,
    ) -> Result<Ended, LedgerError> {
        let (stage, reason, detail) = (stage.as_str(), hold.reason.as_str(), &hold.detail);
        if held_before == Some(hold.reason) {
            debug!(stage, reason, detail, "request still held");
        } else {
            let heard = self.heard("held", reason);
            warn_rarely!(heard, "request held", stage, reason, detail);
        }
        self.metrics.held(hold.reason);
        self.ledger.note(key, Step::Held(hold)).await?;
        Ok(Ended::Held)
    }

    async fn settle(&self, request: &Request, outcome: Outcome) -> Result<Ended, LedgerError> {
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
            self.confirmation.not_there(request);
        }
        self.ledger.note(request.key, Step::Settled(outcome)).await?;
        Ok(Ended::Settled)
    }

    /// Waits until the request's block is as deep as the operator wants it, wherever the chain has
    /// it now. An outcome: it is nowhere any more.
    async fn settled_in_chain(&self, request: &Request) -> Result<Option<Outcome>, Setback> {
        let mut line = self.line.clone();
        if *line.borrow_and_update() == Line::OPEN {
            // The contract itself tells when the answer is brought.
            return Ok(None);
        }
        let mut block = request.block;
        loop {
            let kind = request.kind();
            if line.wait_for(|line| line.covers(kind, block.number)).await.is_err() {
                return Err(Setback::retry(Cause::Stopping));
            }
            let found = self.whereabouts(request).await;
            match found.map_err(Setback::retry)? {
                Whereabouts::In(now) if now.number <= block.number => return Ok(None),
                Whereabouts::In(now) => block = now,
                Whereabouts::Unknown => {
                    return Err(Setback::own(Remedy::Retry, Cause::LeftItsBlock));
                }
                Whereabouts::Gone => return Ok(Some(Outcome::Orphaned)),
            }
        }
    }

    /// Where the chain has the request now. The journal tells which other requests had its id.
    pub(super) async fn whereabouts(&self, request: &Request) -> Result<Whereabouts, RpcError> {
        let found = self.confirmation.whereabouts(request, &[]).await?;
        if found != Whereabouts::Unknown {
            return Ok(found);
        }
        match self.ledger.namesakes(request.key).await {
            Ok(namesakes) if !namesakes.is_empty() => {
                self.confirmation.whereabouts(request, &namesakes).await
            }
            Ok(_) | Err(_) => Ok(found),
        }
    }

    /// Rooms 2 and 3: the ciphertexts are fetched for the Core, and dropped once it has them. Not the
    /// first time (`again`), the request may have left the chain meanwhile and its id be another
    /// one's, which the Core would then not take: only what is on chain is asked. Where only observed
    /// it ends before the Core is asked.
    async fn ask(
        &self,
        request: &Request,
        history: &mut History,
        hand: &Hand,
    ) -> Result<Door, Setback> {
        self.check_support(request).await?;
        kms_core::wire::check(request).map_err(|error| Setback::own(error.remedy(), error))?;
        let turn = match &self.mode {
            Mode::Answer(rooms) => {
                hand.does(Doing::WaitingForCore);
                let turn = rooms.core.turn().await;
                let setback = |error: CoreError| Setback::new(error.remedy(), error);
                Some((rooms, turn.map_err(setback)?))
            }
            Mode::Observe { .. } => None,
        };
        let (mut block, again) = (request.block, history.maybe_asked);
        hand.does(Doing::LookingBack);
        if again {
            let found = self.whereabouts(request).await;
            match found.map_err(Setback::retry)? {
                Whereabouts::In(now) => block = now,
                Whereabouts::Unknown => {
                    return Err(Setback::own(Remedy::Retry, Cause::LeftItsBlock));
                }
                Whereabouts::Gone => return Ok(Door::Out(Outcome::Orphaned)),
            }
        }
        let (refusals, doubted) = (&mut history.refusals, &mut history.doubted);
        // Whoever forges thousands does not have as much fetched again and again.
        let known = if *doubted {
            Some(self.witnessed(request, block, again, doubted).await?)
        } else {
            None
        };
        hand.does(Doing::Fetching);
        let fetching = async {
            let begun = Instant::now();
            let fetching = self.ciphertexts.fetch(request.materials());
            let fetched = fetching.instrument(debug_span!("ciphertexts")).await;
            let fetched = fetched
                .map_err(|error| Setback::own(refusals.weigh(&error, Instant::now()), error))?;
            self.metrics.took(Room::Ciphertexts, begun.elapsed());
            Ok(fetched)
        };
        let witnessing = async {
            match known {
                Some(known) => Ok(known),
                None => self.witnessed(request, block, again, doubted).await,
            }
        };
        let (fetched, witnessed) = tokio::try_join!(fetching, witnessing)?;
        if let Some(end) = witnessed {
            return Ok(Door::Out(end));
        }
        // The contract may have been upgraded meanwhile.
        self.check_support(request).await?;
        let Some((rooms, turn)) = turn else { return Ok(Door::Out(Outcome::Observed)) };
        let begun = Instant::now();
        hand.does(Doing::Asking);
        let asking = rooms.core.ask(turn, request, fetched.ciphertexts);
        match asking.instrument(debug_span!("kms_core_ask")).await {
            Ok(asked) => {
                history.core.asked(asked);
                self.metrics.took(Room::CoreAsk, begun.elapsed());
                Ok(Door::To(Stage::Asked, Step::Asked))
            }
            Err(error) => {
                let setback = core_setback(rooms, &error).await;
                if matches!(error, CoreError::Unreachable { .. }) && setback.own {
                    // It may have it: a poll tells, and needs no ciphertexts.
                    history.core.cut_off();
                    return Ok(Door::Back(Stage::Asked, Some("the KMS Core broke the ask off")));
                }
                Err(setback)
            }
        }
    }

    async fn check_support(&self, request: &Request) -> Result<(), Setback> {
        let mut support = self.support.clone();
        let known = support.wait_for(|support| !matches!(support, Support::Upgraded { .. })).await;
        let Ok(support) = known else {
            return Err(Setback::retry(Cause::Stopping));
        };
        match unsupported(request, &support) {
            Some(hold) => Err(Setback::held(hold)),
            None => Ok(()),
        }
    }

    /// Room 3: poll to an answer.
    async fn poll(
        &self,
        rooms: &Rooms<P>,
        request: &Request,
        history: &mut History,
    ) -> Result<Door, Setback> {
        let signers = rooms.gateway_config.core_signers().await.map_err(Setback::retry)?;
        let patience = self.options.answer_timeout[request.kind()];
        let begun = Instant::now();
        let polling = rooms.core.answer(request, &signers, patience, self.options.retry_interval);
        let polled = polling.instrument(debug_span!("kms_core_answer")).await;
        let polled = match polled {
            Ok(polled) => polled,
            Err(error) => {
                let remedy = error.remedy();
                if let Remedy::Hold(Hold { reason: HoldReason::SignerMismatch, .. }) = &remedy
                    && rooms
                        .gateway_config
                        .core_signers_anew()
                        .await
                        .is_ok_and(|now| now != signers)
                {
                    return Err(Setback::retry(Cause::RegisteredAnew));
                }
                if let Remedy::Hold(hold) = &remedy
                    && matches!(hold.reason, HoldReason::SignerMismatch | HoldReason::InvalidAnswer)
                    && self.answers_a_namesake(rooms, request, &signers).await
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
                    return match history.core.failed(hold.clone()) {
                        Next::Ask => Ok(Door::Back(Stage::Arrived, None)),
                        Next::Poll => Ok(Door::Back(Stage::Asked, None)),
                        Next::Hold(hold) => Err(Setback::held(hold)),
                    };
                }
                return Err(core_setback(rooms, &error).await);
            }
        };
        match polled {
            Ending::Answer(answer) => {
                self.metrics.took(Room::CoreAnswer, begun.elapsed());
                Ok(Door::To(Stage::Answered(answer.clone()), Step::Answered(answer)))
            }
            Ending::Forgotten => match history.core.unknown(Instant::now()) {
                (Next::Poll, odd) => Ok(Door::Back(Stage::Asked, odd)),
                (Next::Hold(hold), _) => Err(Setback::held(hold)),
                (Next::Ask, odd) => {
                    if let Some(times) = self.heard("", "forgotten") {
                        info!(
                            times,
                            "the KMS Core does not know the request any more: asking again"
                        );
                    } else {
                        debug!("the KMS Core does not know the request any more: asking again");
                    }
                    Ok(Door::Back(Stage::Arrived, odd))
                }
            },
            Ending::Silent => Err(Setback::no_answer(Some(patience))),
        }
    }

    /// Whether the Core's answer is that to a request of the same id and other content: the Core
    /// knows requests by id alone, its signature covers what was asked.
    async fn answers_a_namesake(
        &self,
        rooms: &Rooms<P>,
        request: &Request,
        signers: &[Address],
    ) -> bool {
        let namesakes = self.ledger.namesakes(request.key).await.unwrap_or_default();
        for event in namesakes {
            let Ok(other) = abi::decode(request.key.source, &event) else { continue };
            if other.kind() == request.kind()
                && matches!(rooms.core.poll(&other, signers).await, Ok(Poll::Answer(_)))
            {
                return true;
            }
        }
        false
    }

    /// Room 4: an answer is handed to the lane until a transaction with it is on its way, and one that is
    /// on its way is followed until it is mined.
    async fn bring(
        &self,
        rooms: &Rooms<P>,
        request: &Request,
        (stage, answer): (&Stage, &Answer),
        sending: &mut Sending,
    ) -> Result<Door, Setback> {
        let (room, span) = (&rooms.submission, debug_span!("gateway"));
        let begun = sending.begun;
        let heard = if let Stage::Submitted(_) = stage {
            room.follow(request, answer, sending).instrument(span).await
        } else {
            room.send(request, answer, sending).instrument(span).await
        };
        match heard {
            Ok(Heard::Broadcast { transaction }) => {
                debug!(%transaction, "transaction broadcast");
                Ok(Door::To(Stage::Submitted(answer.clone()), Step::Submitted { transaction }))
            }
            Ok(Heard::Waits(hold)) => Ok(Door::Waits(hold)),
            Ok(Heard::Returned { why }) => {
                let why = why.to_owned();
                Ok(Door::To(Stage::Answered(answer.clone()), Step::Returned { why }))
            }
            Ok(Heard::Ended(outcome)) => {
                self.metrics.took(Room::Submission, begun.elapsed());
                Ok(Door::Out(outcome))
            }
            Err(error) => {
                if !matches!(error, SubmissionError::Stopped) {
                    let returned = Step::Returned { why: error.to_string() };
                    // A journal that fails ends the instance by its own way.
                    if let Err(error) = self.ledger.note(request.key, returned).await {
                        debug!(%error, "could not note a step");
                    }
                }
                Box::pin(self.weigh(rooms, request, answer, error)).await
            }
        }
    }

    /// What follows from an answer that was not taken: first the chain is looked at.
    async fn weigh(
        &self,
        rooms: &Rooms<P>,
        request: &Request,
        answer: &Answer,
        error: SubmissionError,
    ) -> Result<Door, Setback> {
        if !error.is_of_contract() {
            return Err(Setback::of(error));
        }
        match self.whereabouts(request).await {
            Ok(Whereabouts::Gone) => return Ok(Door::Out(Outcome::Orphaned)),
            Ok(Whereabouts::Unknown) => {
                return Err(Setback::own(Remedy::Retry, Cause::LeftItsBlock));
            }
            Ok(Whereabouts::In(_)) | Err(_) => {}
        }
        let SubmissionError::Rejected(rejection) = &error else { return Err(Setback::of(error)) };
        let registered = match rooms.gateway_config.core_signers_anew().await {
            Ok(registered) => registered,
            Err(unknown) => {
                debug!(%unknown, "the registry cannot be asked who is registered");
                Vec::new()
            }
        };
        let fault = blame::fault(rejection, rooms.core.signer_of(request, answer), &registered);
        if fault == Fault::Content {
            // What should be in its place may not be known.
            self.confirmation.read_again(request);
        }
        Err(blame::setback(fault, error, request.block.number))
    }
}

/// A Core that answers others, and not to this request, is this request's trouble.
async fn core_setback<P>(rooms: &Rooms<P>, error: &CoreError) -> Setback {
    let unanswered = matches!(error, CoreError::Unreachable { .. });
    let own = unanswered && rooms.core.answers().await;
    Setback { own, ..Setback::new(error.remedy(), error.clone()) }
}

/// What keeps this version from answering a request of this contract. One that was upgraded and not
/// looked at since is the caller's to wait for.
fn unsupported(request: &Request, support: &Support) -> Option<Hold> {
    let why = match (&request.operation, support) {
        (Operation::Unsupported { event, .. }, _) => format!(
            "{event} is an event of {}, which this version cannot serve; upgrade the connector",
            request.shape
        ),
        (_, Support::FromG12 { version }) => format!(
            "the contract is \"{version}\", from G12 on, where access is checked on the host \
             chain; this version cannot do that; upgrade the connector"
        ),
        (_, Support::Served | Support::Upgraded { .. }) => return None,
    };
    Some(Hold::new(HoldReason::UnsupportedGeneration, why))
}
