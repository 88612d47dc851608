//! Whether two events of one id are the overloads of one request, from v0.15-dev on (gateway-abi 4.1), and
//! contradict each other. Pure.
//!
//! A node that lies may show any number of events that do not exist. Only those that it claims for the
//! request's own transaction are compared; where they are too many to compare, a true contradiction may be
//! among them, and the request is held.

use crate::domain::{EventShape, Hold, HoldReason, Request};

/// The most other events of a request's transaction that are compared with it. The contract emits one.
pub(in crate::flow) const MOST_COMPARED: u32 = 32;

/// The hold if these are more events than are compared.
pub(in crate::flow) fn too_many(request: &Request, others: usize) -> Option<Hold> {
    (others > MOST_COMPARED as usize).then(|| {
        let detail = format!(
            "more than {MOST_COMPARED} other events of this id are shown for its transaction {}, too many to \
             compare: a gateway node invents them",
            request.transaction
        );
        Hold::new(HoldReason::EventsDisagree, detail)
    })
}

/// `other`: a request of the same id whose event asks for something else.
pub(in crate::flow) fn disagree(request: &Request, other: &Request) -> bool {
    // Two events of one kind in a transaction are not overloads: one of them is no event of the contract, and
    // the nodes tell which.
    let is_overload = |one: &Request| one.shape == EventShape::Head;
    request.key.id == other.key.id
        && request.key != other.key
        && request.transaction == other.transaction
        && is_overload(request) != is_overload(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::fake_chain::{SOURCE, request_data, request_event},
        contracts::abi,
        domain::{B256, Event},
    };

    #[test]
    fn g9_only_an_overload_of_the_same_transaction_contradicts_a_request() {
        let request = |event: &Event| abi::decode(SOURCE, event).unwrap();
        let first = request(&request_event(1));
        let other = Event { data: request_data(9), ..request_event(1) };
        let overload = Request { shape: EventShape::Head, ..request(&other) };
        assert!(disagree(&first, &overload) && disagree(&overload, &first));
        // The same content is the same request.
        assert!(!disagree(&first, &Request { shape: EventShape::Head, ..first.clone() }));
        // Another event of the same kind, another transaction, another id.
        assert!(!disagree(&first, &request(&other)));
        let elsewhere = Request { transaction: B256::repeat_byte(7), ..overload.clone() };
        assert!(!disagree(&first, &elsewhere));
        assert!(!disagree(&request(&request_event(2)), &overload));
    }
}
