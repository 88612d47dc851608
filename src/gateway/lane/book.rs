//! The state of a lane and its decisions: every nonce, its transactions, and what to do next. Pure:
//! inputs are events, the time and random numbers, the output is a list of [`Effect`]s that
//! [`owner`](super::owner) carries out. Public only for the benchmarks.
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

mod chain;
mod ends;
mod fees;
mod gaps;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use self::{ends::rejected, gaps::Budget};
use super::{
    GivenUp, Landing, LaneOptions, MinedTransaction, Notice, Payload, Recovered, SignedTransaction,
    SubmitError, TransactionId,
    count::{CountBelief, Votes},
    draft::{Draft, recover_payload},
    market::Market,
    news::News,
    nonces::Nonces,
    recent::Recent,
    slot::{Answer, Slot},
};
use crate::{
    backoff::Backoff,
    domain::{Address, B256, BlockRef, Hold, HoldReason, Remedy, RequestKey},
    gateway::{
        provider::{Receipt, RpcError, Sent, quirks},
        wallet::WalletError,
    },
    metrics::{LaneGauges, Mined},
};

/// Broadcasts in flight at the same time.
const BROADCASTING_AT_ONCE: usize = 256;
/// Above this number of open nonces, and for [`CROWDED_FOR`] after, broadcasts do not wait for their
/// receipt: a node searches every block for each waiting call, while one count and batches of receipts
/// give the same result for less.
const CROWD: usize = 64;
const CROWDED_FOR: Duration = Duration::from_secs(2);
/// The caller is notified after this many unknown refusals in a row.
const SAID_AFTER: u32 = 5;
/// Without a key the lane cannot replace a transaction that no node accepts. It gives up after this
/// time, until the next start.
const NOBODY_TAKES_THEM_AFTER: Duration = Duration::from_hours(1);

/// A receipt in a block this far above the newest known head is not believed. Some distance is normal:
/// receipts and heads arrive at different times.
pub(super) const AHEAD: u64 = 64;

/// Work for the task of the lane, to be carried out in order.
#[derive(Debug)]
pub enum Effect {
    /// Sign these, then call [`Book::signed`].
    Sign(Vec<Draft>),
    /// Record these durably, then call [`Book::recorded`].
    Record(Vec<SignedTransaction>),
    /// Broadcast, then call [`Book::answered`]. `waits`: wait for the receipt if the node offers that
    /// (EIP-7966).
    Broadcast { transaction: SignedTransaction, waits: bool },
    /// Record the transaction as mined.
    Mined(TransactionId, BlockRef),
    /// Record that these will not be mined.
    GiveUp(Vec<TransactionId>, GivenUp),
    /// Record that these left the chain, then call [`Book::reopened`] with everything recorded for their
    /// nonces.
    Reopen(Vec<TransactionId>),
    /// Send the result to the waiting caller. Without one, call [`Book::unclaimed`].
    Land(RequestKey, Landing),
    /// Send the error to the waiting caller.
    Fail(RequestKey, SubmitError),
    /// Send a notice to the waiting caller; the submission continues.
    Notify(RequestKey, Notice),
    /// Write it to the log.
    Tell(News),
}

/// What to ask the chain.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Receipts to ask for where the nonce is below the count.
    pub open: Vec<(u64, B256)>,
    /// Receipts of mined transactions, newest first. Reading stops after a batch in which none has
    /// moved.
    pub mined: Vec<MinedTransaction>,
    /// Receipts of displaced transactions: their nonces seem to be used by somebody else.
    pub lost: Vec<(u64, B256)>,
    /// The count that is believed now.
    pub believed: u64,
    /// The lowest nonce is overdue: ask for the receipts of the lowest nonces whatever the count says.
    pub waits: bool,
    /// Ask every sound node for the count, and for receipts that the first node does not have.
    pub everyone: bool,
}

