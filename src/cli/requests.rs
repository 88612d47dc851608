//! `requests` and `backfill`: asks a running instance over the control socket, or reads the journal
//! of one that does not run.

mod source;
mod print;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use tokio::time::sleep;

pub(super) use self::source::RequestsTarget;
use self::{
    print::{REASON_WIDTH, overview, stage, story},
    source::{AnswerSource, LiveAnswer, UNEXPECTED_ANSWER, ask_running},
};
use super::{
    output::{ExitStatus, print, print_error, write_stdout},
    text::printable,
};
use crate::{
    admin::{
        requests::{
            self, Backfilled, Inquiry, InquiryAnswer, RequestOverview, Retried, RetryVerdict,
        },
        status::InstanceState,
    },
    time::clock,
};

/// How long a request that ended without an answer is listed by default.
const RECENT: Duration = Duration::from_hours(24);
/// How long and how often the result of a retry is watched.
const RETRY_WATCH: Duration = Duration::from_secs(5);
const RETRY_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The requests to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListFilter {
    /// Unfinished, or recently ended without an answer.
    Open,
    Held,
    Refused,
    All,
}

impl ListFilter {
    /// Unfinished requests are listed in the order of processing, ended ones newest first.
    fn is_newest_first(self) -> bool {
        match self {
            Self::Refused | Self::All => true,
            Self::Open | Self::Held => false,
        }
    }

    /// The filters to ask for, one after the other.
    fn filters(self, now_ms: u64) -> Vec<requests::InquiryFilter> {
        let day = u64::try_from(RECENT.as_millis()).unwrap_or(u64::MAX);
        let recently = requests::InquiryFilter::Ended { since_ms: now_ms.saturating_sub(day) };
        match self {
            Self::Open => vec![requests::InquiryFilter::Unfinished, recently],
            Self::Held => vec![requests::InquiryFilter::Held],
            Self::Refused => vec![requests::InquiryFilter::Ended { since_ms: 0 }],
            Self::All => vec![requests::InquiryFilter::All],
        }
    }
}

fn failed(why: &str) -> ExitStatus {
    print_error(why);
    ExitStatus::Failure
}

/// A JSON value on several lines.
fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("maps with text keys only") + "\n"
}

/// Prints the list.
pub(super) async fn list(
    whose: RequestsTarget,
    which: ListFilter,
    limit: u32,
    json: bool,
) -> ExitStatus {
    let name = whose.name.clone();
    let mut source = AnswerSource::of(whose);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let newest_first = which.is_newest_first();
    let (mut found, mut more) = (Vec::new(), false);
    for part in which.filters(clock::unix_millis()) {
        let mut after = None;
        loop {
            let told = source.ask(Inquiry::List { which: part, after }).await;
            let (requests, next) = match told {
                Ok(InquiryAnswer::Lines { requests, next }) => (requests, next),
                Ok(_) => return failed(UNEXPECTED_ANSWER),
                Err(why) => return failed(&why),
            };
            found.extend(requests);
            after = next;
            if newest_first {
                more |= keep_last(&mut found, limit);
            }
            if found.len() > limit || after.is_none() {
                break;
            }
        }
        more |= after.is_some();
    }
    if newest_first {
        found.reverse();
    }
    more |= found.len() > limit;
    found.truncate(limit);
    if json {
        return print(&pretty(&found), ExitStatus::Success);
    }
    let mut text = format!("{name}: {}\n", source.describe().await);
    if found.is_empty() {
        text += match which {
            ListFilter::Open => "nothing unfinished, and nothing refused in the last day\n",
            ListFilter::Held => "nothing held\n",
            ListFilter::Refused => "nothing ended without an answer\n",
            ListFilter::All => "no requests\n",
        };
        return print(&text, ExitStatus::Success);
    }
    let longest = if io::stdout().is_terminal() { REASON_WIDTH } else { usize::MAX };
    text += &overview(&found, clock::unix_millis(), longest);
    if more {
        text.extend([
            "... and more: --limit shows more than ",
            &limit.to_string(),
            ", `kms-connector requests export --all --instance ",
            &name,
            "` has all\n",
        ]);
    }
    print(&text, ExitStatus::Success)
}

/// Keeps only the last `limit` entries. Returns whether any was dropped.
fn keep_last<T>(found: &mut Vec<T>, limit: usize) -> bool {
    let surplus = found.len().saturating_sub(limit);
    found.drain(..surplus);
    surplus > 0
}

