//! All registered coprocessors and how many of them must agree, as one snapshot: what attestations of
//! ciphertexts are judged by (protocol: ciphertext-storage 5).
//!
//! Whoever names the coprocessors names the ciphertext that a handle stands for. So the word of one node
//! is not enough: a snapshot counts if all nodes that answer tell the same, or most of them, so that one of
//! three cannot keep it from being read anew.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Cached, GatewayConfigAdapter, RegistryError};
use crate::{
    chain::{reader::ChainReader, rpc_error::RpcError, survey::Survey},
    contracts::{
        abi::{self, Coprocessor, View},
        decryption::{ViewError, call_view},
    },
    domain::{Address, U256},
};

/// Deadline of a node's answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// After a failed refresh the next one waits this long.
const REFRESHED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// More coprocessors than this are not read.
const MOST_COPROCESSORS: usize = 256;

/// The registered coprocessors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoprocessorRegistry {
    /// In the contract's order.
    pub members: Vec<Coprocessor>,
    /// How many signers must attest the same. `None`: zero or more than there are, so no agreement is
    /// possible.
    pub threshold: Option<NonZeroUsize>,
}

impl CoprocessorRegistry {
    fn new(members: Vec<Coprocessor>, threshold: U256) -> Self {
        let threshold = usize::try_from(threshold).ok().filter(|count| *count <= members.len());
        Self { members, threshold: threshold.and_then(NonZeroUsize::new) }
    }
}

/// The last snapshot, and when refreshing it last failed.
#[derive(Debug, Default)]
pub(super) struct RegistrySnapshot {
    known: Option<Cached<Arc<CoprocessorRegistry>>>,
    failed_at: Option<Instant>,
}

impl<P: ChainReader> GatewayConfigAdapter<P> {
    /// The registered coprocessors, at most a minute old unless the nodes cannot tell: then the last ones
    /// that they told.
    pub async fn coprocessor_registry(&self) -> Result<Arc<CoprocessorRegistry>, RegistryError> {
        let mut snapshot = self.coprocessors.lock().await;
        let known = snapshot.known.as_ref();
        if let Some(fresh) = known.and_then(Cached::fresh) {
            return Ok(fresh.clone());
        }
        let stale = known.map(|known| known.value.clone());
        if let Some(stale) = &stale
            && snapshot.failed_at.is_some_and(|at| at.elapsed() < REFRESHED_AGAIN_AFTER)
        {
            return Ok(stale.clone());
        }
        match self.read_coprocessors().await {
            Ok(found) => {
                let found = Arc::new(found);
                if stale.as_ref() != Some(&found) {
                    log_registry(&found);
                }
                *snapshot =
                    RegistrySnapshot { known: Some(Cached::now(found.clone())), failed_at: None };
                Ok(found)
            }
            Err(error) => {
                if snapshot.failed_at.replace(Instant::now()).is_none() {
                    warn!(code = error.code(), %error, "the registered coprocessors are not known anew");
                }
                stale.ok_or(error)
            }
        }
    }

    /// What most nodes that answer tell.
    async fn read_coprocessors(&self) -> Result<CoprocessorRegistry, RegistryError> {
        let read = |node: P| async move { Ok(self.read_coprocessors_of(&node).await) };
        let told = Survey::run(&self.provider, ANSWERS_WITHIN, read).await;
        let told = told.by_node(&self.provider).map_err(ViewError::from)?;
        let (mut answers, mut failed) = (Vec::new(), None);
        for (node, answer) in told {
            match answer {
                Ok(registry) => answers.push((node, registry)),
                Err(error) => failed = Some(error),
            }
        }
        let hosts: Vec<String> =
            answers.iter().map(|(node, _)| self.provider.host(*node)).collect();
        let answers: Vec<_> = answers.into_iter().map(|(_, registry)| registry).collect();
        match (told_by_most(&answers), failed) {
            (Some(told), _) => Ok(told.clone()),
            (None, Some(error)) if answers.is_empty() => Err(error.into()),
            (None, None) if answers.is_empty() => Ok(CoprocessorRegistry::default()),
            (None, _) => {
                let what = "they name different coprocessors".into();
                let differ = RpcError::Unavailable { host: hosts.join(", "), what };
                Err(ViewError::Rpc(differ).into())
            }
        }
    }

    async fn read_coprocessors_of(&self, node: &P) -> Result<CoprocessorRegistry, ViewError> {
        let threshold = self.view_of(node, &abi::coprocessor_majority_threshold()).await?;
        let senders: Vec<Address> = self.view_of(node, &abi::coprocessor_tx_senders()).await?;
        let mut members = Vec::with_capacity(senders.len().min(MOST_COPROCESSORS));
        for sender in senders.into_iter().take(MOST_COPROCESSORS) {
            members.extend(self.view_of(node, &abi::coprocessor(sender)).await?);
        }
        Ok(CoprocessorRegistry::new(members, threshold))
    }

    async fn view_of<T>(&self, node: &P, view: &View<T>) -> Result<T, ViewError> {
        call_view(node, self.address, view).await
    }
}

/// What more than half of these say. `None`: they differ, or there are none.
fn told_by_most<T: PartialEq>(answers: &[T]) -> Option<&T> {
    let count = |said: &T| answers.iter().filter(|other| *other == said).count();
    answers.iter().find(|said| 2 * count(said) > answers.len())
}

