//! Property tests: the lane's state against a modelled chain behind two endpoints, on a clock that the test
//! moves. Sends are accepted, lost, refused, or accepted without an answer; pools forget, blocks leave
//! the chain, somebody else uses the wallet; the nodes' transaction counts are wrong, late or
//! alternating. Once with a sequencer's chain, once with pools, where fees count and an answer is one when its
//! block is deep: there the base fee leaps, and pools are full or dear.
//!
//! Whatever happens:
//! - at most one payload is mined under a nonce, and no payload is mined twice while the first one stays
//!   mined;
//! - a nonce below others is missing for no longer than a limit, while somebody listens;
//! - once all faults are over, everything is answered;
//! - where there are pools: nothing is signed above the cap, all bytes of a payload under a nonce are
//!   replacements that any pool takes, and what was told to be answered stays answered.

mod chain;
mod ledger;

use std::{collections::BTreeSet, time::Duration};

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::time::Instant;

use self::{
    chain::{Chain, PoolMood, fees_of},
    ledger::Ledger,
};
use crate::{
    chain::{
        fake_chain::SOURCE,
        lane::{
            ChainKind, HIGHEST_FEE, LaneOptions, MempoolRules, Payload, Recovered,
            SignedTransaction,
            count::Votes,
            receipts::maybe_mined,
            state::{ChainReport, Effect, LaneState, ReceiptQuery},
        },
        rpc_error::RpcError,
        sender::Acceptance,
        wallet::Wallet,
    },
    domain::{B256, Bytes, RequestKey, U256},
};

const STEP: Duration = Duration::from_millis(50);
const BLOCK_TIME: Duration = Duration::from_millis(250);
const GWEI: u128 = 1_000_000_000;
const CONFIRMATIONS: u64 = 64;
/// Blocks of a chain with pools. Much shorter than Ethereum's, as are its confirmations in time: the lane
/// counts blocks.
const POOL_BLOCK_TIME: Duration = Duration::from_secs(1);
/// A hole is filled after half a second; then the no-op is signed, sent, and possibly lost and sent
/// again. What every pool accepted and forgot is sent again after three seconds, and may then wait one
/// second for its turn.
const GAP_LIMIT: Duration = Duration::from_secs(5);
/// After a reorganisation or foreign use of the wallet the lane first has to be sure.
const DOUBTFUL_GAP_LIMIT: Duration = Duration::from_secs(40);
/// After the faults an operator notices a hold and restarts the instance.
const OPERATOR_AFTER: Duration = Duration::from_secs(45);
/// Everything is answered this long after the faults.
const ALL_WITHIN: Duration = Duration::from_mins(3);
/// The same where an answer has to become deep, and tips may have to rise first.
const POOLS_ALL_WITHIN: Duration = Duration::from_mins(8);

#[derive(Clone, Copy, Debug)]
enum ModelEvent {
    /// A caller submits a payload.
    Submit,
    /// What happens to the next sends.
    Weather(Weather),
    /// One endpoint loses its pool.
    Forget(usize),
    /// Somebody else uses the wallet.
    Foreign,
    /// `depth` blocks leave the chain. `back`: their transactions return to a pool.
    Reorganise {
        depth: usize,
        back: bool,
    },
    /// The process dies and starts again from what is recorded.
    Restart,
    /// The node fails in the middle of the next query, after this many receipts.
    ShortLook(usize),
    /// The base fee becomes so many gwei.
    BaseFee(u128),
    Mood(usize, PoolMood),
    /// This many blocks are made.
    Blocks(u32),
    /// A node reports a wrong count for this many steps.
    Count {
        node: usize,
        lie: Lie,
        steps: u32,
    },
    Nothing,
}

/// How a node's count is wrong.
#[derive(Clone, Copy, Debug)]
enum Lie {
    More(u64),
    Less(u64),
    Exactly(u64),
    /// Too high in every other answer.
    NowAndThen(u64),
    /// It does not change any more.
    Stuck,
}

fn lie() -> impl Strategy<Value = Lie> {
    prop_oneof![
        2 => (1..4u64).prop_map(Lie::More),
        2 => (1..4u64).prop_map(Lie::Less),
        1 => prop_oneof![Just(0), Just(50), Just(5000), Just(1 << 40)].prop_map(Lie::Exactly),
        1 => (1..100u64).prop_map(Lie::NowAndThen),
        1 => Just(Lie::Stuck),
    ]
}

