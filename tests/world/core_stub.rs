//! A KMS Core for tests: the real service, real signatures, the status codes of a chosen version.
//!
//! It shares the message definitions with the connector and nothing else: the EIP-712 digest, both
//! result encodings and the share's bytes are computed here by other code, from the protocol's
//! constants, so that a mistake of the connector cannot confirm itself.
//!
//! Plaintexts are made from the ciphertext's bytes ([`plaintext_of`]), so that a test can tell from
//! the decrypted result whether the right bytes arrived. Like the real Core it keeps everything in
//! memory: [`CoreStub::restart`] forgets it all.

mod version;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use alloy::hex;
use alloy::primitives::{Address, B256, U256, b256, keccak256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

use super::proto::{
    grpc::health::v1 as health_v1,
    kms::v1,
    kms_service::v1::core_service_endpoint_server::{
        CoreServiceEndpoint, CoreServiceEndpointServer,
    },
};

use version::UnknownKey;
pub use version::{CoreVersion, DEFAULT_CONTEXT};

/// How the stub is set up. Change fields after [`CoreOptions::new`].
#[derive(Clone, Debug)]
pub struct CoreOptions {
    pub version: CoreVersion,
    pub signer: PrivateKeySigner,
    /// The EIP-712 domain every request must come with.
    pub chain_id: u64,
    pub decryption: Address,
    /// `None`: any free one.
    pub port: Option<u16>,
    /// The keys it has. `None`: every key.
    pub keys: Option<Vec<U256>>,
    /// The contexts it has (64 hex digits). `None`: every context.
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
pub struct Behaviour {
    /// From an accepted ask to its result.
    pub latency: Duration,
    /// How long a poll is held before `Unavailable`. Zero: says so at once.
    pub hold: Duration,
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
    /// Names another request id (public) or other handles (user).
    OtherRequest,
    /// One result less than handles.
    TooFew,
    /// The payload is no message.
    Garbage,
    /// No payload at all.
    Empty,
    /// Does not echo the `extraData` it signed.
    NoEcho,
}

/// One ask as it came in, whatever became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub id: String,
    pub key_id: String,
    pub handles: Vec<B256>,
    /// As on the wire: 2 compressed, 3 expanded.
    pub formats: Vec<i32>,
    pub fhe_types: Vec<i32>,
    /// keccak256 of each ciphertext's bytes.
    pub digests: Vec<B256>,
    pub extra_data: Bytes,
    pub context_id: Option<String>,
    pub epoch_id: Option<String>,
    /// Of a user decryption: the client's address and key.
    pub client: Option<(String, Bytes)>,
    /// The `traceparent` of the call.
    pub traceparent: Option<String>,
    /// `Code::Ok`: accepted.
    pub code: Code,
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

    /// Loses its memory, but not its connections.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.entries.clear();
        state.deleted.clear();
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
        let listener = TcpListener::bind(self.address).await.expect("a free port");
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

#[derive(Debug)]
struct Shared {
    options: CoreOptions,
    state: Mutex<State>,
    /// Wakes held polls after a change.
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}

#[derive(Debug)]
struct State {
    signer: PrivateKeySigner,
    behaviour: Behaviour,
    entries: HashMap<String, Entry>,
    deleted: HashSet<String>,
    asks: Vec<Ask>,
    polls: HashMap<String, usize>,
    /// The second that counts for [`Behaviour::per_second`], and the asks in it.
    second: (Instant, u32),
}

impl State {
    fn hopeless(&self, id: &str) -> Option<Hopeless> {
        let id = U256::from_str_radix(id, 16).ok()?;
        self.behaviour.hopeless.get(&id).copied()
    }

    /// Whether the rate is exhausted by this ask.
    fn exhausted(&mut self) -> bool {
        let Some(most) = self.behaviour.per_second else { return false };
        if self.second.0.elapsed() >= Duration::from_secs(1) {
            self.second = (Instant::now(), 0);
        }
        self.second.1 += 1;
        self.second.1 > most
    }
}

/// What it remembers of a request.
#[derive(Clone, Debug)]
struct Entry {
    since: Instant,
    /// When its answer was first told.
    told: Option<Instant>,
    /// Accepted although the key is unknown: the old Cores' way.
    stuck: bool,
    handles: Vec<B256>,
    values: Vec<(u8, Vec<u8>)>,
    extra_data: Bytes,
    enc_key: Option<Bytes>,
}

/// The parts both kinds of ask have in common.
struct Question {
    id: Option<v1::RequestId>,
    key_id: Option<v1::RequestId>,
    domain: Option<v1::Eip712DomainMsg>,
    ciphertexts: Vec<v1::TypedCiphertext>,
    extra_data: Bytes,
    context_id: Option<v1::RequestId>,
    epoch_id: Option<v1::RequestId>,
    client: Option<(String, Bytes)>,
    traceparent: Option<String>,
}

/// The trace that a call is part of.
fn traceparent<T>(request: &Request<T>) -> Option<String> {
    request.metadata().get("traceparent")?.to_str().ok().map(str::to_owned)
}

impl Shared {
    fn ask(&self, question: &Question) -> Result<Response<v1::Empty>, Status> {
        let digest = |one: &v1::TypedCiphertext| match one.ciphertext.first_chunk() {
            Some(first) if !self.options.hashes => B256::new(*first),
            Some(_) | None => keccak256(&one.ciphertext),
        };
        let digests = question.ciphertexts.iter().map(digest).collect();
        let text = |id: &Option<v1::RequestId>| id.as_ref().map(|id| id.request_id.clone());
        let mut ask = Ask {
            id: text(&question.id).unwrap_or_default(),
            key_id: text(&question.key_id).unwrap_or_default(),
            handles: Vec::new(),
            formats: question.ciphertexts.iter().map(|one| one.ciphertext_format).collect(),
            fhe_types: question.ciphertexts.iter().map(|one| one.fhe_type).collect(),
            digests,
            extra_data: question.extra_data.clone(),
            context_id: text(&question.context_id),
            epoch_id: text(&question.epoch_id),
            client: question.client.clone(),
            traceparent: question.traceparent.clone(),
            code: Code::Ok,
        };
        let outcome = self.register(question, &mut ask);
        if let Err(status) = &outcome {
            ask.code = status.code();
        }
        self.state().asks.push(ask);
        outcome.map(|()| Response::new(v1::Empty {}))
    }

    fn register(&self, question: &Question, ask: &mut Ask) -> Result<(), Status> {
        let version = self.options.version;
        let values = self.examine(question, ask);
        let mut state = self.state();
        if let Some((code, text)) = state.behaviour.ask_status {
            return Err(Status::new(code, text));
        }
        if state.behaviour.busy > 0 {
            state.behaviour.busy -= 1;
            return Err(Status::resource_exhausted("rate limit exceeded"));
        }
        if state.exhausted() {
            return Err(Status::resource_exhausted("rate limit exceeded"));
        }
        if state.hopeless(&ask.id) == Some(Hopeless::Breaks) {
            return Err(Status::unknown("broken"));
        }
        let values = values.map_err(|why| self.refusal(Code::InvalidArgument, &ask.id, &why))?;
        let failed = state.hopeless(&ask.id) == Some(Hopeless::Fails);
        let is_deleted = version.remembers_deleted() && state.deleted.contains(&ask.id);
        let is_known = state.entries.contains_key(&ask.id);
        if is_deleted || is_known && !(failed && version.asks_failed_again()) {
            return Err(self.refusal(Code::AlreadyExists, &ask.id, "already exists"));
        }
        if state.entries.len() >= self.options.capacity {
            return Err(Status::new(version.full_store(), "the store is full"));
        }
        let known = |list: &Option<Vec<String>>, one: &str| {
            list.as_ref().is_none_or(|list| list.iter().any(|each| each == one))
        };
        if let Some(context) = version.context(ask.context_id.as_deref())
            && !known(&self.options.contexts, &context)
        {
            return Err(self.refusal(version.unknown_context(), &ask.id, "unknown context"));
        }
        let keys = self.options.keys.as_ref();
        let keys = keys.map(|keys| keys.iter().map(|key| text_of(*key)).collect());
        let stuck = !known(&keys, &ask.key_id);
        let unknown = || self.refusal(Code::NotFound, &ask.id, "unknown key");
        let refusal = match version.unknown_key() {
            UnknownKey::Refused if stuck => return Err(unknown()),
            UnknownKey::RefusedAndPends if stuck => Some(unknown()),
            UnknownKey::Refused | UnknownKey::Pends | UnknownKey::RefusedAndPends => None,
        };
        let entry = Entry {
            since: Instant::now(),
            told: None,
            stuck,
            handles: ask.handles.clone(),
            values,
            extra_data: ask.extra_data.clone(),
            enc_key: ask.client.as_ref().map(|(_, key)| key.clone()),
        };
        if state.hopeless(&ask.id) != Some(Hopeless::Forgotten) {
            state.entries.insert(ask.id.clone(), entry);
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Everything the real Core checks about the form of a request.
    fn examine(&self, question: &Question, ask: &mut Ask) -> Result<Vec<(u8, Vec<u8>)>, String> {
        check_id(&ask.id)?;
        check_id(&ask.key_id)?;
        for id in [&ask.context_id, &ask.epoch_id].into_iter().flatten() {
            check_id(id)?;
        }
        let domain = question.domain.as_ref().ok_or("no domain")?;
        let chain_id = U256::from(self.options.chain_id).to_be_bytes::<32>();
        let contract = self.options.decryption.to_checksum(None);
        if (domain.name.as_str(), domain.version.as_str()) != ("Decryption", "1")
            || domain.chain_id != chain_id.as_slice()
            || domain.verifying_contract != contract
            || domain.salt.is_some()
        {
            return Err(format!("unexpected domain {domain:?}"));
        }
        if let Some((address, key)) = &question.client {
            Address::parse_checksummed(address, None).map_err(|_| "address without checksum")?;
            if *address == contract || key.is_empty() {
                return Err("client is the contract, or has no key".into());
            }
        }
        if question.ciphertexts.is_empty() {
            return Err("no ciphertexts".into());
        }
        let mut values = Vec::new();
        for (one, digest) in question.ciphertexts.iter().zip(&ask.digests) {
            let handle = B256::try_from(one.external_handle.as_ref())
                .map_err(|_| "a handle has 32 bytes")?;
            let fhe_type = u8::try_from(one.fhe_type).map_err(|_| "no such type")?;
            if fhe_type > 11 || handle[30] != fhe_type {
                return Err(format!("type {fhe_type} of handle {handle}"));
            }
            if !matches!(one.ciphertext_format, 2 | 3) || one.ciphertext.is_empty() {
                return Err("no big ciphertext".into());
            }
            ask.handles.push(handle);
            values.push((fhe_type, plaintext_of_digest(fhe_type, *digest)));
        }
        Ok(values)
    }

    fn refusal(&self, code: Code, id: &str, why: &str) -> Status {
        let version = self.options.version;
        let mut text = version.text(code, id, why);
        if version.says_aborted() {
            text.truncate(128);
            return Status::aborted(text);
        }
        Status::new(code, text)
    }

    /// Waits for the result as the real Core does. The state comes along, unlocked.
    async fn result(&self, id: v1::RequestId) -> Result<(Entry, Behaviour), Status> {
        let id = id.request_id;
        *self.state().polls.entry(id.clone()).or_default() += 1;
        if let Err(why) = check_id(&id) {
            return Err(self.refusal(Code::InvalidArgument, &id, &why));
        }
        let begin = Instant::now();
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let wake = {
                let mut state = self.state();
                let behaviour = state.behaviour.clone();
                if let Some((code, text)) = behaviour.poll_status {
                    return Err(Status::new(code, text));
                }
                let hopeless = state.hopeless(&id);
                let Some(entry) = state.entries.get_mut(&id) else {
                    return Err(Status::not_found(format!("unknown request {id}")));
                };
                if hopeless == Some(Hopeless::Fails) {
                    return Err(self.refusal(Code::Internal, &id, "failed"));
                }
                let stuck = entry.stuck || hopeless == Some(Hopeless::Pends);
                let ready = entry.since + behaviour.latency;
                let ready = (!behaviour.never_finish && !stuck).then_some(ready);
                let now = Instant::now();
                if ready.is_some_and(|ready| ready <= now) {
                    entry.told.get_or_insert(now);
                    return Ok((entry.clone(), behaviour));
                }
                let patience = begin + behaviour.hold;
                if patience <= now {
                    return Err(Status::unavailable(format!("{id} is still running")));
                }
                ready.map_or(patience, |ready| ready.min(patience))
            };
            tokio::select! {
                () = sleep_until(wake) => {}
                () = changed => {}
            }
        }
    }

    /// The EIP-712 signature over the structure of this version.
    fn sign(
        &self,
        types: [B256; 2],
        members: &[B256],
        entry: &Entry,
        fault: Option<Fault>,
    ) -> Bytes {
        let with_extra_data = self.options.version.signs_extra_data();
        let mut structure = types[usize::from(with_extra_data)].to_vec();
        for member in members {
            structure.extend_from_slice(member.as_slice());
        }
        if with_extra_data {
            structure.extend_from_slice(keccak256(&entry.extra_data).as_slice());
        }
        let mut domain = DOMAIN_TYPEHASH.to_vec();
        domain.extend_from_slice(keccak256("Decryption").as_slice());
        domain.extend_from_slice(keccak256("1").as_slice());
        domain.extend_from_slice(&U256::from(self.options.chain_id).to_be_bytes::<32>());
        domain.extend_from_slice(&[0; 12]);
        domain.extend_from_slice(self.options.decryption.as_slice());
        let mut message = vec![0x19, 0x01];
        message.extend_from_slice(keccak256(domain).as_slice());
        message.extend_from_slice(keccak256(structure).as_slice());
        let signer = self.state().signer.clone();
        let signature = signer.sign_hash_sync(&keccak256(message)).expect("a local key signs");
        let mut bytes = signature.as_bytes().to_vec();
        match fault {
            Some(Fault::NoSignature) => bytes.clear(),
            Some(Fault::ShortSignature) => bytes.truncate(64),
            Some(Fault::HighS) => {
                bytes[32..64].copy_from_slice(&(ORDER - signature.s()).to_be_bytes::<32>());
                bytes[64] = if bytes[64] == 27 { 28 } else { 27 };
            }
            _ => {}
        }
        bytes.into()
    }

    fn public_response(
        &self,
        id: v1::RequestId,
        mut entry: Entry,
        behaviour: &Behaviour,
    ) -> v1::PublicDecryptionResponse {
        let version = self.options.version;
        let fault = behaviour.fault;
        let words = version.writes_words() != behaviour.other_encoding;
        let result = decrypted_result(words, &entry.values);
        let handles: Vec<u8> = entry.handles.iter().flat_map(|handle| handle.0).collect();
        let members = [keccak256(handles), keccak256(result)];
        let signature = self.sign(PUBLIC_TYPEHASHES, &members, &entry, fault);
        if fault == Some(Fault::TooFew) {
            entry.values.pop();
        }
        let plaintexts = entry
            .values
            .iter()
            .map(|(fhe_type, bytes)| v1::TypedPlaintext {
                bytes: bytes.clone().into(),
                fhe_type: i32::from(*fhe_type),
            })
            .collect();
        let id = if fault == Some(Fault::OtherRequest) { another(&id) } else { id };
        let verification_key = Bytes::from_static(&[4; 33]);
        let early = version == CoreVersion::V0_11_0_21;
        let payload = match fault {
            Some(Fault::Garbage) => vec![0xFF; 40],
            _ if early => v1::EarlyPublicDecryptionResponsePayload {
                verification_key,
                digest: Bytes::from_static(&[5; 32]),
                plaintexts,
                external_signature: (!signature.is_empty()).then(|| signature.clone()),
                // Cores up to -22 do not name the request; those that do are -24 and -25.
                request_id: (fault == Some(Fault::OtherRequest)).then_some(id),
            }
            .encode_to_vec(),
            _ => v1::PublicDecryptionResponsePayload {
                verification_key,
                plaintexts,
                request_id: Some(id),
            }
            .encode_to_vec(),
        };
        let payload = (fault != Some(Fault::Empty)).then(|| Bytes::from(payload));
        let padding = vec![7; 64 + behaviour.padding].into();
        if early {
            return v1::PublicDecryptionResponse {
                signature: padding,
                payload_or_external_signature: payload.unwrap_or_default(),
                payload: None,
                extra_data: Bytes::new(),
            };
        }
        v1::PublicDecryptionResponse {
            signature: padding,
            payload_or_external_signature: signature,
            payload,
            extra_data: echo(entry.extra_data, fault),
        }
    }

    fn user_response(&self, entry: Entry, behaviour: &Behaviour) -> v1::UserDecryptionResponse {
        let fault = behaviour.fault;
        let enc_key = entry.enc_key.clone().unwrap_or_default();
        let mut payload = share_payload(&enc_key, &entry.handles, &entry.values);
        let handles: Vec<u8> = entry.handles.iter().flat_map(|handle| handle.0).collect();
        let members = [keccak256(&enc_key), keccak256(handles), keccak256(share_bytes(&payload))];
        let signature = self.sign(USER_TYPEHASHES, &members, &entry, fault);
        match fault {
            Some(Fault::TooFew) => drop(payload.signcrypted_ciphertexts.pop()),
            Some(Fault::OtherRequest) => {
                payload.signcrypted_ciphertexts[0].external_handle = Bytes::from_static(&[1; 32]);
            }
            Some(Fault::Garbage) => payload.signcrypted_ciphertexts.clear(),
            _ => {}
        }
        let echoes = self.options.version.signs_extra_data();
        v1::UserDecryptionResponse {
            signature: vec![7; 64 + behaviour.padding].into(),
            external_signature: signature,
            payload: (fault != Some(Fault::Empty)).then(|| payload.encode_to_vec().into()),
            extra_data: if echoes { echo(entry.extra_data, fault) } else { Bytes::new() },
        }
    }
}

fn echo(extra_data: Bytes, fault: Option<Fault>) -> Bytes {
    if fault == Some(Fault::NoEcho) { Bytes::new() } else { extra_data }
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

const DOMAIN_TYPEHASH: B256 =
    b256!("0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f");
/// Without and with `extraData`.
const PUBLIC_TYPEHASHES: [B256; 2] = [
    b256!("0x0fadf98b8136b99fb0131ba0fcbca3082d7d632509fad62cf0d18ebdf9670cc1"),
    b256!("0x89bac15e5ba205584832145601e359431e80fb9fb331ba5a22058132d525c794"),
];
const USER_TYPEHASHES: [B256; 2] = [
    b256!("0x66b7de8ddbdfcd47d72af09b73afd147c55ee65b08d2da318d957728ceb27b65"),
    b256!("0x2c4b1a55fe4090104eb889f0e48d4cf11c7cc4b95cf47117b9f0008cbcc10f5f"),
];
/// The order of secp256k1.
const ORDER: U256 = U256::from_limbs([
    0xbfd2_5e8c_d036_4141,
    0xbaae_dce6_af48_a03b,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
]);

/// What a ciphertext of this stub decrypts to: little-endian, as long as its type.
pub fn plaintext_of(fhe_type: u8, ciphertext: &[u8]) -> Vec<u8> {
    plaintext_of_digest(fhe_type, keccak256(ciphertext))
}

/// The same by the ciphertext's keccak256.
pub fn plaintext_of_digest(fhe_type: u8, digest: B256) -> Vec<u8> {
    let length = match fhe_type {
        0..=2 => 1,
        3..=6 => 1 << (fhe_type - 2),
        7 => 20,
        8..=11 => 32 << (fhe_type - 8),
        other => panic!("the stub cannot decrypt type {other}"),
    };
    let mut block = digest;
    let mut value = Vec::new();
    while value.len() < length {
        value.extend_from_slice(block.as_slice());
        block = keccak256(block);
    }
    value.truncate(length);
    match fhe_type {
        0 => value[0] &= 1,
        1 => value[0] &= 0x0F,
        _ => {}
    }
    value
}

/// The `decryptedResult` of values (FHE type, little-endian bytes): `words` from v0.12 on.
pub fn decrypted_result(words: bool, values: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let big_endian = |value: &[u8]| value.iter().rev().copied().collect::<Vec<u8>>();
    let mut members = Vec::new();
    for (fhe_type, value) in values {
        let value = big_endian(value);
        if *fhe_type >= 9 {
            assert!(!words, "no encoding for type {fhe_type} from v0.12 on");
            members.push(AbiMember::Bytes(value));
        } else {
            members.push(AbiMember::Word(U256::from_be_slice(&value)));
        }
    }
    if words {
        return abi_encode(&members);
    }
    members.insert(0, AbiMember::Word(U256::from(1)));
    members.push(AbiMember::EmptyArray);
    let encoded = abi_encode(&members);
    encoded[32..encoded.len() - 32].to_vec()
}

enum AbiMember {
    Word(U256),
    Bytes(Vec<u8>),
    EmptyArray,
}

/// The ABI encoding of a tuple.
fn abi_encode(members: &[AbiMember]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut offset = members.len() * 32;
    for member in members {
        match member {
            AbiMember::Word(value) => out.extend_from_slice(&value.to_be_bytes::<32>()),
            AbiMember::Bytes(value) => {
                out.extend_from_slice(&U256::from(offset).to_be_bytes::<32>());
                offset += 32 + value.len().next_multiple_of(32);
            }
            AbiMember::EmptyArray => {
                out.extend_from_slice(&U256::from(offset).to_be_bytes::<32>());
                offset += 32;
            }
        }
    }
    for member in members {
        match member {
            AbiMember::Word(_) => {}
            AbiMember::Bytes(value) => {
                out.extend_from_slice(&U256::from(value.len()).to_be_bytes::<32>());
                out.extend_from_slice(value);
                out.resize(out.len().next_multiple_of(32), 0);
            }
            AbiMember::EmptyArray => out.extend_from_slice(&[0; 32]),
        }
    }
    out
}

/// What the stub "signcrypts" for a user: the hash of the user's key, then the plaintext.
pub fn signcrypted(enc_key: &[u8], plaintext: &[u8]) -> Vec<u8> {
    [keccak256(enc_key).as_slice(), plaintext].concat()
}

fn share_payload(
    enc_key: &[u8],
    handles: &[B256],
    values: &[(u8, Vec<u8>)],
) -> v1::UserDecryptionResponsePayload {
    v1::UserDecryptionResponsePayload {
        verification_key: Bytes::from_static(&[4; 33]),
        digest: Bytes::copy_from_slice(keccak256(enc_key).as_slice()),
        signcrypted_ciphertexts: handles
            .iter()
            .zip(values)
            .map(|(handle, (fhe_type, value))| v1::TypedSigncryptedCiphertext {
                fhe_type: i32::from(*fhe_type),
                signcrypted_ciphertext: signcrypted(enc_key, value).into(),
                external_handle: Bytes::copy_from_slice(handle.as_slice()),
                packing_factor: 1,
            })
            .collect(),
        party_id: 3,
        degree: 1,
    }
}

/// The `userDecryptedShare` this stub signs for a request's key, handles and values.
pub fn user_decrypted_share(enc_key: &[u8], handles: &[B256], values: &[(u8, Vec<u8>)]) -> Vec<u8> {
    share_bytes(&share_payload(enc_key, handles, values))
}

fn share_bytes(payload: &v1::UserDecryptionResponsePayload) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let mut out = u64::try_from(bytes.len()).expect("fits").to_le_bytes().to_vec();
        out.extend_from_slice(bytes);
        out
    };
    let shares = &payload.signcrypted_ciphertexts;
    let mut parts = vec![
        sized(&payload.verification_key),
        sized(&payload.digest),
        u64::try_from(shares.len()).expect("fits").to_le_bytes().to_vec(),
    ];
    for share in shares {
        parts.push(share.fhe_type.to_le_bytes().to_vec());
        parts.push(sized(&share.signcrypted_ciphertext));
        parts.push(sized(&share.external_handle));
        parts.push(share.packing_factor.to_le_bytes().to_vec());
    }
    parts.push(payload.party_id.to_le_bytes().to_vec());
    parts.push(payload.degree.to_le_bytes().to_vec());
    parts.concat()
}

#[derive(Clone)]
struct Service(Arc<Shared>);

#[tonic::async_trait]
impl CoreServiceEndpoint for Service {
    async fn public_decrypt(
        &self,
        request: Request<v1::PublicDecryptionRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let traceparent = traceparent(&request);
        let request = request.into_inner();
        self.0.ask(&Question {
            id: request.request_id,
            key_id: request.key_id,
            domain: request.domain,
            ciphertexts: request.ciphertexts,
            extra_data: request.extra_data,
            context_id: request.context_id,
            epoch_id: request.epoch_id,
            client: None,
            traceparent,
        })
    }

    async fn get_public_decryption_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::PublicDecryptionResponse>, Status> {
        let id = request.into_inner();
        let (entry, behaviour) = self.0.result(id.clone()).await?;
        Ok(Response::new(self.0.public_response(id, entry, &behaviour)))
    }

    async fn user_decrypt(
        &self,
        request: Request<v1::UserDecryptionRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let traceparent = traceparent(&request);
        let request = request.into_inner();
        self.0.ask(&Question {
            id: request.request_id,
            key_id: request.key_id,
            domain: request.domain,
            ciphertexts: request.typed_ciphertexts,
            extra_data: request.extra_data,
            context_id: request.context_id,
            epoch_id: request.epoch_id,
            client: Some((request.client_address, request.enc_key)),
            traceparent,
        })
    }

    async fn get_user_decryption_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::UserDecryptionResponse>, Status> {
        let (entry, behaviour) = self.0.result(request.into_inner()).await?;
        Ok(Response::new(self.0.user_response(entry, &behaviour)))
    }
}

#[tonic::async_trait]
impl health_v1::health_server::Health for Service {
    async fn check(
        &self,
        request: Request<health_v1::HealthCheckRequest>,
    ) -> Result<Response<health_v1::HealthCheckResponse>, Status> {
        use health_v1::health_check_response::ServingStatus;
        if request.into_inner().service != "kms_service.v1.CoreServiceEndpoint" {
            return Err(Status::not_found("service not registered"));
        }
        let serving = self.0.state().behaviour.serving;
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(health_v1::HealthCheckResponse { status: status.into() }))
    }
}

/// A connection that can be cut from outside: tonic's own tasks outlive the server's future.
struct Cuttable {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cuttable {
    fn new(stream: TcpStream, cut: CancellationToken) -> Self {
        Self { stream, cut: Box::pin(cut.cancelled_owned()) }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Cuttable {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
