use alloy::signers::{SignerSync as _, local::PrivateKeySigner};

use super::*;
use crate::domain::{Bytes, HandleEntry, RequestTerms};

type LegacyChange = fn(&mut UserDecryption, &mut LegacyUserCall);
type UnifiedChange = fn(&mut UserDecryption, &mut UnifiedTerms);
type MaterialChange = fn(&mut Vec<Material>);

const CHAIN: u64 = 31_337;
const TOKEN: Address = Address::repeat_byte(0x70);
const OTHER: Address = Address::repeat_byte(0x71);
const OWNER: Address = Address::repeat_byte(0x0e);

fn key() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[7; 32]).unwrap()
}

fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 1,
        verifying_contract: Address::repeat_byte(0xdc),
    }
}

fn handle(chain_id: u64, number: u8) -> B256 {
    let mut handle = B256::ZERO;
    handle[0] = number;
    handle[22..30].copy_from_slice(&chain_id.to_be_bytes());
    handle
}

fn handles() -> Vec<B256> {
    vec![handle(CHAIN, 1), handle(CHAIN, 2)]
}

fn material(handle: B256) -> Material {
    Material { handle, key_id: U256::ONE, digest: B256::ZERO, coprocessors: Vec::new() }
}

fn sign(call: &mut LegacyUserCall) {
    let digest = user_signature::legacy_digest(&domain(), CHAIN, call);
    call.signature = key().sign_hash_sync(&digest).unwrap().as_bytes().into();
}

/// A legacy request and its calldata.
fn legacy_request(delegator: Option<Address>) -> (UserDecryption, LegacyUserCall) {
    let user = UserDecryption::of_materials(
        handles().into_iter().map(material).collect(),
        key().address(),
        Bytes::from_static(b"key"),
        Bytes::from_static(&[0]),
    );
    let mut call = LegacyUserCall {
        pairs: vec![(handle(CHAIN, 1), TOKEN), (handle(CHAIN, 2), OTHER)],
        start: U256::from(1_000),
        duration_days: U256::from(1),
        chain_id: U256::from(CHAIN),
        contracts: vec![TOKEN, OTHER],
        user: key().address(),
        delegator,
        public_key: user.public_key.clone(),
        signature: Bytes::new(),
        extra_data: user.extra_data.clone(),
    };
    sign(&mut call);
    (user, call)
}

fn reason(refused: Result<impl std::fmt::Debug, Refusal>) -> &'static str {
    match refused.unwrap_err() {
        Refusal::AccessRefused(why) => why.reason.as_str(),
        Refusal::Malformed(_) => "malformed",
        Refusal::NotRequested => "not_requested",
    }
}

#[test]
fn a_public_request_asks_each_chain_about_its_own_handles() {
    let asked = [handle(2, 1), handle(1, 2), handle(2, 3)];
    let plans = public(&asked).unwrap();
    let chains: Vec<_> = plans.iter().map(|plan| (plan.chain_id, plan.questions.len())).collect();
    assert_eq!(chains, [(1, 1), (2, 2)]);
    let about = |handle| AclQuestion::AllowedForDecryption { handle };
    assert_eq!(plans[1].questions, [about(asked[0]), about(asked[2])]);
    assert_eq!(plans[1].conditions, [Condition::Yes(0), Condition::Yes(1)]);
    assert_eq!(reason(public(&[])), "malformed");
    assert_eq!(reason(public(&vec![asked[0]; MAX_QUESTIONS + 1])), "malformed");
}

#[test]
fn a_direct_request_needs_the_user_and_the_contract_of_each_handle() {
    let (user, call) = legacy_request(None);
    let plan = legacy(&user, &call, &domain()).unwrap();
    let allowed = |handle, account| AclQuestion::Allowed { handle, account };
    let (first, second) = (handle(CHAIN, 1), handle(CHAIN, 2));
    let expected = [
        allowed(first, user.user),
        allowed(first, TOKEN),
        allowed(second, user.user),
        allowed(second, OTHER),
    ];
    assert_eq!((plan.chain_id, &plan.questions[..]), (CHAIN, &expected[..]));
    assert_eq!(plan.conditions, [0, 1, 2, 3].map(Condition::Yes));
}

#[test]
fn a_delegated_request_needs_the_delegation_alone() {
    let (user, call) = legacy_request(Some(OWNER));
    let plan = legacy(&user, &call, &domain()).unwrap();
    let delegated = |handle, contract| AclQuestion::Delegated {
        delegator: OWNER,
        delegate: user.user,
        contract,
        handle,
    };
    let expected = [delegated(handle(CHAIN, 1), TOKEN), delegated(handle(CHAIN, 2), OTHER)];
    assert_eq!(plan.questions, expected);
    assert_eq!(plan.conditions, [Condition::Yes(0), Condition::Yes(1)]);
}

