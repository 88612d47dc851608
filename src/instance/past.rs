//! Whether somebody may have answered what stands on chain already, without this journal knowing.
//!
//! A journal that is lost, rebuilt or restored from a backup does not know of answers that were sent
//! since. Requests that were on chain before the start are then asked about one by one, before gas is
//! spent on them. Where the journal knows the wallet's last transaction and none is missing, nobody
//! else has answered, and that would be a question for each request found after a restart.

use tracing::debug;

use crate::{
    domain::{Address, BlockRef},
    gateway::{
        lane::Recovered,
        provider::{At, Provider},
    },
};

/// A cursor behind the journal's own transactions by more blocks was set back by somebody. What a
/// crash takes away of it are seconds.
const SET_BACK: u64 = 1000;

/// Requests up to this block may have been answered. A node that does not tell the wallet's count
/// leaves it open: then it is the head.
pub(super) async fn maybe_answered_up_to<P: Provider>(
    provider: &P,
    wallet: Address,
    cursor: Option<BlockRef>,
    recovered: &Recovered,
) -> u64 {
    let count = provider.transaction_count(wallet, At::Latest).await;
    if count.as_ref().is_ok_and(|count| knows_all(cursor, recovered, *count)) {
        return 0;
    }
    let head = provider.heads().borrow().map_or(0, |head| head.block.number);
    debug!(head, ?count, "requests of earlier blocks may be answered already");
    head
}

/// Whether the journal knows all transactions of a wallet that has sent so many.
fn knows_all(cursor: Option<BlockRef>, recovered: &Recovered, count: u64) -> bool {
    let Recovered { open, mined, highest, .. } = recovered;
    let Some(cursor) = cursor else { return false };
    let last_block = mined.iter().map(|one| one.block.number).max().unwrap_or(0);
    if last_block > cursor.number.saturating_add(SET_BACK) {
        return false;
    }
    let Some(last) = count.checked_sub(1) else { return true };
    let known =
        open.iter().any(|one| one.nonce == last) || mined.iter().any(|one| one.nonce == last);
    // One that was rebuilt knows what was under way, and nothing of what was before.
    let has_a_past = !mined.is_empty() || open.iter().any(|one| one.nonce == 0);
    known && has_a_past && highest.is_some_and(|highest| highest >= last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{B256, Bytes},
        gateway::lane::{MinedTransaction, SignedTransaction},
    };

    fn block(number: u64) -> BlockRef {
        BlockRef { number, hash: B256::ZERO }
    }

    fn recovered(mined: &[u64], open: &[u64]) -> Recovered {
        let signed = |nonce: &u64| SignedTransaction {
            nonce: *nonce,
            hash: B256::ZERO,
            raw: Bytes::new(),
            request: None,
        };
        let mine =
            |nonce: &u64| MinedTransaction { nonce: *nonce, hash: B256::ZERO, block: block(50) };
        Recovered {
            open: open.iter().map(signed).collect(),
            mined: mined.iter().map(mine).collect(),
            highest: mined.iter().chain(open).max().copied(),
            stranded: Vec::new(),
        }
    }

    #[test]
    fn after_a_plain_restart_nobody_else_has_answered() {
        let cursor = Some(block(60));
        assert!(knows_all(cursor, &recovered(&[], &[]), 0), "nothing was ever sent");
        assert!(knows_all(cursor, &recovered(&[5, 6], &[]), 7));
        assert!(knows_all(cursor, &recovered(&[5, 6], &[7, 8]), 7), "under way");
        assert!(knows_all(cursor, &recovered(&[5, 6], &[7, 8]), 8), "mined meanwhile");
        assert!(knows_all(cursor, &recovered(&[], &[0]), 1), "the very first one");
    }

    #[test]
    fn what_the_journal_does_not_know_may_have_been_answered() {
        let cursor = Some(block(60));
        assert!(!knows_all(None, &recovered(&[], &[]), 0), "a new journal");
        assert!(!knows_all(cursor, &recovered(&[], &[]), 3), "lost");
        assert!(!knows_all(cursor, &recovered(&[5, 6], &[]), 9), "out of a backup");
        assert!(!knows_all(cursor, &recovered(&[], &[7]), 8), "rebuilt");
        assert!(!knows_all(cursor, &recovered(&[], &[7]), 7), "rebuilt");
        assert!(knows_all(Some(block(1)), &recovered(&[6], &[]), 7), "a crash");
        let far = MinedTransaction { nonce: 6, hash: B256::ZERO, block: block(5000) };
        let back = Recovered { mined: vec![far], ..recovered(&[6], &[]) };
        assert!(!knows_all(cursor, &back, 7), "the cursor was set back");
    }
}
