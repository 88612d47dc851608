//! The transaction that made a request, as one node shows it.

use super::RequestContract;
use crate::{
    chain::{
        reader::{ChainReader, LogRange},
        rpc_error::RpcError,
    },
    domain::{B256, BlockRef, Request},
};

impl<P: ChainReader> RequestContract<P> {
    /// The transaction that emitted the request's event in this block, by the block's logs. A node names it
    /// beside the event, and may name another one. `None`: the node shows no such event there.
    pub async fn transaction_of(
        &self,
        request: &Request,
        block: BlockRef,
    ) -> Result<Option<B256>, RpcError> {
        let logs = self.provider.logs(self.filter(), LogRange::Block(block.hash)).await?;
        let is_it = |key| key == request.key;
        let found = logs
            .value
            .into_iter()
            .find(|event| self.decode(event).is_ok_and(|found| is_it(found.key)));
        Ok(found.map(|event| event.transaction))
    }
}
