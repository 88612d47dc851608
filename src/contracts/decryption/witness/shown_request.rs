//! What a node shows of a request: the whole event, as far as it means anything. The key alone is not
//! enough: one node could put other ciphertexts under the same request.

use std::collections::HashSet;

use crate::{
    contracts::abi,
    domain::{B256, Event, Request, RequestKey, RequestSource},
};

/// A request's key and the hash of its materials.
pub(super) type ShownRequest = (RequestKey, B256);

pub(super) fn shown_request(request: &Request) -> ShownRequest {
    (request.key, abi::materials_hash(request))
}

/// The requests among these logs.
pub(super) fn shown_requests(source: RequestSource, events: &[Event]) -> HashSet<ShownRequest> {
    let decoded = events.iter().filter_map(|event| abi::decode(source, event).ok());
    decoded.map(|request| shown_request(&request)).collect()
}
