//! The task behind a lane: carries out the decisions of the [`Book`]. One task owns the state, so there
//! are no locks. Slow work runs beside it and comes back as a [`Done`].

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
    GivenUp, LaneTask, SignedTransaction, Task, TransactionLedger, Waiter,
    book::{Book, Effect, Tally},
    draft::Draft,
    look::{self, Looked},
    votes,
};
use crate::{
    dice::Dice,
    domain::{Address, B256, LedgerError, RequestKey},
    gateway::{
        provider::{RpcError, Sent, TransactionSender},
        wallet::{Wallet, WalletError},
    },
    heart::Heart,
    metrics::{Metrics, Sending},
    repeats::Repeats,
};

/// Signatures requested at the same time; matters for AWS KMS.
const SIGNING_AT_ONCE: usize = 16;
const TICK: Duration = Duration::from_millis(100);
/// Minimum time between two questions for the tip.
const TIP_LIFETIME: Duration = Duration::from_mins(1);

/// Result of work that ran beside the task.
enum Done {
    Signed { signed: Vec<SignedTransaction>, failed: Vec<(Draft, WalletError)> },
    Recorded(Result<Vec<SignedTransaction>, LedgerError>),
    Sent { nonce: u64, hash: B256, result: Result<Sent, RpcError> },
    Looked(Looked),
    Tip(Option<u128>),
    Bases(Vec<u128>),
}

/// State of the question for a tip.
#[derive(Debug, Default)]
struct TipAsked {
    at: Option<Instant>,
    asking: bool,
}

/// A running lane.
pub(super) struct Owner<P, L> {
    provider: P,
    sender: Address,
    /// `None`: nothing is signed.
    wallet: Option<Arc<Wallet>>,
    ledger: L,
    jobs: mpsc::Receiver<Task>,
    book: Book,
    /// Ordered, so that simulated runs repeat exactly.
    waiters: BTreeMap<RequestKey, Waiter>,
    beside: JoinSet<Done>,
    tip: TipAsked,
    /// Receipts asked for in one batch.
    at_once: usize,
    metrics: Metrics,
    dice: Dice,
    /// Throttles repeated log lines.
    repeats: Repeats,
}

