//! Unfinished requests out of the journal, oldest first, into the same walk.
//!
//! At the start all of them, held ones too: a restart is how an operator says "try again". Later
//! only the held ones, slowly. What is read here only names them: the walk asks the journal where
//! its request stands when its turn comes, which may be much later.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::{debug, error, info};

use crate::{
    domain::stage::Stage,
    flow::{Entrance, Intake, depth::Line},
    gateway::abi,
    heart::Heart,
    journal::{Holds, Journal, JournalError, Position},
};

/// Requests read from the journal at a time.
const PAGE: u32 = 256;
/// Requests kept here until their block is deep enough.
const UNRIPE: usize = 10_000;

/// Feeds the walk from the journal until the walk takes no more.
#[derive(Debug)]
pub(super) struct Recovery {
    pub journal: Journal,
    pub walk: Entrance,
    pub held_retry: Duration,
    /// The newest request of an earlier run; younger ones come from the chain.
    pub newest: Option<Position>,
    /// Up to where those of the earlier run are in hand.
    pub taken: watch::Sender<Option<Position>>,
    /// Up to which block requests may be walked.
    pub line: watch::Receiver<Line>,
    pub heart: Heart,
}

impl Recovery {
    pub(super) async fn run(self) -> Result<(), JournalError> {
        if let Some(newest) = self.newest {
            let taken = self.feed(Holds::Included, Some(newest)).await?;
            self.taken.send_replace(Some(newest));
            if taken > 0 {
                info!(requests = taken, "unfinished requests of an earlier run are walked again");
            }
        }
        let mut retry = interval_at(Instant::now() + self.held_retry, self.held_retry);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // How many commits there were when none was held.
        let mut none_at = None;
        loop {
            self.heart.rest();
            tokio::select! {
                biased;
                _ = retry.tick() => {}
                // The chain dropped answers: their requests are held, and not for long.
                () = self.journal.reopened() => {}
            }
            let commits = self.journal.statistics().commits;
            // An idle instance leaves the disk alone.
            if none_at == Some(commits) {
                continue;
            }
            let taken = self.feed(Holds::Only, None).await?;
            none_at = (taken == 0).then_some(commits);
            debug!(requests = taken, "held requests are tried again");
        }
    }

    async fn feed(&self, holds: Holds, until: Option<Position>) -> Result<usize, JournalError> {
        let mut unripe = VecDeque::new();
        let mut after = None;
        let mut taken = 0;
        'pages: loop {
            self.heart.beat().await;
            let page = self.journal.unfinished(after, PAGE, holds).await?;
            let Some(last) = page.last() else { break };
            if until.is_some() {
                // The page before.
                self.taken.send_replace(after);
            }
            after = Some(last.position);
            for row in page {
                if until.is_some_and(|until| row.position > until) {
                    break 'pages;
                }
                match abi::decode(&row.event) {
                    Ok(request) => {
                        taken += 1;
                        let intake = self.walk.take(request, true);
                        let (kind, number) = (intake.request.kind(), intake.request.block.number);
                        let covered = self.line.borrow().covers(kind, number);
                        if covered || row.stage != Stage::Arrived {
                            self.hand_on(intake).await;
                        } else {
                            unripe.push_back(intake);
                        }
                    }
                    Err(error) => error!(
                        request = %row.key,
                        %error,
                        "a stored request cannot be decoded by this version; it stays stored"
                    ),
                }
            }
            while unripe.len() > UNRIPE {
                self.wait_for_first(&mut unripe).await;
            }
        }
        while !unripe.is_empty() {
            self.wait_for_first(&mut unripe).await;
        }
        Ok(taken)
    }

    /// What is behind it is younger still.
    async fn wait_for_first(&self, unripe: &mut VecDeque<Intake>) {
        let Some(intake) = unripe.pop_front() else { return };
        let (kind, number) = (intake.request.kind(), intake.request.block.number);
        let mut line = self.line.clone();
        let covered = async { line.wait_for(|line| line.covers(kind, number)).await.is_ok() };
        if self.heart.rest_while(covered).await {
            self.hand_on(intake).await;
        } else {
            // The room that tells has ended: the instance is stopping.
            self.heart.rest();
            std::future::pending::<()>().await;
        }
    }

    async fn hand_on(&self, intake: Intake) {
        if self.heart.rest_while(self.walk.send(intake)).await.is_err() {
            // The walk takes no more: the instance is stopping.
            self.heart.rest();
            std::future::pending::<()>().await;
        }
    }
}
