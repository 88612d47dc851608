//! The Core behind the real client, as one life of the process reaches it.

use std::{sync::Arc, time::Duration};

use alloy::primitives::keccak256;
use prost::Message as _;
use tokio::time::{Instant, sleep};
use tonic::{
    Request, Response, Status,
    codegen::{Service as _, StdError},
};

use super::{Entry, short};
use crate::{
    domain::{B256, U256},
    flow::kms_core::{
        GrpcService, eip712,
        proto::{
            grpc::health::v1 as health,
            kms::v1,
            kms_service::v1::core_service_endpoint_server::{
                CoreServiceEndpoint, CoreServiceEndpointServer,
            },
        },
        wire::{self, ResultEncoding},
    },
    instance::simulation::{
        chain::domain,
        keys::{
            contract::What,
            core::{self as keys, Made, Order},
        },
        plan::CoreAge,
        store::is_compressed,
        world::Life,
    },
};
use health::health_server::{Health, HealthServer};

/// Limit of asks for deleted requests in one storm: two per life, and one per retry.
const ASKS_OF_DELETED: u32 = 30;

/// The Core as one life of the process reaches it.
#[derive(Clone)]
struct ServedCore(Life);

/// The longest time until a connection stands, in milliseconds. Longer than a pass is good for.
const LATEST_CONNECTION: u64 = 20_000;

/// What happens to a call's connection.
enum ConnectionFate {
    Open,
    /// Cut before the Core received the call.
    CutBeforeCore,
    /// Cut before the response arrived.
    CutAfterCore,
    Silent,
}

/// The function that replaces the connection under the real client.
pub(in crate::instance::simulation) fn carrier(life: &Life) -> GrpcService {
    let life = life.clone();
    Arc::new(move |request| {
        let life = life.clone();
        Box::pin(async move {
            life.takes(10).await;
            let connects_after = {
                let mut state = life.world.state();
                let rate = state.plan.faults.core_connects_late;
                if state.fault(rate) {
                    state.record_fault("core connects late");
                    state.millis(LATEST_CONNECTION)
                } else {
                    Duration::ZERO
                }
            };
            sleep(connects_after).await;
            let way = {
                let mut state = life.world.state();
                let rate = state.plan.faults.core_cut;
                if state.fault(rate) {
                    match state.dice.u8(..3) {
                        0 => ConnectionFate::CutBeforeCore,
                        1 => ConnectionFate::CutAfterCore,
                        _ => ConnectionFate::Silent,
                    }
                } else {
                    ConnectionFate::Open
                }
            };
            let cut = || StdError::from("connection reset");
            if matches!(way, ConnectionFate::CutBeforeCore) {
                life.world.say(format_args!("core: cut"));
                return Err(cut());
            }
            let met = ServedCore(life.clone());
            let answer = if request.uri().path().starts_with("/grpc.health") {
                HealthServer::new(met).call(request).await
            } else {
                CoreServiceEndpointServer::new(met).call(request).await
            };
            let Ok(answer) = answer;
            life.takes(10).await;
            match way {
                ConnectionFate::Open | ConnectionFate::CutBeforeCore => Ok(answer),
                ConnectionFate::CutAfterCore => Err(cut()),
                ConnectionFate::Silent => {
                    sleep(Duration::from_mins(5)).await;
                    Err(cut())
                }
            }
        })
    })
}

