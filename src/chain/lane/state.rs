//! The state of a lane and its decisions: every nonce, its transactions, and what to do next. Pure:
//! inputs are events, the time and random numbers, the output is a list of [`Effect`]s that
//! [`runner`](super::runner) carries out. Public only for the benchmarks.
//!
//! Every nonce from the chain's transaction count on is in exactly one of five states:
//!
//! ```text
//! free (next, or hole) --take--> being signed --signed--> being recorded --> open --receipt--> mined
//!   ^                                 │ failed                                 │ rejected        │
//!   ├─────────────────────────────────┴────────────────────────────────────────┘                 │
//!   └── used by somebody else, and dropped by a reorganisation         open again <── reorganised┘
//! ```
//!
//! Only open transactions are broadcast, and only recorded ones are open: that is door (b).

mod callers;
mod signing;
mod broadcasts;
mod observations;
mod endings;
mod fees;
mod gaps;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use self::gaps::NoopBudget;
use super::{
    GiveUpReason, Inclusion, LaneOptions, MinedTransaction, Payload, Recovered, SignedTransaction,
    SubmissionUpdate, SubmitError, TransactionId,
    confirmations::Confirmations,
    count::{CountBelief, Votes},
    events::LaneEvent,
    fee_market::FeeMarket,
    mined_window::MinedWindow,
    nonce_slot::NonceSlot,
    nonces::Nonces,
    unsigned::UnsignedTransaction,
};
use crate::{
    chain::reader::Receipt,
    domain::{Address, B256, BlockRef, HoldReason, RequestKey},
    telemetry::metrics::{LaneGauges, Mined},
    time::backoff::Backoff,
};

/// Without a key the lane cannot replace a transaction that no node accepts. It gives up after this
/// time, until the next start.
const DRAIN_PATIENCE: Duration = Duration::from_hours(1);

/// A receipt in a block this far above the newest known head is not believed. Some distance is normal:
/// receipts and heads arrive at different times.
pub(super) const MOST_AHEAD: u64 = 64;

/// Work for the task of the lane, to be carried out in order.
#[derive(Debug)]
pub enum Effect {
    /// Sign these, then call [`LaneState::apply_signed`].
    Sign(Vec<UnsignedTransaction>),
    /// Record these durably, then call [`LaneState::apply_recorded`].
    Record(Vec<SignedTransaction>),
    /// Broadcast, then call [`LaneState::apply_broadcast`]. `awaits_receipt`: wait for the receipt if the
    /// node offers that (EIP-7966).
    Broadcast { transaction: SignedTransaction, awaits_receipt: bool },
    /// Record the transaction as mined.
    Mined(TransactionId, BlockRef),
    /// Record that these will not be mined.
    GiveUp(Vec<TransactionId>, GiveUpReason),
    /// Record that these left the chain, then call [`LaneState::apply_reopened`] with everything recorded
    /// for their nonces.
    Reopen(Vec<TransactionId>),
    /// Send the result to the waiting caller. Without one, call [`LaneState::keep_inclusion`].
    NotifyIncluded(RequestKey, Inclusion),
    /// Send the error to the waiting caller.
    NotifyFailed(RequestKey, SubmitError),
    /// Send a notice to the waiting caller; the submission continues.
    Notify(RequestKey, SubmissionUpdate),
    /// Write it to the log.
    Log(LaneEvent),
}

/// What to ask the chain.
#[derive(Clone, Debug, Default)]
pub(super) struct ReceiptQuery {
    /// Receipts to ask for where the nonce is below the count.
    pub open: Vec<(u64, B256)>,
    /// Receipts of mined transactions, newest first. Reading stops after a batch in which none has
    /// moved.
    pub mined: Vec<MinedTransaction>,
    /// Receipts of transactions that are deep enough to end their submissions.
    pub deep: Vec<MinedTransaction>,
    /// Receipts of displaced transactions: their nonces seem to be used by somebody else.
    pub displaced: Vec<(u64, B256)>,
    /// The count that is believed now.
    pub believed_count: u64,
    /// The lowest nonce is overdue: ask for the receipts of the lowest nonces whatever the count says.
    pub is_lowest_overdue: bool,
    /// Ask every sound node for the count, and for receipts that the first node does not have.
    pub asks_all_nodes: bool,
}

/// The answer to a [`ReceiptQuery`].
#[derive(Debug, Default)]
pub(super) struct ChainReport {
    /// Number of transactions mined from the wallet, at the node that is read from.
    pub count: u64,
    /// The counts of every sound node, if they were asked.
    pub votes: Option<Votes>,
    /// The newest block of the node that is read from; read if its count was low, or mined or deep
    /// transactions were asked for.
    pub head: Option<u64>,
    /// For each nonce either all its transactions are present or none.
    pub open: Vec<(u64, Option<Receipt>)>,
    pub mined: Vec<(u64, Option<Receipt>)>,
    /// Without those in blocks on which the nodes do not agree.
    pub deep: Vec<(u64, Option<Receipt>)>,
    pub displaced: Vec<(u64, Receipt)>,
    /// One of several nodes did not answer, so it may have a missing receipt.
    pub is_silent: bool,
    /// Every question was answered.
    pub is_complete: bool,
}

