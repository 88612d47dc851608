//! Why an open request is not further: what it waits for, where nothing that failed says so. For who
//! asks for requests, and of the one that waits longest for everybody.

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

/// Who is on the way need not say why, in milliseconds.
const LONG_WAIT_MS: u64 = 10_000;

/// What there is to ask.
#[derive(Clone, Debug)]
pub(super) struct WaitReasons {
    /// Where all that is told comes from.
    pub source: RequestSource,
    /// How deep in the chain a request has to be before it is walked, and what that comes to now.
    pub finality_rule: FinalityRule,
    pub final_height: watch::Receiver<FinalHeight>,
    pub tag: watch::Receiver<Option<TagPosition>>,
    /// Who has it in hand.
    pub walk: WalkSender,
}

impl WaitReasons {
    pub(super) fn new(
        source: RequestSource,
        finality_rule: FinalityRule,
        line: &watch::Receiver<FinalHeight>,
        tag: &watch::Receiver<Option<TagPosition>>,
        walk: &WalkSender,
    ) -> Self {
        Self {
            source,
            finality_rule,
            final_height: line.clone(),
            tag: tag.clone(),
            walk: walk.clone(),
        }
    }

    /// Has those that wait say for what.
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

    /// The oldest one that is not held, if it has stood where it is for long.
    pub(super) fn longest_wait(
        &self,
        oldest: &RequestSummary,
        now_ms: u64,
    ) -> Option<WaitingRequest> {
        let line = overview_of_summary(oldest);
        let why = self.reason_for(&line, now_ms).or(line.last_error.clone()).unwrap_or_default();
        let since_ms = line.since_ms();
        let (id, stage) = (line.id, line.stage);
        let is_long = now_ms.saturating_sub(since_ms) >= LONG_WAIT_MS;
        is_long.then_some(WaitingRequest { id, stage, since_ms, why })
    }

    /// `None`: it is on its way, is held, has ended, or the last failure says why.
    fn reason_for(&self, request: &RequestOverview, now_ms: u64) -> Option<String> {
        if request.held.is_some() || request.outcome.is_some() {
            return None;
        }
        let kind = Kind::from_name(&request.kind);
        let (line, tag) = (*self.final_height.borrow(), *self.tag.borrow());
        if request.stage == StageName::Arrived.as_str()
            && let Some(why) = self.finality_rule.waiting_reason(kind?, request.block, line, tag)
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
