//! Sorts events into requests, upgrades of the contract, and undecodable logs.

use std::collections::HashSet;

use tracing::warn;

use super::source::EventSource;
use crate::{
    domain::{BlockRef, Event, Request, RequestKey},
    flow::ledger::{Arrival, Batch, Sighting, StoredBatch},
};

/// Decoded events.
pub(super) struct DecodedEvents {
    /// Without a cursor.
    pub batch: Batch,
    /// The requests of the batch, in its order.
    pub requests: Vec<Request>,
    pub upgrades: Vec<Event>,
}

/// `seen`: how the events of a block were seen.
pub(super) fn decode<S: EventSource>(
    source: &S,
    events: Vec<Event>,
    seen: impl Fn(BlockRef) -> Sighting,
) -> DecodedEvents {
    let mut decoded =
        DecodedEvents { batch: Batch::default(), requests: Vec::new(), upgrades: Vec::new() };
    let mut known: HashSet<RequestKey> = HashSet::new();
    for event in events {
        if source.is_upgrade(&event) {
            decoded.upgrades.push(event);
            continue;
        }
        if source.is_notice(&event) {
            continue;
        }
        match source.decode(&event) {
            Ok(request) => {
                // From v0.15-dev on each request has two events in one transaction: first one with its
                // materials, then one with handles only. It is one request.
                if !known.insert(request.key) {
                    continue;
                }
                let (key, kind, seen) = (request.key, request.kind(), seen(event.block));
                decoded.batch.arrivals.push(Arrival { key, kind, event, seen });
                decoded.requests.push(request);
            }
            Err(error) => decoded.batch.skipped.push((event, error.to_string())),
        }
    }
    decoded
}

/// Logs the undecodable logs that are newly stored: each is read many times.
pub(super) fn log_skipped(skipped: &[(Event, String)], taken: &StoredBatch) {
    for (event, error) in taken.skipped.iter().filter_map(|index| skipped.get(*index)) {
        warn!(
            block = event.block.number,
            transaction = %event.transaction,
            log_index = event.log_index,
            error,
            "a log cannot be decoded: stored and skipped"
        );
    }
}
