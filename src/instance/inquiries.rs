//! What an operator asks of an instance about its requests, answered beside the walk.
//!
//! ```text
//! control socket -> supervisor -> desk -> here -> journal's reader -> the asker
//!                                          |
//!                                          +-> requests to be tried -> recovery's channel -> walk
//! ```
//!
//! One question at a time, each bounded: a page, or a few seconds of reading blocks again. What is to
//! be walked waits here and never keeps an answer waiting; a crash loses none of it, because all of
//! it is open in the journal. The walk itself sees to it that no request is walked twice at a time.

use std::{collections::VecDeque, path::Path, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::{BlockRef, Bytes, Kind, Outcome, Refusal, U256},
    flow::{
        Intake,
        arrivals::backfill::Backfill,
        depth::{Depth, Line, Tag},
    },
    gateway::{
        abi,
        provider::{ArbitrumProvider, Provider},
    },
    heart::Heart,
    journal::{
        self, Identity, Journal, JournaledTransaction, Listed, Listing, Look, Position, Progress,
        QueryError, ReadOnly, RequestRecord, StageName,
    },
    observe::requests::{
        Accepted, Asked, Backfilled, Desk, EventPlace, ExportedAnswer, ExportedRequest, HeldFor,
        Inquiry, RequestLine, RequestStory, Retried, Told, TransactionLine, Verdict, Which,
    },
};

/// Questions that wait.
const DESK: usize = 8;
/// Requests on a page of a list.
const LISTED: u32 = 500;
/// Requests on a page of an export: each may have hundreds of kilobytes.
const EXPORTED: u32 = 16;
/// And bytes of events and answers, which take twice as many in hex.
const EXPORTED_BYTES: usize = 8 << 20;
/// How long blocks are read for one answer.
const BACKFILL_FOR: Duration = Duration::from_secs(3);
/// One range of blocks, by a node that is slow.
const RANGE_DEADLINE: Duration = Duration::from_secs(30);
/// So many requests may wait for the walk before no more blocks are read.
const MOST_WAITING: usize = 10_000;
/// How long the journal of an instance that does not run may take to store something.
const STORE_DEADLINE: Duration = Duration::from_secs(30);

/// The task.
#[derive(Debug)]
pub(super) struct Inquiries<P: Provider> {
    pub journal: Journal,
    pub backfill: Backfill<P, Journal>,
    pub walk: mpsc::Sender<Intake>,
    /// The cursor, as it moves.
    pub progress: watch::Receiver<Option<BlockRef>>,
    pub ripening: Ripening,
}

/// How deep in the chain a request has to be before it is walked, and what that comes to now.
#[derive(Clone, Debug)]
pub(super) struct Ripening {
    pub depth: Depth,
    pub line: watch::Receiver<Line>,
    pub tag: watch::Receiver<Option<Tag>>,
}

impl Ripening {
    /// Has those that wait say for what.
    fn explain(&self, told: &mut Told) {
        let (line, tag) = (*self.line.borrow(), *self.tag.borrow());
        let explain = |request: &mut RequestLine| {
            let arrived = request.stage == StageName::Arrived.as_str() && request.held.is_none();
            let kind = [Kind::PublicDecryption, Kind::UserDecryption];
            let kind = kind.into_iter().find(|kind| kind.as_str() == request.kind);
            if let Some(kind) = kind.filter(|_| arrived) {
                request.waits = self.depth.why(kind, request.block, line, tag);
            }
        };
        match told {
            Told::Lines { requests, .. } => requests.iter_mut().for_each(explain),
            Told::Stories { requests } => {
                requests.iter_mut().map(|story| &mut story.line).for_each(explain);
            }
            Told::Exported { requests, .. } => {
                requests.iter_mut().map(|one| &mut one.story.line).for_each(explain);
            }
            Told::Retried { .. } | Told::Backfilled(_) => {}
        }
    }
}

impl<P: Provider> Inquiries<P> {
    /// Puts up a desk, and answers what is asked there until the tasks it hands on to have ended.
    pub(super) async fn run(mut self, desks: watch::Sender<Option<Desk>>) {
        let (desk, mut inbox) = mpsc::channel(DESK);
        desks.send_replace(Some(desk));
        let (mut waiting, walk) = (VecDeque::new(), self.walk.clone());
        loop {
            tokio::select! {
                asked = inbox.recv() => {
                    let Some(Asked { inquiry, reply }) = asked else { return };
                    reply.send(self.answer(inquiry, &mut waiting).await);
                }
                Ok(place) = walk.reserve(), if !waiting.is_empty() => {
                    if let Some(intake) = waiting.pop_front() {
                        place.send(intake);
                    }
                }
            }
        }
    }

