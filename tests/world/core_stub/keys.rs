//! The generation of keys and CRSs: preprocessing, key, CRS, and the end of one before its time.
//!
//! Digests follow from the request's id, so that all stubs of a network make the same. What is finished is
//! stored: a key and a CRS outlive [`CoreStub::restart`]. A preprocessing does not, and its key uses it up.

use alloy::primitives::{Address, B256, U256, keccak256};
use bytes::Bytes;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::{
    Behaviour, CoreStub, CoreVersion, Fault, Hopeless, another, check_id,
    lifecycle::check_domain,
    signature::{
        CRSGEN_TYPEHASHES, KEY_DIGEST_TYPEHASH, KEYGEN_TYPEHASHES, PREP_KEYGEN_TYPEHASHES,
    },
    state::{Look, Shared, State},
    text_of,
};
use crate::proto::kms::v1;

/// What it is asked to make. The store of each is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyOperation {
    Preprocessing,
    Key,
    Crs,
}

/// One ask as it came in, whatever became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyAsk {
    pub operation: KeyOperation,
    pub id: String,
    /// As on the wire. A key's are unset: they are those of its preprocessing.
    pub params: Option<i32>,
    /// The preprocessing of a key.
    pub preprocessing: Option<String>,
    /// Of a CRS.
    pub max_bits: Option<u32>,
    pub keyset: Option<v1::KeySetConfig>,
    pub extra_data: Bytes,
    pub context_id: Option<String>,
    pub epoch_id: Option<String>,
    /// `Code::Ok`: accepted.
    pub code: Code,
}

impl KeyAsk {
    /// One that says nothing but what it is for.
    pub fn new(operation: KeyOperation, id: String) -> Self {
        Self {
            operation,
            id,
            params: None,
            preprocessing: None,
            max_bits: None,
            keyset: None,
            extra_data: Bytes::new(),
            context_id: None,
            epoch_id: None,
            code: Code::Ok,
        }
    }
}

/// An answer as it stands on chain: kind (number of a key, 0) and bytes of each digest, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAnswer {
    pub digests: Vec<(u8, Bytes)>,
    pub signature: Bytes,
}

/// What it remembers of one.
#[derive(Clone, Debug)]
pub(super) struct KeyEntry {
    since: Instant,
    /// It was told: so it is done, whatever the latency is now.
    told: bool,
    aborted: bool,
    ask: KeyAsk,
}

/// What it has made: each digest by its name and number, and the signature.
struct Made {
    digests: Vec<(&'static str, u8, Bytes)>,
    signature: Bytes,
}

/// What each kind of key is called, and its number on chain.
const SERVER: (&str, u8) = ("ServerKey", 0);
const PUBLIC: (&str, u8) = ("PublicKey", 1);
const COMPRESSED: (&str, u8) = ("CompressedXofKeySet", 3);
/// What is digested of a CRS.
const CRS: &str = "CRS";
/// The bits of a CRS that somebody else made.
const BITS: u32 = 2048;
/// The domain that keys and CRSs are signed under when they are made.
const OF_KEYS: (&str, Option<(u64, Address)>) = ("KMSGeneration", None);
/// A kind that no version of the protocol has.
const UNKNOWN: (&str, u8) = ("SecretKey", 9);

fn digest_of(id: &str, name: &str) -> Bytes {
    Bytes::copy_from_slice(keccak256(format!("{name} {id}")).as_slice())
}

impl CoreStub {
    /// Every ask for keys and CRSs so far, in order of arrival.
    pub fn key_asks(&self) -> Vec<KeyAsk> {
        self.shared.state().key_asks.clone()
    }

    /// How often it accepted this one.
    pub fn accepted_key(&self, operation: KeyOperation, id: U256) -> usize {
        let id = text_of(id);
        let mine = |ask: &&KeyAsk| ask.operation == operation && ask.id == id;
        self.shared.state().key_asks.iter().filter(mine).filter(|ask| ask.code == Code::Ok).count()
    }

