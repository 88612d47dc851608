//! Key operations: the calls that ask for them and fetch their results, and the question of which age the Core
//! is (protocol: kms-core-grpc 3.4 to 3.6).

use std::time::Duration;

use tonic::{Code, Status};

use super::{
    AskResult, CoreError, KmsCore, busy_error,
    endpoint::{Client, NoReply, timeout_error, unreachable_error},
    hold,
    proto::kms::v1,
    rate_limiter::AskPermit,
    signature::KeyReply,
    status::{self, CallKind, StatusMeaning},
    traced,
    wire::{self, ExtraDataMeaning, NamedContext},
    within_limit,
};
use crate::domain::{
    EpochMaterial, HoldReason, KeyOperation, KeyParameters, KeyRepresentation, KmsContext, Request,
    U256,
};

/// Before or after the version (v0.13.20-0) from which on a Core signs `extraData` with key material, and
/// makes compressed keys unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreAge {
    Before,
    Since,
}

/// A key operation as the Core is asked for it.
#[derive(Clone, Copy, Debug)]
pub struct KeyAsk<'a> {
    pub operation: &'a KeyOperation,
    pub supplement: Supplement<'a>,
}

/// What the Core is told beside what the event says.
#[derive(Clone, Copy, Debug)]
pub enum Supplement<'a> {
    Nothing,
    /// The kind of key to make.
    Representation(KeyRepresentation),
    /// The KMS context before the new one, which the Core has to know first.
    PreviousContext(&'a KmsContext),
    /// The keys that an epoch shares anew.
    Material(&'a EpochMaterial),
}

impl Supplement<'_> {
    fn representation(self) -> Option<KeyRepresentation> {
        match self {
            Self::Representation(representation) => Some(representation),
            Self::Nothing | Self::PreviousContext(_) | Self::Material(_) => None,
        }
    }
}

/// What the Core is told, and gives no result for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Of this preparation, and of the key made of it. From v0.13.20-0 on, like the next one.
    AbortKeygen(U256),
    /// Of this CRS.
    AbortCrsgen(U256),
    /// To set up the shared randomness. Up to v0.13.3, like the next one.
    InitRandomness,
    /// To share a key anew, under this id.
    Reshare { id: U256, preparation: U256, key: U256, parameters: KeyParameters },
}

/// What is no more, which the Core is told out of turn (see [`KmsCore::ask_lifecycle`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecycleEnd {
    /// Of this KMS context.
    Context(U256),
    /// Of this epoch.
    Epoch(U256),
}

impl Telling {
    fn call(self) -> CallKind {
        match self {
            Self::AbortKeygen(_) | Self::AbortCrsgen(_) => CallKind::Undo,
            Self::InitRandomness | Self::Reshare { .. } => CallKind::Tell,
        }
    }

    /// What a Core lacks that does not find something of it.
    fn lacking(self) -> (HoldReason, String) {
        match self {
            Self::Reshare { key, .. } => {
                (HoldReason::UnknownKey, format!("the KMS Core does not know the key {key:#066x}"))
            }
            Self::AbortKeygen(_) | Self::AbortCrsgen(_) | Self::InitRandomness => {
                lacks_default_context()
            }
        }
    }
}

fn lacks_default_context() -> (HoldReason, String) {
    let what = "the KMS Core does not know its default KMS context";
    (HoldReason::CoreLacksContext, what.to_owned())
}

