//! Notes in the ledger what room 4 reports while it waits.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Flow, RequestLedger, Step,
    ciphertexts::Buckets,
    submission::{Progress, Report},
};
use crate::{domain::RequestKey, gateway::provider::Provider, repeats::warn_rarely};

/// Of one request.
pub(super) struct Noting<'a, P, B, L> {
    flow: &'a Flow<P, B, L>,
    key: RequestKey,
    /// It goes on by itself once somebody mended something.
    waits: watch::Sender<bool>,
}

impl<P: Provider, B: Buckets, L: RequestLedger> Report for Noting<'_, P, B, L> {
    async fn report(&self, progress: Progress) {
        let step = match progress {
            Progress::Submitted { transaction } => {
                debug!(%transaction, "transaction broadcast");
                Step::Submitted { transaction }
            }
            Progress::Waiting(hold) => {
                let (reason, detail) = (hold.reason.as_str(), &hold.detail);
                let heard = self.flow.heard("waits", reason);
                warn_rarely!(heard, "request waits", reason, detail);
                self.flow.metrics.held(hold.reason);
                Step::Held(hold)
            }
        };
        self.waits.send_replace(matches!(step, Step::Held(_)));
        self.note(step).await;
    }
}

impl<'a, P, B, L: RequestLedger> Noting<'a, P, B, L> {
    pub(super) fn new(flow: &'a Flow<P, B, L>, key: RequestKey) -> Self {
        Self { flow, key, waits: watch::channel(false).0 }
    }

    /// Until it waits for somebody after `stop`.
    pub(super) async fn waits_at(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        // The sender is ours, so there is no error.
        let _ = self.waits.subscribe().wait_for(|waits| *waits).await;
    }

    pub(super) async fn note(&self, step: Step) {
        // A journal that fails ends the instance by its own way.
        if let Err(error) = self.flow.ledger.note(self.key, step).await {
            debug!(%error, "could not note a step");
        }
    }
}
