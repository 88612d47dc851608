//! KMS contexts and epochs: what is read of the chain before a Core is asked or told, and before an epoch is
//! confirmed. What follows from it is in [`policy`].

use std::sync::Arc;

use super::{
    KeyStages, Transition,
    key_operations::{Contract, not_configured_for, turn_at},
    policy::{
        key_operations::Withdrawal,
        lifecycle::{self as policy, Asked, Part},
        setback::{Cause, Setback},
    },
    stages::core_setback,
};
use crate::{
    chain::sender::TransactionSender,
    contracts::{
        abi,
        kms_lifecycle::{KmsLifecycle, LifecycleError},
    },
    domain::{
        Address, Answer, EpochMaterial, Hold, HoldReason, KeyOperation, KmsContext, Operation,
        Outcome, Remedy, Request, U256,
    },
    flow::{
        AnswerStages, Flow, RequestLedger,
        access::AccessError,
        ciphertexts::BucketRegistry,
        kms_core::{CoreError, LifecycleEnd, Telling, rate_limiter::AskPermit},
    },
};

/// This node's part in a new context or epoch, and the context before.
pub(super) struct PartFound {
    pub part: Part,
    pub previous: Arc<KmsContext>,
    /// This node's signer in the new one.
    pub signer: Option<Address>,
}

/// The KMS contexts that a request is about.
struct Between {
    context: U256,
    /// `None`: it is about the context itself.
    epoch: Option<U256>,
    previous: U256,
    /// `None`: the chain is asked.
    definition: Option<Arc<KmsContext>>,
}

impl Between {
    /// `None`: it asks for neither context nor epoch.
    fn of(request: &Request) -> Option<Self> {
        let id = request.key.id;
        let Operation::Key(operation) = &request.operation else { return None };
        if let KeyOperation::NewKmsContext { previous, context, .. } = operation {
            let definition = Some(context.clone());
            return Some(Self { context: id, epoch: None, previous: *previous, definition });
        }
        let KeyOperation::NewKmsEpoch { context, previous_context, .. } = operation else {
            return None;
        };
        let (context, previous) = (*context, *previous_context);
        Some(Self { context, epoch: Some(id), previous, definition: None })
    }
}

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// This node's part. A transition: nothing is asked of it.
    pub(super) async fn check_part(
        &self,
        stages: KeyStages<'_, P>,
        request: &Request,
    ) -> Result<Result<PartFound, Transition>, Setback> {
        let between = Between::of(request).ok_or_else(no_part)?;
        let found = self.part_of(stages, &between).await?;
        let Between { context, epoch, .. } = between;
        let contexts = stages.keys.contexts.as_ref().ok_or_else(no_part)?;
        // That there is nothing to do any more ends the request.
        let told = match contexts.of_two() {
            Some(two) => two.context_and_epoch(context, epoch).await,
            None => contexts.context_and_epoch(context, epoch).await,
        };
        let status = told.map_err(|error| Setback::retry(AccessError::Ethereum(error)))?;
        match policy::asked_of(found.part, epoch.is_some(), status) {
            Asked::Take => Ok(Ok(found)),
            Asked::Nothing => Ok(Err(Transition::End(Outcome::Recorded))),
            Asked::TakenBack => Ok(Err(Transition::End(Outcome::Aborted))),
            Asked::Unclear => {
                let wallet = stages.own.submission.wallet();
                Err(Setback::held(policy::uninvolved(wallet, context)))
            }
        }
    }

    async fn part_of(
        &self,
        stages: KeyStages<'_, P>,
        between: &Between,
    ) -> Result<PartFound, Setback> {
        let history = history_of(stages).ok_or_else(no_part)?;
        let new = match &between.definition {
            Some(definition) => definition.clone(),
            None => defined(history, between.context).await?,
        };
        let previous = defined(history, between.previous).await?;
        let wallet = stages.own.submission.wallet();
        let part = policy::part(wallet, &new, &previous);
        let signer = new.node_of(wallet).map(|node| node.signer);
        Ok(PartFound { part, previous, signer })
    }

    /// This node's part in an epoch. `None`: it is no epoch.
    pub(super) async fn part_in_epoch(
        &self,
        request: &Request,
    ) -> Result<Option<PartFound>, Setback> {
        let Some(between) = Between::of(request).filter(|between| between.epoch.is_some()) else {
            return Ok(None);
        };
        let stages = self.key_stages(request).ok_or_else(no_part)?;
        self.part_of(stages, &between).await.map(Some)
    }

    /// The keys that an epoch shares anew.
    pub(super) async fn material_of(
        &self,
        stages: KeyStages<'_, P>,
        operation: &KeyOperation,
    ) -> Result<EpochMaterial, Setback> {
        let KeyOperation::NewKmsEpoch { material_block, .. } = operation else {
            return Err(no_part());
        };
        let reading = history_of(stages).ok_or_else(no_part)?.material(*material_block);
        reading.await.map_err(Setback::of_lifecycle)
    }

    /// Holds the result of an epoch that is not of the chain's keys in the chain's order.
    pub(super) async fn compare_material(
        &self,
        request: &Request,
        answer: &Answer,
    ) -> Result<(), Setback> {
        let Operation::Key(operation @ KeyOperation::NewKmsEpoch { .. }) = &request.operation
        else {
            return Ok(());
        };
        let Some(stages) = self.key_stages(request) else { return Ok(()) };
        let Some(result) = abi::epoch_result(&answer.signed().payload) else {
            let detail = "the result of the KMS Core, as it is stored here, does not decode: the Core is asked for it \
                          again, and nothing is sent";
            return Err(Setback::held(Hold::new(HoldReason::InvalidAnswer, detail)));
        };
        let material = self.material_of(stages, operation).await?;
        let Some(difference) = result.differs_from(&material) else { return Ok(()) };
        let detail = format!("{difference}: a vote cannot be taken back, so nothing is sent");
        Err(Setback::held(Hold::new(HoldReason::ResultDiffers, detail)))
    }

    /// Tells the Core again of what was taken back.
    pub(super) async fn tell_again(
        &self,
        stages: KeyStages<'_, P>,
        request: &Request,
        withdrawal: Withdrawal,
    ) -> Result<Outcome, Setback> {
        match withdrawal {
            Withdrawal::Abort(telling) => {
                let turn = turn_at(&stages.own.core).await?;
                self.tell(stages, request, telling, turn).await
            }
            Withdrawal::End(end) => self.tell_end(stages, request, end).await,
        }
    }

    /// Tells the Core what it gives no result for.
    pub(super) async fn tell(
        &self,
        stages: KeyStages<'_, P>,
        request: &Request,
        telling: Telling,
        turn: AskPermit,
    ) -> Result<Outcome, Setback> {
        concluded(stages.rooms, stages.own.core.tell(turn, request, telling).await).await
    }

    /// Tells the Core that a KMS context or an epoch is no more.
    pub(super) async fn tell_end(
        &self,
        stages: KeyStages<'_, P>,
        request: &Request,
        end: LifecycleEnd,
    ) -> Result<Outcome, Setback> {
        let epochs = match end {
            LifecycleEnd::Epoch(_) => Vec::new(),
            LifecycleEnd::Context(context) => match epochs_of(stages, context).await? {
                Some(epochs) => epochs,
                None => return Ok(Outcome::Recorded),
            },
        };
        concluded(stages.rooms, stages.own.core.tell_end(request, end, &epochs).await).await
    }
}

