//! Detects open requests that no task attends.
//!
//! An open request that is not held is walked, or waits for its walk with arrivals, with recovery, with
//! an operator action, or in a channel ([`WalkSender`]). There is no other way forward, so an
//! unattended request would be stuck until the next start. That is a bug of this program. This task
//! looks for such requests once a minute, walks them again and reports them; nothing else does.
//!
//! The journal and the attended set are not read atomically: a request that was stored just now, or
//! whose outcome is being stored, may be unattended for an instant. So a request counts as unattended
//! when it is found twice, a minute apart.

use std::{collections::HashSet, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::warn;

use crate::{
    contracts::abi,
    domain::RequestKey,
    flow::{QueuedRequest, WalkSender, finality::rule::FinalHeight},
    journal::{Journal, JournalError, Position, Query, RequestRecord, StageName},
    telemetry::metrics::Metrics,
};

const CHECK_INTERVAL: Duration = Duration::from_mins(1);
/// Requests read from the journal at a time, keys only.
const PAGE_SIZE: u32 = 4096;
/// At most this many are watched; the rest is checked later.
const MAX_WATCHED: usize = 10_000;

/// The task.
#[derive(Debug)]
pub(super) struct UnattendedCheck {
    pub journal: Journal,
    pub walk: WalkSender,
    /// The newest request of an earlier run, and the position up to which recovery has attended those.
    pub newest: Option<Position>,
    pub recovered_up_to: watch::Receiver<Option<Position>>,
    /// Final height: requests up to it may be walked.
    pub final_height: watch::Receiver<FinalHeight>,
    pub metrics: Metrics,
}

/// Result of the previous check.
#[derive(Debug, Default)]
struct PreviousCheck {
    /// Unattended requests.
    unattended: HashSet<RequestKey>,
    /// Records this version cannot read. They are logged once, at recovery.
    unreadable: HashSet<RequestKey>,
    /// The move counter at which no request was open.
    idle_at: Option<u64>,
}

impl UnattendedCheck {
    /// Checks until dropped. Fails only when the journal fails.
    pub(super) async fn run(self) -> Result<(), JournalError> {
        let mut looks = interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = PreviousCheck::default();
        loop {
            looks.tick().await;
            self.check(&mut seen).await?;
        }
    }

    async fn check(&self, seen: &mut PreviousCheck) -> Result<(), JournalError> {
        // An idle instance does not touch the disk.
        let moves = self.journal.statistics().moves;
        if seen.idle_at == Some(moves) {
            return Ok(());
        }
        // Notes must be visible to the query. While nothing can be stored, every request waits and is
        // attended.
        if self.journal.flush().await.is_err() {
            return Ok(()); // the journal's own exit names the cause
        }
        let (open, alone) = self.unattended().await?;
        seen.idle_at = (open == 0).then_some(moves);
        let forgotten: Vec<RequestKey> = alone.intersection(&seen.unattended).copied().collect();
        seen.unattended = alone;
        for key in forgotten {
            if !seen.unreadable.contains(&key) && !self.walk_again(key).await? {
                seen.unreadable.insert(key);
            }
        }
        Ok(())
    }

    /// Returns how many requests are open and not held, and which of them are unattended.
    async fn unattended(&self) -> Result<(usize, HashSet<RequestKey>), JournalError> {
        let (mut open, mut after, mut alone) = (0, None, HashSet::new());
        loop {
            let page =
                self.journal.ask(|slot| Query::UnfinishedKeys(after, PAGE_SIZE, slot)).await?;
            let Some((last, _)) = page.last() else { return Ok((open, alone)) };
            after = Some(*last);
            open += page.len();
            for (position, key) in page {
                if alone.len() < MAX_WATCHED
                    && self.was_handed_out(position)
                    && !self.walk.is_attended(key)
                {
                    alone.insert(key);
                }
            }
        }
    }

    /// Returns whether it was attended before: recovery may still be on its way to it.
    fn was_handed_out(&self, position: Position) -> bool {
        self.newest.is_none_or(|newest| position > newest)
            || self.recovered_up_to.borrow().is_some_and(|taken| position <= taken)
    }

    /// Returns whether this version can read it.
    async fn walk_again(&self, key: RequestKey) -> Result<bool, JournalError> {
        // It may have ended, or be attended again, since the check.
        let record = self.journal.request(key).await?;
        let open = |record: &RequestRecord| {
            record.progress.outcome.is_none() && record.progress.held.is_none()
        };
        let Some(record) = record.filter(open).filter(|_| !self.walk.is_attended(key)) else {
            return Ok(true);
        };
        let Ok(request) = abi::decode(record.key.source, &record.event) else { return Ok(false) };
        let stage = record.progress.stage;
        let due = self.final_height.borrow().covers(request.kind(), request.block.number);
        if !due && stage == StageName::Arrived {
            return Ok(true);
        }
        let stage = stage.as_str();
        warn!(request = %key, stage, "an open request without a walk is walked again");
        self.metrics.unattended();
        let queued = QueuedRequest { is_final: true, ..self.walk.attend(request, true) };
        if self.walk.send(queued).await.is_err() {
            // The walk is closed: the instance is stopping.
            std::future::pending::<()>().await;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        chain::fake_chain::{SOURCE, request_event},
        domain::{Address, B256, Hold, HoldReason, Outcome, Request},
        flow::{Arrival, Batch, RequestLedger as _, Sighting, Step, WalkReceivers, walk_channels},
        journal::Identity,
        telemetry::heartbeat::Heartbeat,
    };

    struct Harness {
        journal: Journal,
        receivers: WalkReceivers,
        walk: WalkSender,
        metrics: Metrics,
        final_height: watch::Sender<FinalHeight>,
        taken: watch::Sender<Option<Position>>,
        tasks: JoinSet<()>,
        _dir: tempfile::TempDir,
    }

    fn request(id: u64) -> Request {
        abi::decode(SOURCE, &request_event(id)).unwrap()
    }

    impl Harness {
        /// With `earlier` requests of an earlier run, and those of this run.
        async fn new(earlier: u64, ids: impl IntoIterator<Item = u64>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let wallet = Address::repeat_byte(1);
            let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet };
            let (journal, writer) = Journal::open(dir.path(), identity, SOURCE.contract).unwrap();
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let _ended = writer
                    .run(Heartbeat::default(), Metrics::default(), CancellationToken::new())
                    .await;
            });
            store(&journal, 1000..1000 + earlier).await;
            let newest = journal.ask(Query::NewestPosition).await.unwrap();
            store(&journal, ids).await;
            let (receivers, _, walk) = walk_channels(8, 8);
            let (final_height, taken) =
                (watch::channel(FinalHeight::EVERYTHING).0, watch::channel(None).0);
            let metrics = Metrics::new();
            let attendance = UnattendedCheck {
                journal: journal.clone(),
                walk: walk.clone(),
                newest,
                recovered_up_to: taken.subscribe(),
                final_height: final_height.subscribe(),
                metrics: metrics.clone(),
            };
            tasks.spawn(async move { attendance.run().await.unwrap() });
            Self { journal, receivers, walk, metrics, final_height, taken, tasks, _dir: dir }
        }

        /// Ids that are walked again within `minutes`.
        async fn walked(&mut self, minutes: u64) -> Vec<u64> {
            tokio::time::sleep(Duration::from_mins(minutes)).await;
            let mut ids = Vec::new();
            while let Ok(queued) = self.receivers.decryptions.from_journal.try_recv() {
                assert!(queued.recovered);
                ids.push(queued.request.key.id.to());
            }
            ids.sort_unstable();
            ids
        }
    }

    async fn store(journal: &Journal, ids: impl IntoIterator<Item = u64>) {
        let arrivals = ids.into_iter().map(|id| {
            let request = request(id);
            Arrival {
                key: request.key,
                kind: request.kind(),
                event: request_event(id),
                seen: Sighting::Found,
            }
        });
        let batch = Batch { arrivals: arrivals.collect(), ..Batch::default() };
        journal.store_batch(batch).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a10_a_request_in_nobodys_hands_is_found_walked_and_told() {
        let mut world = Harness::new(0, 1..=5).await;
        let walked = world.walk.attend(request(1), false);
        let held = Step::Held(Hold::new(HoldReason::NoFunds, "x"));
        world.journal.note(request(2).key, held).await.unwrap();
        let end = Step::Settled(Outcome::Expired);
        world.journal.note(request(3).key, end).await.unwrap();
        assert_eq!(world.walked(1).await, [0_u64; 0], "it may be on its way");
        assert_eq!(world.walked(2).await, [4, 5]);
        assert_eq!(world.metrics.unattended_so_far(), 2);
        // Nobody attends them: they are found again, as is one whose walk ended abnormally.
        drop(walked);
        assert_eq!(world.walked(3).await, [1, 4, 5]);
        world.tasks.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_recovery_or_the_chain_still_has_to_bring_is_nobodys_fault() {
        let mut world = Harness::new(3, []).await;
        assert_eq!(world.walked(5).await, [0_u64; 0], "recovery has not come to them");
        let first =
            world.journal.ask(|slot| Query::UnfinishedKeys(None, 1, slot)).await.unwrap()[0].0;
        world.taken.send_replace(Some(first));
        world.final_height.send_replace(FinalHeight::NOTHING);
        assert_eq!(world.walked(5).await, [0_u64; 0], "its block is not deep enough");
        world.final_height.send_replace(FinalHeight::EVERYTHING);
        assert_eq!(world.walked(1).await, [1000]);
        world.tasks.shutdown().await;
    }
}
