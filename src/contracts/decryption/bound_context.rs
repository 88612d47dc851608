//! Whether the contract takes an answer in the context that is current now. From v0.13.0 on it binds a
//! request to the context of its block, but not one that it had taken in before (gateway-abi 4.3, 11). If it
//! takes none, the request ends; so every node is asked.

use super::RequestContract;
use crate::{
    chain::{
        reader::{BlockId, ChainReader, EthCall},
        rpc_error::RpcError,
    },
    contracts::abi::{self, ContractError, ResponseForm},
    domain::Request,
};

/// What the gateway nodes say of an answer in the context that is current now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrentContext {
    /// The contract takes one, or leaves it to the real answer.
    Taken,
    /// Some nodes say that it takes none, and others do not.
    Disputed,
    /// It takes none, as every node that answers says.
    Refused {
        /// One of several nodes: the others do not answer.
        by_one_of_several: bool,
    },
}

impl<P: ChainReader> RequestContract<P> {
    /// Asks all nodes whether the contract takes an answer in the context that is current now. An error: none
    /// answers.
    pub async fn current_context_taken(
        &self,
        request: &Request,
    ) -> Result<CurrentContext, RpcError> {
        let ask = |one: Self| async move { one.refuses_current_context(request).await };
        let refuse = self.hearing(ask).await.into_answers(&self.provider)?;
        let refusing = refuse.iter().filter(|refuses| **refuses).count();
        Ok(if refusing == 0 {
            CurrentContext::Taken
        } else if refusing < refuse.len() {
            CurrentContext::Disputed
        } else {
            let by_one_of_several = refusing < 2 && self.provider.node_count() > 1;
            CurrentContext::Refused { by_one_of_several }
        })
    }

    /// Asks by a response without content, which the contract refuses in any case: first for its context,
    /// then for its signature. Whatever else it says leaves the matter to the real answer.
    async fn refuses_current_context(&self, request: &Request) -> Result<bool, RpcError> {
        let form = ResponseForm::WithExtraData;
        let data = abi::empty_response_call(request.kind(), request.key.id, form);
        let call = EthCall::view(self.address(), data);
        match self.provider.call(&call, BlockId::Latest).await {
            Ok(_) => Ok(false),
            Err(error) => match error.revert_data() {
                Some(data) => Ok(matches!(
                    ContractError::decode(&data),
                    Some(ContractError::DecryptionContextMismatch { .. })
                )),
                None => Err(error),
            },
        }
    }
}
