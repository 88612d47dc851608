//! The walk of an instance that only observes: rooms 1 and 2. It holds no KMS Core, no wallet and no
//! lane, so that there is nothing it could ask or send with.
//!
//! A request whose ciphertexts were fetched and proven ends as [`Outcome::Observed`]. It is an end of
//! its own, so that nothing is left unfinished for ever and nothing is taken for answered; and since
//! an observing instance keeps a journal apart, no instance that answers ever reads it. What time or
//! an operator could mend is held and tried again, as where requests are answered.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, error_span, warn};

use super::{
    Intake, Intakes, RequestLedger, Step,
    ciphertexts::{Buckets, Ciphertexts, Refusals},
    confirmation::{Confirmation, Confirmed},
    dispatch::{Place, Places, Seat},
    intake::Doing,
    kms_core::wire,
    walk::unsupported,
};
use crate::{
    backoff::Backoff,
    domain::{Hold, HoldReason, LedgerError, Outcome, Remedy, Request, RequestKey},
    gateway::{decryption::Support, provider::Provider},
    heart::Heart,
    metrics::Metrics,
    repeats::Repeats,
};

/// A request that got nowhere for so long gives its place to one that waits for it.
const GIVE_WAY_AFTER: Duration = Duration::from_secs(20);

/// What observes.
#[derive(Debug)]
pub struct Observation<P, B, L> {
    pub ciphertexts: Ciphertexts<B>,
    /// Who is asked before a request ends that makes no sense.
    pub confirmation: Confirmation<P>,
    /// Whether the deployed contract is one whose requests could be answered.
    pub support: watch::Receiver<Support>,
    pub ledger: L,
    /// Requests looked at at the same time.
    pub max_in_flight: usize,
    /// Ceiling of the pause between attempts.
    pub retry_interval: Duration,
    /// What is wrong with many requests at once is said once.
    pub repeats: Mutex<Repeats>,
    pub metrics: Metrics,
    /// How many were observed.
    pub observed: watch::Sender<u64>,
}

/// Those that are looked at.
#[derive(Default)]
struct InHand {
    tasks: JoinSet<Result<(), LedgerError>>,
    by_task: HashMap<Id, (RequestKey, Place)>,
    keys: HashSet<RequestKey>,
}

impl<P: Provider, B: Buckets, L: RequestLedger> Observation<P, B, L> {
    /// Takes requests in and looks at each in a task of its own, until `stop`: what is in hand then
    /// stays in the journal. Fails only when the journal does.
    pub async fn run(
        self: Arc<Self>,
        mut intakes: Intakes,
        heart: Heart,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let places = Places::new(self.max_in_flight);
        let mut in_hand = InHand::default();
        loop {
            heart.rest();
            tokio::select! {
                biased;
                Some(ended) = in_hand.tasks.join_next_with_id() => {
                    heart.beat().await;
                    let (id, result) = match ended {
                        Ok((id, result)) => (id, Ok(result?)),
                        Err(error) => (error.id(), Err(error)),
                    };
                    let Some((key, _place)) = in_hand.by_task.remove(&id) else { continue };
                    in_hand.keys.remove(&key);
                    if result.is_err_and(|error| error.is_panic()) {
                        error!(request = %key, "the walk of a request panicked");
                        let detail = "its walk panicked; please report the log of this request";
                        let hold = Hold::new(HoldReason::Panicked, detail);
                        self.ledger.note(key, Step::Held(hold)).await?;
                    }
                }
                () = stop.cancelled() => break,
                next = places.next(&mut intakes) => {
                    let Some((place, intake)) = next else { break };
                    heart.beat().await;
                    let key = intake.request.key;
                    // The held retry may find what is in hand already.
                    if in_hand.keys.insert(key) {
                        let (this, places, stop) = (self.clone(), places.clone(), stop.clone());
                        let span = error_span!("request", id = %key, kind = %intake.request.kind());
                        let looking = async move { this.observe(intake, &places, &stop).await };
                        let task = in_hand.tasks.spawn(looking.instrument(span));
                        in_hand.by_task.insert(task.id(), (key, place));
                    }
                }
            }
        }
        heart.rest();
        while let Some(ended) = in_hand.tasks.join_next().await {
            if let Ok(result) = ended {
                result?;
            }
        }
        Ok(())
    }