    async fn answer(
        &mut self,
        inquiry: Inquiry,
        waiting: &mut VecDeque<Intake>,
    ) -> Result<Told, String> {
        match inquiry {
            Inquiry::List { .. } | Inquiry::Export { .. } | Inquiry::Show { .. } => {
                let asked = self.journal.look(move |look| Ok(read(look, &inquiry))).await;
                let mut told = asked.map_err(|error| error.to_string())??;
                self.ripening.explain(&mut told);
                Ok(told)
            }
            Inquiry::Retry { id } => {
                let id = parse(&id)?;
                // What was noted is to be seen.
                self.journal.flush().await.map_err(|error| error.to_string())?;
                let found = self.journal.look(move |look| look.with_id(id)).await;
                let found = found.map_err(|error| error.to_string())?;
                let found = some(found, id)?;
                let mut retried = Vec::new();
                for record in found {
                    let (told, try_now) = retry(&self.journal, &record, Stands::InWalk).await?;
                    if try_now {
                        match abi::decode(&record.event) {
                            Ok(request) => {
                                waiting.push_back(Intake { request, recovered: true });
                            }
                            Err(error) => {
                                let why = "a stored request cannot be decoded by this version";
                                return Err(format!("{why}: {error}"));
                            }
                        }
                    }
                    info!(request = %record.key, verdict = told.text, "an operator asks for another try");
                    retried.push(told);
                }
                Ok(Told::Retried { requests: retried })
            }
            Inquiry::Backfill { from, to } => self.backfill(from, to, waiting).await,
        }
    }

    async fn backfill(
        &mut self,
        from: u64,
        to: Option<u64>,
        waiting: &mut VecDeque<Intake>,
    ) -> Result<Told, String> {
        let Some(cursor) = self.progress.borrow().map(|block| block.number) else {
            return Err("it has read no block yet: ask again when it has".to_owned());
        };
        // What comes after the cursor is read in its turn.
        let end = to.unwrap_or(cursor).min(cursor);
        if from > end {
            return Err(match to {
                Some(to) if to < from => format!("--to {to} is before --from {from}"),
                Some(_) | None => {
                    format!("it has read up to block {cursor}: block {from} is read in its turn")
                }
            });
        }
        let mut read = Backfilled { from, to: from, end, requests: 0, new: 0 };
        let (begun, mut next) = (Instant::now(), from);
        while next <= end {
            if waiting.len() >= MOST_WAITING {
                return Err(format!(
                    "{} requests found so far wait for a place: block {next} is the next to be \
                     read, ask for it again when `status` shows fewer in hand",
                    waiting.len()
                ));
            }
            let reading = timeout(RANGE_DEADLINE, self.backfill.read(next, end)).await;
            let range = match reading {
                Ok(Ok(range)) => range,
                Ok(Err(error)) => {
                    return Err(format!("{error}; go on with --from {next}"));
                }
                Err(_) => {
                    return Err(format!(
                        "no answer of the node within {RANGE_DEADLINE:?}; go on with --from {next}"
                    ));
                }
            };
            read.to = range.to;
            read.requests += range.requests as u64;
            read.new += range.new.len() as u64;
            for intake in &range.new {
                let request = &intake.request;
                warn!(request = %request.key, block = request.block.number,
                    "a request that was not known is found in blocks that are read again");
            }
            waiting.extend(range.new);
            next = range.to + 1;
            if begun.elapsed() >= BACKFILL_FOR {
                break;
            }
        }
        let Backfilled { from, to, end, requests, new } = read;
        info!(from, to, end, requests, new, "blocks are read again for an operator");
        Ok(Told::Backfilled(read))
    }
}

/// The task of a running instance.
pub(super) type Running = Inquiries<ArbitrumProvider>;

/// Whether a request that is to be tried again has a walk to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    InWalk,
    InJournal,
}

