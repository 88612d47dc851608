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

use super::{Stands, parse, retry, some};
use crate::{
    domain::BlockRef,
    flow::{Entrance, Intake, arrivals::backfill::Backfill, depth::Line},
    gateway::{abi, decryption::DecryptionAdapter, provider::ChainReader},
    journal::{Journal, Query, RequestRecord, StageName},
    observe::requests::{Backfilled, Inquiry, Reply, Told},
};

/// How long blocks are read for one answer.
const BACKFILL_FOR: Duration = Duration::from_secs(3);
/// One range of blocks, by a node that is slow.
const RANGE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the journal may take before the asker is told that it will be later.
const STORE_DEADLINE: Duration = Duration::from_secs(15);
/// So many requests may wait for the walk before no more blocks are read.
const MOST_WAITING: usize = 10_000;

/// All that wishes need.
#[derive(Debug)]
pub(super) struct Wishes<P: ChainReader> {
    journal: Journal,
    /// One wish at a time.
    backfill: Mutex<Backfill<DecryptionAdapter<P>, Journal>>,
    walk: Entrance,
    progress: watch::Receiver<Option<BlockRef>>,
    /// Up to which block requests may be walked.
    line: watch::Receiver<Line>,
}

/// The way back to whoever wished, until it was used.
struct Asker(Option<Reply>);

impl Asker {
    fn tell(&mut self, told: Result<Told, String>) {
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

impl<P: ChainReader> Wishes<P> {
    pub(super) fn new(
        journal: Journal,
        backfill: Backfill<DecryptionAdapter<P>, Journal>,
        walk: Entrance,
        progress: watch::Receiver<Option<BlockRef>>,
        line: watch::Receiver<Line>,
    ) -> Self {
        Self { journal, backfill: Mutex::new(backfill), walk, progress, line }
    }

    /// Answers in time, goes on until all is stored, and hands back what is to be walked. `waiting`
    /// requests wait for that already.
    pub(super) async fn fulfil(
        &self,
        inquiry: Inquiry,
        reply: Reply,
        waiting: usize,
    ) -> Vec<Intake> {
        let (mut asker, mut found) = (Asker(Some(reply)), Vec::new());
        match inquiry {
            Inquiry::Retry { id } => self.retry(&id, &mut asker, &mut found).await,
            Inquiry::Backfill { from, to } => {
                let told = self.backfill(from, to, waiting, &mut asker, &mut found).await;
                asker.tell(told.map(Told::Backfilled));
            }
            Inquiry::List { .. } | Inquiry::Export { .. } | Inquiry::Show { .. } => {}
        }
        found
    }

    async fn retry(&self, id: &str, asker: &mut Asker, found: &mut Vec<Intake>) {
        let trying = self.try_again(id, found);
        let told = self.in_time(trying, asker, |why| {
            format!(
                "{why}; what was asked is done as soon as it is, unless the instance ends before"
            )
        });
        let told = told.await;
        asker.tell(told);
    }

    /// The result of what the journal is to do. If that takes long, the asker is told so.
    async fn in_time<T>(
        &self,
        storing: impl Future<Output = T>,
        asker: &mut Asker,
        late: impl FnOnce(String) -> String,
    ) -> T {
        let mut storing = pin!(storing);
        if let Ok(done) = timeout(STORE_DEADLINE, &mut storing).await {
            return done;
        }
        let waits = self.journal.condition().waits();
        let waits = waits.map_or_else(
            || format!("it took longer than {STORE_DEADLINE:?}"),
            |why| why.to_string(),
        );
        asker.tell(Err(late(format!("the journal is not written just now ({waits})"))));
        storing.await
    }

    async fn try_again(&self, id: &str, found: &mut Vec<Intake>) -> Result<Told, String> {
        let id = parse(id)?;
        // What was noted is to be seen.
        self.journal.flush().await.map_err(|error| error.to_string())?;
        let records = self.journal.ask(|slot| Query::WithId(id, slot)).await;
        let records = some(records.map_err(|error| error.to_string())?, id)?;
        let mut retried = Vec::new();
        for record in records {
            let forgotten = !self.walk.attends(record.key) && self.is_due(&record);
            let stands = Stands::InWalk { forgotten };
            let (told, try_now) = retry(&self.journal, &record, stands).await?;
            if try_now {
                let request = abi::decode(record.key.source, &record.event).map_err(|error| {
                    format!("a stored request cannot be decoded by this version: {error}")
                })?;
                found.push(Intake { is_ripe: true, ..self.walk.take(request, true) });
            }
            info!(request = %record.key, verdict = told.text, "an operator asks for another try");
            retried.push(told);
        }
        Ok(Told::Retried { requests: retried })
    }

    /// Whether it may be walked: its block is deep enough, or was.
    fn is_due(&self, record: &RequestRecord) -> bool {
        let covered = self.line.borrow().covers(record.kind, record.event.block.number);
        covered || record.progress.stage != StageName::Arrived
    }

    async fn backfill(
        &self,
        from: u64,
        to: Option<u64>,
        waiting: usize,
        asker: &mut Asker,
        found: &mut Vec<Intake>,
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
            if waiting >= MOST_WAITING {
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
            let new = self.in_time(backfill.store(range), asker, |why| {
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
                found.push(self.walk.take(request, true));
            }
            next = to + 1;
            // Nobody waits any more for what comes next.
            if begun.elapsed() >= BACKFILL_FOR || asker.0.is_none() {
                break;
            }
        }
        let Backfilled { from, to, end, requests, new } = done;
        info!(from, to, end, requests, new, "blocks are read again for an operator");
        Ok(done)
    }
}
