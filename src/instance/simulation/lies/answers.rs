//! When lies begin and end, and the wrong answers themselves.

use std::time::Duration;

use alloy::primitives::Bloom;
use tokio::time::Instant;

use super::{BlockReceipts, BrokenIndex, CountLie, Lies, Refusal, WrongValue, refused};
use crate::{
    chain::reader::Head,
    domain::Event,
    instance::simulation::{
        keys::is_of_keys,
        plan::{Blooms, LIMITS},
        world::WorldState,
    },
};

/// How long a log index is broken, in seconds.
const BROKEN: (u64, u64) = (60, 240);
/// How long a number is wrong, in seconds.
const WRONG: (u64, u64) = (1, 15);
/// How long a tag stands still, in seconds.
const STILL: (u64, u64) = (20, 300);

const GWEI: u128 = 1_000_000_000;
const TIPS: [u128; 5] = [100_000 * GWEI, u64::MAX as u128, u128::MAX, 50 * GWEI, 1];
const BASES: [u128; 6] = [100_000 * GWEI, u64::MAX as u128, u128::MAX, 90 * GWEI, 1, 0];
const ESTIMATES: [u64; 6] = [u64::MAX, u64::MAX / 2, 30_000_001, 60_000, 70_000, 0];

impl WorldState {
    /// Chooses a machine behind an endpoint.
    pub fn machine(&mut self, endpoint: usize) -> usize {
        let behind = (self.chain.nodes.len() - endpoint).div_ceil(self.plan.urls);
        endpoint + self.plan.urls * self.dice.usize(..behind)
    }

    /// Begins lies; called at each block.
    pub fn begin_lies(&mut self) -> String {
        let faults = self.plan.faults;
        let mut story = String::new();
        if self.fault(faults.index) && self.broken_indices < 2 {
            self.break_index();
            story.push_str("an index of logs breaks; ");
        }
        for endpoint in 0..self.plan.urls {
            if self.fault(faults.count) {
                let what = match self.dice.u8(..8) {
                    0 => CountLie::Ahead(1),
                    1 => CountLie::Ahead(3),
                    2 => CountLie::Ahead(50),
                    3 => CountLie::Ahead(5000),
                    4 => CountLie::Ahead(1 << 40),
                    5 => CountLie::Ahead(u64::MAX / 2),
                    6 => CountLie::Behind(self.dice.u64(1..=20)),
                    _ => CountLie::None,
                };
                self.endpoints[endpoint].lies.count = Some(self.wrong(what));
            }
            if self.fault(faults.tip) {
                let what = *self.dice.choice(&TIPS).unwrap();
                self.endpoints[endpoint].lies.tip = Some(self.wrong(what));
            }
            if self.fault(faults.base) {
                let what = *self.dice.choice(&BASES).unwrap();
                self.endpoints[endpoint].lies.base = Some(self.wrong(what));
            }
            if self.fault(faults.estimate) {
                let what = *self.dice.choice(&ESTIMATES).unwrap();
                self.endpoints[endpoint].lies.estimate = Some(self.wrong(what));
            }
            if self.fault(faults.tag) && self.endpoints[endpoint].lies.tag.is_none() {
                let until = self.random_deadline(STILL);
                self.endpoints[endpoint].lies.tag = Some((until, self.chain.height()));
            }
        }
        story
    }

    /// Breaks the index of one endpoint or of all. It outlasts the storm.
    pub fn break_index(&mut self) {
        let until = self.random_deadline(BROKEN);
        let receipts = match self.dice.u8(..3) {
            0 => BlockReceipts::Shown,
            1 => BlockReceipts::NotOffered,
            _ => BlockReceipts::Hidden,
        };
        let broken = BrokenIndex { until, partial: self.dice.u8(..4) == 0, receipts };
        self.broken_indices += 1;
        let all = self.dice.bool();
        let one = self.dice.usize(..self.plan.urls);
        for (index, endpoint) in self.endpoints.iter_mut().enumerate() {
            if all || index == one {
                endpoint.lies.index = Some(broken);
            }
        }
    }

    fn random_deadline(&mut self, (least, most): (u64, u64)) -> Instant {
        Instant::now() + Duration::from_secs(self.dice.u64(least..=most))
    }