#[test]
fn whatever_a_gateway_node_changes_in_event_or_calldata_is_refused() {
    let changes: [(&str, LegacyChange); 12] = [
        ("calldata_differs", |user, _| user.handles.swap(0, 1)),
        ("calldata_differs", |user, _| user.handles.truncate(1)),
        ("calldata_differs", |user, _| user.user = OTHER),
        ("calldata_differs", |user, _| user.public_key = Bytes::from_static(b"mine")),
        ("calldata_differs", |user, _| user.extra_data = Bytes::new()),
        ("calldata_differs", |_, call| call.pairs[1].1 = OWNER),
        ("calldata_differs", |_, call| call.chain_id += U256::from(1_u128 << 64)),
        ("handles_of_several_chains", |user, call| {
            user.handles[1] = handle(2, 2);
            call.pairs[1].0 = handle(2, 2);
        }),
        ("malformed", |user, call| {
            user.handles.clear();
            call.pairs.clear();
        }),
        ("signature_invalid", |user, call| {
            user.public_key = Bytes::from_static(b"mine");
            call.public_key = user.public_key.clone();
        }),
        ("signature_invalid", |_, call| call.signature = Bytes::new()),
        ("user_among_contracts", |_, call| {
            let asker = call.delegator.unwrap_or(call.user);
            call.contracts.push(asker);
            sign(call);
        }),
    ];
    for delegator in [None, Some(OWNER)] {
        for (expected, change) in changes {
            let (mut user, mut call) = legacy_request(delegator);
            change(&mut user, &mut call);
            assert_eq!(reason(legacy(&user, &call, &domain())), expected);
        }
    }
    // A direct signature is none for a delegation.
    let (user, direct) = legacy_request(None);
    let delegated = LegacyUserCall { delegator: Some(OWNER), ..direct };
    assert_eq!(reason(legacy(&user, &delegated, &domain())), "signature_invalid");
}

#[test]
fn a_transaction_that_calls_something_else_is_refused() {
    let contract = domain().verifying_contract;
    assert_eq!(reason(legacy_call(Some(OTHER), &[], contract)), "foreign_call");
    assert_eq!(reason(legacy_call(None, &[], contract)), "foreign_call");
    assert_eq!(reason(legacy_call(Some(contract), &[1, 2, 3, 4], contract)), "calldata_differs");
}

/// A unified request: the first handle is the user's own.
fn unified_request(signed: bool) -> (UserDecryption, UnifiedTerms) {
    let user = key().address();
    let entries = vec![
        HandleEntry { handle: handle(CHAIN, 1), contract: TOKEN, owner: user },
        HandleEntry { handle: handle(CHAIN, 2), contract: TOKEN, owner: OWNER },
    ];
    let mut terms = UnifiedTerms {
        entries,
        allowed_contracts: vec![TOKEN, OTHER],
        start: U256::from(1_000),
        duration_secs: U256::from(100),
        signature: Bytes::new(),
    };
    let mut asked = UserDecryption {
        handles: handles(),
        materials: Some(handles().into_iter().map(material).collect()),
        user,
        public_key: Bytes::from_static(b"key"),
        extra_data: Bytes::new(),
        terms: RequestTerms::Legacy,
    };
    if signed {
        let digest = user_signature::unified_digest(&domain(), CHAIN, &asked, &terms);
        terms.signature = key().sign_hash_sync(&digest).unwrap().as_bytes().into();
    }
    asked.terms = RequestTerms::Unified(terms.clone());
    (asked, terms)
}

fn plan_of(user: &UserDecryption, terms: &UnifiedTerms) -> Result<ChainPlan, Refusal> {
    unified(user, terms, user.materials.as_deref(), &domain())
}

#[test]
fn a_unified_request_asks_for_everything_at_once() {
    let (user, terms) = unified_request(true);
    let plan = plan_of(&user, &terms).unwrap();
    let (first, second) = (handle(CHAIN, 1), handle(CHAIN, 2));
    let allowed = |handle, account| AclQuestion::Allowed { handle, account };
    let expected = [
        AclQuestion::InvalidatedBefore { account: user.user },
        allowed(first, user.user),
        allowed(first, TOKEN),
        allowed(first, OTHER),
        AclQuestion::Delegated {
            delegator: OWNER,
            delegate: user.user,
            contract: TOKEN,
            handle: second,
        },
        allowed(second, TOKEN),
        allowed(second, OTHER),
    ];
    assert_eq!(plan.questions, expected);
    let (start, duration_secs) = (terms.start, terms.duration_secs);
    let conditions = [
        Condition::Within { start, duration_secs },
        Condition::NotInvalidated { start, before: 0 },
        Condition::Yes(1),
        Condition::AnyYes(2..4),
        Condition::Yes(4),
        Condition::AnyYes(5..7),
    ];
    assert_eq!(plan.conditions, conditions);
}

