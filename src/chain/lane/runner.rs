//! The task behind a lane: carries out the decisions of the [`LaneState`]. One task owns the state, so there
//! are no locks. Slow work runs beside it and comes back as a [`Completed`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    GiveUpReason, LaneCommand, LaneTask, SignedTransaction, TransactionLedger, Waiter, ask_all,
    receipts::{self, ReceiptRead},
    state::{Effect, LaneState, Tally},
    unsigned::UnsignedTransaction,
};
use crate::{
    chain::{
        rpc_error::RpcError,
        sender::{Acceptance, TransactionSender},
        wallet::{Wallet, WalletError},
    },
    dice::Dice,
    domain::{Address, B256, LedgerError, RequestKey},
    telemetry::{
        heartbeat::Heartbeat,
        log_throttle::LogThrottle,
        metrics::{Metrics, TransactionResult},
    },
};

/// Signatures requested at the same time; matters for AWS KMS.
const SIGNING_AT_ONCE: usize = 16;
const TICK: Duration = Duration::from_millis(100);
/// Minimum time between two questions for the tip.
const TIP_LIFETIME: Duration = Duration::from_mins(1);

/// Result of work that ran beside the task.
enum Completed {
    Signed { signed: Vec<SignedTransaction>, failed: Vec<(UnsignedTransaction, WalletError)> },
    Recorded(Result<Vec<SignedTransaction>, LedgerError>),
    Sent { nonce: u64, hash: B256, result: Result<Acceptance, RpcError> },
    Read(ReceiptRead),
    Tip(Option<u128>),
    Bases(Vec<u128>),
}

/// State of the question for a tip.
#[derive(Debug, Default)]
struct TipQuery {
    at: Option<Instant>,
    is_under_way: bool,
}

/// A running lane.
pub(super) struct Runner<P, L> {
    provider: P,
    sender: Address,
    /// `None`: nothing is signed.
    wallet: Option<Arc<Wallet>>,
    ledger: L,
    commands: mpsc::Receiver<LaneCommand>,
    state: LaneState,
    /// Ordered, so that simulated runs repeat exactly.
    waiters: BTreeMap<RequestKey, Waiter>,
    background: JoinSet<Completed>,
    tip: TipQuery,
    /// Receipts asked for in one batch.
    at_once: usize,
    metrics: Metrics,
    dice: Dice,
    /// Throttles repeated log lines.
    repeats: LogThrottle,
}