/// What happens to a send at the endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Weather {
    #[default]
    Fair,
    /// No endpoint gets it, and none answers.
    Lost,
    /// The second endpoint accepts it, but no answer comes.
    Silent,
    /// Every endpoint says that it is busy.
    Busy,
    /// Refused, as if the contract reverted.
    Reverts,
    /// Accepted; the answer comes after the next block.
    Slow,
}

fn event() -> impl Strategy<Value = ModelEvent> {
    let weather = prop_oneof![
        4 => Just(Weather::Fair),
        1 => Just(Weather::Lost),
        1 => Just(Weather::Silent),
        1 => Just(Weather::Busy),
        1 => Just(Weather::Reverts),
        1 => Just(Weather::Slow),
    ];
    prop_oneof![
        8 => Just(ModelEvent::Nothing),
        6 => Just(ModelEvent::Submit),
        3 => weather.prop_map(ModelEvent::Weather),
        1 => (0..2usize).prop_map(ModelEvent::Forget),
        1 => Just(ModelEvent::Foreign),
        1 => (1..4usize, any::<bool>()).prop_map(|(depth, back)| ModelEvent::Reorganise { depth, back }),
        1 => Just(ModelEvent::Restart),
        1 => (0..6usize).prop_map(ModelEvent::ShortLook),
        2 => (0..2usize, lie(), 1..400u32)
            .prop_map(|(node, lie, steps)| ModelEvent::Count { node, lie, steps }),
    ]
}

/// What happens on a chain with pools.
fn pool_event() -> impl Strategy<Value = ModelEvent> {
    let mood = prop_oneof![
        3 => Just(PoolMood::Open),
        1 => Just(PoolMood::Full),
        1 => (1..8u128).prop_map(|tenths| PoolMood::Dear(tenths * GWEI / 10)),
        1 => Just(PoolMood::Strict),
    ];
    let base_fee = prop_oneof![2 => Just(1), 1 => Just(10), 1 => Just(100), 1 => Just(500)];
    let deep = (1..=30usize, any::<bool>());
    prop_oneof![
        4 => event().prop_filter("nobody else has the key", |event| {
            !matches!(event, ModelEvent::Foreign | ModelEvent::Reorganise { .. })
        }),
        3 => Just(ModelEvent::Submit),
        3 => (1..30u32).prop_map(ModelEvent::Blocks),
        2 => base_fee.prop_map(ModelEvent::BaseFee),
        1 => (0..2usize, mood).prop_map(|(node, mood)| ModelEvent::Mood(node, mood)),
        1 => (0..2usize).prop_map(ModelEvent::Forget),
        1 => deep.prop_map(|(depth, back)| ModelEvent::Reorganise { depth, back }),
        1 => Just(ModelEvent::Restart),
    ]
}

/// The part of an answer that arrived before it broke off.
fn cut(mut seen: ChainReport, lines: usize) -> ChainReport {
    let left = lines.saturating_sub(seen.open.len());
    if let Some(split) = seen.open.get(lines).map(|(nonce, _)| *nonce) {
        seen.open.truncate(lines);
        seen.open.retain(|(nonce, _)| *nonce != split);
    }
    seen.is_complete = left >= seen.mined.len();
    seen.mined.truncate(left);
    seen
}

/// A result that reaches the state later.
enum Delayed {
    /// These are durable.
    Recorded(Vec<SignedTransaction>),
    Answer {
        nonce: u64,
        hash: B256,
        result: Result<Acceptance, RpcError>,
    },
}

#[expect(clippy::struct_excessive_bools, reason = "each is something that ever happened")]
struct LaneModel {
    options: LaneOptions,
    block_time: Duration,
    book: LaneState,
    ledger: Ledger,
    chain: Chain,
    wallet: Wallet,
    now: Instant,
    weather: Weather,
    later: Vec<(Instant, Delayed)>,
    look: Option<ReceiptQuery>,
    /// The next query breaks off after this many receipts.
    short: Option<usize>,
    /// Submitted and not mined yet.
    wanted: BTreeSet<U256>,
    submitted: u64,
    gap_since: Option<(u64, Instant)>,
    next_block: Instant,
    foreign: bool,
    /// How each node's count is wrong, and until when.
    lies: [Option<(Lie, Instant)>; 2],
    /// Number of questions for the count.
    asked: u64,
    /// Until when some node's count was wrong, and until when all were wrong at once: then no node can
    /// correct the others.
    lied_until: Instant,
    all_lied_ever: bool,
    /// A foreign transaction used a nonce, and a reorganisation may have undone that: then the displaced
    /// bytes may be mined after all, and only the contract can tell.
    foreign_ever: bool,
    reorganised_ever: bool,
}

