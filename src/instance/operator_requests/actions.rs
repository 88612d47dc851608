//! Operator actions on an instance: retry a request, read blocks again (backfill).
//!
//! Both store something, and a disk may be full for hours. The reply still comes in time and says that
//! storing takes longer. What was given to the journal will be stored, so an action runs to its end
//! even when its asker is gone, and the requests it finds are walked. The nodes have a separate
//! deadline: what they do not answer stays unknown.

use std::pin::pin;

use tokio::{
    sync::{Mutex, watch},
    time::{Duration, Instant, timeout},
};
use tracing::{info, warn};

use super::{RetryContext, parse_id, require_found, retry};
use crate::{
    admin::requests::{Backfilled, Inquiry, InquiryAnswer, InquiryReply, Retried, RetryVerdict},
    chain::reader::ChainReader,
    contracts::{abi, decryption::RequestContract},
    domain::{BlockRef, HoldReason},
    flow::{QueuedRequest, WalkSender, arrivals::backfill::Backfill, finality::rule::FinalHeight},
    journal::{Journal, Query, RequestRecord, StageName},
};

/// How long blocks are read for one answer.
const BACKFILL_TIME: Duration = Duration::from_secs(3);
/// Deadline of one range of blocks at a slow node.
const RANGE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the journal may take before the reply says that storing continues.
const STORE_DEADLINE: Duration = Duration::from_secs(15);
/// Backfill stops reading while this many requests wait for the walk.
const MAX_WAITING: usize = 10_000;

/// What actions need.
#[derive(Debug)]
pub(super) struct OperatorActions<P: ChainReader> {
    journal: Journal,
    /// Also serialises the actions.
    backfill: Mutex<Backfill<RequestContract<P>, Journal>>,
    walk: WalkSender,
    progress: watch::Receiver<Option<BlockRef>>,
    /// Final height: requests up to it may be walked.
    final_height: watch::Receiver<FinalHeight>,
}

/// The reply channel, until it is used.
struct ReplyOnce(Option<InquiryReply>);

impl ReplyOnce {
    fn answer(&mut self, told: Result<InquiryAnswer, String>) {
        match (self.0.take(), told) {
            (Some(reply), told) => {
                // The asker may be gone by now.
                let _ = reply.send(told);
            }
            (None, Ok(_)) => {
                info!("an operator's request is carried out now: the journal is written again");
            }
            (None, Err(why)) => warn!(why, "an operator's request is not carried out"),
        }
    }
}

/// What comes of the approval of this request.
fn approval_of(record: &RequestRecord, by: &str) -> (RetryVerdict, String) {
    let held = record.progress.held.as_ref().map(|held| held.hold.reason);
    match (&record.approval, &record.progress.outcome, held) {
        _ if !record.kind.is_key_operation() => {
            (RetryVerdict::Refused, format!("it is a {}: no operator approves that", record.kind))
        }
        (_, Some(outcome), _) => {
            (RetryVerdict::Refused, format!("it has ended as {}", outcome.as_str()))
        }
        (Some(before), None, _) => {
            (RetryVerdict::InHand, format!("it was approved before, by {}", before.by))
        }
        (None, None, Some(HoldReason::OperatorApproval)) => {
            (RetryVerdict::Tried, format!("approved by {by}: it is tried now"))
        }
        (None, None, held) => {
            let held =
                held.map_or("not held".to_owned(), |held| format!("held ({})", held.as_str()));
            (RetryVerdict::Refused, format!("it does not wait for an approval: it is {held}"))
        }
    }
}

impl<P: ChainReader> OperatorActions<P> {
    pub(super) fn new(
        journal: Journal,
        backfill: Backfill<RequestContract<P>, Journal>,
        walk: WalkSender,
        progress: watch::Receiver<Option<BlockRef>>,
        final_height: watch::Receiver<FinalHeight>,
    ) -> Self {
        Self { journal, backfill: Mutex::new(backfill), walk, progress, final_height }
    }

