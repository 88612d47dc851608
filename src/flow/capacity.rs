//! Limits the number of walks: each needs a permit, and at most half of the permits go to requests from
//! the journal. A walk that only waits gives its permit to a request that needs one. Decryptions and key
//! operations have permits of their own ([`Places`]).

mod not_final;
mod not_yet_valid;
mod waiting_queue;

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, interval, sleep, sleep_until},
};

use self::{not_yet_valid::NotYetValid, waiting_queue::WaitingQueue};
use super::{
    QueueReceivers, QueuedRequest,
    walk_queue::{Activity, AttendanceGuard},
};
use crate::{
    domain::{BlockRef, Request},
    flow::finality::rule::FinalHeight,
};

/// How often a permit is recalled while none is free.
const RECALL_INTERVAL: Duration = Duration::from_millis(250);

/// The right to run one walk.
#[derive(Debug)]
pub(super) struct Permit {
    _total: OwnedSemaphorePermit,
    /// One of the half that requests from the journal may use.
    recovered: Option<OwnedSemaphorePermit>,
    /// Of its request's block.
    pub share: Wanted,
}

/// Tells the holders of a set of permits that one of them is wanted. Clones share the signal.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Arc<Want>);

#[derive(Debug, Default)]
struct Want {
    is_one: AtomicBool,
    /// Held by the first of the holders that wait to give way.
    turn: Mutex<()>,
}

impl Wanted {
    fn set(&self, is_one: bool) {
        self.0.is_one.store(is_one, Ordering::Relaxed);
    }

    fn is_one(&self) -> bool {
        self.0.is_one.load(Ordering::Relaxed)
    }

    /// Completes when one is wanted. One holder at a time is notified, in the order in which they began to
    /// wait; the next one when the signal is set again.
    async fn one(&self) {
        let _turn = self.0.turn.lock().await;
        while !self.0.is_one.swap(false, Ordering::Relaxed) {
            sleep(RECALL_INTERVAL).await;
        }
    }
}

/// A fixed number of permits.
#[derive(Clone, Debug)]
struct PermitPool {
    permits: Arc<Semaphore>,
    /// Set while the dispatcher waits for a permit and a request waits for the dispatcher.
    recall: Wanted,
}

impl PermitPool {
    fn new(places: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(places)), recall: Wanted::default() }
    }

    /// Waits for a permit. `waiting` tells whether a request needs it.
    async fn acquire(&self, waiting: impl Fn() -> bool) -> Option<OwnedSemaphorePermit> {
        let mut free = pin!(self.permits.clone().acquire_owned());
        let mut ask_back = interval(RECALL_INTERVAL);
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut free => break permit.ok(),
                _ = ask_back.tick() => self.recall.set(waiting()),
            }
        };
        self.recall.set(false);
        permit
    }
}

/// The permits of all walks.
#[derive(Clone, Debug)]
pub(super) struct Capacity {
    total: PermitPool,
    recovered: PermitPool,
}

impl Capacity {
    pub(super) fn new(max: usize) -> Self {
        Self { total: PermitPool::new(max), recovered: PermitPool::new(max.div_ceil(2)) }
    }

    /// Returns whether another request waits for the permit of a request from the chain or, if `recovered`,
    /// from the journal.
    pub(super) fn is_contended(&self, recovered: bool) -> bool {
        self.total.recall.is_one() || (recovered && self.recovered.recall.is_one())
    }

    /// Completes when the permit is wanted, as in [`Self::is_contended`].
    pub(super) async fn wait_recalled(&self, recovered: bool) {
        tokio::select! {
            biased;
            () = self.total.recall.one() => {}
            () = self.recovered.recall.one(), if recovered => {}
        }
    }

    /// Returns the next request at or below the final height, together with a permit. Requests that are not
    /// taken stay in their channel and make the sender wait. `None`: both channels are closed. Cancel-safe.
    /// `coin`: which channel is polled first.
    pub(super) async fn next_request(
        &self,
        receivers: &mut QueueReceivers,
        queues: &mut WaitingQueues,
        final_height: FinalHeight,
        coin: bool,
    ) -> Option<(Permit, QueuedRequest)> {
        let (
            QueueReceivers { from_chain: fresh, from_journal: again },
            WaitingQueues { from_chain: queue, from_journal: recovered_queue, .. },
        ) = (receivers, queues);
        let waiting = || {
            queue.has_ready()
                || !fresh.is_empty()
                || recovered_queue.has_ready()
                || !again.is_empty()
        };
        let one = self.total.acquire(waiting).await?;
        let fresh = pin!(async { Some((None, next_ready(fresh, queue, final_height).await?)) });
        let recovered = pin!(async {
            let waiting = || recovered_queue.has_ready() || !again.is_empty();
            let permit = self.recovered.acquire(waiting).await?;
            Some((Some(permit), next_ready(again, recovered_queue, final_height).await?))
        });
        // In random order, so that neither side can starve the other. Our own dice, because those of
        // `select!` cannot be seeded.
        let (first, second): (NextFromQueue<'_>, NextFromQueue<'_>) =
            if coin { (fresh, recovered) } else { (recovered, fresh) };
        let next = tokio::select! {
            biased;
            Some(next) = first => Some(next),
            Some(next) = second => Some(next),
            else => None,
        };
        next.map(|(again, intake)| {
            (Permit { _total: one, recovered: again, share: Wanted::default() }, intake)
        })
    }
}

