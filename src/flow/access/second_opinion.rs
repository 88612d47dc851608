//! A refusal ends a request for good. Where the answer of one endpoint of a chain is enough (`agreement = 1`)
//! and there are others, it rests on one node's word; so before it counts, two of them must show it at one
//! block. A pass needs no second opinion: an operator has chosen how many must grant.

use super::{
    Witnesses,
    decision::{Verdict, decide},
    plan::ChainPlan,
};
use crate::{
    chain::reader::ChainReader,
    contracts::{
        acl::HostChain,
        protocol_config::{ContextStatus, ProtocolConfig},
    },
    domain::U256,
};

/// Who shows that the chain's state refuses this plan for good.
pub(super) async fn on_refusal<P: ChainReader>(plan: &ChainPlan, host: &HostChain<P>) -> Witnesses {
    let Some(of_two) = host.of_two() else { return Witnesses::TheOnlyOne };
    match of_two.ask_unnoted(&plan.questions).await {
        Ok(told) => match decide(plan, &told.answers, Some(told.timestamp)) {
            Verdict::Refused(_) => Witnesses::TheOnlyOne,
            Verdict::Granted | Verdict::Early { .. } | Verdict::Denied(_) => Witnesses::One,
        },
        Err(_) => Witnesses::One,
    }
}

/// Who shows this status of a context, and of an epoch in it, if the status ends requests.
pub(super) async fn on_context<P: ChainReader>(
    contexts: &ProtocolConfig<P>,
    (context, epoch): (U256, Option<U256>),
    status: ContextStatus,
) -> Witnesses {
    let of_two = match status {
        ContextStatus::Destroyed | ContextStatus::EpochDestroyed => contexts.of_two(),
        ContextStatus::Valid | ContextStatus::Unknown | ContextStatus::EpochUnknown => None,
    };
    let Some(of_two) = of_two else { return Witnesses::TheOnlyOne };
    match of_two.context_and_epoch(context, epoch).await {
        Ok(told) if told == status => Witnesses::TheOnlyOne,
        Ok(_) | Err(_) => Witnesses::One,
    }
}
