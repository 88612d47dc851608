//! The contract's reply as one node gives it, and as all do: neither a single node's reply nor a single
//! moment's ends a request.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    PriorAnswer, Submission, SubmissionError,
    decisions::{self, Opinion},
    prior_answer::SearchResult,
};
use crate::{
    chain::{
        reader::{BlockId, EthCall},
        rpc_error::RpcError,
        sender::TransactionSender,
        survey::Survey,
    },
    contracts::{
        abi::{ContractError, RevertMeaning},
        decryption::{Agreement, EndClaim, ORPHANED_AFTER, RequestContract, RequestLocation},
    },
    domain::{Bytes, Outcome, Request},
};

/// Between a node's first reply and the second.
pub(super) const RECHECK_AFTER: Duration = Duration::from_secs(5);
/// Until the third, if no own answer is known although the contract is said to have one.
const THIRD_CHECK_AFTER: Duration = Duration::from_secs(10);
/// A node that is silent for this long has no vote.
pub(super) const VOTE_TIMEOUT: Duration = Duration::from_secs(5);

impl<P: TransactionSender> Submission<P> {
    /// An existing answer ends a request. The contract checks this by signer: whichever wallet sent it,
    /// another answer is impossible. If this instance has sent none, and the chain shows none of this
    /// wallet, the nodes have to repeat it for longer.
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

    /// A contract that waits for no answer any more, whoever gave the others, ends a request.
    pub(super) async fn recheck_over(
        &self,
        request: &Request,
        call: &EthCall,
    ) -> Result<Outcome, SubmissionError> {
        sleep(RECHECK_AFTER).await;
        let is_over = |error: &ContractError| error.meaning() == RevertMeaning::Over;
        let ending = (EndClaim::Answered, request);
        decisions::answered(self.all_say(ending, call, BlockId::Latest, is_over).await?)?;
        Ok(Outcome::NoAnswerDue)
    }

    /// Returns whether all nodes still say so.
    async fn still_answered(
        &self,
        request: &Request,
        call: &EthCall,
    ) -> Result<(), SubmissionError> {
        let is_signed = |error: &ContractError| error.meaning() == RevertMeaning::AlreadyAnswered;
        let ending = (EndClaim::Answered, request);
        decisions::answered(self.all_say(ending, call, BlockId::Latest, is_signed).await?)
    }

    /// A lagging node does not know young requests. So the reply counts only if it was read at the
    /// request's own block, named by its hash (architecture, decision 10): behind one URL the node that has
    /// the block and the next one that is asked may differ, and a node without the block cannot answer
    /// this.
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
        let unknown = |error: &ContractError| error.meaning() == RevertMeaning::NotRequested;
        let ending = (EndClaim::NotRequested, request);
        let mut again = self.all_say(ending, call, BlockId::Hash(block.hash), unknown).await;
        let head = self.adapter.provider().header(BlockId::Latest).await?;
        let head = head.map_or(0, |head| head.block.number);
        if matches!(&again, Err(RpcError::Refused { .. }))
            && head.saturating_sub(block.number) >= ORPHANED_AFTER
        {
            // Nodes may have pruned the state of old blocks, but do not lag that far.
            again = self.all_say(ending, call, BlockId::Latest, unknown).await;
        }
        Err(decisions::requested(again?))
    }

    /// Returns whether every node that can know gives this reply to an answer.
    async fn all_say(
        &self,
        (ending, request): (EndClaim, &Request),
        call: &EthCall,
        at: BlockId,
        this: impl Fn(&ContractError) -> bool + Copy,
    ) -> Result<Agreement, RpcError> {
        let says = |one: RequestContract<P>| async move {
            let opinion = opinion_of(one.provider().call(call, at).await)?;
            Ok(matches!(&opinion, Opinion::Rejects(Some(error)) if this(error)))
        };
        self.adapter.agreement_on(ending, request.key, says).await
    }

    /// The current opinion of each node that answers.
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
