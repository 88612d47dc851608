//! The lane on a real node that is run as one of Ethereum: a pool, blocks with a base fee, reorganisations.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::Decodable2718,
    primitives::{Address, B256, Bytes, U256},
};
use kms_connector::{
    chain::{
        lane::{
            ChainKind, GiveUpReason, Inclusion, Lane, LaneOptions, MempoolRules, Payload,
            Recovered, SignedTransaction, SubmissionHandle, SubmissionUpdate, TransactionId,
            TransactionLedger, lane,
        },
        provider::{ArbitrumProvider, endpoint::Endpoint},
        reader::ChainReader,
        wallet::Wallet,
    },
    dice::Dice,
    domain::{BlockRef, LedgerError, RequestKey, RequestSource},
    net::tls::TlsRoots,
    telemetry::{
        heartbeat::{Heartbeat, Heartbeats},
        metrics::Metrics,
    },
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use world::{
    Error, Result,
    anvil::{Anvil, AnvilOptions},
    http_client, until,
};

const GWEI: u128 = 1_000_000_000;
const POLL: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(15);
const CONFIRMATIONS: u64 = 6;
/// What is below the blocks of each scene, so that none reaches the genesis.
const BLOCKS_BEFORE: u64 = 10;

/// A journal in memory.
#[derive(Clone, Debug, Default)]
struct Ledger(Arc<Mutex<Vec<SignedTransaction>>>);

impl Ledger {
    fn rows(&self) -> Vec<SignedTransaction> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Maximum fee and tip of everything recorded under a nonce, oldest first.
    fn fees(&self, nonce: u64) -> Vec<(u128, u128)> {
        let own = self.rows().into_iter().filter(|row| row.nonce == nonce);
        let fees = |row: SignedTransaction| {
            let decoded = TxEnvelope::decode_2718(&mut row.raw.as_ref()).expect("the lane's own");
            (decoded.max_fee_per_gas(), decoded.max_priority_fee_per_gas().unwrap_or(0))
        };
        own.map(fees).collect()
    }
}

impl TransactionLedger for Ledger {
    async fn record_signed(&self, signed: Vec<SignedTransaction>) -> Result<(), LedgerError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(signed);
        Ok(())
    }
    async fn record_mined(&self, _: TransactionId, _: BlockRef) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn record_given_up(
        &self,
        _: Vec<TransactionId>,
        _: GiveUpReason,
    ) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn reopen(&self, ids: Vec<TransactionId>) -> Result<Vec<SignedTransaction>, LedgerError> {
        let nonces: Vec<u64> = ids.iter().map(|id| id.nonce).collect();
        Ok(self.rows().into_iter().filter(|row| nonces.contains(&row.nonce)).collect())
    }
}

/// A chain that makes blocks when it is told to, and a lane on it.
struct Ground {
    anvil: Anvil,
    lane: Lane,
    ledger: Ledger,
    wallet: Address,
    _running: JoinSet<()>,
    _dir: tempfile::TempDir,
}

async fn ground() -> Result<Ground> {
    let dir = tempfile::tempdir().map_err(|e| Error::Io("a folder".into(), e))?;
    let options = AnvilOptions {
        block_time: Some(Duration::from_secs(1)),
        chain_id: 1337,
        durable: false,
        ..AnvilOptions::default()
    };
    let anvil = Anvil::start(dir.path(), options).await?;
    let wallet = Wallet::from_private_key(&[7; 32]).map_err(|e| Error::other(e.to_string()))?;
    anvil.fund(wallet.address()).await?;
    anvil.chain().set_block_time(0).await?;
    let roots = TlsRoots::load(None).map_err(|e| Error::other(e.to_string()))?;
    let url = anvil.ws_url().parse().map_err(|_| Error::other("a URL"))?;
    let client = http_client(Duration::from_mins(1))?;
    let endpoint = Endpoint::new(url, Arc::new(roots.client_config()), client);
    let (provider, connections) = ArbitrumProvider::new(
        anvil.chain_id(),
        vec![endpoint],
        Metrics::default(),
        &Dice::default(),
    );
    let rules = MempoolRules { confirmations: CONFIRMATIONS, unmined_blocks: 5 };
    let options = LaneOptions {
        chain_id: anvil.chain_id(),
        max_in_flight: 16,
        max_fee_per_gas: 100 * GWEI,
        kind: ChainKind::Mempool(rules),
    };
    let (ledger, address) = (Ledger::default(), wallet.address());
    let (lane, task) = lane(
        provider.clone(),
        Arc::new(wallet),
        ledger.clone(),
        options,
        Recovered::default(),
        Metrics::default(),
    );
    let mut running = JoinSet::new();
    running.spawn(connections.run(Heartbeats::default(), CancellationToken::new()));
    running.spawn(async move {
        let ended = task.run(Heartbeat::default(), CancellationToken::new()).await;
        assert!(ended.is_ok(), "{ended:?}");
    });
    let ground = Ground { anvil, lane, ledger, wallet: address, _running: running, _dir: dir };
    ground.mine(BLOCKS_BEFORE, GWEI).await?;
    until("a head", SOON, POLL, async || Ok(provider.heads().borrow().is_some().then_some(())))
        .await?;
    Ok(ground)
}

