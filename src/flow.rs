//! The walk of one request: one task, one `match` on its durable stage, journaled at every door.
//!
//! ```text
//! arrivals --channel--> dispatch --task each--> walk: arrived -> asked -> answered -> submitted
//! recovery ----^                                  |  every step noted in the ledger
//!                                                 v
//!                                        settled | held | left for the next start
//! ```
//!
//! A restart re-enters the same `match`: there is no second path for recovery. The flow owns the
//! port it records through ([`RequestLedger`]); the journal implements it.

pub mod arrivals;
pub mod ciphertexts;
pub mod kms_core;
pub mod submission;
#[cfg(test)]
mod fake_chain;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{Id, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use self::{
    ciphertexts::{Buckets, Ciphertexts},
    kms_core::{Ending, KmsCore},
    submission::{Progress, Report, Submission, SubmissionError},
};
use crate::{
    backoff::Backoff,
    domain::{
        Answer, B256, BlockRef, Event, Hold, HoldReason, Kind, LedgerError, Operation, Outcome,
        Remedy, Request, RequestKey, stage::Stage,
    },
    gateway::{decryption::Support, gateway_config::GatewayConfigAdapter, provider::Provider},
};

/// One batch read from the chain: requests, logs that could not be decoded, and how far it reaches.
/// Stored in one journal transaction, so that the cursor never counts a request that is not stored.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub arrivals: Vec<Arrival>,
    /// Undecodable logs with the reason: stored, counted, skipped.
    pub skipped: Vec<(Event, String)>,
    /// Everything up to and including this block is in this batch or an earlier one.
    /// `None`: a re-read of known blocks, the cursor stays.
    pub cursor: Option<BlockRef>,
}

/// A request event to be stored.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub key: RequestKey,
    pub kind: Kind,
    pub event: Event,
}

/// What happened to a request after its arrival. Rides on the next commit: losing it costs a
/// repeat, never an outcome.
#[derive(Clone, Debug)]
pub enum Step {
    /// The Core took the request. Clears the hold.
    Asked,
    /// The Core lost the request (restart, eviction): it must be asked again.
    Forgotten,
    /// The Core's answer passed our checks.
    Answered(Answer),
    /// A transaction with the answer was broadcast.
    Submitted { transaction: B256 },
    /// The transaction did not bring it: back to `answered`.
    Returned { why: String },
    /// A failed attempt, counted, with its cause.
    Failed { why: String },
    /// Set aside. The stage stays.
    Held(Hold),
    /// Time in which chain, buckets and Core all answered, and no answer came of it: it counts
    /// towards the expiry.
    Worked(Duration),
    /// Ended.
    Settled(Outcome),
}

/// What became of a batch, by index of its arrivals. The others were known and stand as they did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub new: Vec<usize>,
    /// Settled, and now in another block: the chain was reorganised, and what settled them may be
    /// gone with it. They are open again.
    pub reopened: Vec<usize>,
}

/// Where a request stands by the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub stage: Stage,
    pub held: Option<HoldReason>,
    /// The sum of [`Step::Worked`].
    pub worked: Duration,
}

/// The port through which the flow records. The journal implements it.
pub trait RequestLedger: Clone + Send + Sync + 'static {
    /// Door (a): stores the batch and its cursor durably (fsync) before it returns. A known request
    /// takes over the block it is in now; one that is settled is opened again only by a batch with
    /// a cursor, which is joined block by block and not the word of any one node.
    fn arrive(&self, batch: Batch) -> impl Future<Output = Result<Taken, LedgerError>> + Send;

    /// Records a step on the next commit. Waits only while the journal's queue is full.
    fn note(
        &self,
        key: RequestKey,
        step: Step,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Where the request stands after everything noted so far. `None`: settled, or not known.
    fn standing(
        &self,
        key: RequestKey,
    ) -> impl Future<Output = Result<Option<Standing>, LedgerError>> + Send;
}