/// Answers what needs a journal alone.
fn read(look: &Look<'_>, inquiry: &Inquiry) -> Result<Told, String> {
    let failed = |error: QueryError| format!("the journal cannot be read: {error}");
    match inquiry {
        Inquiry::List { which, after } => {
            let page = listing(*which, *after, LISTED);
            let found = look.list(page).map_err(failed)?;
            let next = next(found.last().map(|last| last.position), found.len(), page);
            Ok(Told::Lines { requests: found.iter().map(line_of_listed).collect(), next })
        }
        Inquiry::Export { which, after } => {
            let page = listing(*which, *after, EXPORTED);
            let mut found = look.records(page).map_err(failed)?;
            let read = found.len();
            found.truncate(fitting(&found));
            let last = found.last().map(|last| last.position);
            let next = if found.len() < read {
                last.map(Position::number)
            } else {
                next(last, read, page)
            };
            let stories = found.into_iter().map(|record| {
                let story = story(&record, &look.transactions_of(record.key)?);
                Ok(exported(story, record))
            });
            let requests = stories.collect::<Result<_, QueryError>>().map_err(failed)?;
            Ok(Told::Exported { requests, next })
        }
        Inquiry::Show { id } => {
            let id = parse(id)?;
            let found = some(look.with_id(id).map_err(failed)?, id)?;
            let stories =
                found.iter().map(|record| Ok(story(record, &look.transactions_of(record.key)?)));
            let requests = stories.collect::<Result<_, QueryError>>().map_err(failed)?;
            Ok(Told::Stories { requests })
        }
        Inquiry::Retry { .. } | Inquiry::Backfill { .. } => {
            Err("that needs more than a look into the journal".to_owned())
        }
    }
}

fn listing(which: Which, after: Option<i64>, limit: u32) -> Listing {
    let which = match which {
        Which::Unfinished => journal::Which::Unfinished,
        Which::Held => journal::Which::Held,
        Which::Ended { since_ms } => journal::Which::Ended { since_ms },
        Which::All => journal::Which::All,
    };
    Listing { which, after: after.map(Position::from_number), limit }
}

/// How many of them go into one answer: at least one.
fn fitting(found: &[RequestRecord]) -> usize {
    let sizes = found.iter().map(|record| {
        let answer = record.answer.as_ref();
        record.event.data.len() + answer.map_or(0, |answer| answer.payload.len())
    });
    let so_far = sizes.scan(0, |bytes, size| {
        *bytes += size;
        Some(*bytes)
    });
    so_far.take_while(|bytes| *bytes <= EXPORTED_BYTES).count().max(1)
}

/// Where the page after a full one begins.
fn next(last: Option<Position>, found: usize, page: Listing) -> Option<i64> {
    let full = u32::try_from(found).is_ok_and(|found| found >= page.limit);
    last.filter(|_| full).map(Position::number)
}

/// An id as an operator writes it.
fn parse(id: &str) -> Result<U256, String> {
    let text = id.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let parsed = match digits {
        Some(hex) => U256::from_str_radix(hex, 16),
        None => U256::from_str_radix(text, 10),
    };
    match parsed {
        Ok(parsed) if !text.is_empty() && digits != Some("") => Ok(parsed),
        Ok(_) | Err(_) => Err(format!("{id:?} is no request id: 0x and hex digits, or decimal")),
    }
}

fn some(found: Vec<RequestRecord>, id: U256) -> Result<Vec<RequestRecord>, String> {
    if found.is_empty() {
        return Err(format!(
            "there is no request {id:#x}: it never arrived here, or it was settled longer ago than \
             journal_retention_days; if it should be here, `kms-connector backfill` reads its block \
             again"
        ));
    }
    Ok(found)
}

/// What to do for who wants this request tried again: done, but for the walk; whether it is to be
/// walked now.
async fn retry(
    journal: &Journal,
    record: &RequestRecord,
    stands: Stands,
) -> Result<(Retried, bool), String> {
    let when = match stands {
        Stands::InWalk => "tried again now",
        Stands::InJournal => "tried again when the instance starts",
    };
    let progress = &record.progress;
    let (verdict, text) = match (&progress.outcome, &progress.held) {
        (None, Some(held)) => {
            (Verdict::Tried, format!("it was held ({}) and is {when}", held.hold.reason.as_str()))
        }
        (None, None) => {
            let stage = progress.stage.as_str();
            (Verdict::InHand, format!("it is in hand ({stage}) and not held: nothing to do"))
        }
        (Some(outcome @ (Outcome::Refused(_) | Outcome::Expired | Outcome::Orphaned)), _) => {
            let ended = outcome.as_str();
            let opened = journal.open_again(record.key).await.map_err(|error| error.to_string())?;
            if opened {
                (Verdict::OpenedAgain, format!("it had ended as {ended}; it is open and {when}"))
            } else {
                (Verdict::InHand, "it was opened again just before".to_owned())
            }
        }
        (Some(Outcome::Accepted { transaction, block }), _) => (
            Verdict::Refused,
            format!(
                "its answer was accepted in block {} (transaction {transaction}): there is nothing \
                 to try",
                block.number
            ),
        ),
        (Some(Outcome::AlreadyAnswered), _) => (
            Verdict::Refused,
            "the contract has this node's answer already: there is nothing to try".to_owned(),
        ),
        (Some(Outcome::Observed), _) => (
            Verdict::Refused,
            "this instance only observes (mode = \"observe\") and answers nothing".to_owned(),
        ),
    };
    let id = format!("{:#x}", record.key.id);
    let content = record.key.content.to_string();
    let walks = matches!(verdict, Verdict::Tried | Verdict::OpenedAgain);
    Ok((Retried { id, content, verdict, text }, walks && stands == Stands::InWalk))
}