const POOLS: LaneOptions = LaneOptions {
    chain_id: 1,
    max_in_flight: 8,
    max_fee_per_gas: 300 * GWEI,
    kind: ChainKind::Mempool(MempoolRules { confirmations: CONFIRMATIONS, unmined_blocks: 5 }),
};

const SEQUENCER: LaneOptions = LaneOptions {
    chain_id: 1,
    max_in_flight: 8,
    max_fee_per_gas: HIGHEST_FEE,
    kind: ChainKind::Sequencer,
};

fn key(id: U256) -> RequestKey {
    RequestKey { source: SOURCE, id, content: B256::ZERO }
}

fn payload(id: U256) -> Payload {
    Payload {
        request: key(id),
        to: crate::domain::Address::ZERO,
        data: Bytes::from(id.to_be_bytes_vec()),
        gas_limit: 100_000,
    }
}

fn refused(message: &str, code: i64) -> RpcError {
    RpcError::Refused { host: "node".into(), code, message: message.into(), data: None }
}

impl LaneModel {
    fn new(options: LaneOptions) -> Self {
        let now = Instant::now();
        let wallet = Wallet::from_private_key(&[7; 32]).expect("a valid key");
        let mut book = LaneState::new(options, wallet.address(), 0, Recovered::default(), now);
        let has_pools = options.kind != ChainKind::Sequencer;
        let mut chain = Chain { base_fee: has_pools.then_some(GWEI), ..Chain::default() };
        let block_time = if has_pools { POOL_BLOCK_TIME } else { BLOCK_TIME };
        book.apply_head(&chain.block(false), now);
        book.set_tip(Some(0));
        Self {
            options,
            block_time,
            book,
            ledger: Ledger::default(),
            chain,
            wallet,
            now,
            weather: Weather::Fair,
            later: Vec::new(),
            look: None,
            short: None,
            wanted: BTreeSet::new(),
            submitted: 0,
            gap_since: None,
            next_block: now + block_time,
            foreign: false,
            lies: [None; 2],
            asked: 0,
            lied_until: now,
            all_lied_ever: false,
            foreign_ever: false,
            reorganised_ever: false,
        }
    }

