use std::collections::{HashMap, HashSet};

use alloy::signers::{SignerSync as _, local::PrivateKeySigner};
use proptest::prelude::*;

use super::*;
use crate::{
    contracts::{abi::LegacyUserCall, acl::AclQuestion},
    domain::{
        Address, B256, Bytes, HandleEntry, RequestTerms, SigningDomain, UnifiedTerms,
        UserDecryption,
    },
    flow::access::{plan, user_signature},
};

/// Conditions, answers, the block's time, the decision.
type Row = (Vec<Condition>, Vec<AclAnswer>, Option<u64>, &'static str);

const YES: AclAnswer = AclAnswer::Yes;
const NO: AclAnswer = AclAnswer::No;
const REVERTED: AclAnswer = AclAnswer::Reverted;

fn time(seconds: u64) -> AclAnswer {
    AclAnswer::Time(U256::from(seconds))
}

/// A plan with as many questions as there are answers: what they ask does not matter here.
fn judged(conditions: Vec<Condition>, answers: &[AclAnswer], now: Option<u64>) -> String {
    let question = AclQuestion::CodeSize { account: Address::ZERO };
    let questions = vec![question; answers.len()];
    let plan = ChainPlan { chain_id: 1, questions, conditions };
    match decide(&plan, answers, now) {
        Verdict::Granted => "granted".to_owned(),
        Verdict::Early { now, start } => format!("early {now} {start}"),
        Verdict::Denied(at) => format!("denied {at:?}"),
        Verdict::Refused(why) => why.reason.as_str().to_owned(),
    }
}

#[test]
fn the_table_of_decisions() {
    let within = |start: u64, seconds: u64| Condition::Within {
        start: U256::from(start),
        duration_secs: U256::from(seconds),
    };
    let signed = Condition::SignedByCode { has_code: 0, is_valid: 1 };
    let young = |start: u64| Condition::NotInvalidated { start: U256::from(start), before: 0 };
    let rows: Vec<Row> = vec![
        // Nothing grants nothing.
        (vec![], vec![], None, "denied None"),
        (vec![], vec![YES], None, "denied None"),
        // A plain yes.
        (vec![Condition::Yes(0)], vec![YES], None, "granted"),
        (vec![Condition::Yes(0)], vec![NO], None, "denied Some(0)"),
        (vec![Condition::Yes(0)], vec![REVERTED], None, "denied Some(0)"),
        (vec![Condition::Yes(0)], vec![time(1)], None, "denied Some(0)"),
        (vec![Condition::Yes(1)], vec![YES], None, "denied Some(1)"),
        (vec![Condition::Yes(0), Condition::Yes(1)], vec![YES, NO], None, "denied Some(1)"),
        // Any of some.
        (vec![Condition::AnyYes(0..2)], vec![NO, YES], None, "granted"),
        (vec![Condition::AnyYes(0..2)], vec![NO, NO], None, "denied Some(0)"),
        (vec![Condition::AnyYes(0..1)], vec![NO, YES], None, "denied Some(0)"),
        (vec![Condition::AnyYes(0..0)], vec![YES], None, "denied Some(0)"),
        // Validity, both ends included; without a block's time there is none.
        (vec![within(10, 5)], vec![], Some(9), "early 9 10"),
        (vec![within(10, 5)], vec![], Some(10), "granted"),
        (vec![within(10, 5)], vec![], Some(15), "granted"),
        (vec![within(10, 5)], vec![], Some(16), "validity_expired"),
        (vec![within(10, 5)], vec![], None, "denied None"),
        (vec![within(10, u64::MAX)], vec![], Some(u64::MAX), "granted"),
        // Signed by code.
        (vec![signed.clone()], vec![YES, YES], None, "granted"),
        (vec![signed.clone()], vec![YES, NO], None, "denied Some(1)"),
        (vec![signed.clone()], vec![YES, REVERTED], None, "denied Some(1)"),
        (vec![signed.clone()], vec![NO, YES], None, "signature_invalid"),
        (vec![signed.clone()], vec![NO, REVERTED], None, "signature_invalid"),
        (vec![signed.clone()], vec![REVERTED, YES], None, "denied Some(0)"),
        // Invalidation.
        (vec![young(10)], vec![time(10)], None, "granted"),
        (vec![young(10)], vec![time(11)], None, "signature_invalidated"),
        (vec![young(10)], vec![REVERTED], None, "denied Some(0)"),
        (vec![young(10)], vec![YES], None, "denied Some(0)"),
        // What is final comes before what is not, whatever comes first; before its time nothing is final.
        (vec![Condition::Yes(0), within(10, 5)], vec![NO], Some(16), "validity_expired"),
        (vec![Condition::Yes(1), young(10)], vec![time(11), NO], None, "signature_invalidated"),
        (vec![within(10, 5), signed], vec![NO, NO], Some(9), "early 9 10"),
    ];
    for (conditions, answers, now, expected) in rows {
        let shown = format!("{conditions:?} {answers:?} {now:?}");
        assert_eq!(judged(conditions, &answers, now), expected, "{shown}");
    }
}

#[test]
fn answers_to_another_plan_grant_nothing() {
    let question = AclQuestion::CodeSize { account: Address::ZERO };
    let conditions = vec![Condition::Yes(0)];
    let plan = ChainPlan { chain_id: 1, questions: vec![question; 2], conditions };
    assert_eq!(decide(&plan, &[YES], None), Verdict::Denied(None));
    assert_eq!(decide(&plan, &[YES, YES, YES], None), Verdict::Denied(None));
}

// A world in which the rules are followed by hand.

const USER_KEY: [u8; 32] = [7; 32];
const CHAIN: u64 = 5;

/// The state of an ACL and of the accounts.
#[derive(Clone, Debug, Default)]
struct World {
    now: u64,
    public: HashSet<B256>,
    allowed: HashSet<(B256, Address)>,
    /// (delegator, delegate, contract): until when.
    delegated: HashMap<(Address, Address, Address), u64>,
    invalidated: u64,
    user_has_code: bool,
    code_accepts: bool,
}

impl World {
    fn is_delegated(
        &self,
        (from, to, contract): (Address, Address, Address),
        handle: B256,
    ) -> bool {
        self.allowed.contains(&(handle, from))
            && self.allowed.contains(&(handle, contract))
            && self.delegated.get(&(from, to, contract)).is_some_and(|until| *until > self.now)
    }

    /// The contract's answer.
    fn answer(&self, question: &AclQuestion) -> AclAnswer {
        let said = match question {
            AclQuestion::AllowedForDecryption { handle } => self.public.contains(handle),
            AclQuestion::Allowed { handle, account } => self.allowed.contains(&(*handle, *account)),
            AclQuestion::Delegated { delegator, delegate, contract, handle } => {
                self.is_delegated((*delegator, *delegate, *contract), *handle)
            }
            AclQuestion::InvalidatedBefore { .. } => return time(self.invalidated),
            AclQuestion::ValidSignature { .. } => self.user_has_code && self.code_accepts,
            AclQuestion::CodeSize { .. } => self.user_has_code,
        };
        if said { YES } else { NO }
    }

    fn decide(&self, plan: &ChainPlan) -> String {
        let answers: Vec<_> = plan.questions.iter().map(|one| self.answer(one)).collect();
        match decide(plan, &answers, Some(self.now)) {
            Verdict::Granted => "granted".to_owned(),
            Verdict::Early { .. } => "early".to_owned(),
            Verdict::Denied(_) => "denied".to_owned(),
            Verdict::Refused(why) => why.reason.as_str().to_owned(),
        }
    }
}

/// The rules of ciphertext-storage 10, step by step, of the request itself.
fn unified_by_hand(
    world: &World,
    user: Address,
    terms: &UnifiedTerms,
    signed_by_key: bool,
) -> &'static str {
    let (start, end) = (terms.start, terms.start + terms.duration_secs);
    if U256::from(world.now) > end {
        return "validity_expired";
    }
    if U256::from(world.now) < start {
        return "early";
    }
    if !signed_by_key && !world.user_has_code {
        return "signature_invalid";
    }
    if U256::from(world.invalidated) > start {
        return "signature_invalidated";
    }
    if !signed_by_key && !world.code_accepts {
        return "denied";
    }
    for HandleEntry { handle, contract, owner } in &terms.entries {
        let owns = *owner == user && world.allowed.contains(&(*handle, user));
        let has = *owner != user && world.is_delegated((*owner, user, *contract), *handle);
        if !(owns || has) {
            return "denied";
        }
        let named = &terms.allowed_contracts;
        let some = named.iter().filter(|one| world.allowed.contains(&(*handle, **one))).count();
        if !named.is_empty() && some == 0 {
            return "denied";
        }
    }
    "granted"
}

fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 1,
        verifying_contract: Address::repeat_byte(0xdc),
    }
}

fn handle(number: u8) -> B256 {
    let mut handle = B256::ZERO;
    handle[0] = number;
    handle[22..30].copy_from_slice(&CHAIN.to_be_bytes());
    handle
}

fn contract(number: u8) -> Address {
    Address::repeat_byte(0xc0 + number)
}

/// The user is account 0.
fn account(number: u8) -> Address {
    if number == 0 { user_key().address() } else { Address::repeat_byte(0xa0 + number) }
}

fn user_key() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&USER_KEY).unwrap()
}

fn worlds() -> impl Strategy<Value = World> {
    let allowed = prop::collection::hash_set((0..3_u8, 0..4_u8, any::<bool>()), 0..24);
    let delegated = prop::collection::hash_map((1..3_u8, 0..2_u8), 90..120_u64, 0..4);
    let public = prop::collection::hash_set(0..3_u8, 0..4);
    (90..120_u64, public, allowed, delegated, 95..105_u64, any::<bool>(), any::<bool>()).prop_map(
        |(now, public, allowed, delegated, invalidated, user_has_code, code_accepts)| World {
            now,
            public: public.into_iter().map(handle).collect(),
            allowed: allowed
                .into_iter()
                .map(|(of, who, is_contract)| {
                    (handle(of), if is_contract { contract(who % 2) } else { account(who) })
                })
                .collect(),
            delegated: delegated
                .into_iter()
                .map(|((from, of), until)| ((account(from), account(0), contract(of)), until))
                .collect(),
            invalidated,
            user_has_code,
            code_accepts,
        },
    )
}

