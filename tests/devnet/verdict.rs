//! What became of each request at each node: the chain decides, and the journal must say the same.

use alloy::primitives::U256;
use world::{
    Result,
    deployment::{Answer, Deployment},
    journal::Entry,
    request::{Issued, Kind},
};

use crate::network::Node;

/// How one request went at one node.
pub struct Verdict {
    id: U256,
    kind: Kind,
    node: String,
    entry: Option<Entry>,
    answer: Option<Answer>,
    /// What is wrong, if anything is.
    problem: Option<String>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.problem.is_none()
    }

    /// The chain decides; the journal must say the same.
    pub async fn of(
        request: &Issued,
        node: &Node,
        entry: Option<&Entry>,
        answers: &[Answer],
        deployment: &Deployment,
    ) -> Result<Self> {
        let (answer, mut problem) = node.judge(request, answers);
        let accepted = deployment.accepted_by(request.id, node.signer_address).await?;
        if problem.is_none() && accepted != 1 {
            problem = Some(format!("the contract counts {accepted} answers"));
        }
        if problem.is_none() && !deployment.is_done(request.id).await? {
            problem = Some("the contract sees no consensus".into());
        }
        if problem.is_none() {
            problem = match entry {
                None => Some("not in the journal".into()),
                Some(entry) if entry.outcome.as_deref() != Some("accepted") => {
                    Some(format!("the journal says {}", entry.outcome.as_deref().unwrap_or("open")))
                }
                Some(entry) if entry.transaction != answer.map(|a| a.transaction) => {
                    Some("the journal names another transaction".into())
                }
                Some(_) => None,
            };
        } else {
            let why = entry.map_or_else(|| "not in the journal".into(), standing);
            problem = problem.map(|problem| format!("{problem}; {why}"));
        }
        let (entry, answer) = (entry.cloned(), answer.cloned());
        let node = node.name.clone();
        Ok(Self { id: request.id, kind: request.kind, node, entry, answer, problem })
    }

    fn result(&self) -> String {
        match (&self.problem, self.kind) {
            (Some(problem), _) => format!("WRONG: {problem}"),
            (None, Kind::Public) => "value matches".into(),
            (None, Kind::User) => "share matches".into(),
        }
    }
}

/// Where the journal has a request, and why it is not further.
fn standing(entry: &Entry) -> String {
    match (&entry.outcome, &entry.held, &entry.last_error) {
        (Some(outcome), _, _) => format!("the journal says {outcome}"),
        (None, Some((reason, detail)), _) => format!("{}, held, {reason}: {detail}", entry.stage),
        (None, None, Some(error)) => format!("{}, last error: {error}", entry.stage),
        (None, None, None) => format!("{} so far", entry.stage),
    }
}

/// Stage times count from the arrival.
pub fn table(verdicts: &[Verdict]) -> String {
    let header = [
        "id",
        "kind",
        "node",
        "arrived (UTC)",
        "asked",
        "answered",
        "settled",
        "result",
        "transaction",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for verdict in verdicts {
        let entry = verdict.entry.as_ref();
        let arrived = entry.map(|entry| entry.arrived_at);
        let after = |at: fn(&Entry) -> Option<i64>| {
            let passed = entry.and_then(|entry| Some(at(entry)? - arrived?));
            passed.map_or_else(|| "-".into(), |millis| format!("+{millis} ms"))
        };
        let transaction = verdict.answer.as_ref().map(|answer| answer.transaction.to_string());
        rows.push([
            short(verdict.id),
            verdict.kind.as_str().into(),
            verdict.node.clone(),
            arrived.map_or_else(|| "-".into(), time_of_day),
            after(|entry| entry.asked_at),
            after(|entry| entry.answered_at),
            after(|entry| entry.settled_at),
            verdict.result(),
            transaction.unwrap_or_else(|| "-".into()),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 9] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            // Times end under each other.
            if (4..=6).contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub fn totals(verdicts: &[Verdict], failed_transactions: usize) -> String {
    let good = verdicts.iter().filter(|verdict| verdict.problem.is_none()).count();
    let mut millis: Vec<i64> = verdicts
        .iter()
        .filter_map(|verdict| {
            let entry = verdict.entry.as_ref()?;
            Some(entry.settled_at? - entry.arrived_at)
        })
        .collect();
    millis.sort_unstable();
    let times = match (millis.get(millis.len() / 2), millis.last()) {
        (Some(median), Some(slowest)) => {
            format!(" Arrival to settled: median {median} ms, slowest {slowest} ms.")
        }
        _ => String::new(),
    };
    let of = verdicts.len();
    format!(
        "{good} of {of} answers are there once, right, and part of a consensus on chain.{times} \
         Failed transactions: {failed_transactions}."
    )
}

/// The id as the connector's log writes it, without its middle: a tag, zeros and a counter.
fn short(id: U256) -> String {
    let hex = format!("{id:#066x}");
    if hex.len() <= 12 { hex } else { format!("{}..{}", &hex[..4], &hex[hex.len() - 4..]) }
}

fn time_of_day(unix_millis: i64) -> String {
    let (seconds, millis) = (unix_millis / 1000 % 86_400, unix_millis % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}
