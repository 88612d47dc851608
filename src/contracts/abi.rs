//! The ABI of the contracts: decodes logs, errors and view results, encodes calldata. Pure: no I/O, no
//! clock, no tracing. The only place that knows Solidity; callers see types of `domain`.
//!
//! | generation | file | what differs from the one before |
//! |---|---|---|
//! | G7 | `g7` | requests and responses without `extraData` |
//! | G8 | `g8` | `bytes extraData` at the end of both |
//! | G9 (to G13) | `g8` | same events and calls; the id's top byte tells the kind |
//! | G14 | `g14` | a second, unified user request event |
//! | HEAD | `head` | handle-only overloads beside every request event |
//!
//! `keys` has the events and calls of `KMSGeneration` and `ProtocolConfig`, with a table of its own.
//!
//! A generation is chosen once per direction: by `topic0` in [`decode`], by the request in
//! [`response_call`].
//!
//! To add one:
//!
//! 1. [`Generation`] and the versions that tell it ([`told_deployment`]). The compiler names each `match`;
//!    comparisons hold for it, too, so look at every capability of [`Deployment`].
//! 2. If its events differ: a file here, its shapes in [`SHAPES`], and an `EventShape` of `domain`, which the
//!    compiler follows. Overloads of one request must have one `content`.
//! 3. If its responses differ: [`ResponseForm`], `responses`; new errors in `errors`, and who raises them in
//!    `errors::origin`.
//! 4. If its `extraData` means something else: [`ContextRule`], and with it `flow::access::context` and
//!    `flow::kms_core::wire`. If its ciphertexts are found otherwise: [`CiphertextSource`], `flow::ciphertexts`.
//! 5. What the configuration needs for it: `instance::host_chains::lack_for`.
//! 6. Its name in `domain::SERVED_GENERATIONS`, which a test compares with [`Generation`], and another with the
//!    words that `explain` knows; its contracts in `tests/contracts`.
//!
//! Invariants:
//! - Every log with a topic of [`request_topics`] becomes a [`Request`] or a [`DecodeError`]; no request
//!   is invisible. Whether the deployment can be served is decided by the walk.
//! - What a Solidity decoder accepts is accepted (gaps and trailing bytes included); what it reverts on
//!   (a bad offset, an address with dirty upper bytes) is refused.
//! - Whether a request makes sense (no materials, several keys, unknown types) is decided by the walk,
//!   not here.
//!
//! Source: gateway-abi sections 1 to 5 and 10 to 12.

mod g7;
mod g8;
mod g14;
mod head;
mod keys;
mod legacy_call;
mod consensus;
mod content;
mod errors;
mod counter;
mod responses;
mod views;
mod deployment;

pub use crate::domain::Generation;
pub use consensus::{CONSENSUS_TOPICS, consensus_id};
pub use content::{early_content, materials_hash};
pub use counter::{Counter, HIGHEST_COUNT, empty_response_call, request_event_id};
pub use deployment::{
    CiphertextSource, ContextRule, Deployment, DeploymentProbes, ToldDeployment, told_deployment,
};
pub use errors::{ContractError, RaisedFor, RevertMeaning, Subject};
pub use keys::{
    CONTEXT_CONFIRMATION_TOPIC, CONTEXT_TOPIC, EPOCH_CONFIRMATION_TOPIC, EPOCH_TOPIC, VOTE_TOPICS,
    Vote, epoch_extra_data, epoch_payload, epoch_result, is_notice, key_digests,
    key_digests_payload, opened_epoch, parse_vote, unserved_event, voted_on,
};
pub use legacy_call::LegacyUserCall;
pub use responses::{
    RESPONSE_TOPICS, Responder, has_answer_events, parse_response_event, response_calldata_id,
};
pub use views::{
    Coprocessor, KmsNode, View, ViewDecodeError, ViewProblem, consensus_tx_senders,
    contract_version, coprocessor, coprocessor_majority_threshold, coprocessor_tx_senders,
    current_kms_context_id, is_decryption_done, is_valid_kms_context, kms_node,
    kms_node_for_context, kms_signers, kms_signers_for_context, kms_tx_senders, signing_domain,
    unified_request_is_ready,
};
pub use views::{acl, key_generation, protocol_config};

