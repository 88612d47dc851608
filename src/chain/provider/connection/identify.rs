//! Which chain the node is of: asked at the beginning, now and then, and whenever its claims are in doubt.
//! What the answers mean is decided in [`super::super::identity`].

use std::time::Duration;

use alloy::primitives::{B256, U64};
use tokio::time::{Instant, sleep};
use tracing::error;

use super::Connection;
use crate::chain::{
    provider::{
        client::Client,
        identity::{self, KnownChain, NodeIdentity},
        selection::ChainMatch,
    },
    rpc_error::RpcError,
};

/// Interval of checks which chain a node is of.
const IDENTIFIED_EVERY: Duration = Duration::from_mins(1);
/// The same for a node that is not known to be of our chain.
const IDENTIFIED_EVERY_UNTIL_MATCH: Duration = Duration::from_secs(5);
/// A contradiction is checked again after this: the node may be in a reorganisation.
const RECHECKED_AFTER: Duration = Duration::from_secs(1);

impl Connection {
    pub(super) async fn check_chain_id(&self, client: &Client) -> Result<(), RpcError> {
        let asking = client.call_without_params::<U64>("eth_chainId");
        let found = self.within_deadline("eth_chainId", asking).await?.to::<u64>();
        if found != self.chain_id {
            let host = self.endpoint.host().to_owned();
            return Err(RpcError::WrongChain { host, expected: self.chain_id, found });
        }
        Ok(())
    }

    /// Checks which chain of its id the node is of. If the node does not answer, it is checked again
    /// later and its last result stays.
    pub(super) async fn identify_or_later(&mut self, client: &Client) -> Result<(), RpcError> {
        match self.identify(client).await {
            Err(error @ RpcError::WrongGenesis { .. }) => Err(error),
            Err(_) => {
                self.identify_at = Instant::now() + IDENTIFIED_EVERY_UNTIL_MATCH;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn identify(&mut self, client: &Client) -> Result<(), RpcError> {
        let genesis = self.within_header_deadline(identity::genesis(client)).await?;
        let known = *self.known.borrow_and_update();
        if let (Some(expected), Some(found)) = (known.genesis, genesis)
            && expected != found
        {
            self.channels
                .set_identity(NodeIdentity { genesis: Some(genesis), ..NodeIdentity::default() });
            let host = self.endpoint.host().to_owned();
            return Err(RpcError::WrongGenesis { host, expected, found });
        }
        let mut found = self.identify_once(client, known, genesis).await?;
        if found.chain_match == ChainMatch::Different {
            sleep(RECHECKED_AFTER).await;
            let known = *self.known.borrow_and_update();
            found = self.identify_once(client, known, genesis).await?;
        }
        if found.chain_match != ChainMatch::Different {
            self.missing_block = None;
        }
        self.record_identity(found);
        Ok(())
    }

    async fn identify_once(
        &self,
        client: &Client,
        mut known: KnownChain,
        genesis: Option<B256>,
    ) -> Result<NodeIdentity, RpcError> {
        if !self.has_siblings {
            // A single endpoint: no other could know better.
            (known.settled, known.recent) = (None, None);
        }
        self.within_header_deadline(identity::identify(client, known, genesis, self.missing_block))
            .await
    }

    fn record_identity(&mut self, found: NodeIdentity) {
        let has_genesis = found.genesis.flatten().is_some();
        let sure = found.chain_match == ChainMatch::Same || (has_genesis && !self.has_siblings);
        self.identify_at =
            Instant::now() + if sure { IDENTIFIED_EVERY } else { IDENTIFIED_EVERY_UNTIL_MATCH };
        let (host, why) = (self.endpoint.host(), &found.why);
        if found.chain_match == ChainMatch::Different
            && let Some(times) = self.identity_throttle.should_log("contradicts", Instant::now())
        {
            let role = self.endpoint.role();
            error!(host, why, times, "a {role} node contradicts what is known of the chain");
        }
        self.channels.set_identity(found);
    }

    /// Checks again if it is due or more is known of the chain.
    pub(super) async fn identify_if_due(&mut self, client: &Client) -> Result<(), RpcError> {
        let is_asked = self.channels.claim.has_changed().unwrap_or(false);
        let claim = *self.channels.claim.borrow_and_update();
        if let Some(number) = claim.filter(|_| is_asked) {
            self.verify_claim(client, number).await;
        }
        let is_due = Instant::now() >= self.identify_at;
        let is_news = self.known.has_changed().unwrap_or(false) && {
            let known = *self.known.borrow_and_update();
            // A node whose block 0 matches may have other blocks than those that were read.
            known.settled.is_none()
                || self.channels.identity.borrow().chain_match_given(&known) != ChainMatch::Same
        };
        if !is_due && !is_news {
            return Ok(());
        }
        match self.check_chain_id(client).await {
            Err(error @ RpcError::WrongChain { .. }) => Err(error),
            Ok(()) | Err(_) => self.identify_or_later(client).await,
        }
    }

    /// Checks a claim: the node must have this block, since it reports this or later ones.
    async fn verify_claim(&mut self, client: &Client, number: u64) {
        for is_sure in [false, true] {
            if !matches!(
                self.within_header_deadline(identity::has_block(client, number)).await,
                Ok(false)
            ) {
                return;
            }
            if !is_sure {
                sleep(RECHECKED_AFTER).await;
            }
        }
        self.missing_block = Some(number);
        let genesis = self.channels.identity.borrow().genesis;
        let why = identity::missing_block_reason(number);
        self.record_identity(NodeIdentity { genesis, chain_match: ChainMatch::Different, why });
    }
}