impl Ground {
    /// Makes blocks, the first with this base fee; later ones are cheaper, as they are empty.
    async fn mine(&self, blocks: u64, base_fee: u128) -> Result<()> {
        let fee = json!([format!("{base_fee:#x}")]);
        let _null: Value = self.anvil.chain().rpc("anvil_setNextBlockBaseFeePerGas", fee).await?;
        self.anvil.chain().mine(blocks).await
    }

    async fn submit(&self, id: u64) -> Result<SubmissionHandle> {
        let source = RequestSource { chain_id: 1337, contract: Address::ZERO };
        let request = RequestKey { source, id: U256::from(id), content: B256::ZERO };
        let (to, data) = (Address::repeat_byte(0xaa), Bytes::from(vec![1; 32]));
        let payload = Payload { request, to, data, gas_limit: 100_000 };
        self.lane.submit(payload).await.map_err(|e| Error::other(e.to_string()))
    }

    /// What the pool has under this nonce, once that is something else than `but`.
    async fn pooled(&self, nonce: u64, but: Option<B256>) -> Result<B256> {
        until("a transaction in the pool", SOON, POLL, async || {
            let pool = self.anvil.chain().unmined(self.wallet).await?;
            Ok(pool.get(&nonce).copied().filter(|hash| Some(*hash) != but))
        })
        .await
    }

    async fn included(&self, submission: &mut SubmissionHandle) -> Result<Inclusion> {
        let inclusion = async {
            loop {
                match submission.next().await {
                    Ok(SubmissionUpdate::Included(inclusion)) => return Ok(inclusion),
                    Ok(_) => {}
                    Err(error) => return Err(Error::other(error.to_string())),
                }
            }
        };
        let inclusion = timeout(SOON, inclusion).await;
        let inclusion = inclusion.map_err(|_| Error::other("it was not told"))??;
        let BlockRef { number, hash } = inclusion.block;
        let chain = self.anvil.chain();
        assert_eq!(chain.block_hash(number).await?, Some(hash), "it is on the chain");
        assert!(chain.block_number().await? >= number + CONFIRMATIONS, "and deep");
        Ok(inclusion)
    }

    async fn is_told_nothing(&self, submission: &mut SubmissionHandle) {
        let told = async {
            loop {
                if matches!(submission.next().await, Ok(SubmissionUpdate::Included(_)) | Err(_)) {
                    return;
                }
            }
        };
        assert!(timeout(Duration::from_millis(700), told).await.is_err(), "it is not deep");
    }
}

/// A base fee ten times as high, a pool that drops, a reorganisation within the confirmations: each answer is
/// mined once.
#[world::test]
async fn on_ethereum_an_answer_is_mined_once_and_told_when_it_is_deep() -> Result<()> {
    let ground = ground().await?;
    let chain = ground.anvil.chain();

    // The base fee leaps while it is in the pool.
    let mut spiked = ground.submit(0).await?;
    let cheap = ground.pooled(0, None).await?;
    ground.mine(1, 10 * GWEI).await?;
    let dear = ground.pooled(0, Some(cheap)).await?;
    let fees = ground.ledger.fees(0);
    let [(old_max, old_tip), (max, tip)] = fees[..] else {
        return Err(Error::other(format!("{fees:?}")));
    };
    assert!(max * 8 >= old_max * 9 && tip * 8 >= old_tip * 9, "{fees:?}");
    assert!(max > 10 * GWEI, "{fees:?}");
    ground.mine(1, 10 * GWEI).await?;
    let mined = chain.receipt(dear).await?;
    ground.is_told_nothing(&mut spiked).await;
    ground.mine(CONFIRMATIONS, GWEI).await?;
    assert_eq!(ground.included(&mut spiked).await?.block.hash, mined.block_hash);

    // The pool drops it.
    let mut dropped = ground.submit(1).await?;
    let hash = ground.pooled(1, None).await?;
    let _hash: Value = chain.rpc("anvil_dropTransaction", json!([hash])).await?;
    assert_eq!(ground.pooled(1, None).await?, hash, "the same bytes");
    ground.mine(1 + CONFIRMATIONS, GWEI).await?;
    assert_eq!(ground.included(&mut dropped).await?.transaction, hash);

    // Its block leaves the chain before it is deep.
    let mut reorganised = ground.submit(2).await?;
    let hash = ground.pooled(2, None).await?;
    ground.mine(3, GWEI).await?;
    assert!(chain.receipt(hash).await?.succeeded());
    chain.reorg(4).await?;
    assert_eq!(chain.nonce(ground.wallet).await?, 2, "it is gone");
    ground.mine(1, GWEI).await?;
    assert_eq!(ground.pooled(2, None).await?, hash, "the same bytes again");
    ground.is_told_nothing(&mut reorganised).await;
    ground.mine(1 + CONFIRMATIONS, GWEI).await?;
    assert_eq!(ground.included(&mut reorganised).await?.transaction, hash);

    assert_eq!(chain.nonce(ground.wallet).await?, 3);
    let recorded: Vec<u64> = ground.ledger.rows().iter().map(|row| row.nonce).collect();
    assert_eq!(recorded, [0, 0, 1, 2], "one replacement, and no other transaction");
    Ok(())
}