/// A request on its way into the walk.
#[derive(Clone, Debug)]
pub struct Intake {
    pub request: Request,
    /// It was walked before, by an earlier run or by this one: where it stands is asked of the
    /// ledger when its walk begins. What was read earlier may be outdated by then.
    pub recovered: bool,
}

/// Where requests come from.
#[derive(Debug)]
pub struct Intakes {
    /// From the chain.
    pub fresh: mpsc::Receiver<Intake>,
    /// Out of the journal. Never more than half of the walks, so that thousands that were left, or
    /// cannot be answered, do not delay what is new.
    pub again: mpsc::Receiver<Intake>,
}

/// Limits and patience of the walk.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    /// Walks under way at the same time.
    pub max_in_flight: usize,
    /// How long one attempt waits for the Core's answer.
    pub public_decryption_timeout: Duration,
    pub user_decryption_timeout: Duration,
    /// Ceiling of the pause between polls and between attempts.
    pub retry_interval: Duration,
    /// Working time after which a request ends as expired.
    pub request_expiry: Duration,
}

/// The rooms, and all that a walk needs.
#[derive(Debug)]
pub struct Flow<P, B, L> {
    pub ciphertexts: Ciphertexts<B>,
    pub core: KmsCore,
    pub submission: Submission<P>,
    pub gateway_config: GatewayConfigAdapter<P>,
    /// Whether the deployed contract is one we can serve.
    pub support: watch::Receiver<Support>,
    pub ledger: L,
    pub options: FlowOptions,
}

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Settled,
    Held,
    /// Left in the journal for the next start.
    Stopped,
}

/// Where a stage leads.
enum Door {
    To(Stage, Step),
    Out(Outcome),
}

/// Why a stage leads nowhere now.
struct Setback {
    remedy: Remedy,
    why: String,
    /// Other requests need not have the same trouble.
    own: bool,
}

impl Setback {
    /// Trouble that every request has: the chain or the Core does not answer.
    fn new(remedy: Remedy, why: &impl ToString) -> Self {
        Self { remedy, why: why.to_string(), own: false }
    }

    fn own(remedy: Remedy, why: &impl ToString) -> Self {
        Self { own: true, ..Self::new(remedy, why) }
    }

    /// The Core was asked for a better answer than the one the contract held for this reason. If it
    /// has none now, what the contract said stands, and the next retry begins with that answer.
    fn without_better_answer(self, stage: &Stage, rejection: &Hold) -> Self {
        match (stage, &self.remedy) {
            (Stage::Arrived | Stage::Asked, Remedy::Hold(_) | Remedy::Retry) => {
                debug!(why = self.why, "the KMS Core has no other answer");
                Self::own(Remedy::Hold(rejection.clone()), rejection)
            }
            _ => self,
        }
    }
}

/// How long a walk waits between attempts, and what it said last.
struct Patience {
    pause: Backoff,
    last_why: String,
    /// Since when it got nowhere.
    stuck_since: Option<Instant>,
}

impl Patience {
    fn new(ceiling: Duration) -> Self {
        let pause = Backoff::new(Duration::from_millis(200), ceiling);
        Self { pause, last_why: String::new(), stuck_since: None }
    }

    /// The cause, unless it was the last one too.
    fn news(&mut self, why: String) -> Option<String> {
        if why == self.last_why {
            return None;
        }
        self.last_why.clone_from(&why);
        Some(why)
    }

    /// `None`: told to stop.
    async fn pause(&mut self, stop: &CancellationToken) -> Option<()> {
        stop.run_until_cancelled(sleep(self.pause.next_delay())).await
    }
}

/// Panics of one request's walk before it is held.
const MAX_PANICS: u32 = 3;
/// The pause after a panic.
const PANIC_PAUSE: Duration = Duration::from_millis(100);
/// A walk that got nowhere for so long, by trouble of its own, gives its place to who waits for
/// one.
const GIVE_WAY_AFTER: Duration = Duration::from_secs(20);

/// A place among the walks under way.
#[derive(Debug)]
struct Place {
    _one: OwnedSemaphorePermit,
    /// In the half that is open to requests out of the journal.
    _again: Option<OwnedSemaphorePermit>,
}

