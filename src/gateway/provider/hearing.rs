//! One question to every node, each by itself: what ends a request is no one node's word.
//!
//! Who has a say is every node that is not known to be of another chain ([`ChainReader::voters`]), in whatever
//! state it is. Asked are those that can be ([`ChainReader::sound_nodes`]); one that is away, behind or silent
//! may know better, so it is told whether everybody was heard.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{ChainReader, NodeId, RpcError};

/// What was said.
#[derive(Debug)]
pub struct Hearing<T> {
    /// By whom, in the order of reading. Who failed or was silent is not among them.
    pub said: Vec<(NodeId, T)>,
    failed: Option<RpcError>,
}

impl<T> Hearing<T> {
    /// Asks; who does not answer `within` this is silent.
    pub async fn of<P: ChainReader, Asking>(
        provider: &P,
        within: Duration,
        ask: impl Fn(P) -> Asking,
    ) -> Self
    where
        Asking: Future<Output = Result<T, RpcError>>,
    {
        let nodes = provider.sound_nodes();
        let asked = nodes.iter().map(|node| timeout(within, ask(provider.only(*node))));
        let (mut said, mut failed) = (Vec::new(), None);
        for (node, answer) in nodes.iter().zip(join_all(asked).await) {
            match answer {
                Ok(Ok(answer)) => said.push((*node, answer)),
                Ok(Err(error)) => _ = failed.get_or_insert(error),
                Err(_) => {}
            }
        }
        Self { said, failed }
    }

    /// What each says. An error: nobody says anything.
    pub fn answers(self, provider: &impl ChainReader) -> Result<Vec<T>, RpcError> {
        if self.said.is_empty() {
            return Err(self.failed.unwrap_or_else(|| silence(provider)));
        }
        Ok(self.said.into_iter().map(|(_, answer)| answer).collect())
    }
}

/// Whether these are all that have a say.
pub fn are_all(provider: &impl ChainReader, heard: &[NodeId]) -> bool {
    provider.voters().iter().all(|node| heard.contains(node))
}

fn silence(provider: &impl ChainReader) -> RpcError {
    let hosts = provider.voters().into_iter().map(|node| provider.host(node));
    let host = hosts.collect::<Vec<_>>().join(", ");
    RpcError::Unavailable { host, what: "no node answers".into() }
}