use alloy::primitives::b256;
use alloy::sol_types::{self, abi::AbiDecoderConfig};

use crate::domain::{
    Address, Answer, B256, BlockRef, Bytes, Event, EventShape, Kind, KindGroup, Material,
    Operation, Request, RequestKey, RequestSource, SignedResult, U256,
};

/// `Upgraded(address)` of the contract's proxy (ERC-1967): the deployment has to be probed again.
pub const UPGRADED_TOPIC: B256 =
    b256!("bc7cd75a20ee27fd9adebab32041f755214dbc6bffa90cc0225b39da2e5c2d3b");

/// Decoder settings for everything here: words must fit their types, trailing bytes are ignored. The
/// memory limit guards against data whose offsets alias one array many times; the largest legal request
/// (1,024 handles) stays far below it.
const DECODER: AbiDecoderConfig = AbiDecoderConfig::new().validate(true).memory_limit(64 << 20);

/// What a shape decodes from a log.
type ParsedOperation = (EventShape, Operation);

/// One overload of a request event.
struct RequestEventShape {
    topic0: B256,
    /// The canonical event signature.
    event: &'static str,
    kind: Kind,
    /// Whether it says where the ciphertexts are.
    names_materials: bool,
    /// Decodes id and data.
    read: fn(U256, &[u8]) -> sol_types::Result<ParsedOperation>,
}

/// Every request event of every generation.
const SHAPES: [RequestEventShape; 8] = [
    g7::PUBLIC_REQUEST,
    g7::USER_REQUEST,
    g8::PUBLIC_REQUEST,
    g8::USER_REQUEST,
    g14::UNIFIED_USER_REQUEST,
    head::PUBLIC_REQUEST,
    head::USER_REQUEST,
    head::UNIFIED_USER_REQUEST,
];

/// An `SnsCiphertextMaterial` as decoded.
type RawMaterial = (B256, U256, B256, Vec<Address>);

fn materials(raw: Vec<RawMaterial>) -> Vec<Material> {
    raw.into_iter()
        .map(|(handle, key_id, digest, coprocessors)| Material {
            handle,
            key_id,
            digest,
            coprocessors,
        })
        .collect()
}

/// Every `topic0` to subscribe to at the Decryption contract: all request events of all generations, and
/// [`UPGRADED_TOPIC`].
#[must_use]
pub fn request_topics() -> Vec<B256> {
    SHAPES.iter().map(|shape| shape.topic0).chain([UPGRADED_TOPIC]).collect()
}

/// Whether a request's event says where its ciphertexts are.
#[must_use]
pub fn names_materials(event: &Event) -> bool {
    let names =
        |topic0: &B256| SHAPES.iter().all(|shape| shape.topic0 != *topic0 || shape.names_materials);
    event.topics.first().is_some_and(names)
}

/// The kind of request that a log with this `topic0` is. `None`: not a request.
#[must_use]
pub fn kind_of_topic(topic0: B256) -> Option<Kind> {
    SHAPES.iter().find(|shape| shape.topic0 == topic0).map(|shape| shape.kind)
}

