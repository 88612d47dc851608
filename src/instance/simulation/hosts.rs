//! The host chain of a simulated world, which owns every handle: blocks with what its ACL grants, and
//! nodes that are each at a block of their own. No faults here, except that a node may stand still.
//!
//! ```text
//! grants due ──> block ──> block ──> block      a reorganisation goes on from an earlier block; what was
//!                     └──> block                granted above it comes back at once, later, or not before
//!                                               the storm is over
//! ```

pub(super) mod rpc;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use alloy::primitives::keccak256;
use fastrand::Rng;
use tokio::time::Instant;

use super::{
    asks::{Ask, Grant},
    plan::HostPlan,
};
use crate::domain::{Address, B256, BlockRef, U256};

/// Distance of the finalized block from the head; deeper than any reorganisation.
pub(super) const FINAL_AFTER: u64 = 12;
/// Depth of the deepest reorganisation.
const DEEPEST: u64 = 6;
/// The most blocks for which something needed is not granted yet.
const LATEST: u64 = 40;

/// By then an upgrade of the ACL is known: a node that stands still shows the old one for as long as its block
/// is not too old, what is known of it is believed for a minute, and then there are the passes.
pub(super) const UPGRADE_KNOWN: Duration = Duration::from_secs(105);

/// A grant and its end in Unix seconds.
type Granted = (Grant, u64);

/// What is granted in a block, each with its end.
pub(super) type Acl = BTreeMap<Grant, u64>;

#[derive(Clone, Debug)]
pub(super) struct HostBlock {
    pub block: BlockRef,
    /// Index of the block before.
    parent: usize,
    /// Unix seconds.
    pub timestamp: u64,
    acl: Arc<Acl>,
    granted: Vec<Granted>,
}

impl HostBlock {
    /// In the trace.
    pub fn shown(&self) -> String {
        let Self { block: BlockRef { number, hash }, granted, .. } = self;
        format!("{number} {hash}: {} grants", granted.len())
    }

    pub fn grants(&self, grant: &Grant) -> bool {
        self.acl.get(grant).is_some_and(|end| self.timestamp <= *end)
    }

    /// Whether this block's time is one at which the request may be answered.
    fn is_within(&self, ask: &Ask) -> bool {
        let (start, end) = ask.window().unwrap_or((0, u64::MAX));
        (start..=end).contains(&self.timestamp)
    }
}

/// One node of the host chain.
#[derive(Clone, Debug, Default)]
pub(super) struct HostNode {
    /// The blocks it was at: since when, and index.
    sights: Vec<(Option<Instant>, usize)>,
    /// It does not go on until then.
    pub still_until: Option<Instant>,
    pub away_until: Option<Instant>,
    /// What it says instead of the truth.
    pub lie: Option<bool>,
}

impl HostNode {
    fn tip(&self) -> usize {
        self.sights.last().map_or(0, |(_, tip)| *tip)
    }

    pub fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }
}

#[derive(Debug)]
pub(super) struct HostChain {
    pub id: u64,
    /// Every block that there ever was.
    blocks: Vec<HostBlock>,
    tip: usize,
    /// The highest number that a block ever had: what is far below it stays.
    highest: u64,
    forks: u64,
    pub nodes: Vec<HostNode>,
    /// Grants for coming blocks, each with the number of blocks it still waits.
    due: VecDeque<(u64, Vec<Granted>)>,
    /// Every ask that there ever was.
    asks: Vec<Arc<Ask>>,
    /// Transactions of asks to which something is refused until the end.
    withheld: BTreeSet<B256>,
    /// No block is made until then.
    pub pauses_until: Option<Instant>,
    /// Upgrades of the ACL.
    upgrades: Vec<Upgrade>,
    /// What is granted before the next block, if it is not what its parent grants.
    taken_back: Option<Arc<Acl>>,
}

/// The ACL is another contract from then on.
#[derive(Clone, Copy, Debug)]
struct Upgrade {
    at: Instant,
    /// Unix seconds.
    time: u64,
}

impl HostChain {
    /// A chain with a final block. `now`: Unix seconds.
    pub fn new(id: u64, plan: &HostPlan, now: u64) -> Self {
        let genesis = HostBlock {
            block: BlockRef { number: 0, hash: keccak256(id.to_be_bytes()) },
            parent: 0,
            timestamp: now - 2 * FINAL_AFTER,
            acl: Arc::default(),
            granted: Vec::new(),
        };
        let mut chain = Self {
            id,
            blocks: vec![genesis],
            tip: 0,
            highest: 0,
            forks: 0,
            nodes: vec![HostNode::default(); plan.nodes],
            due: VecDeque::new(),
            asks: Vec::new(),
            withheld: BTreeSet::new(),
            pauses_until: None,
            upgrades: Vec::new(),
            taken_back: None,
        };
        if let Some(last) = chain.nodes.last_mut() {
            last.lie = plan.lie;
        }
        for age in (0..2 * FINAL_AFTER).rev() {
            chain.mine(now - age);
        }
        chain
    }

