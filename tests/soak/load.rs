//! Requests at a steady rate, and reorganisations of the chain they stand on. Both change the chain,
//! so one waits for the other.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use alloy::{
    primitives::{B256, Bytes, U256},
    sol_types::SolCall as _,
};
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use world::{
    Error, Result,
    contracts::Decryption,
    deployment::Deployment,
    request::{Ask, Kind, fhe},
    rpc::Receipt,
    until,
};

/// Requests are emitted in portions, one transaction each.
const PORTION_EVERY: Duration = Duration::from_millis(500);
/// In one transaction, also where many are due.
const AT_ONCE: usize = 40;
const BLOCK_TIME: Duration = Duration::from_millis(250);
const MINED_WITHIN: Duration = Duration::from_secs(30);
/// A user's key. Shorter than real ones: the contract keeps it for ever, in the node's memory.
const KEY_BYTES: usize = 64;

/// Requests in the blocks that a reorganisation drops.
const DROPPED: usize = 10;

/// What a reorganisation does with the requests in the blocks that it drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// They come back, some blocks later.
    RequestsComeBack,
    /// They never happened; their ids go to others.
    RequestsAreGone,
}

#[derive(Debug)]
pub struct Load {
    deployment: Deployment,
    /// Held by whoever changes what the chain holds.
    hands: Mutex<()>,
    /// Held while a block is made, or while none may be.
    miner: Mutex<()>,
    emitted: AtomicUsize,
    dropped: AtomicUsize,
}

impl Load {
    /// From now on the node makes no block by itself: see [`Self::mine`].
    pub async fn new(deployment: Deployment) -> Result<Self> {
        deployment.chain.set_block_time(0).await?;
        let (emitted, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (hands, miner) = (Mutex::default(), Mutex::default());
        Ok(Self { deployment, hands, miner, emitted, dropped })
    }

    /// Makes a block every quarter of a second; ends only by an error.
    ///
    /// The node could do so itself. But one that goes back to an earlier state, or copies its state,
    /// while it makes a block is left with effects that no block holds, or with blocks missing in
    /// the middle: a chain that never was.
    pub async fn mine(&self) -> Result<Infallible> {
        let mut turn = interval(BLOCK_TIME);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            let _alone = self.miner.lock().await;
            self.deployment.chain.mine(1).await?;
        }
    }

    /// Requests emitted so far.
    pub fn emitted(&self) -> usize {
        self.emitted.load(Ordering::Relaxed)
    }

    /// Of these, dropped for good by reorganisations.
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Emits `rate` requests a second until `over`. Tells how many are missing of that rate.
    pub async fn run(&self, rate: f64, over: CancellationToken) -> Result<usize> {
        let mut turn = interval(PORTION_EVERY);
        turn.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let begun = Instant::now();
        loop {
            let due = whole(rate * begun.elapsed().as_secs_f64());
            if over.is_cancelled() {
                return Ok(due.saturating_sub(self.emitted()));
            }
            let portion = asks(self.emitted(), due.min(self.emitted() + AT_ONCE));
            if !portion.is_empty() {
                self.deployment.upload(&portion).await?;
                self.emit(&portion).await?;
                self.emitted.fetch_add(portion.len(), Ordering::Relaxed);
            }
            turn.tick().await;
        }
    }

    async fn emit(&self, asks: &[Ask]) -> Result<()> {
        let _alone = self.hands.lock().await;
        self.emit_alone(asks).await.map(drop)
    }

    /// The requests in one transaction, for whoever has the chain to himself.
    async fn emit_alone(&self, asks: &[Ask]) -> Result<B256> {
        let coprocessors: Vec<_> = self.deployment.stores.iter().map(|s| s.tx_sender).collect();
        let as_request = |ask: &Ask| Decryption::Request {
            user: ask.kind == Kind::User,
            materials: ask.materials(&coprocessors),
            userAddress: ask.user,
            publicKey: ask.public_key.clone(),
            extraData: ask.extra_data.clone(),
        };
        let requests = asks.iter().map(as_request).collect();
        let data = Bytes::from(Decryption::requestCall { requests }.abi_encode());
        let chain = &self.deployment.chain;
        let transaction =
            json!({"from": chain.admin(), "to": self.deployment.decryption, "data": data});
        let hash: B256 = chain.rpc("eth_sendTransaction", json!([transaction])).await?;
        let receipt = chain.receipt(hash).await?;
        if receipt.succeeded() { Ok(hash) } else { Err(Error::Failed(hash)) }
    }

    /// Has `depth` blocks pass with requests in the first, and replaces them by others. Tells how
    /// many requests and answers stood in them.
    ///
    /// The node goes back to a copy of its state that was made before: without old states it can do
    /// nothing else. Its pool knows nothing of what was mined and dropped.
    pub async fn reorganise(&self, depth: u64, keep: Keep) -> Result<(usize, usize)> {
        let chain = &self.deployment.chain;
        let asks = asks(self.emitted(), self.emitted() + DROPPED);
        self.deployment.upload(&asks).await?;
        let _alone = self.hands.lock().await;
        let (before, copy) = {
            let _no_block = self.miner.lock().await;
            let before = chain.block_number().await?;
            (before, chain.rpc::<U256>("evm_snapshot", json!([])).await?)
        };
        let hash = self.emit_alone(&asks).await?;
        self.emitted.fetch_add(asks.len(), Ordering::Relaxed);
        let head = until("blocks", MINED_WITHIN, Duration::from_millis(5), async || {
            let number = chain.block_number().await?;
            Ok((number >= before + depth).then_some(number))
        })
        .await?;
        let _no_block = self.miner.lock().await;
        let (mut requests, mut answers) = (0, 0);
        for number in before + 1..=head {
            for receipt in chain.block_receipts(number).await? {
                let own = receipt.from == chain.admin();
                let events = self.events(&receipt);
                if own { requests += events } else { answers += events.min(1) }
            }
        }
        let again = chain.transaction_again(hash).await?;
        if !chain.rpc::<bool>("evm_revert", json!([copy])).await? {
            return Err(Error::other("the chain's node could not go back"));
        }
        // The new chain is longer than the old one, as a node would have it.
        chain.mine(1).await?;
        match keep {
            Keep::RequestsComeBack => {
                let same: B256 = chain.rpc("eth_sendTransaction", json!([again])).await?;
                chain.mine(depth).await?;
                if same != hash || !chain.receipt(hash).await?.succeeded() {
                    return Err(Error::other("other requests came back"));
                }
            }
            Keep::RequestsAreGone => {
                chain.mine(depth).await?;
                self.dropped.fetch_add(requests, Ordering::Relaxed);
            }
        }
        Ok((requests, answers))
    }

    fn events(&self, receipt: &Receipt) -> usize {
        receipt.logs.iter().filter(|log| log.address == self.deployment.decryption).count()
    }
}

/// Public and user decryptions in turn, from the `emitted`th on, until there are `due`.
fn asks(emitted: usize, due: usize) -> Vec<Ask> {
    let mut asks = Vec::new();
    for number in emitted..due {
        let types = [fhe::COMMON[number / 2 % fhe::COMMON.len()]];
        let mut ask =
            if number.is_multiple_of(2) { Ask::public(&types) } else { Ask::user(&types) };
        if ask.kind == Kind::User {
            ask.public_key = world::random::<KEY_BYTES>().into();
        }
        asks.push(ask);
    }
    asks
}

/// A number of requests.
pub fn whole(number: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "requests of some hours, never less than none"
    )]
    let whole = number as usize;
    whole
}
