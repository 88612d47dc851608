//! Checks that the gateway nodes agree that a request is on chain, so that one lying node cannot have
//! anything decrypted.

use super::{
    Flow, RequestLedger,
    ciphertexts::BucketRegistry,
    walk::policy::setback::{Cause, Setback},
};
use crate::{
    chain::sender::TransactionSender,
    contracts::decryption::WitnessVerdict,
    domain::{BlockRef, Outcome, Remedy, Request},
};

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// Runs beside the fetch of the ciphertexts. Where there are two nodes, two have to show the request. A
    /// node that is behind or does not answer is waited for briefly. While a node denies the request, it is
    /// `doubted` and nothing is fetched for it. Returns an outcome if all nodes say that it was never
    /// there.
    pub(super) async fn check_witnesses(
        &self,
        request: &Request,
        block: BlockRef,
        again: bool,
        doubted: &mut bool,
    ) -> Result<Option<Outcome>, Setback> {
        let witnessed = self.confirmation_of(request).ask_witnesses(request, block, again).await;
        *doubted = matches!(witnessed, WitnessVerdict::NoNode | WitnessVerdict::Disputed { .. });
        match witnessed {
            WitnessVerdict::OnlyNode => {}
            WitnessVerdict::TwoNodes => self.metrics.count_witnessed("by_two"),
            WitnessVerdict::OneNode => self.metrics.count_witnessed("by_one"),
            WitnessVerdict::NoNode => {
                return Err(Setback::retry(Cause::NoNodeShowsIt));
            }
            WitnessVerdict::Disputed { shown_by, denied_by, .. } => {
                self.metrics.count_witnessed("disputed");
                let cause = Cause::Disputed { shown_by, denied_by };
                return Err(Setback::own(Remedy::Retry, cause));
            }
            WitnessVerdict::NeverExisted => {
                self.metrics.count_witnessed("nowhere");
                // The block may contain another request instead.
                self.confirmation_of(request).reread_block(request);
                return Ok(Some(Outcome::Orphaned));
            }
        }
        Ok(None)
    }
}
