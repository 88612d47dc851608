//! Room 4: answer -> adapter -> lane -> receipt -> outcome.

mod gas;

use std::time::Duration;

use tracing::{debug, warn};

use self::gas::{GasBook, GasError};
use crate::{
    domain::{Answer, B256, Hold, HoldReason, Outcome, Refusal, Remedy, Request},
    gateway::{
        abi::{ContractError, Verdict},
        decryption::DecryptionAdapter,
        lane::{Landing, Lane, Notice, Payload, SubmitError},
        provider::{At, Call, Provider, RpcError},
    },
};

/// Arbitrum's sequencer takes no transaction with more data.
const MAX_CALLDATA: usize = 95_000;
/// Mined and reverted so often, a request is held.
const MAX_REVERTS: u32 = 3;

/// The room.
#[derive(Debug)]
pub struct Submission<P> {
    lane: Lane,
    adapter: DecryptionAdapter<P>,
    gas: GasBook,
}

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
    #[error("the contract is paused")]
    Paused,
    #[error("the contract does not know this request, the node may lag")]
    NotRequestedYet,
    #[error("the contract does not know this request")]
    NotRequested,
    #[error("transaction {transaction} reverted in block {block}: {reason}")]
    Reverted { transaction: B256, block: u64, reason: String },
    #[error("the lane was stopped")]
    Stopped,
}

impl SubmissionError {
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Held(hold) => Remedy::Hold(hold.clone()),
            Self::NotRequested => Remedy::Refuse(Refusal::NotRequested),
            Self::Rpc(_)
            | Self::Paused
            | Self::NotRequestedYet
            | Self::Reverted { .. }
            | Self::Stopped => Remedy::Retry,
        }
    }
}

impl<P: Provider> Submission<P> {
    /// `gas_limit`: the operator's, for every transaction; `None` learns from estimates.
    pub fn new(lane: Lane, adapter: DecryptionAdapter<P>, gas_limit: Option<u64>) -> Self {
        Self { lane, adapter, gas: GasBook::new(gas_limit) }
    }

    /// Brings the answer on chain. `recovered`: an earlier attempt may have sent it already.
    pub async fn submit(
        &self,
        request: &Request,
        answer: &Answer,
        recovered: bool,
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
        let call = Call { from: Some(self.lane.sender()), to: self.adapter.address(), data };
        if recovered && let Some(submission) = self.attach(request).await? {
            let landing = self.follow(submission, report).await?;
            if let Some(outcome) = self.read_landing(request, &call, landing).await? {
                return Ok(outcome);
            }
        }
        let mut reverts = 0;
        loop {
            let provider = self.adapter.provider();
            let failed = recovered || reverts > 0;
            let gas_limit = match self.gas.limit(request, &call, provider, failed).await {
                Ok(gas_limit) => gas_limit,
                Err(GasError::Estimate(error)) => match error.revert_data() {
                    Some(data) => return self.judge(request, &call, &data).await,
                    None => return Err(error.into()),
                },
                Err(error @ GasError::TooLow { .. }) => return Err(rejected(&error.to_string())),
            };
            let payload =
                Payload { request: request.key, to: call.to, data: call.data.clone(), gas_limit };
            let submission = self.lane.submit(payload).await.map_err(into_error)?;
            let landing = match self.follow(submission, report).await {
                Ok(landing) => landing,
                Err(SubmissionError::Reverted { .. }) => {
                    // Refused in advance: the estimate says why.
                    self.gas.forget(request, &call, false);
                    reverts += 1;
                    if reverts >= MAX_REVERTS {
                        return Err(rejected("the node says it would revert"));
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(outcome) = self.read_landing(request, &call, landing).await? {
                return Ok(outcome);
            }
            reverts += 1;
            if reverts >= MAX_REVERTS {
                return Err(rejected("its transactions revert without a reason"));
            }
        }
    }

    async fn attach(
        &self,
        request: &Request,
    ) -> Result<Option<crate::gateway::lane::Submission>, SubmissionError> {
        self.lane.attach(request.key).await.map_err(into_error)
    }

    /// Waits for the receipt, passing on what the lane reports meanwhile.
    async fn follow(
        &self,
        mut submission: crate::gateway::lane::Submission,
        report: &impl Report,
    ) -> Result<Landing, SubmissionError> {
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
                    return landing.map_err(|_| SubmissionError::Stopped)?.map_err(into_error);
                }
            }
        }
    }

    /// What a mined transaction means. `None`: it ran out of gas or failed without a reason, again.
    async fn read_landing(
        &self,
        request: &Request,
        call: &Call,
        landing: Landing,
    ) -> Result<Option<Outcome>, SubmissionError> {
        if landing.success {
            let Landing { transaction, block, .. } = landing;
            return Ok(Some(Outcome::Accepted { transaction, block }));
        }
        // All but a 64th of the gas can be passed to an inner call, so "used up" is not exact.
        if landing.gas_limit > 0 && landing.gas_used >= landing.gas_limit - landing.gas_limit / 32 {
            self.gas.forget(request, call, true);
            warn!(request = %request.key, gas_limit = landing.gas_limit, "out of gas, estimating again");
            return Ok(None);
        }
        self.gas.forget(request, call, false);
        let again = self.adapter.provider().call(call, At::Number(landing.block.number)).await;
        match again {
            Ok(_) => {
                debug!(request = %request.key, transaction = %landing.transaction,
                    "reverted, and would not revert now");
                Ok(None)
            }
            Err(error) => match error.revert_data() {
                Some(data) => self.judge(request, call, &data).await.map(Some),
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
    ) -> Result<Outcome, SubmissionError> {
        let Some(error) = ContractError::decode(data) else {
            return Err(rejected("the contract reverts without a reason"));
        };
        match error.verdict() {
            Verdict::AlreadyAnswered => Ok(Outcome::AlreadyAnswered),
            Verdict::Retry => Err(SubmissionError::Paused),
            Verdict::Hold(reason) => {
                Err(SubmissionError::Held(Hold::new(reason, error.to_string())))
            }
            Verdict::NotRequested => self.second_opinion(request, call).await,
        }
    }

    /// A lagging node does not know young requests: believed only when it knows the block [10].
    async fn second_opinion(
        &self,
        request: &Request,
        call: &Call,
    ) -> Result<Outcome, SubmissionError> {
        let provider = self.adapter.provider();
        if provider.header(At::Hash(request.block.hash)).await?.is_none() {
            return Err(SubmissionError::NotRequestedYet);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let Err(error) = provider.call(call, At::Latest).await else {
            return Err(SubmissionError::NotRequestedYet);
        };
        match error.revert_data().and_then(|data| ContractError::decode(&data)) {
            Some(ContractError::DecryptionNotRequested(_)) => Err(SubmissionError::NotRequested),
            Some(_) => Err(SubmissionError::NotRequestedYet),
            None => Err(error.into()),
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
        SubmitError::WouldRevert { data } => SubmissionError::Reverted {
            transaction: B256::ZERO,
            block: 0,
            reason: ContractError::decode(&data)
                .map_or_else(String::new, |error| error.to_string()),
        },
    }
}
