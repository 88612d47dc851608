//! What an operator should know about a wallet before the first answer is sent.

use tracing::warn;

use crate::{
    chain::{reader::BlockId, sender::TransactionSender},
    config,
    domain::Address,
    journal::{Journal, Query},
};

/// Logs what an operator should know about the wallet before the first answer is sent.
pub(in crate::instance) async fn check_wallet<P: TransactionSender>(
    provider: &P,
    wallet: Address,
    journal: &Journal,
    starting_block: config::StartingBlock,
) {
    match provider.balance(wallet).await {
        Ok(balance) if balance.is_zero() => {
            warn!(%wallet, "the wallet has no funds: answers will wait until it has");
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "could not ask for the wallet's balance"),
    }
    let fresh = journal.ask(Query::IsEmpty).await.unwrap_or(false);
    let Ok(used @ 1..) = provider.transaction_count(wallet, BlockId::Latest).await else { return };
    let expected = journal
        .ask(Query::HighestNonce)
        .await
        .ok()
        .flatten()
        .map_or(0, |highest| highest.saturating_add(1));
    match unexpected_use(fresh, used, expected, starting_block) {
        None => {}
        Some(UnexpectedUse::NotRead) => warn!(
            %wallet,
            transactions = used,
            "the journal is empty and the wallet was used before: requests emitted before now are \
             not read; `kms-connector backfill --from BLOCK` has them read. Does another \
             kms-connector, with another state directory, use the wallet?"
        ),
        Some(UnexpectedUse::Before) => warn!(
            %wallet,
            transactions = used,
            "the journal is empty and the wallet was used before: what was answered already is not \
             answered again. Does another kms-connector, with another state directory, use the wallet?"
        ),
        Some(UnexpectedUse::Unknown(unknown)) => warn!(
            %wallet,
            unknown,
            "the chain has transactions of the wallet that the journal does not know: it was restored \
             from a backup or rebuilt, or the wallet is used elsewhere; what was answered already is \
             not answered again"
        ),
    }
}

/// Unusual use of the wallet before this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnexpectedUse {
    /// The journal is new, the wallet has sent transactions, and reading begins at the head.
    NotRead,
    /// The same, but reading begins at an earlier block.
    Before,
    /// Number of nonces that the journal does not know.
    Unknown(u64),
}

/// `used` is the transaction count on chain, `expected` the count that the journal expects.
pub(super) fn unexpected_use(
    fresh: bool,
    used: u64,
    expected: u64,
    starting_block: config::StartingBlock,
) -> Option<UnexpectedUse> {
    match (fresh, starting_block) {
        (true, _) if used == 0 => None,
        (true, config::StartingBlock::Latest) => Some(UnexpectedUse::NotRead),
        (true, config::StartingBlock::Number(_)) => Some(UnexpectedUse::Before),
        (false, _) => {
            used.checked_sub(expected).filter(|unknown| *unknown > 0).map(UnexpectedUse::Unknown)
        }
    }
}
