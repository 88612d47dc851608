//! Explains why an open request does not advance where no failure says so: for the requests an operator
//! asks about, and for the longest-waiting request in the status.

use tokio::sync::watch;

use super::request_overview::overview_of_summary;
use crate::{
    admin::{
        requests::{InquiryAnswer, RequestOverview},
        status::WaitingRequest,
    },
    domain::{Kind, RequestKey, RequestSource},
    flow::{
        Activity, AttendanceState, WalkSender,
        finality::rule::{FinalHeight, FinalityRule, TagPosition},
    },
    journal::{RequestSummary, StageName},
};

/// Requests younger than this, in milliseconds, need no reason.
const LONG_WAIT_MS: u64 = 10_000;

/// Sources of reasons.
#[derive(Clone, Debug)]
pub(super) struct WaitReasons {
    /// Chain and contract of all requests here.
    pub source: RequestSource,
    /// The finality rule, and the final height it gives now.
    pub finality_rule: FinalityRule,
    pub final_height: watch::Receiver<FinalHeight>,
    pub tag: watch::Receiver<Option<TagPosition>>,
    /// Tells which requests are attended.
    pub walk: WalkSender,
}

impl WaitReasons {
    pub(super) fn new(
        source: RequestSource,
        finality_rule: FinalityRule,
        final_height: &watch::Receiver<FinalHeight>,
        tag: &watch::Receiver<Option<TagPosition>>,
        walk: &WalkSender,
    ) -> Self {
        Self {
            source,
            finality_rule,
            final_height: final_height.clone(),
            tag: tag.clone(),
            walk: walk.clone(),
        }
    }

    /// Adds a reason to each waiting request.
    pub(super) fn explain(&self, told: &mut InquiryAnswer, now_ms: u64) {
        let explain =
            |request: &mut RequestOverview| request.waits = self.reason_for(request, now_ms);
        match told {
            InquiryAnswer::Lines { requests, .. } => requests.iter_mut().for_each(explain),
            InquiryAnswer::Stories { requests } => {
                requests.iter_mut().map(|story| &mut story.overview).for_each(explain);
            }
            InquiryAnswer::Exported { requests, .. } => {
                requests.iter_mut().map(|one| &mut one.detail.overview).for_each(explain);
            }
            InquiryAnswer::Retried { .. } | InquiryAnswer::Backfilled(_) => {}
        }
    }

    /// The oldest request that is not held, if it has been in its stage for long.
    pub(super) fn longest_wait(
        &self,
        oldest: &RequestSummary,
        now_ms: u64,
    ) -> Option<WaitingRequest> {
        let overview = overview_of_summary(oldest);
        let why =
            self.reason_for(&overview, now_ms).or(overview.last_error.clone()).unwrap_or_default();
        let since_ms = overview.since_ms();
        let (id, stage) = (overview.id, overview.stage);
        let is_long = now_ms.saturating_sub(since_ms) >= LONG_WAIT_MS;
        is_long.then_some(WaitingRequest { id, stage, since_ms, why })
    }

    /// `None`: it is advancing, is held, has ended, or the last failure is the reason.
    fn reason_for(&self, request: &RequestOverview, now_ms: u64) -> Option<String> {
        if request.held.is_some() || request.outcome.is_some() {
            return None;
        }
        let kind = Kind::from_name(&request.kind);
        let (final_height, tag) = (*self.final_height.borrow(), *self.tag.borrow());
        if request.stage == StageName::Arrived.as_str()
            && let Some(why) =
                self.finality_rule.waiting_reason(kind?, request.block, final_height, tag)
        {
            return Some(why);
        }
        let key = RequestKey {
            source: self.source,
            id: request.id.parse().ok()?,
            content: request.content.parse().ok()?,
        };
        let is_long = now_ms.saturating_sub(request.since_ms()) >= LONG_WAIT_MS;
        activity_reason(self.walk.attendance_of(key), &request.stage).filter(|_| is_long)
    }
}

fn activity_reason(attended: AttendanceState, stage: &str) -> Option<String> {
    match attended {
        AttendanceState::Retrying => None,
        AttendanceState::Active(Activity::Submitting) if stage == StageName::Submitted.as_str() => {
            Some("its transaction waits to be mined".to_owned())
        }
        AttendanceState::Active(doing) => Some(doing.to_string()),
        AttendanceState::Unattended => {
            Some("waits in the journal until those before it are walked".to_owned())
        }
    }
}
