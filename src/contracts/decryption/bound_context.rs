//! Whether the contract takes an answer in the context that is current now. From v0.13.0 on it binds a
//! request to the context of its block, but not one that it had taken in before (gateway-abi 4.3, 11).

use super::RequestContract;
use crate::{
    chain::{
        reader::{BlockId, ChainReader, EthCall},
        rpc_error::RpcError,
    },
    contracts::abi::{self, ContractError, ResponseForm},
    domain::Request,
};

impl<P: ChainReader> RequestContract<P> {
    /// Asks by a response without content, which the contract refuses in any case: first for its context,
    /// then for its signature. Whatever else it says leaves the matter to the real answer.
    pub async fn refuses_current_context(&self, request: &Request) -> Result<bool, RpcError> {
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
