//! Contexts and epochs, and what there was before them: shared randomness and resharing (kms-core-grpc
//! 3.5, 6.3).
//!
//! Contexts and epochs are stored: they outlive [`CoreStub::restart`]. The result of an epoch does not, and
//! an epoch that was not finished is lost. Who stands only in the previous context gives his shares, and
//! signs nothing anew.

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy::primitives::{Address, U256};
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::{
    Behaviour, CoreStub, CoreVersion, Hopeless, KeyAsk, KeyOperation, check_id,
    keys::{key_type, number_of},
    state::{Look, Shared, State},
    text_of,
};
use crate::proto::kms::v1;

/// What it can be asked about contexts and epochs, as on the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Lifecycle {
    Init(v1::InitRequest),
    Reshare(v1::InitiateResharingRequest),
    NewContext(v1::NewMpcContextRequest),
    DestroyContext(v1::DestroyMpcContextRequest),
    NewEpoch(v1::NewMpcEpochRequest),
    DestroyEpoch(v1::DestroyMpcEpochRequest),
    AbortKey(v1::RequestId),
    AbortCrs(v1::RequestId),
}

impl Lifecycle {
    /// The id of what it is about.
    pub fn id(&self) -> U256 {
        let id = match self {
            Self::Init(request) => request.request_id.as_ref(),
            Self::Reshare(request) => request.request_id.as_ref(),
            Self::NewContext(request) => {
                request.new_context.as_ref().and_then(|context| context.context_id.as_ref())
            }
            Self::DestroyContext(request) => request.context_id.as_ref(),
            Self::NewEpoch(request) => request.epoch_id.as_ref(),
            Self::DestroyEpoch(request) => request.epoch_id.as_ref(),
            Self::AbortKey(id) | Self::AbortCrs(id) => Some(id),
        };
        id.and_then(|id| U256::from_str_radix(&id.request_id, 16).ok()).unwrap_or_default()
    }
}

/// One such ask, whatever became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LifecycleAsk {
    pub ask: Lifecycle,
    /// `Code::Ok`: accepted.
    pub code: Code,
}

/// What it remembers.
#[derive(Debug, Default)]
pub(super) struct Ceremonies {
    asks: Vec<LifecycleAsk>,
    has_randomness: bool,
    resharings: HashMap<String, Resharing>,
    contexts: BTreeMap<String, v1::MpcContext>,
    destroyed_contexts: HashSet<String>,
    epochs: BTreeMap<String, Epoch>,
    destroyed_epochs: HashSet<String>,
}

#[derive(Debug)]
struct Resharing {
    since: Instant,
    request: v1::InitiateResharingRequest,
}

#[derive(Debug)]
struct Epoch {
    since: Instant,
    /// It was told: so it is done, whatever the latency is now.
    told: bool,
    /// A restart lost its result.
    forgotten: bool,
    request: v1::NewMpcEpochRequest,
}

impl Epoch {
    fn is_done(&self, behaviour: &Behaviour) -> bool {
        let passed =
            !behaviour.never_finish && self.since + behaviour.key_latency <= Instant::now();
        self.told || self.forgotten || passed
    }
}

impl Ceremonies {
    /// What a restart leaves.
    pub(super) fn restart(&mut self, behaviour: &Behaviour) {
        self.resharings.clear();
        self.epochs.retain(|_, epoch| epoch.is_done(behaviour));
        for epoch in self.epochs.values_mut() {
            epoch.forgotten = true;
        }
    }

    /// Whether an epoch is being made.
    pub(super) fn runs(&self, behaviour: &Behaviour) -> bool {
        self.epochs.values().any(|epoch| !epoch.is_done(behaviour))
    }

    pub(super) fn has_epoch(&self, id: &str) -> bool {
        !self.destroyed_epochs.contains(id)
    }
}

impl CoreStub {
    /// Every ask about contexts and epochs so far, and every abort, in order of arrival.
    pub fn lifecycle_asks(&self) -> Vec<LifecycleAsk> {
        self.shared.state().ceremonies.asks.clone()
    }

    /// Those of them that it accepted, about this id.
    pub fn accepted_lifecycle(&self, id: U256) -> Vec<Lifecycle> {
        let asks = self.lifecycle_asks().into_iter();
        let mine = asks.filter(|ask| ask.code == Code::Ok && ask.ask.id() == id);
        mine.map(|ask| ask.ask).collect()
    }

    /// The contexts it has made and not destroyed.
    pub fn contexts(&self) -> Vec<U256> {
        let state = self.shared.state();
        let ids = state.ceremonies.contexts.keys();
        ids.filter_map(|id| U256::from_str_radix(id, 16).ok()).collect()
    }

