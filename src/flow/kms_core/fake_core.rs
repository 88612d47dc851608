//! A scripted Core in memory, for tests of the client and of whole walks. The Core that is driven by a
//! seed and signs its answers is in `instance::simulation`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use tonic::{
    Status,
    codegen::{Service as _, StdError},
};

use super::{
    GrpcService,
    proto::{
        grpc::health::v1 as health,
        kms::v1,
        kms_service::v1::core_service_endpoint_server::{
            CoreServiceEndpoint, CoreServiceEndpointServer,
        },
    },
};

type Script<T> = Arc<dyn Fn(usize) -> T + Send + Sync>;

/// Answers each ask and each poll, counted from 1, by its script.
#[derive(Clone)]
pub(crate) struct FakeCore {
    ask: Script<Result<(), Status>>,
    /// `None`: pending.
    poll: Script<Option<Status>>,
    /// It has the calls of Cores from v0.13.20 on.
    is_new: bool,
    /// What it was told with each ask for a key or its preparation: `extraData`, and the kind of key.
    key_asks: Arc<Mutex<Vec<KeyAskTold>>>,
    /// The ids whose abort it was told of.
    aborts: Arc<Mutex<Vec<String>>>,
    /// The ids of the KMS contexts and epochs that it was asked for.
    lifecycle: Arc<Mutex<Vec<String>>>,
    /// Each epoch is done at the first poll, with nothing in its result.
    has_epochs_done: bool,
    /// The answer to a public request, once it is not pending.
    answer: Arc<Mutex<Option<v1::PublicDecryptionResponse>>>,
    counts: Arc<Mutex<CallCounts>>,
}

