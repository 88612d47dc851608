//! Slow chores beside the walk: pruning, following upgrades.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, warn};

use super::world::{Waits, watch_support};
use crate::{
    clock,
    gateway::{
        decryption::{DecryptionAdapter, Support},
        provider::{At, Provider},
    },
    heart::Heart,
    journal::Journal,
};

const HOUSEKEEPING_EVERY: Duration = Duration::from_mins(10);
/// After an upgrade the contract is looked at once more: the node may have lagged.
const UPGRADE_SETTLES_IN: Duration = Duration::from_secs(10);

/// Looks at the contract again after an upgrade, once more soon after it (the node may have
/// lagged), and now and then. A task of its own: requests wait for it.
pub(super) async fn follow_support<P: Provider>(
    gateway: String,
    decryption: DecryptionAdapter<P>,
    support: watch::Sender<Support>,
) {
    let waits = Waits::beside();
    let mut changes = support.subscribe();
    let mut patience = HOUSEKEEPING_EVERY;
    loop {
        let upgrade = changes.wait_for(|support| matches!(support, Support::Upgraded { .. }));
        let upgraded = timeout(patience, upgrade).await.is_ok();
        patience = if upgraded { UPGRADE_SETTLES_IN } else { HOUSEKEEPING_EVERY };
        let seen = support.borrow().clone();
        let found = if upgraded {
            watch_support(&waits, &gateway, &decryption).await
        } else {
            waits.wait(&gateway, || decryption.support()).await.0
        };
        // Unless there was another upgrade meanwhile.
        support.send_if_modified(|support| {
            let current = *support == seen && found != seen;
            if current {
                if !upgraded {
                    warn!(?found, "the Decryption contract has changed");
                }
                *support = found;
            }
            current
        });
    }
}

/// Slow chores: pruning.
pub(super) async fn housekeeping<P: Provider>(
    journal: Journal,
    provider: P,
    retention: Duration,
    heart: Heart,
) -> Result<(), String> {
    let mut chores = interval(HOUSEKEEPING_EVERY);
    chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        heart.rest();
        tokio::select! {
            _ = chores.tick() => {}
            () = heart.called() => {}
        }
        heart.beat().await;
        let Ok(Some(last)) = provider.header(At::Finalized).await else { continue };
        let millis = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let before = clock::unix_millis().saturating_sub(millis);
        let pruned = heart.rest_while(journal.prune(before, last.block.number)).await;
        let pruned = pruned.map_err(|error| error.to_string())?;
        debug!(requests = pruned.requests, transactions = pruned.transactions, "journal pruned");
    }
}
