//! Where a contract's counter stood when reading began: a binary search over its ids.

use tokio::time::Instant;
use tracing::debug;

use super::{AuditState, CompletenessAudit, MAX_DISTANCE, MOST_TRIES};
use crate::{
    chain::{
        reader::{BlockId, ChainReader},
        rpc_error::RpcError,
    },
    contracts::{
        abi::{Counter, HIGHEST_COUNT},
        decryption::{IdProbe, IdStatus, RequestContract},
    },
    domain::BlockRef,
    flow::ledger::RequestLedger,
};

impl<P: ChainReader, L: RequestLedger> CompletenessAudit<P, L> {
    /// Finds where the counters stood when reading began, if unknown: an id requested since then and below
    /// the first one shown is hidden.
    pub(super) async fn find_beginnings(
        &self,
        adapter: &RequestContract<P>,
        question: IdProbe,
        cursor: BlockRef,
        memory: &mut AuditState,
    ) -> Result<(), RpcError> {
        let (open, origin) = {
            let ids = self.ids.lock();
            (ids.without_beginning(), ids.origin())
        };
        let Some(origin) = origin else { return Ok(()) };
        for (counter, first) in open {
            let tries = memory.begun.entry(counter).or_default();
            if *tries >= MOST_TRIES {
                continue;
            }
            *tries += 1;
            let found = match count_at_origin(adapter, question, counter, first, origin).await {
                Ok(count) => count.map(|count| (count, origin)),
                // The state of that block is pruned, or the node does not have it yet.
                Err(error @ RpcError::Refused { .. }) => {
                    debug!(%error, counter = counter.as_str(), "where the ids began is not known");
                    let now = adapter.id_status(question, counter, 1, BlockId::Latest).await?;
                    match (now, first) {
                        (IdStatus::NotRequested, _) => Some((0, origin)),
                        // No id was shown up to the cursor: hidden ones below it stay undetected.
                        (IdStatus::Requested, None) if *tries >= MOST_TRIES => {
                            let at = BlockId::Hash(cursor.hash);
                            let count = count_at(adapter, question, counter, 0, at).await?;
                            count.map(|count| (count, cursor.number))
                        }
                        (IdStatus::Requested | IdStatus::Undisclosed, _) => None,
                    }
                }
                Err(error) => return Err(error),
            };
            if let Some((count, block)) = found {
                self.ids.lock().set_beginning(counter, count, block, Instant::now());
            }
        }
        Ok(())
    }
}

/// How far a counter had counted at the block `origin`. `first`: the first of its ids that was shown,
/// and its block. `None`: not disclosed.
async fn count_at_origin<P: ChainReader>(
    adapter: &RequestContract<P>,
    question: IdProbe,
    counter: Counter,
    first: Option<(u64, u64)>,
    origin: u64,
) -> Result<Option<u64>, RpcError> {
    let at = BlockId::Number(origin);
    let Some((below, block)) = first.map(|(first, block)| (first.saturating_sub(1), block)) else {
        return count_at(adapter, question, counter, 0, at).await;
    };
    if below == 0 {
        return Ok(Some(0));
    }
    match adapter.id_status(question, counter, below, at).await? {
        IdStatus::Requested => return Ok(Some(below)),
        IdStatus::NotRequested => {}
        IdStatus::Undisclosed => return Ok(None),
    }
    // A counter that starts at some number since an upgrade has none below.
    match adapter.id_status(question, counter, below, BlockId::Number(block)).await? {
        IdStatus::Requested => count_at(adapter, question, counter, 0, at).await,
        IdStatus::NotRequested => Ok(Some(below)),
        IdStatus::Undisclosed => Ok(None),
    }
}

/// How far a counter has counted at that block. `reached`: a number known to be reached. `None`: not
/// disclosed, or implausibly far.
pub(super) async fn count_at<P: ChainReader>(
    adapter: &RequestContract<P>,
    question: IdProbe,
    counter: Counter,
    reached: u64,
    at: BlockId,
) -> Result<Option<u64>, RpcError> {
    let farthest = if reached == 0 { HIGHEST_COUNT / 2 } else { MAX_DISTANCE };
    let (mut low, mut step) = (reached, 1);
    // Doubling steps, then bisection.
    let mut high = loop {
        let number = reached + step;
        match adapter.id_status(question, counter, number, at).await? {
            IdStatus::Requested => low = number,
            IdStatus::NotRequested => break number,
            IdStatus::Undisclosed => return Ok(None),
        }
        step *= 2;
        if step > farthest {
            // More than enough to look for.
            return Ok((reached > 0).then_some(low));
        }
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match adapter.id_status(question, counter, middle, at).await? {
            IdStatus::Requested => low = middle,
            IdStatus::NotRequested => high = middle,
            IdStatus::Undisclosed => return Ok(None),
        }
    }
    Ok(Some(low))
}
