//! The `KMSGeneration` contract of a simulated chain: what it was asked for after a block, and who voted.
//!
//! ```text
//! the owner    preparation, CRS, randomness, resharing, abort ──> a request
//! nodes        one vote each; enough equal ones ──> the key of a preparation is asked for; a key, a CRS is active
//! ```
//!
//! Every block has its own state, so that a reorganisation needs no undoing.
#![expect(non_snake_case, reason = "arguments have the contract's names")]

use std::collections::BTreeMap;

use alloy::{
    primitives::{LogData, keccak256},
    sol_types::{SolError as _, SolEvent as _},
};

use super::events::{self, KeyDigest, KeyResponse, digest_of_crs, digests_of_key};
use crate::{
    contracts::abi,
    domain::{
        Address, B256, BlockRef, Bytes, Event, KeyOperation, Operation, Request, RequestSource,
        SigningDomain, U256,
    },
    flow::kms_core::{eip712, signature},
    instance::{key_requests::key_signing_domain, simulation::deployment::KMS_GENERATION},
};

/// What the contract's owner, or another node, does.
#[derive(Clone, Copy, Debug)]
pub(in crate::instance::simulation) enum Action {
    Prepare,
    MakeCrs {
        max_bits: u32,
    },
    SetUpRandomness,
    Reshare,
    /// Of what this id has, a preparation or a CRS.
    Abort(U256),
    /// Something that no version knows.
    Migrate,
    /// Another node answers.
    Vote {
        party: u8,
        id: U256,
    },
}

/// What does not change of the contract.
#[derive(Clone, Copy, Debug)]
pub(in crate::instance::simulation) struct Rules {
    pub chain_id: u64,
    pub is_ethereum: bool,
    /// Number of other nodes.
    pub others: u8,
    /// Of how many keys and CRSs, in thousandths, the others say something else than this node's Core.
    pub diverging: u64,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::instance::simulation) enum What {
    Preparation,
    Key {
        preparation: U256,
    },
    Crs {
        max_bits: u32,
    },
    Randomness,
    Resharing {
        key: U256,
    },
    /// Of a preparation and its key, or of a CRS.
    Abort(U256),
    Unknown,
}

/// A request as its event says.
#[derive(Clone, Debug)]
pub(in crate::instance::simulation) struct Asked {
    pub request: Request,
    pub what: What,
}

/// The state after a block.
#[derive(Clone, Debug, Default)]
pub(in crate::instance::simulation) struct KeyState {
    preparations: u64,
    crs_list: u64,
    resharings: u64,
    /// By id, in the order of the ids.
    asked: BTreeMap<U256, Asked>,
    /// What each signer said of each id.
    votes: BTreeMap<(U256, Address), Vote>,
    /// Enough nodes agreed, or the owner has taken it back.
    over: BTreeMap<U256, Over>,
}

#[derive(Clone, Debug)]
pub(in crate::instance::simulation) struct Vote {
    pub payload: Bytes,
    pub sender: Address,
    /// Number of its block.
    pub block: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::instance::simulation) enum Over {
    Agreed,
    Aborted,
}

/// Where and how something is done in a block.
#[derive(Clone, Copy, Debug)]
pub(in crate::instance::simulation) struct Moment<'a> {
    pub block: BlockRef,
    pub transaction: B256,
    /// `extraData` of what is asked for now.
    pub extra_data: &'a Bytes,
}

fn tagged(tag: u8, number: u64) -> U256 {
    (U256::from(tag) << 248) | U256::from(number)
}

impl Rules {
    pub fn domain(&self) -> SigningDomain {
        key_signing_domain(self.chain_id, KMS_GENERATION)
    }

    fn source(&self) -> RequestSource {
        RequestSource { chain_id: self.chain_id, contract: KMS_GENERATION }
    }

    /// How many votes decide.
    fn enough(&self) -> usize {
        usize::from(self.others).div_ceil(2) + usize::from(self.others == 0)
    }

    /// Whether the others make something else of it.
    pub fn diverges(&self, id: U256) -> bool {
        let drawn = u64::from(keccak256(id.to_be_bytes::<32>())[0]) * 1000 / 256;
        self.others > 0 && drawn < self.diverging
    }
}

/// The address of another node, which signs and sends.
fn other_node(party: u8) -> Address {
    Address::repeat_byte(0xb0 + party)
}

impl KeyState {
    pub fn asked(&self) -> impl Iterator<Item = &Asked> {
        self.asked.values()
    }