    /// What it answers to this, whether it was asked or not.
    pub fn answer_to(&self, ask: &KeyAsk) -> KeyAnswer {
        let fault = self.shared.state().behaviour.fault;
        let Made { digests, signature } = self.shared.make(ask, fault);
        let digests = digests.into_iter().map(|(_, number, digest)| (number, digest)).collect();
        KeyAnswer { digests, signature }
    }

    /// Loses also what it had stored.
    pub fn lose_keys(&self) {
        self.shared.state().keys.clear();
        self.shared.changed.notify_waiters();
    }
}

impl State {
    /// Whether it has made this key, or is at it.
    pub(super) fn has_key(&self, id: &str) -> bool {
        self.keys.contains_key(&(KeyOperation::Key, id.to_owned()))
    }

    /// What a restart leaves.
    pub(super) fn forget_unfinished_keys(&mut self) {
        let behaviour = self.behaviour.clone();
        self.keys.retain(|(operation, _), entry| {
            *operation != KeyOperation::Preprocessing && entry.is_done(&behaviour)
        });
    }
}

impl KeyEntry {
    fn ready(&self, behaviour: &Behaviour) -> Option<Instant> {
        (!behaviour.never_finish).then(|| self.since + behaviour.key_latency)
    }

    fn is_done(&self, behaviour: &Behaviour) -> bool {
        let passed = self.ready(behaviour).is_some_and(|ready| ready <= Instant::now());
        !self.aborted && (self.told || passed)
    }
}

impl Shared {
    pub(super) fn ask_key(
        &self,
        mut ask: KeyAsk,
        domain: Option<&v1::Eip712DomainMsg>,
    ) -> Result<Response<v1::Empty>, Status> {
        let outcome = self.register_key(&ask, domain);
        if let Err(status) = &outcome {
            ask.code = status.code();
        }
        self.state().key_asks.push(ask);
        outcome.map(|()| Response::new(v1::Empty {}))
    }

    fn register_key(
        &self,
        ask: &KeyAsk,
        domain: Option<&v1::Eip712DomainMsg>,
    ) -> Result<(), Status> {
        let KeyAsk { operation, id, .. } = ask;
        if !self.options.version.makes_keys() {
            return Err(Status::unimplemented("key generation in another form"));
        }
        let refusal = |code, why: &str| self.refusal(code, id, why);
        let mut state = self.state();
        state.admit(id)?;
        self.examine_key(ask, domain).map_err(|why| refusal(Code::InvalidArgument, &why))?;
        if state.behaviour.lifecycle_runs || state.ceremonies.runs(&state.behaviour) {
            return Err(refusal(Code::FailedPrecondition, "another lifecycle operation runs"));
        }
        if state.keys.contains_key(&(*operation, id.clone())) {
            return Err(refusal(Code::AlreadyExists, "already exists"));
        }
        self.check_context(&state, id, ask.context_id.as_deref(), ask.epoch_id.as_deref())?;
        if let Some(preprocessing) = &ask.preprocessing {
            let place = (KeyOperation::Preprocessing, preprocessing.clone());
            let Some(entry) = state.keys.get(&place).filter(|entry| !entry.aborted) else {
                return Err(refusal(Code::NotFound, "unknown preprocessing"));
            };
            if !entry.is_done(&state.behaviour) {
                return Err(Status::unavailable(format!("{preprocessing} is still running")));
            }
            if entry.ask.keyset != ask.keyset {
                return Err(refusal(Code::InvalidArgument, "another keyset than preprocessed"));
            }
            state.keys.remove(&place);
        }
        if state.hopeless(id) != Some(Hopeless::Forgotten) {
            let entry =
                KeyEntry { since: Instant::now(), told: false, aborted: false, ask: ask.clone() };
            state.keys.insert((*operation, id.clone()), entry);
        }
        Ok(())
    }

    /// What the real Core checks about the form of a request.
    fn examine_key(
        &self,
        ask: &KeyAsk,
        domain: Option<&v1::Eip712DomainMsg>,
    ) -> Result<(), String> {
        check_id(&ask.id)?;
        let others = [&ask.preprocessing, &ask.context_id, &ask.epoch_id];
        for id in others.into_iter().flatten() {
            check_id(id)?;
        }
        check_domain(domain, "KMSGeneration", self.options.key_generation)?;
        if ask.params.is_some_and(|params| !matches!(params, 0 | 1)) {
            return Err("no such parameters".into());
        }
        if ask.operation == KeyOperation::Crs && ask.max_bits.is_none_or(|bits| bits == 0) {
            return Err("a CRS of no bits".into());
        }
        Ok(())
    }

