//! One measurement, and how many of them look together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A median and a 99th percentile.
pub type Spread = [f64; 2];

/// One measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    pub name: String,
    pub program: String,
    /// Answers that came, of how many.
    pub answers: usize,
    pub of: usize,
    pub per_second: Option<f64>,
    /// From the request's block to the answer's, in milliseconds.
    pub latency_ms: Option<Spread>,
    /// From the head to the Core's ask, from its answer to the broadcast, and both together.
    pub added_ms: BTreeMap<String, Spread>,
    /// What the rooms took, by the program's own metrics.
    pub rooms_ms: BTreeMap<String, Spread>,
    /// Processor time of the program for one answer, user and system.
    pub cpu_ms: Option<f64>,
    pub peak_mib: Option<f64>,
    /// Calls of the node for one answer.
    pub rpc_calls: Option<f64>,
    /// The same by method, of a whole run.
    pub rpc_by_method: BTreeMap<String, u64>,
    pub gets: Option<f64>,
    pub polls: Option<f64>,
    /// Commits of the journal for one answer: each is one fsync of its log.
    pub commits: Option<f64>,
    /// Batches of access checks at the host chain for one answer, and those of repeated checks.
    pub host_batches: Option<f64>,
    pub host_again: Option<f64>,
    /// Written to disk for one answer, in KiB.
    pub written_kib: Option<f64>,
    /// Whatever else there is to say.
    pub note: String,
}

/// All measurements of one sitting.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sitting {
    pub machine: String,
    pub rows: Vec<Row>,
}

/// The processor, and what there is of it and of memory.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let after = |text: &str, key: &str| -> String {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kib: u64 = after(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    format!("{cores} cores ({}), {} GiB", after(&cpu, "model name"), kib >> 20)
}

/// The row in which the gateway checks access.
pub const WITHOUT_CHECK: &str = "access of G10";

const HEAD: &str = "| run | program | answers | answers/s | p50 / p99 ms | CPU ms | peak MiB | RPC | GETs | polls | \
                    commits | host batches | KiB written |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// The table of all measurements, what is counted being counted for one answer; then what has no
/// column.
pub fn table(rows: &[Row]) -> String {
    let lines = rows.iter().map(line);
    let more = rows.iter().flat_map(remarks);
    std::iter::once(HEAD.to_owned()).chain(lines).chain(more).collect::<Vec<_>>().join("\n")
}

/// A row of the table.
pub fn line(row: &Row) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let latency = row.latency_ms.map_or_else(|| "-".into(), |[a, b]| format!("{a:.0} / {b:.0}"));
    let answers = if row.answers == row.of {
        row.answers.to_string()
    } else {
        format!("{} of {}", row.answers, row.of)
    };
    let columns = [
        row.name.clone(),
        row.program.clone(),
        answers,
        number(row.per_second, 0),
        latency,
        number(row.cpu_ms, 2),
        number(row.peak_mib, 0),
        number(row.rpc_calls, 2),
        number(row.gets, 2),
        number(row.polls, 2),
        number(row.commits, 3),
        host_batches(row),
        number(row.written_kib, 1),
    ];
    format!("| {} |", columns.join(" | "))
}

/// First checks, and in brackets repeated ones.
fn host_batches(row: &Row) -> String {
    match (row.host_batches, row.host_again) {
        (Some(first), Some(again)) => format!("{first:.2} (+{again:.2})"),
        _ => "-".to_owned(),
    }
}

/// What a row says beside its numbers.
pub fn remarks(row: &Row) -> Vec<String> {
    let whose = format!("{} ({})", row.name, row.program);
    let mut remarks = Vec::new();
    for (what, spreads) in [("added", &row.added_ms), ("rooms", &row.rooms_ms)] {
        let each = |(name, [p50, p99]): (&String, &Spread)| format!("{name} {p50:.1} / {p99:.1}");
        let all: Vec<String> = spreads.iter().map(each).collect();
        if !all.is_empty() {
            remarks.push(format!("{whose}, {what}, ms: {}", all.join(", ")));
        }
    }
    if !row.note.is_empty() {
        remarks.push(format!("{whose}: {}", row.note));
    }
    remarks
}

/// What the connector takes for an answer above what it takes where the gateway checks access.
pub fn costs_of_access(rows: &[Row]) -> Vec<String> {
    let Some(without) = rows.iter().find(|row| row.name.starts_with(WITHOUT_CHECK)) else {
        return Vec::new();
    };
    let checked = rows.iter().filter(|row| row.host_batches.is_some());
    let cost = |row: &Row| {
        let more = row.cpu_ms? - without.cpu_ms?;
        Some(format!("{}: {more:+.2} ms CPU for an answer against {}", row.name, without.name))
    };
    checked.filter_map(cost).collect()
}

/// What is new against what was: 1.00 is the same.
pub fn compared(old: &Sitting, new: &Sitting) -> String {
    const HEAD: &str =
        "| run | program | answers/s | p50 | p99 | CPU | peak |\n|---|---|---|---|---|---|---|";
    let mut lines = vec![HEAD.to_owned()];
    for row in &new.rows {
        let same = |other: &&Row| other.name == row.name && other.program == row.program;
        let Some(was) = old.rows.iter().find(same) else { continue };
        let ratio = |now: Option<f64>, was: Option<f64>| match (now, was) {
            (Some(now), Some(was)) if was > 0.0 => format!("{:.2}", now / was),
            _ => "-".to_owned(),
        };
        let of = |spread: Option<Spread>, index: usize| spread.map(|spread| spread[index]);
        let p50 = ratio(of(row.latency_ms, 0), of(was.latency_ms, 0));
        let p99 = ratio(of(row.latency_ms, 1), of(was.latency_ms, 1));
        let pace = ratio(row.per_second, was.per_second);
        let (cpu, peak) = (ratio(row.cpu_ms, was.cpu_ms), ratio(row.peak_mib, was.peak_mib));
        let (name, program) = (&row.name, &row.program);
        lines.push(format!("| {name} | {program} | {pace} | {p50} | {p99} | {cpu} | {peak} |"));
    }
    lines.join("\n")
}