    /// Replies in time, continues until everything is stored, and returns the requests to walk.
    /// `waiting`: requests that already wait for the walk.
    pub(super) async fn perform(
        &self,
        inquiry: Inquiry,
        reply: InquiryReply,
        waiting: usize,
    ) -> Vec<QueuedRequest> {
        let (mut asker, mut found) = (ReplyOnce(Some(reply)), Vec::new());
        match inquiry {
            Inquiry::Retry { id } => self.retry(&id, &mut asker, &mut found).await,
            Inquiry::Approve { id, by } => {
                self.answer_in_time(self.approve(&id, &by, &mut found), &mut asker).await;
            }
            Inquiry::Backfill { chain: Some(chain), .. } if chain != self.journal.chain_id() => {
                asker.answer(Err(format!("this instance does not read chain {chain}")));
            }
            Inquiry::Backfill { from, to, .. } => {
                let told = self.backfill(from, to, waiting, &mut asker, &mut found).await;
                asker.answer(told.map(InquiryAnswer::Backfilled));
            }
            Inquiry::List { .. } | Inquiry::Export { .. } | Inquiry::Show { .. } => {}
        }
        found
    }

    async fn retry(&self, id: &str, asker: &mut ReplyOnce, found: &mut Vec<QueuedRequest>) {
        self.answer_in_time(self.try_again(id, found), asker).await;
    }

    /// Carries something out that stores something, and answers with its result, or in time that it takes
    /// longer.
    async fn answer_in_time(
        &self,
        doing: impl Future<Output = Result<InquiryAnswer, String>>,
        asker: &mut ReplyOnce,
    ) {
        let told = self.or_tell_delay(doing, asker, |why| {
            format!(
                "{why}; what was asked is done as soon as it is, unless the instance ends before"
            )
        });
        let told = told.await;
        asker.answer(told);
    }

    /// Waits for the journal's result. Replies early if storing takes long.
    async fn or_tell_delay<T>(
        &self,
        storing: impl Future<Output = T>,
        asker: &mut ReplyOnce,
        late: impl FnOnce(String) -> String,
    ) -> T {
        let mut storing = pin!(storing);
        if let Ok(done) = timeout(STORE_DEADLINE, &mut storing).await {
            return done;
        }
        let waits = self.journal.condition().waiting_reason();
        let waits = waits.map_or_else(
            || format!("it took longer than {STORE_DEADLINE:?}"),
            |why| why.to_string(),
        );
        asker.answer(Err(late(format!("the journal is not written just now ({waits})"))));
        storing.await
    }

    async fn try_again(
        &self,
        id: &str,
        found: &mut Vec<QueuedRequest>,
    ) -> Result<InquiryAnswer, String> {
        let id = parse_id(id)?;
        // Notes must be visible to the query.
        self.journal.flush().await.map_err(|error| error.to_string())?;
        let records = self.journal.ask(|slot| Query::WithId(id, slot)).await;
        let records = require_found(records.map_err(|error| error.to_string())?, id)?;
        let mut retried = Vec::new();
        for record in records {
            let forgotten = !self.walk.is_attended(record.key) && self.is_due(&record);
            let stands = RetryContext::Running { is_forgotten: forgotten };
            let (told, try_now) = retry(&self.journal, &record, stands).await?;
            if try_now {
                let request = abi::decode(record.key.source, &record.event).map_err(|error| {
                    format!("a stored request cannot be decoded by this version: {error}")
                })?;
                found.push(QueuedRequest { is_final: true, ..self.walk.attend(request, true) });
            }
            info!(request = %record.key, verdict = told.text, "an operator asks for a retry");
            retried.push(told);
        }
        Ok(InquiryAnswer::Retried { requests: retried })
    }

