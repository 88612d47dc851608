//! Answers an operator's questions about requests, beside the walk.
//!
//! ```text
//! control socket -> supervisor -> inbox -> here -> journal's reader -> reply
//!                                           |
//!                                           +-> actions -> recovery's channel -> walk
//! ```
//!
//! One question at a time, each bounded to a page of the journal. What stores something is an action
//! ([`actions`]): one at a time beside the questions, so that a full disk does not block reading.
//! Requests to be walked wait here and never delay a reply. A crash loses none of them, because all of
//! them are open in the journal. The walk itself ensures that no request is walked twice at a time.

mod actions;
mod read;

use std::{collections::VecDeque, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{
    actions::OperatorActions,
    read::{parse_id, read, require_found},
};
use super::wait_reasons::WaitReasons;
use crate::{
    admin::requests::{
        Inbox, Inquiry, InquiryAnswer, InquiryReply, PendingInquiry, Retried, RetryVerdict,
    },
    chain::reader::ChainReader,
    contracts::decryption::RequestContract,
    domain::{BlockRef, Kind, Outcome},
    flow::{QueuedRequest, WalkSender, arrivals::backfill::Backfill},
    journal::{Journal, Query, ReadOnly, RequestRecord},
    telemetry::{heartbeat::Heartbeat, metrics::Metrics},
    time::clock::Clock,
};

/// Questions and actions that wait.
const INBOX_SIZE: usize = 8;
/// How long the journal of a stopped instance may take to store something.
const STORE_DEADLINE: Duration = Duration::from_secs(30);

/// The task.
#[derive(Debug)]
pub(super) struct OperatorRequests<P: ChainReader> {
    pub journal: Journal,
    pub backfill: Backfill<RequestContract<P>, Journal>,
    pub walk: WalkSender,
    /// The cursor.
    pub progress: watch::Receiver<Option<BlockRef>>,
    pub wait_reasons: WaitReasons,
    pub clock: Clock,
}

impl<P: ChainReader> OperatorRequests<P> {
    /// Publishes the inbox, and answers until the tasks that receive its requests have ended.
    pub(super) async fn run(self, publish_inbox: watch::Sender<Option<Inbox>>) {
        let Self { journal, backfill, walk, progress, wait_reasons: why, clock } = self;
        let (inbox, mut inquiries) = mpsc::channel(INBOX_SIZE);
        publish_inbox.send_replace(Some(inbox));
        let final_height = why.final_height.clone();
        let actions =
            OperatorActions::new(journal.clone(), backfill, walk.clone(), progress, final_height);
        let mut wanted: VecDeque<(Inquiry, InquiryReply)> = VecDeque::new();
        let mut action: Option<BoxFuture<'_, Vec<QueuedRequest>>> = None;
        let mut waiting: VecDeque<QueuedRequest> = VecDeque::new();
        loop {
            if action.is_none()
                && let Some((inquiry, reply)) = wanted.pop_front()
            {
                action = Some(Box::pin(actions.perform(inquiry, reply, waiting.len())));
            }
            let fulfilling = async {
                match action.as_mut() {
                    Some(action) => action.await,
                    None => std::future::pending().await,
                }
            };
            let next_kind =
                waiting.front().map_or(Kind::PublicDecryption, |next| next.request.kind());
            tokio::select! {
                biased;
                asked = inquiries.recv() => {
                    let Some(PendingInquiry { inquiry, reply }) = asked else { return };
                    if !inquiry.is_action() {
                        let asked = journal.query(move |look| Ok(read(look, &inquiry))).await;
                        let mut told = asked.unwrap_or_else(|error| Err(error.to_string()));
                        if let Ok(told) = &mut told {
                            why.explain(told, clock.unix_millis());
                        }
                        // The asker may be gone by now.
                        let _ = reply.send(told);
                    } else if wanted.len() < INBOX_SIZE {
                        wanted.push_back((inquiry, reply));
                    } else {
                        let why = "it is busy with other requests of operators: ask again in a \
                                   moment";
                        let _ = reply.send(Err(why.to_owned()));
                    }
                }
                found = fulfilling => {
                    action = None;
                    waiting.extend(found);
                }
                Ok(place) = walk.reserve(next_kind), if !waiting.is_empty() => {
                    if let Some(queued) = waiting.pop_front() {
                        place.send(queued);
                    }
                }
            }
        }
    }
}

/// Whether a request that is to be retried has a walk to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryContext {
    /// The walk, and whether the request is unattended: it should be walked, and no task has it.
    Running {
        is_forgotten: bool,
    },
    JournalOnly,
}

