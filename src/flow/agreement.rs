//! Whether the gateway nodes agree that a request is on chain: one that lies must not have anything
//! decrypted.

use super::{
    Flow, RequestLedger,
    ciphertexts::Buckets,
    walk::policy::setback::{Cause, Setback},
};
use crate::{
    domain::{BlockRef, Outcome, Remedy, Request},
    gateway::{decryption::Witnessed, provider::TransactionSender},
};

impl<P: TransactionSender, B: Buckets, L: RequestLedger> Flow<P, B, L> {
    /// Beside the ciphertexts: two nodes have to show the request, where there are two. One that is
    /// behind or does not answer is waited for a moment, one that denies for as long as it does: then
    /// the request is `doubted`, and nothing is fetched for it. An outcome: it was never there, all of
    /// them say.
    pub(super) async fn witnessed(
        &self,
        request: &Request,
        block: BlockRef,
        again: bool,
        doubted: &mut bool,
    ) -> Result<Option<Outcome>, Setback> {
        let witnessed = self.confirmation.witnessed(request, block, again).await;
        *doubted = matches!(witnessed, Witnessed::ByNobody | Witnessed::Disputed { .. });
        match witnessed {
            Witnessed::NobodyElse => {}
            Witnessed::ByTwo => self.metrics.witnessed("by_two"),
            Witnessed::ByOne => self.metrics.witnessed("by_one"),
            Witnessed::ByNobody => {
                return Err(Setback::retry(Cause::ShownByNobody));
            }
            Witnessed::Disputed { shown_by, denied_by } => {
                self.metrics.witnessed("disputed");
                let cause = Cause::Disputed { shown_by, denied_by };
                return Err(Setback::own(Remedy::Retry, cause));
            }
            Witnessed::Nowhere => {
                self.metrics.witnessed("nowhere");
                // What should be in its place may not be known.
                self.confirmation.read_again(request);
                return Ok(Some(Outcome::Orphaned));
            }
        }
        Ok(None)
    }
}