/// Prints everything about the requests of one id.
pub(super) async fn show_one(whose: RequestsTarget, id: String, json: bool) -> ExitStatus {
    let mut source = AnswerSource::of(whose);
    let stories = match source.ask(Inquiry::Show { id }).await {
        Ok(InquiryAnswer::Stories { requests }) => requests,
        Ok(_) => return failed(UNEXPECTED_ANSWER),
        Err(why) => return failed(&why),
    };
    if json {
        return print(&pretty(&stories), ExitStatus::Success);
    }
    let now_ms = clock::unix_millis();
    let mut text = String::new();
    if let [_, _, ..] = stories.as_slice() {
        let count = stories.len().to_string();
        text.extend([&count, " requests have this id: the chain was reorganised\n\n"]);
    }
    let stories: Vec<String> = stories.iter().map(|one| story(one, now_ms)).collect();
    text += &stories.join("\n");
    print(&text, ExitStatus::Success)
}

/// Retries the requests of one id.
pub(super) async fn retry(whose: RequestsTarget, id: String, json: bool) -> ExitStatus {
    try_now(whose, Inquiry::Retry { id: id.clone() }, &id, json).await
}

/// Approves the key operations of one id.
pub(super) async fn approve(whose: RequestsTarget, id: String, json: bool) -> ExitStatus {
    // The socket tells who asks.
    try_now(whose, Inquiry::Approve { id: id.clone(), by: String::new() }, &id, json).await
}

/// Has requests tried now, and tells what came of it.
async fn try_now(whose: RequestsTarget, inquiry: Inquiry, id: &str, json: bool) -> ExitStatus {
    let mut source = AnswerSource::of(whose);
    let retried = match source.ask(inquiry).await {
        Ok(InquiryAnswer::Retried { requests }) => requests,
        Ok(_) => return failed(UNEXPECTED_ANSWER),
        Err(why) => return failed(&why),
    };
    let refused = retried.iter().all(|one| one.verdict == RetryVerdict::Refused);
    let ending = if refused { ExitStatus::Failure } else { ExitStatus::Success };
    if json {
        return print(&pretty(&retried), ending);
    }
    let line = |Retried { id, text, .. }: &Retried| format!("{id}: {}\n", printable(text));
    let told = print(&retried.iter().map(line).collect::<String>(), ending);
    let walks =
        |one: &Retried| matches!(one.verdict, RetryVerdict::Tried | RetryVerdict::OpenedAgain);
    if source.journal.is_some() || !retried.iter().any(walks) {
        return told;
    }
    print(&watch_retry(&mut source, id).await, told)
}

/// The state some seconds after a retry, which shows whether it helped.
async fn watch_retry(source: &mut AnswerSource, id: &str) -> String {
    let mut found = Vec::new();
    for _ in 0..RETRY_WATCH.as_secs() {
        sleep(RETRY_POLL_INTERVAL).await;
        let Ok(InquiryAnswer::Stories { requests }) =
            source.ask(Inquiry::Show { id: id.to_owned() }).await
        else {
            break;
        };
        found = requests;
        if found.iter().all(|one| one.overview.held.is_none()) {
            break;
        }
    }
    found.iter().map(|one| state_after_retry(&one.overview)).collect()
}

fn state_after_retry(line: &RequestOverview) -> String {
    match &line.held {
        Some(held) if line.outcome.is_none() => format!(
            "{}: still held {} s later ({}: {})\n",
            line.id,
            RETRY_WATCH.as_secs(),
            held.reason,
            printable(&held.detail).replace('\n', " ")
        ),
        Some(_) | None => format!("{}: now {}\n", line.id, stage(line)),
    }
}

/// Prints one line of JSON per request, page by page.
pub(super) async fn export(whose: RequestsTarget, which: ListFilter) -> ExitStatus {
    let mut source = AnswerSource::of(whose);
    for part in which.filters(clock::unix_millis()) {
        let mut after = None;
        loop {
            let told = source.ask(Inquiry::Export { which: part, after }).await;
            let (requests, next) = match told {
                Ok(InquiryAnswer::Exported { requests, next }) => (requests, next),
                Ok(_) => return failed(UNEXPECTED_ANSWER),
                Err(why) => return failed(&why),
            };
            let line = |request| serde_json::to_string(request).expect("maps with text keys only");
            let text: String = requests.iter().map(|request| line(request) + "\n").collect();
            match write_stdout(&text) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return ExitStatus::Success;
                }
                Err(error) => return failed(&format!("cannot write to stdout: {error}")),
            }
            let Some(next) = next else { break };
            after = Some(next);
        }
    }
    ExitStatus::Success
}

