//! One instance: what it reads once at its start, and the walk of a request, one task each.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, TxEnvelope},
    eips::Encodable2718 as _,
    primitives::{TxKind, U64, U128},
};
use futures_util::future::try_join_all;
use kms_connector::{
    chain::wallet::Wallet,
    config::{Config, StartingBlock, Wallet as WalletConfig},
    contracts::abi,
    domain::{
        Address, B256, Bytes, Ciphertext, CiphertextFormat, Event, Material, Request, RequestSource,
    },
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
};

use crate::{
    Counts, Error, Result,
    kms_core::KmsCore,
    node::{self, Log, Node},
};

/// Requests whose ciphertexts are in hand at the same time: a bound on memory, and enough to keep
/// both threads busy.
const FETCHING_AT_ONCE: usize = 16;
/// Of every transaction, unless the file says otherwise.
const GAS_LIMIT: u64 = 1_000_000;
/// How much dearer the chain may become before it takes nothing any more.
const BASE_FEE_ROOM: u128 = 10;

/// What the walks of one instance share.
struct Instance {
    node: Node,
    http: reqwest::Client,
    core: KmsCore,
    wallet: Wallet,
    chain_id: u64,
    decryption: Address,
    gateway_config: Address,
    /// By coprocessor; asked for once.
    buckets: Mutex<HashMap<Address, Arc<str>>>,
    fetching: Semaphore,
    /// The next one. Held while signing, so that transactions go out in the order of their nonces.
    nonce: Mutex<u64>,
    gas_limit: u64,
    fees: Fees,
    counts: Arc<Counts>,
}

/// Wei per gas.
struct Fees {
    max: u128,
    tip: u128,
}

/// What there is to do at the start.
struct Backlog {
    events: Vec<Event>,
    /// The last block that it holds; `None`: nothing was read.
    up_to: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    number: U64,
    base_fee_per_gas: Option<U128>,
}

/// Answers requests for as long as the connection to the node lasts.
pub async fn run(path: PathBuf, config: Config, counts: Arc<Counts>) -> Result<Infallible> {
    let (node, mut logs, socket) = node::connect(config.gateway_url.expose()).await?;
    let mut socket = std::pin::pin!(socket.run());
    let (instance, backlog) = tokio::select! {
        ended = &mut socket => return ended,
        started = Instance::start(node, &config, counts) => started?,
    };
    println!("responder: {} is ready, {} requests found", path.display(), backlog.events.len());
    let instance = Arc::new(instance);
    let mut walks = JoinSet::new();
    let walk = |event| {
        let instance = Arc::clone(&instance);
        async move { instance.walk(event).await }
    };
    for event in backlog.events {
        walks.spawn(walk(event));
    }
    loop {
        tokio::select! {
            ended = &mut socket => return ended,
            Some(event) = logs.recv() => {
                if backlog.up_to.is_none_or(|last| event.block.number > last) {
                    walks.spawn(walk(event));
                }
            }
            Some(ended) = walks.join_next() => if let Err(error) = ended {
                instance.failed(&error.into());
            },
        }
    }
}

impl Instance {
    /// Subscribes first and reads the backlog then, so that nothing falls between the two.
    async fn start(node: Node, config: &Config, counts: Arc<Counts>) -> Result<(Self, Backlog)> {
        let Some(WalletConfig::PrivateKey(key)) = &config.wallet else {
            return Err("the responder signs with a private key only".into());
        };
        let wallet = Wallet::from_private_key(key.expose())?;
        let (chain_id, decryption) = (config.chain_id, config.decryption_address);
        let topics: Vec<B256> = abi::request_topics()
            .into_iter()
            .filter(|topic| abi::kind_of_topic(*topic).is_some())
            .collect();
        let filter = json!({"address": decryption, "topics": [topics]});
        let _subscription: String = node.call("eth_subscribe", &("logs", &filter)).await?;
        let head: Block = node.call("eth_getBlockByNumber", &("latest", false)).await?;
        let tip: U128 = node.call("eth_maxPriorityFeePerGas", &json!([])).await?;
        let nonce: U64 =
            node.call("eth_getTransactionCount", &(wallet.address(), "latest")).await?;
        let backlog = match config.starting_block {
            StartingBlock::Latest => Backlog { events: Vec::new(), up_to: None },
            StartingBlock::Number(from) => {
                let filter = json!({
                    "address": decryption, "topics": [topics],
                    "fromBlock": U64::from(from), "toBlock": head.number,
                });
                let logs: Vec<Log> = node.call("eth_getLogs", &(filter,)).await?;
                let events = logs.into_iter().map(Event::from).collect();
                Backlog { events, up_to: Some(head.number.to()) }
            }
        };
        let base = head.base_fee_per_gas.map_or(0, |fee| fee.to::<u128>());
        let tip = tip.to::<u128>();
        let instance = Self {
            http: http_client()?,
            core: KmsCore::new(config.kms_core_endpoint.expose(), chain_id, decryption)?,
            node,
            wallet,
            chain_id,
            decryption,
            gateway_config: config.gateway_config_address,
            buckets: Mutex::default(),
            fetching: Semaphore::new(FETCHING_AT_ONCE),
            nonce: Mutex::new(nonce.to()),
            gas_limit: config.gas_limit.unwrap_or(GAS_LIMIT),
            fees: Fees { max: base.saturating_mul(BASE_FEE_ROOM).saturating_add(tip), tip },
            counts,
        };
        Ok((instance, backlog))
    }

