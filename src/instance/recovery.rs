//! Brings unfinished requests from the journal into the same walk as new ones, oldest first.
//!
//! At start all of them, held ones (waiting for an operator or for time) too: a restart is how an
//! operator says "try again". Later only the held ones, slowly, and at once when the contract can be
//! served again, which some are held for. Only keys are read here: the walk reads the request's stage
//! when its turn comes, which may be much later.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tracing::{debug, error, info};

use crate::{
    contracts::{
        abi::{self, DecodeError, DecodeProblem},
        decryption::DeploymentSupport,
    },
    domain::{Kind, Outcome, Request},
    flow::{Arrival, Batch, QueuedRequest, RequestLedger as _, Sighting, Step, WalkSender},
    journal::{
        Journal, JournalError, Position, Query, RequestFilter, RequestPage, RequestRecord,
        StageName,
    },
    telemetry::heartbeat::Heartbeat,
};

/// Requests read from the journal at a time.
const PAGE_SIZE: u32 = 256;

/// Requests about to be held when the contract became serviceable are held by then.
const HOLD_SETTLE_TIME: Duration = Duration::from_secs(10);

/// Walks that waited for the contract go on before the journal is read. The channel wakes all that wait for it
/// in no fixed order, and simulated runs repeat exactly; so each has a time of its own.
const WALKS_GO_FIRST: Duration = Duration::from_millis(20);

/// Feeds the walk from the journal until the walk closes.
#[derive(Debug)]
pub(super) struct Recovery {
    pub journal: Journal,
    pub walk: WalkSender,
    pub held_retry: Duration,
    /// The newest request of an earlier run; younger ones come from the chain.
    pub newest: Option<Position>,
    /// Position up to which requests of the earlier run are attended.
    pub recovered_up_to: watch::Sender<Option<Position>>,
    /// Whether the contract can be served.
    pub support: watch::Receiver<DeploymentSupport>,
    pub heart: Heartbeat,
}

impl Recovery {
    pub(super) async fn run(self) -> Result<(), JournalError> {
        if let Some(newest) = self.newest {
            let taken = self.feed(RequestFilter::Unfinished, Some(newest)).await?;
            self.recovered_up_to.send_replace(Some(newest));
            if taken > 0 {
                info!(requests = taken, "unfinished requests of an earlier run are walked again");
            }
        }
        let mut retry = interval_at(Instant::now() + self.held_retry, self.held_retry);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The commit count at which no request was held.
        let mut none_at = None;
        let mut support = self.support.clone();
        // `None`: the contract was just upgraded, and everything is walked anyway.
        let mut answered = {
            let known = support.borrow_and_update();
            let upgraded = matches!(*known, DeploymentSupport::Upgraded { .. });
            (!upgraded).then(|| known.answered().cloned())
        };
        loop {
            self.heart.rest();
            tokio::select! {
                biased;
                _ = retry.tick() => {}
                Ok(()) = support.changed() => {
                    let now = support.borrow_and_update().clone();
                    if matches!(now, DeploymentSupport::Upgraded { .. }) {
                        continue;
                    }
                    let now = now.answered().cloned();
                    let before = answered.replace(now.clone());
                    if now.is_none() || before.is_none_or(|before| before == now) {
                        continue;
                    }
                    retry.reset_after(HOLD_SETTLE_TIME);
                    sleep(WALKS_GO_FIRST).await;
                }
                // The chain dropped answers: their requests are held for a short time.
                () = self.journal.reopened() => {}
            }
            let commits = self.journal.statistics().commits;
            // An idle instance does not touch the disk.
            if none_at == Some(commits) {
                continue;
            }
            let taken = self.feed(RequestFilter::Held, None).await?;
            none_at = (taken == 0).then_some(commits);
            debug!(requests = taken, "held requests are tried again");
        }
    }