/// Prepares a retry of this request and returns whether it is to be walked now.
async fn retry(
    journal: &Journal,
    record: &RequestRecord,
    stands: RetryContext,
) -> Result<(Retried, bool), String> {
    let when = match stands {
        RetryContext::Running { .. } => "tried again now",
        RetryContext::JournalOnly => "tried again when the instance starts",
    };
    let progress = &record.progress;
    let (verdict, text) = match (&progress.outcome, &progress.held) {
        (None, Some(held)) => (
            RetryVerdict::Tried,
            format!("it was held ({}) and is {when}", held.hold.reason.as_str()),
        ),
        (None, None) => {
            let stage = progress.stage.as_str();
            if stands == (RetryContext::Running { is_forgotten: true }) {
                let text =
                    format!("its walk was lost ({stage}): it is {when}; please report its log");
                (RetryVerdict::Tried, text)
            } else {
                (
                    RetryVerdict::InHand,
                    format!("it is in hand ({stage}) and not held: nothing to do"),
                )
            }
        }
        (
            Some(
                outcome @ (Outcome::Refused(_)
                | Outcome::Expired
                | Outcome::Orphaned
                | Outcome::AlreadyAnswered
                | Outcome::NoAnswerDue),
            ),
            _,
        ) => {
            // Whatever its outcome, the contract is asked before anything is sent.
            let ended = outcome.as_str();
            let opened = journal.open_again(record.key).await.map_err(|error| error.to_string())?;
            if opened {
                (
                    RetryVerdict::OpenedAgain,
                    format!("it had ended as {ended}; it is open and {when}"),
                )
            } else {
                (RetryVerdict::InHand, "it was opened again just before".to_owned())
            }
        }
        (Some(Outcome::Accepted { transaction, block }), _) => (
            RetryVerdict::Refused,
            format!(
                "its answer was accepted in block {} (transaction {transaction}): there is nothing \
                 to try",
                block.number
            ),
        ),
        (Some(Outcome::Aborted), _) => (
            RetryVerdict::Refused,
            "the contract has taken it back: there is nothing to try".to_owned(),
        ),
        (Some(Outcome::Recorded), _) => (
            RetryVerdict::Refused,
            "it asks this node for nothing: there is nothing to try".to_owned(),
        ),
        (Some(Outcome::Observed), _) => (
            RetryVerdict::Refused,
            "this instance only observes (mode = \"observe\") and answers nothing".to_owned(),
        ),
    };
    let id = record.key.to_string();
    let content = record.key.content.to_string();
    let walks = matches!(verdict, RetryVerdict::Tried | RetryVerdict::OpenedAgain);
    Ok((Retried { id, content, verdict, text }, walks && stands != RetryContext::JournalOnly))
}

/// Answers a question, which is no action, from a journal that nothing has open. Blocking.
pub(super) fn read_stored(found: &ReadOnly, question: &Inquiry) -> Result<InquiryAnswer, String> {
    read(&found.queries(), question)
}

/// Answers for a stopped instance from its journal. Blocking. A retry takes the journal's lock, and
/// names the holder if it is taken.
pub async fn answer_stopped(found: &ReadOnly, inquiry: &Inquiry) -> Result<InquiryAnswer, String> {
    match inquiry {
        Inquiry::List { .. } | Inquiry::Export { .. } | Inquiry::Show { .. } => {
            read(&found.queries(), inquiry)
        }
        Inquiry::Retry { id } => {
            let id = parse_id(id)?;
            let records = found.queries().ask(|slot| Query::WithId(id, slot));
            let records =
                records.map_err(|error| format!("the journal cannot be read: {error}"))?;
            let records = require_found(records, id)?;
            retry_stopped(found, records).await
        }
        Inquiry::Backfill { .. } => Err("blocks are read again by a running instance".to_owned()),
        Inquiry::Approve { .. } => Err("an approval needs a running instance: start it".to_owned()),
    }
}

async fn retry_stopped(
    found: &ReadOnly,
    records: Vec<RequestRecord>,
) -> Result<InquiryAnswer, String> {
    let (journal, writer) = found.open_to_write().map_err(|error| error.to_string())?;
    let stop = CancellationToken::new();
    let mut writing = JoinSet::new();
    writing.spawn(writer.run(Heartbeat::default(), Metrics::default(), stop.clone()));
    let storing = async {
        let mut retried = Vec::new();
        for record in records {
            retried.push(retry(&journal, &record, RetryContext::JournalOnly).await?.0);
        }
        Ok(InquiryAnswer::Retried { requests: retried })
    };
    let late = |_| {
        Err(format!(
            "the journal took longer than {STORE_DEADLINE:?}: what was asked may be stored all the \
             same; see the disk, and ask again"
        ))
    };
    let told = timeout(STORE_DEADLINE, storing).await.unwrap_or_else(late);
    stop.cancel();
    // The file is closed when the writer ends.
    let _ = timeout(STORE_DEADLINE, writing.join_next()).await;
    told
}

#[cfg(test)]
mod tests;
