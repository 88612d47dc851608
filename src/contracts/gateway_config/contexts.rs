//! KMS contexts as the gateway knows them, from v0.12.0 on (gateway-abi 5). Not cached: a context may be
//! destroyed or replaced at any time.

use super::{GatewayConfigAdapter, RegistryError};
use crate::{
    chain::reader::{BlockId, ChainReader, EthCall},
    contracts::{
        abi::{self, ContextRule, View},
        decryption::{ViewError, call_view},
    },
    domain::{B256, U256},
};

impl<P: ChainReader> GatewayConfigAdapter<P> {
    /// Whether the gateway knows this context and it was not destroyed.
    pub async fn context_is_valid(
        &self,
        context: U256,
        rule: ContextRule,
    ) -> Result<bool, RegistryError> {
        let asked = if rule == ContextRule::GatewaySigners {
            let signers = self.context_view(&abi::kms_signers_for_context(context)).await?;
            signers.map(|signers| !signers.is_empty())
        } else {
            self.context_view(&abi::is_valid_kms_context(context)).await?
        };
        Ok(asked.unwrap_or(false))
    }

    /// The context that is current now. `None`: the contract knows none.
    pub async fn current_context(&self) -> Result<Option<U256>, RegistryError> {
        self.context_view(&abi::current_kms_context_id()).await
    }

    /// The context that was current after this block. `None`: the node does not have that block's state
    /// any more, or the contract knew none.
    pub async fn current_context_at(&self, block: B256) -> Result<Option<U256>, RegistryError> {
        let view = abi::current_kms_context_id();
        let call = EthCall::view(self.address, view.calldata());
        match self.provider.call(&call, BlockId::Hash(block)).await {
            Ok(returned) => Ok(view.decode(&returned).ok()),
            Err(error) if error.is_state_pruned() || error.revert_data().is_some() => Ok(None),
            Err(error) => Err(RegistryError(ViewError::Rpc(error))),
        }
    }

    /// `None`: the contract answers nothing of that kind, or refuses.
    async fn context_view<T>(&self, view: &View<T>) -> Result<Option<T>, RegistryError> {
        match call_view(&self.provider, self.address, view).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_answer() => Ok(None),
            Err(error) => Err(RegistryError(error)),
        }
    }
}