impl<P: TransactionSender, L: TransactionLedger> Runner<P, L> {
    /// `count`: the chain's count of the wallet's transactions.
    pub(super) fn new(task: LaneTask<P, L>, count: u64) -> Self {
        let LaneTask {
            provider,
            sender,
            wallet,
            ledger,
            options,
            commands,
            recovered,
            metrics,
            dice,
        } = task;
        let state = LaneState::new(options, sender, count, recovered, Instant::now());
        Self {
            provider,
            sender,
            wallet,
            ledger,
            commands,
            state,
            waiters: BTreeMap::new(),
            background: JoinSet::new(),
            tip: TipQuery::default(),
            at_once: receipts::MOST_AT_ONCE,
            metrics,
            dice,
            repeats: LogThrottle::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        heart: Heartbeat,
        stop: CancellationToken,
    ) -> Result<(), LedgerError> {
        let mut heads = self.provider.heads();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (listens, busy) = (self.state.accepts_commands(), self.state.is_busy());
            heart.rest();
            // Biased, so that simulated runs repeat exactly. No branch above `heads` can starve it: work
            // beside the task is bounded, and commands are taken only while the state accepts them.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(done) = self.background.join_next() => {
                    heart.beat().await;
                    self.apply_completed(done)?;
                    // A block brings many results at once; decide once for all of them.
                    while let Some(done) = self.background.try_join_next() {
                        self.apply_completed(done)?;
                    }
                }
                Some(job) = self.commands.recv(), if listens => {
                    heart.beat().await;
                    self.accept_command(job);
                    while self.state.accepts_commands() {
                        let Ok(job) = self.commands.try_recv() else { break };
                        self.accept_command(job);
                    }
                }
                Ok(()) = heads.changed() => {
                    if let Some(head) = *heads.borrow_and_update() {
                        self.state.apply_head(&head, Instant::now());
                    }
                }
                _ = tick.tick(), if busy => {}
            }
            heart.beat().await;
            self.advance().await?;
            if self.state.is_drained(Instant::now()) {
                return Ok(());
            }
        }
    }

    fn accept_command(&mut self, task: LaneCommand) {
        match task {
            LaneCommand::Submit { payload, waiter } => {
                self.waiters.insert(payload.request, waiter);
                self.state.submit(payload);
            }
            LaneCommand::Attach { request, waiter, found } => {
                let known = self.state.attach(request);
                if known {
                    self.waiters.insert(request, waiter);
                }
                // The caller may be gone; its waiter then counts as closed.
                let _ = found.send(known);
            }
        }
    }

    fn apply_completed(&mut self, done: Result<Completed, JoinError>) -> Result<(), LedgerError> {
        let done = match done {
            Ok(done) => done,
            // Work beside the task must not panic; if it does, this task panics.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Ok(()),
        };
        let now = Instant::now();
        match done {
            Completed::Signed { signed, failed } => {
                self.state.apply_signed(signed, failed, now, self.dice.roll());
            }
            Completed::Recorded(transactions) => self.state.apply_recorded(transactions?, now),
            Completed::Sent { nonce, hash, result } => {
                self.metrics.broadcast(broadcast_result(&result));
                self.state.apply_broadcast(nonce, hash, result, now, self.dice.roll());
            }
            Completed::Read(ReceiptRead { report: seen, failed, at_once }) => {
                self.at_once = at_once;
                if let Some(error) = failed {
                    debug!(%error, at_once, "could not look for all receipts");
                }
                self.state.apply_report(seen, now);
            }
            Completed::Tip(tip) => {
                self.tip = TipQuery { at: Some(now), is_under_way: false };
                self.state.set_tip(tip);
            }
            Completed::Bases(bases) => self.state.apply_base_fees(&bases, now),
        }
        Ok(())
    }

    /// Starts all work that is due and carries out its effects.
    async fn advance(&mut self) -> Result<(), LedgerError> {
        let now = Instant::now();
        self.ask_tip(now);
        if let Some(block) = self.state.base_fees_due(now) {
            let provider = self.provider.clone();
            let asking =
                async move { Completed::Bases(ask_all::read_base_fees(&provider, block).await) };
            self.background.spawn(asking);
        }
        let waiters = &self.waiters;
        let wanted = |key| waiters.get(&key).is_some_and(|waiter| !waiter.reply.is_closed());
        self.state.plan_work(wanted, now);
        if let Some(look) = self.state.receipt_query(now) {
            let (provider, sender) = (self.provider.clone(), self.sender);
            let at_once = self.at_once;
            self.background.spawn(async move {
                Completed::Read(receipts::read_chain(&provider, sender, look, at_once).await)
            });
        }
        for effect in self.state.take_effects() {
            self.carry_out(effect).await?;
        }
        let Tally { mined, foreign } = self.state.take_tally();
        for mined in mined {
            self.metrics.mined(mined);
        }
        self.metrics.foreign_nonces(foreign);
        self.metrics.lane(self.state.gauges(Instant::now()));
        Ok(())
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<(), LedgerError> {
        match effect {
            Effect::Sign(drafts) => self.sign(drafts),
            Effect::Record(transactions) => self.record(transactions),
            Effect::Broadcast { transaction, awaits_receipt: waits } => {
                self.broadcast(transaction, waits);
            }
            Effect::Mined(id, block) => self.ledger.record_mined(id, block).await?,
            Effect::GiveUp(ids, why) => {
                let result = match why {
                    GiveUpReason::Rejected => TransactionResult::Rejected,
                    GiveUpReason::Displaced => TransactionResult::Displaced,
                    GiveUpReason::Stranded => TransactionResult::Stranded,
                };
                self.metrics.transactions(result, ids.len() as u64);
                self.ledger.record_given_up(ids, why).await?;
            }
            Effect::Reopen(ids) => {
                let open = self.ledger.reopen(ids).await?;
                self.state.apply_reopened(open, Instant::now());
            }
            Effect::NotifyIncluded(key, landing) => {
                let waiter = self.waiters.remove(&key);
                let is_delivered =
                    waiter.is_some_and(|waiter| waiter.reply.send(Ok(landing)).is_ok());
                if !is_delivered {
                    self.state.keep_inclusion(key, landing);
                }
            }
            Effect::NotifyFailed(key, error) => {
                if let Some(waiter) = self.waiters.remove(&key) {
                    // The caller may be gone.
                    let _ = waiter.reply.send(Err(error));
                }
            }
            Effect::Notify(key, notice) => {
                if let Some(waiter) = self.waiters.get(&key) {
                    // Notices are informational: a full channel loses nothing that matters.
                    let _ = waiter.notify.try_send(notice);
                }
            }
            Effect::Log(news) => news.log(&mut self.repeats, Instant::now()),
        }
        Ok(())
    }

    fn ask_tip(&mut self, now: Instant) {
        let fresh = self.tip.at.is_some_and(|at| now.duration_since(at) < TIP_LIFETIME);
        if fresh || self.tip.is_under_way || !self.state.wants_tip() {
            return;
        }
        self.tip.is_under_way = true;
        let provider = self.provider.clone();
        self.background
            .spawn(async move { Completed::Tip(ask_all::read_median_tip(&provider).await) });
    }

    fn sign(&mut self, drafts: Vec<UnsignedTransaction>) {
        // A draining book never asks for signatures.
        let Some(wallet) = self.wallet.clone() else { return };
        let metrics = self.metrics.clone();
        self.background.spawn(async move {
            let sign = |draft: UnsignedTransaction| {
                let (wallet, metrics) = (wallet.clone(), metrics.clone());
                async move {
                    let begun = Instant::now();
                    let result = draft.sign(&wallet).await;
                    let code = result.as_ref().map_or_else(WalletError::code, |_| "ok");
                    metrics.signed(code, begun.elapsed());
                    result.map_err(|error| (draft, error))
                }
            };
            let mut signing = stream::iter(drafts).map(sign).buffered(SIGNING_AT_ONCE);
            let (mut signed, mut failed) = (Vec::new(), Vec::new());
            while let Some(result) = signing.next().await {
                match result {
                    Ok(transaction) => signed.push(transaction),
                    Err(draft) => failed.push(draft),
                }
            }
            Completed::Signed { signed, failed }
        });
    }

    /// Door (b): durable before the first broadcast.
    fn record(&mut self, transactions: Vec<SignedTransaction>) {
        let ledger = self.ledger.clone();
        self.background.spawn(async move {
            let recorded = ledger.record_signed(transactions.clone()).await;
            Completed::Recorded(recorded.map(|()| transactions))
        });
    }

    fn broadcast(&mut self, transaction: SignedTransaction, waits: bool) {
        let provider = self.provider.clone();
        self.background.spawn(async move {
            let SignedTransaction { nonce, hash, raw, .. } = transaction;
            let result = provider.send(&raw, waits).await;
            Completed::Sent { nonce, hash, result }
        });
    }
}

fn broadcast_result(result: &Result<Acceptance, RpcError>) -> &'static str {
    match result {
        Ok(Acceptance::Accepted) => "accepted",
        Ok(Acceptance::Mined(_)) => "mined",
        Err(error) => error.code(),
    }
}