    /// Whether the owner has taken it back, or what it is made of.
    pub fn is_aborted(&self, asked: &Asked) -> bool {
        let id = match asked.what {
            What::Key { preparation } => preparation,
            What::Preparation
            | What::Crs { .. }
            | What::Randomness
            | What::Resharing { .. }
            | What::Abort(_)
            | What::Unknown => asked.request.key.id,
        };
        self.over(id) == Some(Over::Aborted)
    }

    pub fn over(&self, id: U256) -> Option<Over> {
        self.over.get(&id).copied()
    }

    /// The votes on an id, each with its signer.
    pub fn votes(&self, id: U256) -> impl Iterator<Item = (Address, &Vote)> {
        let of_id = self.votes.range((id, Address::ZERO)..);
        of_id.take_while(move |((of, _), _)| *of == id).map(|((_, signer), vote)| (*signer, vote))
    }

    /// The senders whose votes were the same as those that decided.
    pub fn agreed(&self, id: U256) -> Vec<Address> {
        if self.over(id) != Some(Over::Agreed) {
            return Vec::new();
        }
        let most = self.votes(id).map(|(_, vote)| &vote.payload).max_by_key(|payload| {
            self.votes(id).filter(|(_, vote)| vote.payload == **payload).count()
        });
        let same = self.votes(id).filter(|(_, vote)| Some(&vote.payload) == most);
        same.map(|(_, vote)| vote.sender).collect()
    }

    /// Whether it can be done now. What cannot waits, or is not done at all.
    pub fn is_possible(&self, action: &Action) -> bool {
        match action {
            Action::Vote { id, .. } | Action::Abort(id) => self.asked.contains_key(id),
            Action::Reshare => self.active_key().is_some(),
            Action::Prepare
            | Action::MakeCrs { .. }
            | Action::SetUpRandomness
            | Action::Migrate => true,
        }
    }

    fn active_key(&self) -> Option<U256> {
        let mut keys = self.asked.values().rev().filter(|asked| {
            matches!(asked.what, What::Key { .. })
                && self.over(asked.request.key.id) == Some(Over::Agreed)
        });
        keys.next().map(|asked| asked.request.key.id)
    }

    /// Does it. Returns the events.
    pub fn act(&mut self, rules: &Rules, action: &Action, at: Moment<'_>) -> Vec<LogData> {
        let extra = at.extra_data.clone();
        let event = match *action {
            Action::Vote { party, id } => return self.vote_of_other(rules, party, id, at),
            Action::Prepare => {
                self.preparations += 1;
                let id = tagged(3, self.preparations);
                let event = if rules.is_ethereum {
                    events::ethereum::PrepKeygenRequest {
                        prepKeygenId: id,
                        paramsType: 0,
                        extraData: extra,
                    }
                    .encode_log_data()
                } else {
                    events::gateway::PrepKeygenRequest {
                        prepKeygenId: id,
                        epochId: U256::ZERO,
                        paramsType: 0,
                    }
                    .encode_log_data()
                };
                return vec![self.ask(rules, What::Preparation, event, at)];
            }
            Action::MakeCrs { max_bits } => {
                self.crs_list += 1;
                let (id, max) = (tagged(5, self.crs_list), U256::from(max_bits));
                let event = if rules.is_ethereum {
                    events::ethereum::CrsgenRequest {
                        crsId: id,
                        maxBitLength: max,
                        paramsType: 1,
                        extraData: extra,
                    }
                    .encode_log_data()
                } else {
                    events::gateway::CrsgenRequest { crsId: id, maxBitLength: max, paramsType: 1 }
                        .encode_log_data()
                };
                return vec![self.ask(rules, What::Crs { max_bits }, event, at)];
            }
            Action::SetUpRandomness => (What::Randomness, events::PRSSInit {}.encode_log_data()),
            Action::Reshare => {
                let Some(key) = self.active_key() else { return Vec::new() };
                let What::Key { preparation } = self.asked[&key].what else { return Vec::new() };
                self.resharings += 1;
                let event = events::KeyReshareSameSet {
                    prepKeygenId: preparation,
                    keyId: key,
                    keyReshareId: tagged(6, self.resharings),
                    paramsType: 0,
                };
                (What::Resharing { key }, event.encode_log_data())
            }
            Action::Abort(id) => {
                if self.over.get(&id) == Some(&Over::Aborted) {
                    return Vec::new();
                }
                let is_crs = id.byte(31) == 5;
                let key = self.key_of(id).filter(|_| !is_crs);
                if !is_crs && key.is_some_and(|key| self.over.contains_key(&key)) {
                    return Vec::new();
                }
                if is_crs && self.over.contains_key(&id) {
                    return Vec::new();
                }
                for of in std::iter::once(id).chain(key) {
                    self.over.insert(of, Over::Aborted);
                }
                let event = if is_crs {
                    events::AbortCrsgen { crsId: id }.encode_log_data()
                } else {
                    events::AbortKeygen { prepKeygenId: id }.encode_log_data()
                };
                (What::Abort(id), event)
            }
            Action::Migrate => {
                let event = events::KeyMigrationRequest { existingKeyId: tagged(4, 1) };
                (What::Unknown, event.encode_log_data())
            }
        };
        let (what, event) = event;
        vec![self.ask(rules, what, event, at)]
    }

