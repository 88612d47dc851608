//! Reads of state pinned to one block by its hash (EIP-1898), as many in one message as nodes take.
//!
//! A node that knows blocks by number alone is asked by number, and for the block's hash before and
//! after: the reads count only if both times it is the one that is meant.
//!
//! A request may need thousands of reads, and a node may be slow. So a read is written when its message is sent,
//! and of a message that was answered only what the reads returned is kept, within a bound.

use serde::{Serialize, Serializer};
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
/// All that the reads of one block return together, in bytes: a contract's code, and words beside it. A word for
/// each of the most reads that a request may need is half of it.
const LARGEST: usize = 2 << 20;

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
        let reply = self
            .with_client_attributed(CALL, |client, node| async move {
                let mut returned = Vec::with_capacity(reads.len());
                let mut length = 0_usize;
                for part in reads.chunks(batch::MOST_IN_ONE) {
                    let replies = read(&client, &node, block, part).await?;
                    for ((read, _), reply) in part.iter().zip(replies) {
                        let told = decode(&client, read, reply);
                        if let Err(busy) = &told
                            && busy.is_busy()
                        {
                            return Err(busy.clone());
                        }
                        length = length.saturating_add(length_of(&told));
                        if length > LARGEST {
                            let host = client.endpoint().host().to_owned();
                            return Err(RpcError::TooLarge { host, bound: LARGEST });
                        }
                        returned.push(told);
                    }
                }
                Ok(returned)
            })
            .await?;
        Ok(reply.value)
    }
}

fn length_of(told: &Result<Bytes, RpcError>) -> usize {
    match told {
        Ok(returned) => returned.len(),
        Err(RpcError::Refused { data, .. }) => data.as_ref().map_or(0, |data| data.len()),
        Err(
            RpcError::Unavailable { .. }
            | RpcError::WrongChain { .. }
            | RpcError::WrongGenesis { .. }
            | RpcError::Unreadable { .. }
            | RpcError::RateLimited { .. }
            | RpcError::TooLarge { .. },
        ) => 0,
    }
}

/// The reads of one message.
async fn read(
    client: &Client,
    node: &NodeHandle,
    block: BlockRef,
    reads: &[(StateRead, ReadAt)],
) -> Result<Vec<RpcReply>, RpcError> {
    if node.block_hashes.is_supported() {
        let pinned = json!({ "blockHash": block.hash, "requireCanonical": true });
        let replies = batch::call_each(client, &node.batches, &calls(reads, &pinned)).await?;
        let refuses = |reply: &RpcReply| reply.as_ref().is_err_and(RpcError::refuses_block_hash);
        if !replies.iter().any(refuses) {
            return Ok(replies);
        }
    }
    require(client, block).await?;
    let pinned = json!(quantity(block.number));
    let replies = batch::call_each(client, &node.batches, &calls(reads, &pinned)).await?;
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

/// The parameters of a read.
#[derive(Debug)]
struct ReadParameters<'r> {
    read: &'r StateRead,
    /// The block of pinned reads. `None`: the finalized one.
    pinned: Option<&'r Value>,
}

impl Serialize for ReadParameters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let finalized = json!("finalized");
        let at = self.pinned.unwrap_or(&finalized);
        match self.read {
            StateRead::Call(call) => (call_parameter(call), at).serialize(serializer),
            StateRead::Code(address) => (address, at).serialize(serializer),
            StateRead::Slot { address, slot } => (address, slot, at).serialize(serializer),
        }
    }
}

fn calls<'r>(
    reads: &'r [(StateRead, ReadAt)],
    pinned: &'r Value,
) -> Vec<RpcCall<ReadParameters<'r>>> {
    let call = |(read, at): &'r (StateRead, ReadAt)| {
        let method = match read {
            StateRead::Call(_) => CALL,
            StateRead::Code(_) => "eth_getCode",
            StateRead::Slot { .. } => "eth_getStorageAt",
        };
        let pinned = (*at == ReadAt::Pinned).then_some(pinned);
        (method, ReadParameters { read, pinned })
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
