//! Room 4: answer -> adapter -> lane -> receipt -> outcome.

mod earlier;
mod gas;
mod opinion;
mod second_look;
mod policy;

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;
use tracing::{debug, warn};

use self::{
    earlier::{Earlier, Found},
    gas::{First, GasBook},
    policy::Look,
    second_look::Reverts,
};
use crate::{
    domain::{Answer, B256, Bytes, Hold, HoldReason, Outcome, Refusal, Remedy, Request},
    gateway::{
        abi::{ContractError, Verdict},
        decryption::DecryptionAdapter,
        lane::{self, Landing, Lane, Notice, Payload, SubmitError},
        provider::{At, Call, RpcError, TransactionSender},
    },
    metrics::Metrics,
};

/// Arbitrum's sequencer takes no transaction with more data.
const MAX_CALLDATA: usize = 95_000;
/// Tries of one walk that come to nothing, before the request is held.
const MAX_TRIES: u32 = 3;

/// The room.
#[derive(Debug)]
pub struct Submission<P> {
    lane: Lane,
    adapter: DecryptionAdapter<P>,
    gas: GasBook,
    earlier: Earlier<P>,
    reverts: Reverts,
    /// The last answer was not taken: until one is, each is tried out before gas is spent on it.
    trouble: AtomicBool,
    metrics: Metrics,
}

/// What may have become of an answer before it is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: it is new.
    Nothing,
    /// A transaction with it may exist.
    MaybeSent,
    /// So may one with another answer to the request, of which the journal does not know.
    MaybeForgotten,
}

/// What the last try came to.
#[derive(Debug)]
enum Stuck {
    /// The node executed it in advance, and refused it.
    Said(Bytes),
    /// It is no transaction that a node takes: of this gas limit, perhaps.
    NotTaken(RpcError),
    Mined,
}

/// An answer on its way, as its walk keeps it from one stage to the next.
#[derive(Debug)]
pub struct Sending {
    pub begun: Instant,
    before: Before,
    /// In the lane's hands.
    in_lane: Option<lane::Submission>,
    /// It goes on by itself once somebody has fixed something.
    waits: bool,
    /// So often it was handed to the lane.
    tries: u32,
    stuck: Stuck,
    /// While it is the first of its class the others wait for it.
    first: Option<First>,
}

impl Sending {
    /// Of an answer with this past.
    #[must_use]
    pub fn begin(before: Before) -> Self {
        let (begun, stuck) = (Instant::now(), Stuck::Mined);
        Self { begun, before, in_lane: None, waits: false, tries: 0, stuck, first: None }
    }

    #[must_use]
    pub fn waits(&self) -> bool {
        self.waits
    }
}

/// What is heard of an answer on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A transaction with it is recorded, and a node has it.
    Broadcast {
        transaction: B256,
    },
    /// It goes on by itself once this is fixed.
    Waits(Hold),
    /// No transaction with it is under way any more, and another one may be sent.
    Returned {
        why: &'static str,
    },
    Ended(Outcome),
}

const NONE_UNDER_WAY: &str = "no transaction with it is under way";
const WOULD_NOT_NOW: &str = "its transaction reverted, and would not now";
const NEVER_TAKEN: &str = "no node has taken its transaction";
const WITHOUT_REASON: &str = "its transactions revert without a reason";
const OUT_OF_GAS: &str = "its transactions run out of gas: the gateway nodes estimate too little of it; \
                          gas_limit sets it";

/// Why there is no outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmissionError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("{0}")]
    Held(Hold),
    /// The contract executed the answer and does not take it.
    #[error(transparent)]
    Rejected(ContractError),
    #[error(
        "an earlier answer of this wallet is in one of the last blocks: it is looked for again"
    )]
    EarlierYoung,
    #[error("earlier answers of this wallet are looked for, in parts")]
    EarlierNotYet,
    #[error(
        "the gateway nodes contradict each other, or themselves, on whether this was answered or \
         can be"
    )]
    Contradicted,
    #[error("not every gateway node has said yet that this was answered")]
    Unheard,
    #[error("the contract is paused")]
    Paused,
    #[error("the contract does not know this request, the node may lag")]
    NotRequestedYet,
    #[error("the contract does not know this request")]
    NotRequested,
    #[error("the lane was stopped")]
    Stopped,
}

