//! What a chain's answers mean for a request. Pure, and the only place that grants.
//!
//! ```text
//! what holds of the answers, first match                             verdict
//! ------------------------------------------------------------------------------------------------
//! the plan has no conditions, or the answers are not its answers     denied
//! the block's time is after the validity                             refused  validity_expired
//! the block's time is before the validity                            early
//! the user's key has not signed, and there is no code at the user    refused  signature_invalid
//! the user invalidated signatures of this age                        refused  signature_invalidated
//! anything else that must hold was not answered by a plain yes       denied
//! every condition holds                                              granted
//! ```
//!
//! A denial is not final: the chain may lag behind the gateway, and a grant may follow. A refusal is.

use super::plan::{ChainPlan, Condition};
use crate::{
    contracts::acl::AclAnswer,
    domain::{AccessRefusal, AccessRefusalReason as Reason, U256},
};

/// What one chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Granted,
    /// Not yet valid.
    Early {
        /// Unix seconds, of the block.
        now: u64,
        start: U256,
    },
    /// The index of a question whose answer is missing or not the one that is needed. `None`: the plan
    /// and the answers do not belong together.
    Denied(Option<usize>),
    Refused(AccessRefusal),
}

/// Decides. `timestamp`: of the block that was asked, in unix seconds. `None`: nothing that was asked
/// depends on it.
pub(super) fn decide(plan: &ChainPlan, answers: &[AclAnswer], timestamp: Option<u64>) -> Verdict {
    if plan.conditions.is_empty() || answers.len() != plan.questions.len() {
        return Verdict::Denied(None);
    }
    let mut denied = None;
    for condition in &plan.conditions {
        let verdict = judge(condition, answers, timestamp);
        match verdict {
            Verdict::Granted => {}
            Verdict::Denied(_) => {
                denied.get_or_insert(verdict);
            }
            Verdict::Refused(_) | Verdict::Early { .. } => return verdict,
        }
    }
    denied.unwrap_or(Verdict::Granted)
}

/// What one condition alone leads to.
fn judge(condition: &Condition, answers: &[AclAnswer], timestamp: Option<u64>) -> Verdict {
    let says_yes = |index: usize| answers.get(index) == Some(&AclAnswer::Yes);
    match condition {
        Condition::Within { start, duration_secs } => {
            let Some(now) = timestamp else { return Verdict::Denied(None) };
            let (block, end) = (U256::from(now), start.saturating_add(*duration_secs));
            if block > end {
                let detail = format!("the user's signature was valid until {end}, and it is {now}");
                return Verdict::Refused(AccessRefusal::new(Reason::ValidityExpired, detail));
            }
            if block < *start {
                return Verdict::Early { now, start: *start };
            }
            Verdict::Granted
        }
        Condition::SignedByCode { has_code, is_valid } => {
            match (answers.get(*has_code), says_yes(*is_valid)) {
                (Some(AclAnswer::Yes), true) => Verdict::Granted,
                (Some(AclAnswer::No), _) => {
                    let detail = "its signature is not the user's, who is no contract that could \
                                  take it for one";
                    Verdict::Refused(AccessRefusal::new(Reason::SignatureInvalid, detail))
                }
                (Some(AclAnswer::Yes), false) => Verdict::Denied(Some(*is_valid)),
                _ => Verdict::Denied(Some(*has_code)),
            }
        }
        Condition::NotInvalidated { start, before } => match answers.get(*before) {
            Some(AclAnswer::Time(before)) if start >= before => Verdict::Granted,
            Some(AclAnswer::Time(before)) => {
                let detail = format!(
                    "the user has invalidated signatures whose validity begins before {before}, \
                     and this one's begins at {start}"
                );
                Verdict::Refused(AccessRefusal::new(Reason::SignatureInvalidated, detail))
            }
            _ => Verdict::Denied(Some(*before)),
        },
        Condition::Yes(index) if says_yes(*index) => Verdict::Granted,
        Condition::Yes(index) => Verdict::Denied(Some(*index)),
        Condition::AnyYes(range) if range.clone().any(says_yes) => Verdict::Granted,
        Condition::AnyYes(range) => Verdict::Denied(Some(range.start)),
    }
}

#[cfg(test)]
mod tests;