/// Has a running instance read blocks again, in pieces, and prints the progress.
/// `chain`: the second chain, if it is that one.
pub(super) async fn backfill(
    whose: RequestsTarget,
    (from, to): (u64, Option<u64>),
    chain: Option<u64>,
) -> ExitStatus {
    let (mut next, mut requests, mut new) = (from, 0, 0);
    loop {
        let told = match ask_running(&whose, &Inquiry::Backfill { from: next, to, chain }).await {
            Ok(LiveAnswer::Told(told)) => told,
            Ok(LiveAnswer::Absent { why, state, .. }) => {
                return failed(&explain_not_running(&whose.name, next, &why, state.as_ref()));
            }
            Err(why) => return failed(&why),
        };
        let InquiryAnswer::Backfilled(Backfilled {
            to: read_up_to,
            end,
            requests: found,
            new: more,
            ..
        }) = told
        else {
            return failed(UNEXPECTED_ANSWER);
        };
        requests += found;
        new += more;
        if read_up_to >= end {
            let blocks = end - from + 1;
            let text = format!(
                "{blocks} blocks read ({from} to {end}): {requests} requests, {new} of them new\n"
            );
            return print(&text, ExitStatus::Success);
        }
        print_error(format_args!(
            "read up to block {read_up_to} of {end}: {requests} requests, {new} of them new"
        ));
        next = read_up_to + 1;
    }
}

