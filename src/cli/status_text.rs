//! A supervisor's status as text for operators. Pure: a status and the time in, text out.
//!
//! First the process and its files, then one line per instance, then a block for each instance that
//! is not simply running: what it waits for or why it is down, until when, and what to do.

use super::text::{Colour, ago, due, painted, pairs, printable, short, span, utc, when};
use crate::{
    admin::{
        advice::what_to_do,
        status::{
            CatchUp, Gauges, HostChainStatus, InstanceState, InstanceStatus, ReloadStatus, Status,
        },
    },
    telemetry::errors::LastError,
};

/// How a report is rendered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) now_ms: u64,
    pub(super) colours: bool,
}

type Lines = Vec<(&'static str, String)>;

/// The status of all instances.
pub(super) fn overview(status: &Status, style: Style) -> String {
    let mut text = process_block(status, style.now_ms) + "\n";
    if status.instances.is_empty() {
        return text + "no instances\n";
    }
    text += &table(&status.instances, style);
    for instance in &status.instances {
        let lines = notes(instance, style.now_ms);
        if !lines.is_empty() {
            text.extend(["\n", &heading(instance, style), "\n", &pairs(&lines)]);
        }
    }
    text
}

/// Everything known about one instance.
pub(super) fn detail(instance: &InstanceStatus, style: Style) -> String {
    let mut lines = facts(instance, style.now_ms);
    // The facts already contain the time of its state, but not that of its reason.
    let is_since_told = instance.reason_since_ms.is_none();
    let more = notes(instance, style.now_ms).into_iter();
    lines.extend(more.filter(|(key, _)| !(is_since_told && *key == SINCE)));
    let told = lines.iter().any(|(key, _)| *key == LAST_ERROR);
    if !told && let Some(error) = last_error(instance, style.now_ms) {
        lines.push(error);
    }
    format!("{}\n{}", heading(instance, style), pairs(&lines))
}

/// Returns whether no operator needs to act. An outage outside ends by itself, and what is stopped
/// is stopped on purpose.
pub(super) fn is_well(status: &Status) -> bool {
    status.reload.problems.is_empty() && status.instances.iter().all(instance_is_well)
}

/// [`is_well`] for one instance.
pub(super) fn instance_is_well(instance: &InstanceStatus) -> bool {
    !instance.state.is_down() && instance.reload_failed.is_none()
}

fn process_block(status: &Status, now_ms: u64) -> String {
    let Status { version, pid, started_at_ms, listen, config_dir, reload, instances, .. } = status;
    let files = config_dir.as_ref().map_or_else(
        || "one configuration, read again only on request".to_owned(),
        |directory| directory.display().to_string(),
    );
    let up =
        format!("{} (since {})", span(now_ms.saturating_sub(*started_at_ms)), utc(*started_at_ms));
    let mut lines =
        vec![("up", up), ("files", files), ("last change", last_change(reload, now_ms))];
    lines.extend(listen.iter().map(|address| ("page", format!("http://{address}/"))));
    let told_below = |problem: &&String| {
        instances.iter().filter_map(apply_problem).any(|why| problem.ends_with(why))
    };
    let elsewhere = reload.problems.iter().filter(|problem| !told_below(problem));
    lines.extend(elsewhere.map(|problem| ("problem", problem.clone())));
    format!("kms-connector {}, pid {pid}\n{}", printable(version), pairs(&lines))
}

fn last_change(reload: &ReloadStatus, now_ms: u64) -> String {
    let ReloadStatus { at_ms, succeeded_at_ms, problems } = reload;
    if *at_ms == 0 && problems.is_empty() {
        return "none yet".to_owned();
    }
    let count = match problems.len() {
        0 => return format!("{}, all in order", when(now_ms, *at_ms)),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    let before = succeeded_at_ms.map_or_else(
        || "never all in order".to_owned(),
        |at| format!("all in order {}", when(now_ms, at)),
    );
    format!("{}, {count}; {before}", when(now_ms, *at_ms))
}

fn table(instances: &[InstanceStatus], style: Style) -> String {
    let header = ["NAME", "STATE", "SINCE", "GEN", "RESTARTS", "LAG", "IN-HAND", "HELD", "WALLET"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(instances.iter().map(|instance| row(instance, style.now_ms)));
    painted(&rows, |row, column| {
        let instance = instances.get(row.checked_sub(1)?)?;
        (style.colours && column == 1).then(|| colour(&instance.state))
    })
}

fn row(instance: &InstanceStatus, now_ms: u64) -> [String; 9] {
    let gauges = &instance.gauges;
    let if_up = |number: Option<u64>| {
        number.filter(|_| instance.state.is_up()).map_or_else(|| "-".to_owned(), |n| n.to_string())
    };
    [
        short(&instance.name),
        instance.state.word().to_owned(),
        ago(now_ms, instance.since_ms),
        instance.generation.to_string(),
        instance.restarts.to_string(),
        if_up(gauges.lag()),
        if_up(Some(gauges.in_hand)),
        if_up(Some(gauges.held)),
        gauges.wallet.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

fn colour(state: &InstanceState) -> Colour {
    match state {
        InstanceState::Running => Colour::Green,
        InstanceState::Starting | InstanceState::Waiting { .. } | InstanceState::Draining => {
            Colour::Yellow
        }
        InstanceState::BackingOff { .. } | InstanceState::Parked { .. } => Colour::Red,
        InstanceState::Stopped { .. } => Colour::Dim,
    }
}

fn heading(instance: &InstanceStatus, style: Style) -> String {
    let word = instance.state.word();
    let word = if style.colours { colour(&instance.state).paint(word) } else { word.to_owned() };
    format!("{}: {word}", instance.name)
}

/// What is unusual about an instance; empty if it simply runs.
fn notes(instance: &InstanceStatus, now_ms: u64) -> Lines {
    let InstanceStatus { name, state, .. } = instance;
    let mut lines = Lines::new();
    let since = when(now_ms, instance.this_since_ms());
    match state {
        InstanceState::Running => {}
        InstanceState::Starting => lines.push((SINCE, since)),
        InstanceState::Draining => {
            lines.push((SINCE, since));
            lines.push(("finishing", finishing(&instance.gauges)));
        }
        InstanceState::Waiting { on, why } => {
            lines.push(("for", on.clone()));
            lines.push((SINCE, since));
            lines.push(("why", why.clone()));
        }
        InstanceState::BackingOff { until_ms } => lines.push(("next try", due(now_ms, *until_ms))),
        InstanceState::Parked { why, retry_at_ms } => {
            lines.push((SINCE, since));
            lines.push(("why", why.clone()));
            let next = retry_at_ms.map_or_else(
                || "when its file changes".to_owned(),
                |at| format!("{}, or when its file changes", due(now_ms, at)),
            );
            lines.push(("next try", next));
        }
        InstanceState::Stopped { by } => {
            lines.push(("by", by.as_str().to_owned()));
            lines.push((SINCE, since));
        }
    }
    let told = parked_reason(state);
    if !state.is_up()
        && let Some(error) = last_error(instance, now_ms)
    {
        lines.push(error);
    }
    let warnings: Vec<String> = instance
        .untold_warnings()
        .map(|LastError { at_ms, text }| format!("{text}\n{}", when(now_ms, *at_ms)))
        .collect();
    if !warnings.is_empty() {
        lines.push(("last warning", warnings.join("\n")));
    }
    if let Some(why) = instance.reload_failed.as_ref().filter(|why| told != Some(why)) {
        let label = if instance.reload_waits { "new file waits" } else { "reload failed" };
        lines.push((label, why.clone()));
    }
    if instance.changing && *state != InstanceState::Starting {
        lines.push(("changing", "its new configuration is being checked or started".to_owned()));
    }
    if let Some(catching_up) = &instance.gauges.catching_up {
        lines.push(("catching up", progress(catching_up)));
    }
    if let Some(observed) = instance.gauges.observed {
        let text = format!("{observed} requests since it started; nothing is asked or sent");
        lines.push(("observed", text));
    }
    if state.is_up()
        && let Some(waits) = &instance.gauges.waits
    {
        lines.push(("longest wait", waits.to_string()));
    }
    let key_operations: Vec<String> = instance.gauges.all_key_operations().collect();
    if state.is_up() && !key_operations.is_empty() {
        lines.push(("key operations", key_operations.join("\n")));
    }
    let held = instance.gauges.hold_counts();
    let held = held.or((instance.gauges.held > 0).then(|| instance.gauges.held.to_string()));
    if let Some(held) = held.filter(|_| state.is_up()) {
        let each = format!("`kms-connector requests --held --instance {name}` shows each");
        lines.push(("held", format!("{held}; {each}")));
    }
    let to_do = what_to_do(instance);
    if !to_do.is_empty() {
        lines.push(("what to do", to_do.join("\n")));
    }
    lines
}

/// What a draining instance still has, and what that may take: of both chains together.
fn finishing(gauges: &Gauges) -> String {
    let own = format!("{} requests in hand", gauges.in_hand);
    let others = gauges.chains.iter().filter(|chain| chain.gauges.in_hand > 0);
    let each: Vec<String> = others
        .map(|chain| format!("{} on chain {}", chain.gauges.in_hand, chain.chain_id))
        .collect();
    if each.is_empty() {
        return own;
    }
    let each = each.join(", ");
    format!(
        "{own}, {each}: all chains share one time limit, and a transaction on one may use all of it"
    )
}

/// Why its file does not run, as its block shows it.
fn apply_problem(instance: &InstanceStatus) -> Option<&String> {
    instance.reload_failed.as_ref().or(parked_reason(&instance.state))
}

fn parked_reason(state: &InstanceState) -> Option<&String> {
    match state {
        InstanceState::Parked { why, .. } => Some(why),
        InstanceState::Starting
        | InstanceState::Waiting { .. }
        | InstanceState::Running
        | InstanceState::Draining
        | InstanceState::BackingOff { .. }
        | InstanceState::Stopped { .. } => None,
    }
}

const SINCE: &str = "since";
const LAST_ERROR: &str = "last error";

fn last_error(instance: &InstanceStatus, now_ms: u64) -> Option<(&'static str, String)> {
    let error = instance.last_error.as_ref().filter(|one| !instance.state.is_told_by(&one.text))?;
    Some((LAST_ERROR, format!("{}\n{}", error.text, when(now_ms, error.at_ms))))
}

fn progress(catching_up: &CatchUp) -> String {
    let CatchUp { done, to_do, blocks_per_second, seconds_left } = catching_up;
    let left = seconds_left.map_or_else(
        || "time left not known yet".to_owned(),
        |seconds| format!("about {} left", span(seconds.saturating_mul(1_000))),
    );
    format!("{done} blocks done, {to_do} to do, {blocks_per_second:.1} per second, {left}")
}

fn facts(instance: &InstanceStatus, now_ms: u64) -> Lines {
    let gauges = &instance.gauges;
    let text = |value: Option<&String>| value.cloned().unwrap_or_else(|| "-".to_owned());
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let file = instance.file.as_ref().map(|file| file.display().to_string());
    let mut lines = vec![
        ("state since", when(now_ms, instance.since_ms)),
        ("file", file.unwrap_or_else(|| "none: the environment alone".to_owned())),
        ("config hash", text(instance.config_hash.as_ref())),
        ("generation", instance.generation.to_string()),
        ("restarts", instance.restarts.to_string()),
        ("chain id", number(instance.chain_id)),
        ("decryption", text(instance.decryption.as_ref())),
        ("contracts", text(gauges.contracts.as_ref())),
        ("gateway", text(instance.gateway.as_ref())),
        ("kms core", text(instance.kms_core.as_ref())),
        ("wallet", text(gauges.wallet.as_ref())),
        ("head block", number(gauges.head)),
        ("read up to", number(gauges.cursor)),
        ("blocks behind", number(gauges.lag())),
        ("in hand", gauges.in_hand.to_string()),
    ];
    if !gauges.beside.is_empty() {
        let beside: Vec<String> = gauges.beside.iter().map(ToString::to_string).collect();
        lines.push(("key contracts", printable(&beside.join("\n"))));
    }
    if !gauges.chains.is_empty() {
        let chains: Vec<String> = gauges.chains.iter().map(ToString::to_string).collect();
        lines.push(("second chain", printable(&chains.join("\n"))));
    }
    if !gauges.host_chains.is_empty() {
        let chains: Vec<String> = gauges.host_chains.iter().map(host_chain).collect();
        lines.push(("host chains", chains.join("\n")));
    }
    lines
}

/// One host chain: its newest block, its contract, its nodes.
fn host_chain(chain: &HostChainStatus) -> String {
    let HostChainStatus { chain_id, hosts, contract, version, head, head_age_secs, .. } = chain;
    let block = match (head, head_age_secs) {
        (Some(head), Some(age)) => format!("block {head}, {} old", span(age.saturating_mul(1_000))),
        _ => "no block seen".to_owned(),
    };
    let version = version.as_deref().unwrap_or("the contract");
    let silent = if chain.is_reachable { "" } else { ", no answer" };
    printable(&format!("{chain_id}: {block}{silent}; {version} at {contract}, by {hosts}"))
}

#[cfg(test)]
mod tests;
