//! Door (a): what was read is decoded and stored with the cursor, then sent to the walks.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};
use tracing::{info, warn};

use super::{
    Arrivals,
    decoded::{DecodedEvents, decode, log_skipped},
    error::ReadError,
    source::EventSource,
};
use crate::{
    chain::reader::{ChainReader as _, NodeId},
    contracts::decryption::DeploymentSupport,
    domain::{BlockRef, Event, Request},
    flow::ledger::{RequestLedger, Sighting},
};

/// The longest time before a cursor that passed no requests is stored.
const CURSOR_STORED_WITHIN: Duration = Duration::from_secs(30);
/// How far around a late log other hidden logs are looked for.
const SUSPECT_MARGIN: u64 = 64;
/// The most undecodable logs remembered whose block was already read again.
const MAX_DAMAGED: usize = 1024;

/// Events found outside the first reading. They are stored before their conclusions are applied.
#[derive(Debug)]
pub(super) struct FoundEvents {
    pub(super) events: Vec<Event>,
    pub(super) by: NodeId,
    pub(super) how: FoundKind,
    /// Notified once they are stored.
    pub(super) stored: oneshot::Sender<()>,
}

/// How they were found.
#[derive(Clone, Copy, Debug)]
pub(super) enum FoundKind {
    /// These blocks were read again, with a call made at `asked`.
    Reread { from: u64, to: u64, asked: Instant },
    /// A request was suspected in these blocks.
    Suspected,
    /// The block's logs are in doubt.
    InDoubt,
    /// The block has exactly these events.
    Proven { number: u64 },
}

impl<S: EventSource, L: RequestLedger> Arrivals<S, L> {
    fn move_cursor(&mut self, cursor: Option<BlockRef>) {
        if let Some(before) = self.cursor {
            self.checkpoints.record(before);
        }
        self.cursor = cursor;
        self.progress.send_replace(cursor);
    }

    /// Stores what another loop found.
    pub(super) async fn store_finding(&mut self, found: FoundEvents) -> Result<(), ReadError> {
        let FoundEvents { mut events, by, how, stored } = found;
        // Blocks above the cursor are read again anyway, and may be of a chain that was reorganised since the
        // call was made.
        let up_to = self.cursor.map_or(0, |cursor| cursor.number);
        events.retain(|event| event.block.number <= up_to);
        if let FoundKind::Proven { number } = how
            && number <= up_to
        {
            self.state.lock().unproven.remove(number);
        }
        let late = self.store(events, None).await?;
        match how {
            FoundKind::Reread { from, to, asked } => {
                self.state.lock().read_once.record_second_reading(from, to, asked);
                self.on_late_requests(&late, by, (from, to));
            }
            FoundKind::Suspected | FoundKind::InDoubt | FoundKind::Proven { .. }
                if late.is_empty() => {}
            FoundKind::Suspected | FoundKind::InDoubt | FoundKind::Proven { .. } => {
                let (requests, host) = (late.len(), self.source.chain().host(by));
                let block = late.first().map(|block| block.number);
                warn!(requests, host, block, "hidden requests were found and are stored now");
            }
        }
        // The loop that found them may have ended.
        let _ = stored.send(());
        Ok(())
    }

    /// The first reading missed requests of these blocks. A node that hid one may hide others nearby. If
    /// the block was skipped because of its bloom, that node's blooms are not trusted any more.
    fn on_late_requests(&mut self, late: &[BlockRef], by: NodeId, (from, to): (u64, u64)) {
        let (Some(first), Some(last)) = (late.first(), late.last()) else { return };
        let host = self.source.chain().host(by);
        warn!(
            late = late.len(),
            from, to, host, "requests were missing at the first reading and are stored now"
        );
        let suspected = (
            first.number.saturating_sub(SUSPECT_MARGIN),
            last.number.saturating_add(SUSPECT_MARGIN),
        );
        self.suspects.reread_everywhere(suspected.0.max(from), suspected.1.min(to));
        for block in late {
            let read = self.recent.get(&block.number).filter(|read| read.hash == block.hash);
            if let Some(node) = read.and_then(|read| read.excluded_by) {
                self.distrust(node);
            }
        }
    }