/// How many walks there may be.
#[derive(Clone, Debug)]
struct Places {
    all: Arc<Semaphore>,
    again: Arc<Semaphore>,
}

impl Places {
    fn new(max: usize) -> Self {
        let again = Semaphore::new(max.div_ceil(2));
        Self { all: Arc::new(Semaphore::new(max)), again: Arc::new(again) }
    }

    fn full(&self) -> bool {
        self.all.available_permits() == 0
    }

    /// The next request, once there is a place for it: what is not taken out of its channel makes
    /// the room before wait. `None`: there will be no more. Dropping the future loses nothing.
    async fn next(&self, intakes: &mut Intakes) -> Option<(Place, Intake)> {
        let one = self.all.clone().acquire_owned().await.ok()?;
        let Intakes { fresh, again } = intakes;
        let recovered = async {
            let permit = self.again.clone().acquire_owned().await.ok()?;
            Some((permit, again.recv().await?))
        };
        // In no fixed order: neither side can starve the other.
        tokio::select! {
            Some(intake) = fresh.recv() => Some((Place { _one: one, _again: None }, intake)),
            Some((permit, intake)) = recovered => {
                Some((Place { _one: one, _again: Some(permit) }, intake))
            }
            else => None,
        }
    }
}

/// The walks under way.
#[derive(Default)]
struct Walks {
    tasks: JoinSet<Result<Ended, LedgerError>>,
    /// What each of them walks, and its place.
    walking: HashMap<Id, (Intake, Place)>,
    in_hand: HashSet<RequestKey>,
    panics: HashMap<RequestKey, u32>,
}

impl<P: Provider, B: Buckets, L: RequestLedger> Flow<P, B, L> {
    /// Takes requests in and walks each in a task of its own, until `stop`; then no request is
    /// taken in, none is asked, and what is answered is finished. Fails only when the journal does.
    pub async fn run(
        self: Arc<Self>,
        mut intakes: Intakes,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let places = Places::new(self.options.max_in_flight);
        let mut walks = Walks::default();
        loop {
            tokio::select! {
                biased;
                Some(ended) = walks.tasks.join_next_with_id() => {
                    let (id, result) = match ended {
                        Ok((id, result)) => (id, Ok(result?)),
                        Err(error) => (error.id(), Err(error)),
                    };
                    let Some((mut walked, place)) = walks.walking.remove(&id) else { continue };
                    let key = walked.request.key;
                    walks.in_hand.remove(&key);
                    let panicked = result.is_err_and(|error| error.is_panic());
                    if panicked && self.after_panic(key, &mut walks.panics).await? {
                        // It may have got further than it began.
                        walked.recovered = true;
                        self.start(&mut walks, walked, place, PANIC_PAUSE, &places, &stop);
                    } else {
                        walks.panics.remove(&key);
                    }
                }
                () = stop.cancelled() => break,
                next = places.next(&mut intakes) => {
                    let Some((place, intake)) = next else { break };
                    // The held retry may find what is walking already.
                    if !walks.in_hand.contains(&intake.request.key) {
                        self.start(&mut walks, intake, place, Duration::ZERO, &places, &stop);
                    }
                }
            }
        }
        while let Some(ended) = walks.tasks.join_next().await {
            if let Ok(result) = ended {
                result?;
            }
        }
        Ok(())
    }

    fn start(
        self: &Arc<Self>,
        walks: &mut Walks,
        intake: Intake,
        place: Place,
        pause: Duration,
        places: &Places,
        stop: &CancellationToken,
    ) {
        let key = intake.request.key;
        let span = info_span!("request", id = %key, kind = %intake.request.kind());
        let (flow, kept) = (self.clone(), intake.clone());
        let (places, stop) = (places.clone(), stop.clone());
        let walk = async move {
            sleep(pause).await;
            flow.walk(intake, &places, stop).await
        };
        let handle = walks.tasks.spawn(walk.instrument(span));
        walks.in_hand.insert(key);
        walks.walking.insert(handle.id(), (kept, place));
    }