impl SubmissionError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rpc(error) => error.code(),
            Self::Held(hold) => hold.reason.as_str(),
            Self::Rejected(error) => error.code(),
            Self::EarlierYoung => "earlier_young",
            Self::EarlierNotYet => "earlier_not_yet",
            Self::Contradicted => "contradicted",
            Self::Unheard => "unheard",
            Self::Paused => "paused",
            Self::NotRequestedYet => "not_requested_yet",
            Self::NotRequested => "not_requested",
            Self::Stopped => "stopped",
        }
    }

    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Held(hold) => Remedy::Hold(hold.clone()),
            Self::Rejected(error) => match error.verdict() {
                Verdict::Hold(reason) => Remedy::Hold(Hold::new(reason, error.to_string())),
                Verdict::AlreadyAnswered | Verdict::NotRequested | Verdict::Retry => Remedy::Retry,
            },
            Self::NotRequested => Remedy::Refuse(Refusal::NotRequested),
            Self::Rpc(_)
            | Self::EarlierYoung
            | Self::EarlierNotYet
            | Self::Contradicted
            | Self::Unheard
            | Self::Paused
            | Self::NotRequestedYet
            | Self::Stopped => Remedy::Retry,
        }
    }

    /// Whether other requests need not have the same trouble.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !matches!(self, Self::Rpc(_) | Self::EarlierNotYet | Self::Paused | Self::Stopped)
    }

    /// Whether it says what the contract has, or has not, under the request's id.
    #[must_use]
    pub fn is_of_contract(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::NotRequested | Self::NotRequestedYet)
    }
}

impl<P: TransactionSender> Submission<P> {
    /// `gas_limit`: the operator's, for every transaction; `None` learns from estimates.
    pub fn new(
        lane: Lane,
        adapter: DecryptionAdapter<P>,
        gas_limit: Option<u64>,
        metrics: Metrics,
    ) -> Self {
        let gas = GasBook::new(gas_limit);
        let earlier = Earlier::new(adapter.clone(), lane.sender());
        let (reverts, trouble) = (Reverts::default(), AtomicBool::new(false));
        Self { lane, adapter, gas, earlier, reverts, trouble, metrics }
    }

    /// Whether an earlier life of this wallet has answered the request: then that is its outcome.
    pub async fn earlier_answer(
        &self,
        request: &Request,
    ) -> Result<Option<Outcome>, SubmissionError> {
        match self.earlier.look(request.into()).await? {
            Found::No => Ok(None),
            Found::Yes => Ok(Some(Outcome::AlreadyAnswered)),
            Found::Young => Err(SubmissionError::EarlierYoung),
            Found::NotYet => Err(SubmissionError::EarlierNotYet),
        }
    }

    /// Hands the answer to the lane, if it is not there, and waits until something is heard of it. What
    /// may have been sent before is looked for, and then no gas is spent before the node says that the
    /// contract would take the answer; all nodes, where it was spent already.
    pub async fn send(
        &self,
        request: &Request,
        answer: &Answer,
        sending: &mut Sending,
    ) -> Result<Heard, SubmissionError> {
        let call = self.call(request, answer)?;
        loop {
            if sending.in_lane.is_none()
                && let Some(outcome) = self.hand_over(request, &call, sending).await?
            {
                return Ok(self.ended(request, outcome));
            }
            match self.hear(request, &call, sending).await? {
                // The next try asks the node why.
                Heard::Returned { .. } => {}
                heard @ (Heard::Broadcast { .. } | Heard::Waits(_) | Heard::Ended(_)) => {
                    return Ok(heard);
                }
            }
        }
    }