    /// Ends a key generation, by the id of its preprocessing.
    pub(super) fn abort_key(&self, id: &v1::RequestId) -> Result<v1::Empty, Status> {
        let id = &id.request_id;
        self.abort(id, |ask| {
            let is_its_key = ask.preprocessing.as_ref() == Some(id);
            is_its_key || ask.operation == KeyOperation::Preprocessing && ask.id == *id
        })
    }

    /// Ends the generation of a CRS.
    pub(super) fn abort_crs(&self, id: &v1::RequestId) -> Result<v1::Empty, Status> {
        let id = &id.request_id;
        self.abort(id, |ask| ask.operation == KeyOperation::Crs && ask.id == *id)
    }

    fn abort(&self, id: &str, is_it: impl Fn(&KeyAsk) -> bool) -> Result<v1::Empty, Status> {
        if !self.options.version.aborts_keys() {
            return Err(Status::unimplemented("no such method"));
        }
        check_id(id).map_err(|why| self.refusal(Code::InvalidArgument, id, &why))?;
        let mut state = self.state();
        let behaviour = state.behaviour.clone();
        let mut running = state
            .keys
            .values_mut()
            .filter(|entry| is_it(&entry.ask) && !entry.aborted && !entry.is_done(&behaviour));
        let Some(entry) = running.next() else {
            return Err(self.refusal(Code::NotFound, id, "nothing to abort"));
        };
        entry.aborted = true;
        drop(state);
        self.changed.notify_waiters();
        Ok(v1::Empty {})
    }

    /// Waits for a result. The state comes along, unlocked.
    async fn key_result(
        &self,
        operation: KeyOperation,
        id: &v1::RequestId,
    ) -> Result<(KeyAsk, Behaviour), Status> {
        let id = &id.request_id;
        *self.state().polls.entry(id.clone()).or_default() += 1;
        check_id(id).map_err(|why| self.refusal(Code::InvalidArgument, id, &why))?;
        self.wait(id, |state| {
            let behaviour = state.behaviour.clone();
            if let Some((code, text)) = behaviour.poll_status {
                return Err(Status::new(code, text));
            }
            let hopeless = state.hopeless(id);
            let Some(entry) = state.keys.get_mut(&(operation, id.clone())) else {
                return Err(Status::not_found(format!("unknown request {id}")));
            };
            if hopeless == Some(Hopeless::Fails) {
                return Err(self.refusal(Code::Internal, id, "failed"));
            }
            if entry.aborted {
                return Err(self.refusal(Code::Aborted, id, "aborted"));
            }
            let pends = hopeless == Some(Hopeless::Pends);
            if !pends && entry.is_done(&behaviour) {
                entry.told = true;
                return Ok(Look::Done((entry.ask.clone(), behaviour)));
            }
            let ready = entry.ready(&behaviour).filter(|_| !pends);
            let hold = self.options.version.key_hold(operation);
            Ok(Look::Pending { ready, hold: behaviour.key_hold.unwrap_or(hold) })
        })
        .await
    }

    pub(super) async fn preprocessing_result(
        &self,
        id: v1::RequestId,
    ) -> Result<Response<v1::KeyGenPreprocResult>, Status> {
        let (ask, Behaviour { fault, .. }) =
            self.key_result(KeyOperation::Preprocessing, &id).await?;
        Ok(Response::new(v1::KeyGenPreprocResult {
            preprocessing_id: Some(named(id, fault)),
            external_signature: self.make(&ask, fault).signature,
        }))
    }

    pub(super) async fn key_gen_result(
        &self,
        id: v1::RequestId,
    ) -> Result<Response<v1::KeyGenResult>, Status> {
        let (ask, Behaviour { fault, .. }) = self.key_result(KeyOperation::Key, &id).await?;
        let request_id = Some(named(id, fault));
        Ok(Response::new(v1::KeyGenResult { request_id, ..self.make_key(&ask) }))
    }

