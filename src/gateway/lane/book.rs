//! What the lane knows and decides: every nonce, what is under it, and what is next. Pure: it is
//! told what happened and when, and what the dice say, and answers with [`Effect`]s; `owner` carries
//! them out. Public for the benchmarks, as far as they need it.
//!
//! A nonce from the chain's count on is in exactly one of five states:
//!
//! ```text
//! free (next, or hole) --take--> being signed --signed--> being recorded --> open --receipt--> mined
//!   ^                                 │ failed                                 │ rejected        │
//!   ├─────────────────────────────────┴────────────────────────────────────────┘                 │
//!   └── used by somebody else, and dropped by a reorganisation             open again <── dropped┘
//! ```
//!
//! Only what is open is broadcast, and only what is recorded is open: that is door (b).

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

/// Broadcasts under way at the same time.
const BROADCASTING_AT_ONCE: usize = 256;
/// While more nonces are open, and for a moment after, no broadcast waits for its receipt: nodes look
/// through each block for each of those who wait; one count with receipts in batches tells the same.
const CROWD: usize = 64;
const CROWDED_FOR: Duration = Duration::from_secs(2);
/// Refused for a reason we do not know so often in a row, the caller is told.
const SAID_AFTER: u32 = 5;
/// Without a key nothing can be done about what no node takes: it is left to the next start.
const NOBODY_TAKES_THEM_AFTER: Duration = Duration::from_hours(1);

/// So far above the newest block no receipt is believed: it and the head are told at different moments.
pub(super) const AHEAD: u64 = 64;

/// What the owner is to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Sign these, and tell [`Book::signed`].
    Sign(Vec<Draft>),
    /// Record these durably, and tell [`Book::recorded`].
    Record(Vec<SignedTransaction>),
    /// Broadcast, and tell [`Book::answered`]. `waits`: for the receipt, where a node offers that.
    Broadcast { transaction: SignedTransaction, waits: bool },
    /// Record that it was mined.
    Mined(TransactionId, BlockRef),
    /// Record that these will not be mined.
    GiveUp(Vec<TransactionId>, GivenUp),
    /// Record that these left the chain, and tell [`Book::reopened`] what is recorded for their
    /// nonces.
    Reopen(Vec<TransactionId>),
    /// Tell whoever waits for it; nobody does: [`Book::unclaimed`].
    Land(RequestKey, Landing),
    /// Tell whoever waits for it.
    Fail(RequestKey, SubmitError),
    /// The same, and it goes on.
    Notify(RequestKey, Notice),
    /// Say it in the log.
    Tell(News),
}

/// What the owner is to ask the chain.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Receipts of these, where their nonce is below the count.
    pub open: Vec<(u64, B256)>,
    /// Receipts of these, until a few in a row are where they were.
    pub mined: Vec<MinedTransaction>,
    /// Receipts of these, whose nonces somebody else seems to have used.
    pub lost: Vec<(u64, B256)>,
    /// The count, as it is believed.
    pub believed: u64,
    /// The lowest nonces wait for long: their receipts are asked for whatever the count.
    pub waits: bool,
    /// The count is asked of every sound node, and so are receipts that one does not show.
    pub everyone: bool,
}

/// What the chain said to a [`Look`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Transactions mined from the wallet.
    pub count: u64,
    /// The same of every sound node, where they were asked.
    pub votes: Option<Votes>,
    /// The node's newest block, where its count was low, or what was mined was asked for.
    pub head: Option<u64>,
    /// All transactions of a nonce, or none.
    pub open: Vec<(u64, Option<Receipt>)>,
    pub mined: Vec<(u64, Option<Receipt>)>,
    pub lost: Vec<(u64, Receipt)>,
    /// One of several nodes did not tell whether it has what is missing.
    pub is_silent: bool,
    /// Everything that was asked is answered.
    pub is_whole: bool,
}

/// The lane's books.
#[derive(Debug)]
pub struct Book {
    options: LaneOptions,
    sender: Address,
    nonces: Nonces,
    /// Accepted from callers, without a nonce.
    waiting: VecDeque<Payload>,
    /// What callers asked for and did not get yet.
    payloads: HashMap<RequestKey, Payload>,
    /// Nonces taken for what is being signed, and then recorded.
    signing: BTreeSet<u64>,
    /// Other bytes for open nonces, being signed, and then recorded.
    replacing: usize,
    open: BTreeMap<u64, Slot>,
    by_request: HashMap<RequestKey, u64>,
    /// Mined while nobody waited: kept until somebody asks.
    landed: HashMap<RequestKey, Landing>,
    recent: Recent,
    broadcasting: usize,
    /// Many were open just now.
    crowded_until: Instant,
    market: Market,
    /// The newest head, and the connection that told it.
    head: Option<(BlockRef, u64)>,
    /// The chain's count of the wallet's transactions.
    belief: CountBelief,
    /// Since when there is a gap that is too wide to be filled.
    gap_since: Option<Instant>,
    /// Given up beyond such a gap, by nonce, for as long as the chain has not come there.
    stranded: BTreeMap<u64, Vec<SignedTransaction>>,
    /// Whose nonces somebody else used lately, and since when that is believed: a receipt may still
    /// show that it was not so.
    displaced: BTreeMap<u64, (Instant, Vec<SignedTransaction>)>,
    noops: Budget,
    /// Since when the node is behind what was mined.
    below_since: Option<Instant>,
    /// The chain may have dropped what it had.
    suspicious: bool,
    /// It has dropped blocks, or does not show what it had.
    reorganised: bool,
    look_again: bool,
    /// A question is under way; whether it is one about what was mined.
    looking: Option<bool>,
    looked_at: Instant,
    /// The wallet refuses to sign before this.
    sign_after: Instant,
    sign_pause: Backoff,
    /// How many of the waiting payloads were told why they wait.
    told: (Option<HoldReason>, usize),
    /// Since when nothing was taken or mined, while something waits for that.
    still_since: Option<Instant>,
    effects: Vec<Effect>,
    tally: Tally,
}

