//! A real walk of one request, with a Core, a bucket and a node in memory, in virtual time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::{primitives::keccak256, sol, sol_types::SolEvent as _};
use reqwest::{Body, Response};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::codegen::http;

pub(super) use crate::flow::kms_core::fake_core::FakeCore;
use crate::{
    chain::{
        fake_chain::{ADDRESSES, FakeChain, SOURCE},
        lane::{ChainKind, HIGHEST_FEE, Lane, LaneOptions, Recovered, lane},
        wallet::Wallet,
    },
    contracts::{
        abi,
        acl::HostChains,
        decryption::{DeploymentSupport, RequestContract},
        gateway_config::GatewayConfigAdapter,
    },
    dice::Dice,
    domain::{
        Address, B256, BlockRef, Bytes, Event, HoldReason, KeyRepresentation, LedgerError, Outcome,
        PerKind, Request, RequestKey, SigningDomain, U256, stage::Stage,
    },
    flow::{
        AnswerStages, AnsweredHere, Batch, DecryptionRooms, Flow, FlowOptions, KeyManagement,
        KeyPolicy, KeyRooms, KnownSupport, Mode, QueuedRequest, RepresentationChoice,
        RequestLedger, RequestState, Step, StoredBatch,
        access::{Access, AccessOptions},
        arrivals::suspects::SuspectBlocks,
        capacity::{Capacity, PermitHolder, Wanted},
        ciphertexts::{
            BucketClient, BucketLookupError, BucketRegistry, Ciphertexts, CiphertextsOptions,
            Coprocessors, HttpCall, SMALLEST_MEMORY_MIB,
        },
        finality::rule::FinalHeight,
        kms_core::{self, KmsCore, Transport},
        submission::Submission,
        walk::WalkEnd,
    },
    telemetry::{heartbeat::Heartbeat, metrics::Metrics},
    time::clock::Clock,
};

pub(super) const TIMEOUT: Duration = Duration::from_mins(5);
pub(super) const EXPIRY: Duration = Duration::from_mins(15);

/// One request, as the journal would store it.
#[derive(Clone, Debug)]
pub(super) struct OneRequest(Arc<Mutex<Stored>>);

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub standing: RequestState,
    pub outcome: Option<Outcome>,
    pub attempts: usize,
    pub last_error: String,
    pub detail: String,
    /// The last access check.
    pub access: String,
    /// Other events of its id in its transaction.
    pub beside: Vec<Event>,
    /// Its event as it was read last. `None`: as the walk knows it.
    pub read_last: Option<Event>,
    /// Events of the same id with other content.
    pub namesakes: Vec<Event>,
    /// The kind of key that is recorded.
    pub representation: Option<KeyRepresentation>,
    /// Whether other requests, the preparation of a key for example, count as answered.
    pub others_answered: bool,
    /// Whether its abort is known and done.
    pub is_abort_done: bool,
}

impl OneRequest {
    fn at(stage: Stage) -> Self {
        let standing = RequestState {
            stage,
            held: None,
            worked: Duration::ZERO,
            bound_context: None,
            is_approved: false,
        };
        let (beside, namesakes) = Default::default();
        let (last_error, detail, access) = Default::default();
        let stored = Stored {
            standing,
            outcome: None,
            attempts: 0,
            last_error,
            detail,
            access,
            beside,
            read_last: None,
            namesakes,
            representation: None,
            others_answered: false,
            is_abort_done: false,
        };
        Self(Arc::new(Mutex::new(stored)))
    }

