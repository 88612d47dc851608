//! Whether the process, or one instance, is ready, and why not. Pure: the status in, a verdict out.
//!
//! An instance that should run is ready unless it is parked, backing off or starting. One that
//! waits for an outside dependency is ready: a restart would not help, and the other instances must
//! not lose traffic. Some conditions are reported as reasons although they make nothing unready:
//! files that cannot be applied while the old ones run, requests that are held, hidden or answered
//! by others alone, and gateway nodes and finality tags that stand still.

use serde::{Deserialize, Serialize};

use super::{
    advice::what_to_do,
    status::{InstanceState, InstanceStatus, Status, StoppedBy},
};

/// The response of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// One line per condition that needs attention, including those that do not affect readiness.
    pub reasons: Vec<String>,
    pub instances: Vec<InstanceReadiness>,
}

/// The verdict on one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReadiness {
    pub instance: String,
    pub ready: bool,
    /// The word of its state.
    pub state: String,
    pub since_ms: u64,
    /// Why it is in this state, or does not run its file's content.
    pub reason: Option<String>,
    /// As in `status`.
    #[serde(default)]
    pub what_to_do: Vec<String>,
}

const NO_CONFIGURATION: &str =
    "there is no configuration: put one into the configuration directory";
const ALL_DISABLED: &str =
    "every configuration says enabled = false: remove that line from those that should run";

impl Readiness {
    /// The verdict on the process: there is an instance that should run, and none that should run
    /// is down.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let instances: Vec<_> = status.instances.iter().map(InstanceReadiness::of).collect();
        // Instances stopped on purpose do not count.
        let stopped = |one: &InstanceStatus| matches!(one.state, InstanceState::Stopped { .. });
        let wanted = status.instances.iter().zip(&instances).filter(|(one, _)| !stopped(one));
        let disabled =
            |one: &InstanceStatus| one.state == InstanceState::Stopped { by: StoppedBy::File };
        let nobody = status.instances.iter().all(disabled);
        let ready = !nobody && wanted.clone().all(|(_, one)| one.ready);
        let mut reasons: Vec<String> = match (nobody, instances.is_empty()) {
            (true, true) => vec![NO_CONFIGURATION.to_owned()],
            (true, false) => vec![ALL_DISABLED.to_owned()],
            (false, _) => wanted.filter_map(|(_, one)| one.summary()).collect(),
        };
        for problem in &status.reload.problems {
            // The line of an instance already contains its own problem.
            if !instances.iter().any(|one| problem.starts_with(&format!("{}: ", one.instance))) {
                reasons.push(problem.clone());
            }
        }
        Self { ready, reasons, instances }
    }

    /// The verdict on one instance. `None`: there is none of this name.
    #[must_use]
    pub fn set_instance(status: &Status, name: &str) -> Option<Self> {
        let found = status.instances.iter().find(|one| one.name == name)?;
        let instance = InstanceReadiness::of(found);
        let reasons = instance.summary().into_iter().collect();
        Some(Self { ready: instance.ready, reasons, instances: vec![instance] })
    }
}

impl InstanceReadiness {
    fn of(one: &InstanceStatus) -> Self {
        let ready = match &one.state {
            InstanceState::Running | InstanceState::Waiting { .. } | InstanceState::Draining => {
                true
            }
            InstanceState::Starting
            | InstanceState::BackingOff { .. }
            | InstanceState::Parked { .. }
            | InstanceState::Stopped { .. } => false,
        };
        let why = match &one.state {
            InstanceState::Running | InstanceState::Draining | InstanceState::Starting => None,
            InstanceState::Waiting { on, why } => Some(format!("waiting for {on}: {why}")),
            InstanceState::Parked { why, .. } => Some(why.clone()),
            InstanceState::BackingOff { .. } => {
                one.last_error.as_ref().map(|error| error.text.clone())
            }
            InstanceState::Stopped { by } => Some(format!("stopped by {}", by.as_str())),
        };
        let failed = one.reload_failed.as_ref().filter(|failed| why.as_ref() != Some(failed));
        let said = if one.reload_waits { "its new configuration waits" } else { "reload failed" };
        let failed = failed.map(|failed| format!("{said}: {failed}"));
        let held = one.gauges.hold_counts().filter(|_| one.state.is_up());
        let held = held.map(|reasons| format!("held: {reasons}"));
        let doubts = one.gauges.chain_warnings().filter(|_| one.state.is_up());
        let warnings =
            one.untold_warnings().map(|warning| format!("last warning: {}", warning.text));
        let reason: Vec<String> =
            why.into_iter().chain(failed).chain(held).chain(doubts).chain(warnings).collect();
        Self {
            instance: one.name.clone(),
            ready,
            state: one.state.word().to_owned(),
            since_ms: one.since_ms,
            reason: (!reason.is_empty()).then(|| reason.join("; ")),
            what_to_do: what_to_do(one),
        }
    }