/// The state of a lane.
#[derive(Debug)]
pub struct LaneState {
    options: LaneOptions,
    sender: Address,
    nonces: Nonces,
    /// Payloads from callers that have no nonce yet.
    waiting: VecDeque<Payload>,
    /// Payloads that callers submitted and that have no result yet.
    payloads: HashMap<RequestKey, Payload>,
    /// Nonces taken by transactions that are being signed or recorded.
    signing: BTreeSet<u64>,
    /// Number of replacements for open nonces that are being signed or recorded.
    replacements: usize,
    open: BTreeMap<u64, NonceSlot>,
    by_request: HashMap<RequestKey, u64>,
    /// Results of transactions that were mined while nobody waited; kept until somebody asks.
    unclaimed_inclusions: HashMap<RequestKey, Inclusion>,
    mined_window: MinedWindow,
    confirmations: Confirmations,
    broadcasting: usize,
    /// Broadcasts do not wait for receipts before this time ([`CROWDED_FOR`](broadcasts)).
    crowded_until: Instant,
    fee_market: FeeMarket,
    /// The newest head, and the number of the connection that delivered it.
    head: Option<(BlockRef, u64)>,
    /// The chain's count of the wallet's transactions, as far as it is believed.
    count_belief: CountBelief,
    /// Since when there is a gap that is too wide to fill.
    gap_since: Option<Instant>,
    /// Transactions given up behind such a gap, by nonce; forgotten once the chain has passed the nonce.
    stranded: BTreeMap<u64, Vec<SignedTransaction>>,
    /// Transactions whose nonces somebody else seems to have used, and since when. A receipt may still
    /// prove otherwise.
    displaced: BTreeMap<u64, (Instant, Vec<SignedTransaction>)>,
    noops: NoopBudget,
    /// Since when the node's head is below blocks with our mined transactions.
    below_since: Option<Instant>,
    /// A reorganisation may have removed mined transactions: their receipts have to be checked.
    may_have_reorganised: bool,
    /// The chain is being reorganised, or a node does not show what it showed before.
    is_reorganised: bool,
    has_news: bool,
    /// A [`ReceiptQuery`] is under way; whether it asks for mined transactions.
    query_under_way: Option<bool>,
    queried_at: Instant,
    /// Nothing is signed before this time, because signing failed.
    sign_after: Instant,
    sign_pause: Backoff,
    /// Why payloads wait, and how many of them were notified of that reason.
    announced: (Option<HoldReason>, usize),
    /// Since when no transaction was accepted or mined while something was waiting for it.
    stalled_since: Option<Instant>,
    effects: Vec<Effect>,
    tally: Tally,
}

/// Events since the last call of [`LaneState::tally`], for metrics.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub mined: Vec<Mined>,
    /// Nonces used by somebody else.
    pub foreign: u64,
}

impl LaneState {
    /// `count`: the chain's count of the wallet's transactions at the start.
    pub fn new(
        options: LaneOptions,
        sender: Address,
        count: u64,
        recovered: Recovered,
        now: Instant,
    ) -> Self {
        let Recovered { open, mined, highest, stranded } = recovered;
        let taken = open.iter().map(|one| one.nonce).chain(mined.iter().map(|one| one.nonce));
        let nonces = Nonces::new(count, taken, highest, now);
        let news =
            LaneEvent::Recovered { open: open.len(), mined: count, next: nonces.peek_next() };
        let mut book = Self {
            options,
            sender,
            nonces,
            waiting: VecDeque::new(),
            payloads: HashMap::new(),
            signing: BTreeSet::new(),
            replacements: 0,
            open: BTreeMap::new(),
            by_request: HashMap::new(),
            unclaimed_inclusions: HashMap::new(),
            mined_window: MinedWindow::default(),
            confirmations: Confirmations::new(options.kind.confirmations()),
            broadcasting: 0,
            crowded_until: now,
            fee_market: FeeMarket::new(options.max_fee_per_gas, options.kind),
            head: None,
            count_belief: CountBelief::new(count),
            gap_since: None,
            stranded: BTreeMap::new(),
            displaced: BTreeMap::new(),
            noops: NoopBudget::default(),
            below_since: None,
            // A reorganisation may have happened while the process was down.
            may_have_reorganised: !mined.is_empty(),
            is_reorganised: false,
            has_news: true,
            query_under_way: None,
            queried_at: now,
            sign_after: now,
            sign_pause: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            announced: (None, 0),
            stalled_since: None,
            effects: Vec::new(),
            tally: Tally::default(),
        };
        for transaction in stranded {
            book.stranded.entry(transaction.nonce).or_default().push(transaction);
        }
        if !open.is_empty() {
            book.log(news);
        }
        for transaction in open {
            book.open_slot(transaction, now);
        }
        for slot in book.open.values_mut() {
            // Whether the earlier run broadcast it is unknown.
            slot.mark_maybe_accepted();
            slot.is_unchecked = options.kind.mempool().is_none();
        }
        for transaction in mined {
            if !book.open.contains_key(&transaction.nonce) {
                book.mined_window.add(transaction);
            }
        }
        book
    }

