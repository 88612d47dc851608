//! How worlds are drawn: a few accounts, contracts and handles, so that they meet; and most of what each
//! request needs.

use alloy::{primitives::B256, signers::local::PrivateKeySigner};
use proptest::prelude::*;
use world::contracts::Variant;

use super::ground::{CHAINS, MOODS, NOBODYS};

/// An account, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// With a key.
    User(u8),
    Owner(u8),
    Contract(u8),
    /// A smart account, in this mood. It is owned by user 0.
    Wallet(u8),
}

/// A handle of the first or second configured chain, or of the one that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    pub chain: usize,
    pub number: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Public,
    Direct,
    Delegated,
    Unified,
}

/// What stands in the place of the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    ByUser,
    ByAnother,
    Nothing,
    Nonsense,
    Long,
}

/// What the gateway makes of a user's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twist {
    None,
    /// The event has another public key.
    OtherKey,
    /// The event lists another ciphertext.
    OtherMaterials,
    /// The transaction calls another contract, which asks.
    ThroughAnotherContract,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub handle: Handle,
    pub contract: u8,
    pub owner: Who,
}

#[derive(Clone, Debug)]
pub(super) struct Question {
    pub way: Way,
    pub user: Who,
    pub entries: Vec<Entry>,
    /// The contracts that the user signs for. `None`: those of the entries.
    pub named: Option<Vec<Who>>,
    /// When the signature's validity begins, in seconds from the block's time on, and how long it lasts.
    pub begins: i64,
    pub lasts: u64,
    pub signed: Signed,
    pub twist: Twist,
    /// `extraData` is a zero byte in place of nothing.
    pub zero: bool,
}

/// Times are in seconds from the block's time on.
#[derive(Clone, Debug)]
pub(super) enum Grant {
    Public(Handle),
    Allowed(Handle, Who),
    /// On both chains. `contract` is `None`: for every contract.
    Delegated {
        from: Who,
        to: Who,
        contract: Option<u8>,
        until: i64,
    },
    /// On both chains.
    Invalidated {
        who: Who,
        before: i64,
    },
    /// On both chains. No connector looks at it.
    Denied(Who),
}

#[derive(Clone, Debug)]
pub(super) struct World {
    /// The ACLs of the two chains.
    pub acls: [Variant; 2],
    pub grants: Vec<Grant>,
    pub questions: Vec<Question>,
}

pub(super) fn key(who: Who) -> PrivateKeySigner {
    let byte = match who {
        Who::User(number) => 0x10 + number,
        Who::Owner(number) => 0x30 + number,
        Who::Contract(number) | Who::Wallet(number) => 0x50 + number,
    };
    PrivateKeySigner::from_slice(&[byte; 32]).expect("a key")
}

impl Handle {
    pub fn bytes(self) -> B256 {
        let chain_id = CHAINS.get(self.chain).copied().unwrap_or(NOBODYS);
        let mut bytes = B256::repeat_byte(0xa0 + self.number);
        bytes[22..30].copy_from_slice(&chain_id.to_be_bytes());
        (bytes[30], bytes[31]) = (2, 0);
        bytes
    }
}

impl Question {
    fn delegator(&self) -> Who {
        self.entries[0].owner
    }

    /// The contracts that the user signs for.
    fn contracts(&self) -> Vec<Who> {
        let own = || self.entries.iter().map(|entry| Who::Contract(entry.contract)).collect();
        self.named.clone().unwrap_or_else(own)
    }

    /// What lets it pass. `until`: when delegations end; `wildcard`: they are for every contract.
    fn needs(&self, until: i64, wildcard: bool) -> Vec<Grant> {
        let mut needs = Vec::new();
        for Entry { handle, contract, owner } in self.entries.iter().copied() {
            let own = Who::Contract(contract);
            let mut delegated = |from| {
                let contract = (!wildcard).then_some(contract);
                needs.push(Grant::Delegated { from, to: self.user, contract, until });
                needs.extend([Grant::Allowed(handle, from), Grant::Allowed(handle, own)]);
            };
            match self.way {
                Way::Public => needs.push(Grant::Public(handle)),
                Way::Delegated => delegated(self.delegator()),
                Way::Unified if owner != self.user => delegated(owner),
                Way::Direct => {
                    needs.extend([Grant::Allowed(handle, self.user), Grant::Allowed(handle, own)]);
                }
                Way::Unified => needs.push(Grant::Allowed(handle, self.user)),
            }
            if self.way == Way::Unified
                && let Some(one) = self.contracts().last()
            {
                needs.push(Grant::Allowed(handle, *one));
            }
        }
        needs
    }
}

fn numbers(end: u8) -> impl Strategy<Value = u8> {
    0..end
}

fn users() -> impl Strategy<Value = Who> {
    let moods = u8::try_from(MOODS.len()).unwrap_or(u8::MAX);
    prop_oneof![4 => numbers(2).prop_map(Who::User), 2 => numbers(moods).prop_map(Who::Wallet)]
}

