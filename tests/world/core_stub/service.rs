//! The services as gRPC has them.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    KeyAsk, KeyOperation, Lifecycle,
    decryptions::{Question, traceparent},
    state::Shared,
};
use crate::proto::{
    grpc::health::v1 as health_v1, kms::v1,
    kms_service::v1::core_service_endpoint_server::CoreServiceEndpoint,
};

#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Shared>);

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

    async fn key_gen_preproc(
        &self,
        request: Request<v1::KeyGenPreprocRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let request = request.into_inner();
        let ask = KeyAsk {
            params: Some(request.params),
            keyset: request.keyset_config,
            extra_data: request.extra_data,
            context_id: text(request.context_id),
            epoch_id: text(request.epoch_id),
            ..ask(KeyOperation::Preprocessing, request.request_id)
        };
        self.0.ask_key(ask, request.domain.as_ref())
    }

    async fn get_key_gen_preproc_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::KeyGenPreprocResult>, Status> {
        self.0.preprocessing_result(request.into_inner()).await
    }

    async fn key_gen(
        &self,
        request: Request<v1::KeyGenRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let request = request.into_inner();
        let ask = KeyAsk {
            params: request.params,
            preprocessing: Some(text(request.preproc_id).unwrap_or_default()),
            keyset: request.keyset_config,
            extra_data: request.extra_data,
            context_id: text(request.context_id),
            epoch_id: text(request.epoch_id),
            ..ask(KeyOperation::Key, request.request_id)
        };
        self.0.ask_key(ask, request.domain.as_ref())
    }

    async fn get_key_gen_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::KeyGenResult>, Status> {
        self.0.key_gen_result(request.into_inner()).await
    }

    async fn crs_gen(
        &self,
        request: Request<v1::CrsGenRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let request = request.into_inner();
        let ask = KeyAsk {
            params: Some(request.params),
            max_bits: request.max_num_bits,
            extra_data: request.extra_data,
            context_id: text(request.context_id),
            epoch_id: text(request.epoch_id),
            ..ask(KeyOperation::Crs, request.request_id)
        };
        self.0.ask_key(ask, request.domain.as_ref())
    }

    async fn get_crs_gen_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::CrsGenResult>, Status> {
        self.0.crs_gen_result(request.into_inner()).await
    }

    async fn abort_key_gen(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::Empty>, Status> {
        let id = request.into_inner();
        self.0.ask_lifecycle(Lifecycle::AbortKey(id.clone()), |core| core.abort_key(&id))
    }

    async fn abort_crs_gen(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::Empty>, Status> {
        let id = request.into_inner();
        self.0.ask_lifecycle(Lifecycle::AbortCrs(id.clone()), |core| core.abort_crs(&id))
    }

    async fn init(&self, request: Request<v1::InitRequest>) -> Result<Response<v1::Empty>, Status> {
        let request = request.into_inner();
        self.0.ask_lifecycle(Lifecycle::Init(request.clone()), |core| core.init(&request))
    }

    async fn initiate_resharing(
        &self,
        request: Request<v1::InitiateResharingRequest>,
    ) -> Result<Response<v1::InitiateResharingResponse>, Status> {
        let request = request.into_inner();
        self.0.ask_lifecycle(Lifecycle::Reshare(request.clone()), |core| core.reshare(&request))
    }

    async fn get_resharing_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::ResharingResultResponse>, Status> {
        self.0.resharing_result(request.into_inner()).await
    }

    async fn new_mpc_context(
        &self,
        request: Request<v1::NewMpcContextRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let request = request.into_inner();
        let ask = Lifecycle::NewContext(request.clone());
        self.0.ask_lifecycle(ask, |core| core.new_context(&request))
    }

    async fn destroy_mpc_context(
        &self,
        request: Request<v1::DestroyMpcContextRequest>,
    ) -> Result<Response<v1::DestroyMpcContextResponse>, Status> {
        let request = request.into_inner();
        let ask = Lifecycle::DestroyContext(request.clone());
        self.0.ask_lifecycle(ask, |core| core.destroy_context(&request))
    }

    async fn new_mpc_epoch(
        &self,
        request: Request<v1::NewMpcEpochRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let request = request.into_inner();
        self.0.ask_lifecycle(Lifecycle::NewEpoch(request.clone()), |core| core.new_epoch(&request))
    }

    async fn get_epoch_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::EpochResultResponse>, Status> {
        self.0.get_epoch(request.into_inner()).await
    }

    async fn destroy_mpc_epoch(
        &self,
        request: Request<v1::DestroyMpcEpochRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let request = request.into_inner();
        let ask = Lifecycle::DestroyEpoch(request.clone());
        self.0.ask_lifecycle(ask, |core| core.destroy_epoch(&request))
    }
}

fn text(id: Option<v1::RequestId>) -> Option<String> {
    id.map(|id| id.request_id)
}

fn ask(operation: KeyOperation, id: Option<v1::RequestId>) -> KeyAsk {
    KeyAsk::new(operation, text(id).unwrap_or_default())
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
