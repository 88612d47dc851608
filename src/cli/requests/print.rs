//! Requests, their histories and their transactions as text.

use crate::{
    admin::requests::{RequestDetail, RequestOverview, TransactionSummary},
    cli::text::{ago, pairs, printable, span, table, utc, when},
    domain::HoldReason,
};

/// The most characters of a reason in a table on a terminal.
pub(super) const REASON_WIDTH: usize = 70;

/// `longest`: the most characters of a reason.
pub(super) fn overview(found: &[RequestOverview], now_ms: u64, longest: usize) -> String {
    let header = ["ID", "KIND", "STAGE", "SINCE", "AGE", "ATTEMPTS", "BLOCK", "WHY"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(found.iter().map(|line| {
        [
            line.id.clone(),
            line.kind.clone(),
            stage(line),
            ago(now_ms, line.since_ms()),
            span(now_ms.saturating_sub(line.arrived_at_ms)),
            line.attempts.to_string(),
            line.chain.map_or(String::new(), |chain| format!("{chain}:")) + &line.block.to_string(),
            shorten(&why(line), longest),
        ]
    }));
    table(&rows)
}

/// A held request is shown as held, a settled one with its outcome.
pub(super) fn stage(line: &RequestOverview) -> String {
    match (&line.outcome, &line.held) {
        (Some(outcome), _) => outcome.clone(),
        (None, Some(_)) => format!("{} held", line.stage),
        (None, None) => line.stage.clone(),
    }
}

fn why(line: &RequestOverview) -> String {
    if let Some(held) = &line.held {
        return format!("{}: {}", held.reason, held.detail);
    }
    // What failed on the way to an outcome is over.
    let open = || line.waits.as_ref().or(line.last_error.as_ref());
    let detail = if line.outcome.is_some() { line.outcome_detail.as_ref() } else { open() };
    detail.cloned().unwrap_or_default()
}

/// On one line, shortened.
fn shorten(text: &str, longest: usize) -> String {
    let text: String = printable(text).replace('\n', " ");
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

pub(super) fn story(story: &RequestDetail, now_ms: u64) -> String {
    let RequestDetail {
        overview: line,
        generation,
        deployment,
        event,
        kms_core,
        approved,
        access,
        worked_ms,
        accepted,
        transactions,
    } = story;
    let chain = line.chain.map_or(String::new(), |chain| format!("chain {chain}, "));
    let place = format!(
        "{chain}block {} ({})\ntransaction {}, log {}",
        event.block, event.block_hash, event.transaction, event.log_index
    );
    let format = generation.as_ref().map_or_else(
        || "not readable by this version".to_owned(),
        |generation| format!("that of contracts {generation}"),
    );
    let mut lines = vec![
        ("kind", line.kind.clone()),
        ("event format", format),
        ("content", line.content.clone()),
        ("event", place),
        ("arrived", when(now_ms, line.arrived_at_ms)),
    ];
    lines
        .extend(deployment.iter().map(|contracts| ("judged by", format!("contracts {contracts}"))));
    let passed = |at: Option<u64>| {
        let at = at?;
        let later = span(at.saturating_sub(line.arrived_at_ms));
        Some(format!("{} ({later} after it arrived)", utc(at)))
    };
    let times = [
        ("asked", line.asked_at_ms),
        ("answered", line.answered_at_ms),
        ("submitted", line.submitted_at_ms),
        ("settled", line.settled_at_ms),
    ];
    lines.extend(times.into_iter().filter_map(|(name, at)| Some((name, passed(at)?))));
    lines.extend(kms_core.iter().map(|core| ("KMS Core", format!("{core} was asked"))));
    lines.extend(approved.iter().map(|approved| {
        ("approved", format!("approved by {}, {}", approved.by, when(now_ms, approved.at_ms)))
    }));
    if !access.is_empty() {
        lines.push(("access", access.join("\n")));
    }
    if let Some(outcome) = &line.outcome {
        let detail = line.outcome_detail.as_ref().map(|why| format!(": {why}"));
        lines.push(("outcome", outcome.clone() + &detail.unwrap_or_default()));
    }
    if let Some(accepted) = accepted {
        let text = format!("{} in block {}", accepted.transaction, accepted.block);
        lines.push(("accepted", text));
    }
    if let Some(held) = &line.held {
        let since = when(now_ms, held.since_ms);
        lines.push(("held", format!("{}: {}\nsince {since}", held.reason, held.detail)));
        let remedy = HoldReason::remedy_of(&held.reason);
        let more = format!("more: `kms-connector explain {}`", held.reason);
        lines.push(("what to do", format!("{remedy}\n{more}")));
    }
    lines.extend(line.waits.iter().map(|what| ("waits", what.clone())));
    lines.push(("attempts", format!("{} failed", line.attempts)));
    let error = if line.outcome.is_some() { "earlier error" } else { "last error" };
    lines.extend(line.last_error.iter().map(|text| (error, text.clone())));
    lines.push(("worked", format!("{} (counts towards request_expiry_secs)", span(*worked_ms))));
    let sent = transactions.iter().map(transaction).collect::<Vec<_>>().join("\n");
    lines.push(("transactions", if sent.is_empty() { "none".to_owned() } else { sent }));
    format!("{}: {}\n{}", line.id, stage(line), pairs(&lines))
}

fn transaction(known: &TransactionSummary) -> String {
    let became = match (known.mined_in_block, &known.given_up) {
        (Some(block), _) => format!("mined in block {block}"),
        (None, Some(why)) => format!("given up ({why})"),
        (None, None) => "not known to be mined".to_owned(),
    };
    let TransactionSummary { hash, nonce, signed_at_ms, .. } = known;
    format!("{hash}, nonce {nonce}, signed {}, {became}", utc(*signed_at_ms))
}
