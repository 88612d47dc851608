//! The nodes behind a provider, for building an instance: the state of each, and which of them are of
//! the chain that is meant.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{
    ArbitrumProvider, At, Beginning, ChainReader, Hearing, NodeId, RpcError,
    connection::Link,
    endpoints::Node,
    identity::{self, Found, Said},
};
use crate::domain::{B256, BlockRef};

/// A node that does not name a block within this time does not count.
const NAMES_WITHIN: Duration = Duration::from_secs(3);
/// How long all nodes must report another block 0.
const MADE_ANEW_AFTER: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What an instance needs of its provider beyond what its rooms need.
impl ArbitrumProvider {
    /// Hosts of all nodes, for messages.
    #[must_use]
    pub fn hosts(&self) -> &str {
        &self.inner.hosts
    }

    /// Host of each node, whether it may be called, and its newest block.
    #[must_use]
    pub fn endpoints(&self) -> Vec<(&str, bool, Option<u64>)> {
        self.nodes().iter().map(Node::health).collect()
    }

    /// Why no node is connected. `None` while one is. Makes no call.
    #[must_use]
    pub fn trouble(&self) -> Option<RpcError> {
        let mut troubles = Vec::new();
        let nobody = self.inner.shared.usable.get().order.is_empty();
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

    /// Waits until a node is connected or each was tried once.
    pub async fn first_attempt(&self) -> Result<(), RpcError> {
        let tried = self.nodes().iter().map(|node| {
            let mut link = node.link.clone();
            async move {
                // The task of the connection may have ended.
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

    /// What is known of each node's block 0. Makes no call: nodes are asked when they connect.
    #[must_use]
    pub fn beginnings(&self) -> Vec<(&str, Beginning)> {
        let of = |node: &Node| beginning(&node.link.borrow(), &node.found.borrow());
        self.nodes().iter().map(|node| (node.endpoint.host(), of(node))).collect()
    }

    /// Sets block 0 of the chain. Nodes with another one are excluded from now on.
    pub async fn settle_genesis(&self, genesis: B256) {
        self.inner.shared.settle_genesis(genesis).await;
    }

    /// Returns once all nodes have reported the same other block 0 for a while: the one that was set was
    /// the word of a single node, or the chain was created anew. Returns the error for it.
    pub async fn made_anew(&self) -> RpcError {
        let mut since = None;
        loop {
            sleep(LOOK_EVERY).await;
            let told = self.beginnings().into_iter().map(|(_, told)| told);
            let told: Vec<Beginning> = told.collect();
            let meant = self.inner.shared.genesis();
            let Some((meant, found)) =
                meant.and_then(|meant| Some((meant, another(meant, &told)?)))
            else {
                since = None;
                continue;
            };
            if since.get_or_insert_with(Instant::now).elapsed() >= MADE_ANEW_AFTER {
                let host = self.hosts().to_owned();
                return RpcError::WrongGenesis { host, expected: meant, found };
            }
        }
    }

    /// An earlier run has read everything up to this block.
    pub fn begin_after(&self, block: BlockRef) {
        self.inner.shared.learn(|known| known.begin_after(block));
    }

    /// Everything up to this block was read. Once it is deep and two nodes name it, a node with another
    /// block there is of another chain, as long as some node agrees. The nodes are asked from time to
    /// time.
    pub async fn read_up_to(&self, block: BlockRef) {
        let mut ripe = None;
        self.inner.shared.learn(|known| ripe = known.read_up_to(block));
        let Some(ripe) = ripe else { return };
        let name = |one: Self| async move { one.header(At::Number(ripe.number)).await };
        let named = Hearing::of(self, NAMES_WITHIN, name).await.said.into_iter();
        let named = named.filter_map(|(node, head)| Some((node, head?.block.hash)));
        let named: Vec<(NodeId, B256)> = named.collect();
        let said = identity::together(ripe, &named, self.nodes().len() == 1);
        if let Said::Disputed(one, another) = said
            && let Some(times) = self.nodes()[one.0].heard("differs")
        {
            let (host, other) = (self.host(one), self.host(another));
            let number = ripe.number;
            warn!(host, other, block = number, times, "two gateway nodes have different blocks");
        }
        self.inner.shared.learn(|known| known.looked_at(ripe, said, block));
    }
}

/// What is known of one node's block 0.
fn beginning(link: &Link, found: &Found) -> Beginning {
    match (link, found.genesis) {
        (Link::Down(None), _) => Beginning::Untried,
        // So far it has only said to come back later.
        (Link::Down(Some(error)), None) if error.is_busy() => Beginning::Untried,
        (Link::WrongChain(RpcError::WrongGenesis { found, .. }), _) => Beginning::Is(*found),
        (Link::WrongChain(_), _) => Beginning::OfAnotherId,
        (Link::Up(_), Some(Some(genesis))) => Beginning::Is(genesis),
        (Link::Up(_), Some(None)) => Beginning::Untold,
        (Link::Down(Some(_)) | Link::Up(_), _) => Beginning::Away,
    }
}

/// The block 0 that all nodes report, if it is another one than meant.
fn another(meant: B256, told: &[Beginning]) -> Option<B256> {
    let Some(Beginning::Is(found)) = told.first().copied() else { return None };
    let all = found != meant && told.iter().all(|one| *one == Beginning::Is(found));
    all.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_who_says_come_later_was_not_heard_yet() {
        let (host, found) = (String::new(), Found::default());
        let busy = RpcError::Busy { host: host.clone(), what: "HTTP status 503".into() };
        let lost = RpcError::Unavailable { host, what: "connection refused".into() };
        let down = |error: RpcError| Link::Down(Some(error));
        assert_eq!(beginning(&down(busy.clone()), &found), Beginning::Untried);
        assert_eq!(beginning(&down(lost), &found), Beginning::Away);
        let heard = Found { genesis: Some(None), ..found };
        assert_eq!(beginning(&down(busy), &heard), Beginning::Away);
    }

    #[test]
    fn b1_another_block_0_is_every_nodes_or_nobodys() {
        use Beginning::{Away, Is, Untold};
        let [meant, other, third] = [1, 2, 3].map(B256::repeat_byte);
        assert_eq!(another(meant, &[Is(other), Is(other)]), Some(other));
        assert_eq!(another(meant, &[Is(other)]), Some(other));
        for one in [Is(meant), Is(third), Away, Untold] {
            assert_eq!(another(meant, &[Is(other), one]), None, "{one:?}");
            assert_eq!(another(meant, &[one, Is(other)]), None, "{one:?}");
        }
        assert_eq!(another(meant, &[Is(meant), Is(meant)]), None);
    }
}
