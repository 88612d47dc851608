//! Finishes the open transactions of an instance's earlier wallet in a lane of its own that only drains
//! (rebroadcasts and follows receipts). Needs no key. Locks the old journal meanwhile and records there
//! what was mined.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::stored_state::read_sent_transactions;
use crate::{
    chain::{
        lane::{self, ChainKind, SignedTransaction},
        sender::TransactionSender,
    },
    dice::Dice,
    domain::{Address, LedgerError},
    journal::{EarlierJournal, Journal, Query},
    telemetry::{heartbeat::Heartbeat, metrics::Metrics},
};

/// Follows the open transactions, closes the old journal, then waits for `stop`. `kind`: that of its chain.
pub(super) async fn follow<P: TransactionSender>(
    earlier: EarlierJournal,
    kind: ChainKind,
    provider: P,
    dice: Dice,
    stop: CancellationToken,
) {
    let EarlierJournal { wallet, journal, writer } = earlier;
    let closing = CancellationToken::new();
    let writing = writer.run(Heartbeat::default(), Metrics::default(), closing.clone());
    let following = async {
        let followed = drain(&journal, kind, provider, wallet, dice, stop.clone()).await;
        closing.cancel();
        followed
    };
    let span = info_span!("earlier_wallet", %wallet);
    let (kept, followed) = tokio::join!(writing, following.instrument(span));
    if let Ok(kept) = kept {
        kept.close().await;
    }
    match followed {
        Ok(_) if stop.is_cancelled() => {
            debug!(%wallet, "following an earlier wallet goes on with the next start");
        }
        Ok(DrainResult { ended, given_up }) => info!(
            %wallet, ended, given_up,
            "the transactions of an earlier wallet are followed to their end"
        ),
        Err(error) => {
            warn!(%wallet, %error, "the transactions of an earlier wallet are not followed any more");
        }
    }
    stop.cancelled().await;
}

/// How many nonces ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DrainResult {
    /// Used, by any transaction.
    ended: usize,
    /// Currently refused by every node; the next start tries again.
    given_up: usize,
}

async fn drain<P: TransactionSender>(
    journal: &Journal,
    kind: ChainKind,
    provider: P,
    wallet: Address,
    dice: Dice,
    stop: CancellationToken,
) -> Result<DrainResult, LedgerError> {
    let sent = read_sent_transactions(journal, kind).await?;
    let nonces = count_nonces(&sent.open);
    info!(nonces, "following the transactions of an earlier wallet to their end");
    // Separate metrics: these are not the current lane's figures.
    let metrics = Metrics::default();
    let draining = lane::drain(provider, wallet, journal.clone(), kind, sent, metrics);
    draining.rolling(dice).run(Heartbeat::default(), stop).await?;
    journal.flush().await?;
    let given_up = self::count_nonces(&journal.ask(Query::OpenTransactions).await?);
    Ok(DrainResult { ended: nonces.saturating_sub(given_up), given_up })
}

