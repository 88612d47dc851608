//! What the owner and other nodes do about key operations, and when.

use std::fmt::Write as _;

use super::contract::{Action, Asked, Over, Rules, What};
use crate::instance::simulation::world::WorldState;

/// The most blocks that another node takes for a vote.
const LATEST_VOTE: u64 = 30;

impl WorldState {
    /// Everything that the owner and other nodes begin with the next block. `elapsed`: the part of the storm that is
    /// over.
    pub fn key_actions(&mut self, elapsed: f64) -> String {
        let (orders, mut story) = (self.plan.keys.orders, String::new());
        let Some(rules) = self.chain.key_rules().copied() else { return story };
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let at = |nth: u64| (nth + 1) as f64 / (orders as f64 + 1.0);
        while self.key_progress.ordered < orders && elapsed >= at(self.key_progress.ordered) {
            self.key_progress.ordered += 1;
            let action = self.drawn_action(&rules);
            let _ = write!(story, "the owner: {action:?}; ");
            self.chain.order(action, 0);
        }
        let height = self.chain.height();
        let asked: Vec<_> =
            self.chain.keys(height).asked().map(|one| (one.request.key, one.what)).collect();
        for (key, what) in asked {
            let is_voted_on =
                matches!(what, What::Preparation | What::Key { .. } | What::Crs { .. });
            if !is_voted_on || self.key_progress.scheduled.contains(&key) {
                continue;
            }
            self.key_progress.scheduled.push(key);
            for party in 0..rules.others {
                let wait = self.dice.u64(0..=LATEST_VOTE);
                self.chain.order(Action::Vote { party, id: key.id }, wait);
            }
        }
        story
    }

    /// What the owner does next.
    fn drawn_action(&mut self, rules: &Rules) -> Action {
        let keys = self.chain.keys(self.chain.height());
        let is_open = |one: &&Asked| {
            matches!(one.what, What::Preparation | What::Crs { .. })
                && !matches!(keys.over(one.request.key.id), Some(Over::Aborted))
        };
        let open: Vec<_> = keys.asked().filter(is_open).map(|asked| asked.request.key.id).collect();
        match self.dice.u8(..16) {
            11..=14 if rules.is_ethereum => {
                self.dice.choice(open).map_or(Action::Prepare, Action::Abort)
            }
            0..=7 => Action::Prepare,
            8..=10 => Action::MakeCrs { max_bits: self.dice.u32(1..=4096) },
            11..=12 => Action::SetUpRandomness,
            13..=14 => Action::Reshare,
            _ => Action::Migrate,
        }
    }

    /// Whether something is still to come.
    pub fn are_keys_due(&self) -> bool {
        self.plan.keys.rules.is_some() && self.key_progress.ordered < self.plan.keys.orders
    }
}
