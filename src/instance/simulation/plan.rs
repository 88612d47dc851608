//! What a seed decides: the world, and how often each fault happens in it.

use std::time::Duration;

use fastrand::Rng;

use super::{
    deployment::HOST_IDS,
    keys::{KeyPlan, contract::Rules},
};
use crate::{
    contracts::abi::Generation::{self, G12, G13, G14, Head, UpToG10},
    domain::PerKind,
    flow::finality::rule::{FinalityRule, FinalityTag},
};

/// How an endpoint's header blooms relate to the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blooms {
    AsTheyAre,
    Missing,
    Full,
    Empty,
}

/// Limits of log ranges: blocks per query, error code and error text, as real providers return them.
pub(super) const LIMITS: [(u64, i64, &str); 7] = [
    (1, -32_602, "query exceeds max block range"),
    (5, -32_600, "block range too high"),
    (
        10,
        -32_600,
        "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range.",
    ),
    (20, -32_000, "block range is bigger than maxBlockRange"),
    (50, -32_602, "eth_getLogs is limited to 0 - 50 blocks range"),
    (100, -32_602, "range 600 exceeds limit of 100"),
    (100, -32_005, "block range too large, max range: 100"),
];

/// So few blocks at a time are too few to read the votes of others.
const FEW_BLOCKS: u64 = 20;

/// The plan of one seed. Each fault is absent from about half of the seeds, so that the others also
/// occur alone and in pairs.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Plan {
    pub requests: u64,
    /// Number of bursts in which the requests come, so that many are in flight at once; zero: one by
    /// one.
    pub bursts: u64,
    /// Blocks that existed before the connector.
    pub history: u64,
    pub block_time: Duration,
    /// A node with a mempool; otherwise a sequencer, which has none.
    pub mempool: bool,
    /// The node executes a transaction before it accepts it.
    pub executes_ahead: bool,
    /// The node can wait for the receipt of a raw transaction (EIP-7966).
    pub offers_receipts: bool,
    /// Number of machines; each URL has at least one.
    pub nodes: usize,
    pub urls: usize,
    /// Per URL: the quality of its headers' blooms, and its range limit.
    pub blooms: [Blooms; 2],
    pub limits: [Option<usize>; 2],
    /// Per URL: it accepts no JSON-RPC batches.
    pub no_arrays: [bool; 2],
    /// The log index is broken before the connector's first start.
    pub broken_at_first: bool,
    /// The finality rule: when a request's block is final enough to be walked.
    pub depth: FinalityRule,
    pub core: CoreAge,
    pub storm: Duration,
    pub faults: Faults,
    /// The generations of the contracts, one after the other.
    pub path: &'static [Generation],
    /// The last coprocessor attests other ciphertexts than it has.
    pub attests_falsely: bool,
    pub hosts: HostPlan,
    pub keys: KeyPlan,
    /// How often the KMS context changes, and whether old ones are destroyed.
    pub context_changes: u8,
    pub destroys_contexts: bool,
}

/// The generations of a story.
const PATHS: [&[Generation]; 14] = [
    &[UpToG10],
    &[UpToG10],
    &[UpToG10],
    &[UpToG10],
    &[G12],
    &[G13],
    &[G13],
    &[G14],
    &[Head],
    &[UpToG10, G13, G14, Head],
    &[UpToG10, G12],
    &[G12, G13],
    &[G13, G14],
    &[G14, Head],
];

/// The host chains, and how often their faults happen: at each block, in thousandths.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostPlan {
    /// How many host chains there are, each of this plan.
    pub chains: usize,
    pub nodes: usize,
    /// How many of them must agree.
    pub agreement: usize,
    /// What the last one says of everything. Only where others must agree with it.
    pub lie: Option<bool>,
    pub block_time: Duration,
    /// They accept no batches; they know no block by its hash.
    pub no_arrays: bool,
    pub no_block_hashes: bool,
    /// A node stands still, or refuses connections; no block is made; a reorganisation.
    pub still: u64,
    pub away: u64,
    pub pauses: u64,
    pub reorganisation: u64,
    /// The ACL is upgraded, and takes back a part of what the one before it had granted.
    pub upgrade: u64,
}

/// What the Core does when a failed request is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoreAge {
    /// Up to v0.13: it answers that it knows the request, and keeps it failed.
    KeepsFailed,
    DoesAgain,
}

