//! Requests of operators, their answers, and the status for operators and the service manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use tokio::sync::{mpsc::error::TrySendError, oneshot, watch};
use tracing::debug;

use super::{
    Instances, Readiness, Showing, Supervisor,
    control::{Answer, Asked, Reply, Request},
    slot::Slot,
    watcher::Nudges,
};
use crate::{
    clock,
    observe::{
        board::{Shown, View},
        errors::LastErrors,
        requests::{self, Desk, Inquiry},
        status::{InstanceStatus, Reload, Status},
    },
};

/// Older warnings are not shown: their cause may be over.
const WARNED_WITHIN_MS: u64 = 10 * 60 * 1_000;

/// What a reply waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The reading with this number has been applied.
    Reread(u64),
    /// No change is under way.
    Settled,
}

/// The state that was asked of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Restart,
    Stop,
}

impl Wish {
    /// Why the instance is in another state, if another operator was faster.
    fn beaten(self, is_stopped: bool) -> Option<&'static str> {
        match (self, is_stopped) {
            (Self::Restart, true) => Some("somebody's `stop` came after this `restart`"),
            (Self::Stop, false) => {
                Some("somebody's `restart`, or a change of its file, came after this `stop`")
            }
            (Self::Restart, false) | (Self::Stop, true) => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Pending {
    reply: oneshot::Sender<Reply>,
    /// One instance; `None`: all.
    name: Option<String>,
    wish: Option<Wish>,
    /// The instances concerned that existed when the request came.
    pub(super) were: BTreeSet<String>,
    until: Until,
}

impl<I: Instances> Supervisor<I> {
    /// The reading that began after this many requests has been applied.
    pub(super) fn reread(&mut self, asked: u64) {
        if matches!(self.readiness, Readiness::Rereading(number) if number <= asked) {
            self.readiness = Readiness::DueAgain;
        }
        for pending in &mut self.pending {
            if matches!(pending.until, Until::Reread(number) if number <= asked) {
                pending.until = Until::Settled;
            }
        }
    }

    pub(super) fn asked(&mut self, asked: Asked, nudges: &watch::Sender<Nudges>) {
        let Asked { request, reply } = asked;
        // The client may have gone.
        let refuse = |reply: oneshot::Sender<Reply>, why: String| {
            let _ = reply.send(Answer::Refused { why }.into());
        };
        let name = match &request {
            Request::Status => {
                let _ = reply.send(Answer::Status { status: Box::new(self.status()) }.into());
                return;
            }
            Request::Requests { name, inquiry } => {
                let _ = reply.send(self.inquire(name, inquiry.clone()));
                return;
            }
            Request::Reload { name } => name.clone(),
            Request::Restart { name } | Request::Stop { name } => Some(name.clone()),
        };
        if self.stopping {
            return refuse(reply, "the supervisor is stopping".to_owned());
        }
        if let Some(name) = &name {
            let known: Vec<_> = self.slots.keys().cloned().collect();
            let Some(slot) = self.slots.get_mut(name) else {
                let known = known.join(", ");
                return refuse(reply, format!("there is no instance {name}; there are: {known}"));
            };
            let done = match &request {
                Request::Restart { .. } => slot.standing.restart(),
                Request::Stop { .. } => slot.standing.hold(),
                Request::Reload { .. } | Request::Status | Request::Requests { .. } => {
                    slot.standing.try_again();
                    true
                }
            };
            if !done {
                let why = slot.complaint().unwrap_or("it is not enabled").to_owned();
                return refuse(reply, format!("{name} has no configuration to run: {why}"));
            }
        }
        let wish = match &request {
            Request::Restart { .. } => Some(Wish::Restart),
            Request::Stop { .. } => Some(Wish::Stop),
            Request::Reload { .. } | Request::Status | Request::Requests { .. } => None,
        };
        let until = if let Request::Reload { .. } = request {
            Until::Reread(self.nudge(nudges, name.is_none()))
        } else {
            Until::Settled
        };
        let concerned =
            self.slots.keys().filter(|known| name.as_ref().is_none_or(|name| name == *known));
        let were = concerned.cloned().collect();
        self.pending.push(Pending { reply, name, wish, were, until });
    }

    /// Passes the question to the instance, which answers the client directly.
    fn inquire(&self, name: &str, inquiry: Inquiry) -> Reply {
        let why = match self.slots.get(name) {
            None => {
                let known: Vec<&str> = self.slots.keys().map(String::as_str).collect();
                format!("there is no instance {name}; there are: {}", known.join(", "))
            }
            Some(slot) => {
                let desk = slot.run().and_then(|run| run.desk.borrow().clone());
                match desk.filter(|desk| !desk.is_closed()) {
                    Some(desk) => return hand_in(&desk, inquiry),
                    None => format!("{name} is {}", slot.shown().word()),
                }
            }
        };
        Answer::Absent { why }.into()
    }

    // ---- what is told

    /// Publishes the current state to operators, the HTTP listener and the service manager.
    pub(super) fn show(&mut self) {
        for slot in self.slots.values_mut() {
            if slot.show() {
                debug!(instance = slot.name, state = slot.shown().word(), "instance state");
            }
        }
        let is_changing = self.slots.values().any(Slot::is_changing);
        if !is_changing {
            self.note_reload();
        }
        let line = self.line();
        if !self.stopping {
            if matches!(self.readiness, Readiness::Due | Readiness::DueAgain) && !is_changing {
                self.readiness = Readiness::Told;
                self.manager.ready(&line);
            }
            self.manager.status(&line);
        }
        self.reply();
        if let Some(Showing { board, errors, .. }) = &self.board {
            errors.retain(|name| self.slots.contains_key(name));
            let now_ms = clock::unix_millis();
            self.slots.values_mut().for_each(|slot| slot.look(now_ms));
            board.send_replace(Arc::new(self.shown(errors.clone())));
        }
    }

    /// Publishes the state for an HTTP listener from now on.
    pub(super) fn put_up_board(&mut self, address: SocketAddr, errors: LastErrors) -> View {
        let (board, view) = watch::channel(Arc::new(self.shown(errors.clone())));
        self.board = Some(Showing { address, board, errors });
        view
    }

    fn shown(&self, errors: LastErrors) -> Shown {
        let metrics = self.slots.values().map(|slot| (slot.name.clone(), slot.metrics.clone()));
        let histories = self.slots.values().map(|slot| (slot.name.clone(), slot.last_hour.clone()));
        Shown {
            at_ms: clock::unix_millis(),
            status: self.status(),
            metrics: metrics.collect(),
            histories: histories.collect(),
            errors,
        }
    }

    fn note_reload(&mut self) {
        self.reload.problems = self.problems();
        if self.reload.problems.is_empty()
            && self.reload.succeeded_at_ms.is_none_or(|at| at < self.reload.at_ms)
        {
            self.reload.succeeded_at_ms = Some(clock::unix_millis());
        }
    }

    fn problems(&self) -> Vec<String> {
        let complaints = self.slots.values().filter_map(|slot| {
            slot.complaint().map(|complaint| format!("{}: {complaint}", slot.name))
        });
        self.directory_problem.iter().map(ToString::to_string).chain(complaints).collect()
    }

    /// Answers the requests whose wait is over.
    fn reply(&mut self) {
        let mut waiting = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            let mut concerned = self
                .slots
                .values()
                .filter(|slot| pending.name.as_ref().is_none_or(|name| *name == slot.name));
            let settled = !concerned.clone().any(|slot| slot.is_changing() || slot.is_draining());
            if pending.until != Until::Settled || !settled {
                if !pending.reply.is_closed() {
                    waiting.push(pending);
                }
                continue;
            }
            let beaten = |slot: &Slot<_>| pending.wish?.beaten(slot.standing.stopped().is_some());
            let lines = concerned.clone().map(|slot| match beaten(slot) {
                Some(why) => format!("{}; {why}", slot.line()),
                None => slot.line(),
            });
            let mut lines: Vec<String> = lines.collect();
            let gone = pending.were.iter().filter(|name| !self.slots.contains_key(*name));
            lines.extend(gone.map(|name| format!("{name} has ended: it has no file any more")));
            let mut failed = concerned.any(|slot| slot.is_amiss() || beaten(slot).is_some());
            if let Some(problem) = &self.directory_problem {
                lines.push(problem.to_string());
                failed = true;
            }
            // The client may have gone.
            let _ = pending.reply.send(Answer::Done { lines, failed }.into());
        }
        self.pending = waiting;
    }

    /// `4 running, 1 parked: config-3 parked (why)`.
    fn line(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for slot in self.slots.values() {
            *counts.entry(slot.shown().word()).or_default() += 1;
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
        let others: Vec<String> = self.slots.values().filter_map(Slot::in_short).collect();
        let counts = parts.join(", ");
        if others.is_empty() { counts } else { format!("{counts}: {}", others.join("; ")) }
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_ms: self.started_at_ms,
            listen: self.board.as_ref().map(|showing| showing.address.to_string()),
            config_dir: self.directory.clone(),
            // The client may have another working directory.
            state_dir: std::path::absolute(&self.state_dir).ok(),
            reload: Reload { problems: self.problems(), ..self.reload.clone() },
            instances: self.slots.values().map(|slot| self.status_of(slot)).collect(),
        }
    }

    fn status_of(&self, slot: &Slot<I::Estate>) -> InstanceStatus {
        let mut status = slot.status();
        if let Some(showing) = &self.board {
            let since_ms = clock::unix_millis().saturating_sub(WARNED_WITHIN_MS);
            // Warnings about a fault that was fixed since are over, too.
            let since_ms = since_ms.max(slot.mended_at_ms());
            status.last_warnings = showing.errors.last_of(&slot.name, since_ms);
        }
        status
    }
}

fn hand_in(desk: &Desk, inquiry: Inquiry) -> Reply {
    let (reply, told) = oneshot::channel();
    match desk.try_send(requests::Asked { inquiry, reply }) {
        Err(TrySendError::Full(_)) => {
            let why = "it is answering others just now: ask again in a moment".to_owned();
            Answer::Refused { why }.into()
        }
        // If the instance has ended, the dropped reply channel tells the client so.
        Ok(()) | Err(TrySendError::Closed(_)) => Reply::Later(told),
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
        let ask = || hand_in(&desk, Inquiry::Show { id: "7".to_owned() });
        let why = async |reply: Reply| match reply.answer().await {
            Answer::Refused { why } => why,
            other @ (Answer::Status { .. }
            | Answer::Done { .. }
            | Answer::Told { .. }
            | Answer::Absent { .. }
            | Answer::Silent { .. }) => panic!("{other:?}"),
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
        let mut slot: Slot<()> = Slot::new("a".to_owned(), 1);
        slot.show();
        assert_eq!(slot.mended_at_ms(), 0, "nothing was amiss");
        slot.keep(None, "bad TOML".to_owned());
        slot.show();
        assert_eq!(slot.mended_at_ms(), 0, "it still is");
        slot.unwant(None);
        slot.show();
        let mended = slot.mended_at_ms();
        assert!(mended > 0);
        slot.show();
        assert_eq!(slot.mended_at_ms(), mended);
    }
}
