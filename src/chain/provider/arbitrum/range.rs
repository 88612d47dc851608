//! The logs of a range of blocks with the headers of its ends, from one node.

use serde_json::{Value, json};

use crate::chain::{
    provider::{
        batch, client::Client, head::RawHead, node_handle::NodeHandle, parameters::quantity,
        raw::RawLog,
    },
    rpc_error::RpcError,
};

pub(super) const HEADER: &str = "eth_getBlockByNumber";
pub(super) const LOGS: &str = "eth_getLogs";

/// A range of blocks as received.
pub(super) struct RawRange {
    pub(super) first: Option<RawHead>,
    pub(super) last: Option<RawHead>,
    pub(super) logs: Vec<RawLog>,
}

/// Reads logs and the headers of the range's ends. The last header is read before the logs: a node that
/// advances in between would show the block afterwards without having searched it.
///
/// In a batch all answers come from one machine. With separate calls the logs may come from another
/// machine behind the same URL, which may know less of the range without saying so. So the last header
/// is read a second time, which is another chance to notice such a machine. One that answers only the
/// call for logs stays unnoticed; what it hides is found by the second reading, or not at all.
pub(super) async fn fetch_range(
    client: &Client,
    node: &NodeHandle,
    filter: Value,
    from: u64,
    to: u64,
) -> Result<RawRange, RpcError> {
    let header = |number| json!([quantity(number), false]);
    let calls = [(HEADER, header(to)), (HEADER, header(from)), (LOGS, filter.clone())];
    let read = |said: Vec<batch::RpcReply>| {
        let mut replies = said.into_iter();
        let mut next =
            || replies.next().unwrap_or_else(|| Err(client.endpoint().unreadable("less")));
        let (last, first, logs) = (next()?, next()?, next()?);
        let endpoint = client.endpoint();
        Ok(RawRange {
            last: endpoint.parse(&last)?,
            first: endpoint.parse(&first)?,
            logs: endpoint.parse(&logs)?,
        })
    };
    let apart = async {
        let last: Option<RawHead> = client.call(HEADER, &header(to)).await?;
        let begin = header(from);
        let (logs, first) =
            tokio::try_join!(client.call(LOGS, &filter), client.call(HEADER, &begin))?;
        let again: Option<RawHead> = client.call(HEADER, &header(to)).await?;
        let last = last.filter(|last| again.is_some_and(|again| again.has_same_hash(last)));
        Ok(RawRange { first, last, logs })
    };
    batch::call_batched_or_separately(client, &node.batches, &calls, read, apart).await
}
