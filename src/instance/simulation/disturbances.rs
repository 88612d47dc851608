//! Spontaneous events: blocks, requests, and faults that no call of the connector triggers.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    asks::Ask,
    chain::Chain,
    contexts::context,
    keys,
    plan::HostPlan,
    requests::number_of,
    world::{World, WorldState},
};
use crate::contracts::abi::Generation;

/// Depth of the deepest reorganisation.
const DEEPEST: u64 = 5;
/// The most blocks that a node may lag, or hide a block's logs. Less than the range that is always read
/// twice.
pub(super) const MAX_LAG_BLOCKS: u64 = 25;
/// How long no logs are shown. Less than the time between two readings of a block.
const BLIND: Duration = Duration::from_secs(7);
/// How long an endpoint refuses connections.
const AWAY: Duration = Duration::from_secs(20);
/// How long a node of the host chain stands still, or the whole chain, in seconds.
const LONGEST_STILL: u64 = 70;
/// The most blocks until an upgrade that left the chain is made again.
const LATEST_UPGRADE: u64 = 30;
const BASE_FEE: u128 = 1_000_000_000;

/// Mines block after block, without end.
pub(super) async fn mine_blocks(world: World) {
    let begun = Instant::now();
    let plan = world.state().plan;
    loop {
        sleep(plan.block_time).await;
        let story = {
            let mut state = world.state();
            state.storm &= begun.elapsed() < plan.storm;
            state.block(begun.elapsed().as_secs_f64() / plan.storm.as_secs_f64())
        };
        world.say(format_args!("{story}"));
    }
}

/// Mines a host chain, without end.
pub(super) async fn mine_host_blocks(world: World, chain: usize) {
    let hosts = world.state().plan.hosts;
    loop {
        sleep(hosts.block_time).await;
        let story = world.state().next_host_block(chain, &hosts);
        world.say(format_args!("{story}"));
    }
}

/// The newest block, in the trace.
pub(super) fn described(chain: &Chain) -> String {
    let height = chain.height();
    let block = chain.block(height).expect("there is one");
    let events: Vec<u64> = block.events.iter().map(number_of).collect();
    let mined: Vec<_> = block
        .transactions
        .iter()
        .map(|mined| (mined.transaction.nonce, mined.receipt.success))
        .collect();
    let hash = block.head.block.hash;
    let mut story = format!("block {height} {hash}: {events:?} {mined:?}");
    for asked in keys::shown(chain.keys(height), hash) {
        let _ = write!(story, ", {asked}");
    }
    story
}

impl WorldState {
    /// Builds the chain before the connector's first start: it holds a third of the requests.
    pub fn history(&mut self) {
        if self.plan.broken_at_first {
            self.break_index();
        }
        for number in 1..=self.plan.history {
            let wanted = self.plan.requests * number / self.plan.history / 3;
            self.request_until(wanted);
            self.chain.mine(0);
        }
        for endpoint in &mut self.endpoints {
            endpoint.announced = self.chain.height();
        }
    }

    fn request_until(&mut self, wanted: u64) {
        while self.numbered < wanted {
            self.request();
        }
    }

    /// A new request for the next block.
    pub fn request(&mut self) -> Arc<Ask> {
        self.numbered += 1;
        let repeats = self.plan.repeats() && self.dice.u8(..3) == 0;
        let again = if repeats { self.repeated_ask() } else { None };
        let ask = again.unwrap_or_else(|| self.new_ask());
        self.chain.request(ask.clone(), 0);
        ask
    }

    /// Something that was asked before is asked again. `None`: there is nothing of that kind.
    pub fn request_again(&mut self) -> Option<Arc<Ask>> {
        let ask = self.repeated_ask()?;
        self.numbered += 1;
        self.chain.request(ask.clone(), 0);
        Some(ask)
    }

    fn repeated_ask(&mut self) -> Option<Arc<Ask>> {
        let newest = context(self.chain.contexts().newest());
        let host = self.dice.usize(..self.hosts.len());
        let before = self.hosts[host].repeatable(newest, &mut self.dice)?;
        let ask = self.catalogue.repeat(&before);
        self.hosts[host].expect_again(&ask);
        self.record_fault("asked again");
        Some(ask)
    }

    fn new_ask(&mut self) -> Arc<Ask> {
        let (now, is_stormy) = (self.now(), self.storm);
        let generation = self.chain.generation(self.chain.height());
        let making = (generation, self.chain.contexts().newest(), now);
        let ask = self.catalogue.request(making, is_stormy, &mut self.dice);
        for host in &mut self.hosts {
            host.expect(&ask, is_stormy, now, &mut self.dice);
        }
        ask
    }