    /// Whether the lane has no key: nothing is signed, and open transactions are sent until they are
    /// mined.
    fn is_draining(&self) -> bool {
        self.options.max_in_flight == 0
    }

    /// Whether a draining lane is finished: every nonce is used, or no transaction was accepted or mined
    /// for [`DRAIN_PATIENCE`].
    pub(super) fn is_drained(&self, now: Instant) -> bool {
        let is_still = |since: Instant| now.saturating_duration_since(since) >= DRAIN_PATIENCE;
        let is_done = self.open.is_empty()
            && self.confirmations.is_empty()
            && !self.may_have_reorganised
            && self.query_under_way != Some(true);
        self.is_draining() && (is_done || self.stalled_since.is_some_and(is_still))
    }

    fn log(&mut self, news: LaneEvent) {
        self.effects.push(Effect::Log(news));
    }

    /// Takes the pending effects.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Everything recorded for open nonces.
    #[cfg(test)]
    pub(super) fn open_hashes(&self) -> Vec<(u64, B256)> {
        let versions = self.open.values().flat_map(NonceSlot::versions);
        versions.map(|version| (version.nonce, version.hash)).collect()
    }

    pub(super) fn gauges(&self, now: Instant) -> LaneGauges {
        LaneGauges {
            in_flight: self.open.len(),
            in_flight_limit: self.options.max_in_flight,
            waiting: self.waiting.len(),
            nonce_gap: self.nonces.peek_next().saturating_sub(self.count_belief.count()),
            still: self
                .stalled_since
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
        }
    }

    /// Whether commands are accepted. Not during a reorganisation: the request of a caller may be one
    /// whose transaction just left the chain and is not known to be open again yet, and it would be sent
    /// twice.
    pub(super) fn accepts_commands(&self) -> bool {
        self.waiting.len() < self.options.max_in_flight && !self.is_reorganised
    }

    /// Whether the passing of time alone will soon require work.
    pub(super) fn is_busy(&self) -> bool {
        !self.open.is_empty()
            || !self.waiting.is_empty()
            || self.nonces.has_holes()
            || self.may_have_reorganised
            || self.query_under_way == Some(true)
            || self.count_belief.is_in_doubt()
            || !self.confirmations.due(self.newest_position()).is_empty()
    }

    pub(super) fn wants_tip(&self) -> bool {
        !self.waiting.is_empty()
            || self.nonces.has_holes()
            || self.open.values().any(|slot| slot.is_unchecked)
            // A replacement may be due.
            || (self.options.kind.mempool().is_some() && !self.open.is_empty())
    }

    // Events from the nodes.

    /// The priority fee that the nodes suggest, in wei per gas.
    pub fn set_tip(&mut self, tip: Option<u128>) {
        self.fee_market.set_tip(tip);
        if let Some((suggested, paid)) = self.fee_market.excessive_tip() {
            self.log(LaneEvent::ExcessiveTip { suggested, paid });
        }
    }

    /// The base fee of the newest block as reported by several nodes, in wei per gas.
    pub(super) fn apply_base_fees(&mut self, bases: &[u128], now: Instant) {
        self.fee_market.apply_base_fees(bases, now);
    }

    /// The block whose base fee has to be read from the other nodes now, if any.
    pub(super) fn base_fees_due(&mut self, now: Instant) -> Option<B256> {
        let (head, _) = self.head?;
        self.fee_market.base_fees_due(now).then_some(head.hash)
    }

    // Decisions.

    /// Starts all work that is possible now. `wanted`: whether a caller waits for a request.
    pub fn plan_work(&mut self, wanted: impl Fn(RequestKey) -> bool, now: Instant) {
        self.raise_starving(now);
        self.raise_passed_over(now);
        self.strand(now);
        self.check_recovered(now);
        self.assign_nonces(wanted, now);
        self.broadcast_due(now);
        let idle = self.waiting.is_empty() && self.open.is_empty();
        self.stalled_since = (!idle).then(|| self.stalled_since.unwrap_or(now));
    }
}