fn log_registry(found: &CoprocessorRegistry) {
    let coprocessors = found.members.len();
    if let Some(threshold) = found.threshold {
        info!(coprocessors, threshold, "registered coprocessors read");
    } else {
        warn!(
            coprocessors,
            "the contract's threshold of coprocessors is zero or above their number: no agreement is \
             possible"
        );
    }
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolValue as _;
    use tokio::time::advance;

    use super::*;
    use crate::{
        chain::fake_chain::{FakeChain, NodeFaults},
        domain::Bytes,
    };

    fn coprocessor(number: u8) -> Coprocessor {
        let url = format!("http://bucket-{number}");
        let (tx_sender, signer) =
            (Address::repeat_byte(number), Address::repeat_byte(100 + number));
        Coprocessor { tx_sender, signer, url }
    }

    /// A node that tells of these coprocessors.
    fn node(members: &[Coprocessor], threshold: u64) -> NodeFaults {
        let senders: Vec<_> = members.iter().map(|one| one.tx_sender).collect();
        let threshold = U256::from(threshold).abi_encode();
        let mut views: Vec<(Bytes, Bytes)> = vec![
            (abi::coprocessor_majority_threshold().calldata(), threshold.into()),
            (abi::coprocessor_tx_senders().calldata(), senders.abi_encode().into()),
        ];
        views.extend(members.iter().map(|one| {
            let told = (one.tx_sender, one.signer, one.url.clone()).abi_encode();
            (abi::coprocessor(one.tx_sender).calldata(), told.into())
        }));
        NodeFaults { views, ..NodeFaults::default() }
    }

    async fn adapter(chain: &FakeChain) -> GatewayConfigAdapter<FakeChain> {
        chain.state().has_registry = true;
        GatewayConfigAdapter::connect(chain.clone(), Address::ZERO, Address::ZERO).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn g6_the_snapshot_is_a_minute_old_at_most_and_outlives_an_outage() {
        let chain = FakeChain::new(1);
        let (registry, other) = (adapter(&chain).await, adapter(&chain).await);
        let (three, four) = ([1, 2, 3].map(coprocessor), [1, 2, 3, 4].map(coprocessor));
        chain.state().faults = vec![node(&three, 2)];
        let read = registry.coprocessor_registry().await.unwrap();
        assert_eq!((&read.members[..], read.threshold), (&three[..], NonZeroUsize::new(2)));
        chain.state().faults = vec![node(&four, 3)];
        advance(Duration::from_secs(59)).await;
        assert_eq!(registry.coprocessor_registry().await.unwrap(), read);
        advance(Duration::from_secs(1)).await;
        let read = registry.coprocessor_registry().await.unwrap();
        assert_eq!((&read.members[..], read.threshold), (&four[..], NonZeroUsize::new(3)));
        chain.state().faults = vec![NodeFaults { is_disconnected: true, ..NodeFaults::default() }];
        for _ in 0..3 {
            advance(Duration::from_hours(1)).await;
            assert_eq!(registry.coprocessor_registry().await.unwrap(), read);
        }
        assert!(other.coprocessor_registry().await.is_err(), "nothing was read before");
    }

    /// Whoever names the coprocessors names the ciphertexts.
    #[tokio::test(start_paused = true)]
    async fn g6_one_node_alone_cannot_name_the_coprocessors() {
        let chain = FakeChain::new(1);
        let registry = adapter(&chain).await;
        let (honest, liars) = ([1, 2, 3].map(coprocessor), [7].map(coprocessor));
        for nodes in [[node(&honest, 2), node(&liars, 1)], [node(&liars, 1), node(&honest, 2)]] {
            chain.state().faults = nodes.to_vec();
            let error = registry.coprocessor_registry().await.unwrap_err();
            assert!(error.to_string().contains("different coprocessors"), "{error}");
        }
        chain.state().faults = vec![node(&honest, 2), node(&honest, 2)];
        let read = registry.coprocessor_registry().await.unwrap();
        // One of three keeps nothing from being read anew.
        let four = [1, 2, 3, 4].map(coprocessor);
        for liar in 0..3 {
            let (chain, mut nodes) = (FakeChain::new(1), vec![node(&four, 3); 3]);
            let of_three = adapter(&chain).await;
            nodes[liar] = node(&liars, 1);
            chain.state().faults = nodes;
            assert_eq!(of_three.coprocessor_registry().await.unwrap().members, four, "{liar}");
        }
        // It lies again: the last ones that all told stay.
        chain.state().faults[0] = node(&liars, 1);
        advance(Duration::from_mins(2)).await;
        assert_eq!(registry.coprocessor_registry().await.unwrap(), read);
    }

    #[test]
    fn g6_an_impossible_threshold_is_none() {
        let of = |threshold| CoprocessorRegistry::new(vec![coprocessor(1)], threshold).threshold;
        assert_eq!(of(U256::ZERO), None);
        assert_eq!(of(U256::ONE), NonZeroUsize::new(1));
        assert_eq!(of(U256::from(2)), None);
        assert_eq!(of(U256::MAX), None);
    }
}