    /// One request, to its end or until it is held.
    async fn observe(
        &self,
        intake: Intake,
        places: &Places,
        stop: &CancellationToken,
    ) -> Result<(), LedgerError> {
        let Intake { request, recovered, hand } = intake;
        let (key, mut held_before) = (request.key, None);
        if recovered {
            // Settled meanwhile: nothing is left to do.
            let Some(standing) = self.ledger.standing(key).await? else { return Ok(()) };
            held_before = standing.held;
        }
        let seat = Seat { hand: &hand, places, recovered };
        let mut pause = Backoff::new(Duration::from_millis(200), self.retry_interval);
        let (begun, mut last_why) = (Instant::now(), String::new());
        let mut refusals = Refusals::begin(held_before);
        loop {
            hand.does(Doing::Fetching);
            let looking = self.look(&request, &mut refusals);
            let Some(looked) = stop.run_until_cancelled(looking).await else {
                return Ok(());
            };
            let Err((remedy, why)) = looked else {
                debug!("observed: the KMS Core would be asked now");
                self.observed.send_modify(|count| *count += 1);
                return self.ledger.note(key, Step::Settled(Outcome::Observed)).await;
            };
            let hold = match remedy {
                Remedy::Refuse(refusal) => {
                    match self.confirmation.of(&request, held_before).await {
                        Confirmed::NotYet(hold) => hold,
                        Confirmed::Gone => {
                            let gone = Step::Settled(Outcome::Orphaned);
                            return self.ledger.note(key, gone).await;
                        }
                        Confirmed::Yes => {
                            warn!(why = %refusal, "observed: the request would be refused");
                            let refused = Step::Settled(Outcome::Refused(refusal));
                            return self.ledger.note(key, refused).await;
                        }
                    }
                }
                Remedy::Hold(hold) => {
                    if hold.reason == HoldReason::UnsupportedType {
                        self.confirmation.read_again(&request);
                    }
                    hold
                }
                Remedy::Retry if begun.elapsed() >= GIVE_WAY_AFTER && seat.is_wanted() => {
                    Hold::new(HoldReason::NoProgress, why)
                }
                Remedy::Retry => {
                    hand.failed();
                    if let Some(times) = self.heard(&why) {
                        warn!(why, times, "attempt failed, trying again");
                    }
                    if why != last_why {
                        self.ledger.note(key, Step::Failed { why: why.clone() }).await?;
                        last_why = why;
                    }
                    if stop.run_until_cancelled(sleep(pause.next_delay())).await.is_none() {
                        return Ok(());
                    }
                    continue;
                }
            };
            if held_before != Some(hold.reason)
                && let Some(times) = self.heard(&format!("held {hold}"))
            {
                warn!(reason = hold.reason.as_str(), detail = hold.detail, times, "request held");
            }
            self.metrics.held(hold.reason);
            return self.ledger.note(key, Step::Held(hold)).await;
        }
    }

    fn heard(&self, cause: &str) -> Option<u64> {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.heard(cause, Instant::now())
    }

    /// All that comes before the Core is asked.
    async fn look(
        &self,
        request: &Request,
        refusals: &mut Refusals,
    ) -> Result<(), (Remedy, String)> {
        let mut support = self.support.clone();
        let known = support.wait_for(|support| !matches!(support, Support::Upgraded { .. })).await;
        let Ok(support) = known.map(|support| support.clone()) else {
            return Err((Remedy::Retry, "the instance is stopping".to_owned()));
        };
        if let Some(hold) = unsupported(request, &support) {
            let why = hold.to_string();
            return Err((Remedy::Hold(hold), why));
        }
        wire::check(request).map_err(|error| (error.remedy(), error.to_string()))?;
        // Dropped as soon as they are proven.
        let fetched = self.ciphertexts.fetch(request.materials()).await;
        fetched
            .map(drop)
            .map_err(|error| (refusals.weigh(&error, Instant::now()), error.to_string()))
    }
}
