//! The wallet's balance and the journal's disk.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::Report;
use crate::{
    chain::sender::TransactionSender as _,
    journal::{Query, Space},
};

/// How often wallet balance and disk space are read.
const RESOURCE_INTERVAL: Duration = Duration::from_secs(30);

impl Report {
    /// Reads balance and disk space periodically. Nothing waits for this.
    pub(super) async fn report_resources(&self) {
        let mut tick = interval(RESOURCE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some(wallet) = self.mode.wallet() {
                match self.provider.balance(wallet).await {
                    Ok(balance) => self.reporter.metrics.balance(balance),
                    Err(error) => debug!(%error, "could not ask for the wallet's balance"),
                }
            }
            match self.journal.ask(Query::Space).await {
                Ok(Space { taken, free }) => self.reporter.metrics.journal(taken, free),
                // Also when the runtime is shutting down.
                Err(error) => debug!(%error, "could not look at the journal's disk"),
            }
        }
    }
}
