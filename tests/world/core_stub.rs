//! A KMS Core for tests: the real service, real signatures, the status codes of a chosen version.
//!
//! It shares the message definitions with the connector and nothing else: the EIP-712 digest, both
//! result encodings and the share's bytes are computed here by other code, from the protocol's
//! constants, so that a mistake of the connector cannot confirm itself.
//!
//! Plaintexts are made from the ciphertext's bytes ([`plaintext_of`]), so that a test can tell from
//! the decrypted result whether the right bytes arrived. Like the real Core it keeps everything in
//! memory but finished keys and CRSs, contexts and epochs: [`CoreStub::restart`] forgets the rest.

mod connections;
mod decryptions;
mod keys;
mod lifecycle;
mod results;
mod service;
mod signature;
mod state;
mod version;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::{
    hex,
    primitives::{Address, U256, keccak256},
    signers::local::PrivateKeySigner,
};
use futures_util::StreamExt as _;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use super::{
    PATIENCE,
    proto::{
        grpc::health::v1 as health_v1, kms::v1,
        kms_service::v1::core_service_endpoint_server::CoreServiceEndpointServer,
    },
};
use connections::Cuttable;
use lifecycle::Ceremonies;
use service::Service;
use state::{Shared, State};

pub use decryptions::Ask;
pub use keys::{KeyAnswer, KeyAsk, KeyOperation};
pub use lifecycle::{Lifecycle, LifecycleAsk, request_id};
pub use results::{
    decrypted_result, plaintext_of, plaintext_of_digest, signcrypted, user_decrypted_share,
};
pub use version::{CoreVersion, DEFAULT_CONTEXT};

/// How the stub is set up. Change fields after [`CoreOptions::new`].
#[derive(Clone, Debug)]
pub struct CoreOptions {
    pub version: CoreVersion,
    pub signer: PrivateKeySigner,
    /// The EIP-712 domain every request must come with.
    pub chain_id: u64,
    pub decryption: Address,
    /// Chain and contract in the domain of requests for keys. `None`: it refuses them.
    pub key_generation: Option<(u64, Address)>,
    /// The same of requests for epochs.
    pub protocol_config: Option<(u64, Address)>,
    /// `None`: any free one.
    pub port: Option<u16>,
    /// The keys it has. `None`: every key.
    pub keys: Option<Vec<U256>>,
    /// The contexts it has from the start (64 hex digits). `None`: every context.
    pub contexts: Option<Vec<String>>,
    /// Requests it can remember.
    pub capacity: usize,
    /// `grpc_max_message_size`.
    pub message_limit: usize,
    /// Plaintexts are made from the keccak256 of a ciphertext, which takes as long as anything that
    /// a connector does with it. Otherwise from its first bytes.
    pub hashes: bool,
    /// Certificate chain and key in PEM: serves TLS.
    pub tls: Option<(String, String)>,
    pub behaviour: Behaviour,
}

impl CoreOptions {
    pub fn new(version: CoreVersion, chain_id: u64, decryption: Address) -> Self {
        Self {
            version,
            signer: PrivateKeySigner::random(),
            chain_id,
            decryption,
            key_generation: None,
            protocol_config: None,
            port: None,
            keys: None,
            contexts: None,
            capacity: 10_000,
            message_limit: 100 * 1024 * 1024,
            hashes: true,
            tls: None,
            behaviour: Behaviour::default(),
        }
    }
}

/// What it does with requests; can be changed while it runs ([`CoreStub::change`]).
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a behaviour of its own")]
pub struct Behaviour {
    /// From an accepted ask to its result.
    pub latency: Duration,
    /// How long a poll is held before `Unavailable`. Zero: says so at once.
    pub hold: Duration,
    /// The same of a preprocessing, a key, a CRS.
    pub key_latency: Duration,
    /// How long a poll for one of those is held. `None`: as long as its version does.
    pub key_hold: Option<Duration>,
    /// Keys and CRSs are not begun: something else runs that excludes them.
    pub lifecycle_runs: bool,
    /// Results never come.
    pub never_finish: bool,
    /// That many asks are answered with `ResourceExhausted`.
    pub busy: u32,
    /// It takes so many asks in a second, and answers the others with `ResourceExhausted`.
    pub per_second: Option<u32>,
    /// The requests it can never answer.
    pub hopeless: HashMap<U256, Hopeless>,
    /// Every ask is answered with this and not registered.
    pub ask_status: Option<(Code, &'static str)>,
    /// Every poll is answered with this.
    pub poll_status: Option<(Code, &'static str)>,
    /// Signs the result encoding of the other versions.
    pub other_encoding: bool,
    /// Bytes added to each response, in a field nobody signs.
    pub padding: usize,
    pub serving: bool,
    pub fault: Option<Fault>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(50),
            hold: Duration::from_mins(1),
            key_latency: Duration::from_millis(200),
            key_hold: None,
            lifecycle_runs: false,
            never_finish: false,
            busy: 0,
            per_second: None,
            hopeless: HashMap::new(),
            ask_status: None,
            poll_status: None,
            other_encoding: false,
            padding: 0,
            serving: true,
            fault: None,
        }
    }
}

/// What becomes of a request that it can never answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hopeless {
    /// Asking for it breaks the call, as a crash of the part that serves it does.
    Breaks,
    /// It stays pending.
    Pends,
    /// It fails, and says so at every poll. Asked again it is known, up to v0.13, or fails again.
    Fails,
    /// It is accepted and forgotten at once.
    Forgotten,
}

