//! Requests of operators, their answers, and the status for operators and the service manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc::error::TrySendError, oneshot, watch},
    time::Instant,
};
use tracing::debug;

use super::{
    InstanceRunner, NotifyState, Publisher, Supervisor,
    control::{LoopReply, PendingRequest, Request, Response},
    managed::ManagedInstance,
};
use crate::supervisor::config_dir::watch::ReloadRequests;
use crate::{
    admin::{
        requests::{self, Inbox, Inquiry},
        snapshot::{ProcessSnapshot, SnapshotReceiver},
        status::{InstanceState, InstanceStatus, ReloadStatus, Status},
    },
    telemetry::errors::LastErrors,
    time::clock,
};

/// Older warnings are not shown: their cause may be over.
const RECENT_WARNINGS_MS: u64 = 10 * 60 * 1_000;

/// How long the reply to a `restart` waits for an instance that waits for something outside: a node that
/// is only slow to connect answers by then. Shorter than the client's patience.
const RESTART_PATIENCE: Duration = Duration::from_secs(20);

/// What a reply waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyWhen {
    /// The reading with this number has been applied.
    Reloaded(u64),
    /// No change is under way.
    Settled,
}

/// The state that was asked of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestedState {
    Restart,
    Stop,
}

impl RequestedState {
    /// Why the instance is in another state, if another operator was faster.
    fn overruled(self, is_stopped: bool) -> Option<&'static str> {
        match (self, is_stopped) {
            (Self::Restart, true) => Some("another operator's `stop` came after this `restart`"),
            (Self::Stop, false) => Some(
                "another operator's `restart`, or a change of its file, came after this \
                      `stop`",
            ),
            (Self::Restart, false) | (Self::Stop, true) => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct PendingReply {
    reply: oneshot::Sender<LoopReply>,
    /// One instance; `None`: all.
    name: Option<String>,
    requested: Option<RequestedState>,
    /// The instances concerned that existed when the request came.
    pub(super) known_names: BTreeSet<String>,
    until: ReplyWhen,
    /// Until then the outcome of a restart is not known while the instance waits for something outside.
    outcome_by: Option<Instant>,
}

impl<I: InstanceRunner> Supervisor<I> {
    /// The reading that began after this many requests has been applied.
    pub(super) fn reload_applied(&mut self, asked: u64) {
        if matches!(self.notify_state, NotifyState::ReloadPending(number) if number <= asked) {
            self.notify_state = NotifyState::ReadyPending;
        }
        for pending in &mut self.pending {
            if matches!(pending.until, ReplyWhen::Reloaded(number) if number <= asked) {
                pending.until = ReplyWhen::Settled;
            }
        }
    }

    pub(super) fn on_request(
        &mut self,
        asked: PendingRequest,
        nudges: &watch::Sender<ReloadRequests>,
    ) {
        let PendingRequest { request, reply } = asked;
        // The client may have gone.
        let refuse = |reply: oneshot::Sender<LoopReply>, why: String| {
            let _ = reply.send(Response::Refused { why }.into());
        };
        let name = match &request {
            Request::Status => {
                let _ = reply.send(Response::Status { status: Box::new(self.status()) }.into());
                return;
            }
            Request::Requests { name, inquiry } => {
                let _ = reply.send(self.inquire(name, inquiry.clone()));
                return;
            }
            Request::Reload { name } => name.clone(),
            Request::Restart { name } | Request::Stop { name } => Some(name.clone()),
        };
        if self.is_stopping {
            return refuse(reply, "the supervisor is stopping".to_owned());
        }
        if let Some(name) = &name {
            let known: Vec<_> = self.managed.keys().cloned().collect();
            let Some(slot) = self.managed.get_mut(name) else {
                let known = known.join(", ");
                return refuse(reply, format!("there is no instance {name}; there are: {known}"));
            };
            let done = match &request {
                Request::Restart { .. } => slot.lifecycle.restart(),
                Request::Stop { .. } => slot.lifecycle.stop(),
                Request::Reload { .. } | Request::Status | Request::Requests { .. } => {
                    slot.lifecycle.retry_rejected();
                    true
                }
            };
            if !done {
                let why = slot.problem().unwrap_or("it is not enabled").to_owned();
                return refuse(reply, format!("{name} has no configuration to run: {why}"));
            }
        }
        let requested = match &request {
            Request::Restart { .. } => Some(RequestedState::Restart),
            Request::Stop { .. } => Some(RequestedState::Stop),
            Request::Reload { .. } | Request::Status | Request::Requests { .. } => None,
        };
        let until = if let Request::Reload { .. } = request {
            ReplyWhen::Reloaded(self.request_reload(nudges, name.is_none()))
        } else {
            ReplyWhen::Settled
        };
        let concerned =
            self.managed.keys().filter(|known| name.as_ref().is_none_or(|name| name == *known));
        let were = concerned.cloned().collect();
        let is_restart = matches!(request, Request::Restart { .. });
        let outcome_by = is_restart.then(|| Instant::now() + RESTART_PATIENCE);
        self.pending.push(PendingReply {
            reply,
            name,
            requested,
            known_names: were,
            until,
            outcome_by,
        });
    }

    /// Passes the question to the instance, which answers the client directly.
    fn inquire(&self, name: &str, inquiry: Inquiry) -> LoopReply {
        let Some(slot) = self.managed.get(name) else {
            let known: Vec<&str> = self.managed.keys().map(String::as_str).collect();
            let why = format!("there is no instance {name}; there are: {}", known.join(", "));
            return Response::Absent { why, state: None }.into();
        };
        let inbox = slot.run().and_then(|run| run.inbox.borrow().clone());
        if let Some(inbox) = inbox.filter(|inbox| !inbox.is_closed()) {
            return enqueue_inquiry(&inbox, inquiry);
        }
        let state = slot.shown_state().clone();
        let why = match &state {
            InstanceState::Waiting { on, .. } => format!("{name} waits for {on}"),
            InstanceState::Starting
            | InstanceState::Running
            | InstanceState::Draining
            | InstanceState::BackingOff { .. }
            | InstanceState::Parked { .. }
            | InstanceState::Stopped { .. } => format!("{name} is {}", state.word()),
        };
        Response::Absent { why, state: Some(state) }.into()
    }

    // ---- publishing

    /// Publishes the current state to operators, the HTTP listener and the service manager.
    pub(super) fn publish(&mut self) {
        for slot in self.managed.values_mut() {
            if slot.refresh_state() {
                debug!(instance = slot.name, state = slot.shown_state().word(), "instance state");
            }
        }
        let is_changing = self.managed.values().any(ManagedInstance::is_changing);
        if !is_changing {
            self.record_reload();
        }
        let line = self.status_line();
        if !self.is_stopping {
            if matches!(self.notify_state, NotifyState::StartupPending | NotifyState::ReadyPending)
                && !is_changing
            {
                self.notify_state = NotifyState::Ready;
                self.manager.ready(&line);
            }
            self.manager.status(&line);
        }
        self.reply_to_finished();
        if let Some(Publisher { sender, errors, .. }) = &self.publisher {
            errors.retain(|name| self.managed.contains_key(name));
            let now_ms = clock::unix_millis();
            self.managed.values_mut().for_each(|slot| slot.record_history(now_ms));
            sender.send_replace(Arc::new(self.process_snapshot(errors.clone())));
        }
    }

    /// Publishes the state for an HTTP listener from now on.
    pub(super) fn start_publishing(
        &mut self,
        address: SocketAddr,
        errors: LastErrors,
    ) -> SnapshotReceiver {
        let (sender, view) = watch::channel(Arc::new(self.process_snapshot(errors.clone())));
        self.publisher = Some(Publisher { address, sender, errors });
        view
    }

    fn process_snapshot(&self, errors: LastErrors) -> ProcessSnapshot {
        let metrics = self.managed.values().map(|slot| (slot.name.clone(), slot.metrics.clone()));
        let histories =
            self.managed.values().map(|slot| (slot.name.clone(), slot.last_hour.clone()));
        ProcessSnapshot {
            at_ms: clock::unix_millis(),
            status: self.status(),
            metrics: metrics.collect(),
            histories: histories.collect(),
            errors,
        }
    }

    fn record_reload(&mut self) {
        self.reload.problems = self.problems();
        if self.reload.problems.is_empty()
            && self.reload.succeeded_at_ms.is_none_or(|at| at < self.reload.at_ms)
        {
            self.reload.succeeded_at_ms = Some(clock::unix_millis());
        }
    }

    fn problems(&self) -> Vec<String> {
        let complaints = self.managed.values().filter_map(|slot| {
            slot.problem().map(|complaint| format!("{}: {complaint}", slot.name))
        });
        self.directory_problem.iter().map(ToString::to_string).chain(complaints).collect()
    }

    /// When a reply is due although its instance still waits.
    pub(super) fn next_reply_at(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|pending| pending.outcome_by).min()
    }

    /// Answers the requests whose condition is met.
    fn reply_to_finished(&mut self) {
        let now = Instant::now();
        let mut waiting = Vec::new();
        for mut pending in std::mem::take(&mut self.pending) {
            pending.outcome_by = pending.outcome_by.filter(|at| now < *at);
            let mut concerned = self
                .managed
                .values()
                .filter(|slot| pending.name.as_ref().is_none_or(|name| *name == slot.name));
            let is_early = pending.outcome_by.is_some();
            let settled = !concerned.clone().any(|slot| {
                slot.is_changing() || slot.is_draining() || (is_early && slot.is_waiting())
            });
            if pending.until != ReplyWhen::Settled || !settled {
                if !pending.reply.is_closed() {
                    waiting.push(pending);
                }
                continue;
            }
            let beaten = |slot: &ManagedInstance<_>| {
                pending.requested?.overruled(slot.lifecycle.stopped_config().is_some())
            };
            let lines = concerned.clone().map(|slot| match (beaten(slot), pending.requested) {
                (Some(why), _) => format!("{}; {why}", slot.summary_line()),
                (None, Some(RequestedState::Restart)) if slot.is_waiting() => slot
                    .summary_line_with(&format!(
                        "; it goes on by itself: `kms-connector status {}` follows it",
                        slot.name
                    )),
                (None, _) => slot.summary_line(),
            });
            let mut lines: Vec<String> = lines.collect();
            let gone = pending.known_names.iter().filter(|name| !self.managed.contains_key(*name));
            lines.extend(gone.map(|name| format!("{name} has ended: it has no file any more")));
            // One that was to be stopped is where it should be, whatever its file says.
            let is_amiss = |slot: &ManagedInstance<_>| {
                pending.requested != Some(RequestedState::Stop) && slot.needs_attention()
            };
            let mut failed = concerned.any(|slot| is_amiss(slot) || beaten(slot).is_some());
            if let Some(problem) = &self.directory_problem {
                lines.push(problem.to_string());
                failed = true;
            }
            // The client may have gone.
            let _ = pending.reply.send(Response::Done { lines, failed }.into());
        }
        self.pending = waiting;
    }

    /// `4 running, 1 parked: config-3 parked (why)`.
    fn status_line(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for slot in self.managed.values() {
            *counts.entry(slot.shown_state().word()).or_default() += 1;
        }
        let order =
            ["running", "waiting", "starting", "draining", "backing-off", "parked", "stopped"];
        let mut parts: Vec<String> = order
            .iter()
            .filter_map(|word| counts.get(word).map(|count| format!("{count} {word}")))
            .collect();
        if parts.is_empty() {
            parts.push("no instance".to_owned());
        }
        let others: Vec<String> =
            self.managed.values().filter_map(ManagedInstance::brief).collect();
        let counts = parts.join(", ");
        if others.is_empty() { counts } else { format!("{counts}: {}", others.join("; ")) }
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_ms: self.started_at_ms,
            listen: self.publisher.as_ref().map(|showing| showing.address.to_string()),
            config_dir: self.directory.clone(),
            // The client may have another working directory.
            state_dir: std::path::absolute(&self.state_dir).ok(),
            reload: ReloadStatus { problems: self.problems(), ..self.reload.clone() },
            instances: self.managed.values().map(|slot| self.instance_status(slot)).collect(),
        }
    }

