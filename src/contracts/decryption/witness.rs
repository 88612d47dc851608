//! Whether the nodes agree that a request is on chain. One node that lies could have anything decrypted:
//! before the Core is asked, two nodes have to show the event, if there are two.
//!
//! ```text
//! node shows the event in its block -----------------------------------> a witness
//! node has the block without the event, or another block there, twice --> it denies
//! node does not know the block, or does not answer -> asked again until the patience is over
//! node advances and does not reach the block -> waited for a little longer, then it denies
//! node denied it minutes ago and does not answer now -> it denies
//! ```
//!
//! That a block does not contain an event is certain only if neither its logs show it nor the block's own list
//! of transactions has the event's, or by the receipt of that: log and receipt indices may be late or broken,
//! and the node that told of an event may have named another transaction beside it. Only a certain denial ends
//! a request ([`WitnessVerdict::NeverExisted`]).
//!
//! A node advances ([`crate::chain::provider::selection`]) if it delivers blocks that are recent by their
//! own timestamps. A block that it does not reach may be one that a lying node put on top of the chain.
//! On a chain without new blocks no node advances, and a node that is behind cannot be told from a
//! correct one.
//!
//! A node shows the event if it shows the same words: what is asked for, and the same of the ciphertexts.
//!
//! It does not matter which node reported the request first: two nodes that show it are two witnesses.
//!
//! An attacker who forges one log may forge thousands in a block. So all requests of a block share a
//! node's answers about it, and a node cannot be made late by many questions. Cutting a node off for a
//! moment gains nothing either: one that was lost just now is waited for.

mod cache;
mod shown_request;
mod statement;

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};

pub(super) use self::cache::WitnessCache;
use self::statement::NodeStatement;
use super::{Agreement, EndClaim, RequestContract};
use crate::{
    chain::reader::{ChainReader, NodeId},
    domain::{BlockRef, Request},
};

/// How long to wait for a second node that is behind or does not answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for a node that advances and does not have the block: by its own timestamps it is
/// not further behind.
const REACHES_WITHIN: Duration = Duration::from_secs(6);
/// Pause between two questions to a node that does not know the block.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Pause before a denying node is asked again: it may be in a reorganisation.
const DENIED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Deadline of the second answer of a denying node.
const SECOND_CHECK_DEADLINE: Duration = Duration::from_secs(5);
/// Nodes asked about one request at a time.
const ASKED_AT_ONCE: usize = 3;
/// How long a positive answer is reused: the node may change it.
const FRESH: Duration = Duration::from_secs(10);

/// What the nodes say of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessVerdict {
    /// There is only one node, and nothing contradicts it.
    OnlyNode,
    TwoNodes,
    /// The other nodes are behind or do not answer.
    OneNode,
    /// All nodes are behind or do not answer.
    NoNode,
    /// A node has the block without the event, or another block there, and confirmed it.
    Disputed {
        /// Hosts.
        shown_by: Vec<String>,
        denied_by: String,
        /// What the block contains proves it.
        is_certain: bool,
    },
    /// At least two nodes have this very block, none of them the event in it, and no node may know
    /// better: the request never existed.
    NeverExisted,
}

impl<P: ChainReader> RequestContract<P> {
    /// Asks the sound nodes for a request, which is in `block` now. With a single node only if `again`
    /// (read from the journal): then another node may have reported it.
    pub async fn collect_witnesses(
        &self,
        request: &Request,
        block: BlockRef,
        again: bool,
    ) -> WitnessVerdict {
        if self.provider.node_count() < 2 && !again {
            return WitnessVerdict::OnlyNode;
        }
        self.weigh_statements(request, block, FRESH).await
    }

    /// The same without reusing earlier answers.
    pub async fn collect_witnesses_afresh(&self, request: &Request) -> WitnessVerdict {
        self.weigh_statements(request, request.block, Duration::ZERO).await
    }

