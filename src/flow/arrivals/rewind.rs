//! Back to the last block that the new chain has, after a reorganisation.

use tracing::warn;

use super::{Arrivals, ReadError, source::EventSource};
use crate::{
    domain::{B256, BlockRef},
    flow::ledger::RequestLedger,
};

/// How many blocks that were read by ranges are read again after a reorganisation.
const MAX_REWIND: u64 = 8192;
/// How many blocks before that are read again at every node if no remembered block is on the new chain.
const SUSPECT_BELOW_FORK: u64 = 1 << 17;

impl<S: EventSource, L: RequestLedger> Arrivals<S, L> {
    /// Rewinds after a reorganisation: at least `least` blocks, and further to the last remembered block
    /// that is on the new chain. If none is, the blocks before that are read again too, beside the new
    /// ones.
    pub(super) async fn rewind(&mut self, number: u64, least: u64) -> Result<(), ReadError> {
        if self.began_after >= number {
            // Reading began on blocks that never existed.
            self.began_after = number.saturating_sub(least);
            self.state.lock().began_after = self.began_after;
        }
        let (mut depth, mut forked) = (least, false);
        loop {
            self.heart.beat().await;
            let mut back_to = number.saturating_sub(depth).max(self.began_after);
            if self.remembered(back_to).is_none()
                && let Some(known) = self.remembered_below(back_to)
                && (forked || back_to - known <= MAX_REWIND)
            {
                // Ranges read since then may be of another fork.
                back_to = known.max(self.began_after);
                depth = number - back_to;
            }
            let block = self.header(back_to).await?.block;
            let known = self.remembered(back_to);
            if known.is_some_and(|known| known != block.hash) && back_to > self.began_after {
                forked = true;
                depth = depth.saturating_mul(2);
                continue;
            }
            if forked && known.is_none() {
                let from = back_to.saturating_sub(SUSPECT_BELOW_FORK).max(self.began_after + 1);
                self.suspects.reread_everywhere(from, back_to);
            }
            warn!(at = number, back_to, "the chain was reorganised: reading again");
            self.metrics.reorganised();
            self.recent.split_off(&back_to);
            self.checkpoints.rewind_to(back_to);
            self.ids.lock().rewind_to(back_to);
            {
                let mut notes = self.state.lock();
                notes.read_once.rewind_to(back_to);
                // Blocks that left the chain need no proof.
                notes.unproven.rewind_to(back_to);
            }
            self.cursor = Some(block);
            return Ok(());
        }
    }

    /// Returns whether another block was read at this height, as far as it is remembered.
    pub(super) fn was_read_otherwise(&self, block: BlockRef) -> bool {
        let cursor = self.cursor.filter(|cursor| cursor.number == block.number);
        let read = cursor.map(|cursor| cursor.hash).or_else(|| self.remembered(block.number));
        read.is_some_and(|hash| hash != block.hash)
    }

    /// The hash of a block that was read, if remembered.
    fn remembered(&self, number: u64) -> Option<B256> {
        let recent = self.recent.get(&number).map(|read| read.hash);
        recent.or_else(|| self.checkpoints.hash(number))
    }

    /// The highest remembered block below.
    fn remembered_below(&self, number: u64) -> Option<u64> {
        let recent = self.recent.range(..number).next_back().map(|(number, _)| *number);
        recent.max(self.checkpoints.highest_below(number))
    }
}