    /// What nodes begin to do wrong with the next block.
    pub fn nodes_misbehave(&mut self) -> String {
        let faults = self.plan.faults;
        let mut story = String::new();
        for node in 0..self.chain.nodes.len() {
            if self.fault(faults.lag) {
                self.chain.nodes[node].lag = self.dice.u64(1..=MAX_LAG_BLOCKS);
            } else if self.dice.u8(..4) == 0 {
                self.chain.nodes[node].lag = 0;
            }
            if self.fault(faults.forgets) {
                self.chain.nodes[node].pool.clear();
                story.push_str("a pool is forgotten; ");
            }
        }
        for endpoint in 0..self.plan.urls {
            if self.fault(faults.reconnect) {
                self.endpoints[endpoint].cut = true;
            }
            if self.plan.urls > 1 && self.fault(faults.away) {
                let away = AWAY.mul_f64(self.dice.f64());
                self.endpoints[endpoint].away_until = Some(Instant::now() + away);
                self.record_fault("away");
                let _ = write!(story, "endpoint {endpoint} is away; ");
            }
        }
        story.push_str(&self.begin_lies());
        if self.blind_until.is_none() && self.fault(faults.blind) {
            self.blind_until = Some(Instant::now() + BLIND.mul_f64(self.dice.f64()));
            story.push_str("no logs are shown; ");
        }
        if self.fault(faults.dear) {
            self.chain.base_fee = BASE_FEE * self.dice.u128(1..=6);
        }
        if self.fault(faults.foreign) {
            self.chain.foreign(&mut self.dice);
            story.push_str("a foreign transaction; ");
        }
        story
    }