    /// A panic is that request's failed attempt; the third one holds it. Answers whether to try
    /// again.
    async fn after_panic(
        &self,
        key: RequestKey,
        panics: &mut HashMap<RequestKey, u32>,
    ) -> Result<bool, LedgerError> {
        let count = panics.entry(key).or_default();
        *count += 1;
        let count = *count;
        error!(request = %key, count, "the walk of a request panicked");
        if count < MAX_PANICS {
            self.ledger.note(key, Step::Failed { why: "its walk panicked".to_owned() }).await?;
            return Ok(true);
        }
        let hold = Hold::new(
            HoldReason::Panicked,
            format!("its walk panicked {count} times; please report the log of this request"),
        );
        self.ledger.note(key, Step::Held(hold)).await?;
        Ok(false)
    }

    /// One request, from where it stands to its end.
    async fn walk(
        &self,
        intake: Intake,
        places: &Places,
        stop: CancellationToken,
    ) -> Result<Ended, LedgerError> {
        let Intake { request, recovered } = intake;
        let key = request.key;
        let (mut stage, mut worked) = (Stage::Arrived, Duration::ZERO);
        if recovered {
            // Settled meanwhile: nothing is left to do.
            let Some(standing) = self.ledger.standing(key).await? else {
                return Ok(Ended::Settled);
            };
            worked = standing.worked;
            stage = resume(standing);
        }
        let mut patience = Patience::new(self.options.retry_interval);
        // An answer the contract did not take, and what it said.
        let mut rejected: Option<(Answer, Hold)> = None;
        // Whether a transaction of this request may exist already.
        let mut maybe_sent = recovered;
        loop {
            let begun = Instant::now();
            let door = self.attempt(&request, &stage, maybe_sent, &stop).await;
            maybe_sent |= matches!(stage, Stage::Answered(_) | Stage::Submitted(_));
            let Some(door) = door else { return Ok(Ended::Stopped) };
            let setback = match door {
                Ok(Door::To(Stage::Answered(answer), _))
                    if rejected.as_ref().is_some_and(|(known, _)| *known == answer) =>
                {
                    Setback::own(Remedy::Retry, &"the KMS Core gives the same answer again")
                }
                Ok(Door::To(entered, noted)) => {
                    debug!(from = stage.as_str(), to = entered.as_str(), "door passed");
                    let lost = matches!(noted, Step::Forgotten);
                    self.ledger.note(key, noted).await?;
                    stage = entered;
                    patience.stuck_since = None;
                    // Two Cores behind one address forget what the other was asked: not in a hot
                    // loop.
                    if lost && patience.pause(&stop).await.is_none() {
                        return Ok(Ended::Stopped);
                    }
                    if matches!(stage, Stage::Answered(_)) {
                        patience.pause.reset();
                    }
                    continue;
                }
                Ok(Door::Out(outcome)) => return self.settle(&request, outcome).await,
                Err(setback) => setback,
            };
            let setback = match &rejected {
                Some((_, hold)) => setback.without_better_answer(&stage, hold),
                None => setback,
            };
            match setback.remedy {
                Remedy::Refuse(refusal) => {
                    return self.settle(&request, Outcome::Refused(refusal)).await;
                }
                Remedy::Hold(hold) => {
                    if let Stage::Answered(answer) | Stage::Submitted(answer) = &stage
                        && recovered
                        && rejected.is_none()
                        && blames_answer(hold.reason)
                    {
                        // Held before for this answer: has the Core a better one by now?
                        debug!(
                            reason = hold.reason.as_str(),
                            "the KMS Core is asked for its answer again"
                        );
                        rejected = Some((answer.clone(), hold));
                        stage = Stage::Asked;
                        continue;
                    }
                    // Only time in which everyone answered counts towards the expiry: that in which
                    // the Core was asked for its answer, not that spent waiting for memory or gas.
                    if stage == Stage::Asked {
                        worked = worked.saturating_add(begun.elapsed());
                        self.ledger.note(key, Step::Worked(begun.elapsed())).await?;
                    }
                    if worked >= self.options.request_expiry {
                        return self.settle(&request, Outcome::Expired).await;
                    }
                    return self.hold(key, &stage, hold).await;
                }
                Remedy::Retry => {
                    let stuck_since = *patience.stuck_since.get_or_insert(begun);
                    if setback.own && stuck_since.elapsed() >= GIVE_WAY_AFTER && places.full() {
                        let hold = Hold::new(HoldReason::NoProgress, setback.why);
                        return self.hold(key, &stage, hold).await;
                    }
                    if let Some(why) = patience.news(setback.why) {
                        warn!(stage = stage.as_str(), why, "attempt failed, trying again");
                        self.ledger.note(key, Step::Failed { why }).await?;
                    }
                    if patience.pause(&stop).await.is_none() {
                        return Ok(Ended::Stopped);
                    }
                }
            }
        }
    }