    pub(super) async fn crs_gen_result(
        &self,
        id: v1::RequestId,
    ) -> Result<Response<v1::CrsGenResult>, Status> {
        let (ask, Behaviour { fault, .. }) = self.key_result(KeyOperation::Crs, &id).await?;
        let request_id = Some(named(id, fault));
        let made = self.make(&ask, fault);
        Ok(Response::new(v1::CrsGenResult { request_id, ..crs_message(&ask, made) }))
    }

    /// A key as it was made.
    pub(super) fn make_key(&self, ask: &KeyAsk) -> v1::KeyGenResult {
        let fault = self.state().behaviour.fault;
        key_message(ask, self.make(ask, fault))
    }

    /// A key that is shared anew, with the digests that it had.
    pub(super) fn key_of_an_epoch(
        &self,
        ask: &KeyAsk,
        digests: Vec<(&'static str, u8, Bytes)>,
        anew: bool,
    ) -> v1::KeyGenResult {
        key_message(ask, self.make_of(ask, digests, anew))
    }

    /// A CRS of a new epoch, with the digest that it had.
    pub(super) fn crs_of_an_epoch(
        &self,
        ask: &KeyAsk,
        digest: Bytes,
        anew: bool,
    ) -> v1::CrsGenResult {
        let stored = self.state().keys.get(&(KeyOperation::Crs, ask.id.clone())).cloned();
        let bits = stored.and_then(|entry| entry.ask.max_bits).unwrap_or(BITS);
        let ask = KeyAsk { max_bits: Some(bits), ..ask.clone() };
        let made = self.make_of(&ask, vec![(CRS, 0, digest)], anew);
        crs_message(&ask, made)
    }

    /// Signs what is of an epoch: `anew` for it, or as it was signed before.
    fn make_of(&self, ask: &KeyAsk, digests: Vec<(&'static str, u8, Bytes)>, anew: bool) -> Made {
        let fault = self.state().behaviour.fault;
        let diverging = |(name, number, digest)| (name, number, self.diverging(digest, fault));
        let digests = digests.into_iter().map(diverging).collect();
        let domain = if anew { ("ProtocolConfig", self.options.protocol_config) } else { OF_KEYS };
        self.sign_made(ask, digests, domain, fault)
    }

    /// What it makes of a request, and signs, before anything is done to what was signed.
    fn make(&self, ask: &KeyAsk, fault: Option<Fault>) -> Made {
        let parts: &[(&'static str, u8)] = match ask.operation {
            KeyOperation::Preprocessing => &[],
            KeyOperation::Crs => &[(CRS, 0)],
            KeyOperation::Key if fault == Some(Fault::UnknownKeyType) => &[SERVER, UNKNOWN],
            KeyOperation::Key if self.options.version.compresses(ask.keyset.as_ref()) => {
                &[PUBLIC, COMPRESSED]
            }
            KeyOperation::Key => &[SERVER, PUBLIC],
        };
        let digest = |name| self.diverging(digest_of(&ask.id, name), fault);
        let digests = parts.iter().map(|(name, number)| (*name, *number, digest(name))).collect();
        self.sign_made(ask, digests, OF_KEYS, fault)
    }

    /// Signs digests, before anything is done to what was signed. The domain: its name, chain and contract.
    fn sign_made(
        &self,
        ask: &KeyAsk,
        mut digests: Vec<(&'static str, u8, Bytes)>,
        domain: (&str, Option<(u64, Address)>),
        fault: Option<Fault>,
    ) -> Made {
        let id = word_of(&ask.id);
        let (types, members) = match ask.operation {
            KeyOperation::Preprocessing => (PREP_KEYGEN_TYPEHASHES, vec![id]),
            KeyOperation::Key => {
                let hashes =
                    digests.iter().flat_map(|(_, number, digest)| hash_of(*number, digest).0);
                let list = keccak256(hashes.collect::<Vec<u8>>());
                let preprocessing = ask.preprocessing.as_deref().unwrap_or_default();
                (KEYGEN_TYPEHASHES, vec![word_of(preprocessing), id, list])
            }
            KeyOperation::Crs => {
                let bits = U256::from(ask.max_bits.unwrap_or_default());
                (CRSGEN_TYPEHASHES, vec![id, bits.into(), keccak256(&digests[0].2)])
            }
        };
        let signature = self.sign_key(types, &members, ask, domain, fault);
        match fault {
            Some(Fault::Empty) => digests.clear(),
            Some(Fault::TooFew) => drop(digests.pop()),
            Some(Fault::Garbage) => {
                for (_, _, digest) in &mut digests {
                    *digest = Bytes::from_static(&[0xFF; 32]);
                }
            }
            Some(_) | None => {}
        }
        Made { digests, signature }
    }

    /// The digest, or one that no other stub has.
    fn diverging(&self, digest: Bytes, fault: Option<Fault>) -> Bytes {
        if fault != Some(Fault::Diverges) {
            return digest;
        }
        let own = self.state().signer.address();
        Bytes::copy_from_slice(keccak256([digest.as_ref(), own.as_slice()].concat()).as_slice())
    }

    fn sign_key(
        &self,
        types: [B256; 2],
        members: &[B256],
        ask: &KeyAsk,
        (name, of): (&str, Option<(u64, Address)>),
        fault: Option<Fault>,
    ) -> Bytes {
        let with_extra_data = self.options.version.signs_key_extra_data();
        let extra_data = with_extra_data.then(|| ask.extra_data.clone());
        let of = if name == OF_KEYS.0 { self.options.key_generation } else { of };
        let (chain_id, contract) = of.unwrap_or_default();
        let domain = (name, chain_id, contract);
        self.sign_structure(domain, types, members, extra_data.as_ref(), fault)
    }
}

/// A key as the wire has it.
fn key_message(ask: &KeyAsk, Made { digests, signature }: Made) -> v1::KeyGenResult {
    let id = |id: &String| v1::RequestId { request_id: id.clone() };
    let digests = digests
        .into_iter()
        .map(|(name, _, digest)| v1::KeyDigest { key_type: name.into(), digest });
    v1::KeyGenResult {
        request_id: Some(id(&ask.id)),
        preprocessing_id: ask.preprocessing.as_ref().map(id),
        key_digests: digests.collect(),
        external_signature: signature,
    }
}

/// A CRS as the wire has it.
fn crs_message(ask: &KeyAsk, Made { digests, signature }: Made) -> v1::CrsGenResult {
    v1::CrsGenResult {
        request_id: Some(v1::RequestId { request_id: ask.id.clone() }),
        crs_digest: digests.into_iter().map(|(_, _, digest)| digest).next().unwrap_or_default(),
        max_num_bits: ask.max_bits.unwrap_or_default(),
        external_signature: signature,
    }
}

/// The number on chain of a kind of key.
pub(super) fn number_of(name: &str) -> Option<u8> {
    [SERVER, PUBLIC, COMPRESSED].into_iter().find(|one| one.0 == name).map(|(_, number)| number)
}

/// A kind of key by its name.
pub(super) fn key_type(name: &str) -> (&'static str, u8) {
    [SERVER, PUBLIC, COMPRESSED].into_iter().find(|one| one.0 == name).unwrap_or(UNKNOWN)
}

/// An id as a word.
fn word_of(id: &str) -> B256 {
    U256::from_str_radix(id, 16).unwrap_or_default().into()
}

/// The hash of a member of the signed list.
fn hash_of(number: u8, digest: &[u8]) -> B256 {
    let words = [KEY_DIGEST_TYPEHASH, U256::from(number).into(), keccak256(digest)];
    keccak256(words.concat())
}

fn named(id: v1::RequestId, fault: Option<Fault>) -> v1::RequestId {
    if fault == Some(Fault::OtherRequest) { another(&id) } else { id }
}

impl CoreVersion {
    /// Whether what is made is compressed, asked for like this.
    fn compresses(self, keyset: Option<&v1::KeySetConfig>) -> bool {
        let flipped = self.signs_key_extra_data();
        let number = keyset.and_then(|keyset| keyset.standard_keyset_config.as_ref());
        number.map_or(flipped, |standard| (standard.compressed_key_config == 0) == flipped)
    }
}
