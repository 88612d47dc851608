//! Asks every node the same question separately: a request must not end by the word of one node.
//!
//! Every node that is not known to be of another chain has a vote ([`ChainReader::voters`]), connected
//! or not. The sound ones are asked ([`ChainReader::sound_nodes`]). A node that is disconnected, behind
//! or silent may know better; so the caller can tell whether all voters answered ([`covers_all_voters`]).

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::chain::{
    reader::{ChainReader, NodeId},
    rpc_error::RpcError,
};

/// Answers of the nodes.
#[derive(Debug)]
pub struct Survey<T> {
    /// By node, in reading order. Nodes that failed or were silent are missing.
    pub replies: Vec<(NodeId, T)>,
    failed: Option<RpcError>,
}

impl<T> Survey<T> {
    /// Asks the nodes. One that does not answer `within` this time is silent.
    pub async fn run<P: ChainReader, Asking>(
        provider: &P,
        within: Duration,
        ask: impl Fn(P) -> Asking,
    ) -> Self
    where
        Asking: Future<Output = Result<T, RpcError>>,
    {
        Self::among(provider, &provider.sound_nodes(), within, ask).await
    }

    /// Asks these nodes only.
    pub async fn among<P: ChainReader, Asking>(
        provider: &P,
        nodes: &[NodeId],
        within: Duration,
        ask: impl Fn(P) -> Asking,
    ) -> Self
    where
        Asking: Future<Output = Result<T, RpcError>>,
    {
        let asked = nodes.iter().map(|node| timeout(within, ask(provider.for_node(*node))));
        let (mut said, mut failed) = (Vec::new(), None);
        for (node, answer) in nodes.iter().zip(join_all(asked).await) {
            match answer {
                Ok(Ok(answer)) => said.push((*node, answer)),
                Ok(Err(error)) => _ = failed.get_or_insert(error),
                Err(_) => {}
            }
        }
        Self { replies: said, failed }
    }

    /// The answers. An error if no node answered.
    pub fn into_answers(self, provider: &impl ChainReader) -> Result<Vec<T>, RpcError> {
        let said = self.by_node(provider)?.into_iter();
        Ok(said.map(|(_, answer)| answer).collect())
    }

    /// The same, each with its node.
    pub fn by_node(self, provider: &impl ChainReader) -> Result<Vec<(NodeId, T)>, RpcError> {
        if self.replies.is_empty() {
            return Err(self.failed.unwrap_or_else(|| no_answer_error(provider)));
        }
        Ok(self.replies)
    }
}

/// Whether these are all nodes that have a vote.
pub fn covers_all_voters(provider: &impl ChainReader, heard: &[NodeId]) -> bool {
    provider.voters().iter().all(|node| heard.contains(node))
}

fn no_answer_error(provider: &impl ChainReader) -> RpcError {
    let hosts = provider.voters().into_iter().map(|node| provider.host(node));
    let host = hosts.collect::<Vec<_>>().join(", ");
    RpcError::Unavailable { host, what: "no node answers".into() }
}