    pub fn head(&self) -> &HostBlock {
        &self.blocks[self.tip]
    }

    /// Mines the next block.
    pub fn mine(&mut self, now: u64) {
        let mut granted = Vec::new();
        for (wait, grants) in std::mem::take(&mut self.due) {
            match wait.checked_sub(1) {
                Some(left) => self.due.push_back((left, grants)),
                None => granted.extend(grants),
            }
        }
        let taken_back = self.taken_back.take();
        let HostBlock { block: BlockRef { number, .. }, timestamp, acl, .. } = self.head();
        let (number, timestamp) = (number + 1, now.max(timestamp + 1));
        let mut acl = taken_back.unwrap_or_else(|| acl.clone());
        if !granted.is_empty() {
            Arc::make_mut(&mut acl).extend(granted.iter().copied());
        }
        let hash = keccak256([number, self.forks, self.id].map(u64::to_be_bytes).concat());
        let block = BlockRef { number, hash };
        self.blocks.push(HostBlock { block, parent: self.tip, timestamp, acl, granted });
        self.tip = self.blocks.len() - 1;
        self.highest = self.highest.max(number);
        self.sync();
    }

    /// Every node that goes on is at the head.
    fn sync(&mut self) {
        let now = Instant::now();
        for node in &mut self.nodes {
            if node.still_until.is_none_or(|until| until <= now) && node.tip() != self.tip {
                node.sights.push((Some(now), self.tip));
            }
        }
    }

    /// Goes on from an earlier block. Returns the number of blocks and of grants that leave the chain.
    pub fn reorganise(&mut self, dice: &mut Rng) -> (u64, usize) {
        let may_go = (self.head().block.number + FINAL_AFTER).saturating_sub(self.highest);
        let (depth, mut lost) = (dice.u64(1..=DEEPEST).min(may_go), 0);
        self.forks += 1;
        for _ in 0..depth {
            let HostBlock { parent, granted, .. } = self.head();
            let (parent, granted) = (*parent, granted.clone());
            self.tip = parent;
            lost += granted.len();
            if granted.is_empty() {
                continue;
            }
            match dice.u8(..4) {
                0 => {}
                1 => self.due.push_back((dice.u64(1..=LATEST), granted)),
                _ => self.due.push_back((0, granted)),
            }
        }
        (depth, lost)
    }

    /// Upgrades the ACL with the next block. The new one takes back a part of what was granted; it is granted
    /// again later. Returns how much that is. `now`: Unix seconds.
    pub fn upgrade(&mut self, now: u64, dice: &mut Rng) -> usize {
        let lost = self.replace_acl(now, |_| dice.u8(..4) > 0);
        let count = lost.len();
        self.due.push_back((dice.u64(1..=LATEST), lost));
        count
    }

    /// Upgrades the ACL with the next block. The new one has granted nothing. `now`: Unix seconds.
    pub fn upgrade_to_empty(&mut self, now: u64) {
        self.replace_acl(now, |_| false);
    }

    /// Returns what does not stay.
    fn replace_acl(&mut self, now: u64, mut stays: impl FnMut(&Grant) -> bool) -> Vec<Granted> {
        let HostBlock { timestamp, acl, .. } = self.head();
        let (time, mut acl) = (now.max(timestamp + 1), Acl::clone(acl));
        self.upgrades.push(Upgrade { at: Instant::now(), time });
        let lost = acl.extract_if(.., |grant, _| !stays(grant)).collect();
        self.taken_back = Some(Arc::new(acl));
        lost
    }

    /// How often the ACL was upgraded by this time.
    fn implementation(&self, time: u64) -> u8 {
        let done = self.upgrades.iter().filter(|one| one.time <= time).count();
        u8::try_from(done).unwrap_or(u8::MAX)
    }

    /// A new ask. What it needs is granted at once, a part of it later or for a while only, or all but one
    /// thing.
    pub fn expect(&mut self, ask: &Arc<Ask>, is_stormy: bool, now: u64, dice: &mut Rng) {
        let mut needs = ask.needs_of(self.id);
        if needs.is_empty() {
            return;
        }
        self.asks.push(ask.clone());
        dice.shuffle(&mut needs);
        if ask.is_account && dice.bool() {
            // Often it is the account's own word that comes late or never.
            needs.sort_by_key(|need| matches!(need, Grant::Signature { .. }));
        }
        let fate = if is_stormy { dice.u8(..8) } else { 0 };
        let later = match fate {
            0..=3 => Vec::new(),
            4..=6 => needs.split_off(dice.usize(..needs.len())),
            _ => {
                self.withheld.insert(ask.transaction);
                needs.truncate(needs.len() - 1);
                Vec::new()
            }
        };
        let mut end = |grant: Grant| {
            let is_short = fate == 1 && matches!(grant, Grant::Delegation { .. });
            (grant, if is_short { now + dice.u64(5..=60) } else { u64::MAX })
        };
        let (needs, later): (Vec<_>, Vec<_>) =
            (needs.into_iter().map(&mut end).collect(), later.into_iter().map(&mut end).collect());
        self.due.push_back((0, needs));
        if !later.is_empty() {
            self.due.push_back((dice.u64(1..=LATEST), later));
        }
    }

