//! What an instance's earlier wallet has signed, followed to the end: the same bytes again until each
//! nonce is used. Needs no key. The old journal is locked meanwhile, and told what was mined.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    backoff::Backoff,
    domain::Address,
    gateway::{
        lane::{
            SignedTransaction, TransactionId, TransactionLedger, ask_others, draft::tips_absurdly,
        },
        provider::{At, Provider, Receipt, RpcError},
    },
    heart::Heart,
    journal::{Journal, Left},
    metrics::Metrics,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Sends and receipts under way at the same time.
const AT_ONCE: usize = 16;
/// A mined nonce without a receipt of ours is somebody else's only after this: a node may lag.
const DISPLACED_AFTER: Duration = Duration::from_secs(15);
/// Without any progress for so long, nobody takes them: the next start tries again.
const GIVE_UP_AFTER: Duration = Duration::from_hours(1);

/// Follows them, closes the old journal, and then waits for `stop`.
pub(super) async fn follow<P: Provider>(left: Left, provider: P, stop: CancellationToken) {
    let Left { wallet, journal, writer } = left;
    let closing = CancellationToken::new();
    let writing = writer.run(Heart::default(), Metrics::default(), closing.clone());
    let following = async {
        let followed = stop.run_until_cancelled(send_on(&journal, &provider, wallet)).await;
        closing.cancel();
        followed
    };
    let (kept, followed) = tokio::join!(writing, following);
    if let Ok(kept) = kept {
        kept.close().await;
    }
    match followed {
        Some(Ok(Followed { mined, displaced, given_up })) => info!(
            %wallet, mined, displaced, given_up,
            "the transactions of an earlier wallet are followed to their end"
        ),
        Some(Err(error)) => {
            warn!(%wallet, error, "the transactions of an earlier wallet are not followed any more");
        }
        None => debug!(%wallet, "following an earlier wallet goes on with the next start"),
    }
    stop.cancelled().await;
}

/// How many nonces ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Followed {
    mined: usize,
    /// Used by transactions that are not in the journal.
    displaced: usize,
    /// Not used at all.
    given_up: usize,
}