    /// One stage, tried once. `None`: stopped. Before the answer is in hand a stop leaves the
    /// request to the next start; after that it is finished, unless the whole task is aborted.
    async fn attempt(
        &self,
        request: &Request,
        stage: &Stage,
        maybe_sent: bool,
        stop: &CancellationToken,
    ) -> Option<Result<Door, Setback>> {
        match stage {
            Stage::Arrived => stop.run_until_cancelled(self.ask(request)).await,
            Stage::Asked => stop.run_until_cancelled(self.poll(request)).await,
            Stage::Answered(answer) | Stage::Submitted(answer) => {
                Some(self.submit(request, answer, maybe_sent).await)
            }
        }
    }

    async fn hold(&self, key: RequestKey, stage: &Stage, hold: Hold) -> Result<Ended, LedgerError> {
        warn!(
            stage = stage.as_str(),
            reason = hold.reason.as_str(),
            detail = hold.detail,
            "request held"
        );
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
            Outcome::AlreadyAnswered | Outcome::Expired | Outcome::Orphaned => {
                info!(outcome = outcome.as_str(), "request settled");
            }
        }
        self.ledger.note(request.key, Step::Settled(outcome)).await?;
        Ok(Ended::Settled)
    }

    /// Rooms 2 and 3: the ciphertexts are fetched for the Core, and dropped once it has them.
    async fn ask(&self, request: &Request) -> Result<Door, Setback> {
        self.check_support(request).await?;
        kms_core::wire::check(request).map_err(|error| Setback::own(error.remedy(), &error))?;
        let fetched = self
            .ciphertexts
            .fetch(request.materials())
            .await
            .map_err(|error| Setback::own(error.remedy(), &error))?;
        // The contract may have been upgraded meanwhile.
        self.check_support(request).await?;
        self.core
            .ask(request, fetched.ciphertexts)
            .await
            .map_err(|error| Setback::new(error.remedy(), &error))?;
        Ok(Door::To(Stage::Asked, Step::Asked))
    }

    async fn check_support(&self, request: &Request) -> Result<(), Setback> {
        let mut support = self.support.clone();
        let known = support.wait_for(|support| !matches!(support, Support::Upgraded { .. })).await;
        let Ok(support) = known else {
            return Err(Setback::new(Remedy::Retry, &"the instance is stopping"));
        };
        let unsupported = match (&request.operation, &*support) {
            (Operation::Unsupported { event, .. }, _) => format!(
                "{event} is an event of {}, which this version cannot serve; upgrade the connector",
                request.generation
            ),
            (_, Support::FromG12 { version }) => format!(
                "the contract is \"{version}\", from G12 on, where access is checked on the host \
                 chain; this version cannot do that; upgrade the connector"
            ),
            // Waited for above.
            (_, Support::Served | Support::Upgraded { .. }) => return Ok(()),
        };
        let hold = Hold::new(HoldReason::UnsupportedGeneration, unsupported);
        Err(Setback::own(Remedy::Hold(hold.clone()), &hold))
    }

    /// Room 3: poll to an answer.
    async fn poll(&self, request: &Request) -> Result<Door, Setback> {
        let signer = self
            .gateway_config
            .core_signer()
            .await
            .map_err(|error| Setback::new(Remedy::Retry, &error))?;
        let patience = match request.kind() {
            Kind::PublicDecryption => self.options.public_decryption_timeout,
            Kind::UserDecryption => self.options.user_decryption_timeout,
        };
        let polled = self.core.answer(request, signer, patience, self.options.retry_interval).await;
        let polled = match polled {
            Ok(polled) => polled,
            Err(error) => {
                let remedy = error.remedy();
                if let Remedy::Hold(Hold { reason: HoldReason::SignerMismatch, .. }) = &remedy
                    && self.gateway_config.core_signer_anew().await.is_ok_and(|now| now != signer)
                {
                    let why = "this node was registered anew; its Core's answer is checked again";
                    return Err(Setback::new(Remedy::Retry, &why));
                }
                return Err(Setback::new(remedy, &error));
            }
        };
        match polled {
            Ending::Answer(answer) => {
                Ok(Door::To(Stage::Answered(answer.clone()), Step::Answered(answer)))
            }
            Ending::Forgotten => {
                info!("the KMS Core does not know the request any more: asking again");
                Ok(Door::To(Stage::Arrived, Step::Forgotten))
            }
            Ending::Silent => {
                let hold = Hold::new(
                    HoldReason::CoreSilent,
                    format!(
                        "the KMS Core gave no answer within {} s; it is polled again",
                        patience.as_secs()
                    ),
                );
                Err(Setback::own(Remedy::Hold(hold.clone()), &hold))
            }
        }
    }

    /// Room 4.
    async fn submit(
        &self,
        request: &Request,
        answer: &Answer,
        maybe_sent: bool,
    ) -> Result<Door, Setback> {
        let noting = Noting { ledger: &self.ledger, key: request.key };
        let error = match self.submission.submit(request, answer, maybe_sent, &noting).await {
            Ok(outcome) => return Ok(Door::Out(outcome)),
            Err(error) => error,
        };
        if !matches!(error, SubmissionError::Stopped) {
            // Whatever was sent for it is mined and brought nothing, or was never taken.
            noting.note(Step::Returned { why: error.to_string() }).await;
        }
        Err(Setback { own: error.is_own(), ..Setback::new(error.remedy(), &error) })
    }
}

