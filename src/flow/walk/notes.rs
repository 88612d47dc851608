//! What a walk logs, counts and records in the journal.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::{
    WalkEnd,
    policy::{WalkDecision, access_history::AccessHistory},
};
use crate::{
    chain::sender::TransactionSender,
    domain::{Hold, HoldReason, LedgerError, Outcome, Request, RequestKey, stage::Stage},
    flow::{
        AccessNote, Flow, Mode, RequestLedger, Step, ciphertexts::BucketRegistry,
        walk_queue::AttendanceGuard,
    },
    telemetry::log_throttle::warn_rarely,
};

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// Logs a failed attempt. Requests that fail for the same reason share one throttle.
    pub(super) fn log_failure(&self, stage: &Stage, code: &'static str, why: &str) {
        let stage = stage.as_str();
        let repeats = self.should_log(stage, code);
        warn_rarely!(repeats, "attempt failed, trying again", stage, why);
    }

    pub(super) async fn note_back_to_core(
        &self,
        key: RequestKey,
        from: &Stage,
        to: &Stage,
        odd: Option<&'static str>,
        attendance: &AttendanceGuard,
    ) -> Result<(), LedgerError> {
        if let Some(why) = odd {
            attendance.set_retrying();
            self.log_failure(from, "core_contradicts_itself", why);
            self.note_failure(key, from, why.to_owned()).await?;
        }
        if *to == Stage::Arrived {
            self.ledger.note(key, Step::Forgotten).await?;
        }
        Ok(())
    }

    pub(super) async fn note_failure(
        &self,
        key: RequestKey,
        stage: &Stage,
        why: String,
    ) -> Result<(), LedgerError> {
        self.metrics.attempt_failed(stage.as_str());
        self.ledger.note(key, Step::Failed { why }).await
    }

    /// Records what the last access check found, unless its request is only tried again.
    pub(super) async fn note_decided(
        &self,
        key: RequestKey,
        decision: &WalkDecision,
        access: &mut AccessHistory,
    ) -> Result<(), LedgerError> {
        if matches!(decision, WalkDecision::Retry { is_new_cause: false, .. }) {
            return Ok(());
        }
        self.note_access(key, access).await
    }

    /// Records what the last access check found, unless it was recorded before.
    pub(super) async fn note_access(
        &self,
        key: RequestKey,
        access: &mut AccessHistory,
    ) -> Result<(), LedgerError> {
        let Some(record) = access.take_record().filter(|record| !record.as_str().is_empty()) else {
            return Ok(());
        };
        let (bound_context, record) = (access.bound_context, record.as_str().to_owned());
        self.ledger.note(key, Step::AccessChecked(AccessNote { bound_context, record })).await
    }

    pub(super) async fn note_work_time(
        &self,
        key: RequestKey,
        worked: Duration,
    ) -> Result<(), LedgerError> {
        if worked.is_zero() {
            return Ok(());
        }
        self.ledger.note(key, Step::WorkTime(worked)).await
    }

    /// Records that the request waits at its stage, keeping its permit, until the cause is fixed.
    pub(super) async fn note_waiting(
        &self,
        key: RequestKey,
        hold: Hold,
    ) -> Result<(), LedgerError> {
        let (reason, detail) = (hold.reason.as_str(), &hold.detail);
        let repeats = self.should_log("waits", reason);
        warn_rarely!(repeats, "request waits", reason, detail);
        self.metrics.held(hold.reason);
        self.ledger.note(key, Step::Held(hold)).await
    }

    /// Sets the request aside. Logged when the reason is new, not at each failed retry.
    pub(super) async fn hold(
        &self,
        key: RequestKey,
        stage: &Stage,
        held_before: Option<HoldReason>,
        hold: Hold,
    ) -> Result<(), LedgerError> {
        let (stage, reason, detail) = (stage.as_str(), hold.reason.as_str(), &hold.detail);
        if held_before == Some(hold.reason) {
            debug!(stage, reason, detail, "request still held");
        } else {
            let repeats = self.should_log("held", reason);
            warn_rarely!(repeats, "request held", stage, reason, detail);
        }
        self.metrics.held(hold.reason);
        self.ledger.note(key, Step::Held(hold)).await
    }

    pub(super) async fn settle(
        &self,
        request: &Request,
        outcome: Outcome,
    ) -> Result<WalkEnd, LedgerError> {
        match &outcome {
            Outcome::Accepted { transaction, block } => {
                info!(outcome = outcome.as_str(), %transaction, block = block.number, "request settled");
            }
            Outcome::Refused(refusal) => {
                warn!(outcome = outcome.as_str(), why = %refusal, "request settled");
            }
            Outcome::AlreadyAnswered
            | Outcome::Expired
            | Outcome::Orphaned
            | Outcome::Observed
            | Outcome::Aborted
            | Outcome::NoAnswerDue
            | Outcome::Recorded => {
                info!(outcome = outcome.as_str(), "request settled");
            }
        }
        if let (Mode::Observe { observed }, Outcome::Observed) = (&self.mode, &outcome) {
            observed.send_modify(|count| *count += 1);
        }
        if outcome == Outcome::Orphaned {
            self.confirmation_of(request).report_orphan(request);
        }
        self.ledger.note(request.key, Step::Settled(outcome)).await?;
        Ok(WalkEnd::Settled)
    }
}
