//! Walks to a Core that took the request and has no answer for it, on a paused clock.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    codegen::{Service as _, StdError},
};

use super::super::{
    ciphertexts::{
        BucketLookupError, Buckets, CiphertextsOptions, SMALLEST_MEMORY_MIB, http_client,
    },
    dispatch::{Places, Seat},
    kms_core::{
        self,
        line::InProcess,
        proto::{
            grpc::health::v1 as health,
            kms::v1,
            kms_service::v1::core_service_endpoint_server::{
                CoreServiceEndpoint, CoreServiceEndpointServer,
            },
        },
    },
    walk::Ended,
    *,
};
use crate::{
    domain::{Address, Bytes, Event, Generation, Operation, PublicDecryption, SigningDomain, U256},
    gateway::{
        decryption::DecryptionAdapter,
        fake_chain::FakeChain,
        lane::{LaneOptions, Recovered, lane},
        wallet::Wallet,
    },
    heart::Heart,
    tls::TlsRoots,
};

const TIMEOUT: Duration = Duration::from_mins(5);
const EXPIRY: Duration = Duration::from_mins(15);

/// The Core: everything is pending, unless the line is cut.
#[derive(Clone, Default)]
struct Pending {
    cut: Arc<Mutex<bool>>,
}

impl Pending {
    fn cut(&self, cut: bool) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }

    fn line(&self) -> InProcess {
        let core = self.clone();
        Arc::new(move |request| {
            let core = core.clone();
            Box::pin(async move {
                if *core.cut.lock().unwrap_or_else(PoisonError::into_inner) {
                    return Err(StdError::from("cut"));
                }
                let answer = if request.uri().path().starts_with("/grpc.health") {
                    health::health_server::HealthServer::new(core).call(request).await
                } else {
                    CoreServiceEndpointServer::new(core).call(request).await
                };
                let Ok(answer) = answer;
                Ok(answer)
            })
        })
    }
}

type Reply<T> = Result<tonic::Response<T>, Status>;

async fn pending<T>() -> Reply<T> {
    sleep(Duration::from_mins(1)).await;
    Err(Status::unavailable("still running"))
}

#[tonic::async_trait]
impl CoreServiceEndpoint for Pending {
    async fn public_decrypt(
        &self,
        _: tonic::Request<v1::PublicDecryptionRequest>,
    ) -> Reply<v1::Empty> {
        Ok(tonic::Response::new(v1::Empty {}))
    }

    async fn get_public_decryption_result(
        &self,
        _: tonic::Request<v1::RequestId>,
    ) -> Reply<v1::PublicDecryptionResponse> {
        pending().await
    }

    async fn user_decrypt(&self, _: tonic::Request<v1::UserDecryptionRequest>) -> Reply<v1::Empty> {
        Ok(tonic::Response::new(v1::Empty {}))
    }

    async fn get_user_decryption_result(
        &self,
        _: tonic::Request<v1::RequestId>,
    ) -> Reply<v1::UserDecryptionResponse> {
        pending().await
    }
}

#[tonic::async_trait]
impl health::health_server::Health for Pending {
    async fn check(
        &self,
        _: tonic::Request<health::HealthCheckRequest>,
    ) -> Reply<health::HealthCheckResponse> {
        Ok(tonic::Response::new(health::HealthCheckResponse { status: 1 }))
    }
}

/// One asked request.
#[derive(Clone, Debug)]
struct OneRequest(Arc<Mutex<(Standing, Option<Outcome>)>>);

impl Default for OneRequest {
    fn default() -> Self {
        let standing = Standing { stage: Stage::Asked, held: None, worked: Duration::ZERO };
        Self(Arc::new(Mutex::new((standing, None))))
    }
}