fn line_of_listed(listed: &Listed) -> RequestLine {
    let id = format!("{:#x}", listed.key.id);
    let (content, kind) = (listed.key.content.to_string(), listed.kind.as_str());
    line(id, content, kind, listed.block, &listed.progress)
}

fn line(id: String, content: String, kind: &str, block: u64, progress: &Progress) -> RequestLine {
    let outcome = progress.outcome.as_ref();
    let detail = outcome.and_then(|outcome| match outcome {
        Outcome::Refused(refusal @ (Refusal::Malformed(_) | Refusal::NotRequested)) => {
            Some(refusal.to_string())
        }
        Outcome::Accepted { .. }
        | Outcome::AlreadyAnswered
        | Outcome::Expired
        | Outcome::Orphaned
        | Outcome::Observed => None,
    });
    let stage = if outcome.is_some() { "settled" } else { progress.stage.as_str() };
    RequestLine {
        id,
        content,
        kind: kind.to_owned(),
        stage: stage.to_owned(),
        held: progress.held.as_ref().map(|held| HeldFor {
            reason: held.hold.reason.as_str().to_owned(),
            detail: held.hold.detail.clone(),
            since_ms: held.since_ms,
        }),
        outcome: outcome.map(|outcome| outcome.as_str().to_owned()),
        outcome_detail: detail,
        attempts: progress.attempts,
        last_error: progress.last_error.clone(),
        waits: None,
        block,
        arrived_at_ms: progress.arrived_at_ms,
        asked_at_ms: progress.asked_at_ms,
        answered_at_ms: progress.answered_at_ms,
        submitted_at_ms: progress.submitted_at_ms,
        settled_at_ms: progress.settled_at_ms,
    }
}

fn story(record: &RequestRecord, transactions: &[JournaledTransaction]) -> RequestStory {
    let RequestRecord { key, kind, event, progress, .. } = record;
    let (id, content) = (format!("{:#x}", key.id), key.content.to_string());
    let accepted = match &progress.outcome {
        Some(Outcome::Accepted { transaction, block }) => {
            Some(Accepted { transaction: transaction.to_string(), block: block.number })
        }
        Some(
            Outcome::AlreadyAnswered
            | Outcome::Expired
            | Outcome::Orphaned
            | Outcome::Refused(_)
            | Outcome::Observed,
        )
        | None => None,
    };
    let transactions = transactions.iter().map(|known| TransactionLine {
        hash: known.transaction.hash.to_string(),
        nonce: known.transaction.nonce,
        signed_at_ms: known.signed_at_ms,
        mined_in_block: known.mined.map(|block| block.number),
        given_up: known.given_up.clone(),
    });
    RequestStory {
        line: line(id, content, kind.as_str(), event.block.number, progress),
        generation: abi::decode(event).ok().map(|request| request.generation.as_str().to_owned()),
        event: EventPlace {
            block: event.block.number,
            block_hash: event.block.hash.to_string(),
            transaction: event.transaction.to_string(),
            log_index: event.log_index,
        },
        worked_ms: progress.worked_ms,
        accepted,
        transactions: transactions.collect(),
    }
}

fn exported(story: RequestStory, record: RequestRecord) -> ExportedRequest {
    let hex = |bytes: &Bytes| bytes.to_string();
    ExportedRequest {
        story,
        topics: record.event.topics.iter().map(ToString::to_string).collect(),
        data: hex(&record.event.data),
        answer: record.answer.map(|answer| ExportedAnswer {
            payload: hex(&answer.payload),
            signature: hex(&answer.signature),
            extra_data: hex(&answer.extra_data),
        }),
    }
}

