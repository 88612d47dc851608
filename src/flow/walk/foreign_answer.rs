//! What an answer of the Core is that this request cannot be answered with: to another registration,
//! another request, or another KMS context.

use super::policy::setback::{Cause, Setback};
use crate::{
    chain::sender::TransactionSender,
    contracts::abi,
    domain::{Hold, HoldReason, Remedy, Request, U256},
    flow::{
        AnswerStages, Flow, RequestLedger,
        ciphertexts::BucketRegistry,
        kms_core::{AnswerError, CoreError, Expected, PollResult, WrongSigner},
    },
};

/// What the answer was expected to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedAnswer<'a> {
    /// The KMS context whose signers are expected. `None`: the current one, or there are none.
    pub context: Option<U256>,
    pub expected: Expected<'a>,
}

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// What follows from an answer that is not accepted, if it is somebody else's. `None`: it says nothing
    /// more than its error.
    pub(super) async fn explain_answer(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        expecting: ExpectedAnswer<'_>,
        error: &CoreError,
    ) -> Option<Setback> {
        let ExpectedAnswer { context, expected } = expecting;
        let Remedy::Hold(hold) = error.remedy() else { return None };
        if !matches!(hold.reason, HoldReason::SignerMismatch | HoldReason::InvalidAnswer) {
            return None;
        }
        let wrong = if let CoreError::Answer(AnswerError::WrongSigner(wrong)) = error {
            Some(wrong)
        } else {
            None
        };
        if wrong.is_some() {
            let now = self.signers_of_all_nodes(rooms, request, context).await;
            if now.is_ok_and(|now| now != expected.signers) {
                return Some(Setback::retry(Cause::RegistrationChanged));
            }
        }
        if self.answers_other_request_of_same_id(rooms, request, expected).await {
            let hold = Hold::new(
                HoldReason::StaleAnswer,
                "the KMS Core still has the answer to another request of this id, which has left the \
                 chain; it goes on once the Core has forgotten that",
            );
            return Some(Setback::held(hold));
        }
        self.name_other_context(rooms, request, context?, wrong?).await.map(Setback::held)
    }

    /// Returns whether the Core's answer belongs to a request with the same id and other content: the Core
    /// knows requests by id alone, but its signature covers the content.
    async fn answers_other_request_of_same_id(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        expected: Expected<'_>,
    ) -> bool {
        let namesakes = self.ledger.events_of_same_id(request.key).await.unwrap_or_default();
        for event in namesakes {
            let Ok(other) = abi::decode(request.key.source, &event) else { continue };
            if other.kind() == request.kind()
                && matches!(
                    rooms.core_of(&other).poll(&other, expected).await,
                    Ok(PollResult::Answer(_))
                )
            {
                return true;
            }
        }
        false
    }

    /// The hold for an answer that this node's signer of another KMS context signed: of the current one, or
    /// of a neighbour of the request's.
    async fn name_other_context(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        context: U256,
        wrong: &WrongSigner,
    ) -> Option<Hold> {
        let (before, after) =
            (context.saturating_sub(U256::ONE), context.saturating_add(U256::ONE));
        for other in [None, Some(before), Some(after)] {
            let signers = self.registered_signers(rooms, request, other).await.unwrap_or_default();
            if !signers.contains(&wrong.signer) {
                continue;
            }
            let other = other.map_or("the current KMS context".to_owned(), |other| {
                format!("KMS context {other:#066x}")
            });
            let detail = format!(
                "the KMS Core signed as {}, which is this node's signer in {other}; the request is of \
                 KMS context {context:#066x}, where it is {}: the Core answers in another context",
                wrong.signer, wrong.expected
            );
            return Some(Hold::new(HoldReason::SignerMismatch, detail));
        }
        None
    }
}