/// The id of the only request to set up randomness, as at the other nodes (kms-core-grpc 4, gateway-abi 6.2).
const RANDOMNESS_ID: U256 = U256::ONE;

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
        ask: KeyAsk<'_>,
    ) -> Result<AskResult, CoreError> {
        let asking = async {
            let outcome = self.send_key_operation(request.key.id, ask).await?;
            let lacking = || lacking(ask.operation);
            self.conclude_ask(CallKind::AskKey, request, outcome, lacking).await
        };
        let asked = asking.await;
        self.endpoint.record_ask(turn, &asked);
        asked
    }

    /// Asks the Core for a KMS context or an epoch. That it is busy with another one says nothing to those who ask
    /// for something else, so it takes no turn.
    pub async fn ask_lifecycle(
        &self,
        request: &Request,
        ask: KeyAsk<'_>,
    ) -> Result<AskResult, CoreError> {
        let outcome = self.send_key_operation(request.key.id, ask).await?;
        self.conclude_ask(CallKind::Tell, request, outcome, || lacking(ask.operation)).await
    }

    /// Tells the Core of a key operation that has no result. What is not there to be undone is undone, and a Core
    /// without the call was never asked for anything that the call could undo.
    pub async fn tell(
        &self,
        turn: AskPermit,
        request: &Request,
        telling: Telling,
    ) -> Result<(), CoreError> {
        let told = self.tell_once(request, telling).await;
        self.endpoint.record_ask(turn, &told);
        told
    }

    /// Tells the Core of the end of a KMS context or an epoch. `epochs`: all of the context, if it is about one.
    pub async fn tell_end(
        &self,
        request: &Request,
        end: LifecycleEnd,
        epochs: &[U256],
    ) -> Result<(), CoreError> {
        let limit = self.options.ask;
        let mut client = self.endpoint.ask_client();
        let told = match end {
            LifecycleEnd::Context(context) => {
                let message = wire::context_end_request(context, epochs);
                let asking = client.destroy_mpc_context(traced(message));
                let told = self.endpoint.call("destroy_mpc_context", limit, asking).await;
                told.map(|v1::DestroyMpcContextResponse { .. }| v1::Empty {})
            }
            LifecycleEnd::Epoch(epoch) => {
                let asking = client.destroy_mpc_epoch(traced(wire::epoch_end_request(epoch)));
                self.endpoint.call("destroy_mpc_epoch", limit, asking).await
            }
        };
        self.conclude_telling(request, CallKind::Undo, told, lacks_default_context)
    }

    async fn tell_once(&self, request: &Request, telling: Telling) -> Result<(), CoreError> {
        let limit = self.options.ask;
        let mut client = self.endpoint.ask_client();
        let told = match telling {
            Telling::AbortKeygen(preparation) => {
                let asking = client.abort_key_gen(traced(wire::request_id(preparation)));
                self.endpoint.call("abort_key_gen", limit, asking).await
            }
            Telling::AbortCrsgen(crs) => {
                let asking = client.abort_crs_gen(traced(wire::request_id(crs)));
                self.endpoint.call("abort_crs_gen", limit, asking).await
            }
            Telling::InitRandomness => {
                let message = wire::randomness_request(RANDOMNESS_ID);
                let asking = client.init(traced(message));
                self.endpoint.call("init", limit, asking).await
            }
            Telling::Reshare { id, preparation, key, parameters } => {
                let message =
                    wire::resharing_request((id, preparation, key), parameters, &self.domain);
                let asking = client.initiate_resharing(traced(message));
                let told = self.endpoint.call("initiate_resharing", limit, asking).await;
                told.map(|v1::InitiateResharingResponse { .. }| v1::Empty {})
            }
        };
        self.conclude_telling(request, telling.call(), told, || telling.lacking())
    }

    /// What a Core's reply means to whom tells it something.
    fn conclude_telling(
        &self,
        request: &Request,
        call: CallKind,
        told: Result<v1::Empty, NoReply>,
        lacking: impl FnOnce() -> (HoldReason, String),
    ) -> Result<(), CoreError> {
        let status = match told {
            Ok(v1::Empty {}) => return Ok(()),
            Err(NoReply::TimedOut) => return Err(timeout_error(self.options.ask)),
            Err(NoReply::Status(status)) => status,
        };
        match status::meaning(call, &status) {
            StatusMeaning::AlreadyKnown => Ok(()),
            StatusMeaning::Busy => Err(busy_error(&status)),
            StatusMeaning::Lacking => {
                let (reason, what) = lacking();
                Err(CoreError::Held(hold(reason, &what, &status, request)))
            }
            StatusMeaning::Hold(reason, what) => {
                Err(CoreError::Held(hold(reason, what, &status, request)))
            }
            StatusMeaning::Unreachable
            | StatusMeaning::Ambiguous
            | StatusMeaning::Pending
            | StatusMeaning::Forgotten => Err(unreachable_error(&status)),
        }
    }

    pub(super) async fn send_key_operation(
        &self,
        id: U256,
        KeyAsk { operation, supplement }: KeyAsk<'_>,
    ) -> Result<Result<v1::Empty, NoReply>, CoreError> {
        let (domain, limit) = (&self.domain, self.options.ask);
        let representation = supplement.representation();
        let extra_data = operation.extra_data();
        let mut client = self.endpoint.ask_client();
        Ok(match operation {
            KeyOperation::PrepKeygen { parameters, .. } => {
                let of = (id, *parameters);
                let message = wire::preparation_request(of, domain, extra_data, representation);
                let asking = client.key_gen_preproc(traced(message));
                self.endpoint.call("key_gen_preproc", limit, asking).await
            }
            KeyOperation::Keygen { preparation, .. } => {
                let of = (id, *preparation);
                let message = wire::keygen_request(of, domain, extra_data, representation);
                let asking = client.key_gen(traced(message));
                self.endpoint.call("key_gen", limit, asking).await
            }
            KeyOperation::Crsgen { max_bits, parameters, .. } => {
                let of = (id, *parameters);
                let message = wire::crsgen_request(of, *max_bits, domain, extra_data)?;
                let asking = client.crs_gen(traced(message));
                self.endpoint.call("crs_gen", limit, asking).await
            }
            KeyOperation::NewKmsContext { previous, context, .. } => {
                let Supplement::PreviousContext(before) = supplement else {
                    return Ok(Err(asked_by_nobody()));
                };
                for (id, context) in [(*previous, before), (id, &**context)] {
                    let asking =
                        client.new_mpc_context(traced(wire::context_request(id, context)?));
                    let told = self.endpoint.call("new_mpc_context", limit, asking).await;
                    if let Err(error) = told
                        && !is_known(&error)
                    {
                        return Ok(Err(error));
                    }
                }
                Ok(v1::Empty {})
            }
            KeyOperation::NewKmsEpoch {
                context,
                previous_context,
                previous_epoch,
                extra_data,
                material_block: _,
            } => {
                let Supplement::Material(material) = supplement else {
                    return Ok(Err(asked_by_nobody()));
                };
                let previous = (*previous_context, *previous_epoch);
                let new = (*context, id);
                let message = wire::epoch_request(new, previous, material, domain, extra_data)?;
                within_limit(&message)?;
                let asking = client.new_mpc_epoch(traced(message));
                self.endpoint.call("new_mpc_epoch", limit, asking).await
            }
            KeyOperation::AbortKeygen { .. }
            | KeyOperation::AbortCrsgen { .. }
            | KeyOperation::PrssInit
            | KeyOperation::KeyReshare { .. }
            | KeyOperation::ContextDestroyed { .. }
            | KeyOperation::EpochDestroyed { .. }
            | KeyOperation::RecordedEvent { .. }
            | KeyOperation::UnsupportedEvent { .. } => Err(asked_by_nobody()),
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
            KeyOperation::NewKmsEpoch { .. } => {
                let polling = client.get_epoch_result(question);
                endpoint.call("get_epoch_result", limit, polling).await.map(KeyReply::Epoch)
            }
            KeyOperation::AbortKeygen { .. }
            | KeyOperation::AbortCrsgen { .. }
            | KeyOperation::PrssInit
            | KeyOperation::KeyReshare { .. }
            | KeyOperation::NewKmsContext { .. }
            | KeyOperation::ContextDestroyed { .. }
            | KeyOperation::EpochDestroyed { .. }
            | KeyOperation::RecordedEvent { .. }
            | KeyOperation::UnsupportedEvent { .. } => Err(asked_by_nobody()),
        }
    }
}