/// Fault rates in thousandths; they apply during the storm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// The process dies at an await.
    pub crash: u64,
    /// The process is stopped; drawn once a second.
    pub stop: u64,
    /// A commit fails.
    pub disk: u64,
    /// A node's response: late, missing, an error response.
    pub late: u64,
    pub never: u64,
    pub packet: u64,
    /// A raw transaction: lost, accepted silently, refused with an untrue text.
    pub lost: u64,
    pub silent: u64,
    pub untrue: u64,
    /// Drawn at each block: a node falls behind, forgets its pool, a block's logs are hidden for a
    /// while, no block's logs are shown for some seconds, the connection is lost, the head is not
    /// announced, the base fee rises, a reorganisation, a foreign transaction of the wallet.
    pub lag: u64,
    pub forgets: u64,
    pub hidden: u64,
    pub blind: u64,
    pub reconnect: u64,
    pub unannounced: u64,
    pub dear: u64,
    pub reorganisation: u64,
    pub foreign: u64,
    /// In a reorganisation, for each request or answer it drops: another request gets the id; the
    /// answer does not come back.
    pub namesake: u64,
    pub unanswered: u64,
    /// Logs of a range: duplicated and out of order.
    pub shuffled: u64,
    /// The Core restarts or deletes a request (drawn at each block), has no time, fails, is cut off.
    pub core_restart: u64,
    pub core_deletes: u64,
    pub core_busy: u64,
    pub core_fails: u64,
    pub core_cut: u64,
    /// The connection to the Core takes seconds.
    pub core_connects_late: u64,
    /// The ciphertext store.
    pub store: u64,
    /// Drawn at each block, for one endpoint: it refuses connections; its log index breaks, or that of
    /// all endpoints; its count, tip, base fee or estimates are wrong for seconds; its tags stand
    /// still.
    pub away: u64,
    pub index: u64,
    pub count: u64,
    pub tip: u64,
    pub base: u64,
    pub estimate: u64,
    pub tag: u64,
    /// An unreadable receipt.
    pub odd_receipt: u64,
    /// At a start: the journal is lost. If so, whether the Core also has another signing key.
    pub journal_lost: u64,
    pub signer_changed: u64,
}

impl Plan {
    /// The rules of the contract that stands on the gateway.
    pub fn keys_on_gateway(&self) -> Option<Rules> {
        self.keys.rules.filter(|rules| !rules.is_ethereum)
    }

    pub fn of(seed: u64) -> Self {
        let dice = &mut Rng::with_seed(seed);
        let mut rate = |most: u64| if dice.bool() { dice.u64(1..=most) } else { 0 };
        let faults = Faults {
            crash: rate(12),
            stop: rate(60),
            disk: rate(30),
            late: rate(100),
            never: rate(60),
            packet: rate(150),
            lost: rate(300),
            silent: rate(300),
            untrue: rate(100),
            lag: rate(200),
            forgets: rate(60),
            hidden: rate(300),
            blind: rate(40),
            reconnect: rate(60),
            unannounced: rate(300),
            dear: rate(40),
            reorganisation: rate(80),
            foreign: rate(20),
            namesake: rate(300),
            unanswered: rate(300),
            shuffled: rate(500),
            core_restart: rate(60),
            core_deletes: rate(60),
            core_busy: rate(200),
            core_fails: rate(100),
            core_cut: rate(200),
            core_connects_late: 0,
            store: rate(300),
            away: rate(30),
            index: rate(60),
            count: rate(60),
            tip: rate(100),
            base: rate(60),
            estimate: rate(100),
            tag: rate(60),
            odd_receipt: rate(100),
            journal_lost: rate(200),
            signer_changed: rate(1000),
        };
        let blooms = [Blooms::Missing, Blooms::Full, Blooms::Empty];
        let mut bloom =
            || if dice.u8(..4) == 0 { *dice.choice(&blooms).unwrap() } else { Blooms::AsTheyAre };
        let blooms = [bloom(), bloom()];
        let mut limit = || dice.bool().then(|| dice.usize(..LIMITS.len()));
        let limits = [limit(), limit()];
        let urls = dice.usize(1..=2);
        let confirmations = FinalityRule {
            confirmations: PerKind { public_decryption: 3, user_decryption: 1, key_operation: 3 },
            ..FinalityRule::NONE
        };
        let depths = [
            FinalityRule::NONE,
            FinalityRule::NONE,
            FinalityRule::NONE,
            confirmations,
            FinalityRule { finality: FinalityTag::Safe, ..FinalityRule::NONE },
            FinalityRule { finality: FinalityTag::Finalized, ..confirmations },
        ];
        let plan = Self {
            requests: dice.u64(3..=20),
            bursts: if dice.bool() { dice.u64(1..=3) } else { 0 },
            history: if dice.bool() { dice.u64(1..=5) } else { dice.u64(20..=150) },
            block_time: Duration::from_millis(*dice.choice(&[250, 1000, 2000]).unwrap()),
            mempool: dice.bool(),
            executes_ahead: dice.bool(),
            offers_receipts: dice.bool(),
            nodes: dice.usize(urls..=3),
            urls,
            blooms,
            limits,
            no_arrays: [dice.u8(..4) == 0, dice.u8(..4) == 0],
            broken_at_first: dice.u8(..8) == 0,
            depth: *dice.choice(&depths).unwrap(),
            core: if dice.bool() { CoreAge::KeepsFailed } else { CoreAge::DoesAgain },
            storm: Duration::from_secs(dice.u64(20..=120)),
            faults,
            path: PATHS[0],
            attests_falsely: dice.u8(..3) == 0,
            hosts: HostPlan::of(dice),
            keys: KeyPlan::NONE,
            context_changes: 0,
            destroys_contexts: false,
        };
        let path = *dice.choice(&PATHS).unwrap();
        let core_connects_late = if dice.bool() { dice.u64(1..=100) } else { 0 };
        let upgrade =
            if path.last() > Some(&UpToG10) && dice.u8(..4) == 0 { dice.u64(10..=40) } else { 0 };
        let context_changes = if dice.bool() { dice.u8(1..=2) } else { 0 };
        Self {
            path,
            faults: Faults { core_connects_late, ..faults },
            context_changes,
            destroys_contexts: dice.bool(),
            keys: KeyPlan::of(path, dice),
            hosts: HostPlan { upgrade, chains: 1 + usize::from(dice.u8(..3) == 0), ..plan.hosts },
            ..plan
        }
    }

