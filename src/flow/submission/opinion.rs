//! What the contract says by one node, and by all: what ends a request is neither one node's word nor one
//! moment's.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    PriorAnswer, Submission, SubmissionError,
    policy::{self, Opinion},
    prior_answer::SearchResult,
};
use crate::{
    chain::provider::{BlockId, EthCall, RpcError, Survey, TransactionSender},
    contracts::{
        abi::ContractError,
        decryption::{Agreement, DecryptionAdapter, EndClaim, ORPHANED_AFTER, RequestLocation},
    },
    domain::{Bytes, Outcome, Request},
};

/// Between the first word of a node and the second.
pub(super) const RECHECK_AFTER: Duration = Duration::from_secs(5);
/// Until the third, where nothing is known of the answer that the contract is said to have.
const THIRD_CHECK_AFTER: Duration = Duration::from_secs(10);
/// A node that says nothing for so long has no vote.
pub(super) const VOTE_TIMEOUT: Duration = Duration::from_secs(5);

impl<P: TransactionSender> Submission<P> {
    /// That there is an answer already ends a request. The contract says it of a signer: whichever
    /// wallet brought it, another one cannot be brought. It has to be said for longer where this
    /// instance has sent none and the chain shows none of this wallet.
    pub(super) async fn recheck_already_answered(
        &self,
        request: &Request,
        call: &EthCall,
        before: PriorAnswer,
    ) -> Result<Outcome, SubmissionError> {
        sleep(RECHECK_AFTER).await;
        self.still_answered(request, call).await?;
        let is_known = before != PriorAnswer::Impossible
            || matches!(
                self.prior_answers.find(request.into()).await,
                Ok(SearchResult::Yes | SearchResult::NotFinal)
            );
        if !is_known {
            sleep(THIRD_CHECK_AFTER).await;
            self.still_answered(request, call).await?;
        }
        Ok(Outcome::AlreadyAnswered)
    }

    /// Whether all say so.
    async fn still_answered(
        &self,
        request: &Request,
        call: &EthCall,
    ) -> Result<(), SubmissionError> {
        let known =
            |error: &ContractError| matches!(error, ContractError::KmsNodeAlreadySigned { .. });
        let ending = (EndClaim::Answered, request);
        policy::answered(self.all_say(ending, call, BlockId::Latest, known).await?)
    }

    /// A lagging node does not know young requests: believed only of the state after the request's
    /// own block, named by its hash [10]. Behind one URL the node that has the block and the one
    /// that is asked next need not be the same, and one without the block cannot answer this.
    pub(super) async fn recheck_not_requested(
        &self,
        request: &Request,
        call: &EthCall,
    ) -> Result<Outcome, SubmissionError> {
        let block = match self.adapter.locate(request, &[]).await? {
            RequestLocation::In(block) => block,
            RequestLocation::Unknown => return Err(SubmissionError::NotRequestedYet),
            RequestLocation::Gone => return Ok(Outcome::Orphaned),
        };
        sleep(RECHECK_AFTER).await;
        let unknown =
            |error: &ContractError| matches!(error, ContractError::DecryptionNotRequested(_));
        let ending = (EndClaim::NotRequested, request);
        let mut again = self.all_say(ending, call, BlockId::Hash(block.hash), unknown).await;
        let head = self.adapter.provider().header(BlockId::Latest).await?;
        let head = head.map_or(0, |head| head.block.number);
        if matches!(&again, Err(RpcError::Refused { .. }))
            && head.saturating_sub(block.number) >= ORPHANED_AFTER
        {
            // Nodes may have thrown the state of old blocks away, but do not lag that far.
            again = self.all_say(ending, call, BlockId::Latest, unknown).await;
        }
        Err(policy::requested(again?))
    }

    /// Whether the contract says this to an answer, by every node that may know.
    async fn all_say(
        &self,
        (ending, request): (EndClaim, &Request),
        call: &EthCall,
        at: BlockId,
        this: impl Fn(&ContractError) -> bool + Copy,
    ) -> Result<Agreement, RpcError> {
        let says = |one: DecryptionAdapter<P>| async move {
            let said = opinion_of(one.provider().call(call, at).await)?;
            Ok(matches!(&said, Opinion::Rejects(Some(error)) if this(error)))
        };
        self.adapter.agreement_on(ending, request.key, says).await
    }

    /// What the contract says to an answer now, by each node that tells.
    pub(super) async fn all_opinions(&self, call: &EthCall) -> Result<Vec<Opinion>, RpcError> {
        let ask = |one: P| async move { opinion_of(one.call(call, BlockId::Latest).await) };
        let provider = self.adapter.provider();
        Survey::run(provider, VOTE_TIMEOUT, ask).await.into_answers(provider)
    }
}

fn opinion_of(answer: Result<Bytes, RpcError>) -> Result<Opinion, RpcError> {
    match answer {
        Ok(_) => Ok(Opinion::Accepts),
        Err(error) => match error.revert_data() {
            Some(data) => Ok(Opinion::Rejects(ContractError::decode(&data))),
            None => Err(error),
        },
    }
}