fn count_nonces(of: &[SignedTransaction]) -> usize {
    of.iter().map(|transaction| transaction.nonce).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use alloy::{
        consensus::{SignableTransaction, TxEip1559, TxEnvelope},
        eips::Encodable2718,
    };
    use tokio::{
        task::JoinSet,
        time::{Instant, sleep},
    };

    use super::*;
    use crate::{
        chain::{
            fake_chain::FakeChain, lane::TransactionLedger, reader::ChainReader as _,
            wallet::Wallet,
        },
        domain::B256,
        journal::{Identity, OpenedJournal, open_as},
        machine::Machine,
    };

    async fn sign(wallet: &Wallet, nonce: u64, fee: u128) -> SignedTransaction {
        let transaction =
            TxEip1559 { nonce, gas_limit: 100_000, max_fee_per_gas: fee, ..TxEip1559::default() };
        sign_as(wallet, transaction).await
    }

    async fn sign_as(wallet: &Wallet, transaction: TxEip1559) -> SignedTransaction {
        let nonce = transaction.nonce;
        let signature = wallet.sign_hash(transaction.signature_hash()).await.unwrap();
        let signed = transaction.into_signed(signature);
        let hash = *signed.hash();
        let raw = TxEnvelope::from(signed).encoded_2718().into();
        SignedTransaction { nonce, hash, raw, request: None }
    }

    fn open(dir: &Path, wallet: Address) -> OpenedJournal {
        let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet };
        open_as(&Machine::default(), dir, identity, Address::ZERO, "one", None).unwrap()
    }

    fn earlier(dir: &Path, wallet: Address) -> EarlierJournal {
        let OpenedJournal { journal, writer, .. } = open(dir, wallet);
        EarlierJournal { wallet, journal, writer }
    }

    /// Follows until the journal is closed; returns the nonces that are still open in it.
    async fn followed(dir: &Path, wallet: Address, chain: &FakeChain) -> Vec<u64> {
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        running.spawn(follow(
            earlier(dir, wallet),
            ChainKind::Sequencer,
            chain.clone(),
            Dice::default(),
            stop.clone(),
        ));
        let journal = loop {
            sleep(Duration::from_secs(1)).await;
            chain.mine(Vec::new());
            let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet };
            if let Ok(opened) =
                open_as(&Machine::default(), dir, identity, Address::ZERO, "one", None)
            {
                break opened;
            }
        };
        stop.cancel();
        running.join_next().await.unwrap().unwrap();
        let open = journal.journal.ask(Query::OpenTransactions).await.unwrap();
        open.into_iter().map(|transaction| transaction.nonce).collect()
    }

    async fn store(dir: &Path, wallet: Address, transactions: Vec<SignedTransaction>) {
        let OpenedJournal { journal, writer, .. } = open(dir, wallet);
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        running.spawn(writer.run(Heartbeat::default(), Metrics::default(), stop.clone()));
        journal.record_signed(transactions).await.unwrap();
        stop.cancel();
        running.join_next().await.unwrap().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_bytes_are_sent_until_each_nonce_is_used_and_noted() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::from_private_key(&[7; 32]).unwrap();
        let chain = FakeChain::new(3);
        let (cheap, dear) = (sign(&wallet, 0, 1).await, sign(&wallet, 0, 2).await);
        let next = sign(&wallet, 1, 1).await;
        store(dir.path(), wallet.address(), vec![cheap, dear.clone(), next]).await;
        assert_eq!(followed(dir.path(), wallet.address(), &chain).await, [0_u64; 0]);
        let receipt = chain.receipts(&[dear.hash]).await.unwrap();
        assert!(receipt[0].as_ref().is_some_and(|receipt| receipt.success));
        assert_eq!(chain.state().nonce, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a9b_what_a_wrong_tip_would_be_paid_for_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::from_private_key(&[7; 32]).unwrap();
        let chain = FakeChain::new(3);
        let tip = 100_000_000_000_000;
        let transaction = TxEip1559 {
            gas_limit: 100_000,
            max_fee_per_gas: tip,
            max_priority_fee_per_gas: tip,
            ..TxEip1559::default()
        };
        let dear = sign_as(&wallet, transaction).await;
        store(dir.path(), wallet.address(), vec![dear, sign(&wallet, 1, 1).await]).await;
        assert_eq!(followed(dir.path(), wallet.address(), &chain).await, [0, 1]);
        assert_eq!(chain.state().nonce, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_nonce_that_another_has_used_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::from_private_key(&[7; 32]).unwrap();
        let chain = FakeChain::new(3);
        let (lost, next) = (sign(&wallet, 0, 1).await, sign(&wallet, 1, 1).await);
        store(dir.path(), wallet.address(), vec![lost, next]).await;
        chain.state().nonce = 1;
        let begun = Instant::now();
        followed(dir.path(), wallet.address(), &chain).await;
        assert!(begun.elapsed() >= Duration::from_secs(15), "the node may lag");
        assert_eq!(chain.state().nonce, 2, "the one behind it is mined");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_given_up_and_stays_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::from_private_key(&[7; 32]).unwrap();
        let chain = FakeChain::new(3);
        // Nonce 0 was never signed by this wallet's journal.
        store(dir.path(), wallet.address(), vec![sign(&wallet, 1, 1).await]).await;
        let begun = Instant::now();
        assert_eq!(followed(dir.path(), wallet.address(), &chain).await, [1]);
        assert!(begun.elapsed() >= Duration::from_hours(1));
    }
}