    /// The key that is made of a preparation.
    fn key_of(&self, preparation: U256) -> Option<U256> {
        let mut keys = self.asked.values();
        let key = keys.find(|asked| asked.what == What::Key { preparation });
        key.map(|asked| asked.request.key.id)
    }

    /// Notes what an event asks for.
    fn ask(&mut self, rules: &Rules, what: What, event: LogData, at: Moment<'_>) -> LogData {
        let (topics, data) = (event.topics().to_vec(), event.data.clone());
        let Moment { block, transaction, .. } = at;
        let read = Event { block, transaction, log_index: 0, topics, data };
        let request = abi::decode(rules.source(), &read).expect("the world emits well");
        self.asked.insert(request.key.id, Asked { request, what });
        event
    }

    fn vote_of_other(
        &mut self,
        rules: &Rules,
        party: u8,
        id: U256,
        at: Moment<'_>,
    ) -> Vec<LogData> {
        let node = other_node(party);
        let Some(asked) = self.asked.get(&id) else { return Vec::new() };
        if self.votes.contains_key(&(id, node)) {
            return Vec::new();
        }
        let mut payload = truth(id, asked.what);
        if rules.diverges(id) && !payload.is_empty() {
            payload = match asked.what {
                What::Key { .. } => {
                    let [(_, server), (_, public)] = digests_of_key(id);
                    abi::key_digests_payload([(0, public), (1, server)])
                }
                What::Preparation
                | What::Crs { .. }
                | What::Randomness
                | What::Resharing { .. }
                | What::Abort(_)
                | What::Unknown => keccak256(&payload).0.into(),
            };
        }
        let response = KeyResponse { id, payload, signature: vec![party; 65].into() };
        self.vote(rules, &response, (node, node), at)
    }

    /// Takes a vote that was checked, of this signer and this sender. Returns the events.
    pub fn vote(
        &mut self,
        rules: &Rules,
        response: &KeyResponse,
        (signer, sender): (Address, Address),
        at: Moment<'_>,
    ) -> Vec<LogData> {
        let KeyResponse { id, payload, signature } = response.clone();
        let Some(Asked { what, request }) = self.asked.get(&id).cloned() else {
            return Vec::new();
        };
        let vote = Vote { payload: payload.clone(), sender, block: at.block.number };
        self.votes.insert((id, signer), vote);
        let digests = |payload: &[u8]| -> Vec<KeyDigest> {
            let digests = abi::key_digests(payload).unwrap_or_default();
            digests.into_iter().map(|(keyType, digest)| KeyDigest { keyType, digest }).collect()
        };
        let kmsTxSender = sender;
        let mut told = vec![match what {
            What::Preparation => {
                events::PrepKeygenResponse { prepKeygenId: id, signature, kmsTxSender }
                    .encode_log_data()
            }
            What::Key { .. } => {
                let keyDigests = digests(&payload);
                events::KeygenResponse { keyId: id, keyDigests, signature, kmsTxSender }
                    .encode_log_data()
            }
            What::Crs { .. }
            | What::Randomness
            | What::Resharing { .. }
            | What::Abort(_)
            | What::Unknown => {
                let crsDigest = payload.clone();
                events::CrsgenResponse { crsId: id, crsDigest, signature, kmsTxSender }
                    .encode_log_data()
            }
        }];
        let equal = self.votes(id).filter(|(_, vote)| vote.payload == payload).count();
        if equal < rules.enough() || self.over.contains_key(&id) {
            return told;
        }
        self.over.insert(id, Over::Agreed);
        told.push(match what {
            What::Preparation => {
                let key = tagged(4, (id & U256::from(u64::MAX)).to());
                let event = match request_extra_data(&request) {
                    Some(extraData) => {
                        events::ethereum::KeygenRequest { prepKeygenId: id, keyId: key, extraData }
                            .encode_log_data()
                    }
                    None => events::gateway::KeygenRequest { prepKeygenId: id, keyId: key }
                        .encode_log_data(),
                };
                self.ask(rules, What::Key { preparation: id }, event, at)
            }
            What::Key { .. } => events::ActivateKey {
                keyId: id,
                kmsNodeStorageUrls: Vec::new(),
                keyDigests: digests(&payload),
            }
            .encode_log_data(),
            What::Crs { .. }
            | What::Randomness
            | What::Resharing { .. }
            | What::Abort(_)
            | What::Unknown => {
                let (kmsNodeStorageUrls, crsDigest) = (Vec::new(), payload);
                events::ActivateCrs { crsId: id, kmsNodeStorageUrls, crsDigest }.encode_log_data()
            }
        });
        told
    }

