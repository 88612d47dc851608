//! Submission: answer -> adapter -> lane -> receipt -> outcome.

mod prior_answer;
mod gas;
mod opinion;
mod recheck;
mod decisions;
mod progress;
mod error;

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;
use tracing::{debug, warn};

use self::{
    decisions::Recheck,
    gas::GasLimits,
    prior_answer::{PriorAnswers, SearchResult},
    progress::LastTry,
    recheck::Reverts,
};
pub use self::{
    error::SubmissionError,
    progress::{PriorAnswer, SubmissionEvent, SubmissionProgress},
};
use crate::{
    chain::{
        lane::{Inclusion, Lane, Payload, SubmissionUpdate, SubmitError},
        reader::{BlockId, EthCall},
        sender::TransactionSender,
    },
    contracts::{abi::ContractError, decryption::RequestContract},
    domain::{Address, Answer, Hold, HoldReason, Outcome, Request},
    telemetry::metrics::Metrics,
};

/// Arbitrum's sequencer rejects transactions with more data.
const MAX_CALLDATA: usize = 95_000;
/// Attempts of one walk without effect before the request is held.
const MAX_TRIES: u32 = 3;

/// Submits answers.
#[derive(Debug)]
pub struct Submission<P> {
    lane: Lane,
    adapter: RequestContract<P>,
    gas: GasLimits,
    prior_answers: PriorAnswers<P>,
    reverts: Reverts,
    /// The last answer was rejected: until one is accepted, each is simulated before gas is spent on it.
    last_was_rejected: AtomicBool,
    metrics: Metrics,
}

const NONE_UNDER_WAY: &str = "no transaction with it is under way";
const WOULD_NOT_NOW: &str = "its transaction reverted, but would not revert now";
const NEVER_TAKEN: &str = "no node has taken its transaction";
const WITHOUT_REASON: &str = "its transactions revert without a reason";
const OUT_OF_GAS: &str = "its transactions run out of gas: the nodes of its chain estimate too little (on \
                          the gateway, gas_limit replaces their estimates)";

impl<P: TransactionSender> Submission<P> {
    /// `gas_limit`: the operator's, for every transaction. `None`: learned from estimates.
    pub fn new(
        lane: Lane,
        adapter: RequestContract<P>,
        gas_limit: Option<u64>,
        metrics: Metrics,
    ) -> Self {
        let gas = GasLimits::new(gas_limit);
        let prior_answers = PriorAnswers::new(adapter.clone(), lane.sender());
        let (reverts, last_was_rejected) = (Reverts::default(), AtomicBool::new(false));
        Self { lane, adapter, gas, prior_answers, reverts, last_was_rejected, metrics }
    }

    /// Whether a mined transaction counts only once its block is deep, which takes minutes.
    pub fn waits_for_depth(&self) -> bool {
        self.lane.waits_for_depth()
    }

    /// The wallet that it sends from.
    pub fn wallet(&self) -> Address {
        self.lane.sender()
    }

    /// Returns the outcome if an earlier run with this wallet has answered the request.
    pub async fn find_prior_answer(
        &self,
        request: &Request,
    ) -> Result<Option<Outcome>, SubmissionError> {
        match self.prior_answers.find(request.into()).await? {
            SearchResult::No => Ok(None),
            SearchResult::Yes => Ok(Some(Outcome::AlreadyAnswered)),
            SearchResult::NotFinal => Err(SubmissionError::PriorAnswerNotFinal),
            SearchResult::Incomplete => Err(SubmissionError::PriorAnswerSearchIncomplete),
        }
    }

    /// Hands the answer to the lane, unless it is there already, and waits for the next event. An earlier
    /// transaction that may exist is looked for first; then gas is spent only if the node's simulation
    /// accepts the answer, or all nodes' simulations where gas was spent before.
    pub async fn send(
        &self,
        request: &Request,
        answer: &Answer,
        sending: &mut SubmissionProgress,
    ) -> Result<SubmissionEvent, SubmissionError> {
        let call = self.response_call(request, answer)?;
        loop {
            if sending.in_lane.is_none()
                && let Some(outcome) = self.hand_to_lane(request, &call, sending).await?
            {
                return Ok(self.end(request, outcome));
            }
            match self.next_event(request, &call, sending).await? {
                // The next attempt asks the node for the reason.
                SubmissionEvent::Returned { .. } => {}
                heard @ (SubmissionEvent::Broadcast { .. }
                | SubmissionEvent::Waiting(_)
                | SubmissionEvent::Ended(_)) => {
                    return Ok(heard);
                }
            }
        }
    }

