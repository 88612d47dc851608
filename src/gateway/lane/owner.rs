//! The state of a running lane: one task owns it, so nothing in here is locked. Everything slow
//! runs beside it and comes back as a [`Done`].

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Job, Landing, LaneOptions, LaneTask, Notice, Payload, SignedTransaction, SubmitError, Task,
    TransactionLedger, Waiter,
    draft::{Draft, Fees, gas_limit_of, recover_payload},
};
use crate::{
    backoff::Backoff,
    domain::{B256, Hold, HoldReason, LedgerError, Remedy, RequestKey},
    gateway::{
        nonce::Nonces,
        provider::{Head, Provider, Receipt, RpcError, quirks},
        wallet::{Wallet, WalletError},
    },
    heart::Heart,
};

/// Signatures asked for at the same time (matters with AWS KMS).
const SIGNING_AT_ONCE: usize = 16;
/// Broadcasts under way at the same time.
const BROADCASTING_AT_ONCE: usize = 256;
/// An accepted transaction that is not mined after this is broadcast again.
const REBROADCAST_AFTER: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(100);
/// The tip is asked for at most this often.
const TIP_LIFETIME: Duration = Duration::from_mins(1);
/// Refused for a reason we do not know so often in a row, the caller is told.
const SAID_AFTER: u32 = 5;
/// A mined nonce without a receipt of ours is somebody else's only after this.
/// Sent twice costs gas; behind one URL the node with the receipts may lag for a while.
const DISPLACED_AFTER: Duration = Duration::from_secs(15);

/// One taken nonce with recorded bytes.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Slot {
    /// Recorded bytes for this nonce, oldest first. The last one is broadcast.
    versions: Vec<SignedTransaction>,
    next_broadcast: Instant,
    pause: Backoff,
    sending: bool,
    /// Other bytes for it are being signed.
    bumping: bool,
    /// Some node may have one of the versions: then no rejection frees the nonce.
    maybe_taken: bool,
    announced: bool,
    /// Since when the chain counts this nonce as mined without showing our receipt.
    mined_unseen: Option<Instant>,
    /// Why the node refuses it at the moment; logged on change.
    refusal: Option<quirks::Refusal>,
}

impl Slot {
    fn new(version: SignedTransaction, now: Instant) -> Self {
        Self {
            versions: vec![version],
            next_broadcast: now,
            pause: Backoff::new(Duration::from_millis(250), Duration::from_secs(15)),
            sending: false,
            bumping: false,
            maybe_taken: false,
            announced: false,
            mined_unseen: None,
            refusal: None,
        }
    }

    fn current(&self) -> &SignedTransaction {
        // A slot is made with one version and never loses it.
        &self.versions[self.versions.len() - 1]
    }

    /// The newest bytes with this request's answer: after a rejection a nonce may have carried
    /// another request's before.
    fn version_of(&self, request: RequestKey) -> Option<&SignedTransaction> {
        self.versions.iter().rev().find(|version| version.request == Some(request))
    }
}

/// The tip the node suggests, wei per gas. Zero where it suggests none.
#[derive(Debug, Default)]
struct Tip {
    value: u128,
    /// When it was last told.
    at: Option<Instant>,
    asking: bool,
}

/// What ran beside the owner and came back.
enum Done {
    Prepared(Prepared),
    Sent { nonce: u64, hash: B256, result: Result<B256, RpcError> },
    Checked(Result<Checked, RpcError>),
    Tip(Result<u128, RpcError>),
}

struct Prepared {
    signed: Vec<SignedTransaction>,
    failed: Vec<(Draft, WalletError)>,
    recorded: Result<(), LedgerError>,
}

/// What the chain says about open nonces.
struct Checked {
    mined: u64,
    receipts: Vec<(u64, Option<Receipt>)>,
}

