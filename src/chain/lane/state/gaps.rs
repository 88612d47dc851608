//! Unused nonces: narrow gaps are filled with no-ops, transactions behind wide gaps are given up.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Effect, LaneState};
use crate::{
    chain::lane::{
        GiveUpReason, SignedTransaction, SubmissionUpdate, events::LaneEvent,
        mined_window::GONE_AFTER,
    },
    domain::{Hold, HoldReason},
};

/// Widest gap that is filled. The lane itself never leaves a wider one; a wrong transaction count does.
const MOST_FILLED: u64 = 64;
/// Limits on no-ops, so that no fault can spend the wallet's funds.
const NOOPS_A_MINUTE: usize = 60;
const NOOPS_AN_HOUR: usize = 512;
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// When no-ops were created, and when it was last logged that the limit is reached.
#[derive(Debug, Default)]
pub(super) struct NoopBudget {
    made: VecDeque<Instant>,
    logged_at: Option<Instant>,
}

impl NoopBudget {
    pub(super) fn spend(&mut self, now: Instant) {
        self.made.push_back(now);
    }

    /// Returns whether a no-op may be created now, and whether the hourly limit is reached.
    fn check(&mut self, now: Instant) -> (bool, bool) {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        while self.made.front().is_some_and(|at| age(at) >= HOUR) {
            self.made.pop_front();
        }
        let lately = self.made.iter().rev().take_while(|at| age(at) < MINUTE).count();
        let spent = self.made.len() >= NOOPS_AN_HOUR;
        (lately < NOOPS_A_MINUTE && !spent, spent)
    }

    /// Whether to log that the limit is reached: at most once a minute.
    fn should_log(&mut self, now: Instant) -> bool {
        let tells = self.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= MINUTE);
        if tells {
            self.logged_at = Some(now);
        }
        tells
    }
}

impl LaneState {
    /// Returns whether the lowest hole has to be filled with a no-op now.
    pub(super) fn should_fill(&mut self, now: Instant) -> bool {
        let behind = |hole: &u64| self.open.last_key_value().is_some_and(|(last, _)| last > hole);
        let overdue = self.nonces.overdue(self.options.kind.hole_patience(), now);
        let Some(hole) = overdue.filter(behind) else { return false };
        // Too wide: transactions behind it will be given up, or the count is wrong.
        if self.nonces.wide_hole(MOST_FILLED) == Some(hole) {
            return false;
        }
        let (may, spent) = self.noops.check(now);
        if spent && self.noops.should_log(now) {
            let held = Hold::new(
                HoldReason::WalletUsedElsewhere,
                format!(
                    "more than {NOOPS_AN_HOUR} nonces of wallet {} had to be filled within an hour: \
                     look whether it is used elsewhere, and at the gateway nodes; restart the \
                     instance to go on at once",
                    self.sender
                ),
            );
            self.log(LaneEvent::AnswersBehindHoles(held.clone()));
            let behind: Vec<_> =
                self.open.range(hole..).filter_map(|(_, slot)| slot.current().request).collect();
            for request in behind {
                self.notify(Some(request), SubmissionUpdate::Waiting(held.clone()));
            }
        }
        may
    }

    /// Gives up transactions behind a wide gap: they were signed under a wrong transaction count.
    /// Requires that all nodes have said for a while that the chain has not passed the gap. Their
    /// requests get other nonces. Their bytes are kept: a node may have them, and may mine them if the
    /// chain reaches their nonces.
    pub(super) fn strand(&mut self, now: Instant) {
        let Some(first) = self.nonces.wide_hole(MOST_FILLED) else {
            self.gap_since = None;
            return;
        };
        let since = *self.gap_since.get_or_insert(now);
        let agreed_since =
            self.count_belief.at_most(first).map(|at| at.saturating_duration_since(since));
        let is_sure = agreed_since.is_some_and(|said| said >= GONE_AFTER)
            && self.mined_window.after_last() <= first;
        // A transaction that is being signed may have a nonce behind the gap.
        if !is_sure || !self.signing.is_empty() || self.replacements > 0 {
            return;
        }
        let beyond = self.open.split_off(&first);
        let (lowest, transactions) = (beyond.keys().next().copied(), beyond.len());
        self.log(LaneEvent::Stranded { unused_from: first, lowest, transactions });
        self.nonces.free_from(first);
        self.gap_since = None;
        for (nonce, slot) in beyond {
            let versions = slot.into_versions();
            let ids = versions.iter().map(SignedTransaction::id).collect();
            self.effects.push(Effect::GiveUp(ids, GiveUpReason::Stranded));
            for key in versions.iter().filter_map(|version| version.request) {
                if self.by_request.get(&key) == Some(&nonce) {
                    self.by_request.remove(&key);
                    self.requeue(key);
                }
            }
            self.stranded.insert(nonce, versions);
        }
    }
}
