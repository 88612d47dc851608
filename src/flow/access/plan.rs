//! What the host chains have to say before a request may be decrypted. Pure: from a request, and the
//! calldata of a legacy one, to the questions and conditions for each chain, or a refusal
//! (protocol: ciphertext-storage 10).
//!
//! ```text
//! public            each handle, on its own chain: allowed for decryption
//! legacy, direct    one chain; each handle: the user is allowed, and so is the contract beside it
//! legacy, delegated one chain; each handle: delegated by the delegator for that contract
//! unified           one chain, by the time of the block that is asked:
//!                   within the validity; signed by the user; not invalidated since;
//!                   each handle: its owner is the user, who is allowed, or has delegated to the user;
//!                   each handle: one of the allowed contracts, if any are named, is allowed
//! ```
//!
//! A gateway node is no authority for what a user signed. So the terms of a legacy request come from
//! the calldata of its transaction, have to fit the event in every part, and carry the user's signature;
//! those of a unified request are in the event, signed.

use std::collections::BTreeMap;

use super::user_signature;
use crate::{
    contracts::{abi::LegacyUserCall, acl::AclQuestion},
    domain::{
        AccessRefusal, AccessRefusalReason as Reason, Address, B256, Material, Operation, Refusal,
        RequestTerms, SigningDomain, U256, UnifiedTerms, UserDecryption, handle_chain_id,
    },
};

/// More questions than any contract lets a request need (1,024 handles with 10 contracts each): such an
/// event was not emitted by one.
pub(super) const MAX_QUESTIONS: usize = 16_384;

/// The most questions to the chains of a request, by chain id.
pub(super) type Needs = BTreeMap<u64, usize>;

/// How many questions a request needs at most, before they are written down. None: none is asked.
pub(super) fn needs(operation: &Operation) -> Needs {
    let mut needs = Needs::new();
    let mut add = |handle: &B256, questions| {
        *needs.entry(handle_chain_id(handle)).or_default() += questions;
    };
    match operation {
        Operation::PublicDecryption(public) => public.handles.iter().for_each(|one| add(one, 1)),
        Operation::UserDecryption(user) => match &user.terms {
            RequestTerms::Legacy => user.handles.iter().for_each(|handle| add(handle, 2)),
            RequestTerms::Unified(terms) => {
                let each = terms.allowed_contracts.len().saturating_add(1);
                terms.entries.iter().for_each(|entry| add(&entry.handle, each));
                // Whether the user's code takes the signature, and whether signatures were invalidated.
                terms.entries.iter().take(1).for_each(|entry| add(&entry.handle, 3));
            }
        },
        Operation::Key(_) => {}
    }
    // It is refused and not asked.
    if needs.values().sum::<usize>() > MAX_QUESTIONS + 3 { Needs::new() } else { needs }
}

/// What one host chain has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChainPlan {
    pub chain_id: u64,
    pub questions: Vec<AclQuestion>,
    /// All of them must hold. Never empty.
    pub conditions: Vec<Condition>,
}

/// What must hold of the answers. Questions are named by their index in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The block's time is within the validity, both ends included.
    Within {
        start: U256,
        duration_secs: U256,
    },
    /// The user has code, and that code takes the signature for the user's (ERC-1271).
    SignedByCode {
        has_code: usize,
        is_valid: usize,
    },
    /// The user has invalidated no signature that is as young as this one.
    NotInvalidated {
        start: U256,
        before: usize,
    },
    Yes(usize),
    AnyYes(std::ops::Range<usize>),
}

impl ChainPlan {
    fn new(chain_id: u64) -> Self {
        Self { chain_id, questions: Vec::new(), conditions: Vec::new() }
    }

    fn ask(&mut self, question: AclQuestion) -> usize {
        self.questions.push(question);
        self.questions.len() - 1
    }

    fn require(&mut self, question: AclQuestion) {
        let index = self.ask(question);
        self.conditions.push(Condition::Yes(index));
    }
}

fn refused(reason: Reason, detail: impl Into<String>) -> Refusal {
    Refusal::AccessRefused(AccessRefusal::new(reason, detail))
}

fn too_many() -> Refusal {
    Refusal::Malformed("it names more handles and contracts than the contract lets through".into())
}

pub(super) fn no_handles() -> Refusal {
    Refusal::Malformed("the request names no ciphertext".into())
}

/// The plan of a public request, whose handles may be of several chains.
pub(super) fn public(handles: &[B256]) -> Result<Vec<ChainPlan>, Refusal> {
    if handles.is_empty() {
        return Err(no_handles());
    }
    if handles.len() > MAX_QUESTIONS {
        return Err(too_many());
    }
    let mut chains = BTreeMap::new();
    for handle in handles {
        let chain_id = handle_chain_id(handle);
        let plan = chains.entry(chain_id).or_insert_with(|| ChainPlan::new(chain_id));
        plan.require(AclQuestion::AllowedForDecryption { handle: *handle });
    }
    Ok(chains.into_values().collect())
}

/// Reads the transaction of a legacy request.
pub(super) fn legacy_call(
    to: Option<Address>,
    input: &[u8],
    contract: Address,
) -> Result<LegacyUserCall, Refusal> {
    if to != Some(contract) {
        let callee = to.map_or("creates a contract".to_owned(), |to| format!("calls {to}"));
        let detail = format!(
            "its transaction {callee} and not the Decryption contract itself, so what the user \
             signed cannot be read"
        );
        return Err(refused(Reason::ForeignCall, detail));
    }
    LegacyUserCall::decode(input).ok_or_else(|| {
        refused(Reason::CalldataDiffers, "its transaction calls no function that asks for this")
    })
}

