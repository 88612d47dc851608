//! Room 4: answer -> adapter -> lane -> receipt -> outcome.

mod earlier;
mod gas;
mod opinion;
mod second_look;

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;
use tracing::{debug, warn};

use self::{
    earlier::{Earlier, Found},
    gas::{GasBook, GasError},
    second_look::Reverts,
};
use crate::{
    domain::{Answer, B256, Bytes, Hold, HoldReason, Outcome, Refusal, Remedy, Request},
    gateway::{
        abi::{ContractError, Verdict},
        decryption::DecryptionAdapter,
        lane::{Landing, Lane, Notice, Payload, SubmitError},
        provider::{At, Call, Provider, RpcError},
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

/// What became of a payload.
enum Sent {
    Landed(Landing),
    /// The node executed it in advance and did not take it.
    WouldRevert(Bytes),
    /// It is no transaction that a node takes: of this gas limit, perhaps.
    NotTaken(RpcError),
}

/// What a mined transaction means.
enum Read {
    End(Outcome),
    /// It did not get through.
    Again,
}

/// Why an answer is not sent again for now.
enum Stuck {
    Said(Bytes),
    NotTaken(RpcError),
    Mined,
}

const WITHOUT_REASON: &str = "its transactions revert without a reason";
const OUT_OF_GAS: &str = "its transactions run out of gas: the gateway nodes estimate too little of it; \
                          gas_limit sets it";

/// What the room reports while it waits for the receipt.
#[derive(Clone, Debug)]
pub enum Progress {
    Submitted {
        transaction: B256,
    },
    /// It goes on by itself once this is mended.
    Waiting(Hold),
}

/// Who hears of the progress.
pub trait Report: Sync {
    fn report(&self, progress: Progress) -> impl Future<Output = ()> + Send;
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
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
        match self {
            Self::Held(_)
            | Self::Rejected(_)
            | Self::EarlierYoung
            | Self::Contradicted
            | Self::Unheard
            | Self::NotRequested
            | Self::NotRequestedYet => true,
            Self::Rpc(_) | Self::EarlierNotYet | Self::Paused | Self::Stopped => false,
        }
    }

    /// Whether it says what the contract has, or has not, under the request's id.
    #[must_use]
    pub fn is_of_contract(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::NotRequested | Self::NotRequestedYet => true,
            Self::Held(_)
            | Self::Rpc(_)
            | Self::EarlierYoung
            | Self::EarlierNotYet
            | Self::Contradicted
            | Self::Unheard
            | Self::Paused
            | Self::Stopped => false,
        }
    }
}

impl<P: Provider> Submission<P> {
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

    /// Brings the answer on chain. What may have been sent `before` is looked for, and then no gas is
    /// spent before the node says that the contract would take the answer; all nodes, where it was
    /// spent already.
    pub async fn submit(
        &self,
        request: &Request,
        answer: &Answer,
        before: Before,
        report: &impl Report,
    ) -> Result<Outcome, SubmissionError> {
        let submitted = self.bring(request, answer, before, report).await;
        if submitted.is_ok() {
            self.reverts.forget(request.key);
        }
        submitted
    }

