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

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
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
    /// Ended.
    Settled(Outcome),
}

/// The port through which the flow records. The journal implements it.
pub trait RequestLedger: Clone + Send + Sync + 'static {
    /// Door (a): stores the batch and its cursor durably (fsync) before it returns. Answers which
    /// arrivals were new, by index; known keys are left as they stand.
    fn arrive(&self, batch: Batch) -> impl Future<Output = Result<Vec<usize>, LedgerError>> + Send;

    /// Records a step on the next commit. Waits only while the journal's queue is full.
    fn note(
        &self,
        key: RequestKey,
        step: Step,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// A request on its way into the walk.
#[derive(Clone, Debug)]
pub struct Intake {
    pub request: Request,
    pub stage: Stage,
    /// Out of the journal: an earlier run, or an earlier walk, may have got further than `stage`.
    pub recovered: bool,
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
}

impl Setback {
    fn new(remedy: Remedy, why: impl ToString) -> Self {
        Self { remedy, why: why.to_string() }
    }
}

/// Panics of one request's walk before it is held.
const MAX_PANICS: u32 = 3;

impl<P: Provider, B: Buckets, L: RequestLedger> Flow<P, B, L> {
    /// Takes requests in and walks each in a task of its own, until `stop`; then no request is
    /// taken in, none is asked, and what is answered is finished. Fails only when the journal does.
    pub async fn run(
        self: Arc<Self>,
        mut intake: mpsc::Receiver<Intake>,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let permits = Arc::new(Semaphore::new(self.options.max_in_flight));
        let mut walks: JoinSet<Result<Ended, LedgerError>> = JoinSet::new();
        let mut walking: HashMap<Id, Intake> = HashMap::new();
        let mut in_hand: HashSet<RequestKey> = HashSet::new();
        let mut panics: HashMap<RequestKey, u32> = HashMap::new();
        loop {
            let next = async {
                // The permit first: what is not taken out of the channel makes the room before wait.
                let permit = permits.clone().acquire_owned().await.ok()?;
                Some((permit, intake.recv().await?))
            };
            tokio::select! {
                biased;
                Some(ended) = walks.join_next_with_id() => {
                    let (id, result) = match ended {
                        Ok((id, result)) => (id, Ok(result?)),
                        Err(error) => (error.id(), Err(error)),
                    };
                    let Some(walked) = walking.remove(&id) else { continue };
                    let key = walked.request.key;
                    in_hand.remove(&key);
                    match result {
                        Ok(_) => { panics.remove(&key); }
                        Err(error) if error.is_panic() => {
                            let count = panics.entry(key).or_default();
                            *count += 1;
                            let again = self.after_panic(key, *count).await?;
                            if again {
                                in_hand.insert(key);
                                self.start(&mut walks, &mut walking, walked, None, &stop);
                            } else {
                                panics.remove(&key);
                            }
                        }
                        Err(_) => {}
                    }
                }
                next = next, if !stop.is_cancelled() => {
                    let Some((permit, intake)) = next else { break };
                    // The held retry may find what is walking already.
                    if in_hand.insert(intake.request.key) {
                        self.start(&mut walks, &mut walking, intake, Some(permit), &stop);
                    }
                }
                () = stop.cancelled() => break,
            }
        }
        while let Some(ended) = walks.join_next().await {
            if let Ok(result) = ended {
                result?;
            }
        }
        Ok(())
    }

    fn start(
        self: &Arc<Self>,
        walks: &mut JoinSet<Result<Ended, LedgerError>>,
        walking: &mut HashMap<Id, Intake>,
        intake: Intake,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
        stop: &CancellationToken,
    ) {
        let key = intake.request.key;
        let span = info_span!("request", id = %key, kind = %intake.request.kind());
        let (flow, stop) = (self.clone(), stop.clone());
        let kept = intake.clone();
        let walk = async move {
            let ended = flow.walk(intake, stop).await;
            drop(permit);
            ended
        };
        let handle = walks.spawn(walk.instrument(span));
        walking.insert(handle.id(), kept);
    }

    /// A panic is that request's failed attempt; the third one holds it.
    async fn after_panic(&self, key: RequestKey, count: u32) -> Result<bool, LedgerError> {
        error!(request = %key, count, "the walk of a request panicked");
        if count < MAX_PANICS {
            self.ledger.note(key, Step::Failed { why: "its walk panicked".to_owned() }).await?;
            sleep(Duration::from_millis(100)).await;
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
    async fn walk(&self, intake: Intake, stop: CancellationToken) -> Result<Ended, LedgerError> {
        let Intake { request, mut stage, mut recovered } = intake;
        let mut pause = Backoff::new(Duration::from_millis(200), self.options.retry_interval);
        let mut last_why = String::new();
        let mut worked = Duration::ZERO;
        loop {
            let begun = Instant::now();
            // Before the answer is in hand a stop leaves the request to the next start; after that
            // it is finished, unless the whole task is aborted.
            let door = match &stage {
                Stage::Arrived => stop.run_until_cancelled(self.ask(&request)).await,
                Stage::Asked => stop.run_until_cancelled(self.poll(&request)).await,
                Stage::Answered(answer) | Stage::Submitted(answer) => {
                    Some(self.submit(&request, answer, recovered).await)
                }
            };
            let Some(door) = door else { return Ok(Ended::Stopped) };
            let setback = match door {
                Ok(Door::To(next, step)) => {
                    debug!(from = stage.as_str(), to = next.as_str(), "door passed");
                    self.ledger.note(request.key, step).await?;
                    stage = next;
                    pause.reset();
                    continue;
                }
                Ok(Door::Out(outcome)) => return self.settle(&request, outcome).await,
                Err(setback) => setback,
            };
            match setback.remedy {
                Remedy::Refuse(refusal) => {
                    return self.settle(&request, Outcome::Refused(refusal)).await;
                }
                Remedy::Hold(hold) => {
                    // Only time in which everyone answered counts towards the expiry.
                    worked += begun.elapsed();
                    if worked >= self.options.request_expiry {
                        return self.settle(&request, Outcome::Expired).await;
                    }
                    warn!(
                        stage = stage.as_str(),
                        reason = hold.reason.as_str(),
                        detail = hold.detail,
                        "request held"
                    );
                    self.ledger.note(request.key, Step::Held(hold)).await?;
                    return Ok(Ended::Held);
                }
                Remedy::Retry => {
                    if setback.why != last_why {
                        warn!(
                            stage = stage.as_str(),
                            why = setback.why,
                            "attempt failed, trying again"
                        );
                        let why = setback.why.clone();
                        self.ledger.note(request.key, Step::Failed { why }).await?;
                        last_why = setback.why;
                    }
                    recovered = true;
                    let waiting = sleep(pause.next_delay());
                    if stop.run_until_cancelled(waiting).await.is_none() {
                        return Ok(Ended::Stopped);
                    }
                }
            }
        }
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
        kms_core::wire::check(request).map_err(|error| Setback::new(error.remedy(), &error))?;
        let fetched = self
            .ciphertexts
            .fetch(request.materials())
            .await
            .map_err(|error| Setback::new(error.remedy(), &error))?;
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
            return Err(Setback::new(Remedy::Retry, "the instance is stopping"));
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
        Err(Setback::new(Remedy::Hold(hold.clone()), hold))
    }

    /// Room 3: poll to an answer.
    async fn poll(&self, request: &Request) -> Result<Door, Setback> {
        let signer = self
            .gateway_config
            .core_signer()
            .await
            .map_err(|error| Setback::new(Remedy::Retry, error))?;
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
                    return Err(Setback::new(Remedy::Retry, why));
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
                Err(Setback::new(Remedy::Hold(hold.clone()), hold))
            }
        }
    }

    /// Room 4.
    async fn submit(
        &self,
        request: &Request,
        answer: &Answer,
        recovered: bool,
    ) -> Result<Door, Setback> {
        let noting = Noting { ledger: &self.ledger, key: request.key };
        let error = match self.submission.submit(request, answer, recovered, &noting).await {
            Ok(outcome) => return Ok(Door::Out(outcome)),
            Err(error) => error,
        };
        if !matches!(error, SubmissionError::Stopped) {
            // Whatever was sent for it is mined and brought nothing, or was never taken.
            noting.note(Step::Returned { why: error.to_string() }).await;
        }
        Err(Setback::new(error.remedy(), &error))
    }
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