/// The plan of a legacy user request. `call`: what its transaction asks for.
pub(super) fn legacy(
    user: &UserDecryption,
    call: &LegacyUserCall,
    domain: &SigningDomain,
) -> Result<ChainPlan, Refusal> {
    let chain_id = only_chain(&user.handles)?;
    let differs = |what| {
        let detail = format!("the calldata of its transaction has {what} than its event");
        refused(Reason::CalldataDiffers, detail)
    };
    if !call.pairs.iter().map(|(handle, _)| handle).eq(&user.handles) {
        return Err(differs("other handles"));
    }
    if call.user != user.user {
        return Err(differs("another user"));
    }
    if call.public_key != user.public_key {
        return Err(differs("another public key"));
    }
    if call.extra_data != user.extra_data {
        return Err(differs("another extraData"));
    }
    if call.chain_id != U256::from(chain_id) {
        return Err(differs("the contracts of another chain"));
    }
    if let Some((_, other)) =
        call.pairs.iter().find(|(_, contract)| !call.contracts.contains(contract))
    {
        let detail = format!("the user has not signed for contract {other}, which it names");
        return Err(refused(Reason::CalldataDiffers, detail));
    }
    let asker = call.delegator.unwrap_or(call.user);
    not_among(asker, &call.contracts)?;
    let digest = user_signature::legacy_digest(domain, chain_id, call);
    match user_signature::signer(digest, &call.signature) {
        Some(signer) if signer == user.user => {}
        found => return Err(wrong_signature(user.user, found)),
    }
    if call.pairs.len() > MAX_QUESTIONS / 2 {
        return Err(too_many());
    }
    let mut plan = ChainPlan::new(chain_id);
    for (handle, contract) in call.pairs.iter().copied() {
        if let Some(delegator) = call.delegator {
            let delegate = call.user;
            plan.require(AclQuestion::Delegated { delegator, delegate, contract, handle });
        } else {
            plan.require(AclQuestion::Allowed { handle, account: call.user });
            plan.require(AclQuestion::Allowed { handle, account: contract });
        }
    }
    Ok(plan)
}

/// The plan of a unified user request. `materials`: those that the Core is sent, if they come from the
/// event.
pub(super) fn unified(
    user: &UserDecryption,
    terms: &UnifiedTerms,
    materials: Option<&[Material]>,
    domain: &SigningDomain,
) -> Result<ChainPlan, Refusal> {
    let asked = terms.entries.iter().map(|entry| entry.handle);
    if let Some(materials) = materials
        && !asked.eq(materials.iter().map(|material| material.handle))
    {
        let detail = "its event lists other ciphertexts than the handles that are asked for";
        return Err(refused(Reason::MaterialsDiffer, detail));
    }
    let handles: Vec<B256> = terms.entries.iter().map(|entry| entry.handle).collect();
    let chain_id = only_chain(&handles)?;
    not_among(user.user, &terms.allowed_contracts)?;
    let (contracts, account) = (&terms.allowed_contracts, user.user);
    if handles.len().saturating_mul(contracts.len() + 1) > MAX_QUESTIONS {
        return Err(too_many());
    }
    let mut plan = ChainPlan::new(chain_id);
    let UnifiedTerms { start, duration_secs, .. } = *terms;
    plan.conditions.push(Condition::Within { start, duration_secs });
    let digest = user_signature::unified_digest(domain, chain_id, user, terms);
    if user_signature::signer(digest, &terms.signature) != Some(account) {
        let has_code = plan.ask(AclQuestion::CodeSize { account });
        let signature = terms.signature.clone();
        let is_valid = plan.ask(AclQuestion::ValidSignature { account, digest, signature });
        plan.conditions.push(Condition::SignedByCode { has_code, is_valid });
    }
    let before = plan.ask(AclQuestion::InvalidatedBefore { account });
    plan.conditions.push(Condition::NotInvalidated { start, before });
    for entry in &terms.entries {
        let handle = entry.handle;
        plan.require(if entry.owner == account {
            AclQuestion::Allowed { handle, account }
        } else {
            let (delegator, delegate, contract) = (entry.owner, account, entry.contract);
            AclQuestion::Delegated { delegator, delegate, contract, handle }
        });
        if !contracts.is_empty() {
            let first = plan.questions.len();
            for contract in contracts {
                plan.ask(AclQuestion::Allowed { handle, account: *contract });
            }
            plan.conditions.push(Condition::AnyYes(first..plan.questions.len()));
        }
    }
    Ok(plan)
}

/// The chain of the handles of a user request.
fn only_chain(handles: &[B256]) -> Result<u64, Refusal> {
    let chain_id = handle_chain_id(handles.first().ok_or_else(no_handles)?);
    match handles.iter().map(handle_chain_id).find(|other| *other != chain_id) {
        None => Ok(chain_id),
        Some(other) => {
            let detail = format!("its handles are of host chains {chain_id} and {other}");
            Err(refused(Reason::HandlesOfSeveralChains, detail))
        }
    }
}

fn not_among(account: Address, contracts: &[Address]) -> Result<(), Refusal> {
    if !contracts.contains(&account) {
        return Ok(());
    }
    let detail = format!("account {account} is one of the contracts that it names");
    Err(refused(Reason::UserAmongContracts, detail))
}

fn wrong_signature(user: Address, found: Option<Address>) -> Refusal {
    let found =
        found.map_or("recovers to no address".to_owned(), |found| format!("recovers to {found}"));
    let detail = format!("the signature in its calldata {found} and not to user {user}");
    refused(Reason::SignatureInvalid, detail)
}

#[cfg(test)]
mod tests;
