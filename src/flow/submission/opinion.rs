//! What the contract says by one node, and by all: what ends a request is neither one node's word nor one
//! moment's.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Before, Submission, SubmissionError,
    earlier::Found,
    policy::{self, Opinion},
};
use crate::{
    domain::{Bytes, Outcome, Request},
    gateway::{
        abi::ContractError,
        decryption::{Agreed, DecryptionAdapter, Ending, ORPHANED_AFTER, Whereabouts},
        provider::{At, Call, Hearing, RpcError, TransactionSender},
    },
};

/// Between the first word of a node and the second.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Until the third, where nothing is known of the answer that the contract is said to have.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// A node that says nothing for so long has no vote.
pub(super) const VOTE_WITHIN: Duration = Duration::from_secs(5);

impl<P: TransactionSender> Submission<P> {
    /// That there is an answer already ends a request. The contract says it of a signer: whichever
    /// wallet brought it, another one cannot be brought. It has to be said for longer where this
    /// instance has sent none and the chain shows none of this wallet.
    pub(super) async fn already_answered(
        &self,
        request: &Request,
        call: &Call,
        before: Before,
    ) -> Result<Outcome, SubmissionError> {
        sleep(AGAIN_AFTER).await;
        self.still_answered(request, call).await?;
        let is_known = before != Before::Nothing
            || matches!(self.earlier.look(request.into()).await, Ok(Found::Yes | Found::Young));
        if !is_known {
            sleep(UNKNOWN_FOR).await;
            self.still_answered(request, call).await?;
        }
        Ok(Outcome::AlreadyAnswered)
    }

    /// Whether all say so.
    async fn still_answered(&self, request: &Request, call: &Call) -> Result<(), SubmissionError> {
        let known =
            |error: &ContractError| matches!(error, ContractError::KmsNodeAlreadySigned { .. });
        let ending = (Ending::Answered, request);
        policy::answered(self.all_say(ending, call, At::Latest, known).await?)
    }

    /// A lagging node does not know young requests: believed only of the state after the request's
    /// own block, named by its hash [10]. Behind one URL the node that has the block and the one
    /// that is asked next need not be the same, and one without the block cannot answer this.
    pub(super) async fn second_opinion(
        &self,
        request: &Request,
        call: &Call,
    ) -> Result<Outcome, SubmissionError> {
        let block = match self.adapter.whereabouts(request, &[]).await? {
            Whereabouts::In(block) => block,
            Whereabouts::Unknown => return Err(SubmissionError::NotRequestedYet),
            Whereabouts::Gone => return Ok(Outcome::Orphaned),
        };
        sleep(AGAIN_AFTER).await;
        let unknown =
            |error: &ContractError| matches!(error, ContractError::DecryptionNotRequested(_));
        let ending = (Ending::NotRequested, request);
        let mut again = self.all_say(ending, call, At::Hash(block.hash), unknown).await;
        let head = self.adapter.provider().header(At::Latest).await?;
        let head = head.map_or(0, |head| head.block.number);
        if matches!(&again, Err(RpcError::Refused { .. }))
            && head.saturating_sub(block.number) >= ORPHANED_AFTER
        {
            // Nodes may have thrown the state of old blocks away, but do not lag that far.
            again = self.all_say(ending, call, At::Latest, unknown).await;
        }
        Err(policy::requested(again?))
    }

    /// Whether the contract says this to an answer, by every node that may know.
    async fn all_say(
        &self,
        (ending, request): (Ending, &Request),
        call: &Call,
        at: At,
        this: impl Fn(&ContractError) -> bool + Copy,
    ) -> Result<Agreed, RpcError> {
        let says = |one: DecryptionAdapter<P>| async move {
            let said = read(one.provider().call(call, at).await)?;
            Ok(matches!(&said, Opinion::Refuses(Some(error)) if this(error)))
        };
        self.adapter.agreed(ending, request.key, says).await
    }

    /// What the contract says to an answer now, by each node that tells.
    pub(super) async fn everyone(&self, call: &Call) -> Result<Vec<Opinion>, RpcError> {
        let ask = |one: P| async move { read(one.call(call, At::Latest).await) };
        let provider = self.adapter.provider();
        Hearing::of(provider, VOTE_WITHIN, ask).await.answers(provider)
    }
}

fn read(answer: Result<Bytes, RpcError>) -> Result<Opinion, RpcError> {
    match answer {
        Ok(_) => Ok(Opinion::Takes),
        Err(error) => match error.revert_data() {
            Some(data) => Ok(Opinion::Refuses(ContractError::decode(&data))),
            None => Err(error),
        },
    }
}
