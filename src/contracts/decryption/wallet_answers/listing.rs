//! The first source: whom the contract lists as those who formed the consensus.

use tracing::debug;

use super::AnswerSearch;
use crate::{
    chain::{
        reader::{BlockId, ChainReader, EthCall},
        rpc_error::RpcError,
    },
    contracts::{abi, decryption::RequestContract},
    domain::Address,
};

/// Whose answers a contract lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Ours,
    Others,
    /// There is no consensus yet, or no such list.
    Nobody,
    /// The node does not have the contract's state of that block.
    Unavailable,
}

impl<P: ChainReader> RequestContract<P> {
    /// Whom the contract lists for each of these.
    pub(super) async fn consensus_listing(
        &self,
        wallet: Address,
        look: &AnswerSearch<'_>,
        of: &[usize],
        at: BlockId,
    ) -> Result<Vec<(usize, Listed)>, RpcError> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let views: Vec<_> = of
            .iter()
            .map(|index| &look.queries[*index])
            .map(|query| abi::consensus_tx_senders(query.kind, query.id))
            .collect();
        let to = self.address();
        let calls: Vec<EthCall> =
            views.iter().map(|view| EthCall::view(to, view.calldata())).collect();
        // Nodes drop the state of earlier blocks, some after seconds.
        let untold = |error: &RpcError| at != BlockId::Latest && error.is_state_pruned();
        let results = match self.provider.calls(&calls, at).await {
            Err(error) if untold(&error) => {
                return Ok(of.iter().map(|index| (*index, Listed::Unavailable)).collect());
            }
            said => said?,
        };
        let mut listed = Vec::with_capacity(of.len());
        for ((index, view), said) in of.iter().zip(&views).zip(results) {
            let senders = match said {
                Ok(returned) => view.decode(&returned).unwrap_or_default(),
                // The contract has no such function.
                Err(error) if error.revert_data().is_some() => Vec::new(),
                Err(error) if untold(&error) => {
                    debug!(?at, %error, "the node does not have the state of an earlier block");
                    listed.push((*index, Listed::Unavailable));
                    continue;
                }
                Err(error) => return Err(error),
            };
            listed.push((
                *index,
                match senders.as_slice() {
                    [] => Listed::Nobody,
                    senders if senders.contains(&wallet) => Listed::Ours,
                    _ => Listed::Others,
                },
            ));
        }
        Ok(listed)
    }
}