    /// Whether the contract takes this answer of a node with this signer.
    pub fn check(
        &self,
        rules: &Rules,
        response: &KeyResponse,
        registered: Address,
    ) -> Result<(), Bytes> {
        let id = response.id;
        let Some(Asked { request, what }) = self.asked.get(&id) else {
            return Err(match id.byte(31) {
                3 => events::PrepKeygenNotRequested { prepKeygenId: id }.abi_encode(),
                4 => events::KeygenNotRequested { keyId: id }.abi_encode(),
                _ => events::CrsgenNotRequested { crsId: id }.abi_encode(),
            }
            .into());
        };
        let (domain, extra) = (rules.domain(), request_extra_data(request));
        let extra = extra.as_ref().map(|extra| &extra[..]);
        let digest = signed_digest(&domain, id, *what, &response.payload, extra);
        let signer = signature::parse_signature(&response.signature)
            .and_then(|signature| signature::recover(&signature, digest))
            .unwrap_or_default();
        if signer != registered {
            return Err(events::NotKmsSigner { signerAddress: signer }.abi_encode().into());
        }
        if self.votes.contains_key(&(id, signer)) {
            return Err(match what {
                What::Preparation => {
                    events::KmsAlreadySignedForPrepKeygen { prepKeygenId: id, kmsSigner: signer }
                        .abi_encode()
                }
                What::Key { .. } => {
                    events::KmsAlreadySignedForKeygen { keyId: id, kmsSigner: signer }.abi_encode()
                }
                What::Crs { .. }
                | What::Randomness
                | What::Resharing { .. }
                | What::Abort(_)
                | What::Unknown => {
                    events::KmsAlreadySignedForCrsgen { crsId: id, kmsSigner: signer }.abi_encode()
                }
            }
            .into());
        }
        Ok(())
    }
}

/// What a Core signs.
pub(super) fn signed_digest(
    domain: &SigningDomain,
    id: U256,
    what: What,
    payload: &[u8],
    extra_data: Option<&[u8]>,
) -> B256 {
    match what {
        What::Preparation => eip712::preparation_digest(domain, id, extra_data),
        What::Key { preparation } => {
            let digests = abi::key_digests(payload).unwrap_or_default();
            eip712::key_digest(domain, preparation, id, &digests, extra_data)
        }
        What::Crs { max_bits } => {
            eip712::crs_digest(domain, id, U256::from(max_bits), payload, extra_data)
        }
        What::Randomness | What::Resharing { .. } | What::Abort(_) | What::Unknown => B256::ZERO,
    }
}

/// What honest Cores make of it, as the connector writes it.
pub(in crate::instance::simulation) fn truth(id: U256, what: What) -> Bytes {
    match what {
        What::Key { .. } => abi::key_digests_payload(digests_of_key(id)),
        What::Crs { max_bits } => digest_of_crs(id, max_bits),
        What::Preparation
        | What::Randomness
        | What::Resharing { .. }
        | What::Abort(_)
        | What::Unknown => Bytes::new(),
    }
}

/// The `extraData` of a request. `None`: up to G12.
pub(super) fn request_extra_data(request: &Request) -> Option<Bytes> {
    match &request.operation {
        Operation::Key(operation) => KeyOperation::extra_data(operation).cloned(),
        Operation::PublicDecryption(_) | Operation::UserDecryption(_) => None,
    }
}