    fn wrong<T>(&mut self, what: T) -> WrongValue<T> {
        let until = self.random_deadline(WRONG);
        WrongValue { until, what, alternates: self.dice.u8(..4) == 0, announced: 0 }
    }

    /// The numbers an endpoint answers are right from now on. Its index and tags recover when their
    /// time is over.
    pub fn end_lies(&mut self) {
        for endpoint in &mut self.endpoints {
            let Lies { index, tag, .. } = endpoint.lies;
            endpoint.lies = Lies { index, tag, ..Lies::default() };
        }
    }

    /// The logs that a broken index still shows. Of a range (`of_range`) it shows those of key operations: no hole in
    /// their ids tells of one that no node showed for minutes.
    pub fn shown_by(
        &mut self,
        endpoint: usize,
        mut events: Vec<Event>,
        of_range: bool,
    ) -> Vec<Event> {
        let Some(broken) = self.endpoints[endpoint].lies.index() else { return events };
        let all = events.len();
        let is_shown =
            |event: &Event| (u64::from(event.transaction[31]) + event.log_index).is_multiple_of(2);
        events
            .retain(|event| (broken.partial && is_shown(event)) || (of_range && is_of_keys(event)));
        if events.len() < all {
            self.record_fault(if self.endpoints.len() > 1 {
                "index of one of two"
            } else {
                "index"
            });
        }
        events
    }

    pub fn is_index_broken(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.lies.index().is_some())
    }

    /// How an endpoint presents the receipts of a block.
    pub fn block_receipts(&self, endpoint: usize) -> BlockReceipts {
        self.endpoints[endpoint].lies.index().map_or(BlockReceipts::Shown, |broken| broken.receipts)
    }

    /// A header in the form the endpoint presents.
    pub fn as_shown(&mut self, endpoint: usize, head: &Head) -> Head {
        let bloom = match self.plan.blooms[endpoint] {
            Blooms::AsTheyAre => head.bloom,
            Blooms::Missing => None,
            Blooms::Full => Some(Bloom::repeat_byte(0xff)),
            Blooms::Empty => Some(Bloom::ZERO),
        };
        if bloom != head.bloom {
            self.record_fault("bloom");
        }
        let wrong = WrongValue::next_value(&mut self.endpoints[endpoint].lies.base);
        if wrong.is_some() {
            self.record_fault("base fee");
        }
        Head { bloom, base_fee: wrong.or(head.base_fee), ..*head }
    }

    /// Checks a range query of `blocks` blocks against the endpoint's limit.
    pub fn takes_range(&mut self, endpoint: usize, blocks: u64) -> Result<(), Refusal> {
        let Some(limit) = self.plan.limits[endpoint] else { return Ok(()) };
        let (most, code, message) = LIMITS[limit];
        if blocks <= most {
            return Ok(());
        }
        self.record_fault("range");
        Err(refused(code, message, None))
    }

    /// The wallet's transaction count as the endpoint presents it; the true one is `count`.
    pub fn shown_count(&mut self, endpoint: usize, count: u64) -> u64 {
        let told = match WrongValue::next_value(&mut self.endpoints[endpoint].lies.count) {
            Some(CountLie::Ahead(by)) => count.saturating_add(by),
            Some(CountLie::Behind(by)) => count.saturating_sub(by),
            Some(CountLie::None) => 0,
            None => count,
        };
        if told != count {
            self.record_fault(if told > count { "count too high" } else { "count too low" });
        }
        told
    }

    pub fn shown_tip(&mut self, endpoint: usize) -> u128 {
        let wrong = WrongValue::next_value(&mut self.endpoints[endpoint].lies.tip);
        if wrong.is_some() {
            self.record_fault("tip");
        }
        wrong.unwrap_or(0)
    }

    pub fn shown_estimate(&mut self, endpoint: usize, gas: u64) -> u64 {
        let wrong = WrongValue::next_value(&mut self.endpoints[endpoint].lies.estimate);
        if wrong.is_some() {
            self.record_fault("estimate");
        }
        wrong.unwrap_or(gas)
    }

    /// The height from which a tag is derived when the endpoint sees up to `sight`.
    pub fn tag_follows(&mut self, endpoint: usize, sight: u64) -> u64 {
        match self.endpoints[endpoint].lies.tag {
            Some((until, height)) if Instant::now() < until && height < sight => {
                self.record_fault("tag");
                height
            }
            _ => sight,
        }
    }
}