/// What happened since it was last asked for, for counting.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub mined: Vec<Mined>,
    /// Nonces used by somebody else.
    pub foreign: u64,
}

impl Book {
    /// `count` is the chain's, at the start.
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
            // The chain may have gone back while nobody looked.
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
            // What the earlier run did with it is not known.
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

    /// There is no key: nothing is signed, and what is open is sent on to its end.
    fn drains(&self) -> bool {
        self.options.max_in_flight == 0
    }

    /// Whether a lane that only drains has come to its end: each nonce is used, or nothing was taken or
    /// mined for so long that nobody will take what is left.
    pub(super) fn is_drained(&self, now: Instant) -> bool {
        let is_still =
            |since: Instant| now.saturating_duration_since(since) >= NOBODY_TAKES_THEM_AFTER;
        let is_done = self.open.is_empty() && !self.suspicious && self.looking != Some(true);
        self.drains() && (is_done || self.still_since.is_some_and(is_still))
    }

    fn tell(&mut self, news: News) {
        self.effects.push(Effect::Tell(news));
    }

    /// What is to be done, once.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// What is recorded for open nonces.
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

    /// Whether callers are listened to. Not while the chain goes back: who asks then may be whose
    /// transaction was dropped, and it is not known yet that it is to be sent again.
    pub(super) fn listens(&self) -> bool {
        self.waiting.len() < self.options.max_in_flight && !self.reorganised
    }

    /// Whether time alone brings something to do soon.
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

    // What callers say.

    /// A payload; whoever brought it waits from now on.
    pub fn submit(&mut self, payload: Payload) {
        let key = payload.request;
        let known = self.payloads.insert(key, payload.clone()).is_some();
        if self.find(key) || known {
            return;
        }
        self.waiting.push_back(payload);
    }

    /// Whether there is, or was, a transaction for a request; whoever asks waits from now on.
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

    /// Nobody waited for what landed.
    pub(super) fn unclaimed(&mut self, key: RequestKey, landing: Landing) {
        self.landed.insert(key, landing);
    }

    // What the world says.

    /// What the nodes suggest, if they do.
    pub fn tip(&mut self, tip: Option<u128>) {
        self.market.tip(tip);
        if let Some((suggested, paid)) = self.market.immodest_tip() {
            self.tell(News::ImmodestTip { suggested, paid });
        }
    }

    /// The base fee of the newest block as several nodes have it.
    pub(super) fn bases(&mut self, bases: &[u128], now: Instant) {
        self.market.others(bases, now);
    }

    /// The block whose base fee the other nodes are to be asked for now.
    pub(super) fn asks_bases(&mut self, now: Instant) -> Option<B256> {
        let (head, _) = self.head?;
        self.market.asks_others(now).then_some(head.hash)
    }

    /// These are signed, and are to be recorded; those are not. `dice`: from 0 to 1, for the pause after
    /// a failure.
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
        // Of a nonce that ended meanwhile nothing is to be recorded any more.
        let (signed, late): (Vec<_>, Vec<_>) =
            signed.into_iter().partition(|transaction| self.has_place_for(transaction));
        self.replacing = self.replacing.saturating_sub(late.len());
        if !signed.is_empty() {
            self.effects.push(Effect::Record(signed));
        }
    }

    /// These are recorded, and may be broadcast.
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

    /// Its nonce was taken for it, or is open still.
    fn has_place_for(&self, transaction: &SignedTransaction) -> bool {
        self.signing.contains(&transaction.nonce) || self.open.contains_key(&transaction.nonce)
    }

    /// A recorded transaction becomes, or joins, the slot of its nonce.
    fn hold_open(&mut self, transaction: SignedTransaction, now: Instant) {
        if let Some(key) = transaction.request {
            self.by_request.insert(key, transaction.nonce);
        }
        let nonce = transaction.nonce;
        if let Some(slot) = self.open.get_mut(&nonce) {
            return slot.replace(transaction, now);
        }
        // Some node may still have what was given up under it.
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

    /// What became of a broadcast. `dice`: from 0 to 1, for the pause before the next one.
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
            // Of a block far above the newest one it is no receipt: the chain is looked at.
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

    // What is to be done.

    /// Starts whatever can be started now. `wanted`: whether somebody waits for a request.
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
        // One batch at a time keeps the broadcast in nonce order.
        if !self.signing.is_empty() || self.replacing > 0 || now < self.sign_after {
            return;
        }
        // Once the fees are known.
        if !self.market.is_known() {
            return;
        }
        // What is open waits behind a hole: that is filled in any case. And who waits is told when
        // the chain is too dear, however full the lane is.
        let is_full = self.open.len() >= self.options.max_in_flight && !self.nonces.has_holes();
        if is_full && self.fees().is_some() {
            self.told = (None, 0);
            return;
        }
        // Whose caller has gone (drain) is not needed before somebody asks again.
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
        // What the chain waits for, if anything waits behind it.
        let mut ahead = self.open.range(self.belief.count()..).map(|(nonce, _)| *nonce);
        let first = ahead.next().filter(|_| ahead.next().is_some());
        let mut room = BROADCASTING_AT_ONCE.saturating_sub(self.broadcasting);
        if self.open.len() > CROWD {
            self.crowded_until = now + CROWDED_FOR;
        }
        for (nonce, slot) in &mut self.open {
            let is_first = Some(*nonce) == first;
            // Whether other bytes come first is to be known.
            if slot.unchecked {
                continue;
            }
            // What all others wait behind needs no room.
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
