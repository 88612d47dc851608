//! What an endpoint says that is not so, or does not say: its index of logs breaks for minutes, its
//! counts, fees and estimates are wrong for seconds, its tags stand still, its headers have odd blooms,
//! it takes ranges of a few blocks only.
//!
//! Everything has its time and ends, but blooms and ranges, which are what they are for a whole story.
//! A fault that was seen by the connector is counted where it is told, not where it is drawn.

mod answers;

use tokio::time::Instant;

use crate::domain::Bytes;

/// A node's error.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub code: i64,
    pub message: &'static str,
    pub data: Option<Bytes>,
}

pub(super) fn refused(code: i64, message: &'static str, data: Option<Bytes>) -> Refusal {
    Refusal { code, message, data }
}

/// One endpoint of the connector's configuration; behind it are machines.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub lies: Lies,
    /// No later block is its head.
    pub announced: u64,
    /// The next message does not get through.
    pub cut: bool,
    /// It cannot be connected to.
    pub away_until: Option<Instant>,
}

impl Endpoint {
    pub fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }
}

/// What the receipts of a whole block are, while the index is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockReceipts {
    Shown,
    NotOffered,
    /// As empty as the logs.
    Hidden,
}

/// A broken index of logs.
#[derive(Clone, Copy, Debug)]
struct BrokenIndex {
    until: Instant,
    /// Every other log is shown.
    partial: bool,
    receipts: BlockReceipts,
}

/// A wrong count of the wallet's transactions.
#[derive(Clone, Copy, Debug)]
enum CountLie {
    Ahead(u64),
    Behind(u64),
    None,
}

/// A wrong number.
#[derive(Clone, Copy, Debug)]
struct WrongValue<T> {
    until: Instant,
    what: T,
    /// Each second answer is right.
    alternates: bool,
    announced: u64,
}

impl<T: Copy> WrongValue<T> {
    fn next_value(of: &mut Option<Self>) -> Option<T> {
        let wrong = of.as_mut()?;
        wrong.announced += 1;
        let now = Instant::now() < wrong.until && (!wrong.alternates || wrong.announced % 2 == 1);
        now.then_some(wrong.what)
    }
}

/// Of one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Lies {
    index: Option<BrokenIndex>,
    count: Option<WrongValue<CountLie>>,
    tip: Option<WrongValue<u128>>,
    base: Option<WrongValue<u128>>,
    estimate: Option<WrongValue<u64>>,
    /// Since this height.
    tag: Option<(Instant, u64)>,
}

impl Lies {
    fn index(&self) -> Option<BrokenIndex> {
        self.index.filter(|broken| Instant::now() < broken.until)
    }
}
