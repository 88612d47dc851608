//! What the access checks of one request mean together: what follows from a check without a pass, and
//! how long it is tried again before the request is set aside. Pure.
//!
//! ```text
//! the check                                           what follows
//! ------------------------------------------------------------------------------------------------
//! refused for its event                               refuse (the walk confirms the event first)
//! refused for its calldata, or the state of a chain   refuse if that is confirmed ([`super::refusals`]),
//!                                                     else held(unconfirmed)
//! the gateway does not answer, or was upgraded        again
//! no turn: other large requests are asked for         again
//! the configuration lacks the chain                   held
//! denied, early, the chain does not answer …          again for 20 s with growing pauses; then held,
//!                                                     also at each retry, with its reason
//! valid in more than a minute                         held, and again once it is valid ([`super`])
//! ```
//!
//! A denial never ends a request: the chain may lag behind the gateway.

use std::time::Duration;

use tokio::time::Instant;

use super::refusals::is_confirmed;
use crate::{
    domain::{Hold, HoldReason, Remedy, U256},
    flow::access::{AccessCheck, AccessError, AccessPass, AccessRecord, Grounds},
};

/// How long a request is tried again before it is held.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long before it becomes valid a request is waited for.
const SOON_SECS: u64 = 60;

/// How the checks of one request went.
#[derive(Clone, Debug)]
pub(in crate::flow) struct AccessHistory {
    /// The KMS context that was current when the request was made, if it names none and was checked.
    pub bound_context: Option<U256>,
    /// The last check's record, until it is taken to be stored.
    record: Option<AccessRecord>,
    /// Why the request was held when its walk began.
    held: Option<HoldReason>,
    /// When the first check without a pass ended. `None`: the last one gave a pass.
    since: Option<Instant>,
}

impl AccessHistory {
    pub fn begin(held: Option<HoldReason>, bound_context: Option<U256>) -> Self {
        Self { bound_context, record: None, held, since: None }
    }

    /// Whether the last check gave no pass, or the request is held for one: then it is checked before
    /// anything is fetched for it, and before it takes the Core's time.
    pub fn is_troubled(&self) -> bool {
        self.since.is_some() || self.held.is_some_and(is_of_access)
    }

    /// What the last check found, unless it was taken before.
    pub fn take_record(&mut self) -> Option<AccessRecord> {
        self.record.take()
    }

    /// Takes in a check. Without a pass: its error, and what follows from it.
    pub fn checked(
        &mut self,
        AccessCheck { result, record, bound_context }: AccessCheck,
        now: Instant,
    ) -> Result<AccessPass, Box<(Remedy, AccessError)>> {
        self.bound_context = bound_context;
        self.record = Some(record);
        match result {
            Ok(pass) => {
                (self.held, self.since) = (None, None);
                Ok(pass)
            }
            Err(error) => Err(Box::new((self.remedy(&error, now), error))),
        }
    }

    /// Takes in the check of a key operation's context, which needs no pass.
    pub fn context_checked(
        &mut self,
        result: Result<(), AccessError>,
        now: Instant,
    ) -> Result<(), Box<(Remedy, AccessError)>> {
        match result {
            Ok(()) => {
                (self.held, self.since) = (None, None);
                Ok(())
            }
            Err(error) => Err(Box::new((self.remedy(&error, now), error))),
        }
    }

    /// The remedy for a check without a pass.
    fn remedy(&mut self, error: &AccessError, now: Instant) -> Remedy {
        // Nothing was asked, so nothing is wrong yet.
        if matches!(error, AccessError::NoTurn { .. }) {
            return Remedy::Retry;
        }
        let since = *self.since.get_or_insert(now);
        let was_held = |reason| self.held == Some(reason);
        if let AccessError::Refused { refusal, grounds } = error {
            let shown_by = match grounds {
                Grounds::Event => return Remedy::Refuse(refusal.clone()),
                Grounds::Calldata { witnesses } | Grounds::State { witnesses } => *witnesses,
            };
            if is_confirmed(shown_by, self.held) {
                return Remedy::Refuse(refusal.clone());
            }
            let why = format!("{refusal}; it is checked again before it ends");
            return Remedy::Hold(Hold::new(HoldReason::Unconfirmed, why));
        }
        let Some(hold) = error.hold() else { return Remedy::Retry };
        let needs_configuration = matches!(
            error,
            AccessError::NotConfigured { .. } | AccessError::EthereumNotConfigured { .. }
        );
        let patience = if let AccessError::Early { now, start, .. } = error {
            match u64::try_from(start.saturating_sub(U256::from(*now))) {
                Ok(wait @ ..=SOON_SECS) => PATIENCE + Duration::from_secs(wait),
                Ok(_) | Err(_) => Duration::ZERO,
            }
        } else if needs_configuration || was_held(hold.reason) {
            Duration::ZERO
        } else {
            PATIENCE
        };
        if now.saturating_duration_since(since) >= patience {
            Remedy::Hold(hold)
        } else {
            Remedy::Retry
        }
    }
}