/// Where a walk goes on.
fn resume(standing: Standing) -> Stage {
    match (standing.stage, standing.held) {
        // Polling a failed request says only that it failed; asked again, a Core from v0.14 on does
        // it again, and an older one says that it knows it.
        (Stage::Asked, Some(HoldReason::CoreFailed)) => Stage::Arrived,
        (stage, _) => stage,
    }
}

/// Whether another answer of the Core might be taken where this one was not.
fn blames_answer(reason: HoldReason) -> bool {
    matches!(
        reason,
        HoldReason::SignerNotRegistered
            | HoldReason::WalletCoreMismatch
            | HoldReason::InvalidAnswer
            | HoldReason::ContractRejected
    )
}

/// Notes in the ledger what room 4 reports while it waits.
struct Noting<'a, L> {
    ledger: &'a L,
    key: RequestKey,
}

impl<L: RequestLedger> Report for Noting<'_, L> {
    async fn report(&self, progress: Progress) {
        let step = match progress {
            Progress::Submitted { transaction } => {
                debug!(%transaction, "transaction broadcast");
                Step::Submitted { transaction }
            }
            Progress::Waiting(hold) => {
                warn!(reason = hold.reason.as_str(), detail = hold.detail, "request waits");
                Step::Held(hold)
            }
        };
        self.note(step).await;
    }
}

impl<L: RequestLedger> Noting<'_, L> {
    async fn note(&self, step: Step) {
        // A journal that fails ends the instance by its own way.
        if let Err(error) = self.ledger.note(self.key, step).await {
            debug!(%error, "could not note a step");
        }
    }
}

#[cfg(test)]
mod tests;
