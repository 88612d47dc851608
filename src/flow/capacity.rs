//! How many walks there may be: a place for each, of which half are open to requests out of the journal.
//! A walk that only waits gives its place to who waits for one.

mod unripe;
mod waiting;

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

use self::waiting::Waiting;
use super::{Intake, Intakes, depth::Line, intake::Hand};
use crate::domain::BlockRef;

/// While no place is free, one is asked back so often.
const ASK_BACK_EVERY: Duration = Duration::from_millis(250);

/// A place among the walks under way.
#[derive(Debug)]
pub(super) struct Place {
    _one: OwnedSemaphorePermit,
    /// In the half that is open to requests out of the journal.
    _again: Option<OwnedSemaphorePermit>,
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
            sleep(ASK_BACK_EVERY).await;
        }
    }
}

/// So many places.
#[derive(Clone, Debug)]
struct Hall {
    permits: Arc<Semaphore>,
    /// The dispatcher waits for a place, and a request for the dispatcher.
    wanted: Wanted,
}

impl Hall {
    fn new(places: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(places)), wanted: Wanted::default() }
    }

    /// A place; `waiting` says whether a request waits for it.
    async fn place(&self, waiting: impl Fn() -> bool) -> Option<OwnedSemaphorePermit> {
        let mut free = pin!(self.permits.clone().acquire_owned());
        let mut ask_back = interval(ASK_BACK_EVERY);
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut free => break permit.ok(),
                _ = ask_back.tick() => self.wanted.set(waiting()),
            }
        };
        self.wanted.set(false);
        permit
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
        self.all.wanted.is_one() || (recovered && self.again.wanted.is_one())
    }

    /// Until the place of a request, as in [`Self::full`], is wanted for another one.
    pub(super) async fn wanted(&self, recovered: bool) {
        tokio::select! {
            biased;
            () = self.all.wanted.one() => {}
            () = self.again.wanted.one(), if recovered => {}
        }
    }

    /// The next request that may be walked under this line, once there is a place for it: what is not taken
    /// out of its channel makes the room before wait. `None`: there will be no more. Dropping the future
    /// loses nothing. `coin`: which kind is looked at first.
    pub(super) async fn next(
        &self,
        intakes: &mut Intakes,
        rows: &mut Rows,
        line: Line,
        coin: bool,
    ) -> Option<(Place, Intake)> {
        let (Intakes { fresh, again }, Rows { fresh: row, again: row_again }) = (intakes, rows);
        let waiting =
            || row.is_anyones() || !fresh.is_empty() || row_again.is_anyones() || !again.is_empty();
        let one = self.all.place(waiting).await?;
        let fresh = pin!(async { Some((None, come(fresh, row, line).await?)) });
        let recovered = pin!(async {
            let waiting = || row_again.is_anyones() || !again.is_empty();
            let permit = self.again.place(waiting).await?;
            Some((Some(permit), come(again, row_again, line).await?))
        });
        // In no fixed order: neither side can starve the other. The dice are ours, because those
        // of `select!` cannot be seeded.
        let (first, second): (Side<'_>, Side<'_>) =
            if coin { (fresh, recovered) } else { (recovered, fresh) };
        let next = tokio::select! {
            biased;
            Some(next) = first => Some(next),
            Some(next) = second => Some(next),
            else => None,
        };
        next.map(|(again, intake)| {
            (Place { _one: one, _again: again, share: Wanted::default() }, intake)
        })
    }
}

/// Those that wait before their walk, of each channel.
#[derive(Debug)]
pub(super) struct Rows {
    fresh: Waiting,
    again: Waiting,
}

impl Rows {
    /// Of so many places those of one block may have three quarters. What comes again has half anyway.
    pub(super) fn new(places: usize) -> Self {
        Self { fresh: Waiting::new(places - places / 4), again: Waiting::new(places) }
    }

    /// One of this block is walked: in its share of the places.
    pub(super) fn begun(&mut self, block: BlockRef) -> Wanted {
        self.fresh.begun(block)
    }

    pub(super) fn ended(&mut self, block: BlockRef) {
        self.fresh.ended(block);
    }

    /// The line is here now.
    pub(super) fn ripen(&mut self, line: Line) {
        self.fresh.ripen(line);
        self.again.ripen(line);
    }
}

/// The next one out of a channel that may be walked.
async fn come(
    channel: &mut mpsc::Receiver<Intake>,
    row: &mut Waiting,
    line: Line,
) -> Option<Intake> {
    if let Some(intake) = row.next() {
        return Some(intake);
    }
    loop {
        if row.is_full() {
            // Until the line moves.
            std::future::pending::<()>().await;
        }
        let intake = channel.recv().await?;
        if let Some(intake) = row.admit(intake, line) {
            return Some(intake);
        }
    }
}

/// The place of a walk, which another request may want.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat<'a> {
    pub hand: &'a Hand,
    pub places: &'a Places,
    /// Those of a block that has its share of the places give way to the rest of the block, although
    /// places are free.
    pub share: &'a Wanted,
    /// The request came out of the journal.
    pub recovered: bool,
}

impl Seat<'_> {
    pub(super) fn is_wanted(self) -> bool {
        self.places.full(self.recovered) || self.share.is_one()
    }

    /// Until it is wanted, not before `patience` is over.
    pub(super) async fn wanted_after(self, patience: Duration) {
        sleep(patience).await;
        tokio::select! {
            biased;
            () = self.places.wanted(self.recovered) => {}
            () = self.share.one() => {}
        }
    }
}

/// One of the two channels, with the permit that its requests need beside a place.
type Side<'a> =
    Pin<&'a mut (dyn Future<Output = Option<(Option<OwnedSemaphorePermit>, Intake)>> + Send)>;