async fn send_on<P: Provider>(
    journal: &Journal,
    provider: &P,
    wallet: Address,
) -> Result<Followed, String> {
    let mut open: BTreeMap<u64, Vec<SignedTransaction>> = BTreeMap::new();
    for transaction in journal.open_transactions().await.map_err(|error| error.to_string())? {
        open.entry(transaction.nonce).or_default().push(transaction);
    }
    info!(
        %wallet,
        nonces = open.len(),
        "following the transactions of an earlier wallet to their end"
    );
    let mut followed = Followed::default();
    let mut pause = Backoff::new(Duration::from_secs(3), Duration::from_secs(30));
    let (mut send_at, mut progress_at) = (Instant::now(), Instant::now());
    let mut unseen: HashMap<u64, Instant> = HashMap::new();
    while !open.is_empty() {
        match look(journal, provider, wallet, &open, &mut unseen).await? {
            Ok(Looked { mined, displaced }) => {
                if !mined.is_empty() || !displaced.is_empty() {
                    progress_at = Instant::now();
                    pause.reset();
                }
                followed.mined += mined.len();
                followed.displaced += displaced.len();
                open.retain(|nonce, _| !mined.contains(nonce) && !displaced.contains(nonce));
            }
            Err(error) => debug!(%wallet, %error, "could not look for receipts"),
        }
        if progress_at.elapsed() >= GIVE_UP_AFTER {
            followed.given_up = open.len();
            break;
        }
        if Instant::now() >= send_at {
            broadcast(provider, open.values()).await;
            send_at = Instant::now() + pause.next_delay();
        }
        if !open.is_empty() {
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(followed)
}

/// Nonces that are used.
struct Looked {
    mined: BTreeSet<u64>,
    displaced: BTreeSet<u64>,
}

/// Notes in the old journal what was mined. The outer error is the journal's.
async fn look<P: Provider>(
    journal: &Journal,
    provider: &P,
    wallet: Address,
    open: &BTreeMap<u64, Vec<SignedTransaction>>,
    unseen: &mut HashMap<u64, Instant>,
) -> Result<Result<Looked, RpcError>, String> {
    let used = match provider.transaction_count(wallet, At::Latest).await {
        Ok(used) => used,
        Err(error) => return Ok(Err(error)),
    };
    let mut looked = Looked { mined: BTreeSet::new(), displaced: BTreeSet::new() };
    // A count that went back was never true.
    unseen.retain(|nonce, _| *nonce < used);
    for (nonce, versions) in open.range(..used) {
        let hashes: Vec<_> = versions.iter().map(|version| version.hash).collect();
        let receipts = match provider.receipts(&hashes).await {
            Ok(receipts) => receipts,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(receipt) = receipts.into_iter().flatten().next() {
            mined(journal, *nonce, &receipt, &mut looked).await?;
        } else if unseen.entry(*nonce).or_insert_with(Instant::now).elapsed() >= DISPLACED_AFTER {
            // Nor has another node a receipt.
            let others = ask_others(provider, &hashes).await;
            match others.receipts.into_iter().flatten().next() {
                Some(receipt) => mined(journal, *nonce, &receipt, &mut looked).await?,
                None if others.is_silent => {}
                None => _ = looked.displaced.insert(*nonce),
            }
        }
    }
    if !looked.mined.is_empty() {
        journal.flush().await.map_err(|error| error.to_string())?;
    }
    Ok(Ok(looked))
}

async fn mined(
    journal: &Journal,
    nonce: u64,
    receipt: &Receipt,
    looked: &mut Looked,
) -> Result<(), String> {
    let noted = journal.mined(TransactionId { nonce, hash: receipt.hash }, receipt.block).await;
    noted.map_err(|error| error.to_string())?;
    looked.mined.insert(nonce);
    Ok(())
}

/// The newest bytes of each nonce, in their order. Not those that a wrong tip would be paid for: there is
/// no key to sign them anew, and the new wallet brings their answers.
async fn broadcast<'t, P: Provider>(
    provider: &P,
    open: impl Iterator<Item = &'t Vec<SignedTransaction>>,
) {
    let newest = open.filter_map(|versions| versions.last());
    let newest: Vec<SignedTransaction> =
        newest.filter(|newest| !tips_absurdly(newest)).cloned().collect();
    let sends: Vec<_> = newest
        .into_iter()
        .map(|transaction| async move {
            let sent = provider.send_raw_transaction(&transaction.raw).await;
            if let Err(error) = sent {
                debug!(nonce = transaction.nonce, %error, "broadcast not accepted");
            }
        })
        .collect();
    stream::iter(sends).buffered(AT_ONCE).collect::<()>().await;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use alloy::{
        consensus::{SignableTransaction, TxEip1559, TxEnvelope},
        eips::Encodable2718,
    };
    use tokio::task::JoinSet;

    use super::*;
    use crate::{
        domain::B256,
        gateway::{fake_chain::FakeChain, wallet::Wallet},
        journal::{Identity, Opened, open_as},
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

    fn open(dir: &Path, wallet: Address) -> Opened {
        let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet };
        open_as(&Machine::default(), dir, identity, Address::ZERO, "one", None).unwrap()
    }

    fn left(dir: &Path, wallet: Address) -> Left {
        let Opened { journal, writer, .. } = open(dir, wallet);
        Left { wallet, journal, writer }
    }

    /// Follows until the journal is let go; answers what is still open in it.
    async fn followed(dir: &Path, wallet: Address, chain: &FakeChain) -> Vec<u64> {
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        running.spawn(follow(left(dir, wallet), chain.clone(), stop.clone()));
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
        let open = journal.journal.open_transactions().await.unwrap();
        open.into_iter().map(|transaction| transaction.nonce).collect()
    }

    async fn store(dir: &Path, wallet: Address, transactions: Vec<SignedTransaction>) {
        let Opened { journal, writer, .. } = open(dir, wallet);
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        running.spawn(writer.run(Heart::default(), Metrics::default(), stop.clone()));
        journal.signed(transactions).await.unwrap();
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
        assert_eq!(chain.node().nonce, 2);
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
        assert_eq!(chain.node().nonce, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_nonce_that_another_has_used_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::from_private_key(&[7; 32]).unwrap();
        let chain = FakeChain::new(3);
        let (lost, next) = (sign(&wallet, 0, 1).await, sign(&wallet, 1, 1).await);
        store(dir.path(), wallet.address(), vec![lost, next]).await;
        chain.node().nonce = 1;
        let begun = Instant::now();
        followed(dir.path(), wallet.address(), &chain).await;
        assert!(begun.elapsed() >= DISPLACED_AFTER, "the node may lag");
        assert_eq!(chain.node().nonce, 2, "the one behind it is mined");
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_was_too_high_for_a_moment_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::from_private_key(&[7; 32]).unwrap();
        let chain = FakeChain::new(3);
        store(dir.path(), wallet.address(), vec![sign(&wallet, 0, 1).await]).await;
        let Left { journal, writer, .. } = left(dir.path(), wallet.address());
        let stop = CancellationToken::new();
        let mut writing = JoinSet::new();
        writing.spawn(writer.run(Heart::default(), Metrics::default(), stop.clone()));
        let open: BTreeMap<u64, Vec<SignedTransaction>> =
            [(0, journal.open_transactions().await.unwrap())].into();
        let mut unseen = HashMap::new();
        let mut look_at = async |nonce| {
            chain.node().nonce = nonce;
            let looked = look(&journal, &chain, wallet.address(), &open, &mut unseen).await;
            looked.unwrap().unwrap().displaced.len()
        };
        assert_eq!(look_at(5000).await, 0);
        sleep(DISPLACED_AFTER).await;
        assert_eq!(look_at(0).await, 0);
        assert_eq!(look_at(5000).await, 0, "it counts from now on");
        sleep(DISPLACED_AFTER).await;
        assert_eq!(look_at(5000).await, 1);
        stop.cancel();
        writing.join_next().await.unwrap().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_given_up_and_stays_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::from_private_key(&[7; 32]).unwrap();
        let chain = FakeChain::new(3);
        // Nonce 0 was never signed.
        store(dir.path(), wallet.address(), vec![sign(&wallet, 1, 1).await]).await;
        let begun = Instant::now();
        assert_eq!(followed(dir.path(), wallet.address(), &chain).await, [1]);
        assert!(begun.elapsed() >= GIVE_UP_AFTER);
    }
}
