//! The terms of a legacy user request, from the calldata of its transaction.
//!
//! What any gateway node shows is enough to go on with if it fits the event and has the user's
//! signature. A refusal needs more: the node that was asked may have invented the transaction, or named
//! another one for the event. So the sound nodes are asked for the event's transaction, each for itself:
//!
//! ```text
//! any node's calldata fits the event and is signed   that is the plan
//! two nodes' calldata does not                       refused
//! one node's does not                                refused, if there is no other node at all
//! no node has the transaction in the block           no_transaction
//! no node answers                                    the gateway's error
//! ```

use futures_util::future::join_all;

use super::{
    Access, AccessError, Grounds, Witnesses,
    plan::{self, ChainPlan},
};
use crate::{
    chain::reader::ChainReader,
    contracts::decryption::RequestContract,
    domain::{B256, BlockRef, Request, UserDecryption},
};

/// Nodes that are asked when the first one's calldata is refused.
const NODES_ASKED: usize = 8;

impl<P: ChainReader> Access<P> {
    pub(super) async fn legacy_plan(
        &self,
        request: &Request,
        user: &UserDecryption,
        block: BlockRef,
    ) -> Result<ChainPlan, AccessError> {
        let gateway = &self.options.gateway;
        let first = self.plan_from(gateway, request.transaction, user, block).await;
        if first.is_ok() {
            return first;
        }
        let mut nodes = gateway.provider().sound_nodes();
        nodes.truncate(NODES_ASKED);
        let opinions = join_all(nodes.into_iter().map(async |node| {
            let one = gateway.for_node(node);
            let Some(transaction) = one.transaction_of(request, block).await? else {
                return Err(no_transaction(request));
            };
            self.plan_from(&one, transaction, user, block).await
        }));
        let mut refused = Vec::new();
        let mut unknown = None;
        for opinion in opinions.await {
            match opinion {
                Ok(plan) => return Ok(plan),
                Err(AccessError::Refused { refusal, .. }) => refused.push(refusal),
                Err(error) => {
                    let ranked = unknown.take().into_iter().chain([error]);
                    unknown = ranked.min_by_key(AccessError::rank);
                }
            }
        }
        let witnesses = match refused.len() {
            0 => return Err(unknown.or(first.err()).unwrap_or(no_transaction(request))),
            1 if gateway.provider().node_count() < 2 => Witnesses::TheOnlyOne,
            1 => Witnesses::One,
            _ => Witnesses::Two,
        };
        let grounds = Grounds::Calldata { witnesses };
        // There is one, as counted above.
        let refusal = refused.into_iter().next();
        Err(refusal
            .map_or(no_transaction(request), |refusal| AccessError::Refused { refusal, grounds }))
    }

    /// The plan by a transaction that is in this block.
    async fn plan_from(
        &self,
        gateway: &RequestContract<P>,
        transaction: B256,
        user: &UserDecryption,
        block: BlockRef,
    ) -> Result<ChainPlan, AccessError> {
        let found = gateway.provider().transaction(transaction).await?;
        let Some(found) = found.filter(|found| found.block.is_some_and(|at| at.hash == block.hash))
        else {
            return Err(AccessError::NoTransaction { transaction });
        };
        let contract = gateway.address();
        let by_calldata = |refusal| AccessError::Refused {
            refusal,
            grounds: Grounds::Calldata { witnesses: Witnesses::One },
        };
        let call = plan::legacy_call(found.to, &found.input, contract).map_err(by_calldata)?;
        plan::legacy(user, &call, &self.options.domain).map_err(by_calldata)
    }
}

fn no_transaction(request: &Request) -> AccessError {
    AccessError::NoTransaction { transaction: request.transaction }
}