impl OneRequest {
    fn now(&self) -> (Standing, Option<Outcome>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl RequestLedger for OneRequest {
    async fn namesakes(&self, _: RequestKey) -> Result<Vec<Event>, LedgerError> {
        Ok(Vec::new())
    }
    async fn arrive(&self, _: Batch) -> Result<Taken, LedgerError> {
        Ok(Taken::default())
    }

    async fn note(&self, _: RequestKey, step: Step) -> Result<(), LedgerError> {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match step {
            Step::Held(hold) => now.0.held = Some(hold.reason),
            Step::Worked(time) => now.0.worked += time,
            Step::Settled(outcome) => now.1 = Some(outcome),
            Step::Asked
            | Step::Forgotten
            | Step::Answered(_)
            | Step::Submitted { .. }
            | Step::Returned { .. }
            | Step::Failed { .. } => {}
        }
        Ok(())
    }

    async fn standing(&self, _: RequestKey) -> Result<Option<Standing>, LedgerError> {
        Ok(Some(self.now().0))
    }
}

struct NoBuckets;

impl Buckets for NoBuckets {
    async fn bucket(&self, _: Address) -> Result<Option<String>, BucketLookupError> {
        Ok(None)
    }

    async fn registered(&self, _: Address) -> Result<bool, BucketLookupError> {
        Ok(false)
    }
}

struct Scene {
    flow: Flow<FakeChain, NoBuckets, OneRequest>,
    core: Pending,
    request: Request,
    _lane: JoinSet<Result<(), LedgerError>>,
    _depth: watch::Sender<Line>,
    _support: watch::Sender<Support>,
}

impl Scene {
    async fn new() -> Self {
        let (chain, core) = (FakeChain::new(100), Pending::default());
        let wallet = Arc::new(Wallet::from_private_key(&[7; 32]).unwrap());
        let options = LaneOptions { chain_id: 1, max_in_flight: 1, max_fee_per_gas: None };
        let ledger = crate::flow::fake_ledger::FakeLedger::default();
        let (lane, task) =
            lane(chain.clone(), wallet.clone(), ledger, options, Recovered::default());
        let mut running = JoinSet::new();
        running.spawn(task.run(Heart::default(), CancellationToken::new()));
        let domain = SigningDomain {
            name: "Decryption".into(),
            version: "1".into(),
            chain_id: 1,
            verifying_contract: Address::ZERO,
        };
        let (support, supported) = watch::channel(Support::Served);
        let (depth, covered) = watch::channel(Line::OPEN);
        let operation = PublicDecryption { materials: vec![], extra_data: Bytes::new() };
        let request = Request {
            key: RequestKey { id: U256::ONE, content: B256::ZERO },
            generation: Generation::G9,
            block: chain.block(50),
            transaction: B256::ZERO,
            operation: Operation::PublicDecryption(operation),
        };
        let flow = Flow {
            name: "one".to_owned(),
            ciphertexts: Ciphertexts::new(CiphertextsOptions {
                buckets: Arc::new(NoBuckets),
                fallback: None,
                memory_mib: SMALLEST_MEMORY_MIB,
                verify_coprocessors: false,
                http: http_client(
                    TlsRoots::load(None).unwrap().client_config(),
                    &crate::proxy::Proxies::default(),
                )
                .unwrap(),
            }),
            core: KmsCore::in_process(&core.line(), domain, kms_core::Options::default()),
            submission: Submission::new(lane, DecryptionAdapter::new(chain.clone()), None),
            gateway_config: GatewayConfigAdapter::connect(chain, wallet.address()).await.unwrap(),
            support: supported,
            line: covered,
            ledger: OneRequest::default(),
            metrics: Metrics::default(),
            repeats: Mutex::default(),
            options: FlowOptions {
                max_in_flight: 1,
                public_decryption_timeout: TIMEOUT,
                user_decryption_timeout: TIMEOUT,
                retry_interval: Duration::from_secs(5),
                request_expiry: EXPIRY,
                maybe_answered_up_to: 0,
            },
        };
        Self { flow, core, request, _lane: running, _depth: depth, _support: support }
    }

    /// One walk, as after a restart or a held retry, and how long it takes.
    async fn walk(&self, places: &Places) -> (Ended, Duration) {
        let begun = Instant::now();
        let request = self.request.clone();
        let intake = Intake { request, recovered: true };
        let seat = Seat { places, recovered: true };
        let walk = Box::pin(self.flow.walk(intake, seat, CancellationToken::new()));
        let ended = walk.await.unwrap();
        (ended, begun.elapsed())
    }
}

/// T33: held after each timeout, and given up after the expiry, of which an outage is no part.
#[tokio::test(start_paused = true)]
async fn t33_it_is_polled_until_its_working_time_is_over() {
    let scene = Scene::new().await;
    let places = Places::new(1);
    for round in 1..3 {
        let (ended, took) = scene.walk(&places).await;
        assert_eq!(ended, Ended::Held);
        assert!(took >= TIMEOUT && took < TIMEOUT * 2, "{took:?}");
        let (standing, outcome) = scene.flow.ledger.now();
        assert_eq!((standing.held, outcome), (Some(HoldReason::CoreSilent), None));
        assert!(standing.worked >= TIMEOUT * round && standing.worked < EXPIRY);
    }
    let worked = scene.flow.ledger.now().0.worked;
    scene.core.cut(true);
    let outage = timeout(Duration::from_hours(100), scene.walk(&places)).await;
    assert!(outage.is_err(), "an outage ends nothing");
    assert_eq!(scene.flow.ledger.now().0.worked, worked);
    scene.core.cut(false);
    assert_eq!(scene.walk(&places).await.0, Ended::Settled);
    assert_eq!(scene.flow.ledger.now().1, Some(Outcome::Expired));
}

/// T63: a walk that is polled gives its place to a request that waits, long before its timeout, and
/// to none that does not.
#[tokio::test(start_paused = true)]
async fn t63_it_gives_way_to_who_waits_for_its_place() {
    let scene = Scene::new().await;
    let places = Places::new(1);
    let (fresh, fresh_intake) = mpsc::channel(1);
    let (_again, again_intake) = mpsc::channel(1);
    let mut intakes = Intakes { fresh: fresh_intake, again: again_intake };
    let waiting = || {
        let request = scene.request.clone();
        Intake { request, recovered: false }
    };
    fresh.send(waiting()).await.unwrap();
    let place = places.next(&mut intakes).await.unwrap();

    let alone =
        async { tokio::join!(scene.walk(&places), timeout(TIMEOUT, places.next(&mut intakes))) };
    let ((ended, took), nobody) = alone.await;
    assert_eq!(ended, Ended::Held);
    assert!(took >= TIMEOUT && nobody.is_err());

    fresh.send(waiting()).await.unwrap();
    let walking = async {
        let walked = scene.walk(&places).await;
        drop(place);
        walked
    };
    let ((ended, took), next) = tokio::join!(walking, places.next(&mut intakes));
    assert_eq!(ended, Ended::Held);
    assert!(took < TIMEOUT / 2, "{took:?}");
    assert!(next.is_some());
    let standing = scene.flow.ledger.now().0;
    assert_eq!((standing.stage, standing.held), (Stage::Asked, Some(HoldReason::CoreSilent)));
}