/// All epochs of a KMS context that is no more. `None`: no Core was told of it.
async fn epochs_of<P: TransactionSender>(
    stages: KeyStages<'_, P>,
    context: U256,
) -> Result<Option<Vec<U256>>, Setback> {
    let history = history_of(stages).ok_or_else(no_part)?;
    match history.definition(context).await {
        Ok(Some(defined)) => {
            let epochs = history.epochs_of(context, &defined).await;
            epochs.map(Some).map_err(Setback::of_lifecycle)
        }
        // Up to G13 nobody told a Core of a context.
        Ok(None) => Ok(None),
        Err(LifecycleError::Unkept { .. }) => {
            let replaced = history.was_replaced_before(context).await;
            if replaced.map_err(Setback::of_lifecycle)? {
                Ok(None)
            } else {
                Err(Setback::held(policy::end_of_unkept(context)))
            }
        }
        Err(error) => Err(Setback::of_lifecycle(error)),
    }
}

async fn concluded<P>(
    rooms: &AnswerStages<P>,
    told: Result<(), CoreError>,
) -> Result<Outcome, Setback> {
    match told {
        Ok(()) => Ok(Outcome::NoAnswerDue),
        Err(error) => Err(core_setback(rooms, &error).await),
    }
}

/// `None`: `ProtocolConfig` is not configured.
fn history_of<P>(stages: KeyStages<'_, P>) -> Option<&KmsLifecycle<P>> {
    stages.keys.lifecycle.as_ref().map(|lifecycle| &lifecycle.history)
}

async fn defined<P: TransactionSender>(
    history: &KmsLifecycle<P>,
    context: U256,
) -> Result<Arc<KmsContext>, Setback> {
    let defined = history.definition(context).await.map_err(Setback::of_lifecycle)?;
    // The contract asked for a context, so it keeps definitions: the node is of another one, or behind.
    Ok(defined.ok_or_else(|| Setback::own(Remedy::Retry, Cause::NoNodeShowsIt))?.context)
}

/// Nothing here can tell of contexts.
fn no_part() -> Setback {
    not_configured_for(Contract::ProtocolConfig)
}