    /// Whether contracts stand there at some time that leave access to the connectors.
    pub fn has_hosts(&self) -> bool {
        self.path.last() > Some(&UpToG10)
    }

    /// The ids of the host chains.
    pub fn host_ids(&self) -> &'static [u64] {
        let chains = if self.has_hosts() { self.hosts.chains } else { 0 };
        &HOST_IDS[..chains]
    }

    /// Whether the ACL is upgraded, and what was asked before is asked again.
    pub fn repeats(&self) -> bool {
        self.has_hosts() && self.hosts.upgrade > 0
    }
}

impl HostPlan {
    fn of(dice: &mut Rng) -> Self {
        let mut rate = |most: u64| if dice.bool() { dice.u64(1..=most) } else { 0 };
        let (still, away, pauses, reorganisation) = (rate(60), rate(60), rate(20), rate(150));
        let nodes = dice.usize(1..=3);
        let agreement = dice.usize(1..=nodes.min(2));
        let lies = nodes > 2 && agreement > 1 && dice.bool();
        Self {
            chains: 1,
            nodes,
            agreement,
            lie: lies.then(|| dice.u8(..4) > 0),
            block_time: Duration::from_secs(*dice.choice(&[1, 2, 6]).unwrap()),
            no_arrays: dice.u8(..4) == 0,
            no_block_hashes: dice.u8(..6) == 0,
            still,
            away,
            pauses,
            reorganisation,
            upgrade: 0,
        }
    }
}

impl Plan {
    /// Returns whether a payload may be mined a second time in vain. Nobody can know better where the
    /// chain takes a transaction back, where the wallet's count comes from another node than the
    /// receipts or is wrong, where the journal is lost, where gas was estimated too low, or where the
    /// context changes while it is on its way.
    pub fn may_waste(&self) -> bool {
        let faults = self.faults;
        faults.reorganisation > 0
            || (self.nodes > 1 && faults.lag > 0)
            || faults.count > 0
            || faults.estimate > 0
            || faults.journal_lost > 0
            || self.context_changes > 0
    }

    /// Returns whether a node gives few blocks at a time: it sets the pace of reading many, whatever others give.
    pub fn gives_few_blocks(&self) -> bool {
        let few = |limit: &Option<usize>| limit.is_some_and(|limit| LIMITS[limit].0 <= FEW_BLOCKS);
        self.limits[..self.urls].iter().any(few)
    }

    /// Returns whether requests may be held because the wallet appears to be used elsewhere.
    pub fn may_hold_wallet(&self) -> bool {
        self.faults.foreign > 0 || self.faults.count > 0 || self.faults.journal_lost > 0
    }
}