/// Explains why no block is read, and when it can be. The cause comes first: the name may be mistyped.
fn explain_not_running(name: &str, from: u64, why: &str, state: Option<&InstanceState>) -> String {
    let cause = match state {
        Some(InstanceState::Waiting { why, .. }) => format!(": {why}"),
        Some(_) | None => String::new(),
    };
    let next = match state {
        Some(InstanceState::Waiting { .. }) => format!(
            "it starts by itself when that answers, call this again then; `kms-connector check --instance \
             {name}` tests what it needs"
        ),
        Some(
            InstanceState::Starting
            | InstanceState::Running
            | InstanceState::Draining
            | InstanceState::BackingOff { .. },
        ) => format!("call this again when `kms-connector status {name}` says running"),
        Some(InstanceState::Parked { .. } | InstanceState::Stopped { .. }) | None => format!(
            "start it, or have its next start read them with `kms-connector journal rebuild --from {from} \
             --instance {name}`"
        ),
    };
    let why = printable(&format!("{why}{cause}"));
    format!("{why}\n(blocks are read again by a running instance: {next})")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        admin::{
            requests::{
                Accepted, Approved, EventPlace, HoldSummary, RequestDetail, TransactionSummary,
            },
            status::StoppedBy,
        },
        supervisor::control,
    };

    const NOW: u64 = 1_790_000_000_000;

    fn held() -> RequestOverview {
        RequestOverview {
            chain: None,
            id: "0x5".to_owned(),
            content: format!("0x{}", "ab".repeat(32)),
            kind: "user_decryption".to_owned(),
            stage: "answered".to_owned(),
            held: Some(HoldSummary {
                reason: "no_funds".to_owned(),
                detail: "fund the wallet\nnow".to_owned(),
                since_ms: NOW - 120_000,
            }),
            outcome: None,
            outcome_detail: None,
            attempts: 3,
            last_error: Some("timeout".to_owned()),
            waits: None,
            block: 77,
            arrived_at_ms: NOW - 3_600_000,
            asked_at_ms: Some(NOW - 3_599_000),
            answered_at_ms: Some(NOW - 3_590_000),
            submitted_at_ms: None,
            settled_at_ms: None,
        }
    }

    fn refused() -> RequestOverview {
        RequestOverview {
            chain: None,
            id: "0x6".to_owned(),
            stage: "settled".to_owned(),
            held: None,
            outcome: Some("refused".to_owned()),
            outcome_detail: Some(format!("malformed request: {}", "x".repeat(200))),
            settled_at_ms: Some(NOW - 60_000),
            ..held()
        }
    }

    #[test]
    fn a_line_says_where_it_stands_since_when_and_why() {
        let text = overview(&[held(), refused()], NOW, REASON_WIDTH);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("answered held  2m ago"), "{text}");
        assert!(lines[1].contains("1h   3         77"), "{text}");
        assert!(lines[1].ends_with("no_funds: fund the wallet now"), "{text}");
        assert!(lines[2].contains("refused        1m ago"), "{text}");
        assert!(lines[2].ends_with("xxx...") && lines[2].chars().count() < 200, "{text}");
        let whole = overview(&[refused()], NOW, usize::MAX);
        assert!(whole.contains(&"x".repeat(200)), "in a pipe nothing is cut: {whole}");
    }

    #[test]
    fn what_became_of_a_try_is_told() {
        assert_eq!(
            state_after_retry(&held()),
            "0x5: still held 5 s later (no_funds: fund the wallet now)\n"
        );
        assert_eq!(state_after_retry(&refused()), "0x6: now refused\n");
    }

    #[test]
    fn a_story_tells_every_door_and_transaction() {
        let sent = |nonce, mined_in_block, given_up: Option<&str>| TransactionSummary {
            hash: format!("0x{nonce}"),
            nonce,
            signed_at_ms: NOW,
            mined_in_block,
            given_up: given_up.map(str::to_owned),
        };
        let one = RequestDetail {
            overview: held(),
            generation: Some("G9".to_owned()),
            deployment: Some("G13 (\"Decryption v0.5.0\")".to_owned()),
            event: EventPlace {
                block: 77,
                block_hash: "0xb".to_owned(),
                transaction: "0xe".to_owned(),
                log_index: 2,
            },
            kms_core: Some("core.example:50051".to_owned()),
            approved: Some(Approved { by: "uid 7".to_owned(), at_ms: NOW }),
            access: vec!["chain 5, block 7: denied".to_owned(), "  isAllowed = no".to_owned()],
            worked_ms: 9_000,
            accepted: Some(Accepted { transaction: "0xa".to_owned(), block: 80 }),
            transactions: vec![
                sent(7, Some(80), None),
                sent(8, None, Some("displaced")),
                sent(9, None, None),
            ],
        };
        let text = story(&one, NOW);
        for part in [
            "0x5: answered held",
            "G9",
            "contracts G13 (\"Decryption v0.5.0\")",
            "transaction 0xe, log 2",
            "chain 5, block 7: denied\n",
            "  isAllowed = no\n",
            "(1s after it arrived)",
            "(10s after it arrived)",
            "core.example:50051 was asked",
            "approved by uid 7",
            "no_funds: fund the wallet",
            "since 2m ago",
            "  fund the wallet\n",
            "`kms-connector explain no_funds`",
            "3 failed",
            "timeout",
            "0xa in block 80",
            "nonce 7, signed 2026-09-21",
            "mined in block 80",
            "given up (displaced)",
            "not known to be mined",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("submitted "), "{text}");
    }

    #[tokio::test]
    async fn c10_a_mistyped_name_is_told_first() {
        let whose = RequestsTarget {
            name: "on".to_owned(),
            state_dir: Some(PathBuf::from("/nonexistent/state")),
            candidates: control::candidates(
                None,
                &crate::config::Environment::default(),
                "/nonexistent".as_ref(),
            ),
        };
        let why = "there is no instance on; there are: one";
        let told = AnswerSource::of(whose).find(why).await.err().unwrap();
        assert!(told.starts_with(why) && told.contains("/nonexistent/state"), "{told}");
    }

    #[test]
    fn d8_whoever_mistyped_a_name_is_told_that_first_by_backfill_too() {
        let why = "there is no instance zz; there are: a";
        let told = explain_not_running("zz", 7, why, None);
        assert!(told.starts_with(why) && told.contains("--from 7"), "{told}");
    }

    /// It is started: what it waits for is said, and that backfill works then.
    #[test]
    fn d8_a_backfill_of_an_instance_that_waits_says_for_what() {
        let state = InstanceState::Waiting { on: "the node".into(), why: "refused".into() };
        let told = explain_not_running("a", 7, "a waits for the node", Some(&state));
        assert!(told.starts_with("a waits for the node: refused\n"), "{told}");
        assert!(told.contains("by itself") && told.contains("call this again"), "{told}");
        assert!(told.contains("check --instance a") && !told.contains("start it"), "{told}");
        let down = InstanceState::Stopped { by: StoppedBy::Operator };
        assert!(explain_not_running("a", 7, "a is stopped", Some(&down)).contains("start it"));
    }

    #[test]
    fn of_all_requests_the_newest_are_shown() {
        let mut found = vec![1, 2];
        assert!(!keep_last(&mut found, 2));
        found.extend([3, 4, 5]);
        assert!(keep_last(&mut found, 2) && found == [4, 5], "{found:?}");
        assert!(ListFilter::All.is_newest_first() && !ListFilter::Open.is_newest_first());
    }

    #[test]
    fn by_default_the_last_day_counts() {
        let day = 86_400_000;
        let parts = ListFilter::Open.filters(NOW);
        assert_eq!(parts[1], requests::InquiryFilter::Ended { since_ms: NOW - day });
        assert_eq!(
            ListFilter::Refused.filters(NOW),
            [requests::InquiryFilter::Ended { since_ms: 0 }]
        );
    }
}
