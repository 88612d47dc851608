//! Reads of state pinned to one block by its hash (EIP-1898), all in one message.
//!
//! A node that knows blocks by number alone is asked by number, and for the block's hash before and
//! after: the reads count only if both times it is the one that is meant.

use serde_json::{Value, json};
use tracing::info;

use super::{
    ArbitrumProvider,
    batch::{self, RpcCall, RpcReply},
    client::Client,
    head::RawHead,
    node_handle::NodeHandle,
    parameters::{call_parameter, quantity},
};
use crate::{
    chain::{
        reader::{ReadAt, StateRead},
        rpc_error::RpcError,
    },
    domain::{BlockRef, Bytes, U256},
};

const CALL: &str = "eth_call";

impl ArbitrumProvider {
    /// See [`ChainReader::read_state`](crate::chain::reader::ChainReader::read_state).
    pub(super) async fn fetch_state(
        &self,
        block: BlockRef,
        reads: &[(StateRead, ReadAt)],
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        if reads.is_empty() {
            return Ok(Vec::new());
        }
        let pinned = json!({ "blockHash": block.hash, "requireCanonical": true });
        let by_hash = calls(reads, &pinned);
        let by_number = calls(reads, &json!(quantity(block.number)));
        let reply = self
            .with_client_attributed(CALL, |client, node| {
                let (by_hash, by_number) = (by_hash.clone(), by_number.clone());
                async move {
                    let replies = read(&client, &node, block, by_hash, by_number).await?;
                    if let Some(busy) = replies
                        .iter()
                        .find_map(|reply| reply.as_ref().err().filter(|error| error.is_busy()))
                    {
                        return Err(busy.clone());
                    }
                    let decode = |((read, _), reply): (&(StateRead, ReadAt), RpcReply)| {
                        decode(&client, read, reply)
                    };
                    Ok(reads.iter().zip(replies).map(decode).collect())
                }
            })
            .await?;
        Ok(reply.value)
    }
}

async fn read(
    client: &Client,
    node: &NodeHandle,
    block: BlockRef,
    by_hash: Vec<RpcCall>,
    by_number: Vec<RpcCall>,
) -> Result<Vec<RpcReply>, RpcError> {
    if node.block_hashes.is_supported() {
        let replies = batch::call_each(client, &node.batches, by_hash).await?;
        let refuses = |reply: &RpcReply| reply.as_ref().is_err_and(RpcError::refuses_block_hash);
        if !replies.iter().any(refuses) {
            return Ok(replies);
        }
    }
    require(client, block).await?;
    let replies = batch::call_each(client, &node.batches, by_number).await?;
    require(client, block).await?;
    if node.block_hashes.record_refusal() {
        let (host, role) = (client.endpoint().host(), client.endpoint().role());
        info!(host, "a {role} node knows no block by its hash: it is asked by number");
    }
    Ok(replies)
}

/// Checks that the node has this block at its height.
async fn require(client: &Client, block: BlockRef) -> Result<(), RpcError> {
    let at = json!([quantity(block.number), false]);
    let head: Option<RawHead> = client.call("eth_getBlockByNumber", &at).await?;
    match head {
        Some(head) if head.block() == block => Ok(()),
        Some(_) | None => {
            Err(client.endpoint().unavailable("it does not have the block that is read at"))
        }
    }
}

fn calls(reads: &[(StateRead, ReadAt)], pinned: &Value) -> Vec<RpcCall> {
    let call = |(read, at): &(StateRead, ReadAt)| {
        let at = match at {
            ReadAt::Pinned => pinned.clone(),
            ReadAt::Finalized => json!("finalized"),
        };
        match read {
            StateRead::Call(call) => (CALL, json!([call_parameter(call), at])),
            StateRead::Code(address) => ("eth_getCode", json!([address, at])),
            StateRead::Slot { address, slot } => ("eth_getStorageAt", json!([address, slot, at])),
        }
    };
    reads.iter().map(call).collect()
}

/// A slot is a word, which nodes write with or without leading zeroes.
fn decode(client: &Client, read: &StateRead, reply: RpcReply) -> Result<Bytes, RpcError> {
    let raw = reply?;
    match read {
        StateRead::Call(_) | StateRead::Code(_) => client.endpoint().parse(&raw),
        StateRead::Slot { .. } => {
            let word: U256 = client.endpoint().parse(&raw)?;
            Ok(word.to_be_bytes::<32>().into())
        }
    }
}
