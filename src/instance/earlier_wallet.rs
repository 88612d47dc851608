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
        lane::{SignedTransaction, TransactionLedger},
        provider::{Provider, RpcError},
    },
    heart::Heart,
    journal::{Journal, Left},
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
    let writing = writer.run(Heart::default(), closing.clone());
    let following = async {
        let followed = stop.run_until_cancelled(send_on(&journal, &provider, wallet)).await;
        closing.cancel();
        followed
    };
    let (kept, followed) = tokio::join!(writing, following);
    // Closing a file may take a while.
    let _ = tokio::task::spawn_blocking(move || drop(kept)).await;
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
    let used = match provider.transaction_count(wallet).await {
        Ok(used) => used,
        Err(error) => return Ok(Err(error)),
    };
    let mut looked = Looked { mined: BTreeSet::new(), displaced: BTreeSet::new() };
    for (nonce, versions) in open.range(..used) {
        let hashes: Vec<_> = versions.iter().map(|version| version.hash).collect();
        let receipts = match provider.receipts(&hashes).await {
            Ok(receipts) => receipts,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(receipt) = receipts.into_iter().flatten().next() {
            let noted = journal.mined(receipt.hash, receipt.block).await;
            noted.map_err(|error| error.to_string())?;
            looked.mined.insert(*nonce);
        } else if unseen.entry(*nonce).or_insert_with(Instant::now).elapsed() >= DISPLACED_AFTER {
            looked.displaced.insert(*nonce);
        }
    }
    if !looked.mined.is_empty() {
        journal.flush().await.map_err(|error| error.to_string())?;
    }
    Ok(Ok(looked))
}

/// The newest bytes of each nonce, in their order.
async fn broadcast<'t, P: Provider>(
    provider: &P,
    open: impl Iterator<Item = &'t Vec<SignedTransaction>>,
) {
    let newest: Vec<SignedTransaction> =
        open.filter_map(|versions| versions.last()).cloned().collect();
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
