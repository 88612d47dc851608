//! Takes requests from the channels and runs each as a walk: one task and one permit per request.
//! Counts panics.

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
    Flow, QueuedRequest, RequestLedger, Step, WalkReceivers,
    capacity::{Capacity, Permit, PermitHolder, Places},
    ciphertexts::BucketRegistry,
    walk::{WalkEnd, policy},
};
use crate::{
    chain::sender::TransactionSender,
    domain::{LedgerError, RequestKey},
    telemetry::heartbeat::Heartbeat,
};

/// Key operations that are walked at the same time. A contract has one in hand, or two.
const KEY_OPERATIONS_AT_ONCE: usize = 64;

/// The running walks.
#[derive(Default)]
struct Walks {
    tasks: JoinSet<Result<WalkEnd, LedgerError>>,
    /// Each task's request and permit.
    walking: HashMap<Id, (QueuedRequest, Permit)>,
    walked_keys: HashSet<RequestKey>,
    panics: HashMap<RequestKey, u32>,
}

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// Runs each request in a task of its own until `stop`. After that no request is taken in and the Core
    /// is not asked; requests that are answered are finished. Fails only when the journal does.
    pub async fn run(
        self: Arc<Self>,
        mut receivers: WalkReceivers,
        heart: Heartbeat,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let mut walks = Walks::default();
        let mut decryptions = Places::new(self.options.max_in_flight);
        let mut key_operations = Places::new(KEY_OPERATIONS_AT_ONCE);
        let mut final_height = self.final_height.clone();
        loop {
            self.metrics.walking(walks.walked_keys.len(), self.options.max_in_flight);
            heart.rest();
            let height = *final_height.borrow_and_update();
            decryptions.queues.release_final(height);
            key_operations.queues.release_final(height);
            decryptions.queues.release_valid();
            let next_valid = decryptions.queues.next_valid();
            tokio::select! {
                biased;
                Some(ended) = walks.tasks.join_next_with_id() => {
                    heart.beat().await;
                    let (id, result) = match ended {
                        Ok((id, result)) => (id, Ok(result?)),
                        Err(error) => (error.id(), Err(error)),
                    };
                    let Some((mut walked, permit)) = walks.walking.remove(&id) else { continue };
                    let key = walked.request.key;
                    let is_key_operation = walked.request.kind().is_key_operation();
                    let Places { capacity, queues } =
                        if is_key_operation { &mut key_operations } else { &mut decryptions };
                    walks.walked_keys.remove(&key);
                    if let Ok(WalkEnd::NotFinal(block)) = result {
                        queues.walk_ended(walked.request.block);
                        queues.back_to_gate(walked, block, &permit);
                        continue;
                    }
                    if let Ok(WalkEnd::NotYetValid { after }) = result {
                        queues.walk_ended(walked.request.block);
                        queues.wait_until_valid(walked, after);
                        continue;
                    }
                    let panicked = result.is_err_and(|error| error.is_panic());
                    let again =
                        if panicked { self.after_panic(key, &mut walks.panics).await? } else { None };
                    if let Some(pause) = again {
                        // It may have advanced since it began.
                        walked.recovered = true;
                        self.start(&mut walks, walked, permit, pause, capacity, &stop);
                    } else {
                        walks.panics.remove(&key);
                        queues.walk_ended(walked.request.block);
                    }
                }
                () = stop.cancelled() => break,
                Ok(()) = final_height.changed() => {}
                () = next_valid => {}
                Some((place, entry)) =
                    key_operations.next_request(&mut receivers.key_operations, height, true) =>
                {
                    heart.beat().await;
                    self.begin(&mut walks, &mut key_operations, entry, place, &stop);
                }
                next = decryptions.next_request(
                    &mut receivers.decryptions, height, self.dice.coin()
                ) => {
                    let Some((place, entry)) = next else { break };
                    heart.beat().await;
                    self.begin(&mut walks, &mut decryptions, entry, place, &stop);
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

    /// Starts a walk, unless it is running: the retry of held requests may find such a request.
    fn begin(
        self: &Arc<Self>,
        walks: &mut Walks,
        places: &mut Places,
        queued: QueuedRequest,
        mut permit: Permit,
        stop: &CancellationToken,
    ) {
        if walks.walked_keys.contains(&queued.request.key) {
            return;
        }
        permit.share = places.queues.walk_began(queued.request.block);
        self.start(walks, queued, permit, Duration::ZERO, &places.capacity, stop);
    }

    fn start(
        self: &Arc<Self>,
        walks: &mut Walks,
        queued: QueuedRequest,
        permit: Permit,
        pause: Duration,
        capacity: &Capacity,
        stop: &CancellationToken,
    ) {
        let key = queued.request.key;
        let span = error_span!("request", id = %key, kind = %queued.request.kind());
        self.whose.mark(&span);
        let (flow, kept) = (self.clone(), queued.clone());
        let (capacity, share, stop) = (capacity.clone(), permit.share.clone(), stop.clone());
        let walk = async move {
            sleep(pause).await;
            let attendance = queued.attendance.clone();
            let recovered = queued.recovered;
            let holder = PermitHolder {
                attendance: &attendance,
                capacity: &capacity,
                share: &share,
                recovered,
            };
            flow.walk(queued, holder, stop).await
        };
        let handle = walks.tasks.spawn(walk.instrument(span));
        walks.walked_keys.insert(key);
        walks.walking.insert(handle.id(), (kept, permit));
    }

    /// A panic counts as a failed attempt of the request, or holds it. Returns the pause before the next
    /// attempt.
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
        match policy::after_panic(count) {
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
