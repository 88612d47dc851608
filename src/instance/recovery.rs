//! Unfinished requests out of the journal, oldest first, into the same walk.
//!
//! At the start all of them, held ones too: a restart is how an operator says "try again". Later
//! only the held ones, slowly. What is read here only names them: the walk asks the journal where
//! its request stands when its turn comes, which may be much later.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::{debug, error, info};

use crate::{
    flow::Intake,
    gateway::abi,
    heart::Heart,
    journal::{Holds, Journal, JournalError, Position},
};

/// Requests read from the journal at a time.
const PAGE: u32 = 256;

/// Feeds the walk from the journal until the walk takes no more.
#[derive(Debug)]
pub(super) struct Recovery {
    pub journal: Journal,
    pub walk: mpsc::Sender<Intake>,
    pub held_retry: Duration,
    /// The newest request of an earlier run; younger ones come from the chain.
    pub newest: Option<Position>,
    pub heart: Heart,
}

impl Recovery {
    pub(super) async fn run(self) -> Result<(), JournalError> {
        if let Some(newest) = self.newest {
            let taken = self.feed(Holds::Included, Some(newest)).await?;
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
                _ = retry.tick() => {}
                () = self.heart.called() => {}
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
        let mut after = None;
        let mut taken = 0;
        loop {
            self.heart.beat().await;
            let page = self.journal.unfinished(after, PAGE, holds).await?;
            let Some(last) = page.last() else { return Ok(taken) };
            after = Some(last.position);
            for row in page {
                if until.is_some_and(|until| row.position > until) {
                    return Ok(taken);
                }
                match abi::decode(&row.event) {
                    Ok(request) => {
                        let intake = Intake { request, recovered: true };
                        if self.heart.rest_while(self.walk.send(intake)).await.is_err() {
                            // The walk takes no more: the instance is stopping.
                            self.heart.rest();
                            std::future::pending::<()>().await;
                        }
                        taken += 1;
                    }
                    Err(error) => error!(
                        request = %row.key,
                        %error,
                        "a stored request cannot be decoded by this version; it stays stored"
                    ),
                }
            }
        }
    }
}