/// The state of a running lane.
pub(super) struct Owner<P, L> {
    provider: P,
    wallet: Arc<Wallet>,
    ledger: L,
    options: LaneOptions,
    jobs: mpsc::Receiver<Task>,
    nonces: Nonces,
    /// Accepted from callers, without a nonce.
    waiting: VecDeque<Payload>,
    /// Who waits for which request, whether its payload is waiting or open.
    waiters: HashMap<RequestKey, (Option<Payload>, Waiter)>,
    open: BTreeMap<u64, Slot>,
    by_request: HashMap<RequestKey, u64>,
    /// Mined while nobody waited: kept until somebody asks.
    landed: HashMap<RequestKey, Landing>,
    beside: JoinSet<Done>,
    /// Drafts being signed and recorded; one batch at a time keeps the broadcast in nonce order.
    preparing: usize,
    broadcasting: usize,
    checking: bool,
    check_again: bool,
    last_check: Instant,
    head: Option<Head>,
    tip: Tip,
    /// The wallet refuses to sign before this.
    sign_after: Instant,
    sign_pause: Backoff,
    /// How many of the waiting payloads were told that the chain is too dear.
    fee_told: usize,
}

impl<P: Provider, L: TransactionLedger> Owner<P, L> {
    pub(super) fn new(task: LaneTask<P, L>, mined: u64) -> Self {
        let now = Instant::now();
        let nonces = Nonces::new(mined, task.recovered.iter().map(|t| t.nonce), task.highest, now);
        if !task.recovered.is_empty() {
            info!(
                open = task.recovered.len(),
                mined,
                next = nonces.peek_next(),
                "following the transactions of an earlier run"
            );
        }
        let mut owner = Self {
            provider: task.provider,
            wallet: task.wallet,
            ledger: task.ledger,
            options: task.options,
            jobs: task.jobs,
            nonces,
            waiting: VecDeque::new(),
            waiters: HashMap::new(),
            open: BTreeMap::new(),
            by_request: HashMap::new(),
            landed: HashMap::new(),
            beside: JoinSet::new(),
            preparing: 0,
            broadcasting: 0,
            checking: false,
            check_again: true,
            last_check: now,
            head: None,
            tip: Tip::default(),
            sign_after: now,
            sign_pause: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            fee_told: 0,
        };
        for transaction in task.recovered {
            owner.hold_open(transaction, now);
        }
        for slot in owner.open.values_mut() {
            // What the earlier run did with it is not known.
            slot.maybe_taken = true;
        }
        owner
    }