#[test]
fn what_no_key_has_signed_the_users_code_is_asked_for() {
    for signature in [Bytes::new(), vec![0; 65].into(), vec![1; 200].into()] {
        let (user, terms) = unified_request(false);
        let terms = UnifiedTerms { signature: signature.clone(), ..terms };
        let plan = plan_of(&user, &terms).unwrap();
        let digest = user_signature::unified_digest(&domain(), CHAIN, &user, &terms);
        let account = user.user;
        let expected = [
            AclQuestion::CodeSize { account },
            AclQuestion::ValidSignature { account, digest, signature },
        ];
        assert_eq!(plan.questions[..2], expected);
        assert_eq!(plan.conditions[1], Condition::SignedByCode { has_code: 0, is_valid: 1 });
    }
}

#[test]
fn without_contracts_no_contract_is_asked_for() {
    let (user, mut terms) = unified_request(true);
    terms.allowed_contracts.clear();
    let plan = plan_of(&user, &terms).unwrap();
    let any = plan.conditions.iter().any(|one| matches!(one, Condition::AnyYes(_)));
    assert!(!any, "{plan:?}");
}

#[test]
fn the_handles_that_are_checked_are_those_that_are_sent() {
    let (user, terms) = unified_request(true);
    let changes: [MaterialChange; 4] = [
        |materials| materials.swap(0, 1),
        |materials| materials.truncate(1),
        |materials| materials.push(material(handle(CHAIN, 9))),
        |materials| materials[1].handle = handle(CHAIN, 9),
    ];
    for change in changes {
        let mut materials = user.materials.clone().unwrap();
        change(&mut materials);
        let refused = unified(&user, &terms, Some(&materials), &domain());
        assert_eq!(reason(refused), "materials_differ");
    }
    assert!(unified(&user, &terms, None, &domain()).is_ok());
}

#[test]
fn what_cannot_be_a_unified_request_is_refused() {
    let changes: [(&str, UnifiedChange); 4] = [
        ("handles_of_several_chains", |_, terms| terms.entries[1].handle = handle(9, 2)),
        ("user_among_contracts", |user, terms| terms.allowed_contracts.push(user.user)),
        ("malformed", |_, terms| terms.entries.clear()),
        ("malformed", |_, terms| terms.allowed_contracts = vec![TOKEN; MAX_QUESTIONS]),
    ];
    for (expected, change) in changes {
        let (mut user, mut terms) = unified_request(true);
        change(&mut user, &mut terms);
        assert_eq!(reason(unified(&user, &terms, None, &domain())), expected);
    }
}

/// What a plan will need is known before it is made, and is no less than it has.
#[test]
fn the_needs_of_a_request_cover_its_plan() {
    let public_of = |handles: Vec<B256>| {
        let (materials, extra_data) = (None, Bytes::new());
        Operation::PublicDecryption(crate::domain::PublicDecryption {
            handles,
            materials,
            extra_data,
        })
    };
    let asked = [handle(2, 1), handle(1, 2), handle(2, 3)];
    assert_eq!(needs(&public_of(asked.to_vec())), Needs::from([(1, 1), (2, 2)]));
    // It is refused, so nothing is needed.
    assert_eq!(needs(&public_of(vec![asked[0]; MAX_QUESTIONS + 4])), Needs::new());
    for delegator in [None, Some(OWNER)] {
        let (user, call) = legacy_request(delegator);
        let plan = legacy(&user, &call, &domain()).unwrap();
        let needs = needs(&Operation::UserDecryption(user));
        assert!(needs.len() == 1 && needs[&CHAIN] >= plan.questions.len(), "{needs:?}");
    }
    for signed in [true, false] {
        let (user, terms) = unified_request(signed);
        let plan = unified(&user, &terms, None, &domain()).unwrap();
        let needs = needs(&Operation::UserDecryption(user));
        assert!(needs.len() == 1 && needs[&CHAIN] >= plan.questions.len(), "{needs:?}");
        assert!(signed || needs[&CHAIN] == plan.questions.len());
    }
}