    /// The next block and the events that come with it.
    fn block(&mut self, elapsed: f64) -> String {
        let faults = self.plan.faults;
        let mut story = self.nodes_misbehave();
        if self.fault(faults.core_restart) {
            self.core.restart();
            story.push_str("the core restarts; ");
        }
        if self.fault(faults.core_deletes)
            && let Some(number) = self.core.delete()
        {
            let _ = write!(story, "the core deletes {number}; ");
        }
        self.upgrade_waits = self.upgrade_waits.saturating_sub(1);
        if let Some(generation) = self.due_upgrade(elapsed) {
            self.chain.upgrade(generation);
            let _ = write!(story, "the contracts become those of {generation}; ");
            self.record_fault("upgrade");
        }
        story.push_str(&self.change_contexts(elapsed));
        if elapsed < 1.0 {
            let ahead = self.plan.requests / 3;
            let elapsed = match u32::try_from(self.plan.bursts) {
                Ok(bursts @ 1..) => (elapsed * f64::from(bursts)).floor() / f64::from(bursts),
                Ok(0) | Err(_) => elapsed,
            };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a part of a small number"
            )]
            let during = ((self.plan.requests - ahead) as f64 * elapsed * 1.3) as u64;
            self.request_until((ahead + during).min(self.plan.requests));
        } else {
            self.request_until(self.plan.requests);
        }
        story.push_str(&self.key_actions(elapsed));
        if self.fault(faults.reorganisation) {
            story.push_str(&self.reorganise());
        }
        self.next_block();
        story + &described(&self.chain)
    }

    /// Mines the next block.
    pub fn next_block(&mut self) {
        let faults = self.plan.faults;
        let hidden = if self.fault(faults.hidden) { self.dice.u64(1..=MAX_LAG_BLOCKS) } else { 0 };
        self.chain.mine(hidden);
        for endpoint in 0..self.plan.urls {
            if !self.fault(faults.unannounced) {
                self.endpoints[endpoint].announced = self.chain.height();
            }
        }
        let block = self.chain.block(self.chain.height()).expect("just mined");
        if block.transactions.iter().any(|mined| mined.transaction.runs_out()) {
            self.record_fault("out of gas");
        }
    }

    /// The generation to which the contracts are upgraded now.
    fn due_upgrade(&self, elapsed: f64) -> Option<Generation> {
        let path = self.plan.path;
        let present = self.chain.generation(self.chain.height());
        let done = path.iter().position(|generation| *generation == present)?;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let at = (done + 1) as f64 / path.len() as f64;
        path.get(done + 1).copied().filter(|_| elapsed >= at && self.upgrade_waits == 0)
    }

    /// Another KMS context becomes current with the next block, or an old one is destroyed.
    fn change_contexts(&mut self, elapsed: f64) -> String {
        let (changes, now) = (self.plan.context_changes, self.now());
        let mut story = String::new();
        let newest = self.chain.contexts().newest();
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let at = newest as f64 / (f64::from(changes) + 1.0);
        if newest <= u64::from(changes) && elapsed >= at {
            self.chain.begin_context(now);
            self.record_fault("context");
            let _ = write!(story, "KMS context {} is current; ", newest + 1);
        }
        let generation = self.chain.generation(self.chain.height());
        if self.storm
            && self.plan.destroys_contexts
            && generation >= Generation::G14
            && self.chain.contexts().has_old()
            && self.dice.u8(..16) == 0
            && let Some(number) = self.chain.destroy_context(now)
        {
            self.record_fault("context destroyed");
            let _ = write!(story, "KMS context {number} is destroyed; ");
        }
        story
    }

    /// The next block of a host chain and the events that come with it.
    fn next_host_block(&mut self, chain: usize, hosts: &HostPlan) -> String {
        let (now, mut story) = (Instant::now(), String::new());
        let until =
            |state: &mut Self, most: u64| Some(now + Duration::from_secs(state.dice.u64(1..=most)));
        for node in 0..hosts.nodes {
            if self.fault(hosts.still) {
                self.hosts[chain].nodes[node].still_until = until(self, LONGEST_STILL);
                self.record_fault("host stands still");
                let _ = write!(story, "node {node} of host chain {chain} stands still; ");
            }
            if self.fault(hosts.away) {
                self.hosts[chain].nodes[node].away_until = until(self, AWAY.as_secs());
                self.record_fault("host is away");
                let _ = write!(story, "node {node} of host chain {chain} is away; ");
            }
        }
        if self.fault(hosts.pauses) {
            self.hosts[chain].pauses_until = until(self, LONGEST_STILL);
            story.push_str("the host chain pauses; ");
        }
        if self.hosts[chain].pauses_until.is_some_and(|until| now < until) {
            return story + "no host block";
        }
        if self.fault(hosts.reorganisation) {
            let (depth, lost) = self.hosts[chain].reorganise(&mut self.dice);
            if lost > 0 {
                self.record_fault("grants left");
            }
            let _ =
                write!(story, "the host chain is reorganised by {depth}, {lost} grants leave it; ");
        }
        let time = self.now();
        if self.fault(hosts.upgrade) {
            let lost = self.hosts[chain].upgrade(time, &mut self.dice);
            if lost > 0 {
                self.record_fault("acl upgrade");
            }
            let _ = write!(story, "the ACL is upgraded, {lost} grants are taken back; ");
        }
        self.hosts[chain].mine(time);
        let _ = write!(story, "host chain {chain}, block {}", self.hosts[chain].head().shown());
        story
    }

    pub fn reorganise(&mut self) -> String {
        let depth = self.dice.u64(1..=DEEPEST).min(self.chain.max_reorganisation());
        if depth == 0 {
            return String::new();
        }
        let faults = self.plan.faults;
        let dropped = self.chain.reorganise(depth);
        let mut story = format!("reorganised by {depth}");
        if dropped.upgrades > 0 {
            self.record_fault("upgrade left");
            self.upgrade_waits = self.dice.u64(0..=LATEST_UPGRADE);
            story.push_str(", an upgrade with it");
        }
        for ask in dropped.asks {
            let shown = ask.transaction;
            if self.fault(faults.namesake) {
                let other = self.new_ask();
                self.chain.request(other, 0);
                let _ = write!(story, ", {shown} is another");
            } else if self.dice.u8(..4) == 0 {
                let later = self.dice.u64(1..=4);
                self.chain.request(ask, later);
                let _ = write!(story, ", {shown} comes later");
            } else {
                self.chain.request(ask, 0);
            }
        }
        // What others did to the contract of key operations is done again in the same order.
        let later = if self.dice.u8(..4) == 0 { self.dice.u64(1..=4) } else { 0 };
        for action in dropped.actions.into_iter().rev() {
            self.chain.order_first(action, later);
        }
        for transaction in dropped.transactions {
            if self.fault(faults.unanswered) {
                // With it everything above it.
                let _ = write!(story, ", nonce {} is forgotten", transaction.nonce);
                break;
            }
            self.chain.resequence(transaction);
        }
        if self.dice.u8(..4) > 0 {
            for _ in 0..depth {
                self.chain.mine(0);
            }
        }
        story.push_str("; ");
        story
    }

    /// Ends all faults. Only their effects on the product remain.
    pub fn heal(&mut self) {
        self.storm = false;
        self.blind_until = Some(Instant::now());
        for side in self.sides() {
            self.at(side, Self::heal_nodes);
        }
        for host in &mut self.hosts {
            host.heal();
        }
        // It may hold requests that left the chain; only a restart makes it forget them.
        self.core.restart();
    }

    fn heal_nodes(&mut self) {
        self.end_lies();
        for endpoint in &mut self.endpoints {
            endpoint.away_until = None;
        }
        for node in &mut self.chain.nodes {
            node.lag = 0;
        }
        self.chain.base_fee = BASE_FEE;
    }
}