    async fn walk(&self, event: Event) {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        match self.respond(&event).await {
            Ok(()) => {
                self.counts.sent.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &Error) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        eprintln!("responder: {error}");
    }

    /// All four rooms.
    async fn respond(&self, event: &Event) -> Result<()> {
        let source = RequestSource { chain_id: self.chain_id, contract: self.decryption };
        let request = abi::decode(source, event)?;
        self.ask(&request).await?;
        let answer = self.core.answer(&request).await?;
        let data = abi::response_call(&request, &answer);
        self.send(data).await
    }

    /// From the buckets to the Core; the bytes are gone when this returns.
    async fn ask(&self, request: &Request) -> Result<()> {
        let _turn = self.fetching.acquire().await?;
        let materials = request.materials().ok_or("the event names no ciphertexts")?;
        let fetching = materials.iter().map(|material| self.fetch(material));
        let ciphertexts = try_join_all(fetching).await?;
        self.core.ask(request, ciphertexts).await
    }

    async fn fetch(&self, material: &Material) -> Result<Ciphertext> {
        let coprocessor = material.coprocessors.first().ok_or("nobody has the ciphertext")?;
        let bucket = self.bucket(*coprocessor).await?;
        let url = format!("{bucket}/{:x}", material.digest);
        let response =
            self.http.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let response = response.map_err(reqwest::Error::without_url)?;
        let format = response.headers().get("x-amz-meta-ct-format");
        let compressed = format.is_some_and(|format| format.as_bytes().starts_with(b"compressed_"));
        let body = response.bytes().await.map_err(reqwest::Error::without_url)?;
        let format = if compressed {
            CiphertextFormat::BigCompressed
        } else {
            CiphertextFormat::BigExpanded
        };
        Ok(Ciphertext { handle: material.handle, format, body: body.into() })
    }

    async fn bucket(&self, coprocessor: Address) -> Result<Arc<str>> {
        let mut buckets = self.buckets.lock().await;
        if let Some(known) = buckets.get(&coprocessor) {
            return Ok(Arc::clone(known));
        }
        let view = abi::coprocessor(coprocessor);
        let call = json!({"to": self.gateway_config, "data": view.calldata()});
        let returned: Bytes = self.node.call("eth_call", &(call, "latest")).await?;
        let registered = view.decode(&returned)?.ok_or("the coprocessor is not registered")?;
        let url: Arc<str> = registered.url.trim_end_matches('/').into();
        buckets.insert(coprocessor, Arc::clone(&url));
        Ok(url)
    }

    /// Signs under the next nonce and hands the bytes to the node; the receipt is not waited for.
    async fn send(&self, data: Bytes) -> Result<()> {
        let mut nonce = self.nonce.lock().await;
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce: *nonce,
            gas_limit: self.gas_limit,
            max_fee_per_gas: self.fees.max,
            max_priority_fee_per_gas: self.fees.tip,
            to: TxKind::Call(self.decryption),
            input: data,
            ..TxEip1559::default()
        };
        let signature = self.wallet.sign_hash(transaction.signature_hash()).await?;
        let signed = TxEnvelope::from(transaction.into_signed(signature));
        let raw = Bytes::from(signed.encoded_2718());
        let pending = self.node.hand_over("eth_sendRawTransaction", &(raw,)).await?;
        *nonce += 1;
        drop(nonce);
        let _hash: B256 = pending.result().await?;
        Ok(())
    }
}

fn http_client() -> Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .tls_certs_only(std::iter::empty())
        .build();
    Ok(client?)
}
