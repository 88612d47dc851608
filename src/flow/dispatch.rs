//! From the channels into walks: one task per request, a place for each, panics counted.

pub(super) mod turns;

use std::{
    collections::{HashMap, HashSet},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::{Id, JoinSet},
    time::{interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, error_span};

use self::turns::Turns;
use super::{
    Flow, Intake, Intakes, RequestLedger, Step,
    ciphertexts::Buckets,
    intake::Hand,
    walk::{Ended, policy},
};
use crate::{
    domain::{LedgerError, RequestKey},
    gateway::provider::Provider,
    heart::Heart,
    traces,
};

/// While no place is free, one is asked back so often.
const ASK_BACK_EVERY: Duration = Duration::from_millis(250);

/// A place among the walks under way.
#[derive(Debug)]
pub(super) struct Place {
    _one: OwnedSemaphorePermit,
    /// In the half that is open to requests out of the journal.
    _again: Option<OwnedSemaphorePermit>,
}

/// So many places, and whether a request waits for one.
#[derive(Clone, Debug)]
struct Hall {
    permits: Arc<Semaphore>,
    /// The dispatcher waits for a place, and a request for the dispatcher.
    full: Arc<AtomicBool>,
    /// One place is wanted back; whoever waits for it longest gives way.
    wanted: Arc<Notify>,
}

impl Hall {
    fn new(places: usize) -> Self {
        let permits = Arc::new(Semaphore::new(places));
        Self { permits, full: Arc::default(), wanted: Arc::default() }
    }

    /// A place; `waiting` says whether a request waits for it.
    async fn place(&self, waiting: impl Fn() -> bool) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            self.full.store(false, Ordering::Relaxed);
            return Some(permit);
        }
        let mut free = pin!(self.permits.clone().acquire_owned());
        let mut ask_back = interval(ASK_BACK_EVERY);
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut free => break permit.ok(),
                _ = ask_back.tick() => {
                    let waiting = waiting();
                    self.full.store(waiting, Ordering::Relaxed);
                    if waiting {
                        self.wanted.notify_one();
                    }
                }
            }
        };
        self.full.store(false, Ordering::Relaxed);
        permit
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }
}

/// How many walks there may be.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Hall,
    again: Hall,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { all: Hall::new(max), again: Hall::new(max.div_ceil(2)) }
    }

    /// Whether another request waits for the place of one that came from the chain, or, `recovered`,
    /// out of the journal.
    pub(super) fn full(&self, recovered: bool) -> bool {
        self.all.is_full() || (recovered && self.again.is_full())
    }

    /// Until the place of a request, as in [`Self::full`], is wanted for another one. Of those who
    /// wait here, one at a time hears of it, in the order in which they came.
    pub(super) async fn wanted(&self, recovered: bool) {
        loop {
            tokio::select! {
                () = self.all.wanted.notified() => {}
                () = self.again.wanted.notified(), if recovered => {}
            }
            // It may have been wanted when nobody waited here.
            if self.full(recovered) {
                return;
            }
        }
    }

    /// The next request, once there is a place for it: what is not taken out of its channel makes
    /// the room before wait. `None`: there will be no more. Dropping the future loses nothing.
    pub(super) async fn next(
        &self,
        intakes: &mut Intakes,
        turns: &mut Turns,
    ) -> Option<(Place, Intake)> {
        let Intakes { fresh, again } = intakes;
        let waiting = || turns.is_anyones() || !fresh.is_empty() || !again.is_empty();
        let one = self.all.place(waiting).await?;
        if let Some(intake) = turns.next() {
            return Some((Place { _one: one, _again: None }, intake));
        }
        let fresh = pin!(async {
            loop {
                let intake = fresh.recv().await?;
                if let Some(intake) = turns.admit(intake) {
                    return Some((None, intake));
                }
            }
        });
        let recovered = pin!(async {
            let permit = self.again.place(|| !again.is_empty()).await?;
            Some((Some(permit), again.recv().await?))
        });
        // In no fixed order: neither side can starve the other. The dice are ours, because those
        // of `select!` cannot be seeded.
        let (first, second): (Side<'_>, Side<'_>) =
            if fastrand::bool() { (fresh, recovered) } else { (recovered, fresh) };
        let next = tokio::select! {
            biased;
            Some(next) = first => Some(next),
            Some(next) = second => Some(next),
            else => None,
        };
        next.map(|(again, intake)| (Place { _one: one, _again: again }, intake))
    }
}

