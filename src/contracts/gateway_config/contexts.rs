//! KMS contexts as the gateway knows them, from v0.12.0 on (gateway-abi 5). A context may be destroyed or
//! replaced at any time, so an answer counts under its head only ([`shared_reads`](super::shared_reads)).

use std::time::Duration;

use super::{
    GatewayConfigAdapter, RegistryError,
    shared_reads::{Question, Reading, Returned},
};
use crate::{
    chain::{
        reader::{BlockId, ChainReader, EthCall},
        rpc_error::RpcError,
        survey::Survey,
    },
    contracts::{
        abi::{self, ContextRule, View},
        decryption::ViewError,
    },
    domain::{B256, U256},
};

/// Deadline of a node's answer where all are asked.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

impl<P: ChainReader> GatewayConfigAdapter<P> {
    /// Whether the gateway knows this context and it was not destroyed, as every node that answers says.
    pub async fn context_is_valid(
        &self,
        context: U256,
        rule: ContextRule,
    ) -> Result<bool, RegistryError> {
        let asked = if rule == ContextRule::GatewaySigners {
            let signers = self.view_of_all(&abi::kms_signers_for_context(context)).await?;
            signers.map(|signers| !signers.is_empty())
        } else {
            self.view_of_all(&abi::is_valid_kms_context(context)).await?
        };
        Ok(asked.unwrap_or(false))
    }

    /// The context that is current now. `None`: the contract knows none.
    pub async fn current_context(&self) -> Result<Option<U256>, RegistryError> {
        self.context_view(&abi::current_kms_context_id(), None).await
    }

    /// The context that was current after this block. `None`: the node does not have that block's state
    /// any more, or the contract knew none.
    pub async fn current_context_at(&self, block: B256) -> Result<Option<U256>, RegistryError> {
        self.context_view(&abi::current_kms_context_id(), Some(block)).await
    }

    /// What a view returns in this block, or in the newest one. `None`: the contract answers nothing of that
    /// kind, or refuses; or the node has dropped the block's state.
    async fn context_view<T>(
        &self,
        view: &View<T>,
        at: Option<B256>,
    ) -> Result<Option<T>, RegistryError> {
        let call = EthCall::view(self.address, view.calldata());
        let provider = self.provider.clone();
        let read = move || -> Reading {
            Box::pin(async move { Ok(read(&provider, &call, at).await.map_err(ViewError::Rpc)?) })
        };
        self.shared(view, at, read).await
    }

    /// What a view returns in the newest block, if all nodes that answer say the same.
    async fn view_of_all<T>(&self, view: &View<T>) -> Result<Option<T>, RegistryError> {
        let call = EthCall::view(self.address, view.calldata());
        let provider = self.provider.clone();
        let read = move || -> Reading {
            Box::pin(async move {
                let ask = |one: P| {
                    let call = call.clone();
                    async move { read(&one, &call, None).await }
                };
                let told = Survey::run(&provider, ANSWERS_WITHIN, ask).await;
                let told = told.into_answers(&provider).map_err(ViewError::Rpc)?;
                let are_same = told.windows(2).all(|two| two[0] == two[1]);
                Ok(told.into_iter().next().flatten().filter(|_| are_same))
            })
        };
        self.shared(view, None, read).await
    }

    async fn shared<T>(
        &self,
        view: &View<T>,
        at: Option<B256>,
        read: impl FnOnce() -> Reading,
    ) -> Result<Option<T>, RegistryError> {
        let head = (*self.provider.heads().borrow()).map(|head| head.block.hash);
        let question = Question { at, calldata: view.calldata() };
        let returned = self.shared_reads.get(head, question, read).await?;
        Ok(returned.and_then(|returned| view.decode(&returned).ok()))
    }
}

async fn read<P: ChainReader>(
    provider: &P,
    call: &EthCall,
    at: Option<B256>,
) -> Result<Returned, RpcError> {
    match provider.call(call, at.map_or(BlockId::Latest, BlockId::Hash)).await {
        Ok(returned) => Ok(Some(returned)),
        Err(error) if error.revert_data().is_some() => Ok(None),
        Err(error) if at.is_some() && error.is_state_pruned() => Ok(None),
        Err(error) => Err(error),
    }
}
