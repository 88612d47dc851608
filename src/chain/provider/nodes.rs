//! The nodes behind a provider, for building an instance: the state of each, and which of them are of
//! the chain that is meant.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{
    ArbitrumProvider, ChainRole, GenesisStatus,
    connection::ConnectionState,
    identity::{self, BlockAgreement, NodeIdentity},
    node_handle::NodeHandle,
};
use crate::{
    chain::{
        reader::{BlockId, ChainReader, NodeId},
        rpc_error::RpcError,
        survey::Survey,
    },
    domain::{B256, BlockRef},
};

/// A node that does not name a block within this time does not count.
const NAMES_WITHIN: Duration = Duration::from_secs(3);
/// How long all nodes must report another block 0.
const RECREATED_AFTER: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What an instance needs of its provider beyond what the stages need.
impl ArbitrumProvider {
    /// Hosts of all nodes, for messages.
    #[must_use]
    pub fn hosts(&self) -> &str {
        &self.inner.hosts
    }

    /// What the chain is to the instance.
    #[must_use]
    pub fn role(&self) -> ChainRole {
        self.nodes().first().map(|node| node.endpoint.role()).unwrap_or_default()
    }

    /// Host of each node, whether it may be called, and its newest block.
    #[must_use]
    pub fn endpoint_statuses(&self) -> Vec<(&str, bool, Option<u64>)> {
        self.nodes().iter().map(NodeHandle::health).collect()
    }