/// Whether the access check holds requests for this reason.
fn is_of_access(reason: HoldReason) -> bool {
    matches!(
        reason,
        HoldReason::AccessDeniedOnChain
            | HoldReason::NotYetValid
            | HoldReason::HostChainNotConfigured
            | HoldReason::HostChainStale
            | HoldReason::HostNodesDisagree
            | HoldReason::HostChainUnreachable
            | HoldReason::EthereumNotConfigured
            | HoldReason::ContextUnknown
            | HoldReason::EpochUnknown
            | HoldReason::NoTransaction
            | HoldReason::Unconfirmed
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{AccessRefusal, AccessRefusalReason, Refusal},
        flow::access::Witnesses,
    };

    fn denied() -> AccessError {
        AccessError::Denied { chain_id: 1, what: "no".into() }
    }

    fn refused(grounds: Grounds) -> AccessError {
        let why = AccessRefusal::new(AccessRefusalReason::ForeignCall, "no");
        AccessError::Refused { refusal: Refusal::AccessRefused(why), grounds }
    }

    fn shown_by(witnesses: Witnesses) -> AccessError {
        refused(Grounds::Calldata { witnesses })
    }

    fn of_state(witnesses: Witnesses) -> AccessError {
        refused(Grounds::State { witnesses })
    }

    fn early(wait: u64) -> AccessError {
        AccessError::Early { chain_id: 1, now: 100, start: U256::from(100 + wait) }
    }

    /// What follows from this error at these seconds after the first.
    fn remedies(held: Option<HoldReason>, error: &AccessError, at: &[u64]) -> Vec<&'static str> {
        let (mut patience, begun) = (AccessHistory::begin(held, None), Instant::now());
        let said = at.iter().map(|second| {
            match patience.remedy(error, begun + Duration::from_secs(*second)) {
                Remedy::Retry => "retry",
                Remedy::Hold(why) => why.reason.as_str(),
                Remedy::Refuse(_) => "refuse",
            }
        });
        said.collect()
    }

    #[test]
    fn what_ends_a_request_is_confirmed_and_what_time_mends_is_held() {
        let unconfirmed = Some(HoldReason::Unconfirmed);
        let was_denied = Some(HoldReason::AccessDeniedOnChain);
        let no_chain = AccessError::NotConfigured { chain_id: 7 };
        let rows = [
            (None, refused(Grounds::Event), "refuse"),
            (None, shown_by(Witnesses::Two), "refuse"),
            (None, shown_by(Witnesses::TheOnlyOne), "unconfirmed"),
            (unconfirmed, shown_by(Witnesses::TheOnlyOne), "refuse"),
            (None, shown_by(Witnesses::One), "unconfirmed"),
            (unconfirmed, shown_by(Witnesses::One), "unconfirmed"),
            (None, of_state(Witnesses::TheOnlyOne), "unconfirmed"),
            (was_denied, of_state(Witnesses::TheOnlyOne), "unconfirmed"),
            (unconfirmed, of_state(Witnesses::TheOnlyOne), "refuse"),
            (unconfirmed, of_state(Witnesses::One), "unconfirmed"),
            (None, no_chain, "host_chain_not_configured"),
            (None, early(61), "not_yet_valid"),
            (None, early(60), "retry"),
            (None, denied(), "retry"),
            (Some(HoldReason::AccessDeniedOnChain), denied(), "access_denied_on_chain"),
            (Some(HoldReason::NotYetValid), denied(), "retry"),
        ];
        for (held, error, expected) in rows {
            assert_eq!(remedies(held, &error, &[0]), [expected], "{held:?} {error:?}");
        }
    }

    /// While others are asked for first nothing was asked of it.
    #[test]
    fn waiting_for_a_turn_uses_up_no_patience() {
        let (mut patience, begun) = (AccessHistory::begin(None, None), Instant::now());
        let no_turn = AccessError::NoTurn { questions: 2_753, secs: 15 };
        for second in [0, 15, 30] {
            let at = begun + Duration::from_secs(second);
            assert_eq!(patience.remedy(&no_turn, at), Remedy::Retry);
        }
        assert!(!patience.is_troubled());
        let denied = patience.remedy(&denied(), begun + Duration::from_secs(45));
        assert_eq!(denied, Remedy::Retry);
    }

    #[test]
    fn a_denial_is_tried_again_for_seconds_and_then_held() {
        let said = remedies(None, &denied(), &[0, 10, 19, 20]);
        assert_eq!(said, ["retry", "retry", "retry", "access_denied_on_chain"]);
        let said = remedies(None, &early(30), &[0, 49, 50]);
        assert_eq!(said, ["retry", "retry", "not_yet_valid"]);
    }

    #[test]
    fn after_a_pass_patience_begins_anew() {
        let (mut patience, begun) = (AccessHistory::begin(None, None), Instant::now());
        assert!(!patience.is_troubled());
        assert_eq!(patience.remedy(&denied(), begun), Remedy::Retry);
        assert!(patience.is_troubled());
        let passed = AccessCheck {
            result: Ok(AccessPass::for_tests()),
            record: AccessRecord::default(),
            bound_context: None,
        };
        assert!(patience.checked(passed, begun).is_ok());
        assert!(!patience.is_troubled());
        let later = begun + Duration::from_hours(1);
        assert_eq!(patience.remedy(&denied(), later), Remedy::Retry);
        assert!(AccessHistory::begin(Some(HoldReason::HostChainStale), None).is_troubled());
        assert!(!AccessHistory::begin(Some(HoldReason::NoFunds), None).is_troubled());
    }
}