    /// The epochs it has made and not destroyed.
    pub fn epochs(&self) -> Vec<U256> {
        let state = self.shared.state();
        let ids = state.ceremonies.epochs.keys();
        ids.filter_map(|id| U256::from_str_radix(id, 16).ok()).collect()
    }

    /// What it answers to this, whether it was asked or not.
    pub fn epoch_result(&self, request: &v1::NewMpcEpochRequest) -> v1::EpochResultResponse {
        self.shared.reshared(request)
    }
}

impl State {
    /// Whether it has a context: one that it made, or was set up with.
    pub(super) fn has_context(&self, set_up_with: Option<&Vec<String>>, id: &str) -> bool {
        let ceremonies = &self.ceremonies;
        let from_the_start = || set_up_with.is_none_or(|ids| ids.iter().any(|one| one == id));
        !ceremonies.destroyed_contexts.contains(id)
            && (ceremonies.contexts.contains_key(id) || from_the_start())
    }
}

impl Shared {
    /// Records an ask and what became of it.
    pub(super) fn ask_lifecycle<T>(
        &self,
        ask: Lifecycle,
        serve: impl FnOnce(&Self) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let outcome = serve(self);
        let code = outcome.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.state().ceremonies.asks.push(LifecycleAsk { ask, code });
        outcome.map(Response::new)
    }

    fn has_lifecycle(&self) -> Result<(), Status> {
        let has = self.options.version >= CoreVersion::V0_13_10;
        if has { Ok(()) } else { Err(Status::unimplemented("no contexts and epochs")) }
    }

    fn had_resharing(&self) -> Result<(), Status> {
        let had = self.options.version.makes_keys() && self.options.version <= CoreVersion::V0_13;
        if had { Ok(()) } else { Err(Status::unimplemented("no resharing of this kind")) }
    }

    /// The id, if it is one.
    fn id_of(&self, id: Option<&v1::RequestId>) -> Result<String, Status> {
        let id = id.map(|id| id.request_id.clone()).unwrap_or_default();
        check_id(&id).map_err(|why| self.refusal(Code::InvalidArgument, &id, &why))?;
        Ok(id)
    }

    // Up to v0.13.3.

    pub(super) fn init(&self, request: &v1::InitRequest) -> Result<v1::Empty, Status> {
        self.had_resharing()?;
        let id = self.id_of(request.request_id.as_ref())?;
        let mut state = self.state();
        state.admit(&id)?;
        if state.ceremonies.has_randomness {
            return Err(self.refusal(Code::AlreadyExists, &id, "PRSS is set up"));
        }
        state.ceremonies.has_randomness = true;
        Ok(v1::Empty {})
    }

    pub(super) fn reshare(
        &self,
        request: &v1::InitiateResharingRequest,
    ) -> Result<v1::InitiateResharingResponse, Status> {
        self.had_resharing()?;
        let id = self.id_of(request.request_id.as_ref())?;
        let key = self.id_of(request.key_id.as_ref())?;
        self.id_of(request.preproc_id.as_ref())?;
        check_domain(request.domain.as_ref(), "KMSGeneration", self.options.key_generation)
            .map_err(|why| self.refusal(Code::InvalidArgument, &id, &why))?;
        let mut state = self.state();
        state.admit(&id)?;
        if state.ceremonies.resharings.contains_key(&id) {
            return Err(self.refusal(Code::AlreadyExists, &id, "already exists"));
        }
        if !state.has_key(&key) {
            return Err(self.refusal(Code::NotFound, &id, "unknown key"));
        }
        let resharing = Resharing { since: Instant::now(), request: request.clone() };
        state.ceremonies.resharings.insert(id, resharing);
        Ok(v1::InitiateResharingResponse { request_id: request.request_id.clone() })
    }