    /// Waits for the transaction's result. The lane also knows transactions of earlier runs.
    pub async fn follow(
        &self,
        request: &Request,
        answer: &Answer,
        sending: &mut SubmissionProgress,
    ) -> Result<SubmissionEvent, SubmissionError> {
        let call = self.response_call(request, answer)?;
        if sending.in_lane.is_none() {
            sending.in_lane = self.lane.attach(request.key).await.map_err(into_error)?;
        }
        self.next_event(request, &call, sending).await
    }

    /// The call of the contract.
    fn response_call(
        &self,
        request: &Request,
        answer: &Answer,
    ) -> Result<EthCall, SubmissionError> {
        let data = self.adapter.response(request, answer);
        if data.len() > MAX_CALLDATA {
            return Err(SubmissionError::Held(Hold::new(
                HoldReason::MessageTooLarge,
                format!(
                    "the answer needs {} bytes of calldata, a block takes {MAX_CALLDATA}",
                    data.len()
                ),
            )));
        }
        let from = Some(self.lane.sender());
        Ok(EthCall { from, ..EthCall::view(self.adapter.address(), data) })
    }

    /// Returns an outcome if the request already has one and nothing is sent.
    async fn hand_to_lane(
        &self,
        request: &Request,
        call: &EthCall,
        sending: &mut SubmissionProgress,
    ) -> Result<Option<Outcome>, SubmissionError> {
        let before = sending.prior_answer;
        if sending.tries == 0 {
            if before != PriorAnswer::Impossible {
                sending.in_lane = self.lane.attach(request.key).await.map_err(into_error)?;
                if sending.in_lane.is_some() {
                    return Ok(None);
                }
            }
            if before == PriorAnswer::MaybeForgotten
                && let Some(outcome) = self.find_prior_answer(request).await?
            {
                return Ok(Some(outcome));
            }
            sending.first_of_class = self.gas.first_of_class(request, call).await;
        }
        if sending.tries >= MAX_TRIES {
            return match &sending.last_try {
                LastTry::WouldRevert(data) => {
                    self.interpret_revert(request, call, data, before).await.map(Some)
                }
                LastTry::NotTaken(error) => Err(into_error(SubmitError::NotTaken(error.clone()))),
                LastTry::Mined => {
                    let barred = self.reverts.pause_error(request.key, Instant::now());
                    Err(barred.unwrap_or_else(|| rejected(WITHOUT_REASON)))
                }
            };
        }
        if self.reverts.has_any(request.key)
            && let Some(outcome) = self.recheck_before_retry(request, call, before).await?
        {
            return Ok(Some(outcome));
        }
        if let Some(barred) = self.reverts.pause_error(request.key, Instant::now()) {
            return Err(barred);
        }
        let wary = before != PriorAnswer::Impossible
            || sending.tries > 0
            || self.last_was_rejected.load(Ordering::Relaxed);
        let gas_limit = self.gas.limit(request, call, self.adapter.provider(), wary).await;
        if let Err(SubmissionError::Rpc(error)) = &gas_limit
            && let Some(data) = error.revert_data()
        {
            return self.interpret_revert(request, call, &data, before).await.map(Some);
        }
        let gas_limit = gas_limit?;
        sending.tries += 1;
        let payload =
            Payload { request: request.key, to: call.to, data: call.data.clone(), gas_limit };
        sending.in_lane = Some(self.lane.submit(payload).await.map_err(into_error)?);
        Ok(None)
    }

    /// Waits for the lane's next event.
    async fn next_event(
        &self,
        request: &Request,
        call: &EthCall,
        sending: &mut SubmissionProgress,
    ) -> Result<SubmissionEvent, SubmissionError> {
        let Some(in_lane) = &mut sending.in_lane else {
            return Ok(SubmissionEvent::Returned { why: NONE_UNDER_WAY });
        };
        let heard = in_lane.next().await;
        sending.is_waiting = matches!(heard, Ok(SubmissionUpdate::Waiting(_)));
        let landed = match heard {
            Ok(SubmissionUpdate::Broadcast { transaction }) => {
                return Ok(SubmissionEvent::Broadcast { transaction });
            }
            Ok(SubmissionUpdate::Waiting(hold)) => return Ok(SubmissionEvent::Waiting(hold)),
            Ok(SubmissionUpdate::Included(landing)) => Ok(landing),
            Err(error) => Err(error),
        };
        sending.in_lane = None;
        match landed {
            Ok(landing) => {
                sending.last_try = LastTry::Mined;
                self.interpret_landing(request, call, landing, sending.prior_answer).await
            }
            Err(SubmitError::WouldRevert { data }) => {
                sending.last_try = LastTry::WouldRevert(data);
                Ok(SubmissionEvent::Returned { why: NEVER_TAKEN })
            }
            Err(SubmitError::NotTaken(error)) => {
                if !self.gas.forget(request, call).await {
                    let error = SubmitError::NotTaken(error);
                    return Err(rejected(&format!("{error}; check gas_limit")));
                }
                sending.last_try = LastTry::NotTaken(error);
                Ok(SubmissionEvent::Returned { why: NEVER_TAKEN })
            }
            Err(error @ (SubmitError::Held(_) | SubmitError::Stopped)) => Err(into_error(error)),
        }
    }