    /// Its line among the reasons, if there is one.
    fn summary(&self) -> Option<String> {
        let Self { instance, state, .. } = self;
        match &self.reason {
            Some(reason) if reason.starts_with(state) => Some(format!("{instance}: {reason}")),
            Some(reason) => Some(format!("{instance}: {state}: {reason}")),
            None => (!self.ready).then(|| format!("{instance}: {state}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::status::{
            Gauges, HiddenRequests, ReloadStatus, StaleNode, StaleTag, UnansweredRequests,
            UnsentAnswers,
        },
        telemetry::errors::LastError,
    };

    fn instance(name: &str, state: InstanceState) -> InstanceStatus {
        InstanceStatus {
            name: name.to_owned(),
            file: None,
            state,
            since_ms: 1,
            reason_since_ms: None,
            generation: 1,
            restarts: 0,
            last_error: None,
            last_warnings: Vec::new(),
            reload_failed: None,
            reload_waits: false,
            changing: false,
            config_hash: None,
            chain_id: None,
            decryption: None,
            gateway: None,
            kms_core: None,
            gauges: Gauges::default(),
        }
    }

    fn status(instances: Vec<InstanceStatus>) -> Status {
        Status {
            version: "1".to_owned(),
            pid: 1,
            started_at_ms: 0,
            listen: None,
            config_dir: None,
            state_dir: None,
            reload: ReloadStatus::default(),
            instances,
        }
    }

    fn waiting() -> InstanceState {
        InstanceState::Waiting {
            on: "the KMS Core at core:1".to_owned(),
            why: "refused".to_owned(),
        }
    }

    #[test]
    fn what_should_run_and_is_down_is_not_ready() {
        let parked = InstanceState::Parked { why: "no such chain".to_owned(), retry_at_ms: None };
        for (state, ready, reason) in [
            (InstanceState::Running, true, None),
            (InstanceState::Draining, true, None),
            (waiting(), true, Some("a: waiting for the KMS Core at core:1: refused")),
            (InstanceState::Starting, false, Some("a: starting")),
            (parked, false, Some("a: parked: no such chain")),
            (InstanceState::BackingOff { until_ms: 9 }, false, Some("a: backing-off: it panicked")),
        ] {
            let mut one = instance("a", state);
            one.last_error = Some(LastError { at_ms: 1, text: "it panicked".to_owned() });
            let all =
                Readiness::of(&status(vec![instance("b", InstanceState::Running), one.clone()]));
            let reasons: Vec<String> = reason.into_iter().map(str::to_owned).collect();
            assert_eq!((all.ready, &all.reasons), (ready, &reasons), "{:?}", one.state);
            let alone = Readiness::set_instance(&status(vec![one.clone()]), "a").unwrap();
            assert_eq!((alone.ready, alone.reasons), (ready, reasons));
            assert_eq!(alone.instances[0].what_to_do, what_to_do(&one));
        }
    }

    #[test]
    fn a_warning_that_repeats_what_is_waited_for_is_told_once() {
        let told = |text: &str| LastError { at_ms: 1, text: text.to_owned() };
        let mut one = instance("a", waiting());
        one.last_warnings =
            vec![told("waiting for the Core: why=refused, times=3"), told("no funds")];
        assert_eq!(
            Readiness::of(&status(vec![one])).reasons,
            ["a: waiting for the KMS Core at core:1: refused; last warning: no funds"]
        );
    }

    #[test]
    fn what_was_stopped_on_purpose_is_missed_by_nobody_but_who_asks_for_it() {
        let stopped = instance("a", InstanceState::Stopped { by: StoppedBy::Operator });
        let all = status(vec![stopped, instance("b", InstanceState::Running)]);
        assert_eq!(Readiness::of(&all).reasons, Vec::<String>::new());
        assert!(Readiness::of(&all).ready);
        let alone = Readiness::set_instance(&all, "a").unwrap();
        assert_eq!(alone.reasons, ["a: stopped by operator"]);
        assert!(!alone.ready);
        assert_eq!(Readiness::set_instance(&all, "c"), None);
    }

    /// An operator who copied the example with its `enabled = false` has no running instance.
    #[test]
    fn where_every_file_is_disabled_nothing_is_ready() {
        let disabled = || instance("a", InstanceState::Stopped { by: StoppedBy::File });
        let alone = Readiness::of(&status(vec![disabled()]));
        assert!(!alone.ready && alone.reasons[0].contains("enabled = false"), "{alone:?}");
        let with = Readiness::of(&status(vec![disabled(), instance("b", InstanceState::Running)]));
        assert!(with.ready && with.reasons.is_empty(), "{with:?}");
    }

    #[test]
    fn without_a_configuration_nothing_is_ready() {
        let mut none = status(Vec::new());
        none.reload.problems = vec!["the directory is gone".to_owned()];
        let readiness = Readiness::of(&none);
        assert!(!readiness.ready);
        assert_eq!(readiness.reasons, [NO_CONFIGURATION, "the directory is gone"]);
    }

    #[test]
    fn what_cannot_be_applied_while_the_old_runs_is_a_reason_to_look() {
        let mut one = instance("a", InstanceState::Running);
        one.reload_failed = Some("bad TOML".to_owned());
        let mut all = status(vec![one]);
        all.reload.problems = vec!["a: bad TOML".to_owned()];
        let readiness = Readiness::of(&all);
        assert!(readiness.ready);
        assert_eq!(readiness.reasons, ["a: running: reload failed: bad TOML"]);
        // A node that stands still is waited for and reported.
        all.reload.problems.clear();
        all.instances[0].reload_failed = None;
        all.instances[0].gauges.stale.push(StaleNode {
            host: "node:8545".to_owned(),
            head: 7,
            since_ms: 0,
            others: None,
        });
        let readiness = Readiness::of(&all);
        let [reason] = &readiness.reasons[..] else { panic!("{readiness:?}") };
        assert!(readiness.ready && reason.contains("node:8545 has shown no new block"), "{reason}");
    }

    #[test]
    fn a0_c0_what_is_hidden_or_answered_by_others_alone_is_a_reason_to_look() {
        let mut one = instance("a", InstanceState::Running);
        one.gauges.hidden.push(HiddenRequests {
            requests: 2,
            first: "0x3".to_owned(),
            last: "0x4".to_owned(),
            from_block: 40,
            to_block: 41,
            since_ms: 0,
        });
        let (requests, id) = (1, "0x3".to_owned());
        one.gauges.unanswered = Some(UnansweredRequests { requests, id, block: 42, since_ms: 0 });
        let readiness = Readiness::of(&status(vec![one]));
        let [reason] = &readiness.reasons[..] else { panic!("{readiness:?}") };
        let hidden = "2 requests are hidden (0x3 to 0x4) since";
        assert!(readiness.ready && reason.contains(hidden), "{reason}");
        assert!(
            reason.contains("other KMS nodes have answered 1 request that this node has not"),
            "{reason}"
        );
        assert_eq!(readiness.instances[0].what_to_do.len(), 2);
    }

    #[test]
    fn a8_a_tag_that_stands_still_is_a_reason_to_look() {
        let mut one = instance("a", InstanceState::Running);
        let (tag, at) = ("finalized".to_owned(), Some(7));
        one.gauges.still_tag = Some(StaleTag { tag, at, since_ms: 0 });
        let readiness = Readiness::of(&status(vec![one.clone()]));
        let [reason] = &readiness.reasons[..] else { panic!("{readiness:?}") };
        assert!(readiness.ready && reason.contains("finalized stands at block 7"), "{reason}");
        assert!(what_to_do(&one)[0].contains("ask the node's operator"));
    }

    #[test]
    fn a9_answers_that_are_not_sent_for_long_are_a_reason_to_look() {
        let mut one = instance("a", InstanceState::Running);
        one.gauges.unsent = Some(UnsentAnswers { answers: 80, since_ms: 0 });
        let readiness = Readiness::of(&status(vec![one.clone()]));
        let [reason] = &readiness.reasons[..] else { panic!("{readiness:?}") };
        assert!(readiness.ready && reason.contains("80 answers wait"), "{reason}");
        assert!(what_to_do(&one)[0].contains("80 answers wait"));
    }

    #[test]
    fn d6_a_good_file_is_not_to_be_mended_and_every_line_says_what_it_is_about() {
        let state =
            InstanceState::Waiting { on: "the node".to_owned(), why: "no answer".to_owned() };
        let mut one = instance("a", state);
        one.reload_failed = Some("no answer; the previous configuration continues".to_owned());
        for (waits, words) in
            [(true, "it is applied when its nodes and its Core answer"), (false, "fix")]
        {
            one.reload_waits = waits;
            let to_do = what_to_do(&one);
            assert_eq!(to_do.len(), 2, "{to_do:?}");
            assert!(to_do[0].starts_with("waiting: "), "{to_do:?}");
            let (about, advice) = to_do[1].split_once(": ").unwrap();
            assert!(about.ends_with("file") && advice.starts_with(words), "{to_do:?}");
            let readiness = Readiness::of(&status(vec![one.clone()]));
            assert_eq!(readiness.reasons[0].contains("reload failed"), !waits, "{readiness:?}");
        }
    }

    #[test]
    fn a_bad_file_that_never_ran_says_so_once() {
        let mut one = instance("a", InstanceState::Running);
        one.reload_failed = Some("bad TOML".to_owned());
        let mut all = status(vec![one]);
        all.reload.problems = vec!["a: bad TOML".to_owned()];
        let parked = InstanceState::Parked { why: "bad TOML".to_owned(), retry_at_ms: None };
        all.instances[0].state = parked;
        assert_eq!(Readiness::of(&all).reasons, ["a: parked: bad TOML"]);
    }
}