    pub(super) async fn resharing_result(
        &self,
        id: v1::RequestId,
    ) -> Result<Response<v1::ResharingResultResponse>, Status> {
        self.had_resharing()?;
        let text = self.id_of(Some(&id))?;
        *self.state().polls.entry(text.clone()).or_default() += 1;
        let hold = self.options.version.key_hold(KeyOperation::Key);
        let request = self.wait(&text, |state| {
            let behaviour = state.behaviour.clone();
            if let Some((code, why)) = behaviour.poll_status {
                return Err(Status::new(code, why));
            }
            let Some(resharing) = state.ceremonies.resharings.get(&text) else {
                return Err(Status::not_found(format!("unknown request {text}")));
            };
            let ready = resharing.since + behaviour.key_latency;
            if !behaviour.never_finish && ready <= Instant::now() {
                return Ok(Look::Done(resharing.request.clone()));
            }
            let ready = (!behaviour.never_finish).then_some(ready);
            Ok(Look::Pending { ready, hold: behaviour.key_hold.unwrap_or(hold) })
        });
        let request = request.await?;
        let word = |id: &Option<v1::RequestId>| id.clone().map(|id| id.request_id);
        let ask = KeyAsk {
            preprocessing: word(&request.preproc_id),
            ..KeyAsk::new(KeyOperation::Key, word(&request.key_id).unwrap_or_default())
        };
        let made = self.make_key(&ask);
        Ok(Response::new(v1::ResharingResultResponse {
            request_id: Some(id),
            key_id: request.key_id,
            preprocessing_id: request.preproc_id,
            key_digests: made.key_digests,
            external_signature: made.external_signature,
        }))
    }

    // Contexts.

    pub(super) fn new_context(
        &self,
        request: &v1::NewMpcContextRequest,
    ) -> Result<v1::Empty, Status> {
        self.has_lifecycle()?;
        let context = request.new_context.clone().unwrap_or_default();
        let id = self.id_of(context.context_id.as_ref())?;
        let mut state = self.state();
        state.admit(&id)?;
        self.examine_context(&context)
            .map_err(|why| self.refusal(Code::InvalidArgument, &id, &why))?;
        if state.behaviour.lifecycle_runs {
            return Err(self.refusal(Code::FailedPrecondition, &id, "another operation runs"));
        }
        let set_up_with = self.options.contexts.as_ref();
        let is_set_up = set_up_with.is_some_and(|_| state.has_context(set_up_with, &id));
        if is_set_up || state.ceremonies.contexts.contains_key(&id) {
            return Err(self.refusal(Code::AlreadyExists, &id, "already exists"));
        }
        state.ceremonies.destroyed_contexts.remove(&id);
        state.ceremonies.contexts.insert(id, context);
        Ok(v1::Empty {})
    }

    fn examine_context(&self, context: &v1::MpcContext) -> Result<(), String> {
        let nodes = &context.mpc_nodes;
        if nodes.is_empty() {
            return Err("a context of no nodes".into());
        }
        let parties: HashSet<i32> = nodes.iter().map(|node| node.party_id).collect();
        if parties.len() != nodes.len() || parties.iter().any(|party| *party < 1) {
            return Err("parties are not told apart".into());
        }
        if usize::try_from(context.threshold).map_or(true, |most| most >= nodes.len()) {
            return Err(format!("a threshold of {}", context.threshold));
        }
        let by_address = self.options.version >= CoreVersion::V0_14;
        for node in nodes {
            if by_address && node.signer_address.as_ref().is_none_or(|one| one.len() != 20) {
                return Err(format!("the signer of {}", node.mpc_identity));
            }
            if by_address && node.extra_signer_addresses.iter().any(|one| one.len() != 20) {
                return Err(format!("further signers of {}", node.mpc_identity));
            }
            if node.mpc_identity.is_empty() {
                return Err("a node without an identity".into());
            }
        }
        Ok(())
    }

    pub(super) fn destroy_context(
        &self,
        request: &v1::DestroyMpcContextRequest,
    ) -> Result<v1::DestroyMpcContextResponse, Status> {
        self.has_lifecycle()?;
        let id = self.id_of(request.context_id.as_ref())?;
        let mut named = Vec::new();
        for epoch in &request.epoch_ids {
            named.push(self.id_of(Some(epoch))?);
        }
        let mut state = self.state();
        state.admit(&id)?;
        let behaviour = state.behaviour.clone();
        let set_up_with = self.options.contexts.as_ref();
        if !state.has_context(set_up_with, &id) {
            return Err(self.refusal(Code::NotFound, &id, "unknown context"));
        }
        if behaviour.lifecycle_runs || state.ceremonies.runs(&behaviour) {
            return Err(self.refusal(Code::FailedPrecondition, &id, "another operation runs"));
        }
        let others = |state: &State| {
            let made = state.ceremonies.contexts.keys();
            made.chain(set_up_with.into_iter().flatten())
                .any(|other| *other != id && state.has_context(set_up_with, other))
        };
        if set_up_with.is_some() && !others(&state) {
            return Err(self.refusal(Code::FailedPrecondition, &id, "the last context"));
        }
        // v0.14 destroys the epochs that it is told, later ones know them.
        let mut epochs = named;
        if self.options.version >= CoreVersion::Head {
            let of_it = |epoch: &Epoch| {
                epoch.request.context_id.as_ref().is_some_and(|context| context.request_id == id)
            };
            let all = state.ceremonies.epochs.iter().filter(|(_, epoch)| of_it(epoch));
            epochs = all.map(|(epoch, _)| epoch.clone()).collect();
        }
        for epoch in &epochs {
            state.ceremonies.epochs.remove(epoch);
            state.ceremonies.destroyed_epochs.insert(epoch.clone());
        }
        state.ceremonies.contexts.remove(&id);
        state.ceremonies.destroyed_contexts.insert(id);
        drop(state);
        self.changed.notify_waiters();
        let told = if self.options.version >= CoreVersion::Head { epochs } else { Vec::new() };
        let told = told.into_iter().map(|request_id| v1::RequestId { request_id });
        Ok(v1::DestroyMpcContextResponse { epoch_ids: told.collect() })
    }

