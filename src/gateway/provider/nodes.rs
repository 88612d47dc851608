//! The nodes behind a provider, for whoever builds an instance on them: how each is, and which of them
//! are of the chain that is meant.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::time::timeout;
use tracing::warn;

use super::{
    ArbitrumProvider, At, Beginning, NodeId, Provider, RpcError,
    connection::Link,
    endpoints::Node,
    identity::{self, Said},
};
use crate::domain::{B256, BlockRef};

/// A node that does not name a block within this has no word about it.
const NAMES_WITHIN: Duration = Duration::from_secs(3);

/// What an instance asks of its provider beside what its rooms do.
pub trait Nodes: Provider {
    /// The hosts of all nodes, for messages.
    fn hosts(&self) -> &str;
    /// Each node's host, whether it may be called, and its newest block.
    fn endpoints(&self) -> Vec<(&str, bool, Option<u64>)>;
    /// Why no node is connected just now; `None` while one is. Asks nobody.
    fn trouble(&self) -> Option<RpcError>;
    /// Waits until a node is connected, or each has been tried once.
    fn first_attempt(&self) -> impl Future<Output = Result<(), RpcError>> + Send;
    /// What each node says of block 0. Asks nobody: it was asked when it was connected.
    fn beginnings(&self) -> Vec<(&str, Beginning)>;
    /// The chain is the one with this block 0. Nodes with another one are left out from now on.
    fn settle_genesis(&self, genesis: B256) -> impl Future<Output = ()> + Send;
    /// Everything up to this block was read by an earlier run.
    fn begin_after(&self, block: BlockRef);
    /// Everything up to this block was read. Once it is deep and two nodes name it, a node that has
    /// another one there is of another chain, as long as some node is not. Now and then the nodes are
    /// asked.
    fn read_up_to(&self, block: BlockRef) -> impl Future<Output = ()> + Send;
}

impl Nodes for ArbitrumProvider {
    fn hosts(&self) -> &str {
        &self.inner.hosts
    }

    fn endpoints(&self) -> Vec<(&str, bool, Option<u64>)> {
        self.nodes().iter().map(Node::health).collect()
    }

    fn trouble(&self) -> Option<RpcError> {
        let mut troubles = Vec::new();
        let nobody = self.inner.shared.usable.borrow().order.is_empty();
        for node in self.nodes() {
            match &*node.link.borrow() {
                Link::Up(_) => match node.contradiction() {
                    Some(why) if nobody => troubles.push(why),
                    Some(_) | None => return None,
                },
                Link::Down(Some(why)) | Link::WrongChain(why) => {
                    troubles.push(why.clone());
                }
                Link::Down(None) => {
                    let host = node.endpoint.host().to_owned();
                    let what = "not connected yet".to_owned();
                    troubles.push(RpcError::Unavailable { host, what: what.into() });
                }
            }
        }
        let all_wrong =
            troubles.iter().all(|trouble| matches!(trouble, RpcError::WrongChain { .. }));
        if troubles.len() == 1 || all_wrong {
            return troubles.into_iter().next();
        }
        let each: Vec<String> = troubles.iter().map(ToString::to_string).collect();
        Some(self.unavailable(each.join("; ")))
    }

    async fn first_attempt(&self) -> Result<(), RpcError> {
        let tried = self.nodes().iter().map(|node| {
            let mut link = node.link.clone();
            async move {
                // The connection's task may have ended.
                let _ = link.wait_for(|link| !matches!(link, Link::Down(None))).await;
            }
        });
        let mut tried: FuturesUnordered<_> = tried.collect();
        while tried.next().await.is_some() {
            if self.trouble().is_none() {
                break;
            }
        }
        self.trouble().map_or(Ok(()), Err)
    }

    fn beginnings(&self) -> Vec<(&str, Beginning)> {
        let of = |node: &Node| match (&*node.link.borrow(), node.found.borrow().genesis) {
            (Link::Down(None), _) => Beginning::Untried,
            (Link::WrongChain(RpcError::WrongGenesis { found, .. }), _) => Beginning::Is(*found),
            (Link::WrongChain(_), _) => Beginning::OfAnotherId,
            (Link::Up(_), Some(Some(genesis))) => Beginning::Is(genesis),
            (Link::Up(_), Some(None)) => Beginning::Untold,
            (Link::Down(Some(_)) | Link::Up(_), _) => Beginning::Away,
        };
        self.nodes().iter().map(|node| (node.endpoint.host(), of(node))).collect()
    }

    async fn settle_genesis(&self, genesis: B256) {
        self.inner.shared.settle_genesis(genesis).await;
    }

    fn begin_after(&self, block: BlockRef) {
        self.inner.shared.learn(|known| known.begin_after(block));
    }

    async fn read_up_to(&self, block: BlockRef) {
        let mut ripe = None;
        self.inner.shared.learn(|known| ripe = known.read_up_to(block));
        let Some(ripe) = ripe else { return };
        let asking = self.sound_nodes().into_iter().map(|node| {
            let one = self.only(node);
            async move {
                let found = timeout(NAMES_WITHIN, one.header(At::Number(ripe.number))).await;
                Some((node, found.ok()?.ok()??.block.hash))
            }
        });
        let named: Vec<(NodeId, B256)> = join_all(asking).await.into_iter().flatten().collect();
        let said = identity::together(ripe, &named, self.nodes().len() == 1);
        if let Said::Disputed(one, another) = said
            && let Some(times) = self.nodes()[one.0].heard("differs from another one")
        {
            let (host, other) = (self.host(one), self.host(another));
            let number = ripe.number;
            warn!(host, other, block = number, times, "two gateway nodes have different blocks");
        }
        self.inner.shared.learn(|known| known.looked_at(ripe, said, block));
    }
}