/// The place of a walk, which another request may want.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat<'a> {
    pub hand: &'a Hand,
    pub places: &'a Places,
    /// The request came out of the journal.
    pub recovered: bool,
}

impl Seat<'_> {
    pub(super) fn is_wanted(self) -> bool {
        self.places.full(self.recovered)
    }

    /// Until it is wanted, not before `patience` is over.
    pub(super) async fn wanted_after(self, patience: Duration) {
        sleep(patience).await;
        self.places.wanted(self.recovered).await;
    }
}

/// One of the two channels, with the permit that its requests need beside a place.
type Side<'a> =
    Pin<&'a mut (dyn Future<Output = Option<(Option<OwnedSemaphorePermit>, Intake)>> + Send)>;

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
        heart: Heart,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let places = Places::new(self.options.max_in_flight);
        let (mut walks, mut turns) = (Walks::default(), Turns::new(self.options.max_in_flight));
        loop {
            self.metrics.walking(walks.in_hand.len(), self.options.max_in_flight);
            heart.rest();
            tokio::select! {
                biased;
                Some(ended) = walks.tasks.join_next_with_id() => {
                    heart.beat().await;
                    let (id, result) = match ended {
                        Ok((id, result)) => (id, Ok(result?)),
                        Err(error) => (error.id(), Err(error)),
                    };
                    let Some((mut walked, place)) = walks.walking.remove(&id) else { continue };
                    let key = walked.request.key;
                    walks.in_hand.remove(&key);
                    let panicked = result.is_err_and(|error| error.is_panic());
                    let again =
                        if panicked { self.after_panic(key, &mut walks.panics).await? } else { None };
                    if let Some(pause) = again {
                        // It may have got further than it began.
                        walked.recovered = true;
                        self.start(&mut walks, walked, place, pause, &places, &stop);
                    } else {
                        walks.panics.remove(&key);
                        turns.ended(walked.request.block);
                    }
                }
                () = stop.cancelled() => break,
                next = places.next(&mut intakes, &mut turns) => {
                    let Some((place, intake)) = next else { break };
                    heart.beat().await;
                    // The held retry may find what is walking already.
                    if !walks.in_hand.contains(&intake.request.key) {
                        turns.begun(intake.request.block);
                        self.start(&mut walks, intake, place, Duration::ZERO, &places, &stop);
                    }
                }
            }
        }
        heart.rest();
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
        let span = error_span!("request", id = %key, kind = %intake.request.kind());
        traces::of_instance(&span, &self.name);
        let (flow, kept) = (self.clone(), intake.clone());
        let (places, stop) = (places.clone(), stop.clone());
        let walk = async move {
            sleep(pause).await;
            let hand = intake.hand.clone();
            let seat = Seat { hand: &hand, places: &places, recovered: intake.recovered };
            flow.walk(intake, seat, stop).await
        };
        let handle = walks.tasks.spawn(walk.instrument(span));
        walks.in_hand.insert(key);
        walks.walking.insert(handle.id(), (kept, place));
    }

    /// A panic is that request's failed attempt, or holds it. Answers after which pause it is tried
    /// again.
    async fn after_panic(
        &self,
        key: RequestKey,
        panics: &mut HashMap<RequestKey, u32>,
    ) -> Result<Option<Duration>, LedgerError> {
        let count = panics.entry(key).or_default();
        *count += 1;
        let count = *count;
        error!(request = %key, count, "the walk of a request panicked");
        self.metrics.walk_panicked();
        match policy::panicked(count) {
            Ok(pause) => {
                self.ledger.note(key, Step::Failed { why: "its walk panicked".to_owned() }).await?;
                Ok(Some(pause))
            }
            Err(hold) => {
                self.metrics.held(hold.reason);
                self.ledger.note(key, Step::Held(hold)).await?;
                Ok(None)
            }
        }
    }
}