    fn end(&self, request: &Request, outcome: Outcome) -> SubmissionEvent {
        self.reverts.forget(request.key);
        SubmissionEvent::Ended(outcome)
    }

    /// Interprets a mined transaction.
    async fn interpret_landing(
        &self,
        request: &Request,
        call: &EthCall,
        landing: Inclusion,
        before: PriorAnswer,
    ) -> Result<SubmissionEvent, SubmissionError> {
        let Inclusion { transaction, block, success, gas_used, gas_limit } = landing;
        self.last_was_rejected.store(!success, Ordering::Relaxed);
        if success {
            self.gas.record_used(request, call, gas_used.min(gas_limit));
            return Ok(self.end(request, Outcome::Accepted { transaction, block }));
        }
        // An inner call gets all but a 64th of the gas (EIP-150), so "used up" is not exact.
        let used_up = gas_limit > 0 && gas_used >= gas_limit - gas_limit / 32;
        let why = if used_up { OUT_OF_GAS } else { WITHOUT_REASON };
        self.reverts.record(request.key, why, Instant::now());
        if !self.reverted_everywhere(transaction).await {
            debug!(request = %request.key, %transaction, "only one node reports the revert");
            return Err(SubmissionError::NodesContradict);
        }
        if used_up {
            warn!(request = %request.key, gas_limit, "out of gas");
            self.metrics.contract_error("out_of_gas");
            self.gas.record_exhausted(request, call, gas_limit).await;
            return Ok(SubmissionEvent::Returned { why });
        }
        let again = self.adapter.provider().call(call, BlockId::Number(block.number)).await;
        match again {
            Ok(_) => {
                debug!(request = %request.key, %transaction, "reverted, but would not revert now");
                Ok(SubmissionEvent::Returned { why: WOULD_NOT_NOW })
            }
            Err(error) => match error.revert_data() {
                Some(data) => {
                    let judged = self.interpret_revert(request, call, &data, before).await;
                    judged.map(|outcome| self.end(request, outcome))
                }
                None => Err(error.into()),
            },
        }
    }

    /// Interprets the contract's error for the request.
    async fn interpret_revert(
        &self,
        request: &Request,
        call: &EthCall,
        data: &[u8],
        before: PriorAnswer,
    ) -> Result<Outcome, SubmissionError> {
        self.interpret_error(request, call, ContractError::decode(data), before).await
    }

    /// The same for a decoded error; `None`: it reverted without a reason.
    async fn interpret_error(
        &self,
        request: &Request,
        call: &EthCall,
        error: Option<ContractError>,
        before: PriorAnswer,
    ) -> Result<Outcome, SubmissionError> {
        self.metrics.contract_error(error.as_ref().map_or("none", ContractError::code));
        match decisions::recheck_for(error.as_ref()) {
            Recheck::IsAnswered => {
                // This request had an answer already, which says nothing about others.
                self.last_was_rejected.store(false, Ordering::Relaxed);
                self.recheck_already_answered(request, call, before).await
            }
            Recheck::IsOver => self.recheck_over(request, call).await,
            Recheck::IsRequested => self.recheck_not_requested(request, call).await,
            Recheck::IsHeld => Err(self.recheck_hold(call).await),
            Recheck::Paused => Err(SubmissionError::Paused),
        }
    }
}

fn rejected(why: &str) -> SubmissionError {
    SubmissionError::Held(Hold::new(HoldReason::ContractRejected, why))
}

fn into_error(error: SubmitError) -> SubmissionError {
    match error {
        SubmitError::Held(hold) => SubmissionError::Held(hold),
        SubmitError::Stopped => SubmissionError::Stopped,
        SubmitError::NotTaken(_) => rejected(&error.to_string()),
        SubmitError::WouldRevert { .. } => rejected("the node says it would revert"),
    }
}

#[cfg(test)]
mod tests;
