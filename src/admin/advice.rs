//! What an operator should do about an instance: the same text for the command line, the page and
//! JSON.

use super::status::{InstanceState, InstanceStatus, StoppedBy};
use crate::domain::HoldReason;

/// One entry per action; empty if none is needed. Where several are possible, each names its subject.
#[must_use]
pub fn what_to_do(instance: &InstanceStatus) -> Vec<String> {
    let InstanceStatus { name, state, .. } = instance;
    let mut to_do = Vec::new();
    match state {
        InstanceState::Running | InstanceState::Starting | InstanceState::Draining => {}
        InstanceState::Waiting { .. } => {
            to_do.push(format!(
                "waiting: nothing if the cause is known, the instance continues by itself; else \
                 `kms-connector check --instance {name}` (under `start`: -c FILE) tests what it needs"
            ));
        }
        InstanceState::BackingOff { .. } => {
            to_do.push(format!("`kms-connector restart {name}` retries at once"));
        }
        InstanceState::Parked { retry_at_ms: Some(_), .. } => {
            to_do.push(format!(
                "fix the cause above; `kms-connector restart {name}` retries at \
                                once"
            ));
        }
        InstanceState::Parked { retry_at_ms: None, .. } => {
            to_do.push("fix the cause above; the file is watched and applied by itself".to_owned());
        }
        // Under `start` its file is not watched.
        InstanceState::Stopped { by: StoppedBy::Operator } => {
            to_do.push(format!("if it should run: `kms-connector restart {name}`"));
        }
        InstanceState::Stopped { by: StoppedBy::File } => {
            to_do.push("if it should run: remove that line from its file".to_owned());
        }
    }
    if state.is_up() {
        for reason in instance.gauges.hold_reasons() {
            let told = format!("{reason}: {}", HoldReason::remedy_of(reason));
            if !to_do.contains(&told) {
                to_do.push(told);
            }
        }
        to_do.extend(instance.gauges.chain_warnings());
        to_do.extend(instance.gauges.read_once.iter().map(ToString::to_string));
        to_do.extend(instance.gauges.other_contracts.iter().map(ToString::to_string));
    }
    if instance.reload_failed.is_some() && state.is_up() {
        to_do.push(if instance.reload_waits {
            format!(
                "new file: it is applied when its nodes and its Core answer; correct its addresses \
                 if they are wrong; `kms-connector reload {name}` retries at once"
            )
        } else {
            "file: fix it; until then the instance keeps running as before".to_owned()
        });
    }
    to_do
}