/// What is wrong with its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    NoSignature,
    ShortSignature,
    HighS,
    /// Names another request id (public, keys) or other handles (user).
    OtherRequest,
    /// One result less than handles, one digest less than signed.
    TooFew,
    /// The payload is no message; a digest is not the one that was signed.
    Garbage,
    /// No payload, no digest at all.
    Empty,
    /// Does not echo the `extraData` it signed.
    NoEcho,
    /// Its digests are of a kind that nobody knows.
    UnknownKeyType,
    /// Its digests are its own: no other stub comes to them.
    Diverges,
}

/// The running stub. Dropping it stops it.
#[derive(Debug)]
pub struct CoreStub {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// Cuts every connection, as `kill -9` does.
    cut: CancellationToken,
    tasks: JoinSet<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

impl CoreStub {
    pub async fn start(options: CoreOptions) -> Self {
        let port = options.port.unwrap_or(0);
        let state = State {
            signer: options.signer.clone(),
            behaviour: options.behaviour.clone(),
            entries: HashMap::new(),
            deleted: HashSet::new(),
            asks: Vec::new(),
            keys: HashMap::new(),
            key_asks: Vec::new(),
            ceremonies: Ceremonies::default(),
            polls: HashMap::new(),
            second: (Instant::now(), 0),
        };
        let shared = Arc::new(Shared { options, state: Mutex::new(state), changed: Notify::new() });
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stub = Self { shared, address, server: None };
        stub.serve().await;
        stub
    }

    /// `http://127.0.0.1:port`, or `https` with TLS.
    pub fn endpoint(&self) -> String {
        let scheme = if self.shared.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn signer_address(&self) -> Address {
        self.shared.state().signer.address()
    }

    pub fn version(&self) -> CoreVersion {
        self.shared.options.version
    }

    /// Changes what it does, also with the polls it is holding.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.state().behaviour);
        self.shared.changed.notify_waiters();
    }

    /// From now on signs with another key.
    pub fn set_signer(&self, signer: PrivateKeySigner) {
        self.shared.state().signer = signer;
    }

    /// Deletes this request, as a Core does to make room. A newer one remembers the id.
    pub fn delete(&self, id: U256) {
        let id = text_of(id);
        let mut state = self.shared.state();
        state.entries.remove(&id);
        state.deleted.insert(id);
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Loses its memory, but neither its connections nor the keys and CRSs that it has made.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.entries.clear();
        state.deleted.clear();
        state.forget_unfinished_keys();
        let behaviour = state.behaviour.clone();
        state.ceremonies.restart(&behaviour);
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Goes away: connections are cut, the port is closed, the memory is lost. What it recorded
    /// stays.
    pub async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.cut.cancel();
            server.tasks.shutdown().await;
        }
        self.forget();
    }

    /// Comes back on the same port.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.serve().await;
    }

    /// Every ask so far, in order of arrival.
    pub fn asks(&self) -> Vec<Ask> {
        self.shared.state().asks.clone()
    }

    /// How often it accepted this id.
    pub fn accepted(&self, id: U256) -> usize {
        let id = text_of(id);
        self.shared.state().asks.iter().filter(|ask| ask.id == id && ask.code == Code::Ok).count()
    }

    /// How often it was polled for this id.
    pub fn polls(&self, id: U256) -> usize {
        self.shared.state().polls.get(&text_of(id)).copied().unwrap_or(0)
    }

    /// How often it was polled at all.
    pub fn polls_of_all(&self) -> usize {
        self.shared.state().polls.values().sum()
    }

    /// When it took each request, and when it first told its answer, by id.
    pub fn times(&self) -> HashMap<U256, (Instant, Option<Instant>)> {
        let state = self.shared.state();
        let id = |text: &str| U256::from_str_radix(text, 16).unwrap_or_default();
        state.entries.iter().map(|(text, one)| (id(text), (one.since, one.told))).collect()
    }

    async fn serve(&mut self) {
        let listener = listen_on(self.address).await;
        self.address = listener.local_addr().expect("a bound socket has an address");
        let cut = CancellationToken::new();
        let cut_each = cut.clone();
        let incoming = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .map(move |stream| stream.map(|stream| Cuttable::new(stream, cut_each.clone())));
        let service = Service(Arc::clone(&self.shared));
        let limit = self.shared.options.message_limit;
        let core = CoreServiceEndpointServer::new(service.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        let health = health_v1::health_server::HealthServer::new(service);
        // As few streams as a common proxy in front of a Core allows.
        let mut server =
            Server::builder().http2_adaptive_window(Some(true)).max_concurrent_streams(128);
        if let Some((certificate, key)) = &self.shared.options.tls {
            let identity = Identity::from_pem(certificate, key);
            server = server
                .tls_config(ServerTlsConfig::new().identity(identity))
                .expect("a certificate and its key");
        }
        let router = server.add_service(core).add_service(health);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            router.serve_with_incoming(incoming).await.expect("serving ends by being stopped");
        });
        self.server = Some(Running { cut, tasks });
    }
}

/// Listens, on the old port after a restart. A client that tries to connect in this very moment may have been
/// given that port for its own end: it will let go of it.
async fn listen_on(address: SocketAddr) -> TcpListener {
    let begin = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if begin.elapsed() > PATIENCE => panic!("{address}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn another(id: &v1::RequestId) -> v1::RequestId {
    v1::RequestId { request_id: hex::encode(keccak256(&id.request_id)) }
}

fn text_of(id: U256) -> String {
    format!("{id:064x}")
}

fn check_id(id: &str) -> Result<(), String> {
    let digits = id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits && id.bytes().any(|b| b != b'0') { Ok(()) } else { Err(format!("bad id {id:?}")) }
}