/// The permits and the waiting requests of one class.
#[derive(Debug)]
pub(super) struct Places {
    pub capacity: Capacity,
    pub queues: WaitingQueues,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { capacity: Capacity::new(max), queues: WaitingQueues::new(max) }
    }

    /// As [`Capacity::next_request`].
    pub(super) async fn next_request(
        &mut self,
        receivers: &mut QueueReceivers,
        final_height: FinalHeight,
        coin: bool,
    ) -> Option<(Permit, QueuedRequest)> {
        self.capacity.next_request(receivers, &mut self.queues, final_height, coin).await
    }
}

/// The waiting requests of each channel.
#[derive(Debug)]
pub(super) struct WaitingQueues {
    from_chain: WaitingQueue,
    from_journal: WaitingQueue,
    not_yet_valid: NotYetValid,
}

impl WaitingQueues {
    /// Requests of one block may hold three quarters of the permits. Those from the journal are limited to
    /// half anyway.
    pub(super) fn new(places: usize) -> Self {
        Self {
            from_chain: WaitingQueue::new(places - places / 4),
            from_journal: WaitingQueue::new(places),
            not_yet_valid: NotYetValid::default(),
        }
    }

    /// Records that a request of this block is being processed, and returns its block's share.
    pub(super) fn walk_began(&mut self, block: BlockRef) -> Wanted {
        self.from_chain.walk_began(block)
    }

    pub(super) fn walk_ended(&mut self, block: BlockRef) {
        self.from_chain.walk_ended(block);
    }

    /// A walk found its request in `block`, which is not final yet. Its permit is that of the walk.
    pub(super) fn back_to_gate(&mut self, walked: QueuedRequest, block: BlockRef, permit: &Permit) {
        walked.attendance.set_activity(Activity::NotFinal);
        let request = Request { block, ..walked.request };
        // It may have advanced since it began.
        let queued = QueuedRequest { request, recovered: true, is_final: false, ..walked };
        let queue = match permit.recovered {
            Some(_) => &mut self.from_journal,
            None => &mut self.from_chain,
        };
        queue.wait_until_final(queued);
    }

    /// A walk ended with its request held, which after this time the user's signature allows.
    pub(super) fn wait_until_valid(&mut self, walked: QueuedRequest, after: Duration) {
        walked.attendance.set_activity(Activity::Waiting);
        let queued = QueuedRequest { recovered: true, is_final: true, ..walked };
        self.not_yet_valid.push(queued, after, Instant::now());
    }

    /// Completes when [`Self::release_valid`] has something to do.
    pub(super) fn next_valid(&self) -> impl Future<Output = ()> + use<> {
        let at = self.not_yet_valid.next();
        async move {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Requests that have become valid wait for a permit as those from the journal.
    pub(super) fn release_valid(&mut self) {
        for queued in self.not_yet_valid.take_valid(Instant::now()) {
            self.from_journal.defer(queued);
        }
    }

    /// The final height has risen.
    pub(super) fn release_final(&mut self, final_height: FinalHeight) {
        self.from_chain.release_final(final_height);
        self.from_journal.release_final(final_height);
    }
}

/// The next request of a channel that may be processed.
async fn next_ready(
    channel: &mut mpsc::Receiver<QueuedRequest>,
    queue: &mut WaitingQueue,
    final_height: FinalHeight,
) -> Option<QueuedRequest> {
    if let Some(queued) = queue.pop_ready() {
        return Some(queued);
    }
    loop {
        if queue.is_full() {
            // Until the final height rises.
            std::future::pending::<()>().await;
        }
        let queued = channel.recv().await?;
        if let Some(queued) = queue.admit(queued, final_height) {
            return Some(queued);
        }
    }
}

/// A walk's view of its own permit, which another request may want.
#[derive(Clone, Copy, Debug)]
pub(super) struct PermitHolder<'a> {
    pub attendance: &'a AttendanceGuard,
    pub capacity: &'a Capacity,
    /// A block at its limit: its walks give way to its waiting requests even though permits are free.
    pub share: &'a Wanted,
    /// The request came from the journal.
    pub recovered: bool,
}

impl PermitHolder<'_> {
    pub(super) fn is_recalled(self) -> bool {
        self.capacity.is_contended(self.recovered) || self.share.is_one()
    }

    /// Completes when the permit is wanted, but not before `patience` has passed.
    pub(super) async fn wait_recalled_after(self, patience: Duration) {
        sleep(patience).await;
        tokio::select! {
            biased;
            () = self.capacity.wait_recalled(self.recovered) => {}
            () = self.share.one() => {}
        }
    }
}

/// The next request of one channel, with the second permit that requests from the journal need.
type NextFromQueue<'a> = Pin<
    &'a mut (dyn Future<Output = Option<(Option<OwnedSemaphorePermit>, QueuedRequest)>> + Send),
>;