    /// Stores the batch (door a) and sends its new requests to the walks. Returns their blocks.
    ///
    /// Blocks without requests are not worth a commit each: their cursor is stored with the next request,
    /// or after a while. A restart reads them again.
    pub(super) async fn store(
        &mut self,
        events: Vec<Event>,
        cursor: Option<BlockRef>,
    ) -> Result<Vec<BlockRef>, ReadError> {
        self.ids.lock().record_events(&events, Instant::now());
        let seen = |block: BlockRef| match cursor {
            Some(_) => Sighting::Joined,
            None if self.was_read_otherwise(block) => Sighting::Stale,
            None => Sighting::Found,
        };
        let DecodedEvents { mut batch, requests, upgrades } = decode(&self.source, events, seen);
        batch.cursor = cursor;
        for event in upgrades {
            if self.upgrades.insert((event.transaction, event.log_index)) {
                info!(block = event.block.number, "the contract was upgraded");
                let block = event.block.number;
                self.support.send_replace(DeploymentSupport::Upgraded { block });
            }
        }
        for (event, _) in &batch.skipped {
            self.reread_damaged(event);
        }
        {
            let mut notes = self.state.lock();
            batch.unproven = notes.unproven.take_changed();
            batch.read_twice = cursor.map(|cursor| notes.read_once.read_twice_up_to(cursor.number));
        }
        let holds_nothing =
            batch.arrivals.is_empty() && batch.skipped.is_empty() && batch.unproven.is_none();
        if holds_nothing && (cursor.is_none() || Instant::now() < self.store_at) {
            if cursor.is_some() {
                self.move_cursor(cursor);
            }
            return Ok(Vec::new());
        }
        batch.ids = self.ids.lock().take_changed();
        let skipped = batch.skipped.clone();
        let taken = self.heart.rest_while(self.ledger.store_batch(batch)).await?;
        log_skipped(&skipped, &taken);
        for _ in &taken.skipped {
            self.metrics.undecodable_log();
        }
        if cursor.is_some() {
            self.move_cursor(cursor);
            // Spread, so that the instances of a process do not all commit at the same block.
            self.store_at =
                Instant::now() + CURSOR_STORED_WITHIN.mul_f64(0.5 + 0.5 * self.dice.roll());
        }
        let mut requests: Vec<Option<Request>> = requests.into_iter().map(Some).collect();
        // All of them are attended before the first one waits for room.
        let (mut came, mut intakes) = (Vec::new(), Vec::new());
        let new = taken.new.into_iter().map(|index| (index, false));
        for (index, recovered) in new.chain(taken.reopened.into_iter().map(|index| (index, true))) {
            let Some(request) = requests.get_mut(index).and_then(Option::take) else { continue };
            if recovered {
                warn!(request = %request.key, block = request.block.number,
                    "request is in another block now: examining it again");
            } else {
                came.push(request.block);
                self.metrics.arrived(request.kind(), self.head_seen_at.elapsed());
                info!(request = %request.key, kind = %request.kind(), block = request.block.number,
                    "request arrived");
            }
            intakes.push(self.walk_sender.attend(request, recovered));
        }
        for intake in intakes {
            // They are in the journal: after a stop the next start processes them.
            let sent = self.heart.rest_while(self.walk_sender.send(intake)).await;
            sent.map_err(|_| ReadError::Stopping)?;
        }
        came.sort_unstable_by_key(|block| block.number);
        Ok(came)
    }

    /// Another node may have an undecodable log intact: its block is read at every node, once.
    fn reread_damaged(&mut self, event: &Event) {
        if self.damaged.len() >= MAX_DAMAGED {
            self.damaged.clear();
        }
        let (number, index) = (event.block.number, event.log_index);
        if self.damaged.insert((number, index)) {
            self.suspects.reread_everywhere(number, number);
        }
    }
}
