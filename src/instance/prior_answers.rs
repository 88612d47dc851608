//! Detects requests that may already be answered on chain without this journal knowing.
//!
//! A journal that is lost, rebuilt or restored from a backup does not know the answers sent since.
//! Every request that was on chain before that start is looked up at the contract before it is asked
//! and sent, also after later restarts: the journal remembers up to which block. Where the journal
//! knows the wallet's last transaction and none is missing, nobody else has answered, and the lookup
//! (one call per recovered request) is skipped.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::{
    chain::{
        lane::Recovered, reader::BlockId, rpc_error::RpcError, sender::TransactionSender,
        survey::Survey,
    },
    dice::Dice,
    domain::{Address, BlockRef, LedgerError},
    journal::Journal,
    telemetry::log_throttle::LogThrottle,
    time::backoff::Backoff,
};

/// A cursor this many blocks behind the journal's own transactions was moved back by hand. A crash
/// costs only seconds of it.
const SET_BACK_BLOCKS: u64 = 1000;
/// A node that does not answer within this time has no vote.
const VOTE_DEADLINE: Duration = Duration::from_secs(5);

/// The block up to which requests may have been answered: the head, unless a node returns the wallet's
/// transaction count and the journal knows all of these transactions.
pub(super) async fn maybe_answered_up_to<P: TransactionSender>(
    provider: &P,
    journal: &Journal,
    wallet: Address,
    cursor: Option<BlockRef>,
    recovered: &Recovered,
    dice: &Dice,
) -> Result<u64, LedgerError> {
    let forgotten_up_to = journal.forgotten_up_to().await?;
    let count = highest_count(provider, wallet).await;
    if count.is_some_and(|count| knows_every_transaction(cursor, recovered, count)) {
        return Ok(forgotten_up_to);
    }
    let head = head(provider, dice).await;
    debug!(head, ?count, "requests of earlier blocks may be answered already");
    if head > forgotten_up_to {
        journal.forget_up_to(head).await?;
    }
    Ok(forgotten_up_to.max(head))
}

/// The highest transaction count that any node returns; `None` if none answers.
async fn highest_count<P: TransactionSender>(provider: &P, wallet: Address) -> Option<u64> {
    let ask = |one: P| async move { one.transaction_count(wallet, BlockId::Latest).await };
    let counts = Survey::run(provider, VOTE_DEADLINE, ask).await.into_answers(provider);
    counts.ok()?.into_iter().max()
}

/// The newest block; waits until a node answers.
async fn head<P: TransactionSender>(provider: &P, dice: &Dice) -> u64 {
    let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut repeats = LogThrottle::default();
    loop {
        let heard = provider.heads().borrow().map(|head| head.block.number);
        let told = provider.header(BlockId::Latest).await;
        let told_now = told.as_ref().ok().and_then(|head| Some(head.as_ref()?.block.number));
        if let Some(head) = heard.max(told_now) {
            return head;
        }
        let code = told.as_ref().map_or_else(RpcError::code, |_| "no_newest_block");
        if let Some(times) = repeats.should_log(code, Instant::now()) {
            let why = told.map_or_else(|error| error.to_string(), |_| "no newest block".to_owned());
            warn!(why, times, "waiting for the newest block");
        }
        sleep(pause.next_delay(dice.roll())).await;
    }
}

/// Returns whether the journal knows all `count` transactions of the wallet.
fn knows_every_transaction(cursor: Option<BlockRef>, recovered: &Recovered, count: u64) -> bool {
    let Recovered { open, mined, highest, .. } = recovered;
    let Some(cursor) = cursor else { return false };
    let last_block = mined.iter().map(|one| one.block.number).max().unwrap_or(0);
    if last_block > cursor.number.saturating_add(SET_BACK_BLOCKS) {
        return false;
    }
    let Some(last) = count.checked_sub(1) else { return true };
    let knows_last =
        open.iter().any(|one| one.nonce == last) || mined.iter().any(|one| one.nonce == last);
    // A rebuilt journal knows the open transactions, but not the earlier ones.
    let has_a_past = !mined.is_empty() || open.iter().any(|one| one.nonce == 0);
    knows_last && has_a_past && highest.is_some_and(|highest| highest >= last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::lane::{MinedTransaction, SignedTransaction},
        domain::{B256, Bytes},
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
        assert!(knows_every_transaction(cursor, &recovered(&[], &[]), 0), "nothing was ever sent");
        assert!(knows_every_transaction(cursor, &recovered(&[5, 6], &[]), 7));
        assert!(knows_every_transaction(cursor, &recovered(&[5, 6], &[7, 8]), 7), "under way");
        assert!(
            knows_every_transaction(cursor, &recovered(&[5, 6], &[7, 8]), 8),
            "mined meanwhile"
        );
        assert!(knows_every_transaction(cursor, &recovered(&[], &[0]), 1), "the very first one");
    }

    #[test]
    fn what_the_journal_does_not_know_may_have_been_answered() {
        let cursor = Some(block(60));
        assert!(!knows_every_transaction(None, &recovered(&[], &[]), 0), "a new journal");
        assert!(!knows_every_transaction(cursor, &recovered(&[], &[]), 3), "lost");
        assert!(!knows_every_transaction(cursor, &recovered(&[5, 6], &[]), 9), "out of a backup");
        assert!(!knows_every_transaction(cursor, &recovered(&[], &[7]), 8), "rebuilt");
        assert!(!knows_every_transaction(cursor, &recovered(&[], &[7]), 7), "rebuilt");
        assert!(knows_every_transaction(Some(block(1)), &recovered(&[6], &[]), 7), "a crash");
        let far = MinedTransaction { nonce: 6, hash: B256::ZERO, block: block(5000) };
        let back = Recovered { mined: vec![far], ..recovered(&[6], &[]) };
        assert!(!knows_every_transaction(cursor, &back, 7), "the cursor was set back");
    }
}
