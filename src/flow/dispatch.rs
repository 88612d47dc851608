//! From the channels into walks: one task per request, a place for each, panics counted.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{Id, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, error_span};

use super::{
    Flow, Intake, Intakes, RequestLedger, Step,
    capacity::{Place, Places, Rows, Seat},
    ciphertexts::Buckets,
    walk::{Ended, policy},
};
use crate::{
    domain::{LedgerError, RequestKey},
    gateway::provider::TransactionSender,
    heart::Heart,
};

/// The walks under way.
#[derive(Default)]
struct Walks {
    tasks: JoinSet<Result<Ended, LedgerError>>,
    /// What each of them walks, and its place.
    walking: HashMap<Id, (Intake, Place)>,
    in_hand: HashSet<RequestKey>,
    panics: HashMap<RequestKey, u32>,
}

impl<P: TransactionSender, B: Buckets, L: RequestLedger> Flow<P, B, L> {
    /// Takes requests in and walks each in a task of its own, until `stop`; then no request is
    /// taken in, none is asked, and what is answered is finished. Fails only when the journal does.
    pub async fn run(
        self: Arc<Self>,
        mut intakes: Intakes,
        heart: Heart,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let (mut walks, mut rows) = (Walks::default(), Rows::new(self.options.max_in_flight));
        let places = Places::new(self.options.max_in_flight);
        let mut line = self.line.clone();
        loop {
            self.metrics.walking(walks.in_hand.len(), self.options.max_in_flight);
            heart.rest();
            let covers = *line.borrow_and_update();
            rows.ripen(covers);
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
                        rows.ended(walked.request.block);
                    }
                }
                () = stop.cancelled() => break,
                Ok(()) = line.changed() => {}
                next = places.next(&mut intakes, &mut rows, covers, self.dice.coin()) => {
                    let Some((mut place, intake)) = next else { break };
                    heart.beat().await;
                    // The held retry may find what is walking already.
                    if !walks.in_hand.contains(&intake.request.key) {
                        place.share = rows.begun(intake.request.block);
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
        self.whose.mark(&span);
        let (flow, kept) = (self.clone(), intake.clone());
        let (places, share, stop) = (places.clone(), place.share.clone(), stop.clone());
        let walk = async move {
            sleep(pause).await;
            let hand = intake.hand.clone();
            let recovered = intake.recovered;
            let seat = Seat { hand: &hand, places: &places, share: &share, recovered };
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