    /// Why no node is connected. `None` while one is. Makes no call.
    #[must_use]
    pub fn connection_error(&self) -> Option<RpcError> {
        let mut troubles = Vec::new();
        let nobody = self.inner.shared.usable.get().order.is_empty();
        for node in self.nodes() {
            match &*node.state.borrow() {
                ConnectionState::Up(_) => match node.contradiction() {
                    Some(why) if nobody => troubles.push(why),
                    Some(_) | None => return None,
                },
                ConnectionState::Down(Some(why)) | ConnectionState::WrongChain(why) => {
                    troubles.push(why.clone());
                }
                ConnectionState::Down(None) => {
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
            let mut link = node.state.clone();
            async move {
                // The task of the connection may have ended.
                let _ = link.wait_for(|link| !matches!(link, ConnectionState::Down(None))).await;
            }
        });
        let mut tried: FuturesUnordered<_> = tried.collect();
        while tried.next().await.is_some() {
            if self.connection_error().is_none() {
                break;
            }
        }
        self.connection_error().map_or(Ok(()), Err)
    }

    /// Waits until this node is connected or was tried once.
    pub async fn attempt(&self, NodeId(node): NodeId) -> Result<(), RpcError> {
        let Some(node) = self.nodes().get(node) else {
            return Err(self.unavailable("no such node"));
        };
        let mut link = node.state.clone();
        let tried = link.wait_for(|link| !matches!(link, ConnectionState::Down(None))).await;
        match tried.as_deref() {
            Ok(ConnectionState::Up(_)) => Ok(()),
            Ok(ConnectionState::Down(Some(why)) | ConnectionState::WrongChain(why)) => {
                Err(why.clone())
            }
            Ok(ConnectionState::Down(None)) | Err(_) => {
                Err(node.endpoint.unavailable("the connection was shut down"))
            }
        }
    }

    /// What is known of each node's block 0. Makes no call: nodes are asked when they connect.
    #[must_use]
    pub fn genesis_statuses(&self) -> Vec<(&str, GenesisStatus)> {
        let of = |node: &NodeHandle| genesis_status(&node.state.borrow(), &node.identity.borrow());
        self.nodes().iter().map(|node| (node.endpoint.host(), of(node))).collect()
    }

    /// Sets block 0 of the chain. Nodes with another one are excluded from now on.
    pub async fn settle_genesis(&self, genesis: B256) {
        self.inner.shared.settle_genesis(genesis).await;
    }

    /// Returns once all nodes have reported the same other block 0 for a while: the one that was set was
    /// the word of a single node, or the chain was created anew. Returns the error for it.
    pub async fn chain_recreated(&self) -> RpcError {
        let mut since = None;
        loop {
            sleep(LOOK_EVERY).await;
            let told = self.genesis_statuses().into_iter().map(|(_, told)| told);
            let told: Vec<GenesisStatus> = told.collect();
            let meant = self.inner.shared.genesis();
            let Some((meant, found)) =
                meant.and_then(|meant| Some((meant, other_genesis(meant, &told)?)))
            else {
                since = None;
                continue;
            };
            if since.get_or_insert_with(Instant::now).elapsed() >= RECREATED_AFTER {
                let host = self.hosts().to_owned();
                return RpcError::WrongGenesis { host, expected: meant, found };
            }
        }
    }

    /// An earlier run has read everything up to this block.
    pub fn resume_after(&self, block: BlockRef) {
        self.inner.shared.update_known(|known| known.resume_after(block));
    }

    /// Everything up to this block was read. Once it is deep and two nodes name it, a node with another
    /// block there is of another chain, as long as some node agrees. The nodes are asked from time to
    /// time.
    pub async fn note_read_up_to(&self, block: BlockRef) {
        let mut ripe = None;
        self.inner.shared.update_known(|known| ripe = known.note_read_up_to(block));
        let Some(ripe) = ripe else { return };
        let name = |one: Self| async move { one.header(BlockId::Number(ripe.number)).await };
        let named = Survey::run(self, NAMES_WITHIN, name).await.replies.into_iter();
        let named = named.filter_map(|(node, head)| Some((node, head?.block.hash)));
        let named: Vec<(NodeId, B256)> = named.collect();
        let agreement = identity::block_agreement(ripe, &named, self.nodes().len() == 1);
        if let BlockAgreement::Disputed(one, another) = agreement
            && let Some(times) = self.nodes()[one.0].should_log("differs")
        {
            let (host, other) = (self.host(one), self.host(another));
            let number = ripe.number;
            warn!(host, other, block = number, times, "two gateway nodes have different blocks");
        }
        self.inner.shared.update_known(|known| known.record_agreement(ripe, agreement, block));
    }
}

/// What is known of one node's block 0.
fn genesis_status(link: &ConnectionState, found: &NodeIdentity) -> GenesisStatus {
    match (link, found.genesis) {
        (ConnectionState::Down(None), _) => GenesisStatus::NotAsked,
        // So far it has only said to come back later.
        (ConnectionState::Down(Some(error)), None) if error.is_busy() => GenesisStatus::NotAsked,
        (ConnectionState::WrongChain(RpcError::WrongGenesis { found, .. }), _) => {
            GenesisStatus::Hash(*found)
        }
        (ConnectionState::WrongChain(_), _) => GenesisStatus::WrongChainId,
        (ConnectionState::Up(_), Some(Some(genesis))) => GenesisStatus::Hash(genesis),
        (ConnectionState::Up(_), Some(None)) => GenesisStatus::Undisclosed,
        (ConnectionState::Down(Some(_)) | ConnectionState::Up(_), _) => GenesisStatus::Disconnected,
    }
}

/// The block 0 that all nodes report, if it is another one than meant.
fn other_genesis(meant: B256, told: &[GenesisStatus]) -> Option<B256> {
    let Some(GenesisStatus::Hash(found)) = told.first().copied() else { return None };
    let all = found != meant && told.iter().all(|one| *one == GenesisStatus::Hash(found));
    all.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_who_says_come_later_was_not_heard_yet() {
        let (host, found) = (String::new(), NodeIdentity::default());
        let busy = RpcError::RateLimited { host: host.clone(), what: "HTTP status 503".into() };
        let lost = RpcError::Unavailable { host, what: "connection refused".into() };
        let down = |error: RpcError| ConnectionState::Down(Some(error));
        assert_eq!(genesis_status(&down(busy.clone()), &found), GenesisStatus::NotAsked);
        assert_eq!(genesis_status(&down(lost), &found), GenesisStatus::Disconnected);
        let heard = NodeIdentity { genesis: Some(None), ..found };
        assert_eq!(genesis_status(&down(busy), &heard), GenesisStatus::Disconnected);
    }

    #[test]
    fn b1_another_block_0_is_every_nodes_or_nobodys() {
        use GenesisStatus::{Disconnected, Hash, Undisclosed};
        let [meant, other, third] = [1, 2, 3].map(B256::repeat_byte);
        assert_eq!(other_genesis(meant, &[Hash(other), Hash(other)]), Some(other));
        assert_eq!(other_genesis(meant, &[Hash(other)]), Some(other));
        for one in [Hash(meant), Hash(third), Disconnected, Undisclosed] {
            assert_eq!(other_genesis(meant, &[Hash(other), one]), None, "{one:?}");
            assert_eq!(other_genesis(meant, &[one, Hash(other)]), None, "{one:?}");
        }
        assert_eq!(other_genesis(meant, &[Hash(meant), Hash(meant)]), None);
    }
}