impl ServedCore {
    fn ask(
        &self,
        id: Option<v1::RequestId>,
        ciphertexts: &[v1::TypedCiphertext],
        public_key: Option<Vec<u8>>,
        extra_data: bytes::Bytes,
    ) -> Result<Response<v1::Empty>, Status> {
        let id = id.unwrap_or_default().request_id;
        let wrong;
        let answer = {
            let mut state = self.0.world.state();
            let faults = state.plan.faults;
            let (busy, fails) = (state.fault(faults.core_busy), state.fault(faults.core_fails));
            let slow = state.storm && state.dice.u8(..10) == 0;
            let pause = state.millis(if slow { 20_000 } else { 1500 });
            let fails_later = state.fault(faults.core_fails);
            let keeps = state.plan.core == CoreAge::KeepsFailed;
            let known = state.core.entries.get_mut(&id).is_some_and(|entry| {
                if let Some(asks) = &mut entry.deleted {
                    *asks += 1;
                }
                entry.deleted.is_some() || !entry.failed || keeps
            });
            if state.core.entries.get(&id).and_then(|entry| entry.deleted) == Some(ASKS_OF_DELETED)
            {
                state.violations.push(format!("deleted {} is asked for ever", short(&id)));
            }
            let handles: Vec<B256> = ciphertexts
                .iter()
                .map(|one| B256::try_from(one.external_handle.as_ref()).unwrap())
                .collect();
            let number = U256::from_str_radix(&id, 16).unwrap();
            wrong = state.judge_ask(number, &handles, public_key.as_deref());
            for (one, handle) in ciphertexts.iter().zip(&handles) {
                let digest = keccak256(&one.ciphertext);
                let checked = state.catalogue.ciphertexts.contains_key(&digest);
                if !checked || !one.ciphertext.ends_with(handle.as_slice()) {
                    state.violations.push(format!("the Core got other bytes for {handle}"));
                }
                let said = one.ciphertext_format();
                if (said == v1::CiphertextFormat::BigCompressed) != is_compressed(&one.ciphertext) {
                    state.violations.push(format!("the Core was told that {handle} is {said:?}"));
                }
            }
            if busy {
                Err(Status::resource_exhausted("too many requests in progress"))
            } else if known {
                Err(Status::already_exists("known"))
            } else if fails {
                Err(Status::internal("failed"))
            } else {
                let ready = Instant::now() + pause;
                let failed = fails_later;
                let deleted = None;
                let entry = Entry { handles, public_key, extra_data, ready, failed, deleted };
                state.core.entries.insert(id.clone(), entry);
                Ok(Response::new(v1::Empty {}))
            }
        };
        let note = answer
            .as_ref()
            .map_or_else(|status| format!("{:?}", status.code()), |_| "taken".to_owned());
        self.0.world.say(format_args!("{wrong}core: ask {}: {note}", short(&id)));
        answer
    }

    fn result(&self, id: &str) -> Result<Entry, Status> {
        let found = {
            let mut state = self.0.world.state();
            let faults = state.plan.faults;
            let busy = state.fault(faults.core_busy);
            match state.core.entries.get(id) {
                _ if busy => Err(Status::resource_exhausted("slow down")),
                None => Err(Status::not_found("no such request")),
                Some(entry) if entry.deleted.is_some() => Err(Status::not_found("deleted")),
                Some(entry) if entry.ready > Instant::now() => Err(Status::unavailable("not yet")),
                Some(entry) if entry.failed => Err(Status::internal("failed")),
                Some(entry) => Ok(entry.clone()),
            }
        };
        let note = found
            .as_ref()
            .map_or_else(|status| format!("{:?}", status.code()), |_| "answered".to_owned());
        self.0.world.say(format_args!("core: poll {}: {note}", short(id)));
        found
    }

    fn sign(&self, digest: B256) -> bytes::Bytes {
        self.0.world.state().core.sign(digest)
    }
}

#[tonic::async_trait]
impl CoreServiceEndpoint for ServedCore {
    async fn public_decrypt(
        &self,
        request: Request<v1::PublicDecryptionRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let asked = request.into_inner();
        self.ask(asked.request_id, &asked.ciphertexts, None, asked.extra_data)
    }

    async fn get_public_decryption_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::PublicDecryptionResponse>, Status> {
        let id = request.into_inner();
        let Entry { handles, extra_data, .. } = self.result(&id.request_id)?;
        let value = |handle: &B256| v1::TypedPlaintext {
            bytes: bytes::Bytes::copy_from_slice(&handle[..1]),
            fhe_type: 2,
        };
        let plaintexts: Vec<_> = handles.iter().map(value).collect();
        let result = wire::decrypted_result(ResultEncoding::Words, &plaintexts).unwrap();
        let digest = eip712::public_digest(&domain(), &handles, &result, Some(&extra_data));
        let payload = v1::PublicDecryptionResponsePayload {
            plaintexts,
            request_id: Some(id),
            ..Default::default()
        };
        Ok(Response::new(v1::PublicDecryptionResponse {
            payload_or_external_signature: self.sign(digest),
            payload: Some(payload.encode_to_vec().into()),
            extra_data,
            ..Default::default()
        }))
    }

    async fn user_decrypt(
        &self,
        request: Request<v1::UserDecryptionRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let asked = request.into_inner();
        let public_key = Some(asked.enc_key.to_vec());
        self.ask(asked.request_id, &asked.typed_ciphertexts, public_key, asked.extra_data)
    }