    /// Waits for what becomes of the transaction. The lane knows the one that an earlier run has sent.
    pub async fn follow(
        &self,
        request: &Request,
        answer: &Answer,
        sending: &mut Sending,
    ) -> Result<Heard, SubmissionError> {
        let call = self.call(request, answer)?;
        if sending.in_lane.is_none() {
            sending.in_lane = self.lane.attach(request.key).await.map_err(into_error)?;
        }
        self.hear(request, &call, sending).await
    }

    /// What the contract is called with.
    fn call(&self, request: &Request, answer: &Answer) -> Result<Call, SubmissionError> {
        let Some(data) = self.adapter.response(request, answer) else {
            return Err(SubmissionError::Held(Hold::new(
                HoldReason::UnsupportedGeneration,
                format!("{} has no response function here", request.shape),
            )));
        };
        if data.len() > MAX_CALLDATA {
            return Err(SubmissionError::Held(Hold::new(
                HoldReason::MessageTooLarge,
                format!(
                    "the answer needs {} bytes of calldata, a block takes {MAX_CALLDATA}",
                    data.len()
                ),
            )));
        }
        Ok(Call { from: Some(self.lane.sender()), to: self.adapter.address(), data })
    }

    /// An outcome: the request has one, and nothing is sent.
    async fn hand_over(
        &self,
        request: &Request,
        call: &Call,
        sending: &mut Sending,
    ) -> Result<Option<Outcome>, SubmissionError> {
        let before = sending.before;
        if sending.tries == 0 {
            if before != Before::Nothing {
                sending.in_lane = self.lane.attach(request.key).await.map_err(into_error)?;
                if sending.in_lane.is_some() {
                    return Ok(None);
                }
            }
            if before == Before::MaybeForgotten
                && let Some(outcome) = self.earlier_answer(request).await?
            {
                return Ok(Some(outcome));
            }
            sending.first = self.gas.first(request, call).await;
        }
        if sending.tries >= MAX_TRIES {
            return match &sending.stuck {
                Stuck::Said(data) => self.judge(request, call, data, before).await.map(Some),
                Stuck::NotTaken(error) => Err(into_error(SubmitError::NotTaken(error.clone()))),
                Stuck::Mined => {
                    let barred = self.reverts.bar(request.key, Instant::now());
                    Err(barred.unwrap_or_else(|| rejected(WITHOUT_REASON)))
                }
            };
        }
        if self.reverts.any(request.key)
            && let Some(outcome) = self.before_another(request, call, before).await?
        {
            return Ok(Some(outcome));
        }
        if let Some(barred) = self.reverts.bar(request.key, Instant::now()) {
            return Err(barred);
        }
        let wary =
            before != Before::Nothing || sending.tries > 0 || self.trouble.load(Ordering::Relaxed);
        let gas_limit = self.gas.limit(request, call, self.adapter.provider(), wary).await;
        if let Err(SubmissionError::Rpc(error)) = &gas_limit
            && let Some(data) = error.revert_data()
        {
            return self.judge(request, call, &data, before).await.map(Some);
        }
        let gas_limit = gas_limit?;
        sending.tries += 1;
        let payload =
            Payload { request: request.key, to: call.to, data: call.data.clone(), gas_limit };
        sending.in_lane = Some(self.lane.submit(payload).await.map_err(into_error)?);
        Ok(None)
    }

