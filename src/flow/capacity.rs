//! How many walks there may be: a place for each, of which half are open to requests out of the journal.
//! A walk that only waits gives its place to who waits for one.

mod not_final;
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
    time::{interval, sleep},
};

use self::waiting_queue::WaitingQueue;
use super::{QueuedRequest, WalkReceivers, walk_queue::AttendanceGuard};
use crate::domain::BlockRef;
use crate::flow::finality::rule::FinalHeight;

/// While no place is free, one is asked back so often.
const RECALL_INTERVAL: Duration = Duration::from_millis(250);

/// A place among the walks under way.
#[derive(Debug)]
pub(super) struct Permit {
    _total: OwnedSemaphorePermit,
    /// In the half that is open to requests out of the journal.
    _recovered: Option<OwnedSemaphorePermit>,
    /// Of its request's block.
    pub share: Wanted,
}

/// Whether one of some places is wanted for another request, told to those that have them. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Arc<Want>);

#[derive(Debug, Default)]
struct Want {
    is_one: AtomicBool,
    /// Of those that would give way, held by the one that has waited longest.
    turn: Mutex<()>,
}

impl Wanted {
    fn set(&self, is_one: bool) {
        self.0.is_one.store(is_one, Ordering::Relaxed);
    }

    fn is_one(&self) -> bool {
        self.0.is_one.load(Ordering::Relaxed)
    }

    /// Until one is. Of those who wait here one at a time hears of it, in the order in which they came, and
    /// the next one when it is said again.
    async fn one(&self) {
        let _turn = self.0.turn.lock().await;
        while !self.0.is_one.swap(false, Ordering::Relaxed) {
            sleep(RECALL_INTERVAL).await;
        }
    }
}

/// So many places.
#[derive(Clone, Debug)]
struct PermitPool {
    permits: Arc<Semaphore>,
    /// The dispatcher waits for a place, and a request for the dispatcher.
    recall: Wanted,
}

impl PermitPool {
    fn new(places: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(places)), recall: Wanted::default() }
    }

    /// A place; `waiting` says whether a request waits for it.
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

/// How many walks there may be.
#[derive(Clone, Debug)]
pub(super) struct Capacity {
    total: PermitPool,
    recovered: PermitPool,
}

impl Capacity {
    pub(super) fn new(max: usize) -> Self {
        Self { total: PermitPool::new(max), recovered: PermitPool::new(max.div_ceil(2)) }
    }

    /// Whether another request waits for the place of one that came from the chain, or, `recovered`,
    /// out of the journal.
    pub(super) fn is_contended(&self, recovered: bool) -> bool {
        self.total.recall.is_one() || (recovered && self.recovered.recall.is_one())
    }

    /// Until the place of a request, as in [`Self::is_contended`], is wanted for another one.
    pub(super) async fn wait_recalled(&self, recovered: bool) {
        tokio::select! {
            biased;
            () = self.total.recall.one() => {}
            () = self.recovered.recall.one(), if recovered => {}
        }
    }

    /// The next request that may be walked under this line, once there is a place for it: what is not taken
    /// out of its channel makes the room before wait. `None`: there will be no more. Dropping the future
    /// loses nothing. `coin`: which kind is looked at first.
    pub(super) async fn next_request(
        &self,
        receivers: &mut WalkReceivers,
        queues: &mut WaitingQueues,
        final_height: FinalHeight,
        coin: bool,
    ) -> Option<(Permit, QueuedRequest)> {
        let (
            WalkReceivers { from_chain: fresh, from_journal: again },
            WaitingQueues { from_chain: queue, from_journal: recovered_queue },
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
        // In no fixed order: neither side can starve the other. The dice are ours, because those
        // of `select!` cannot be seeded.
        let (first, second): (NextFromQueue<'_>, NextFromQueue<'_>) =
            if coin { (fresh, recovered) } else { (recovered, fresh) };
        let next = tokio::select! {
            biased;
            Some(next) = first => Some(next),
            Some(next) = second => Some(next),
            else => None,
        };
        next.map(|(again, intake)| {
            (Permit { _total: one, _recovered: again, share: Wanted::default() }, intake)
        })
    }
}

/// Those that wait before their walk, of each channel.
#[derive(Debug)]
pub(super) struct WaitingQueues {
    from_chain: WaitingQueue,
    from_journal: WaitingQueue,
}

impl WaitingQueues {
    /// Of so many places those of one block may have three quarters. What comes again has half anyway.
    pub(super) fn new(places: usize) -> Self {
        Self {
            from_chain: WaitingQueue::new(places - places / 4),
            from_journal: WaitingQueue::new(places),
        }
    }

    /// One of this block is walked: in its share of the places.
    pub(super) fn walk_began(&mut self, block: BlockRef) -> Wanted {
        self.from_chain.walk_began(block)
    }

    pub(super) fn walk_ended(&mut self, block: BlockRef) {
        self.from_chain.walk_ended(block);
    }

    /// The line is here now.
    pub(super) fn release_final(&mut self, final_height: FinalHeight) {
        self.from_chain.release_final(final_height);
        self.from_journal.release_final(final_height);
    }
}

/// The next one out of a channel that may be walked.
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
            // Until the line moves.
            std::future::pending::<()>().await;
        }
        let queued = channel.recv().await?;
        if let Some(queued) = queue.admit(queued, final_height) {
            return Some(queued);
        }
    }
}

/// The place of a walk, which another request may want.
#[derive(Clone, Copy, Debug)]
pub(super) struct PermitHolder<'a> {
    pub attendance: &'a AttendanceGuard,
    pub capacity: &'a Capacity,
    /// Those of a block that has its share of the places give way to the rest of the block, although
    /// places are free.
    pub share: &'a Wanted,
    /// The request came out of the journal.
    pub recovered: bool,
}

impl PermitHolder<'_> {
    pub(super) fn is_recalled(self) -> bool {
        self.capacity.is_contended(self.recovered) || self.share.is_one()
    }

    /// Until it is wanted, not before `patience` is over.
    pub(super) async fn wait_recalled_after(self, patience: Duration) {
        sleep(patience).await;
        tokio::select! {
            biased;
            () = self.capacity.wait_recalled(self.recovered) => {}
            () = self.share.one() => {}
        }
    }
}

/// One of the two channels, with the permit that its requests need beside a place.
type NextFromQueue<'a> = Pin<
    &'a mut (dyn Future<Output = Option<(Option<OwnedSemaphorePermit>, QueuedRequest)>> + Send),
>;