fn anybody() -> impl Strategy<Value = Who> {
    prop_oneof![users(), numbers(2).prop_map(Who::Owner), numbers(3).prop_map(Who::Contract),]
}

fn handles() -> impl Strategy<Value = Handle> {
    (prop_oneof![9 => Just(0_usize), 3 => Just(1), 1 => Just(2)], numbers(3))
        .prop_map(|(chain, number)| Handle { chain, number })
}

/// Around the block's own time, and far from it.
fn times() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(100_i64), 1 => Just(0), 1 => Just(1), 1 => Just(-1), 1 => Just(1_000_000)]
}

/// The kind of a world's entry; whether its owner is the user; the owner otherwise.
fn entries() -> impl Strategy<Value = Vec<(Handle, u8, bool, u8)>> {
    prop::collection::vec((handles(), numbers(3), any::<bool>(), numbers(2)), 1..4)
}

fn questions() -> impl Strategy<Value = Question> {
    let ways = prop_oneof![
        1 => Just(Way::Public),
        1 => Just(Way::Direct),
        1 => Just(Way::Delegated),
        4 => Just(Way::Unified),
    ];
    let validity = (
        prop_oneof![8 => Just(-100_i64), 1 => Just(0), 1 => Just(1), 1 => Just(500)],
        prop_oneof![8 => Just(86_400_u64), 1 => Just(100), 1 => Just(99), 1 => Just(0)],
    );
    let signed = prop_oneof![
        12 => Just(Signed::ByUser),
        1 => Just(Signed::ByAnother),
        1 => Just(Signed::Nothing),
        1 => Just(Signed::Nonsense),
        1 => Just(Signed::Long),
    ];
    let twist = prop_oneof![
        16 => Just(Twist::None),
        1 => Just(Twist::OtherKey),
        1 => Just(Twist::OtherMaterials),
        1 => Just(Twist::ThroughAnotherContract),
    ];
    let named = prop::option::weighted(0.3, prop::collection::vec(anybody(), 0..3));
    // Whether all handles are of the first one's chain, as they have to be unless it is public.
    let of_one_chain = prop::bool::weighted(0.85);
    (ways, users(), entries(), named, validity, signed, twist, any::<bool>(), of_one_chain)
        .prop_map(|(way, user, entries, named, (begins, lasts), signed, twist, zero, one_chain)| {
            let first = entries[0].0.chain;
            let entry = |(handle, contract, own, owner): (Handle, u8, bool, u8)| Entry {
                handle: if one_chain && way != Way::Public {
                    Handle { chain: first, ..handle }
                } else {
                    handle
                },
                contract,
                owner: if own && way != Way::Delegated { user } else { Who::Owner(owner) },
            };
            let entries = entries.into_iter().map(entry).collect();
            Question { way, user, entries, named, begins, lasts, signed, twist, zero }
        })
}

/// Grants that nobody asked for.
fn others() -> impl Strategy<Value = Grant> {
    prop_oneof![
        handles().prop_map(Grant::Public),
        (handles(), anybody()).prop_map(|(handle, who)| Grant::Allowed(handle, who)),
        (anybody(), users(), prop::option::of(numbers(3)), times())
            .prop_map(|(from, to, contract, until)| Grant::Delegated { from, to, contract, until }),
        (users(), prop::sample::select(vec![-101_i64, -100, -99, 0, 1]))
            .prop_map(|(who, before)| Grant::Invalidated { who, before }),
        anybody().prop_map(Grant::Denied),
    ]
}

/// A question; how much of what it needs is granted (a bit each), and how delegations are given.
fn asked() -> impl Strategy<Value = (Question, u16, i64, bool)> {
    let missing = prop_oneof![3 => Just(0_u16), 2 => (0..12_u16).prop_map(|bit| 1 << bit)];
    (questions(), missing, times(), prop::bool::weighted(0.25))
}

pub(super) fn worlds() -> impl Strategy<Value = World> {
    let acl =
        || prop_oneof![1 => Just(Variant::G12), 1 => Just(Variant::G13), 4 => Just(Variant::G14)];
    let asked = prop::collection::vec(asked(), 1..4);
    let others = prop::collection::vec(others(), 0..4);
    (acl(), acl(), asked, others).prop_map(|(first, second, asked, others)| {
        let mut grants = Vec::new();
        let mut questions = Vec::new();
        for (question, missing, until, wildcard) in asked {
            let needs = question.needs(until, wildcard).into_iter().enumerate();
            let given = needs.filter(|(index, _)| missing & (1 << (index % 12)) == 0);
            grants.extend(given.map(|(_, grant)| grant));
            questions.push(question);
        }
        // The last word about a delegation counts.
        grants.extend(others);
        World { acls: [first, second], grants, questions }
    })
}
