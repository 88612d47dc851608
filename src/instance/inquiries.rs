//! What an operator asks of an instance about its requests, answered beside the walk.
//!
//! ```text
//! control socket -> supervisor -> desk -> here -> journal's reader -> the asker
//!                                          |
//!                                          +-> wishes -> recovery's channel -> walk
//! ```
//!
//! One question at a time, each bounded: a page of the journal. What stores something is a wish
//! ([`wish`]), one at a time beside the questions: a disk may be full, and keeps nobody from asking.
//! What is to be walked waits here and never keeps an answer waiting; a crash loses none of it, because
//! all of it is open in the journal. The walk itself sees to it that no request is walked twice at a
//! time.

mod wish;

use std::{collections::VecDeque, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::wish::Wishes;
use super::{
    line::{line, line_of_listed},
    why::Why,
};
use crate::{
    clock::Clock,
    domain::{BlockRef, Bytes, Outcome, ShownId, U256},
    flow::{Entrance, Intake, arrivals::backfill::Backfill},
    gateway::{abi, decryption::DecryptionAdapter, provider::ChainReader},
    heart::Heart,
    journal::{
        self, Journal, JournaledTransaction, Listing, Look, Position, Query, ReadOnly,
        RequestRecord, StoreError,
    },
    metrics::Metrics,
    observe::requests::{
        Accepted, Asked, Desk, EventPlace, ExportedAnswer, ExportedRequest, Inquiry, Reply,
        RequestStory, Retried, Told, TransactionLine, Verdict, Which,
    },
};

/// Questions that wait, and wishes.
const DESK: usize = 8;
/// Requests on a page of a list.
const LISTED: u32 = 500;
/// Requests on a page of an export: each may have hundreds of kilobytes.
const EXPORTED: u32 = 16;
/// And bytes of events and answers, which take twice as many in hex.
const EXPORTED_BYTES: usize = 8 << 20;
/// How long the journal of an instance that does not run may take to store something.
const STORE_DEADLINE: Duration = Duration::from_secs(30);

/// The task.
#[derive(Debug)]
pub(super) struct Inquiries<P: ChainReader> {
    pub journal: Journal,
    pub backfill: Backfill<DecryptionAdapter<P>, Journal>,
    pub walk: Entrance,
    /// The cursor, as it moves.
    pub progress: watch::Receiver<Option<BlockRef>>,
    pub why: Why,
    pub clock: Clock,
}

impl<P: ChainReader> Inquiries<P> {
    /// Puts up a desk, and answers what is asked there until the tasks it hands on to have ended.
    pub(super) async fn run(self, desks: watch::Sender<Option<Desk>>) {
        let Self { journal, backfill, walk, progress, why, clock } = self;
        let (desk, mut inbox) = mpsc::channel(DESK);
        desks.send_replace(Some(desk));
        let line = why.line.clone();
        let wishes = Wishes::new(journal.clone(), backfill, walk.clone(), progress, line);
        let mut wanted: VecDeque<(Inquiry, Reply)> = VecDeque::new();
        let mut wish: Option<BoxFuture<'_, Vec<Intake>>> = None;
        let mut waiting: VecDeque<Intake> = VecDeque::new();
        loop {
            if wish.is_none()
                && let Some((inquiry, reply)) = wanted.pop_front()
            {
                wish = Some(Box::pin(wishes.fulfil(inquiry, reply, waiting.len())));
            }
            let fulfilling = async {
                match wish.as_mut() {
                    Some(wish) => wish.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                asked = inbox.recv() => {
                    let Some(Asked { inquiry, reply }) = asked else { return };
                    if !inquiry.is_wish() {
                        let asked = journal.look(move |look| Ok(read(look, &inquiry))).await;
                        let mut told = asked.unwrap_or_else(|error| Err(error.to_string()));
                        if let Ok(told) = &mut told {
                            why.explain(told, clock.unix_millis());
                        }
                        // Who asked may be gone by now.
                        let _ = reply.send(told);
                    } else if wanted.len() < DESK {
                        wanted.push_back((inquiry, reply));
                    } else {
                        let why = "it still does what others wish: ask again in a moment";
                        let _ = reply.send(Err(why.to_owned()));
                    }
                }
                found = fulfilling => {
                    wish = None;
                    waiting.extend(found);
                }
                Ok(place) = walk.reserve(), if !waiting.is_empty() => {
                    if let Some(intake) = waiting.pop_front() {
                        place.send(intake);
                    }
                }
            }
        }
    }
}

/// Whether a request that is to be tried again has a walk to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// And whether it is forgotten: it should be walked, and nobody has it in hand.
    InWalk {
        forgotten: bool,
    },
    InJournal,
}

/// Answers what needs a journal alone.
fn read(look: &Look<'_>, inquiry: &Inquiry) -> Result<Told, String> {
    let failed = |error: StoreError| format!("the journal cannot be read: {error}");
    match inquiry {
        Inquiry::List { which, after } => {
            let page = listing(*which, *after, LISTED);
            let found = look.ask(|slot| Query::Listed(page, slot)).map_err(failed)?;
            let next = next(found.last().map(|last| last.position), found.len(), page);
            Ok(Told::Lines { requests: found.iter().map(line_of_listed).collect(), next })
        }
        Inquiry::Export { which, after } => {
            let page = listing(*which, *after, EXPORTED);
            let mut found = look.ask(|slot| Query::Records(page, slot)).map_err(failed)?;
            let read = found.len();
            found.truncate(fitting(&found));
            let last = found.last().map(|last| last.position);
            let next = if found.len() < read {
                last.map(Position::number)
            } else {
                next(last, read, page)
            };
            let stories = found.into_iter().map(|record| {
                let story =
                    story(&record, &look.ask(|slot| Query::TransactionsOf(record.key, slot))?);
                Ok(exported(story, record))
            });
            let requests = stories.collect::<Result<_, StoreError>>().map_err(failed)?;
            Ok(Told::Exported { requests, next })
        }
        Inquiry::Show { id } => {
            let id = parse(id)?;
            let found = some(look.ask(|slot| Query::WithId(id, slot)).map_err(failed)?, id)?;
            let stories = found.iter().map(|record| {
                Ok(story(record, &look.ask(|slot| Query::TransactionsOf(record.key, slot))?))
            });
            let requests = stories.collect::<Result<_, StoreError>>().map_err(failed)?;
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
        record.event.data.len() + answer.map_or(0, |answer| answer.signed().payload.len())
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
    id.parse().map(|ShownId(id)| id)
}

fn some(found: Vec<RequestRecord>, id: U256) -> Result<Vec<RequestRecord>, String> {
    if found.is_empty() {
        return Err(format!(
            "there is no request {}: it never arrived here, or it was settled longer ago than \
             journal_retention_days; if it should be here, `kms-connector backfill` reads its block \
             again",
            ShownId(id)
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
        Stands::InWalk { .. } => "tried again now",
        Stands::InJournal => "tried again when the instance starts",
    };
    let progress = &record.progress;
    let (verdict, text) = match (&progress.outcome, &progress.held) {
        (None, Some(held)) => {
            (Verdict::Tried, format!("it was held ({}) and is {when}", held.hold.reason.as_str()))
        }
        (None, None) => {
            let stage = progress.stage.as_str();
            if stands == (Stands::InWalk { forgotten: true }) {
                let text =
                    format!("nobody walked it ({stage}): it is {when}; please report its log");
                (Verdict::Tried, text)
            } else {
                (Verdict::InHand, format!("it is in hand ({stage}) and not held: nothing to do"))
            }
        }
        (
            Some(
                outcome @ (Outcome::Refused(_)
                | Outcome::Expired
                | Outcome::Orphaned
                | Outcome::AlreadyAnswered),
            ),
            _,
        ) => {
            // Whatever it ended as, the contract is asked before anything is sent.
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
        (Some(Outcome::Observed), _) => (
            Verdict::Refused,
            "this instance only observes (mode = \"observe\") and answers nothing".to_owned(),
        ),
    };
    let id = record.key.to_string();
    let content = record.key.content.to_string();
    let walks = matches!(verdict, Verdict::Tried | Verdict::OpenedAgain);
    Ok((Retried { id, content, verdict, text }, walks && stands != Stands::InJournal))
}

fn story(record: &RequestRecord, transactions: &[JournaledTransaction]) -> RequestStory {
    let RequestRecord { key, kind, event, progress, .. } = record;
    let (id, content) = (key.to_string(), key.content.to_string());
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
        generation: abi::decode(key.source, event)
            .ok()
            .map(|request| request.shape.as_str().to_owned()),
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
            payload: hex(&answer.signed().payload),
            signature: hex(&answer.signed().signature),
            extra_data: hex(&answer.signed().extra_data),
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
            let records = found.look().ask(|slot| Query::WithId(id, slot));
            let records =
                records.map_err(|error| format!("the journal cannot be read: {error}"))?;
            let records = some(records, id)?;
            retry_stopped(found, records).await
        }
        Inquiry::Backfill { .. } => Err("blocks are read again by a running instance".to_owned()),
    }
}

async fn retry_stopped(found: &ReadOnly, records: Vec<RequestRecord>) -> Result<Told, String> {
    let (journal, writer) = found.open_to_write().map_err(|error| error.to_string())?;
    let stop = CancellationToken::new();
    let mut writing = JoinSet::new();
    writing.spawn(writer.run(Heart::default(), Metrics::default(), stop.clone()));
    let storing = async {
        let mut retried = Vec::new();
        for record in records {
            retried.push(retry(&journal, &record, Stands::InJournal).await?.0);
        }
        Ok(Told::Retried { requests: retried })
    };
    let late = |_| {
        Err(format!(
            "the journal took longer than {STORE_DEADLINE:?}: what was asked may be stored all the \
             same; see the disk, and ask again"
        ))
    };
    let told = timeout(STORE_DEADLINE, storing).await.unwrap_or_else(late);
    stop.cancel();
    // Its end closes the file.
    let _ = timeout(STORE_DEADLINE, writing.join_next()).await;
    told
}

#[cfg(test)]
mod tests;