impl<P: TransactionSender, L: TransactionLedger> Owner<P, L> {
    /// `count`: the chain's count of the wallet's transactions.
    pub(super) fn new(task: LaneTask<P, L>, count: u64) -> Self {
        let LaneTask { provider, sender, wallet, ledger, options, jobs, recovered, metrics, dice } =
            task;
        let book = Book::new(options, sender, count, recovered, Instant::now());
        Self {
            provider,
            sender,
            wallet,
            ledger,
            jobs,
            book,
            waiters: BTreeMap::new(),
            beside: JoinSet::new(),
            tip: TipAsked::default(),
            at_once: look::MOST_AT_ONCE,
            metrics,
            dice,
            repeats: Repeats::default(),
        }
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
            let (listens, busy) = (self.book.listens(), self.book.is_busy());
            heart.rest();
            // Biased, so that simulated runs repeat exactly. No branch above `heads` can starve it: work
            // beside the task is bounded, and commands are taken only while the state accepts them.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(done) = self.beside.join_next() => {
                    heart.beat().await;
                    self.take_in(done)?;
                    // A block brings many results at once; decide once for all of them.
                    while let Some(done) = self.beside.try_join_next() {
                        self.take_in(done)?;
                    }
                }
                Some(job) = self.jobs.recv(), if listens => {
                    heart.beat().await;
                    self.accept(job);
                    while self.book.listens() {
                        let Ok(job) = self.jobs.try_recv() else { break };
                        self.accept(job);
                    }
                }
                Ok(()) = heads.changed() => {
                    if let Some(head) = *heads.borrow_and_update() {
                        self.book.head(&head, Instant::now());
                    }
                }
                _ = tick.tick(), if busy => {}
            }
            heart.beat().await;
            self.act().await?;
            if self.book.is_drained(Instant::now()) {
                return Ok(());
            }
        }
    }

    fn accept(&mut self, task: Task) {
        match task {
            Task::Submit { payload, waiter } => {
                self.waiters.insert(payload.request, waiter);
                self.book.submit(payload);
            }
            Task::Attach { request, waiter, found } => {
                let known = self.book.attach(request);
                if known {
                    self.waiters.insert(request, waiter);
                }
                // The caller may be gone; its waiter then counts as closed.
                let _ = found.send(known);
            }
        }
    }

    fn take_in(&mut self, done: Result<Done, JoinError>) -> Result<(), LedgerError> {
        let done = match done {
            Ok(done) => done,
            // Work beside the task must not panic; if it does, this task panics.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Ok(()),
        };
        let now = Instant::now();
        match done {
            Done::Signed { signed, failed } => {
                self.book.signed(signed, failed, now, self.dice.roll());
            }
            Done::Recorded(transactions) => self.book.recorded(transactions?, now),
            Done::Sent { nonce, hash, result } => {
                self.metrics.broadcast(broadcast_result(&result));
                self.book.answered(nonce, hash, result, now, self.dice.roll());
            }
            Done::Looked(Looked { seen, failed, at_once }) => {
                self.at_once = at_once;
                if let Some(error) = failed {
                    debug!(%error, at_once, "could not look for all receipts");
                }
                self.book.seen(seen, now);
            }
            Done::Tip(tip) => {
                self.tip = TipAsked { at: Some(now), asking: false };
                self.book.tip(tip);
            }
            Done::Bases(bases) => self.book.bases(&bases, now),
        }
        Ok(())
    }

    /// Starts all work that is due and carries out its effects.
    async fn act(&mut self) -> Result<(), LedgerError> {
        let now = Instant::now();
        self.ask_tip(now);
        if let Some(block) = self.book.asks_bases(now) {
            let provider = self.provider.clone();
            let asking = async move { Done::Bases(votes::ask_bases(&provider, block).await) };
            self.beside.spawn(asking);
        }
        let waiters = &self.waiters;
        let wanted = |key| waiters.get(&key).is_some_and(|waiter| !waiter.reply.is_closed());
        self.book.act(wanted, now);
        if let Some(look) = self.book.look(now) {
            let (provider, sender) = (self.provider.clone(), self.sender);
            let at_once = self.at_once;
            self.beside.spawn(async move {
                Done::Looked(look::ask_chain(&provider, sender, look, at_once).await)
            });
        }
        for effect in self.book.effects() {
            self.carry_out(effect).await?;
        }
        let Tally { mined, foreign } = self.book.tally();
        for mined in mined {
            self.metrics.mined(mined);
        }
        self.metrics.foreign_nonces(foreign);
        self.metrics.lane(self.book.gauges(Instant::now()));
        Ok(())
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<(), LedgerError> {
        match effect {
            Effect::Sign(drafts) => self.sign(drafts),
            Effect::Record(transactions) => self.record(transactions),
            Effect::Broadcast { transaction, waits } => self.broadcast(transaction, waits),
            Effect::Mined(id, block) => self.ledger.mined(id, block).await?,
            Effect::GiveUp(ids, why) => {
                let result = match why {
                    GivenUp::Rejected => Sending::Rejected,
                    GivenUp::Displaced => Sending::Displaced,
                    GivenUp::Stranded => Sending::Stranded,
                };
                self.metrics.transactions(result, ids.len() as u64);
                self.ledger.gave_up(ids, why).await?;
            }
            Effect::Reopen(ids) => {
                let open = self.ledger.reopen(ids).await?;
                self.book.reopened(open, Instant::now());
            }
            Effect::Land(key, landing) => {
                let waiter = self.waiters.remove(&key);
                let told = waiter.is_some_and(|waiter| waiter.reply.send(Ok(landing)).is_ok());
                if !told {
                    self.book.unclaimed(key, landing);
                }
            }
            Effect::Fail(key, error) => {
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
            Effect::Tell(news) => news.say(&mut self.repeats, Instant::now()),
        }
        Ok(())
    }

    fn ask_tip(&mut self, now: Instant) {
        let fresh = self.tip.at.is_some_and(|at| now.duration_since(at) < TIP_LIFETIME);
        if fresh || self.tip.asking || !self.book.wants_tip() {
            return;
        }
        self.tip.asking = true;
        let provider = self.provider.clone();
        self.beside.spawn(async move { Done::Tip(votes::ask_tips(&provider).await) });
    }

    fn sign(&mut self, drafts: Vec<Draft>) {
        // A draining book never asks for signatures.
        let Some(wallet) = self.wallet.clone() else { return };
        let metrics = self.metrics.clone();
        self.beside.spawn(async move {
            let sign = |draft: Draft| {
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
            Done::Signed { signed, failed }
        });
    }

    /// Door (b): durable before the first broadcast.
    fn record(&mut self, transactions: Vec<SignedTransaction>) {
        let ledger = self.ledger.clone();
        self.beside.spawn(async move {
            let recorded = ledger.signed(transactions.clone()).await;
            Done::Recorded(recorded.map(|()| transactions))
        });
    }

    fn broadcast(&mut self, transaction: SignedTransaction, waits: bool) {
        let provider = self.provider.clone();
        self.beside.spawn(async move {
            let SignedTransaction { nonce, hash, raw, .. } = transaction;
            let result = provider.send(&raw, waits).await;
            Done::Sent { nonce, hash, result }
        });
    }
}

fn broadcast_result(result: &Result<Sent, RpcError>) -> &'static str {
    match result {
        Ok(Sent::Accepted) => "accepted",
        Ok(Sent::Mined(_)) => "mined",
        Err(error) => error.code(),
    }
}