/// The answer to a [`Look`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Number of transactions mined from the wallet, at the node that is read from.
    pub count: u64,
    /// The counts of every sound node, if they were asked.
    pub votes: Option<Votes>,
    /// The newest block of the node that is read from; read if its count was low or mined transactions
    /// were asked for.
    pub head: Option<u64>,
    /// For each nonce either all its transactions are present or none.
    pub open: Vec<(u64, Option<Receipt>)>,
    pub mined: Vec<(u64, Option<Receipt>)>,
    pub lost: Vec<(u64, Receipt)>,
    /// One of several nodes did not answer, so it may have a missing receipt.
    pub is_silent: bool,
    /// Every question was answered.
    pub is_whole: bool,
}

/// The state of a lane.
#[derive(Debug)]
pub struct Book {
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
    replacing: usize,
    open: BTreeMap<u64, Slot>,
    by_request: HashMap<RequestKey, u64>,
    /// Results of transactions that were mined while nobody waited; kept until somebody asks.
    landed: HashMap<RequestKey, Landing>,
    recent: Recent,
    broadcasting: usize,
    /// Broadcasts do not wait for receipts before this time ([`CROWD`]).
    crowded_until: Instant,
    market: Market,
    /// The newest head, and the number of the connection that delivered it.
    head: Option<(BlockRef, u64)>,
    /// The chain's count of the wallet's transactions, as far as it is believed.
    belief: CountBelief,
    /// Since when there is a gap that is too wide to fill.
    gap_since: Option<Instant>,
    /// Transactions given up behind such a gap, by nonce; forgotten once the chain has passed the nonce.
    stranded: BTreeMap<u64, Vec<SignedTransaction>>,
    /// Transactions whose nonces somebody else seems to have used, and since when. A receipt may still
    /// prove otherwise.
    displaced: BTreeMap<u64, (Instant, Vec<SignedTransaction>)>,
    noops: Budget,
    /// Since when the node's head is below blocks with our mined transactions.
    below_since: Option<Instant>,
    /// A reorganisation may have removed mined transactions: their receipts have to be checked.
    suspicious: bool,
    /// The chain is being reorganised, or a node does not show what it showed before.
    reorganised: bool,
    look_again: bool,
    /// A [`Look`] is under way; whether it asks for mined transactions.
    looking: Option<bool>,
    looked_at: Instant,
    /// Nothing is signed before this time, because signing failed.
    sign_after: Instant,
    sign_pause: Backoff,
    /// Why payloads wait, and how many of them were notified of that reason.
    told: (Option<HoldReason>, usize),
    /// Since when no transaction was accepted or mined while something was waiting for it.
    still_since: Option<Instant>,
    effects: Vec<Effect>,
    tally: Tally,
}

/// Events since the last call of [`Book::tally`], for metrics.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub mined: Vec<Mined>,
    /// Nonces used by somebody else.
    pub foreign: u64,
}