    // Epochs.

    pub(super) fn new_epoch(&self, request: &v1::NewMpcEpochRequest) -> Result<v1::Empty, Status> {
        self.has_lifecycle()?;
        let id = self.id_of(request.epoch_id.as_ref())?;
        let context = self.id_of(request.context_id.as_ref())?;
        let mut state = self.state();
        state.admit(&id)?;
        self.examine_epoch(request)
            .map_err(|why| self.refusal(Code::InvalidArgument, &id, &why))?;
        let behaviour = state.behaviour.clone();
        if let Some(epoch) = state.ceremonies.epochs.get(&id) {
            let is_stored = epoch.is_done(&behaviour);
            let code = if is_stored { Code::InvalidArgument } else { Code::AlreadyExists };
            return Err(self.refusal(code, &id, "already exists"));
        }
        if behaviour.lifecycle_runs || state.ceremonies.runs(&behaviour) {
            return Err(self.refusal(Code::FailedPrecondition, &id, "another operation runs"));
        }
        if !state.has_context(self.options.contexts.as_ref(), &context) {
            return Err(self.refusal(Code::NotFound, &id, "unknown context"));
        }
        if state.hopeless(&id) != Some(Hopeless::Forgotten) {
            let request = request.clone();
            let epoch = Epoch { since: Instant::now(), told: false, forgotten: false, request };
            state.ceremonies.destroyed_epochs.remove(&id);
            state.ceremonies.epochs.insert(id, epoch);
        }
        Ok(v1::Empty {})
    }

    fn examine_epoch(&self, request: &v1::NewMpcEpochRequest) -> Result<(), String> {
        // Without a previous one it is the first, with nothing to share anew.
        let Some(previous) = &request.previous_epoch else { return Ok(()) };
        check_domain(request.domain.as_ref(), "ProtocolConfig", self.options.protocol_config)?;
        let keys = previous.keys_info.iter().flat_map(|key| [&key.key_id, &key.preproc_id]);
        let crss = previous.crs_info.iter().map(|crs| &crs.crs_id);
        let ids = [&previous.context_id, &previous.epoch_id].into_iter().chain(keys).chain(crss);
        for id in ids {
            check_id(id.as_ref().map(|id| id.request_id.as_str()).unwrap_or_default())?;
        }
        for key in &previous.keys_info {
            if key.key_digests.is_empty() || !matches!(key.key_parameters, 0 | 1) {
                return Err("a key without digests or parameters".into());
            }
            if key.key_digests.iter().any(|one| number_of(&one.key_type).is_none()) {
                return Err("a key of no known type".into());
            }
        }
        if previous.crs_info.iter().any(|crs| crs.crs_digest.is_empty()) {
            return Err("a CRS without its digest".into());
        }
        Ok(())
    }

    pub(super) async fn get_epoch(
        &self,
        id: v1::RequestId,
    ) -> Result<Response<v1::EpochResultResponse>, Status> {
        self.has_lifecycle()?;
        let text = self.id_of(Some(&id))?;
        *self.state().polls.entry(text.clone()).or_default() += 1;
        let request = self.wait(&text, |state| {
            let behaviour = state.behaviour.clone();
            if let Some((code, why)) = behaviour.poll_status {
                return Err(Status::new(code, why));
            }
            let hopeless = state.hopeless(&text);
            let known = state.ceremonies.epochs.get_mut(&text);
            let Some(epoch) = known.filter(|epoch| !epoch.forgotten) else {
                return Err(Status::not_found(format!("unknown request {text}")));
            };
            if hopeless == Some(Hopeless::Fails) {
                return Err(self.refusal(Code::Internal, &text, "failed"));
            }
            if hopeless != Some(Hopeless::Pends) && epoch.is_done(&behaviour) {
                epoch.told = true;
                return Ok(Look::Done(epoch.request.clone()));
            }
            // It is told at once that it is not there.
            let hold = behaviour.key_hold.unwrap_or_default();
            let ready = (!behaviour.never_finish).then(|| epoch.since + behaviour.key_latency);
            Ok(Look::Pending { ready, hold })
        });
        let request = request.await?;
        Ok(Response::new(self.reshared(&request)))
    }