/// Answers for an instance that does not run, out of its journal. Blocking, but for a retry, which
/// takes the journal's lock and answers who holds it.
pub async fn answer_stopped(found: &ReadOnly, inquiry: &Inquiry) -> Result<Told, String> {
    match inquiry {
        Inquiry::List { .. } | Inquiry::Export { .. } | Inquiry::Show { .. } => {
            read(&found.look(), inquiry)
        }
        Inquiry::Retry { id } => {
            let id = parse(id)?;
            let records = found.look().with_id(id);
            let records =
                records.map_err(|error| format!("the journal cannot be read: {error}"))?;
            let records = some(records, id)?;
            let dir = found.path().parent().unwrap_or(Path::new("."));
            retry_stopped(dir, found.identity(), found, records).await
        }
        Inquiry::Backfill { .. } => Err("blocks are read again by a running instance".to_owned()),
    }
}

async fn retry_stopped(
    dir: &Path,
    identity: Identity,
    found: &ReadOnly,
    records: Vec<RequestRecord>,
) -> Result<Told, String> {
    let opened = Journal::open(dir, identity, found.contract());
    let (journal, writer) = opened.map_err(|error| error.to_string())?;
    let stop = CancellationToken::new();
    let mut writing = JoinSet::new();
    writing.spawn(writer.run(Heart::default(), stop.clone()));
    let storing = async {
        let mut retried = Vec::new();
        for record in records {
            retried.push(retry(&journal, &record, Stands::InJournal).await?.0);
        }
        Ok(Told::Retried { requests: retried })
    };
    let late = |_| Err(format!("the journal took longer than {STORE_DEADLINE:?}"));
    let told = timeout(STORE_DEADLINE, storing).await.unwrap_or_else(late);
    stop.cancel();
    // Its end closes the file.
    let _ = timeout(STORE_DEADLINE, writing.join_next()).await;
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{B256, Event, RequestKey},
        flow::depth::Finality,
    };

    fn just_arrived() -> Progress {
        Progress {
            stage: StageName::Arrived,
            held: None,
            attempts: 0,
            last_error: None,
            worked_ms: 0,
            transaction: None,
            arrived_at_ms: 0,
            asked_at_ms: None,
            answered_at_ms: None,
            submitted_at_ms: None,
            settled_at_ms: None,
            outcome: None,
        }
    }

    #[test]
    fn an_export_is_cut_at_its_bytes_and_goes_on() {
        let record = |data: usize| RequestRecord {
            position: Position::from_number(1),
            key: RequestKey { id: U256::from(1), content: B256::ZERO },
            kind: Kind::PublicDecryption,
            event: Event {
                block: BlockRef { number: 1, hash: B256::ZERO },
                transaction: B256::ZERO,
                log_index: 0,
                topics: Vec::new(),
                data: Bytes::from(vec![0; data]),
            },
            answer: None,
            progress: just_arrived(),
        };
        let (half, whole) = (EXPORTED_BYTES / 2, EXPORTED_BYTES + 1);
        assert_eq!(fitting(&[record(half), record(half), record(1)]), 2);
        assert_eq!(fitting(&[record(whole), record(1)]), 1, "one goes in any case");
        assert_eq!(fitting(&[record(1), record(whole)]), 1);
    }

    #[test]
    fn a8_who_waits_for_the_tag_says_so_and_nobody_else() {
        let depth = Depth { finality: Finality::Finalized, ..Depth::NONE };
        let mut tag = Tag::new(Finality::Finalized, 100, 0);
        tag.look(Some(90), 100, 0);
        let ripening = Ripening {
            depth,
            line: watch::channel(depth.line(100, tag.at)).1,
            tag: watch::channel(Some(tag)).1,
        };
        let kind = Kind::UserDecryption.as_str();
        let request = |block| line(String::new(), String::new(), kind, block, &just_arrived());
        let mut told = Told::Lines { requests: vec![request(90), request(91)], next: None };
        ripening.explain(&mut told);
        let Told::Lines { requests, .. } = told else { panic!() };
        assert_eq!(requests[0].waits, None);
        assert!(requests[1].waits.as_ref().unwrap().contains("finalized stands at block 90 since"));
    }

    #[test]
    fn ids_are_read_as_operators_write_them() {
        for (text, id) in [("7", 7), ("0x07", 7), ("0X1f", 31), (" 10 ", 10)] {
            assert_eq!(parse(text), Ok(U256::from(id)), "{text}");
        }
        let long = "0x0100000000000000000000000000000000000000000000000000000000000005";
        assert_eq!(parse(long), Ok((U256::from(1) << 248) | U256::from(5)));
        for text in ["", "0x", "1f", "0xzz", "-1", &format!("0x1{}", "0".repeat(64))] {
            assert!(parse(text).unwrap_err().contains("request id"), "{text}");
        }
    }
}