    async fn get_user_decryption_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::UserDecryptionResponse>, Status> {
        let id = request.into_inner();
        let Entry { handles, public_key, extra_data, .. } = self.result(&id.request_id)?;
        let share = |handle: &B256| v1::TypedSigncryptedCiphertext {
            fhe_type: 2,
            signcrypted_ciphertext: bytes::Bytes::copy_from_slice(&handle[..8]),
            external_handle: bytes::Bytes::copy_from_slice(handle.as_slice()),
            packing_factor: 1,
        };
        let payload = v1::UserDecryptionResponsePayload {
            signcrypted_ciphertexts: handles.iter().map(share).collect(),
            ..Default::default()
        };
        let digest = eip712::user_digest(
            &domain(),
            &public_key.unwrap_or_default(),
            &handles,
            &wire::user_decrypted_share(&payload),
            Some(&extra_data),
        );
        Ok(Response::new(v1::UserDecryptionResponse {
            external_signature: self.sign(digest),
            payload: Some(payload.encode_to_vec().into()),
            extra_data,
            ..Default::default()
        }))
    }

    async fn key_gen_preproc(
        &self,
        request: Request<v1::KeyGenPreprocRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let asked = request.into_inner();
        let order = Order {
            id: asked.request_id,
            what: What::Preparation,
            domain: asked.domain,
            extra_data: asked.extra_data,
            config: asked.keyset_config,
        };
        keys::ask(&self.0, order)
    }

    async fn get_key_gen_preproc_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::KeyGenPreprocResult>, Status> {
        let id = request.into_inner();
        let Made { signature, .. } = keys::result(&self.0, &id)?;
        Ok(Response::new(v1::KeyGenPreprocResult {
            preprocessing_id: Some(id),
            external_signature: signature,
        }))
    }

    async fn key_gen(
        &self,
        request: Request<v1::KeyGenRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let asked = request.into_inner();
        let preparation = keys::id_of(asked.preproc_id.as_ref());
        let order = Order {
            id: asked.request_id,
            what: What::Key { preparation },
            domain: asked.domain,
            extra_data: asked.extra_data,
            config: asked.keyset_config,
        };
        keys::ask(&self.0, order)
    }

    async fn get_key_gen_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::KeyGenResult>, Status> {
        let request_id = request.into_inner();
        let Made { what, id, signature } = keys::result(&self.0, &request_id)?;
        let What::Key { preparation } = what else {
            return Err(Status::not_found("that is no key"));
        };
        Ok(Response::new(v1::KeyGenResult {
            request_id: Some(request_id),
            preprocessing_id: Some(wire::request_id(preparation)),
            key_digests: keys::key_digests(id),
            external_signature: signature,
        }))
    }

    async fn crs_gen(
        &self,
        request: Request<v1::CrsGenRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let asked = request.into_inner();
        let order = Order {
            id: asked.request_id,
            what: What::Crs { max_bits: asked.max_num_bits.unwrap_or(0) },
            domain: asked.domain,
            extra_data: asked.extra_data,
            config: None,
        };
        keys::ask(&self.0, order)
    }

    async fn get_crs_gen_result(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::CrsGenResult>, Status> {
        let request_id = request.into_inner();
        let Made { what, id, signature } = keys::result(&self.0, &request_id)?;
        let What::Crs { max_bits } = what else {
            return Err(Status::not_found("that is no CRS"));
        };
        Ok(Response::new(v1::CrsGenResult {
            request_id: Some(request_id),
            crs_digest: keys::crs_digest(id, max_bits),
            max_num_bits: max_bits,
            external_signature: signature,
        }))
    }

    async fn abort_key_gen(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::Empty>, Status> {
        keys::abort(&self.0, &request.into_inner(), "abort the key")
    }

    async fn abort_crs_gen(
        &self,
        request: Request<v1::RequestId>,
    ) -> Result<Response<v1::Empty>, Status> {
        keys::abort(&self.0, &request.into_inner(), "abort the CRS")
    }

    async fn init(&self, request: Request<v1::InitRequest>) -> Result<Response<v1::Empty>, Status> {
        let id = keys::id_of(request.into_inner().request_id.as_ref());
        keys::tell(&self.0, id, "set up randomness")
    }

    async fn initiate_resharing(
        &self,
        request: Request<v1::InitiateResharingRequest>,
    ) -> Result<Response<v1::InitiateResharingResponse>, Status> {
        let request_id = request.into_inner().request_id;
        let told = keys::tell(&self.0, keys::id_of(request_id.as_ref()), "reshare");
        told.map(|_| Response::new(v1::InitiateResharingResponse { request_id }))
    }
}

#[tonic::async_trait]
impl Health for ServedCore {
    async fn check(
        &self,
        _: Request<health::HealthCheckRequest>,
    ) -> Result<Response<health::HealthCheckResponse>, Status> {
        let serving = health::health_check_response::ServingStatus::Serving;
        Ok(Response::new(health::HealthCheckResponse { status: serving.into() }))
    }
}