/// Whether a Core that was asked for a KMS context has it already.
fn is_known(error: &NoReply) -> bool {
    let NoReply::Status(status) = error else { return false };
    status::meaning(CallKind::Tell, status) == StatusMeaning::AlreadyKnown
}

/// What a Core is only told or gives no result for, and what is held before any Core is asked.
fn asked_by_nobody() -> NoReply {
    NoReply::Status(Box::new(Status::not_found("no Core is asked for this")))
}

/// What a Core lacks that does not find something of a key operation.
fn lacking(operation: &KeyOperation) -> (HoldReason, String) {
    match operation {
        KeyOperation::Keygen { preparation, .. } => (
            HoldReason::CoreLacksPreparation,
            format!("the KMS Core does not know the preparation {preparation:#066x} of this key"),
        ),
        KeyOperation::PrepKeygen { .. }
        | KeyOperation::Crsgen { .. }
        | KeyOperation::AbortKeygen { .. }
        | KeyOperation::AbortCrsgen { .. }
        | KeyOperation::PrssInit
        | KeyOperation::KeyReshare { .. }
        | KeyOperation::NewKmsContext { .. }
        | KeyOperation::NewKmsEpoch { .. }
        | KeyOperation::ContextDestroyed { .. }
        | KeyOperation::EpochDestroyed { .. }
        | KeyOperation::RecordedEvent { .. }
        | KeyOperation::UnsupportedEvent { .. } => {
            let extra_data = operation.extra_data();
            let meaning = ExtraDataMeaning::of_key_operation(extra_data);
            let NamedContext { context, epoch } =
                meaning.named_context(extra_data.map_or(&[][..], |bytes| bytes));
            let what = match (context, epoch) {
                (None, _) => "its default KMS context, or the epoch in it".to_owned(),
                (Some(context), None) => format!("KMS context {context:#066x}"),
                (Some(context), Some(epoch)) => {
                    format!("KMS context {context:#066x}, or not epoch {epoch:#066x} in it")
                }
            };
            (HoldReason::CoreLacksContext, format!("the KMS Core does not know {what}"))
        }
    }
}