    /// Other events of its id in its transaction.
    pub fn set_beside(&self, events: Vec<Event>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).beside = events;
    }

    pub fn now(&self) -> Stored {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut Stored)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl RequestLedger for OneRequest {
    async fn is_done(&self, _: U256) -> Result<bool, LedgerError> {
        Ok(self.now().is_abort_done)
    }
    async fn is_unasked(&self, _: U256) -> Result<bool, LedgerError> {
        Ok(!self.now().others_answered)
    }
    async fn choose_representation(
        &self,
        _: RequestKey,
        wanted: KeyRepresentation,
    ) -> Result<KeyRepresentation, LedgerError> {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(*now.representation.get_or_insert(wanted))
    }

    async fn representation_of(&self, _: U256) -> Result<Option<KeyRepresentation>, LedgerError> {
        Ok(self.now().representation)
    }

    async fn answered_here(&self, ids: Vec<U256>) -> Result<Vec<AnsweredHere>, LedgerError> {
        let answered =
            if self.now().others_answered { AnsweredHere::Yes } else { AnsweredHere::No };
        Ok(vec![answered; ids.len()])
    }
    async fn event_of(&self, _: RequestKey) -> Result<Option<Event>, LedgerError> {
        Ok(self.now().read_last)
    }

    async fn events_of_same_id(&self, _: RequestKey) -> Result<Vec<Event>, LedgerError> {
        Ok(self.now().namesakes)
    }

    async fn events_of_same_transaction(
        &self,
        _: RequestKey,
        _: B256,
        limit: u32,
    ) -> Result<Vec<Event>, LedgerError> {
        Ok(self.now().beside.into_iter().take(limit as usize).collect())
    }

    async fn store_batch(&self, _: Batch) -> Result<StoredBatch, LedgerError> {
        Ok(StoredBatch::default())
    }

    async fn note(&self, _: RequestKey, step: Step) -> Result<(), LedgerError> {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match step {
            Step::Held(hold) => {
                now.standing.held = Some(hold.reason);
                now.detail = hold.detail;
            }
            Step::AccessChecked(note) => {
                now.standing.bound_context = note.bound_context;
                now.access = note.record;
            }
            Step::WorkTime(time) => now.standing.worked += time,
            Step::Settled(outcome) => now.outcome = Some(outcome),
            Step::Asked { .. } => {
                now.standing.stage = Stage::Asked;
                now.standing.held = None;
            }
            Step::Forgotten => now.standing.stage = Stage::Arrived,
            Step::Failed { why } => {
                now.attempts += 1;
                now.last_error = why;
            }
            Step::Answered(_) | Step::Submitted { .. } | Step::Returned { .. } => {}
        }
        Ok(())
    }

    async fn request_state(&self, _: RequestKey) -> Result<Option<RequestState>, LedgerError> {
        Ok(Some(self.now().standing))
    }
}

/// A registry in which every coprocessor has the same bucket.
#[derive(Default)]
pub(super) struct OneBucket {
    /// Of the registry's answers.
    delay: Arc<Mutex<Duration>>,
}

impl BucketRegistry for OneBucket {
    async fn bucket_url_of(&self, _: Address) -> Result<Option<String>, BucketLookupError> {
        let delay = *self.delay.lock().unwrap_or_else(PoisonError::into_inner);
        sleep(delay).await;
        Ok(Some("http://bucket.example/ct128".to_owned()))
    }

    async fn is_known_coprocessor(&self, _: Address) -> Result<bool, BucketLookupError> {
        Ok(true)
    }

    async fn coprocessors(&self) -> Result<Arc<Coprocessors>, BucketLookupError> {
        Ok(Arc::default())
    }
}

pub(super) const CIPHERTEXT: &[u8] = b"a ciphertext";

/// The bucket's reply to its nth request, counted from 1: this status and body, or the ciphertext
/// (`None`).
pub(super) type Refusing = Arc<dyn Fn(usize) -> Option<(u16, &'static str)> + Send + Sync>;

/// The bucket's replies, counted.
fn network(gets: Arc<AtomicUsize>, delay: Arc<Mutex<Duration>>, refusing: Refusing) -> HttpCall {
    Arc::new(move |_, _, _| {
        let nth = gets.fetch_add(1, Ordering::Relaxed) + 1;
        let (status, body) = match refusing(nth) {
            Some((status, body)) => (status, Body::from(body)),
            None => (200, Body::from(CIPHERTEXT)),
        };
        let response = http::Response::builder().status(status).body(body).unwrap();
        let delay = *delay.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(async move {
            sleep(delay).await;
            Ok(Response::from(response))
        })
    })
}

sol! {
    event PublicDecryptionRequest(
        uint256 indexed decryptionId,
        (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
        bytes extraData
    );
}

/// The request's event as the chain shows it.
pub(super) fn event() -> Event {
    event_about(B256::with_last_byte(1))
}

/// The same about another ciphertext.
pub(super) fn event_about(handle: B256) -> Event {
    let material = (handle, U256::ONE, keccak256(CIPHERTEXT), vec![Address::ZERO]);
    let log = PublicDecryptionRequest {
        decryptionId: (U256::ONE << 248) | U256::ONE,
        snsCtMaterials: vec![material],
        extraData: Bytes::new(),
    };
    let log = log.encode_log_data();
    Event {
        block: BlockRef { number: 0, hash: B256::ZERO },
        transaction: B256::with_last_byte(2),
        log_index: 0,
        topics: log.topics().to_vec(),
        data: log.data,
    }
}

/// The key of the scene's wallet.
pub(super) const WALLET_KEY: [u8; 32] = [7; 32];

pub(super) struct Scene {
    pub chain: FakeChain,
    pub flow: Flow<FakeChain, OneBucket, OneRequest>,
    pub core: FakeCore,
    pub request: Request,
    pub suspects: SuspectBlocks,
    /// Of the answers about where the bucket is, and of the bucket's.
    pub lookup_delay: Arc<Mutex<Duration>>,
    pub bucket_delay: Arc<Mutex<Duration>>,
    gets: Arc<AtomicUsize>,
    pub lane: Lane,
    _lane: JoinSet<Result<(), LedgerError>>,
    pub final_height: watch::Sender<FinalHeight>,
    pub support: watch::Sender<DeploymentSupport>,
}

pub(super) fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 1,
        verifying_contract: Address::ZERO,
    }
}