    pub(super) async fn run(
        mut self,
        heart: Heart,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let mut heads = self.provider.heads();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = self.waiting.len() < self.options.max_in_flight;
            let busy = !self.open.is_empty() || !self.waiting.is_empty() || self.nonces.has_holes();
            heart.rest();
            // In this order, so that a run can be repeated. Nothing above `heads` is ready for ever:
            // what runs beside is bounded, and jobs are taken only while there is room.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(done) = self.beside.join_next() => match done {
                    Ok(done) => {
                        heart.beat().await;
                        self.take_in(done).await?;
                    }
                    // Nothing in here is meant to panic: it is this task's panic then.
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                Some(job) = self.jobs.recv(), if room => {
                    heart.beat().await;
                    self.accept(job);
                    while self.waiting.len() < self.options.max_in_flight {
                        let Ok(job) = self.jobs.try_recv() else { break };
                        self.accept(job);
                    }
                }
                Ok(()) = heads.changed() => {
                    self.head = *heads.borrow_and_update();
                    self.check_again = true;
                }
                _ = tick.tick(), if busy => {}
            }
            heart.beat().await;
            self.act();
        }
    }

    fn accept(&mut self, task: Task) {
        match task {
            Task::Submit(Job { payload, waiter }) => {
                let key = payload.request;
                let Some(waiter) = self.attach(key, Some(&payload), waiter) else { return };
                self.waiting.push_back(payload.clone());
                self.waiters.insert(key, (Some(payload), waiter));
            }
            Task::Attach { request, waiter, found } => {
                let attached = self.attach(request, None, waiter).is_none();
                // The caller may have gone; its waiter then counts as closed.
                let _ = found.send(attached);
            }
        }
    }

    /// Ties a caller to what is known of its request; gives the caller back if nothing is.
    fn attach(
        &mut self,
        key: RequestKey,
        payload: Option<&Payload>,
        waiter: Waiter,
    ) -> Option<Waiter> {
        if let Some(landing) = self.landed.remove(&key) {
            // The caller may have gone: then the landing is still in the contract.
            let _ = waiter.reply.send(Ok(landing));
            return None;
        }
        if let Some(slot) = self.by_request.get(&key).and_then(|nonce| self.open.get(nonce)) {
            let transaction = slot.version_of(key).unwrap_or(slot.current()).hash;
            if slot.announced {
                // A fresh channel has room.
                let _ = waiter.notify.try_send(Notice::Broadcast { transaction });
            }
            let payload = payload
                .cloned()
                .or_else(|| self.waiters.remove(&key).and_then(|(payload, _)| payload))
                .or_else(|| slot.version_of(key).and_then(|own| recover_payload(key, own)));
            self.waiters.insert(key, (payload, waiter));
            return None;
        }
        match self.waiters.get_mut(&key) {
            // Queued or being signed: the newest caller gets the receipt.
            Some(known) => {
                known.1 = waiter;
                None
            }
            None => Some(waiter),
        }
    }

    /// Starts whatever can be started now.
    fn act(&mut self) {
        let now = Instant::now();
        self.refresh_tip(now);
        self.prepare(now);
        self.broadcast_due(now);
        self.check(now);
    }

    fn refresh_tip(&mut self, now: Instant) {
        let fresh = self.tip.at.is_some_and(|at| now.duration_since(at) < TIP_LIFETIME);
        let needed = !self.waiting.is_empty() || self.nonces.has_holes();
        if fresh || self.tip.asking || !needed {
            return;
        }
        self.tip.asking = true;
        let provider = self.provider.clone();
        self.beside.spawn(async move { Done::Tip(provider.priority_fee().await) });
    }

    /// Fees for a transaction made now; `None` while the chain is dearer than allowed.
    fn fees(&self) -> Option<Fees> {
        Fees::over(self.base_fee(), self.tip.value, self.options.max_fee_per_gas)
    }

    fn base_fee(&self) -> u128 {
        self.head.and_then(|head| head.base_fee).unwrap_or(0)
    }

    fn prepare(&mut self, now: Instant) {
        if self.preparing > 0 || now < self.sign_after || self.head.is_none() {
            return;
        }
        // Once the tip is known; a node that does not tell is answered by zero.
        if self.tip.at.is_none() {
            return;
        }
        let overdue = self.nonces.overdue(now).filter(|hole| {
            self.waiting.is_empty()
                && self.open.last_key_value().is_some_and(|(last, _)| last > hole)
        });
        if self.waiting.is_empty() && overdue.is_none() {
            return;
        }
        let Some(fees) = self.fees() else {
            self.announce_fee_hold();
            return;
        };
        self.fee_told = 0;
        let chain_id = self.options.chain_id;
        let mut drafts = Vec::new();
        if overdue.is_some() {
            let nonce = self.nonces.take();
            warn!(nonce, "filling a nonce nobody needs with a no-op");
            drafts.push(Draft::noop(chain_id, nonce, fees, self.wallet.address()));
        }
        while self.open.len() + drafts.len() < self.options.max_in_flight {
            let Some(payload) = self.waiting.pop_front() else { break };
            // Its caller has gone (drain): not needed before somebody asks again.
            let wanted = self
                .waiters
                .get(&payload.request)
                .is_some_and(|(_, waiter)| !waiter.reply.is_closed());
            if !wanted {
                self.waiters.remove(&payload.request);
                continue;
            }
            let nonce = self.nonces.take();
            drafts.push(Draft::of_payload(chain_id, nonce, fees, &payload));
        }
        self.sign_and_record(drafts);
    }

    fn fee_hold(&self) -> Hold {
        let base = self.base_fee();
        Hold::new(
            HoldReason::FeeCap,
            format!(
                "the chain's base fee is {base} wei per gas, above max_fee_per_gas_gwei; \
                 raise it or wait"
            ),
        )
    }

    fn announce_fee_hold(&mut self) {
        let told = std::mem::replace(&mut self.fee_told, self.waiting.len());
        if told >= self.waiting.len() {
            return;
        }
        let hold = self.fee_hold();
        warn!(base_fee = self.base_fee(), "base fee is above max_fee_per_gas_gwei: answers wait");
        for payload in self.waiting.iter().skip(told) {
            if let Some((_, waiter)) = self.waiters.get(&payload.request) {
                let _ = waiter.notify.try_send(Notice::Waiting(hold.clone()));
            }
        }
    }

    fn sign_and_record(&mut self, drafts: Vec<Draft>) {
        if drafts.is_empty() {
            return;
        }
        self.preparing += drafts.len();
        let (wallet, ledger) = (self.wallet.clone(), self.ledger.clone());
        self.beside.spawn(async move {
            let mut results: Vec<_> = stream::iter(drafts)
                .map(|draft| {
                    let wallet = wallet.clone();
                    async move {
                        let result = draft.sign(&wallet).await;
                        (draft, result)
                    }
                })
                .buffered(SIGNING_AT_ONCE)
                .collect()
                .await;
            let mut prepared =
                Prepared { signed: Vec::new(), failed: Vec::new(), recorded: Ok(()) };
            for (draft, result) in results.drain(..) {
                match result {
                    Ok(signed) => prepared.signed.push(signed),
                    Err(error) => prepared.failed.push((draft, error)),
                }
            }
            if !prepared.signed.is_empty() {
                prepared.recorded = ledger.signed(prepared.signed.clone()).await;
            }
            Done::Prepared(prepared)
        });
    }

    fn broadcast_due(&mut self, now: Instant) {
        let due: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, slot)| !slot.sending && slot.next_broadcast <= now)
            .map(|(nonce, _)| *nonce)
            .take(BROADCASTING_AT_ONCE.saturating_sub(self.broadcasting))
            .collect();
        for nonce in due {
            let Some(slot) = self.open.get_mut(&nonce) else { continue };
            slot.sending = true;
            self.broadcasting += 1;
            let (provider, transaction) = (self.provider.clone(), slot.current().clone());
            self.beside.spawn(async move {
                let result = provider.send_raw_transaction(&transaction.raw).await;
                Done::Sent { nonce, hash: transaction.hash, result }
            });
        }
    }

    /// One count per head tells which nonces are mined; only their receipts are asked for.
    fn check(&mut self, now: Instant) {
        let stale = now.duration_since(self.last_check) >= Duration::from_secs(1);
        if self.checking || self.open.is_empty() || !(self.check_again || stale) {
            return;
        }
        self.checking = true;
        self.check_again = false;
        self.last_check = now;
        let (provider, sender) = (self.provider.clone(), self.wallet.address());
        let open: Vec<(u64, B256)> = self
            .open
            .iter()
            .flat_map(|(nonce, slot)| slot.versions.iter().map(|version| (*nonce, version.hash)))
            .collect();
        self.beside.spawn(async move {
            let checking = async {
                let mined = provider.transaction_count(sender).await?;
                let asked: Vec<(u64, B256)> =
                    open.into_iter().take_while(|(nonce, _)| *nonce < mined).collect();
                let hashes: Vec<B256> = asked.iter().map(|(_, hash)| *hash).collect();
                let mut receipts = Vec::with_capacity(asked.len());
                for (asked, hashes) in asked.chunks(100).zip(hashes.chunks(100)) {
                    let answers = provider.receipts(hashes).await?;
                    receipts.extend(asked.iter().map(|(nonce, _)| *nonce).zip(answers));
                }
                Ok(Checked { mined, receipts })
            };
            Done::Checked(checking.await)
        });
    }

    async fn take_in(&mut self, done: Done) -> Result<(), LedgerError> {
        match done {
            Done::Prepared(prepared) => self.take_prepared(prepared)?,
            Done::Sent { nonce, hash, result } => {
                self.broadcasting -= 1;
                self.take_sent(nonce, hash, &result);
            }
            Done::Checked(checked) => {
                self.checking = false;
                match checked {
                    Ok(checked) => self.take_checked(checked).await?,
                    Err(error) => debug!(%error, "could not look for receipts"),
                }
            }
            Done::Tip(tip) => {
                self.tip.asking = false;
                self.tip.at = Some(Instant::now());
                match tip {
                    Ok(tip) => self.tip.value = tip,
                    Err(error) => debug!(%error, "the node suggests no tip"),
                }
            }
        }
        Ok(())
    }

    fn take_prepared(&mut self, prepared: Prepared) -> Result<(), LedgerError> {
        self.preparing -= prepared.signed.len() + prepared.failed.len();
        prepared.recorded?;
        let now = Instant::now();
        for (draft, error) in prepared.failed.into_iter().rev() {
            if draft.bump {
                if let Some(slot) = self.open.get_mut(&draft.nonce()) {
                    slot.bumping = false;
                }
                continue;
            }
            self.nonces.give_back(draft.nonce(), now);
            let Some(key) = draft.request else { continue };
            match error.remedy() {
                Remedy::Retry => {
                    debug!(request = %key, %error, "signing failed, trying again");
                    self.requeue(key);
                    self.sign_after = now + self.sign_pause.next_delay();
                }
                Remedy::Hold(hold) => self.fail(key, SubmitError::Held(hold)),
                Remedy::Refuse(refusal) => self.fail(
                    key,
                    SubmitError::Held(Hold::new(HoldReason::ContractRejected, refusal.to_string())),
                ),
            }
        }
        if !prepared.signed.is_empty() {
            self.sign_pause.reset();
        }
        for transaction in prepared.signed {
            self.hold_open(transaction, now);
        }
        Ok(())
    }

    /// A recorded transaction becomes, or joins, the slot of its nonce.
    fn hold_open(&mut self, transaction: SignedTransaction, now: Instant) {
        if let Some(key) = transaction.request {
            self.by_request.insert(key, transaction.nonce);
        }
        match self.open.get_mut(&transaction.nonce) {
            Some(slot) => {
                slot.versions.push(transaction);
                slot.next_broadcast = now;
                slot.announced = false;
                slot.bumping = false;
            }
            None => {
                self.open.insert(transaction.nonce, Slot::new(transaction, now));
            }
        }
    }

    fn take_sent(&mut self, nonce: u64, hash: B256, result: &Result<B256, RpcError>) {
        let now = Instant::now();
        let Some(slot) = self.open.get_mut(&nonce) else { return };
        slot.sending = false;
        if slot.current().hash != hash {
            slot.next_broadcast = now;
            return;
        }
        let refusal = match result {
            Ok(_) => quirks::Refusal::AlreadyKnown,
            Err(RpcError::Refused { code, message, .. }) => quirks::refusal(*code, message),
            Err(_) => quirks::Refusal::Unknown,
        };
        slot.maybe_taken |=
            matches!(refusal, quirks::Refusal::AlreadyKnown | quirks::Refusal::Unknown);
        if let Err(error) = result
            && refusal != quirks::Refusal::AlreadyKnown
            && slot.refusal != Some(refusal)
        {
            slot.refusal = Some(refusal);
            warn!(nonce, transaction = %hash, %error, "broadcast not accepted");
        }
        match refusal {
            quirks::Refusal::AlreadyKnown | quirks::Refusal::Underpriced => {
                slot.next_broadcast = now + REBROADCAST_AFTER.max(slot.pause.next_delay());
                if !slot.announced {
                    slot.announced = true;
                    let request = slot.current().request;
                    self.notify(request, Notice::Broadcast { transaction: hash });
                }
                self.wake_behind(nonce, now);
            }
            quirks::Refusal::NonceTooLow => {
                slot.next_broadcast = now + REBROADCAST_AFTER;
                self.check_again = true;
            }
            quirks::Refusal::NonceTooHigh | quirks::Refusal::Busy => {
                slot.next_broadcast = now + slot.pause.next_delay();
            }
            quirks::Refusal::Unknown => {
                slot.next_broadcast = now + slot.pause.next_delay();
                if let Err(error @ RpcError::Refused { .. }) = result
                    && slot.pause.attempts() == SAID_AFTER
                {
                    let request = slot.current().request;
                    let hold = Hold::new(
                        HoldReason::ContractRejected,
                        format!("the node does not take the transaction: {error}"),
                    );
                    self.notify(request, Notice::Waiting(hold));
                }
            }
            quirks::Refusal::InsufficientFunds => {
                slot.next_broadcast = now + slot.pause.next_delay().max(Duration::from_secs(1));
                let request = slot.current().request;
                let hold = Hold::new(
                    HoldReason::NoFunds,
                    format!(
                        "wallet {} cannot pay for gas; send it funds, nothing else is needed",
                        self.wallet.address()
                    ),
                );
                self.notify(request, Notice::Waiting(hold));
            }
            quirks::Refusal::FeeTooLow => {
                slot.next_broadcast = now + slot.pause.next_delay();
                self.bump_fee(nonce);
            }
            quirks::Refusal::Unacceptable | quirks::Refusal::Reverted => {
                if let Err(error) = result {
                    self.reject(nonce, refusal, error);
                }
            }
        }
    }

    /// The node proved that it will not take these bytes: the nonce is free again.
    fn reject(&mut self, nonce: u64, refusal: quirks::Refusal, error: &RpcError) {
        let now = Instant::now();
        if self.open.get(&nonce).is_some_and(|slot| slot.maybe_taken) {
            self.replace_by_noop(nonce, now);
            return;
        }
        let Some(slot) = self.open.remove(&nonce) else { return };
        self.nonces.give_back(nonce, now);
        let current = slot.current().request;
        for other in slot.versions.iter().filter_map(|version| version.request) {
            if self.by_request.get(&other) == Some(&nonce) {
                self.by_request.remove(&other);
                if Some(other) != current {
                    self.requeue(other);
                }
            }
        }
        let Some(key) = current else { return };
        let error = if refusal == quirks::Refusal::Reverted {
            SubmitError::WouldRevert { data: error.revert_data().unwrap_or_default() }
        } else {
            SubmitError::Held(Hold::new(
                HoldReason::ContractRejected,
                format!("the node does not take the transaction: {error}; check gas_limit"),
            ))
        };
        self.fail(key, error);
    }

    /// An earlier send of these bytes may have reached somebody: a no-op is sent in their place, and
    /// what it displaces gets a new nonce once either is mined.
    fn replace_by_noop(&mut self, nonce: u64, now: Instant) {
        let fees = self.fees();
        let (chain_id, sender) = (self.options.chain_id, self.wallet.address());
        let Some(slot) = self.open.get_mut(&nonce) else { return };
        slot.next_broadcast = now + slot.pause.next_delay();
        if slot.current().request.is_none() || slot.bumping {
            return;
        }
        let Some(fees) = fees else { return };
        slot.bumping = true;
        warn!(nonce, "refused now, and maybe taken before: a no-op is sent in its place");
        let draft = Draft::noop_instead_of(slot.current(), chain_id, fees, sender);
        self.sign_and_record(vec![draft]);
    }

    /// What was refused because this nonce was missing is sent again at once.
    fn wake_behind(&mut self, nonce: u64, now: Instant) {
        for (_, slot) in self.open.range_mut(nonce + 1..) {
            if slot.refusal == Some(quirks::Refusal::NonceTooHigh) {
                slot.refusal = None;
                slot.pause.reset();
                slot.next_broadcast = now;
            }
        }
    }

    /// The same payload under the same nonce with a higher fee.
    fn bump_fee(&mut self, nonce: u64) {
        let fees = self.fees();
        let cap = self.options.max_fee_per_gas;
        let Some(slot) = self.open.get_mut(&nonce).filter(|slot| !slot.bumping) else { return };
        let draft = fees.and_then(|fees| Draft::bump_of(slot.current(), fees, cap));
        if let Some(draft) = draft {
            slot.bumping = true;
            self.sign_and_record(vec![draft]);
        } else {
            let request = slot.current().request;
            self.notify(request, Notice::Waiting(self.fee_hold()));
        }
    }

    async fn take_checked(&mut self, checked: Checked) -> Result<(), LedgerError> {
        let now = Instant::now();
        if let Some(foreign) = self.nonces.observe_mined(checked.mined) {
            warn!(
                first = foreign.start(),
                last = foreign.end(),
                "nonces were used by transactions this journal does not know: \
                 is the wallet used elsewhere?"
            );
        }
        let mut unseen = Vec::new();
        for (nonce, receipt) in checked.receipts {
            match receipt {
                Some(receipt) => self.land(nonce, receipt).await?,
                None => unseen.push(nonce),
            }
        }
        for nonce in unseen {
            let Some(slot) = self.open.get_mut(&nonce) else { continue };
            let since = *slot.mined_unseen.get_or_insert(now);
            if now.duration_since(since) >= DISPLACED_AFTER {
                self.displace(nonce);
            }
            // Otherwise the next head, or a second, shows whether the node only lagged.
        }
        Ok(())
    }

    async fn land(&mut self, nonce: u64, receipt: Receipt) -> Result<(), LedgerError> {
        let Some(slot) = self.open.remove(&nonce) else { return Ok(()) };
        self.ledger.mined(receipt.hash, receipt.block).await?;
        self.wake_behind(nonce, Instant::now());
        let mined = slot.versions.iter().find(|version| version.hash == receipt.hash);
        let landed = mined.and_then(|version| version.request);
        for version in slot.versions {
            let Some(key) = version.request else { continue };
            if self.by_request.get(&key) == Some(&nonce) {
                self.by_request.remove(&key);
            }
            if version.hash != receipt.hash && landed == Some(key) {
                // A cheaper version of what was mined.
                continue;
            }
            if version.hash == receipt.hash {
                let landing = Landing {
                    transaction: receipt.hash,
                    block: receipt.block,
                    success: receipt.success,
                    gas_used: receipt.gas_used,
                    gas_limit: gas_limit_of(&version),
                };
                match self.waiters.remove(&key) {
                    Some((_, waiter)) => {
                        if waiter.reply.send(Ok(landing)).is_err() {
                            self.landed.insert(key, landing);
                        }
                    }
                    None => {
                        self.landed.insert(key, landing);
                    }
                }
            } else if !self.landed.contains_key(&key) && !self.by_request.contains_key(&key) {
                // Other bytes took its nonce: now, and not before, it may have a new one.
                self.requeue(key);
            }
        }
        Ok(())
    }

    /// The nonce was used by a transaction that is none of ours.
    fn displace(&mut self, nonce: u64) {
        let Some(slot) = self.open.remove(&nonce) else { return };
        warn!(
            nonce,
            transaction = %slot.current().hash,
            "the nonce was used by a transaction this journal does not know; \
             the answer is sent again: is the wallet used elsewhere?"
        );
        for version in slot.versions {
            let Some(key) = version.request else { continue };
            if self.by_request.get(&key) == Some(&nonce) {
                self.by_request.remove(&key);
                self.requeue(key);
            }
        }
    }

    /// Back to the front of the queue, if somebody still waits for it. Once, however many versions
    /// of it were displaced.
    fn requeue(&mut self, key: RequestKey) {
        if self.waiting.iter().any(|payload| payload.request == key) {
            return;
        }
        if let Some((Some(payload), _)) = self.waiters.get(&key) {
            self.waiting.push_front(payload.clone());
        }
    }

    fn fail(&mut self, key: RequestKey, error: SubmitError) {
        if let Some((_, waiter)) = self.waiters.remove(&key) {
            // The caller may have gone; then there is nobody to tell.
            let _ = waiter.reply.send(Err(error));
        }
    }

    fn notify(&self, request: Option<RequestKey>, notice: Notice) {
        if let Some((_, waiter)) = request.and_then(|key| self.waiters.get(&key)) {
            // Notices inform; a caller that does not read them loses nothing.
            let _ = waiter.notify.try_send(notice);
        }
    }
}