    async fn bring(
        &self,
        request: &Request,
        answer: &Answer,
        before: Before,
        report: &impl Report,
    ) -> Result<Outcome, SubmissionError> {
        let Some(data) = self.adapter.response(request, answer) else {
            return Err(SubmissionError::Held(Hold::new(
                HoldReason::UnsupportedGeneration,
                format!("{} has no response function here", request.generation),
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
        let maybe_sent = before != Before::Nothing;
        let call = Call { from: Some(self.lane.sender()), to: self.adapter.address(), data };
        if maybe_sent
            && let Some(submission) = self.lane.attach(request.key).await.map_err(into_error)?
            && let Sent::Landed(landing) = self.follow(submission, report).await?
            && let Read::End(outcome) = self.read_landing(request, &call, landing, before).await?
        {
            return Ok(outcome);
        }
        if before == Before::MaybeForgotten
            && let Some(outcome) = self.earlier_answer(request).await?
        {
            return Ok(outcome);
        }
        let _first = self.gas.first(request, &call).await;
        let mut stuck = Stuck::Mined;
        for attempt in 0..MAX_TRIES {
            if self.reverts.any(request.key)
                && let Some(outcome) = self.before_another(request, &call, before).await?
            {
                return Ok(outcome);
            }
            if let Some(barred) = self.reverts.bar(request.key, Instant::now()) {
                return Err(barred);
            }
            let wary = maybe_sent || attempt > 0 || self.trouble.load(Ordering::Relaxed);
            let gas_limit =
                match self.gas.limit(request, &call, self.adapter.provider(), wary).await {
                    Ok(gas_limit) => gas_limit,
                    Err(error @ GasError::TooLow { .. }) => {
                        return Err(rejected(&error.to_string()));
                    }
                    Err(GasError::Estimate(error)) => match error.revert_data() {
                        Some(data) => return self.judge(request, &call, &data, before).await,
                        None => return Err(error.into()),
                    },
                };
            let payload =
                Payload { request: request.key, to: call.to, data: call.data.clone(), gas_limit };
            let submission = self.lane.submit(payload).await.map_err(into_error)?;
            match self.follow(submission, report).await? {
                Sent::Landed(landing) => {
                    match self.read_landing(request, &call, landing, before).await? {
                        Read::End(outcome) => return Ok(outcome),
                        Read::Again => stuck = Stuck::Mined,
                    }
                }
                // The next round asks the node why.
                Sent::WouldRevert(data) => stuck = Stuck::Said(data),
                Sent::NotTaken(error) => {
                    if !self.gas.forget(request, &call).await {
                        let error = SubmitError::NotTaken(error);
                        return Err(rejected(&format!("{error}; check gas_limit")));
                    }
                    stuck = Stuck::NotTaken(error);
                }
            }
        }
        match stuck {
            Stuck::Said(data) => self.judge(request, &call, &data, before).await,
            Stuck::NotTaken(error) => Err(into_error(SubmitError::NotTaken(error))),
            Stuck::Mined => {
                let barred = self.reverts.bar(request.key, Instant::now());
                Err(barred.unwrap_or_else(|| rejected(WITHOUT_REASON)))
            }
        }
    }

    /// Waits for the receipt, passing on what the lane reports meanwhile.
    async fn follow(
        &self,
        mut submission: crate::gateway::lane::Submission,
        report: &impl Report,
    ) -> Result<Sent, SubmissionError> {
        loop {
            tokio::select! {
                biased;
                Some(notice) = submission.notices.recv() => match notice {
                    Notice::Broadcast { transaction } => {
                        report.report(Progress::Submitted { transaction }).await;
                    }
                    Notice::Waiting(hold) => report.report(Progress::Waiting(hold)).await,
                },
                landing = &mut submission.landing => {
                    return match landing.map_err(|_| SubmissionError::Stopped)? {
                        Ok(landing) => Ok(Sent::Landed(landing)),
                        Err(SubmitError::WouldRevert { data }) => Ok(Sent::WouldRevert(data)),
                        Err(SubmitError::NotTaken(error)) => Ok(Sent::NotTaken(error)),
                        Err(error) => Err(into_error(error)),
                    };
                }
            }
        }
    }

    /// What a mined transaction means.
    async fn read_landing(
        &self,
        request: &Request,
        call: &Call,
        landing: Landing,
        before: Before,
    ) -> Result<Read, SubmissionError> {
        let Landing { transaction, block, success, gas_used, gas_limit } = landing;
        self.trouble.store(!success, Ordering::Relaxed);
        if success {
            self.gas.used(request, call, gas_used.min(gas_limit));
            return Ok(Read::End(Outcome::Accepted { transaction, block }));
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
            return Ok(Read::Again);
        }
        let again = self.adapter.provider().call(call, At::Number(block.number)).await;
        match again {
            Ok(_) => {
                debug!(request = %request.key, %transaction, "reverted, and would not revert now");
                Ok(Read::Again)
            }
            Err(error) => match error.revert_data() {
                Some(data) => self.judge(request, call, &data, before).await.map(Read::End),
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
        let Some(error) = error else { return Err(self.held_after_all(call).await) };
        match error.verdict() {
            Verdict::AlreadyAnswered => {
                // Others are not in trouble because this one had been answered.
                self.trouble.store(false, Ordering::Relaxed);
                self.already_answered(request, call, before).await
            }
            Verdict::Retry => Err(SubmissionError::Paused),
            Verdict::Hold(_) => Err(self.held_after_all(call).await),
            Verdict::NotRequested => self.second_opinion(request, call).await,
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