    /// `fresh`: lifetime of a positive answer.
    async fn weigh_statements(
        &self,
        request: &Request,
        block: BlockRef,
        fresh: Duration,
    ) -> WitnessVerdict {
        let (key, alone) = (request.key, self.provider.node_count() < 2);
        let mut until = Instant::now() + PATIENCE;
        let nodes = self.nodes_to_ask(until).await;
        let (mut shown_by, mut denied_by, mut absent) = (Vec::new(), None, Vec::new());
        for some in nodes.chunks(ASKED_AT_ONCE) {
            let words =
                some.iter().map(|node| self.statement_of(*node, request, (block, fresh), until));
            let mut words: FuturesUnordered<_> = words.collect();
            while let Some((node, word)) = words.next().await {
                match word {
                    NodeStatement::Shows => shown_by.push(self.provider.host(node)),
                    NodeStatement::Absent => absent.push(node),
                    NodeStatement::Denies | NodeStatement::NoBlock | NodeStatement::Unknown => {}
                }
                if matches!(word, NodeStatement::Absent | NodeStatement::Denies) {
                    denied_by = Some(self.provider.host(node));
                }
                if shown_by.len() >= 2 {
                    self.witness_cache.clear_denial(key);
                    return WitnessVerdict::TwoNodes;
                }
            }
            if absent.is_empty() || !shown_by.is_empty() {
                break;
            }
            // The request may end: ask the other nodes, too.
            until = Instant::now() + PATIENCE;
        }
        match &denied_by {
            Some(by) => self.witness_cache.record_denial(key, by),
            None => denied_by = self.witness_cache.earlier_denier(key, &shown_by),
        }
        let never = (EndClaim::NeverExisted, key);
        let never = if shown_by.is_empty() {
            absent.len() >= 2 && self.weigh_claim(never, Some(&absent)) == Agreement::Yes
        } else {
            self.weigh_claim(never, None) == Agreement::Yes
        };
        match denied_by {
            Some(_) if never => WitnessVerdict::NeverExisted,
            Some(denied_by) => {
                let is_certain = !absent.is_empty();
                WitnessVerdict::Disputed { shown_by, denied_by, is_certain }
            }
            None if shown_by.is_empty() => WitnessVerdict::NoNode,
            None if alone => WitnessVerdict::OnlyNode,
            None => WitnessVerdict::OneNode,
        }
    }

    /// The sound nodes. If only one is left and there were two a moment ago, waits for the other.
    async fn nodes_to_ask(&self, until: Instant) -> Vec<NodeId> {
        loop {
            let nodes = self.provider.sound_nodes();
            let waits = self.witness_cache.has_just_lost_others(nodes.len())
                && self.provider.node_count() > 1;
            if !waits || Instant::now() + AGAIN_AFTER > until {
                return nodes;
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// A node's last answer before `until`; a denial may take longer to be confirmed.
    async fn statement_of(
        &self,
        node: NodeId,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
        until: Instant,
    ) -> (NodeId, NodeStatement) {
        let one = self.for_node(node);
        let look = |until| one.check_node(node, request, (block, fresh), until);
        let latest = until + REACHES_WITHIN.saturating_sub(PATIENCE);
        let mut limit = until;
        loop {
            match look(limit).await {
                NodeStatement::Shows => return (node, NodeStatement::Shows),
                NodeStatement::Absent | NodeStatement::Denies => {
                    sleep(DENIED_AGAIN_AFTER).await;
                    // Silence does not take a denial back.
                    let again = look(Instant::now() + SECOND_CHECK_DEADLINE).await;
                    let silent = matches!(again, NodeStatement::NoBlock | NodeStatement::Unknown);
                    return (node, if silent { NodeStatement::Denies } else { again });
                }
                NodeStatement::NoBlock if self.provider.is_advancing(node) => {
                    limit = latest;
                    if Instant::now() + AGAIN_AFTER >= latest {
                        return (node, NodeStatement::Denies);
                    }
                    sleep(AGAIN_AFTER).await;
                }
                NodeStatement::NoBlock | NodeStatement::Unknown
                    if Instant::now() + AGAIN_AFTER >= until =>
                {
                    return (node, NodeStatement::Unknown);
                }
                NodeStatement::NoBlock | NodeStatement::Unknown => sleep(AGAIN_AFTER).await,
            }
        }
    }
}

#[cfg(test)]
mod tests;