    fn happen(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::Submit => {
                self.submitted += 1;
                let id = U256::from(self.submitted);
                self.wanted.insert(id);
                self.book.submit(payload(id));
            }
            ModelEvent::Weather(weather) => self.weather = weather,
            ModelEvent::Forget(pool) => self.chain.pools[pool].clear(),
            ModelEvent::Foreign => (self.foreign, self.foreign_ever) = (true, true),
            ModelEvent::Reorganise { depth, back } => {
                self.reorganised_ever = true;
                self.chain.reorganise(depth, back);
            }
            ModelEvent::Restart => self.restart(),
            ModelEvent::ShortLook(lines) => self.short = Some(lines),
            ModelEvent::Count { node, lie, steps } => {
                let lie = match lie {
                    Lie::Stuck => Lie::Exactly(self.chain.count()),
                    Lie::More(_) | Lie::Less(_) | Lie::Exactly(_) | Lie::NowAndThen(_) => lie,
                };
                self.lies[node] = Some((lie, self.now + STEP * steps));
                self.lied_until = self.lied_until.max(self.now + STEP * steps);
                self.all_lied_ever |= self.lies.iter().all(Option::is_some);
            }
            ModelEvent::BaseFee(gwei) => self.chain.base_fee = Some(gwei * GWEI),
            ModelEvent::Mood(node, mood) => self.chain.moods[node] = mood,
            // Time passes behind each event anyway.
            ModelEvent::Blocks(_) | ModelEvent::Nothing => {}
        }
    }

    fn has_pools(&self) -> bool {
        self.options.kind != ChainKind::Sequencer
    }

    fn restart(&mut self) {
        let recovered = if self.has_pools() {
            self.ledger.unconfirmed(&self.wanted)
        } else {
            self.ledger.recovered()
        };
        let (sender, count) = (self.wallet.address(), self.chain.count());
        self.book = LaneState::new(self.options, sender, count, recovered, self.now);
        self.book.set_tip(Some(0));
        (self.later, self.look) = (Vec::new(), None);
        self.walk_again();
    }

    /// Callers submit again what has no outcome, as walks do.
    fn walk_again(&mut self) {
        for id in self.wanted.clone() {
            if !self.book.attach(key(id)) {
                self.book.submit(payload(id));
            }
        }
    }

    fn step(&mut self) -> Result<(), TestCaseError> {
        self.now += STEP;
        for lie in &mut self.lies {
            *lie = lie.filter(|(_, until)| self.now < *until);
        }
        if self.now >= self.next_block {
            self.next_block += self.block_time;
            let head = self.chain.block(std::mem::take(&mut self.foreign));
            self.book.apply_head(&head, self.now);
            self.check_chain()?;
        }
        let due: Vec<Delayed>;
        (due, self.later) = {
            let (due, later): (Vec<_>, Vec<_>) =
                self.later.drain(..).partition(|(at, _)| *at <= self.now);
            (due.into_iter().map(|(_, later)| later).collect(), later)
        };
        for later in due {
            match later {
                Delayed::Recorded(transactions) => {
                    self.record(&transactions);
                    self.book.apply_recorded(transactions, self.now);
                }
                Delayed::Answer { nonce, hash, result } => {
                    self.book.apply_broadcast(nonce, hash, result, self.now, 0.5);
                }
            }
        }
        if let Some(look) = self.look.take() {
            let seen = match self.short.take() {
                Some(lines) => cut(self.seen(&look), lines),
                None => self.seen(&look),
            };
            self.book.apply_report(Some(seen), self.now);
        }
        let wanted = &self.wanted;
        self.book.plan_work(|key| wanted.contains(&key.id), self.now);
        self.look = self.book.receipt_query(self.now);
        // Signing takes no time here, so its consequences follow at once.
        loop {
            let effects = self.book.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(effect);
            }
        }
        self.check_gap()
    }

    fn count_of(&mut self, node: usize) -> u64 {
        let count = self.chain.count();
        self.asked += 1;
        match self.lies[node] {
            None => count,
            Some((Lie::More(more), _)) => count + more,
            Some((Lie::Less(less), _)) => count.saturating_sub(less),
            Some((Lie::Exactly(exactly), _)) => exactly,
            Some((Lie::NowAndThen(more), _)) => count + more * (self.asked % 2),
            Some((Lie::Stuck, _)) => unreachable!("it was made exact"),
        }
    }

    fn seen(&mut self, look: &ReceiptQuery) -> ChainReport {
        let count = self.count_of(0);
        let votes = look.asks_all_nodes.then(|| {
            Votes([0, 1].map(|node| (format!("node {node}"), self.count_of(node))).to_vec())
        });
        let receipt = |(nonce, hash): (u64, B256)| (nonce, self.chain.receipt(hash));
        ChainReport {
            count,
            votes,
            head: self.chain.blocks.last().map(|(block, _)| block.number),
            open: maybe_mined(look, count).into_iter().map(receipt).collect(),
            mined: look.mined.iter().map(|one| receipt((one.nonce, one.hash))).collect(),
            deep: look.deep.iter().map(|one| receipt((one.nonce, one.hash))).collect(),
            displaced: look
                .displaced
                .iter()
                .filter_map(|(nonce, hash)| Some((*nonce, self.chain.receipt(*hash)?)))
                .collect(),
            is_silent: false,
            is_complete: true,
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Sign(drafts) => {
                let mut signed = Vec::new();
                for draft in drafts {
                    let one = draft.sign(&self.wallet).now_or_never().expect("a key of ours");
                    signed.push(one.expect("signs"));
                }
                self.book.apply_signed(signed, Vec::new(), self.now, 0.5);
            }
            // A process that dies before this has recorded nothing.
            Effect::Record(signed) => self.later.push((self.now + STEP, Delayed::Recorded(signed))),
            Effect::Broadcast { transaction, awaits_receipt: waits } => {
                let recorded = self.ledger.rows.contains(&transaction);
                assert!(recorded, "broadcast before it is recorded: {transaction:?}");
                self.send(&transaction, waits);
            }
            Effect::Mined(id, block) => {
                self.ledger.mined.insert(id.hash, block);
            }
            Effect::GiveUp(ids, why) => {
                self.ledger.given_up.extend(ids.into_iter().map(|id| (id.hash, why)));
            }
            Effect::Reopen(ids) => {
                let dropped = self.ledger.rows.iter().filter(|row| ids.contains(&row.id()));
                let again: Vec<U256> =
                    dropped.filter_map(|row| row.request).map(|key| key.id).collect();
                let had_counted = again.iter().any(|id| !self.wanted.contains(id));
                assert!(!(self.has_pools() && had_counted), "it was told to be deep: {again:?}");
                self.wanted.extend(again);
                let open = self.ledger.reopen(&ids);
                self.book.apply_reopened(open, self.now);
                self.walk_again();
            }
            Effect::NotifyIncluded(key, landing) => {
                let on_top = self.chain.height().checked_sub(landing.block.number);
                let is_deep = on_top.is_some_and(|blocks| blocks >= CONFIRMATIONS);
                assert!(is_deep || !self.has_pools(), "{landing:?}, {on_top:?} blocks on top");
                if !self.wanted.remove(&key.id) {
                    self.book.keep_inclusion(key, landing);
                }
            }
            // A refused caller submits again, as a walk does unless the contract itself refuses.
            Effect::NotifyFailed(key, _) => self.book.submit(payload(key.id)),
            Effect::Notify(..) | Effect::Log(_) => {}
        }
    }

    fn record(&mut self, transactions: &[SignedTransaction]) {
        for one in transactions {
            if self.has_pools() {
                self.check_fees(one);
            }
            // The same bytes were recorded again: they are valid this time.
            self.ledger.given_up.remove(&one.hash);
            if !self.ledger.rows.iter().any(|row| row.hash == one.hash) {
                self.ledger.rows.push(one.clone());
            }
        }
    }

    /// What is recorded may be sent: it stays below the cap, and is a replacement of what it follows.
    fn check_fees(&self, new: &SignedTransaction) {
        let fees = fees_of(new);
        assert!(fees.max <= self.options.max_fee_per_gas, "above the cap: {fees:?}");
        let Some(old) = self.ledger.versions(new.nonce).last() else { return };
        let known = fees_of(old);
        let is_eighth_more = |new: u128, old: u128| new * 8 >= old * 9;
        let is_replacement =
            is_eighth_more(fees.max, known.max) && is_eighth_more(fees.tip, known.tip);
        assert!(is_replacement || old.hash == new.hash, "{known:?} -> {fees:?}");
        assert!(new.request.is_none() || new.request == old.request, "another payload");
    }

    fn send(&mut self, transaction: &SignedTransaction, waits: bool) {
        let SignedTransaction { nonce, hash, .. } = *transaction;
        let lost = RpcError::Unavailable { host: "node".into(), what: "lost".into() };
        let (after, result) = match self.weather {
            Weather::Lost => (Duration::from_secs(10), Err(lost)),
            Weather::Silent => {
                let _taken = self.chain.take(1, transaction);
                (Duration::from_secs(10), Err(lost))
            }
            Weather::Busy => (STEP, Err(refused("too many requests", 429))),
            Weather::Reverts => (STEP, Err(refused("execution reverted", 3))),
            Weather::Fair | Weather::Slow => {
                let known = self.chain.pools[0].get(&nonce).is_some_and(|one| one.hash == hash);
                let taken = [0, 1].map(|pool| self.chain.take(pool, transaction));
                // One node that takes it is enough.
                let result = match taken[0] {
                    Err(_) if self.has_pools() && taken[1].is_ok() => Ok(Acceptance::Accepted),
                    Err(message) => Err(refused(message, -32000)),
                    Ok(()) if known => Err(refused("already known", -32000)),
                    Ok(()) => Ok(Acceptance::Accepted),
                };
                (if self.weather == Weather::Slow { self.block_time * 2 } else { STEP }, result)
            }
        };
        let waits = waits && result.is_ok() && nonce % 2 == 0;
        let after = if waits { self.block_time * 2 } else { after };
        self.later.push((self.now + after, Delayed::Answer { nonce, hash, result }));
    }

    fn check_chain(&self) -> Result<(), TestCaseError> {
        let may_waste = (self.foreign_ever && self.reorganised_ever) || self.all_lied_ever;
        let mut answered = BTreeSet::new();
        for (number, (_, mined)) in self.chain.mined().enumerate() {
            prop_assert_eq!(mined.nonce, number as u64, "one transaction for each nonce");
            if let Some(key) = mined.raw.as_ref().and_then(|raw| raw.request) {
                let first = answered.insert(key.id);
                prop_assert!(first || may_waste, "payload {} is mined twice", key.id);
            }
            if let Some(raw) = &mined.raw {
                let recorded = self.ledger.rows.iter().any(|row| row.hash == raw.hash);
                prop_assert!(recorded, "mined and never recorded");
            }
        }
        Ok(())
    }

    fn check_gap(&mut self) -> Result<(), TestCaseError> {
        // Pools keep what waits behind a gap.
        let listens = matches!(self.weather, Weather::Fair | Weather::Slow) && !self.has_pools();
        let gap = self.chain.gap().filter(|_| listens);
        self.gap_since = match (gap, self.gap_since) {
            (Some(gap), Some((known, since))) if gap == known => Some((gap, since)),
            (Some(gap), _) => Some((gap, self.now)),
            (None, _) => None,
        };
        if let Some((gap, since)) = self.gap_since {
            let age = self.now.saturating_duration_since(since.max(self.lied_until));
            let lied = self.lied_until > since;
            let doubtful = self.foreign_ever || self.reorganised_ever || lied;
            let limit = if doubtful { DOUBTFUL_GAP_LIMIT } else { GAP_LIMIT };
            prop_assert!(age <= limit, "nonce {} is missing for {:?}", gap, age);
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.weather = Weather::Fair;
        self.lies = [None; 2];
        self.chain.moods = [PoolMood::Open; 2];
        self.chain.base_fee = self.chain.base_fee.map(|_| GWEI);
        // The next blocks show what the last reorganisation removed.
        let all_within = if self.has_pools() { POOLS_ALL_WITHIN } else { ALL_WITHIN };
        let (soon, until) = (self.now + self.block_time * 4, self.now + all_within);
        let done = |world: &Self| world.wanted.is_empty() && !world.book.is_busy();
        let mut operator = Some(self.now + OPERATOR_AFTER);
        while self.now < soon || (self.now < until && !done(self)) {
            self.step()?;
            // An operator who sees "wallet used elsewhere" restarts the instance.
            if operator.take_if(|at| *at <= self.now).is_some() {
                self.restart();
            }
        }
        prop_assert!(self.wanted.is_empty(), "not answered: {:?}", self.wanted);
        let answered: BTreeSet<U256> = self
            .chain
            .mined()
            .filter_map(|(_, mined)| mined.raw.as_ref()?.request)
            .map(|key| key.id)
            .collect();
        let asked: BTreeSet<U256> = (1..=self.submitted).map(U256::from).collect();
        prop_assert_eq!(answered, asked);
        Ok(())
    }
}

proptest! {
    /// T39 and A9: several nodes with wrong, late and alternating counts.
    #[test]
    fn nonces_are_used_once_and_in_time(events in prop::collection::vec(event(), 1..120)) {
        let mut world = LaneModel::new(SEQUENCER);
        for event in events {
            world.happen(event);
            for _ in 0..4 {
                world.step()?;
            }
        }
        world.settle()?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pools that refuse and forget, base fees that leap, reorganisations within the confirmations, and
    /// restarts at any moment.
    #[test]
    fn where_there_are_pools_each_answer_is_mined_once_and_stays(
        events in prop::collection::vec(pool_event(), 1..60),
    ) {
        let mut world = LaneModel::new(POOLS);
        for event in events {
            world.happen(event);
            let blocks = if let ModelEvent::Blocks(many) = event { many } else { 0 };
            for _ in 0..4 + blocks * 20 {
                world.step()?;
            }
        }
        world.settle()?;
    }
}