    fn instance_status(&self, slot: &ManagedInstance<I::Tenure>) -> InstanceStatus {
        let mut status = slot.status();
        if let Some(showing) = &self.publisher {
            let since_ms = clock::unix_millis().saturating_sub(RECENT_WARNINGS_MS);
            // Warnings about a fault that was fixed since are over, too.
            let since_ms = since_ms.max(slot.recovered_at_ms());
            status.last_warnings = showing.errors.last_of(&slot.name, since_ms);
        }
        status
    }
}

fn enqueue_inquiry(inbox: &Inbox, inquiry: Inquiry) -> LoopReply {
    let (reply, told) = oneshot::channel();
    match inbox.try_send(requests::PendingInquiry { inquiry, reply }) {
        Err(TrySendError::Full(_)) => {
            let why = "it is busy answering others: ask again in a moment".to_owned();
            Response::Refused { why }.into()
        }
        // If the instance has ended, the dropped reply channel tells the client so.
        Ok(()) | Err(TrySendError::Closed(_)) => LoopReply::Later(told),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// The client gets an answer in every case.
    #[tokio::test]
    async fn a_full_desk_refuses_and_one_that_goes_says_so() {
        let (desk, mut inbox) = mpsc::channel(1);
        let ask = || enqueue_inquiry(&desk, Inquiry::Show { id: "7".to_owned() });
        let why = async |reply: LoopReply| match reply.into_response().await {
            Response::Refused { why } => why,
            other @ (Response::Status { .. }
            | Response::Done { .. }
            | Response::Told { .. }
            | Response::Absent { .. }
            | Response::Silent { .. }) => panic!("{other:?}"),
        };
        let (first, second) = (ask(), ask());
        assert!(why(second).await.contains("ask again"));
        inbox.close();
        let asked = inbox.recv().await.unwrap();
        assert_eq!(asked.inquiry, Inquiry::Show { id: "7".to_owned() });
        drop(asked);
        assert!(why(first).await.contains("ended before it answered"));
        assert!(why(ask()).await.contains("ended before it answered"));
    }

    /// For example a file that is invalid and then valid again: warnings from in between are over.
    #[test]
    fn d8_what_was_said_of_a_fault_is_over_when_it_is_mended() {
        let mut slot: ManagedInstance<()> = ManagedInstance::new("a".to_owned(), 1);
        slot.refresh_state();
        assert_eq!(slot.recovered_at_ms(), 0, "nothing was amiss");
        slot.reject_file(None, "bad TOML".to_owned());
        slot.refresh_state();
        assert_eq!(slot.recovered_at_ms(), 0, "it still is");
        slot.clear_target(None);
        slot.refresh_state();
        let mended = slot.recovered_at_ms();
        assert!(mended > 0);
        slot.refresh_state();
        assert_eq!(slot.recovered_at_ms(), mended);
    }
}