    async fn approve(
        &self,
        id: &str,
        by: &str,
        found: &mut Vec<QueuedRequest>,
    ) -> Result<InquiryAnswer, String> {
        let id = parse_id(id)?;
        // Notes must be visible to the query.
        self.journal.flush().await.map_err(|error| error.to_string())?;
        let records = self.journal.ask(|slot| Query::WithId(id, slot)).await;
        let records = require_found(records.map_err(|error| error.to_string())?, id)?;
        let mut approved = Vec::new();
        for record in records {
            let (verdict, text) = approval_of(&record, by);
            if verdict == RetryVerdict::Tried {
                let stored = self.journal.approve(record.key, by.to_owned()).await;
                stored.map_err(|error| error.to_string())?;
                let request = abi::decode(record.key.source, &record.event).map_err(|error| {
                    format!("a stored request cannot be decoded by this version: {error}")
                })?;
                found.push(QueuedRequest { is_final: true, ..self.walk.attend(request, true) });
                info!(request = %record.key, kind = %record.kind, by, "an operator approves a key operation");
            }
            let (id, content) = (record.key.to_string(), record.key.content.to_string());
            approved.push(Retried { id, content, verdict, text });
        }
        Ok(InquiryAnswer::Retried { requests: approved })
    }

    /// Returns whether it may be walked: its block is final, or was.
    fn is_due(&self, record: &RequestRecord) -> bool {
        let covered = self.final_height.borrow().covers(record.kind, record.event.block.number);
        covered || record.progress.stage != StageName::Arrived
    }

    async fn backfill(
        &self,
        from: u64,
        to: Option<u64>,
        waiting: usize,
        asker: &mut ReplyOnce,
        found: &mut Vec<QueuedRequest>,
    ) -> Result<Backfilled, String> {
        let Some(cursor) = self.progress.borrow().map(|block| block.number) else {
            return Err("it has read no block yet: ask again when it has".to_owned());
        };
        // Blocks after the cursor are read in their turn.
        let end = to.unwrap_or(cursor).min(cursor);
        if from > end {
            return Err(match to {
                Some(to) if to < from => format!("--to {to} is before --from {from}"),
                Some(_) | None => {
                    format!(
                        "it has read up to block {cursor}: block {from} was not read yet, and is read in \
                         its turn"
                    )
                }
            });
        }
        let mut backfill = self.backfill.lock().await;
        let mut done = Backfilled { from, to: from, end, requests: 0, new: 0 };
        let (begun, mut next) = (Instant::now(), from);
        while next <= end {
            let waiting = waiting + found.len();
            if waiting >= MAX_WAITING {
                return Err(format!(
                    "{waiting} requests found so far wait for a place: block {next} is the next to be \
                     read, ask for it again when `status` shows fewer in hand"
                ));
            }
            let range = match timeout(RANGE_DEADLINE, backfill.read(next, end)).await {
                Ok(Ok(range)) => range,
                Ok(Err(error)) => return Err(format!("{error}; go on with --from {next}")),
                Err(_) => {
                    return Err(format!(
                        "no answer of the node within {RANGE_DEADLINE:?}; go on with --from {next}"
                    ));
                }
            };
            let (to, requests) = (range.to, range.requests());
            let new = self.or_tell_delay(backfill.store(range), asker, |why| {
                format!(
                    "{why}: the {requests} requests of blocks {next} to {to} are stored and walked as \
                     soon as it is, unless the instance ends before; then go on with --from {}",
                    to + 1
                )
            });
            let new = new.await.map_err(|error| format!("{error}; go on with --from {next}"))?;
            done.to = to;
            done.requests += requests as u64;
            done.new += new.len() as u64;
            for request in new {
                warn!(request = %request.key, block = request.block.number,
                    "a request that was not known, or had left the chain, is found in blocks that are read again");
                // An earlier run may have answered it.
                found.push(self.walk.attend(request, true));
            }
            next = to + 1;
            // Nobody waits for the rest.
            if begun.elapsed() >= BACKFILL_TIME || asker.0.is_none() {
                break;
            }
        }
        let Backfilled { from, to, end, requests, new } = done;
        info!(from, to, end, requests, new, "blocks are read again for an operator");
        Ok(done)
    }
}
