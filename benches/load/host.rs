//! A host chain whose node is some way away, and what is asked of it.

use std::{
    collections::HashSet,
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::{B256, Bytes as CallData, keccak256};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use world::{
    Error, Result,
    anvil::AnvilOptions,
    contracts::Variant,
    deployment::{Node, Thresholds},
    host::{HostChain, HostOptions, config_of},
    host_contracts::ACL,
    http_client,
    request::Ask,
    rpc::Call,
};

/// From the connector to the node and back.
const AWAY: Duration = Duration::from_millis(20);
const BLOCK_TIME: Duration = Duration::from_secs(1);
/// What is granted in one transaction, and its gas.
const AT_ONCE: usize = 50;
const GRANT_GAS: u64 = 4_000_000;
/// Blocks after which a grant is final.
const FINAL_AFTER: u64 = 3;
/// `getVersion()`.
const VERSION: &str = "0d8e6e2c";

/// The chain, and the way to its node. Dropping it ends both.
pub struct FarHost {
    chain: HostChain,
    way: Way,
}

impl FarHost {
    pub async fn start(
        dir: &Path,
        variant: Variant,
        nodes: &[Node],
        thresholds: Thresholds,
    ) -> Result<Self> {
        let options = HostOptions::of(variant).block_time(Some(BLOCK_TIME));
        let anvil = AnvilOptions { durable: false, ..options.anvil };
        let options = HostOptions { anvil, ..options };
        let chain = HostChain::start(dir, options, nodes, thresholds).await?;
        let way = Way::start(chain.anvil.http_url()).await?;
        Ok(Self { chain, way })
    }

    /// What a configuration says of it, after all other keys.
    pub fn config(&self) -> String {
        config_of(&[(self.way.url.as_str(), &self.chain.host)])
    }

    /// Gives these what they need, and makes it final.
    pub async fn grant(&self, asks: &[Ask]) -> Result<()> {
        let host = &self.chain.host;
        let setters: Vec<CallData> =
            asks.iter().flat_map(|ask| host.grants(ask, true)).map(|call| call.data).collect();
        let all = setters.chunks(AT_ONCE).map(|setters| {
            Call::new(host.acl, &ACL::setAllCall { setters: setters.to_vec() }).gas(GRANT_GAS)
        });
        host.send(all.collect()).await?;
        host.chain.mine(FINAL_AFTER).await
    }

    /// What was asked of it so far.
    pub fn asked(&self) -> Asked {
        self.way.shared.seen().asked
    }
}

/// Messages to the node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Batches with the questions of a check that nobody had asked before.
    pub first: u64,
    /// Batches with questions that were asked before: a repeated check.
    pub again: u64,
    /// Questions of checks that came alone.
    pub alone: u64,
    /// Heads, and looks at the contract.
    pub other: u64,
}

impl Asked {
    /// Since then.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            first: self.first - before.first,
            again: self.again - before.again,
            alone: self.alone - before.alone,
            other: self.other - before.other,
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    asked: Asked,
    /// Hashes of the questions of each check.
    checks: HashSet<B256>,
}

impl Seen {
    fn count(&mut self, message: &[u8]) {
        let message: Value = serde_json::from_slice(message).unwrap_or_default();
        let calls = message.as_array().map_or(std::slice::from_ref(&message), Vec::as_slice);
        let questions: Vec<&str> = calls.iter().filter_map(question).collect();
        let counter = if questions.is_empty() {
            &mut self.asked.other
        } else if !message.is_array() {
            &mut self.asked.alone
        } else if self.checks.insert(keccak256(questions.concat())) {
            &mut self.asked.first
        } else {
            &mut self.asked.again
        };
        *counter += 1;
    }
}

/// The data of a call that asks for a grant. The same is asked at the finalized block besides.
fn question(call: &Value) -> Option<&str> {
    let at = &call["params"][1];
    let data = ["data", "input"].map(|key| call["params"][0][key].as_str());
    let data = data.into_iter().flatten().next()?;
    let is_version = data.trim_start_matches("0x").starts_with(VERSION);
    (call["method"] == "eth_call" && at != "finalized" && !is_version).then_some(data)
}

/// HTTP that takes its time, to the node at `upstream`.
struct Way {
    url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    client: reqwest::Client,
    upstream: String,
    seen: Mutex<Seen>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answered = async {
            let message =
                request.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
            self.seen().count(&message);
            sleep(AWAY / 2).await;
            let post = self.client.post(&self.upstream).header("content-type", "application/json");
            let answer = post.body(message).send().await.map_err(|e| e.to_string())?;
            let answer = answer.bytes().await.map_err(|e| e.to_string())?;
            sleep(AWAY / 2).await;
            Ok::<_, String>(answer)
        };
        match answered.await {
            Ok(answer) => {
                let mut response = Response::new(Full::new(answer));
                let json = hyper::header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
                response
            }
            Err(why) => {
                let mut response = Response::new(Full::new(why.into()));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            }
        }
    }
}

impl Way {
    async fn start(upstream: String) -> Result<Self> {
        let failed = |e| Error::Io("the way to the host chain".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let client = http_client(Duration::from_mins(1))?;
        let shared = Arc::new(Shared { client, upstream, seen: Mutex::default() });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { url: format!("http://127.0.0.1:{port}"), shared, _serving: serving })
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                // Small answers must not wait for each other.
                let _slower = stream.set_nodelay(true);
                let shared = Arc::clone(&shared);
                let carry = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(shared.carry(request).await) }
                });
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    // The client may leave at any moment.
                    let _left = http.serve_connection(TokioIo::new(stream), carry).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
