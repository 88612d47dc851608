//! Decryptions: what is checked of an ask, how long its result takes, and the answer in the form of a
//! version.

use alloy::primitives::{Address, B256, U256, keccak256};
use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::{
    Behaviour, CoreVersion, Fault, Hopeless, another, check_id,
    results::{decrypted_result, plaintext_of_digest, share_bytes, share_payload},
    signature::{PUBLIC_TYPEHASHES, USER_TYPEHASHES},
    state::{Entry, Look, Shared},
    text_of,
    version::UnknownKey,
};
use crate::proto::kms::v1;

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

/// The parts both kinds of ask have in common.
pub(super) struct Question {
    pub(super) id: Option<v1::RequestId>,
    pub(super) key_id: Option<v1::RequestId>,
    pub(super) domain: Option<v1::Eip712DomainMsg>,
    pub(super) ciphertexts: Vec<v1::TypedCiphertext>,
    pub(super) extra_data: Bytes,
    pub(super) context_id: Option<v1::RequestId>,
    pub(super) epoch_id: Option<v1::RequestId>,
    pub(super) client: Option<(String, Bytes)>,
    pub(super) traceparent: Option<String>,
}

/// The trace that a call is part of.
pub(super) fn traceparent<T>(request: &Request<T>) -> Option<String> {
    request.metadata().get("traceparent")?.to_str().ok().map(str::to_owned)
}

impl Shared {
    pub(super) fn ask(&self, question: &Question) -> Result<Response<v1::Empty>, Status> {
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
        state.admit(&ask.id)?;
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
        let (context, epoch) = (ask.context_id.as_deref(), ask.epoch_id.as_deref());
        self.check_context(&state, &ask.id, context, epoch)?;
        let keys = self.options.keys.as_ref();
        let stuck = keys.is_some_and(|keys| keys.iter().all(|key| text_of(*key) != ask.key_id));
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

    /// Waits for the result as the real Core does. The state comes along, unlocked.
    pub(super) async fn result(&self, id: v1::RequestId) -> Result<(Entry, Behaviour), Status> {
        let id = id.request_id;
        *self.state().polls.entry(id.clone()).or_default() += 1;
        if let Err(why) = check_id(&id) {
            return Err(self.refusal(Code::InvalidArgument, &id, &why));
        }
        self.wait(&id, |state| {
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
                return Ok(Look::Done((entry.clone(), behaviour)));
            }
            Ok(Look::Pending { ready, hold: behaviour.hold })
        })
        .await
    }
}

/// The answers.
impl Shared {
    pub(super) fn public_response(
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

    pub(super) fn user_response(
        &self,
        entry: Entry,
        behaviour: &Behaviour,
    ) -> v1::UserDecryptionResponse {
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