    /// An earlier version stored this event as one that it did not know, under an id of its own. It is stored anew
    /// as the request that it is. Returns how many requests are walked for it.
    async fn take_anew(&self, row: &RequestRecord, request: Request) -> usize {
        let (key, kind) = (request.key, request.kind());
        let arrival = Arrival { key, kind, event: row.event.clone(), seen: Sighting::Found };
        let batch = Batch { arrivals: vec![arrival], ..Batch::default() };
        // A failing journal ends the instance elsewhere.
        let Ok(stored) = self.journal.store_batch(batch).await else { return 0 };
        info!(request = %key, %kind, "an event that an earlier version did not know is served now");
        self.settle_unsupported(row).await;
        if stored.new.is_empty() || self.walk.is_attended(key) {
            return 0;
        }
        let queued = self.walk.attend(request, false);
        if self.heart.rest_while(self.walk.send(queued)).await.is_err() {
            self.heart.rest();
            std::future::pending::<()>().await;
        }
        1
    }

    async fn settle_unsupported(&self, row: &RequestRecord) {
        let settled = self.journal.note(row.key, Step::Settled(Outcome::Recorded)).await;
        if let Err(error) = settled {
            debug!(%error, "could not note a step");
        }
    }

    async fn feed(
        &self,
        which: RequestFilter,
        until: Option<Position>,
    ) -> Result<usize, JournalError> {
        let mut after = None;
        let mut taken = 0;
        'pages: loop {
            self.heart.beat().await;
            let listing = RequestPage { filter: which, after, limit: PAGE_SIZE };
            let page = self.journal.ask(|slot| Query::Records(listing, slot)).await?;
            let Some(last) = page.last() else { break };
            if until.is_some() {
                // The previous page.
                self.recovered_up_to.send_replace(after);
            }
            after = Some(last.position);
            for row in page {
                if until.is_some_and(|until| row.position > until) {
                    break 'pages;
                }
                match abi::decode(row.key.source, &row.event) {
                    Ok(request) if row.kind == Kind::UnsupportedEvent && request.key != row.key => {
                        taken += self.take_anew(&row, request).await;
                    }
                    Err(DecodeError { problem: DecodeProblem::NotARequest { .. }, .. })
                        if row.kind == Kind::UnsupportedEvent =>
                    {
                        self.settle_unsupported(&row).await;
                    }
                    // Already attended.
                    Ok(request) if self.walk.is_attended(request.key) => {}
                    Ok(request) => {
                        taken += 1;
                        let is_ripe = row.progress.stage != StageName::Arrived;
                        let queued =
                            QueuedRequest { is_final: is_ripe, ..self.walk.attend(request, true) };
                        if self.heart.rest_while(self.walk.send(queued)).await.is_err() {
                            // The walk is closed: the instance is stopping.
                            self.heart.rest();
                            std::future::pending::<()>().await;
                        }
                    }
                    Err(error) => error!(
                        request = %row.key,
                        %error,
                        "a stored request cannot be decoded by this version; it stays stored"
                    ),
                }
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{task::JoinSet, time::timeout};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        chain::fake_chain::{SOURCE, request_event},
        domain::{Address, B256, BlockRef, Bytes, Event, Hold, HoldReason, RequestKey, U256},
        flow::walk_channels,
        journal::Identity,
        telemetry::metrics::Metrics,
    };

    /// For some seconds a node reports a contract that cannot be served.
    #[tokio::test]
    async fn cfgjunk_what_was_held_is_tried_again_once_the_contract_is_served_again() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Address::repeat_byte(1);
        let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet };
        let (journal, writer) = Journal::open(dir.path(), identity, SOURCE.contract).unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let writing = writer.run(Heartbeat::default(), Metrics::default(), stop.clone());
        tasks.spawn(async move { drop(writing.await) });
        let request = abi::decode(SOURCE, &request_event(1)).unwrap();
        let (key, kind) = (request.key, request.kind());
        let arrival = Arrival { key, kind, event: request_event(1), seen: Sighting::Found };
        journal.store_batch(Batch { arrivals: vec![arrival], ..Batch::default() }).await.unwrap();
        let hold = Step::Held(Hold::new(HoldReason::UnsupportedGeneration, "G12"));
        journal.note(key, hold).await.unwrap();
        journal.flush().await.unwrap();
        let (mut intakes, _, walk) = walk_channels(8, 8);
        let (support, of_contract) = watch::channel(DeploymentSupport::up_to_g10());
        let recovery = Recovery {
            journal,
            walk,
            held_retry: Duration::from_hours(1),
            newest: None,
            recovered_up_to: watch::channel(None).0,
            support: of_contract,
            heart: Heartbeat::default(),
        };
        tasks.spawn(async move { recovery.run().await.unwrap() });
        let newer = DeploymentSupport::Newer { version: "Decryption v0.14.0".into() };
        for (told, walked) in [
            (DeploymentSupport::Upgraded { block: 7 }, false),
            (DeploymentSupport::up_to_g10(), false),
            (newer, false),
            (DeploymentSupport::Upgraded { block: 8 }, false),
            (DeploymentSupport::up_to_g10(), true),
        ] {
            support.send_replace(told.clone());
            let within = if walked { Duration::from_secs(5) } else { Duration::from_millis(100) };
            let next = timeout(within, intakes.decryptions.from_journal.recv()).await;
            assert_eq!(next.is_ok(), walked, "{told:?}");
        }
        stop.cancel();
        tasks.shutdown().await;
    }

    fn event(topic: B256) -> Event {
        let block = BlockRef { number: 3, hash: B256::repeat_byte(3) };
        let (topics, data) = (vec![topic], Bytes::new());
        Event { block, transaction: B256::repeat_byte(4), log_index: 0, topics, data }
    }

    /// A version that knows more finds them in its journal.
    #[tokio::test]
    async fn what_an_earlier_version_did_not_know_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Address::repeat_byte(1);
        let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet };
        let (journal, writer) = Journal::open(dir.path(), identity, SOURCE.contract).unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let writing = writer.run(Heartbeat::default(), Metrics::default(), stop.clone());
        tasks.spawn(async move { drop(writing.await) });
        // PRSSInit(), Paused(address), and one that nobody knows.
        let known = "0x11db42c1878f2e2819241f5250984563f06cf22818e7adb86a66921d15d59d3f";
        let notice = "0x62e78cea01bee320cd4e420270b5ea74000d11b0c9f74754ebdbfc544b05a258";
        let events = [known.parse().unwrap(), notice.parse().unwrap(), B256::repeat_byte(9)];
        let as_unsupported = |(number, topic): (u64, B256)| {
            let key = RequestKey {
                source: SOURCE,
                id: U256::from(number),
                content: B256::repeat_byte(1),
            };
            let seen = Sighting::Found;
            Arrival { key, kind: Kind::UnsupportedEvent, event: event(topic), seen }
        };
        // The one that nobody knows has the key that it has today.
        let unknown = abi::decode(SOURCE, &event(events[2])).unwrap().key;
        let mut arrivals: Vec<_> = (1..).zip(events).map(as_unsupported).collect();
        arrivals[2].key = unknown;
        let keys: Vec<RequestKey> = arrivals.iter().map(|one| one.key).collect();
        journal.store_batch(Batch { arrivals, ..Batch::default() }).await.unwrap();
        for key in &keys {
            let hold = Hold::new(HoldReason::UnsupportedEvent, "?");
            journal.note(*key, Step::Held(hold)).await.unwrap();
        }
        journal.flush().await.unwrap();
        let newest = journal.ask(Query::NewestPosition).await.unwrap();
        let (mut intakes, _, walk) = walk_channels(8, 8);
        let recovery = Recovery {
            journal: journal.clone(),
            walk,
            held_retry: Duration::from_hours(1),
            newest,
            recovered_up_to: watch::channel(None).0,
            support: watch::channel(DeploymentSupport::up_to_g10()).1,
            heart: Heartbeat::default(),
        };
        tasks.spawn(async move { recovery.run().await.unwrap() });
        let within = Duration::from_secs(5);
        let mut walked = Vec::new();
        while walked.len() < 2 {
            let next = timeout(within, intakes.key_operations.from_journal.recv()).await;
            let request = next.unwrap().unwrap().request;
            walked.push((request.kind(), request.key));
        }
        walked.sort_unstable();
        assert_eq!(walked[0].0, Kind::PrssInit);
        assert_eq!(walked[1], (Kind::UnsupportedEvent, unknown));
        journal.flush().await.unwrap();
        let mut outcomes = Vec::new();
        for key in keys {
            outcomes.push(journal.request(key).await.unwrap().unwrap().progress.outcome);
        }
        assert_eq!(outcomes, [Some(Outcome::Recorded), Some(Outcome::Recorded), None]);
        stop.cancel();
        tasks.shutdown().await;
    }
}