/// The access check of a configuration without host chains.
async fn no_host_chains(chain: &FakeChain, metrics: &Metrics) -> Access<FakeChain> {
    let (address, nobody) = (ADDRESSES.gateway_config, Address::ZERO);
    Access::new(AccessOptions {
        hosts: HostChains::default(),
        protocol_config: None,
        gateway: RequestContract::new(chain.clone(), ADDRESSES),
        registry: GatewayConfigAdapter::connect(chain.clone(), address, nobody).await.unwrap(),
        domain: domain(),
        clock: Clock::Wall,
        metrics: metrics.clone(),
    })
}

/// The room of ciphertexts that has one bucket, which is found after `delay`.
fn one_bucket(
    delay: Arc<Mutex<Duration>>,
    http: BucketClient,
    metrics: Metrics,
) -> Ciphertexts<OneBucket> {
    Ciphertexts::new(CiphertextsOptions {
        buckets: Arc::new(OneBucket { delay }),
        fallback: None,
        memory_mib: SMALLEST_MEMORY_MIB,
        verify_coprocessors: false,
        http,
        metrics,
    })
}

impl Scene {
    pub async fn new(core: FakeCore, stage: Stage) -> Self {
        Self::refused_by_bucket(core, stage, |_| None).await
    }

    /// With a bucket that does not always return the ciphertext.
    pub async fn refused_by_bucket(
        core: FakeCore,
        stage: Stage,
        refusing: impl Fn(usize) -> Option<(u16, &'static str)> + Send + Sync + 'static,
    ) -> Self {
        let chain = FakeChain::new(49);
        chain.mine(vec![event()]);
        chain.mine_empty(50);
        chain.state().answer_history.version = Some("Decryption v0.3.0");
        let wallet = Arc::new(Wallet::from_private_key(&WALLET_KEY).unwrap());
        let options = LaneOptions {
            chain_id: 1,
            max_in_flight: 1,
            max_fee_per_gas: HIGHEST_FEE,
            kind: ChainKind::Sequencer,
        };
        let metrics = Metrics::default();
        let (lane, task) = lane(
            chain.clone(),
            wallet.clone(),
            crate::flow::fake_ledger::FakeLedger::default(),
            options,
            Recovered::default(),
            metrics.clone(),
        );
        let mut running = JoinSet::new();
        running.spawn(task.run(Heartbeat::default(), CancellationToken::new()));
        let domain = domain();
        let (support, supported) = watch::channel(DeploymentSupport::up_to_g10());
        let (depth, covered) = watch::channel(FinalHeight::EVERYTHING);
        let event = Event { block: chain.block(50), ..event() };
        let request = abi::decode(SOURCE, &event).expect("a request");
        let (suspects, gets) = (SuspectBlocks::default(), Arc::new(AtomicUsize::new(0)));
        let lookup_delay = Arc::new(Mutex::new(Duration::ZERO));
        let bucket_delay = Arc::new(Mutex::new(Duration::ZERO));
        let http = BucketClient::with_transport(network(
            gets.clone(),
            bucket_delay.clone(),
            Arc::new(refusing),
        ));
        let flow = Flow {
            whose: crate::telemetry::trace_context::Whose {
                instance: "one".to_owned(),
                service_name: None,
            },
            decryptions: Some(Box::new(DecryptionRooms {
                access: no_host_chains(&chain, &metrics).await,
                ciphertexts: one_bucket(lookup_delay.clone(), http, metrics.clone()),
                support: KnownSupport::new(supported),
            })),
            confirmation: crate::flow::Confirmation::new(
                RequestContract::new(chain.clone(), ADDRESSES),
                suspects.clone(),
            ),
            mode: Mode::Answer(Box::new(AnswerStages {
                core: KmsCore::new(
                    Transport::over("core", core.service()),
                    domain,
                    kms_core::Options::default(),
                    metrics.clone(),
                ),
                submission: Some(Submission::new(
                    lane.clone(),
                    RequestContract::new(chain.clone(), ADDRESSES),
                    None,
                    metrics.clone(),
                )),
                gateway_config: GatewayConfigAdapter::connect(
                    chain.clone(),
                    ADDRESSES.gateway_config,
                    wallet.address(),
                )
                .await
                .unwrap(),
                maybe_answered_up_to: 0,
                keys: None,
            })),
            final_height: covered,
            ledger: OneRequest::at(stage),
            metrics,
            log_throttle: Mutex::default(),
            dice: Dice::default(),
            options: FlowOptions {
                max_in_flight: 1,
                answer_timeout: PerKind::all(TIMEOUT),
                retry_interval: Duration::from_secs(5),
                request_expiry: EXPIRY,
            },
        };
        Self {
            chain,
            flow,
            core,
            request,
            suspects,
            lookup_delay,
            bucket_delay,
            gets,
            lane,
            _lane: running,
            final_height: depth,
            support,
        }
    }

    /// A key operation instead, whose event is in the newest block.
    pub async fn with_key_operation(core: FakeCore, event: Event, policy: KeyPolicy) -> Self {
        let mut scene = Self::new(core, Stage::Arrived).await;
        scene.chain.mine(vec![event.clone()]);
        let block = scene.chain.block(scene.chain.height());
        scene.request = abi::decode(SOURCE, &Event { block, ..event }).expect("a request");
        let chain = scene.chain.clone();
        let contract = RequestContract::new(chain, ADDRESSES).key_generation(SOURCE.contract);
        if let Mode::Answer(rooms) = &mut scene.flow.mode {
            let metrics = scene.flow.metrics.clone();
            rooms.keys = Some(Box::new(KeyManagement {
                generation: KeyRooms {
                    core: rooms.core.under(domain()),
                    submission: Submission::new(
                        scene.lane.clone(),
                        contract.clone(),
                        None,
                        metrics,
                    ),
                    confirmation: crate::flow::Confirmation::new(
                        contract.clone(),
                        scene.suspects.clone(),
                    ),
                    contract,
                },
                lifecycle: None,
                policy,
                representation: RepresentationChoice::Auto,
                contexts: None,
                gateway: scene.support.subscribe(),
            }));
        }
        scene
    }

    /// The rooms of its decryptions.
    pub fn decryptions(&mut self) -> &mut DecryptionRooms<FakeChain, OneBucket> {
        self.flow.decryptions.as_mut().expect("the scene has them")
    }

    /// One walk, as after a restart or a retry of a held request. Also returns how long it takes.
    pub async fn walk(&self, places: &Capacity) -> (WalkEnd, Duration) {
        let begun = Instant::now();
        let request = self.request.clone();
        let intake = QueuedRequest::alone(request, true);
        let hand = intake.attendance.clone();
        let seat = PermitHolder {
            attendance: &hand,
            capacity: places,
            share: &Wanted::default(),
            recovered: true,
        };
        let walk = Box::pin(self.flow.walk(intake, seat, CancellationToken::new()));
        let ended = walk.await.unwrap();
        (ended, begun.elapsed())
    }

    pub fn now(&self) -> Stored {
        self.flow.ledger.now()
    }

    pub fn held(&self) -> Option<HoldReason> {
        self.now().standing.held
    }

    /// Ciphertexts requested from the bucket.
    pub fn gets(&self) -> usize {
        self.gets.load(Ordering::Relaxed)
    }
}