    pub(super) fn destroy_epoch(
        &self,
        request: &v1::DestroyMpcEpochRequest,
    ) -> Result<v1::Empty, Status> {
        self.has_lifecycle()?;
        let id = self.id_of(request.epoch_id.as_ref())?;
        let mut state = self.state();
        state.admit(&id)?;
        let behaviour = state.behaviour.clone();
        let Some(epoch) = state.ceremonies.epochs.get(&id) else {
            return Err(self.refusal(Code::NotFound, &id, "unknown epoch"));
        };
        if behaviour.lifecycle_runs || !epoch.is_done(&behaviour) {
            return Err(self.refusal(Code::FailedPrecondition, &id, "another operation runs"));
        }
        state.ceremonies.epochs.remove(&id);
        state.ceremonies.destroyed_epochs.insert(id);
        drop(state);
        self.changed.notify_waiters();
        Ok(v1::Empty {})
    }

    /// Keys and CRSs of a new epoch: those it was given, signed anew if it is a party of the context.
    fn reshared(&self, request: &v1::NewMpcEpochRequest) -> v1::EpochResultResponse {
        let Some(previous) = &request.previous_epoch else {
            return v1::EpochResultResponse::default();
        };
        let anew = self.is_party_of(request.context_id.as_ref());
        let word = |id: &Option<v1::RequestId>| id.clone().map(|id| id.request_id);
        let ask = |operation, id: &Option<v1::RequestId>| KeyAsk {
            extra_data: request.extra_data.clone(),
            ..KeyAsk::new(operation, word(id).unwrap_or_default())
        };
        let keys = previous.keys_info.iter().map(|key| {
            let digest = |one: &v1::KeyDigest| {
                let (name, number) = key_type(&one.key_type);
                (name, number, one.digest.clone())
            };
            let digests = key.key_digests.iter().map(digest).collect();
            let ask = KeyAsk {
                preprocessing: word(&key.preproc_id),
                ..ask(KeyOperation::Key, &key.key_id)
            };
            self.key_of_an_epoch(&ask, digests, anew)
        });
        let crss = previous.crs_info.iter().map(|crs| {
            let ask = ask(KeyOperation::Crs, &crs.crs_id);
            self.crs_of_an_epoch(&ask, crs.crs_digest.clone(), anew)
        });
        v1::EpochResultResponse { reshare_responses: keys.collect(), crs_responses: crss.collect() }
    }

    /// Whether it stands in a context. It is told of the members by `NewMpcContext` alone.
    fn is_party_of(&self, context: Option<&v1::RequestId>) -> bool {
        let state = self.state();
        let context = context.and_then(|id| state.ceremonies.contexts.get(&id.request_id));
        let own = state.signer.address();
        let is_own = |node: &v1::MpcNode| {
            let by_address = node.signer_address.as_ref().filter(|bytes| bytes.len() == 20);
            by_address.is_none_or(|bytes| Address::from_slice(bytes) == own)
        };
        context.is_none_or(|context| context.mpc_nodes.iter().any(is_own))
    }
}

/// What the real Core checks about a domain: its name, and the chain and contract in it.
pub(super) fn check_domain(
    domain: Option<&v1::Eip712DomainMsg>,
    name: &str,
    of: Option<(u64, Address)>,
) -> Result<(), String> {
    let domain = domain.ok_or("no domain")?;
    let (chain_id, contract) = of.ok_or_else(|| format!("serves no {name}"))?;
    if (domain.name.as_str(), domain.version.as_str()) != (name, "1")
        || domain.chain_id != U256::from(chain_id).to_be_bytes::<32>().as_slice()
        || domain.verifying_contract != contract.to_checksum(None)
        || domain.salt.is_some()
    {
        return Err(format!("unexpected domain {domain:?}"));
    }
    Ok(())
}

/// The id of a [`v1::RequestId`] in the form in which it is asked for.
pub fn request_id(id: U256) -> v1::RequestId {
    v1::RequestId { request_id: text_of(id) }
}
