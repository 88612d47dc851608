//! When a refusal ends a request: what it rests on must be certain. Pure.
//!
//! ```text
//! what it rests on is shown by        what follows
//! ---------------------------------------------------------------------------------------------
//! two nodes                           it ends
//! the only node, or one reading of    held(unconfirmed); shown again at its retry: it ends
//!   a host chain or the registry
//! one of several nodes                held(unconfirmed), also at each retry
//! ```
//!
//! So one answer of one node ends nothing. Who shows it is found out where it is read: the event by
//! `flow::confirmation`, which has the last word before a walk ends; calldata and the state of chains by
//! the access check ([`super::access_history`]).

use crate::{domain::HoldReason, flow::access::Witnesses};

/// Returns whether the request may end. `held`: the reason for which it was held when its walk began.
pub(in crate::flow) fn is_confirmed(shown_by: Witnesses, held: Option<HoldReason>) -> bool {
    match shown_by {
        Witnesses::Two => true,
        Witnesses::TheOnlyOne => held == Some(HoldReason::Unconfirmed),
        Witnesses::One => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b11_one_look_at_one_node_ends_nothing() {
        let (unconfirmed, other) = (Some(HoldReason::Unconfirmed), Some(HoldReason::NoProgress));
        for (shown_by, expected) in [
            (Witnesses::Two, [true, true, true]),
            (Witnesses::TheOnlyOne, [false, false, true]),
            (Witnesses::One, [false, false, false]),
        ] {
            let found = [None, other, unconfirmed].map(|held| is_confirmed(shown_by, held));
            assert_eq!(found, expected, "{shown_by:?}");
        }
    }
}
