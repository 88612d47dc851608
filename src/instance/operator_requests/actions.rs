//! What an operator wishes of an instance: a request tried again, blocks read again.
//!
//! Both store something, and a disk may be full for hours. The answer comes in time all the same, and
//! says so; but what was given to the journal to be stored will be stored, and its requests are known
//! then. So a wish is followed to its end, whoever still waits for the answer, and what it brings is
//! walked. The deadline on the nodes is another one: what they do not tell is not known.

use std::pin::pin;

use tokio::{
    sync::{Mutex, watch},
    time::{Duration, Instant, timeout},
};
use tracing::{info, warn};

use super::{RetryContext, parse_id, require_found, retry};
use crate::{
    admin::requests::{Backfilled, Inquiry, InquiryAnswer, InquiryReply},
    chain::provider::ChainReader,
    contracts::{abi, decryption::DecryptionAdapter},
    domain::BlockRef,
    flow::{QueuedRequest, WalkSender, arrivals::backfill::Backfill, finality::rule::FinalHeight},
    journal::{Journal, Query, RequestRecord, StageName},
};

/// How long blocks are read for one answer.
const BACKFILL_TIME: Duration = Duration::from_secs(3);
/// One range of blocks, by a node that is slow.
const RANGE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the journal may take before the asker is told that it will be later.
const STORE_DEADLINE: Duration = Duration::from_secs(15);
/// So many requests may wait for the walk before no more blocks are read.
const MAX_WAITING: usize = 10_000;

/// All that wishes need.
#[derive(Debug)]
pub(super) struct OperatorActions<P: ChainReader> {
    journal: Journal,
    /// One wish at a time.
    backfill: Mutex<Backfill<DecryptionAdapter<P>, Journal>>,
    walk: WalkSender,
    progress: watch::Receiver<Option<BlockRef>>,
    /// Up to which block requests may be walked.
    final_height: watch::Receiver<FinalHeight>,
}

/// The way back to whoever wished, until it was used.
struct ReplyOnce(Option<InquiryReply>);

impl ReplyOnce {
    fn answer(&mut self, told: Result<InquiryAnswer, String>) {
        match (self.0.take(), told) {
            (Some(reply), told) => {
                // Who asked may be gone by now.
                let _ = reply.send(told);
            }
            (None, Ok(_)) => {
                info!("what an operator wished is done now: the journal is written again");
            }
            (None, Err(why)) => warn!(why, "what an operator wished is not done"),
        }
    }
}

impl<P: ChainReader> OperatorActions<P> {
    pub(super) fn new(
        journal: Journal,
        backfill: Backfill<DecryptionAdapter<P>, Journal>,
        walk: WalkSender,
        progress: watch::Receiver<Option<BlockRef>>,
        final_height: watch::Receiver<FinalHeight>,
    ) -> Self {
        Self { journal, backfill: Mutex::new(backfill), walk, progress, final_height }
    }

    /// Answers in time, goes on until all is stored, and hands back what is to be walked. `waiting`
    /// requests wait for that already.
    pub(super) async fn perform(
        &self,
        inquiry: Inquiry,
        reply: InquiryReply,
        waiting: usize,
    ) -> Vec<QueuedRequest> {
        let (mut asker, mut found) = (ReplyOnce(Some(reply)), Vec::new());
        match inquiry {
            Inquiry::Retry { id } => self.retry(&id, &mut asker, &mut found).await,
            Inquiry::Backfill { from, to } => {
                let told = self.backfill(from, to, waiting, &mut asker, &mut found).await;
                asker.answer(told.map(InquiryAnswer::Backfilled));
            }
            Inquiry::List { .. } | Inquiry::Export { .. } | Inquiry::Show { .. } => {}
        }
        found
    }

    async fn retry(&self, id: &str, asker: &mut ReplyOnce, found: &mut Vec<QueuedRequest>) {
        let trying = self.try_again(id, found);
        let told = self.or_tell_delay(trying, asker, |why| {
            format!(
                "{why}; what was asked is done as soon as it is, unless the instance ends before"
            )
        });
        let told = told.await;
        asker.answer(told);
    }

    /// The result of what the journal is to do. If that takes long, the asker is told so.
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
        // What was noted is to be seen.
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
            info!(request = %record.key, verdict = told.text, "an operator asks for another try");
            retried.push(told);
        }
        Ok(InquiryAnswer::Retried { requests: retried })
    }

    /// Whether it may be walked: its block is deep enough, or was.
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
                    "a request that was not known is found in blocks that are read again");
                // It may have been answered by an earlier life.
                found.push(self.walk.attend(request, true));
            }
            next = to + 1;
            // Nobody waits any more for what comes next.
            if begun.elapsed() >= BACKFILL_TIME || asker.0.is_none() {
                break;
            }
        }
        let Backfilled { from, to, end, requests, new } = done;
        info!(from, to, end, requests, new, "blocks are read again for an operator");
        Ok(done)
    }
}
