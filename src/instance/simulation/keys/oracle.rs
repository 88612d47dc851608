//! What must have come of key operations once the faults have ended: each that can be done is done once, with what
//! the Core made; what cannot be done is held by the name of why.

use std::time::Duration;

use super::{
    contract::{Asked, What, request_extra_data, truth},
    short,
};
use crate::{
    domain::{AccessRefusalReason, HoldReason, Outcome, Refusal, RequestKey, U256},
    instance::simulation::{
        asks::named_context,
        world::{World, WorldState},
    },
    journal::RequestRecord,
};

/// After so many blocks, and so long, a vote is known to everybody.
const KNOWN_AFTER_BLOCKS: u64 = 60;
const KNOWN_AFTER: Duration = Duration::from_mins(2);

impl WorldState {
    /// Judges an answer to a key operation that a node is given: a vote that differs from what others have said long
    /// ago must not be sent.
    pub fn judge_vote(&mut self, id: U256, payload: &[u8]) {
        if self.lost || !self.key_progress.offered.insert(id) {
            return;
        }
        let height = self.chain.height();
        let is_known = |block: u64| {
            let ago = height.saturating_sub(block);
            let time = self.plan.block_time * u32::try_from(ago).unwrap_or(u32::MAX);
            ago >= KNOWN_AFTER_BLOCKS && time >= KNOWN_AFTER
        };
        let mut votes = self.chain.keys(height).votes(id);
        if votes.any(|(signer, vote)| {
            !self.chain.is_own_signer(signer) && *vote.payload != *payload && is_known(vote.block)
        }) {
            let what = format!("{:#x} is answered as others have not, which was known", short(id));
            self.violations.push(what);
        }
    }

    /// Whether the KMS context that it names was destroyed.
    fn is_in_the_past(&self, asked: &Asked) -> bool {
        let extra_data = request_extra_data(&asked.request).unwrap_or_default();
        let named = named_context(&extra_data);
        named.is_some_and(|id| self.chain.contexts().destroyed_at(id).is_some())
    }

    /// Whether the world explains that this is held.
    fn explains(&self, asked: &Asked, reason: HoldReason) -> bool {
        match (asked.what, reason) {
            (What::Key { .. } | What::Crs { .. }, HoldReason::ResultDiffers) => {
                self.plan.keys.rules.is_some_and(|rules| rules.diverges(asked.request.key.id))
            }
            (What::Key { preparation }, HoldReason::CoreLacksPreparation) => {
                !self.core.keys.knows(preparation)
            }
            (What::Key { .. } | What::Crs { .. }, HoldReason::NoProgress) => {
                self.plan.gives_few_blocks()
            }
            (What::Unknown, HoldReason::UnsupportedEvent) => true,
            _ => false,
        }
    }
}

/// What has not reached its required state. `record`: what an operator reads of a request.
pub(in crate::instance::simulation) fn still_open<'r>(
    world: &World,
    record: impl Fn(RequestKey) -> Option<&'r RequestRecord>,
) -> Vec<String> {
    let state = world.state();
    let chain = state.key_chain();
    let mut left = Vec::new();
    if state.are_keys_due() || chain.is_action_due() {
        left.push("something is still to happen to keys".to_owned());
    }
    for asked in chain.keys(chain.height()).asked() {
        let of = format!("{:?} {:#x}", asked.what, short(asked.request.key.id));
        let Some(RequestRecord { progress, .. }) = record(asked.request.key) else {
            left.push(format!("{of} was never seen"));
            continue;
        };
        let held = progress.held.as_ref().map(|held| &held.hold);
        if held.is_some_and(|hold| state.explains(asked, hold.reason)) {
            continue;
        }
        if progress.outcome.as_ref().is_none_or(|end| *end == Outcome::Orphaned) {
            let (at, error) = (progress.stage.as_str(), &progress.last_error);
            left.push(format!("{of} has no outcome: {at} {held:?} {error:?}"));
        }
    }
    left
}

/// Judges what came of them.
pub(in crate::instance::simulation) fn judge<'r>(
    world: &World,
    record: impl Fn(RequestKey) -> Option<&'r RequestRecord>,
) -> Vec<String> {
    let state = world.state();
    let chain = state.key_chain();
    let keys = chain.keys(chain.height());
    let mut wrong = Vec::new();
    for asked in keys.asked() {
        let Asked { request, what } = asked;
        let of = format!("{what:?} {:#x}", short(request.key.id));
        let outcome = record(request.key).and_then(|record| record.progress.outcome.as_ref());
        let own: Vec<_> = keys
            .votes(request.key.id)
            .filter(|(signer, _)| chain.is_own_signer(*signer))
            .map(|(_, vote)| vote)
            .collect();
        if own.iter().any(|vote| vote.payload != truth(request.key.id, *what)) {
            wrong.push(format!("{of} was answered with what the Core did not say"));
        }
        let is_right = match (what, outcome) {
            // It is held by the name of why.
            (_, None) => true,
            (
                What::Preparation | What::Key { .. } | What::Crs { .. },
                Some(Outcome::Accepted { transaction, .. }),
            ) => {
                let receipt = chain.receipt(*transaction, chain.height());
                !own.is_empty() && receipt.is_some_and(|receipt| receipt.success)
            }
            (
                What::Preparation | What::Key { .. } | What::Crs { .. },
                Some(Outcome::AlreadyAnswered),
            ) => !own.is_empty(),
            (What::Preparation | What::Key { .. } | What::Crs { .. }, Some(Outcome::Aborted)) => {
                keys.is_aborted(asked)
            }
            (
                What::Preparation | What::Key { .. } | What::Crs { .. },
                Some(Outcome::Refused(Refusal::AccessRefused(why))),
            ) => why.reason == AccessRefusalReason::ContextDestroyed && state.is_in_the_past(asked),
            (What::Abort(id), Some(Outcome::NoAnswerDue)) => state.core.keys.was_told(*id),
            (What::Randomness | What::Resharing { .. }, Some(Outcome::NoAnswerDue)) => {
                // Only one request to set up randomness is there.
                let told = if *what == What::Randomness { U256::ONE } else { request.key.id };
                state.core.keys.was_told(told)
            }
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{of} ended as {outcome:?} with {} votes", own.len()));
        }
    }
    wrong
}