type KeyAskTold = (bytes::Bytes, Option<v1::KeySetConfig>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallCounts {
    pub cut: bool,
    /// Number of health checks, failed ones included.
    pub questions: usize,
    pub asks: usize,
    pub polls: usize,
}

impl FakeCore {
    pub fn new(
        ask: impl Fn(usize) -> Result<(), Status> + Send + Sync + 'static,
        poll: impl Fn(usize) -> Option<Status> + Send + Sync + 'static,
    ) -> Self {
        let (ask, poll) = (Arc::new(ask), Arc::new(poll));
        let (answer, counts, key_asks, aborts, lifecycle) = Default::default();
        let (is_new, has_epochs_done) = (false, false);
        Self { ask, poll, is_new, key_asks, aborts, lifecycle, has_epochs_done, answer, counts }
    }

    /// Accepts everything and answers nothing.
    pub fn pending() -> Self {
        Self::new(|_| Ok(()), |_| None)
    }

    /// Whether it is of v0.13.20 or later.
    pub fn of_age(self, is_new: bool) -> Self {
        Self { is_new, ..self }
    }

    /// Each epoch is done at once, without keys.
    pub fn with_epochs_done(self) -> Self {
        Self { has_epochs_done: true, ..self }
    }

    /// The ids of the KMS contexts and epochs that it was asked for.
    pub fn contexts_and_epochs(&self) -> Vec<String> {
        self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn asked_for_lifecycle(&self, id: Option<v1::RequestId>) -> Reply<v1::Empty> {
        let id = id.unwrap_or_default().request_id;
        self.lifecycle.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.asked()
    }

    /// From now on this is its answer to public requests.
    pub fn answer_with(&self, response: v1::PublicDecryptionResponse) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
    }

    /// What it was told with each ask for a key or its preparation.
    pub fn asked_for(&self) -> Vec<KeyAskTold> {
        self.key_asks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ids whose abort it was told of.
    pub fn aborts(&self) -> Vec<String> {
        self.aborts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It knows nothing that it could abort.
    fn told_of_abort(&self, id: v1::RequestId) -> Reply<v1::Empty> {
        if !self.is_new {
            return Err(Status::unimplemented("no such call"));
        }
        if id.request_id.len() != 64 {
            return Err(Status::invalid_argument("no id"));
        }
        self.aborts.lock().unwrap_or_else(PoisonError::into_inner).push(id.request_id);
        Err(Status::not_found("nothing to abort"))
    }

    fn note_key_ask(&self, extra_data: bytes::Bytes, config: Option<v1::KeySetConfig>) {
        let mut asks = self.key_asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.push((extra_data, config));
    }

    pub fn counts(&self) -> MutexGuard<'_, CallCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cut(&self, cut: bool) {
        self.counts().cut = cut;
    }

    pub fn service(&self) -> GrpcService {
        let core = self.clone();
        Arc::new(move |request| {
            let core = core.clone();
            Box::pin(async move {
                let of_health = request.uri().path().starts_with("/grpc.health");
                core.counts().questions += usize::from(of_health);
                if core.counts().cut {
                    return Err(StdError::from("cut"));
                }
                let answer = if of_health {
                    health::health_server::HealthServer::new(core).call(request).await
                } else {
                    CoreServiceEndpointServer::new(core).call(request).await
                };
                let Ok(answer) = answer;
                Ok(answer)
            })
        })
    }

    fn asked(&self) -> Reply<v1::Empty> {
        let asks = {
            let mut told = self.counts();
            told.asks += 1;
            told.asks
        };
        (self.ask)(asks).map(|()| tonic::Response::new(v1::Empty {}))
    }

    async fn polled<T>(&self, answer: Option<T>) -> Reply<T> {
        let polls = {
            let mut told = self.counts();
            told.polls += 1;
            told.polls
        };
        if let Some(status) = (self.poll)(polls) {
            return Err(status);
        }
        if let Some(answer) = answer {
            return Ok(tonic::Response::new(answer));
        }
        sleep(Duration::from_mins(1)).await;
        Err(Status::unavailable("still running"))
    }
}

type Reply<T> = Result<tonic::Response<T>, Status>;

#[tonic::async_trait]
impl CoreServiceEndpoint for FakeCore {
    async fn public_decrypt(
        &self,
        _: tonic::Request<v1::PublicDecryptionRequest>,
    ) -> Reply<v1::Empty> {
        self.asked()
    }

    async fn get_public_decryption_result(
        &self,
        _: tonic::Request<v1::RequestId>,
    ) -> Reply<v1::PublicDecryptionResponse> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.polled(answer).await
    }

    async fn user_decrypt(&self, _: tonic::Request<v1::UserDecryptionRequest>) -> Reply<v1::Empty> {
        self.asked()
    }

    async fn get_user_decryption_result(
        &self,
        _: tonic::Request<v1::RequestId>,
    ) -> Reply<v1::UserDecryptionResponse> {
        self.polled(None).await
    }

    async fn key_gen_preproc(
        &self,
        request: tonic::Request<v1::KeyGenPreprocRequest>,
    ) -> Reply<v1::Empty> {
        let v1::KeyGenPreprocRequest { extra_data, keyset_config, .. } = request.into_inner();
        self.note_key_ask(extra_data, keyset_config);
        self.asked()
    }

    async fn get_key_gen_preproc_result(
        &self,
        _: tonic::Request<v1::RequestId>,
    ) -> Reply<v1::KeyGenPreprocResult> {
        self.polled(None).await
    }

    async fn key_gen(&self, request: tonic::Request<v1::KeyGenRequest>) -> Reply<v1::Empty> {
        let v1::KeyGenRequest { extra_data, keyset_config, .. } = request.into_inner();
        self.note_key_ask(extra_data, keyset_config);
        self.asked()
    }

    async fn get_key_gen_result(
        &self,
        _: tonic::Request<v1::RequestId>,
    ) -> Reply<v1::KeyGenResult> {
        self.polled(None).await
    }

    async fn new_mpc_context(
        &self,
        request: tonic::Request<v1::NewMpcContextRequest>,
    ) -> Reply<v1::Empty> {
        let context = request.into_inner().new_context.unwrap_or_default();
        self.asked_for_lifecycle(context.context_id)
    }

    async fn new_mpc_epoch(
        &self,
        request: tonic::Request<v1::NewMpcEpochRequest>,
    ) -> Reply<v1::Empty> {
        self.asked_for_lifecycle(request.into_inner().epoch_id)
    }

    async fn get_epoch_result(
        &self,
        _: tonic::Request<v1::RequestId>,
    ) -> Reply<v1::EpochResultResponse> {
        self.polled(self.has_epochs_done.then(v1::EpochResultResponse::default)).await
    }

    async fn abort_key_gen(&self, id: tonic::Request<v1::RequestId>) -> Reply<v1::Empty> {
        self.told_of_abort(id.into_inner())
    }

    async fn abort_crs_gen(&self, id: tonic::Request<v1::RequestId>) -> Reply<v1::Empty> {
        self.told_of_abort(id.into_inner())
    }
}

#[tonic::async_trait]
impl health::health_server::Health for FakeCore {
    async fn check(
        &self,
        _: tonic::Request<health::HealthCheckRequest>,
    ) -> Reply<health::HealthCheckResponse> {
        Ok(tonic::Response::new(health::HealthCheckResponse { status: 1 }))
    }
}
