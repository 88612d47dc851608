//! Key operations: the calls that ask for them and fetch their results, and the question of which age the Core
//! is (protocol: kms-core-grpc 3.4, 3.6).

use std::time::Duration;

use tonic::{Code, Status};

use super::{
    AskResult, CoreError, KmsCore,
    endpoint::{Client, NoReply, timeout_error, unreachable_error},
    proto::kms::v1,
    rate_limiter::AskPermit,
    signature::KeyReply,
    traced, wire,
};
use crate::domain::{HoldReason, KeyOperation, Request, U256};

/// Before or after the version (v0.13.20-0) from which on a Core signs `extraData` with key material, and
/// makes compressed keys unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreAge {
    Before,
    Since,
}

impl KmsCore {
    /// Tells the Core's age by a call that only newer ones have, with an id that none accepts.
    pub async fn age(&self) -> Result<CoreAge, CoreError> {
        let limit = self.options.probe;
        let mut client = self.endpoint.ask_client();
        let asking = client.abort_key_gen(traced(wire::malformed_id()));
        let status = match self.endpoint.call("abort_key_gen", limit, asking).await {
            Err(NoReply::TimedOut) => return Err(timeout_error(limit)),
            Err(NoReply::Status(status)) => status,
            // None accepts it; whatever this is, it has the call.
            Ok(v1::Empty {}) => return Ok(CoreAge::Since),
        };
        // A status with a source is one of our side of the wire.
        let is_local = std::error::Error::source(&*status).is_some();
        if is_local {
            Err(unreachable_error(&status))
        } else if status.code() == Code::Unimplemented {
            Ok(CoreAge::Before)
        } else if matches!(status.code(), Code::InvalidArgument | Code::NotFound) {
            Ok(CoreAge::Since)
        } else {
            Err(unreachable_error(&status))
        }
    }

    /// Asks the Core for a key operation.
    pub async fn ask_key_operation(
        &self,
        turn: AskPermit,
        request: &Request,
        operation: &KeyOperation,
    ) -> Result<AskResult, CoreError> {
        let asking = async {
            let outcome = self.send_key_operation(request.key.id, operation).await?;
            self.conclude_ask(request, outcome, || lacking(operation)).await
        };
        let asked = asking.await;
        self.endpoint.record_ask(turn, &asked);
        asked
    }

    pub(super) async fn send_key_operation(
        &self,
        id: U256,
        operation: &KeyOperation,
    ) -> Result<Result<v1::Empty, NoReply>, CoreError> {
        let (domain, limit) = (&self.domain, self.options.ask);
        let mut client = self.endpoint.ask_client();
        Ok(match operation {
            KeyOperation::PrepKeygen { parameters } => {
                let message = wire::preparation_request(id, *parameters, domain);
                let asking = client.key_gen_preproc(traced(message));
                self.endpoint.call("key_gen_preproc", limit, asking).await
            }
            KeyOperation::Keygen { preparation } => {
                let message = wire::keygen_request(id, *preparation, domain);
                let asking = client.key_gen(traced(message));
                self.endpoint.call("key_gen", limit, asking).await
            }
            KeyOperation::Crsgen { max_bits, parameters } => {
                let message = wire::crsgen_request(id, *max_bits, *parameters, domain)?;
                let asking = client.crs_gen(traced(message));
                self.endpoint.call("crs_gen", limit, asking).await
            }
            KeyOperation::UnsupportedEvent { .. } => Err(asked_by_nobody()),
        })
    }

    pub(super) async fn fetch_key_result(
        &self,
        mut client: Client,
        operation: &KeyOperation,
        question: tonic::Request<v1::RequestId>,
        limit: Duration,
    ) -> Result<KeyReply, NoReply> {
        let endpoint = &self.endpoint;
        match operation {
            KeyOperation::PrepKeygen { .. } => {
                let polling = client.get_key_gen_preproc_result(question);
                let reply = endpoint.call("get_key_gen_preproc_result", limit, polling).await?;
                Ok(KeyReply::Preparation(reply))
            }
            KeyOperation::Keygen { .. } => {
                let polling = client.get_key_gen_result(question);
                endpoint.call("get_key_gen_result", limit, polling).await.map(KeyReply::Key)
            }
            KeyOperation::Crsgen { .. } => {
                let polling = client.get_crs_gen_result(question);
                endpoint.call("get_crs_gen_result", limit, polling).await.map(KeyReply::Crs)
            }
            KeyOperation::UnsupportedEvent { .. } => Err(asked_by_nobody()),
        }
    }
}

/// An unsupported event is held before any Core is asked.
fn asked_by_nobody() -> NoReply {
    NoReply::Status(Box::new(Status::not_found("no Core is asked for an unsupported event")))
}

/// What a Core lacks that does not find something of a key operation.
fn lacking(operation: &KeyOperation) -> (HoldReason, String) {
    match operation {
        KeyOperation::Keygen { preparation } => (
            HoldReason::CoreLacksPreparation,
            format!("the KMS Core does not know the preparation {preparation:#066x} of this key"),
        ),
        KeyOperation::PrepKeygen { .. }
        | KeyOperation::Crsgen { .. }
        | KeyOperation::UnsupportedEvent { .. } => (
            HoldReason::CoreLacksContext,
            "the KMS Core does not know its default KMS context, or the epoch in it".to_owned(),
        ),
    }
}
