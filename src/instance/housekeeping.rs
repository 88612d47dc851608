//! Slow chores beside the walk: pruning.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::{
    chain::reader::{BlockId, ChainReader},
    domain::LedgerError,
    journal::Journal,
    telemetry::heartbeat::Heartbeat,
    time::clock::Clock,
};

pub(super) const HOUSEKEEPING_INTERVAL: Duration = Duration::from_mins(10);
/// Chains of the Gateway's kind never reorganise this deep: seven hours at four blocks a second.
const FINAL_DEPTH: u64 = 100_000;
/// How often in a row (half an hour) the tag may be missing before it counts as unsupported.
const MISSING_TAG_LIMIT: u32 = 3;

/// The height at or below which nothing changes any more: the node's finality tag, or far below the
/// head where no node has the tag. `untold` counts how often in a row the tag was missing.
pub(super) async fn final_block<P: ChainReader>(provider: &P, untold: &mut u32) -> Option<u64> {
    if let Ok(Some(last)) = provider.header(BlockId::Finalized).await {
        *untold = 0;
        return Some(last.block.number);
    }
    *untold = untold.saturating_add(1);
    if *untold < MISSING_TAG_LIMIT {
        return None;
    }
    let head = provider.header(BlockId::Latest).await.ok()??.block.number;
    if *untold == MISSING_TAG_LIMIT {
        warn!(
            below_head = FINAL_DEPTH,
            "no gateway node reports a finalized block: the journal is pruned up to this many \
             blocks below the head"
        );
    }
    head.checked_sub(FINAL_DEPTH)
}

/// Prunes the journal, slowly.
pub(super) async fn housekeeping<P: ChainReader>(
    journal: Journal,
    provider: P,
    retention: Duration,
    clock: Clock,
    heart: Heartbeat,
) -> Result<(), LedgerError> {
    let mut chores = interval(HOUSEKEEPING_INTERVAL);
    chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut untold = 0;
    loop {
        heart.rest();
        chores.tick().await;
        heart.beat().await;
        let Some(last) = final_block(&provider, &mut untold).await else { continue };
        let millis = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let before = clock.unix_millis().saturating_sub(millis);
        let pruned = heart.rest_while(journal.prune(before, last)).await?;
        debug!(
            requests = pruned.requests,
            transactions = pruned.transactions,
            skipped_logs = pruned.skipped_logs,
            "journal pruned"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake_chain::FakeChain;

    #[tokio::test]
    async fn c11_without_the_tag_what_is_deep_enough_counts_as_final() {
        let chain = FakeChain::new(FINAL_DEPTH + 7);
        let mut untold = 0;
        let mut asked = Vec::new();
        for tagged in [Some(5), None, None, None, None, Some(9), None] {
            chain.state().tagged = tagged;
            asked.push(final_block(&chain, &mut untold).await);
        }
        assert_eq!(asked, [Some(5), None, None, Some(7), Some(7), Some(9), None]);
        // A young chain has no block that deep.
        let young = FakeChain::new(7);
        for _ in 0..5 {
            assert_eq!(final_block(&young, &mut untold).await, None);
        }
    }
}