impl Book {
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
        let news = News::Recovered { open: open.len(), mined: count, next: nonces.peek_next() };
        let mut book = Self {
            options,
            sender,
            nonces,
            waiting: VecDeque::new(),
            payloads: HashMap::new(),
            signing: BTreeSet::new(),
            replacing: 0,
            open: BTreeMap::new(),
            by_request: HashMap::new(),
            landed: HashMap::new(),
            recent: Recent::default(),
            broadcasting: 0,
            crowded_until: now,
            market: Market::new(options.max_fee_per_gas),
            head: None,
            belief: CountBelief::new(count),
            gap_since: None,
            stranded: BTreeMap::new(),
            displaced: BTreeMap::new(),
            noops: Budget::default(),
            below_since: None,
            // A reorganisation may have happened while the process was down.
            suspicious: !mined.is_empty(),
            reorganised: false,
            look_again: true,
            looking: None,
            looked_at: now,
            sign_after: now,
            sign_pause: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            told: (None, 0),
            still_since: None,
            effects: Vec::new(),
            tally: Tally::default(),
        };
        for transaction in stranded {
            book.stranded.entry(transaction.nonce).or_default().push(transaction);
        }
        if !open.is_empty() {
            book.tell(news);
        }
        for transaction in open {
            book.hold_open(transaction, now);
        }
        for slot in book.open.values_mut() {
            // Whether the earlier run broadcast it is unknown.
            slot.doubt();
            slot.unchecked = true;
        }
        for transaction in mined {
            if !book.open.contains_key(&transaction.nonce) {
                book.recent.add(transaction);
            }
        }
        book
    }

    /// Whether the lane has no key: nothing is signed, and open transactions are sent until they are
    /// mined.
    fn drains(&self) -> bool {
        self.options.max_in_flight == 0
    }

    /// Whether a draining lane is finished: every nonce is used, or no transaction was accepted or mined
    /// for [`NOBODY_TAKES_THEM_AFTER`].
    pub(super) fn is_drained(&self, now: Instant) -> bool {
        let is_still =
            |since: Instant| now.saturating_duration_since(since) >= NOBODY_TAKES_THEM_AFTER;
        let is_done = self.open.is_empty() && !self.suspicious && self.looking != Some(true);
        self.drains() && (is_done || self.still_since.is_some_and(is_still))
    }

    fn tell(&mut self, news: News) {
        self.effects.push(Effect::Tell(news));
    }

    /// Takes the pending effects.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Everything recorded for open nonces.
    #[cfg(test)]
    pub(super) fn open_hashes(&self) -> Vec<(u64, B256)> {
        let versions = self.open.values().flat_map(Slot::versions);
        versions.map(|version| (version.nonce, version.hash)).collect()
    }

    pub(super) fn gauges(&self, now: Instant) -> LaneGauges {
        LaneGauges {
            in_flight: self.open.len(),
            in_flight_limit: self.options.max_in_flight,
            waiting: self.waiting.len(),
            nonce_gap: self.nonces.peek_next().saturating_sub(self.belief.count()),
            still: self
                .still_since
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
        }
    }

    /// Whether commands are accepted. Not during a reorganisation: the request of a caller may be one
    /// whose transaction just left the chain and is not known to be open again yet, and it would be sent
    /// twice.
    pub(super) fn listens(&self) -> bool {
        self.waiting.len() < self.options.max_in_flight && !self.reorganised
    }

    /// Whether the passing of time alone will soon require work.
    pub(super) fn is_busy(&self) -> bool {
        !self.open.is_empty()
            || !self.waiting.is_empty()
            || self.nonces.has_holes()
            || self.suspicious
            || self.looking == Some(true)
            || self.belief.is_in_doubt()
    }

    pub(super) fn wants_tip(&self) -> bool {
        !self.waiting.is_empty()
            || self.nonces.has_holes()
            || self.open.values().any(|slot| slot.unchecked)
    }

    // Commands of callers.

    /// Accepts a payload. The caller waits for its result from now on.
    pub fn submit(&mut self, payload: Payload) {
        let key = payload.request;
        let known = self.payloads.insert(key, payload.clone()).is_some();
        if self.find(key) || known {
            return;
        }
        self.waiting.push_back(payload);
    }

    /// Returns whether the request has a transaction, or had one whose result nobody took. The caller
    /// waits from now on.
    pub(super) fn attach(&mut self, key: RequestKey) -> bool {
        let known = self.payloads.contains_key(&key);
        self.find(key) || known
    }

    fn find(&mut self, key: RequestKey) -> bool {
        if let Some(landing) = self.landed.remove(&key) {
            self.payloads.remove(&key);
            self.effects.push(Effect::Land(key, landing));
            return true;
        }
        let Some(slot) = self.by_request.get(&key).and_then(|nonce| self.open.get(nonce)) else {
            return false;
        };
        let own = slot.version_of(key);
        if slot.is_accepted() {
            let transaction = own.unwrap_or(slot.current()).hash;
            self.effects.push(Effect::Notify(key, Notice::Broadcast { transaction }));
        }
        if !self.payloads.contains_key(&key)
            && let Some(payload) = own.and_then(|own| recover_payload(key, own))
        {
            self.payloads.insert(key, payload);
        }
        true
    }

    /// Keeps the result of a mined transaction that no caller waits for.
    pub(super) fn unclaimed(&mut self, key: RequestKey, landing: Landing) {
        self.landed.insert(key, landing);
    }

    // Events from the nodes.

    /// The priority fee that the nodes suggest, in wei per gas.
    pub fn tip(&mut self, tip: Option<u128>) {
        self.market.tip(tip);
        if let Some((suggested, paid)) = self.market.immodest_tip() {
            self.tell(News::ImmodestTip { suggested, paid });
        }
    }

    /// The base fee of the newest block as reported by several nodes, in wei per gas.
    pub(super) fn bases(&mut self, bases: &[u128], now: Instant) {
        self.market.others(bases, now);
    }

    /// The block whose base fee has to be read from the other nodes now, if any.
    pub(super) fn asks_bases(&mut self, now: Instant) -> Option<B256> {
        let (head, _) = self.head?;
        self.market.asks_others(now).then_some(head.hash)
    }

    /// The signed transactions have to be recorded; the failed drafts free their nonces. `dice`: random,
    /// 0 to 1, for the pause after a failure.
    pub fn signed(
        &mut self,
        signed: Vec<SignedTransaction>,
        failed: Vec<(Draft, WalletError)>,
        now: Instant,
        dice: f64,
    ) {
        for (draft, error) in failed.into_iter().rev() {
            let nonce = draft.nonce();
            if draft.replaces {
                self.replacing -= 1;
                self.sign_after = now + self.sign_pause.next_delay_by(dice);
                if let Some(slot) = self.open.get_mut(&nonce) {
                    slot.replacing = false;
                }
                continue;
            }
            self.signing.remove(&nonce);
            self.nonces.give_back(nonce, now);
            let Some(key) = draft.request else { continue };
            match error.remedy() {
                Remedy::Retry => {
                    self.tell(News::NotSigned { request: key, error });
                    self.requeue(key);
                    self.sign_after = now + self.sign_pause.next_delay_by(dice);
                }
                Remedy::Hold(hold) => self.fail(key, SubmitError::Held(hold)),
                Remedy::Refuse(refusal) => self.fail(key, rejected(refusal.to_string())),
            }
        }
        if !signed.is_empty() {
            self.sign_pause.reset();
        }
        // The nonce of a late one ended meanwhile: it is not recorded.
        let (signed, late): (Vec<_>, Vec<_>) =
            signed.into_iter().partition(|transaction| self.has_place_for(transaction));
        self.replacing = self.replacing.saturating_sub(late.len());
        if !signed.is_empty() {
            self.effects.push(Effect::Record(signed));
        }
    }

    /// These are recorded, so they may be broadcast.
    pub fn recorded(&mut self, transactions: Vec<SignedTransaction>, now: Instant) {
        for transaction in transactions {
            let has_place = self.has_place_for(&transaction);
            if !self.signing.remove(&transaction.nonce) {
                self.replacing = self.replacing.saturating_sub(1);
            }
            if has_place {
                self.hold_open(transaction, now);
            } else {
                self.effects.push(Effect::GiveUp(vec![transaction.id()], GivenUp::Rejected));
            }
        }
    }

    /// Whether the transaction's nonce is still reserved for it or open.
    fn has_place_for(&self, transaction: &SignedTransaction) -> bool {
        self.signing.contains(&transaction.nonce) || self.open.contains_key(&transaction.nonce)
    }

    /// Opens a slot for a recorded transaction, or adds it to the slot of its nonce.
    fn hold_open(&mut self, transaction: SignedTransaction, now: Instant) {
        if let Some(key) = transaction.request {
            self.by_request.insert(key, transaction.nonce);
        }
        let nonce = transaction.nonce;
        if let Some(slot) = self.open.get_mut(&nonce) {
            return slot.replace(transaction, now);
        }
        // A node may still have transactions that were given up under this nonce.
        let stranded = self.stranded.remove(&nonce).unwrap_or_default();
        let mut versions = stranded.into_iter().chain([transaction]);
        let Some(first) = versions.next() else { return };
        let mut slot = Slot::new(first, now);
        for version in versions {
            slot.replace(version, now);
            slot.doubt();
        }
        self.open.insert(nonce, slot);
    }

    /// The result of a broadcast. `dice`: random, 0 to 1, for the pause before the next one.
    pub fn answered(
        &mut self,
        nonce: u64,
        hash: B256,
        result: Result<Sent, RpcError>,
        now: Instant,
        dice: f64,
    ) {
        self.broadcasting -= 1;
        let newest = self.newest();
        let Some(slot) = self.open.get_mut(&nonce) else { return };
        slot.landed_flight();
        let (error, refusal) = match result {
            // A receipt in a block far above the head proves nothing: the next query of the chain
            // decides.
            Ok(Sent::Mined(receipt)) if receipt.block.number > newest.saturating_add(AHEAD) => {
                (None, quirks::Refusal::AlreadyKnown)
            }
            Ok(Sent::Mined(receipt)) => {
                if slot.versions().iter().any(|version| version.hash == receipt.hash) {
                    return self.land(nonce, &receipt, now);
                }
                (None, quirks::Refusal::AlreadyKnown)
            }
            Ok(Sent::Accepted) => (None, quirks::Refusal::AlreadyKnown),
            Err(error) => {
                let refusal = match &error {
                    RpcError::Refused { code, message, .. } => quirks::refusal(*code, message),
                    RpcError::Unavailable { .. }
                    | RpcError::WrongChain { .. }
                    | RpcError::WrongGenesis { .. }
                    | RpcError::Unreadable { .. }
                    | RpcError::Busy { .. }
                    | RpcError::TooLarge { .. } => quirks::Refusal::Unknown,
                };
                (Some(error), refusal)
            }
        };
        if slot.current().hash != hash {
            slot.doubt();
            return;
        }
        let (answer, is_news) = slot.answered(error.as_ref(), refusal, now, dice);
        if let Some(error) = error.as_ref().filter(|_| is_news) {
            self.tell(News::NotAccepted { nonce, transaction: hash, error: error.clone() });
        }
        self.follow(nonce, answer, refusal, error.as_ref(), now);
    }

    fn follow(
        &mut self,
        nonce: u64,
        answer: Answer,
        refusal: quirks::Refusal,
        error: Option<&RpcError>,
        now: Instant,
    ) {
        let Some(slot) = self.open.get(&nonce) else { return };
        let (request, hash) = (slot.current().request, slot.current().hash);
        match answer {
            Answer::Accepted => {
                self.still_since = Some(now);
                self.notify(request, Notice::Broadcast { transaction: hash });
                self.wake_behind(nonce, now);
            }
            Answer::StillThere => {}
            Answer::Used => self.look_again = true,
            Answer::Again => {
                if let Some(error @ RpcError::Refused { .. }) = error
                    && refusal == quirks::Refusal::Unknown
                    && slot.attempts() == SAID_AFTER
                {
                    let what = format!("the node does not take the transaction: {error}");
                    let hold = Hold::new(HoldReason::ContractRejected, what);
                    self.notify(request, Notice::Waiting(hold));
                }
            }
            Answer::NoFunds if self.is_dear(slot) => self.sign_anew(&[nonce]),
            Answer::NoFunds => {
                let hold = self.no_funds_hold(slot);
                self.notify(request, Notice::Waiting(hold));
            }
            Answer::TooCheap => self.raise_fee(nonce, 1),
            Answer::Rejected if self.is_odd(slot) => self.sign_anew(&[nonce]),
            Answer::Rejected => {
                if let Some(error) = error {
                    self.reject(nonce, refusal, error, now);
                }
            }
        }
    }

    // Decisions.

    /// Starts all work that is possible now. `wanted`: whether a caller waits for a request.
    pub fn act(&mut self, wanted: impl Fn(RequestKey) -> bool, now: Instant) {
        self.raise_starving(now);
        self.strand(now);
        self.look_through(now);
        self.prepare(wanted, now);
        self.broadcast(now);
        let idle = self.waiting.is_empty() && self.open.is_empty();
        self.still_since = (!idle).then(|| self.still_since.unwrap_or(now));
    }

    fn prepare(&mut self, wanted: impl Fn(RequestKey) -> bool, now: Instant) {
        // One batch at a time, so that broadcasts happen in nonce order.
        if !self.signing.is_empty() || self.replacing > 0 || now < self.sign_after {
            return;
        }
        // Fees are unknown until the first head and tip.
        if !self.market.is_known() {
            return;
        }
        // Holes are filled even when the lane is full, because open transactions wait behind them.
        // Callers learn that the chain is too expensive even when the lane is full.
        let is_full = self.open.len() >= self.options.max_in_flight && !self.nonces.has_holes();
        if is_full && self.fees().is_some() {
            self.told = (None, 0);
            return;
        }
        // A payload without a caller (its walk was stopped) is dropped; the next walk submits it again.
        let all = std::mem::take(&mut self.waiting);
        for payload in all {
            if wanted(payload.request) {
                self.waiting.push_back(payload);
            } else {
                self.fail(payload.request, SubmitError::Stopped);
            }
        }
        let elsewhere = self.belief.used_elsewhere(now);
        if let Some(nonces) = elsewhere {
            self.announce(&self.elsewhere_hold(nonces));
        }
        let fills = self.waiting.is_empty() || elsewhere.is_some();
        let overdue = fills && self.may_fill(now);
        if !overdue && (self.waiting.is_empty() || elsewhere.is_some()) {
            return;
        }
        let Some(fees) = self.fees() else {
            self.announce(&self.fee_hold());
            return;
        };
        let chain_id = self.options.chain_id;
        let mut drafts = Vec::new();
        if overdue {
            let nonce = self.nonces.take();
            self.tell(News::FillsHole { nonce });
            self.noops.spend(now);
            drafts.push(Draft::noop(chain_id, nonce, fees, self.sender));
        }
        while elsewhere.is_none()
            && (self.open.len() + drafts.len() < self.options.max_in_flight
                || self.nonces.has_holes())
        {
            self.told = (None, 0);
            let Some(payload) = self.waiting.pop_front() else { break };
            let nonce = self.nonces.take();
            drafts.push(Draft::of_payload(chain_id, nonce, fees, &payload));
        }
        self.signing.extend(drafts.iter().map(Draft::nonce));
        self.sign(drafts);
    }

    fn sign(&mut self, drafts: Vec<Draft>) {
        if !drafts.is_empty() {
            self.effects.push(Effect::Sign(drafts));
        }
    }

    fn broadcast(&mut self, now: Instant) {
        // The nonce the chain executes next, if other open nonces wait behind it.
        let mut ahead = self.open.range(self.belief.count()..).map(|(nonce, _)| *nonce);
        let first = ahead.next().filter(|_| ahead.next().is_some());
        let mut room = BROADCASTING_AT_ONCE.saturating_sub(self.broadcasting);
        if self.open.len() > CROWD {
            self.crowded_until = now + CROWDED_FOR;
        }
        for (nonce, slot) in &mut self.open {
            let is_first = Some(*nonce) == first;
            // It may have to be replaced by cheaper bytes before it is sent.
            if slot.unchecked {
                continue;
            }
            // The nonce that all others wait behind is sent even when no broadcast is free.
            if room == 0 && !is_first {
                break;
            }
            if slot.is_due(is_first, now) {
                room = room.saturating_sub(1);
                self.broadcasting += 1;
                let waits = slot.send(now) && now >= self.crowded_until;
                let transaction = slot.current().clone();
                self.effects.push(Effect::Broadcast { transaction, waits });
            }
        }
    }
}
