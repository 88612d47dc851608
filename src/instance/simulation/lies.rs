//! What an endpoint answers wrongly or not at all: its log index breaks for minutes; its counts, fees
//! and estimates are wrong for seconds; its tags stand still; its headers have wrong blooms; it accepts
//! only small block ranges.
//!
//! Each of these ends after a time, except blooms and ranges, which stay the same for a whole story. A
//! fault is counted where the connector receives it, not where it is drawn.

mod answers;

use tokio::time::Instant;

use crate::domain::Bytes;

/// A node's error response.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub code: i64,
    pub message: &'static str,
    pub data: Option<Bytes>,
}

pub(super) fn refused(code: i64, message: &'static str, data: Option<Bytes>) -> Refusal {
    Refusal { code, message, data }
}

/// One endpoint of the connector's configuration, with machines behind it.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub lies: Lies,
    /// The highest block it presents as its head.
    pub announced: u64,
    /// The next message does not get through.
    pub cut: bool,
    /// Until then it refuses connections.
    pub away_until: Option<Instant>,
}

impl Endpoint {
    pub fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }
}

/// What the receipts of a block look like while the index is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockReceipts {
    Shown,
    NotOffered,
    /// As empty as the logs.
    Hidden,
}

/// A broken log index.
#[derive(Clone, Copy, Debug)]
struct BrokenIndex {
    until: Instant,
    /// Shows every other log only.
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
    /// Every second response is right.
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

/// The lies of one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Lies {
    index: Option<BrokenIndex>,
    count: Option<WrongValue<CountLie>>,
    tip: Option<WrongValue<u128>>,
    base: Option<WrongValue<u128>>,
    estimate: Option<WrongValue<u64>>,
    /// When the tag stops standing still, and its height.
    tag: Option<(Instant, u64)>,
}

impl Lies {
    fn index(&self) -> Option<BrokenIndex> {
        self.index.filter(|broken| Instant::now() < broken.until)
    }
}