/// Decodes a request from a log.
///
/// The content of its key is the hash of what is asked for, not of the bytes that came: the overloads of one
/// request are one request. A log that no table knows is a request of kind [`Kind::UnsupportedEvent`]: whether
/// a contract may emit it is known where the contract is read.
pub fn decode(source: RequestSource, event: &Event) -> Result<Request, DecodeError> {
    let fail = |problem| DecodeError {
        block: event.block,
        transaction: event.transaction,
        log_index: event.log_index,
        problem,
    };
    let topic0 = event.topics.first();
    let (id, shape, operation) = match SHAPES.iter().find(|shape| Some(&shape.topic0) == topic0) {
        Some(shape) => read_decryption(shape, event),
        // All generations that ask for key operations here also emit decryptions of this shape.
        None => keys::decode(event).map(|(id, key)| (id, EventShape::G9, Operation::Key(key))),
    }
    .map_err(fail)?;

    let content = content::content(id, shape, &operation);
    Ok(Request {
        key: RequestKey { source, id, content },
        shape,
        block: event.block,
        transaction: event.transaction,
        operation,
    })
}

fn read_decryption(
    shape: &RequestEventShape,
    event: &Event,
) -> Result<(U256, EventShape, Operation), DecodeProblem> {
    let &[_, topic1] = event.topics.as_slice() else {
        let (event, found) = (shape.event, event.topics.len());
        return Err(DecodeProblem::Topics { event, expected: 2, found });
    };
    let id = U256::from_be_bytes(topic1.0);
    let (emitted, operation) = (shape.read)(id, &event.data)
        .map_err(|cause| DecodeProblem::Data { event: shape.event, source: Box::new(cause) })?;
    Ok((id, emitted, operation))
}

/// The calldata that delivers `answer` to the contract, in the form that goes with the request's
/// shape.
///
/// In G7 the answer's `extra_data` is left out.
#[must_use]
pub fn response_call(request: &Request, answer: &Answer) -> Bytes {
    ResponseForm::of(request.shape).call(request.kind(), request.key.id, answer.signed())
}

/// The form of the functions that bring answers: what a deployment takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseForm {
    /// G7: without `extraData`.
    Plain,
    /// From G8 on.
    WithExtraData,
}

impl ResponseForm {
    /// That of the deployments which emit requests of this shape.
    fn of(shape: EventShape) -> Self {
        if shape.has_extra_data() { Self::WithExtraData } else { Self::Plain }
    }

    fn call(self, kind: Kind, id: U256, answer: &SignedResult) -> Bytes {
        match (self, kind.group()) {
            (Self::Plain, KindGroup::PublicDecryption) => {
                g7::public_response_call(id, answer.clone())
            }
            (Self::Plain, KindGroup::UserDecryption) => g7::user_response_call(id, answer.clone()),
            (Self::WithExtraData, KindGroup::PublicDecryption) => {
                g8::public_response_call(id, answer.clone())
            }
            (Self::WithExtraData, KindGroup::UserDecryption) => {
                g8::user_response_call(id, answer.clone())
            }
            (_, KindGroup::KeyOperation) => keys::response_call(kind, id, answer),
        }
    }
}

/// A log that does not decode to a request: which log, and why. There is no request to retry, hold or
/// refuse; the log itself is stored, counted and skipped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("log {log_index} of transaction {transaction} in block {}: {problem}", block.number)]
pub struct DecodeError {
    pub block: BlockRef,
    pub transaction: B256,
    pub log_index: u64,
    #[source]
    pub problem: DecodeProblem,
}

impl DecodeError {
    /// The log is a request, and not one of the contract that emitted it.
    #[must_use]
    pub fn of_other_contract(event: &Event) -> Self {
        let Event { block, transaction, log_index, .. } = *event;
        Self { block, transaction, log_index, problem: DecodeProblem::OtherContract }
    }
}

/// Why a log does not decode.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeProblem {
    /// It asks for nothing: [`UPGRADED_TOPIC`], for example, which is watched and is no request.
    #[error("its topic {topic0} is no request event")]
    NotARequest { topic0: B256 },
    /// It asks for what another contract asks for.
    #[error("it is no event of this contract")]
    OtherContract,
    #[error("{event} has {expected} topics, found {found}")]
    Topics { event: &'static str, expected: usize, found: usize },
    #[error("the data is not that of {event}: {source}")]
    Data { event: &'static str, source: Box<sol_types::Error> },
}

#[cfg(test)]
mod tests;