    /// Waits for the lane's next word.
    async fn hear(
        &self,
        request: &Request,
        call: &Call,
        sending: &mut Sending,
    ) -> Result<Heard, SubmissionError> {
        let Some(in_lane) = &mut sending.in_lane else {
            return Ok(Heard::Returned { why: NONE_UNDER_WAY });
        };
        let heard = in_lane.next().await;
        sending.waits = matches!(heard, Ok(Notice::Waiting(_)));
        let landed = match heard {
            Ok(Notice::Broadcast { transaction }) => return Ok(Heard::Broadcast { transaction }),
            Ok(Notice::Waiting(hold)) => return Ok(Heard::Waits(hold)),
            Ok(Notice::Landed(landing)) => Ok(landing),
            Err(error) => Err(error),
        };
        sending.in_lane = None;
        match landed {
            Ok(landing) => {
                sending.stuck = Stuck::Mined;
                self.read_landing(request, call, landing, sending.before).await
            }
            Err(SubmitError::WouldRevert { data }) => {
                sending.stuck = Stuck::Said(data);
                Ok(Heard::Returned { why: NEVER_TAKEN })
            }
            Err(SubmitError::NotTaken(error)) => {
                if !self.gas.forget(request, call).await {
                    let error = SubmitError::NotTaken(error);
                    return Err(rejected(&format!("{error}; check gas_limit")));
                }
                sending.stuck = Stuck::NotTaken(error);
                Ok(Heard::Returned { why: NEVER_TAKEN })
            }
            Err(error @ (SubmitError::Held(_) | SubmitError::Stopped)) => Err(into_error(error)),
        }
    }

    fn ended(&self, request: &Request, outcome: Outcome) -> Heard {
        self.reverts.forget(request.key);
        Heard::Ended(outcome)
    }

    /// What a mined transaction means.
    async fn read_landing(
        &self,
        request: &Request,
        call: &Call,
        landing: Landing,
        before: Before,
    ) -> Result<Heard, SubmissionError> {
        let Landing { transaction, block, success, gas_used, gas_limit } = landing;
        self.trouble.store(!success, Ordering::Relaxed);
        if success {
            self.gas.used(request, call, gas_used.min(gas_limit));
            return Ok(self.ended(request, Outcome::Accepted { transaction, block }));
        }
        // All but a 64th of the gas can be passed to an inner call, so "used up" is not exact.
        let used_up = gas_limit > 0 && gas_used >= gas_limit - gas_limit / 32;
        let why = if used_up { OUT_OF_GAS } else { WITHOUT_REASON };
        self.reverts.paid(request.key, why, Instant::now());
        if !self.reverted_everywhere(transaction).await {
            debug!(request = %request.key, %transaction, "reverted by one node's word only");
            return Err(SubmissionError::Contradicted);
        }
        if used_up {
            warn!(request = %request.key, gas_limit, "out of gas");
            self.metrics.contract_error("out_of_gas");
            self.gas.exhausted(request, call, gas_limit).await;
            return Ok(Heard::Returned { why });
        }
        let again = self.adapter.provider().call(call, At::Number(block.number)).await;
        match again {
            Ok(_) => {
                debug!(request = %request.key, %transaction, "reverted, and would not revert now");
                Ok(Heard::Returned { why: WOULD_NOT_NOW })
            }
            Err(error) => match error.revert_data() {
                Some(data) => {
                    let judged = self.judge(request, call, &data, before).await;
                    judged.map(|outcome| self.ended(request, outcome))
                }
                None => Err(error.into()),
            },
        }
    }

    /// What the contract's error means for the request.
    async fn judge(
        &self,
        request: &Request,
        call: &Call,
        data: &[u8],
        before: Before,
    ) -> Result<Outcome, SubmissionError> {
        self.weigh(request, call, ContractError::decode(data), before).await
    }

    /// The same of what was read; `None`: it reverts without a reason.
    async fn weigh(
        &self,
        request: &Request,
        call: &Call,
        error: Option<ContractError>,
        before: Before,
    ) -> Result<Outcome, SubmissionError> {
        self.metrics.contract_error(error.as_ref().map_or("none", ContractError::code));
        match policy::look(error.as_ref()) {
            Look::IsAnswered => {
                // Others are not in trouble because this one had been answered.
                self.trouble.store(false, Ordering::Relaxed);
                self.already_answered(request, call, before).await
            }
            Look::IsRequested => self.second_opinion(request, call).await,
            Look::IsHeld => Err(self.held_after_all(call).await),
            Look::Paused => Err(SubmissionError::Paused),
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
