//! Spontaneous events: blocks, requests, and faults that no call of the connector triggers.

use std::{fmt::Write as _, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    requests::number_of,
    world::{World, WorldState},
};
use crate::domain::Event;

/// Depth of the deepest reorganisation.
const DEEPEST: u64 = 5;
/// The most blocks that a node may lag, or hide a block's logs. Less than the range that is always read
/// twice.
pub(super) const MAX_LAG_BLOCKS: u64 = 25;
/// How long no logs are shown. Less than the time between two readings of a block.
const BLIND: Duration = Duration::from_secs(7);
/// How long an endpoint refuses connections.
const AWAY: Duration = Duration::from_secs(20);
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
    pub fn request(&mut self) -> Event {
        self.numbered += 1;
        let event = self.catalogue.request(&mut self.dice);
        self.chain.request(event.clone(), 0);
        event
    }

    /// The next block and the events that come with it.
    fn block(&mut self, elapsed: f64) -> String {
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
        if self.fault(faults.core_restart) {
            self.core.restart();
            story.push_str("the core restarts; ");
        }
        if self.fault(faults.core_deletes)
            && let Some(number) = self.core.delete()
        {
            let _ = write!(story, "the core deletes {number}; ");
        }
        if self.fault(faults.foreign) {
            self.chain.foreign(&mut self.dice);
            story.push_str("a foreign transaction; ");
        }
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
        if self.fault(faults.reorganisation) {
            story.push_str(&self.reorganise());
        }
        let hidden = if self.fault(faults.hidden) { self.dice.u64(1..=MAX_LAG_BLOCKS) } else { 0 };
        self.chain.mine(hidden);
        for endpoint in 0..self.plan.urls {
            if !self.fault(faults.unannounced) {
                self.endpoints[endpoint].announced = self.chain.height();
            }
        }
        let height = self.chain.height();
        let block = self.chain.block(height).expect("just mined");
        let events: Vec<u64> = block.events.iter().map(number_of).collect();
        let ran_out = block.transactions.iter().any(|mined| mined.transaction.runs_out());
        let mined: Vec<_> = block
            .transactions
            .iter()
            .map(|mined| (mined.transaction.nonce, mined.receipt.success))
            .collect();
        let _ = write!(story, "block {height} {}: {events:?} {mined:?}", block.head.block.hash);
        if ran_out {
            self.record_fault("out of gas");
        }
        story
    }

    fn reorganise(&mut self) -> String {
        let depth = self.dice.u64(1..=DEEPEST).min(self.chain.max_reorganisation());
        if depth == 0 {
            return String::new();
        }
        let faults = self.plan.faults;
        let dropped = self.chain.reorganise(depth);
        let mut story = format!("reorganised by {depth}");
        for event in dropped.events {
            let number = number_of(&event);
            if self.fault(faults.namesake) {
                let other = self.catalogue.request(&mut self.dice);
                self.chain.request(other, 0);
                let _ = write!(story, ", {number} is another");
            } else if self.dice.u8(..4) == 0 {
                let later = self.dice.u64(1..=4);
                self.chain.request(event, later);
                let _ = write!(story, ", {number} comes later");
            } else {
                self.chain.request(event, 0);
            }
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
        self.end_lies();
        for endpoint in &mut self.endpoints {
            endpoint.away_until = None;
        }
        for node in &mut self.chain.nodes {
            node.lag = 0;
        }
        self.chain.base_fee = BASE_FEE;
        // It may hold requests that left the chain; only a restart makes it forget them.
        self.core.restart();
    }
}
