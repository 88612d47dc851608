//! Who is registered for this node: by the gateway, or on Ethereum for what is asked for there. The gateway learns
//! of a KMS context later than Ethereum, and of some never. An epoch is signed before its context is in force: its
//! signer is the one in the context's definition.

use super::{key_operations::signed_on_ethereum, policy::setback::Setback};
use crate::{
    chain::sender::TransactionSender,
    contracts::protocol_config::ProtocolConfig,
    domain::{Address, Request, U256},
    flow::{AnswerStages, Flow, RequestLedger, access::AccessError, ciphertexts::BucketRegistry},
};

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// The signers of this node in a KMS context (`None`: the current one, or there are none). Several if nodes
    /// differ; none if the wallet is not registered there.
    pub(super) async fn registered_signers(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        context: Option<U256>,
    ) -> Result<Vec<Address>, Setback> {
        if let Some(found) = self.part_in_epoch(request).await? {
            return Ok(found.signer.into_iter().collect());
        }
        match (registry_on_ethereum(rooms, request), context) {
            (Some((registry, wallet)), Some(context)) => {
                let signers = registry.core_signers(context, wallet).await;
                signers.map_err(|error| Setback::retry(AccessError::Ethereum(error)))
            }
            _ => rooms.gateway_config.core_signers_for(context).await.map_err(Setback::retry),
        }
    }

    /// The same as every sound node tells it now.
    pub(super) async fn signers_of_all_nodes(
        &self,
        rooms: &AnswerStages<P>,
        request: &Request,
        context: Option<U256>,
    ) -> Result<Vec<Address>, Setback> {
        if context.is_some() && registry_on_ethereum(rooms, request).is_some() {
            return self.registered_signers(rooms, request, context).await;
        }
        rooms.gateway_config.core_signers_of_all_nodes(context).await.map_err(Setback::retry)
    }
}

/// The registry of what Ethereum asks for, and this node's wallet there.
fn registry_on_ethereum<'a, P: TransactionSender>(
    rooms: &'a AnswerStages<P>,
    request: &Request,
) -> Option<(&'a ProtocolConfig<P>, Address)> {
    let keys = rooms.keys_of(request).filter(|_| signed_on_ethereum(request))?;
    let wallet = rooms.key_rooms_of(request)?.submission.wallet();
    Some((keys.contexts.as_ref()?, wallet))
}