    /// The same once more: it was granted, or is going to be.
    pub fn expect_again(&mut self, ask: &Arc<Ask>) {
        if !ask.needs_of(self.id).is_empty() {
            self.asks.push(ask.clone());
        }
    }

    /// An ask that may be made once more: it lacks nothing for ever, and what it needs, all of this chain, may be
    /// known without asking. `newest`: the KMS context that is current.
    pub fn repeatable(&self, newest: U256, dice: &mut Rng) -> Option<Arc<Ask>> {
        let is_repeatable = |ask: &&Arc<Ask>| {
            let is_lasting =
                |need: &Grant| matches!(need, Grant::Everybody { .. } | Grant::Account { .. });
            ask.flaw.is_none()
                && !self.is_withheld(ask)
                && ask.context().is_none_or(|named| named == newest)
                && ask.needs().iter().all(is_lasting)
                && ask.needs_of(self.id).len() == ask.needs().len()
        };
        let repeatable: Vec<_> = self.asks.iter().filter(is_repeatable).collect();
        dice.choice(repeatable).cloned()
    }

    /// Whether the ask lacks something until the end.
    pub fn is_withheld(&self, ask: &Ask) -> bool {
        self.withheld.contains(&ask.transaction)
    }

    /// Grants for good what everybody needs; `even_withheld`: to those too who were refused it so far.
    pub fn grant_everything(&mut self, even_withheld: bool) {
        if even_withheld {
            self.withheld.clear();
        }
        let granted = self.asks.iter().filter(|ask| !self.withheld.contains(&ask.transaction));
        let granted = granted.flat_map(|ask| ask.needs_of(self.id)).map(|grant| (grant, u64::MAX));
        self.due = [(0, granted.collect())].into();
    }

    /// Ends what nodes do wrong.
    pub fn heal(&mut self) {
        self.pauses_until = None;
        for node in &mut self.nodes {
            (node.still_until, node.away_until, node.lie) = (None, None, None);
        }
        self.grant_everything(false);
    }

    /// The account of an ask.
    fn is_account(&self, address: Address) -> bool {
        self.asks.iter().any(|ask| ask.is_account && ask.user == address)
    }

    /// The blocks below this one, itself included.
    fn ancestry(&self, mut index: usize) -> impl Iterator<Item = &HostBlock> {
        let mut is_over = false;
        std::iter::from_fn(move || {
            let block = (!is_over).then(|| &self.blocks[index])?;
            is_over = block.parent == index;
            index = block.parent;
            Some(block)
        })
    }

    /// Whether it was granted for good in a block that stays: that may be known without asking, and for a while
    /// after the contract was upgraded.
    fn is_final(&self, grant: &Grant) -> bool {
        if !matches!(grant, Grant::Everybody { .. } | Grant::Account { .. }) {
            return false;
        }
        let last = self.highest.saturating_sub(FINAL_AFTER);
        let mut older = self.ancestry(self.tip).skip_while(|block| block.block.number > last);
        let Some(latest) = older.next() else { return false };
        let upgraded = self.upgrades.last();
        let is_of_now = upgraded.is_none_or(|upgrade| upgrade.time <= latest.timestamp);
        if is_of_now && latest.grants(grant) {
            return true;
        }
        // What was known of each contract that stood there lately.
        let lately = self.upgrades.iter().filter(|upgrade| upgrade.at.elapsed() <= UPGRADE_KNOWN);
        let since = lately.map(|upgrade| upgrade.time).min();
        let mut before = std::iter::once(latest).chain(older);
        since.is_some_and(|since| {
            let mut is_over = false;
            before.any(|block| {
                let was_over = is_over;
                is_over = block.timestamp < since;
                !was_over && block.grants(grant)
            })
        })
    }

    /// How many of the first nodes were at a block since `since` that lets the request through, or had one
    /// below it that was made at `oldest` (Unix seconds) or later.
    pub fn count_granting(
        &self,
        nodes: usize,
        ask: &Ask,
        (since, oldest): (Instant, u64),
    ) -> usize {
        let mut needs = ask.needs_of(self.id);
        let is_asked_here = !needs.is_empty();
        needs.retain(|need| !self.is_final(need));
        if needs.is_empty() && (ask.window().is_none() || !is_asked_here) {
            return nodes;
        }
        let lets_through =
            |block: &HostBlock| block.is_within(ask) && needs.iter().all(|need| block.grants(need));
        let has_let_through = |node: &&HostNode| {
            let first = node.sights.iter().rposition(|(at, _)| at.is_none_or(|at| at <= since));
            node.sights[first.unwrap_or(0)..].iter().any(|(_, tip)| {
                let mut recent = self.ancestry(*tip).take_while(|block| block.timestamp >= oldest);
                recent.any(lets_through)
            })
        };
        self.nodes[..nodes].iter().filter(has_let_through).count()
    }
}
