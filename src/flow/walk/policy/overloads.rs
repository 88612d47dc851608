//! Whether two events of one id are the overloads of one request, from v0.15-dev on (gateway-abi 4.1), and
//! contradict each other.

use crate::domain::{EventShape, Request};

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