proptest! {
    #[test]
    fn public_requests_are_judged_as_by_hand(
        world in worlds(),
        asked in prop::collection::vec(0..3_u8, 1..4),
    ) {
        let handles: Vec<B256> = asked.into_iter().map(handle).collect();
        let expected =
            if handles.iter().all(|one| world.public.contains(one)) { "granted" } else { "denied" };
        let plans = plan::public(&handles).unwrap();
        prop_assert_eq!(plans.len(), 1);
        prop_assert_eq!(world.decide(&plans[0]), expected);
    }

    #[test]
    fn legacy_requests_are_judged_as_by_hand(
        world in worlds(),
        pairs in prop::collection::vec((0..3_u8, 0..2_u8), 1..4),
        delegator in prop::option::of(1..3_u8),
    ) {
        let pairs: Vec<_> =
            pairs.into_iter().map(|(of, by)| (handle(of), contract(by))).collect();
        let user = account(0);
        let delegator = delegator.map(account);
        let granted = pairs.iter().all(|(handle, contract)| match delegator {
            Some(from) => world.is_delegated((from, user, *contract), *handle),
            None => [user, *contract].iter().all(|who| world.allowed.contains(&(*handle, *who))),
        });
        let mut call = LegacyUserCall {
            start: U256::from(1),
            duration_days: U256::from(1),
            chain_id: U256::from(CHAIN),
            contracts: vec![contract(0), contract(1)],
            user,
            delegator,
            public_key: Bytes::from_static(b"key"),
            signature: Bytes::new(),
            extra_data: Bytes::new(),
            pairs,
        };
        let digest = user_signature::legacy_digest(&domain(), CHAIN, &call);
        call.signature = user_key().sign_hash_sync(&digest).unwrap().as_bytes().into();
        let asked = UserDecryption {
            handles: call.pairs.iter().map(|(handle, _)| *handle).collect(),
            materials: None,
            user,
            public_key: call.public_key.clone(),
            extra_data: Bytes::new(),
            terms: RequestTerms::Legacy,
        };
        let plan = plan::legacy(&asked, &call, &domain()).unwrap();
        prop_assert_eq!(world.decide(&plan), if granted { "granted" } else { "denied" });
    }

    #[test]
    fn unified_requests_are_judged_as_by_hand(
        world in worlds(),
        entries in prop::collection::vec((0..3_u8, 0..2_u8, 0..3_u8), 1..4),
        contracts in prop::collection::vec(0..2_u8, 0..3),
        (start, seconds) in (95..110_u64, 0..15_u64),
        signed_by_key in any::<bool>(),
    ) {
        let user = account(0);
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(of, by, whose)| HandleEntry {
                handle: handle(of),
                contract: contract(by),
                owner: account(whose),
            })
            .collect();
        let mut terms = UnifiedTerms {
            allowed_contracts: contracts.into_iter().map(contract).collect(),
            start: U256::from(start),
            duration_secs: U256::from(seconds),
            signature: Bytes::from_static(&[1]),
            entries,
        };
        let asked = UserDecryption {
            handles: terms.entries.iter().map(|entry| entry.handle).collect(),
            materials: None,
            user,
            public_key: Bytes::from_static(b"key"),
            extra_data: Bytes::new(),
            terms: RequestTerms::Legacy,
        };
        if signed_by_key {
            let digest = user_signature::unified_digest(&domain(), CHAIN, &asked, &terms);
            terms.signature = user_key().sign_hash_sync(&digest).unwrap().as_bytes().into();
        }
        let plan = plan::unified(&asked, &terms, None, &domain()).unwrap();
        let expected = unified_by_hand(&world, user, &terms, signed_by_key);
        prop_assert_eq!(world.decide(&plan), expected);
    }

    /// No answer that is not a yes, wherever it stands among answers that grant, leaves a grant, unless
    /// another one of the same list of contracts stands in for it.
    #[test]
    fn a_grant_needs_every_yes(
        conditions in prop::collection::vec(0..6_usize, 1..6),
        bad in prop::sample::select(vec![NO, REVERTED, time(0)]),
        at in 0..6_usize,
    ) {
        let plan = ChainPlan {
            chain_id: 1,
            questions: vec![AclQuestion::CodeSize { account: Address::ZERO }; 6],
            conditions: conditions.iter().copied().map(Condition::Yes).collect(),
        };
        let mut answers = vec![YES; 6];
        prop_assert_eq!(decide(&plan, &answers, None), Verdict::Granted);
        answers[at] = bad;
        let granted = decide(&plan, &answers, None) == Verdict::Granted;
        prop_assert_eq!(granted, !conditions.contains(&at));
    }
}
