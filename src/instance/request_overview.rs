//! Conversion of a request into the form of lists and pages.

use crate::{
    admin::requests::{HoldSummary, RequestOverview},
    domain::{Outcome, Refusal},
    journal::{Progress, RequestSummary},
};

/// From a row of the journal's list.
pub(super) fn overview_of_summary(listed: &RequestSummary) -> RequestOverview {
    let id = listed.key.to_string();
    let (content, kind) = (listed.key.content.to_string(), listed.kind.as_str());
    overview(id, content, kind, listed.block, &listed.progress)
}

/// The parts of the key are passed in the form in which they are shown.
pub(super) fn overview(
    id: String,
    content: String,
    kind: &str,
    block: u64,
    progress: &Progress,
) -> RequestOverview {
    let outcome = progress.outcome.as_ref();
    let detail = outcome.and_then(|outcome| match outcome {
        Outcome::Refused(
            refusal @ (Refusal::Malformed(_) | Refusal::NotRequested | Refusal::AccessRefused(_)),
        ) => Some(refusal.to_string()),
        Outcome::Accepted { .. }
        | Outcome::AlreadyAnswered
        | Outcome::Expired
        | Outcome::Orphaned
        | Outcome::Observed
        | Outcome::Aborted
        | Outcome::NoAnswerDue
        | Outcome::Recorded => None,
    });
    let stage = if outcome.is_some() { "settled" } else { progress.stage.as_str() };
    RequestOverview {
        id,
        chain: None,
        content,
        kind: kind.to_owned(),
        stage: stage.to_owned(),
        held: progress.held.as_ref().map(|held| HoldSummary {
            reason: held.hold.reason.as_str().to_owned(),
            detail: held.hold.detail.clone(),
            since_ms: held.since_ms,
        }),
        outcome: outcome.map(|outcome| outcome.as_str().to_owned()),
        outcome_detail: detail,
        attempts: progress.attempts,
        last_error: progress.last_error.clone(),
        waits: None,
        block,
        arrived_at_ms: progress.arrived_at_ms,
        asked_at_ms: progress.asked_at_ms,
        answered_at_ms: progress.answered_at_ms,
        submitted_at_ms: progress.submitted_at_ms,
        settled_at_ms: progress.settled_at_ms,
    }
}
