//! Which deployment stands at the contract's address, as the nodes tell.
//!
//! From G12 on nobody but the connectors checks access. So the word of one node must never make a
//! deployment look older than that: unless two nodes tell of the same one, and are more than the others, the
//! newest that any of them tells counts ([`ToldSupport`]). Nor does a contract go back: what is told to be
//! older than what is known to have stood there is not answered ([`DeploymentSupport::not_before`]).
//!
//! Nor is an upgrade always known as soon as it is made: a node may be behind it, and the log of it may come
//! late. So that the gateway has checked access, or takes no such request, counts only if no later deployment
//! stands there in the request's own block ([`RequestContract::generation_in`]).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{RequestContract, ViewError, call_view};
use crate::{
    chain::{
        reader::{BlockId, ChainReader},
        rpc_error::RpcError,
    },
    contracts::abi::{self, Deployment, DeploymentProbes, Generation, ToldDeployment, View},
    domain::{Address, B256, BlockRef, UntrustedText},
    time::recent_map::RecentMap,
};

/// Whether requests of the deployed contracts can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeploymentSupport {
    Served(Deployment),
    /// Newer than this program knows.
    Newer {
        version: UntrustedText,
    },
    /// Upgraded in this block and not looked at since: until then no request is asked.
    Upgraded {
        block: u64,
    },
    /// Older than this generation, which is known to have stood there: the nodes lie, or it was taken back.
    WentBack {
        told: Deployment,
        known: Generation,
    },
}

impl DeploymentSupport {
    /// The deployment whose requests are answered. `None`: they are held, or wait to be.
    #[must_use]
    pub fn answered(&self) -> Option<&Deployment> {
        match self {
            Self::Served(deployment) => Some(deployment),
            Self::Newer { .. } | Self::Upgraded { .. } | Self::WentBack { .. } => None,
        }
    }

    /// What the contract calls itself. Empty: it does not say, or was not asked.
    #[must_use]
    pub fn version(&self) -> &str {
        match self {
            Self::Served(Deployment { version, .. })
            | Self::Newer { version }
            | Self::WentBack { told: Deployment { version, .. }, .. } => version,
            Self::Upgraded { .. } => "",
        }
    }

    /// Returns whether the contract calls itself another one than `name` (`GatewayConfig v0.4.0`).
    #[must_use]
    pub fn is_of_another_contract(&self, name: &str) -> bool {
        self.version().split_once(" v").is_some_and(|(called, _)| called != name)
    }

    /// The same, unless it is older than the generation that is `known` to have stood there.
    #[must_use]
    pub fn not_before(self, known: Option<Generation>) -> Self {
        match (self, known) {
            (Self::Served(told), Some(known)) if told.generation < known => {
                Self::WentBack { told, known }
            }
            (told, _) => told,
        }
    }

    /// How far it counts where nodes contradict each other and none outvotes the others.
    fn caution(&self) -> (u8, Option<(Generation, bool)>) {
        // A deployment that nobody knows holds every request: it counts only if no node contradicts it,
        // and those of which the gateway checks access do not contradict it.
        match self {
            Self::Upgraded { .. } | Self::WentBack { .. } => (0, None),
            Self::Served(found) if found.generation == Generation::UpToG10 => (1, None),
            Self::Newer { .. } => (2, None),
            Self::Served(found) => (3, Some((found.generation, !found.hybrid))),
        }
    }
}

/// What the nodes tell together, as while some lag behind an upgrade, or lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldSupport {
    pub support: DeploymentSupport,
    /// Two nodes tell it, and more than half of those that answer; or the only one that there is.
    pub is_agreed: bool,
}

impl ToldSupport {
    /// Weighs the answers, in the order in which the nodes are read, of `nodes` that there are.
    fn weigh(told: Vec<DeploymentSupport>, nodes: usize) -> Self {
        let votes = |one: &DeploymentSupport| told.iter().filter(|other| *other == one).count();
        let outvotes = |one: &&DeploymentSupport| votes(one) > 1 && votes(one) * 2 > told.len();
        if let Some(support) = told.iter().find(outvotes) {
            return Self { support: support.clone(), is_agreed: true };
        }
        let is_agreed = told.len() == 1 && nodes == 1;
        // The first of equals, so that the version shown is that of the node which is asked first.
        let counts = told.into_iter().rev().max_by_key(DeploymentSupport::caution);
        let none = DeploymentSupport::Newer { version: UntrustedText::default() };
        Self { support: counts.unwrap_or(none), is_agreed }
    }
}

#[cfg(test)]
impl DeploymentSupport {
    /// One that is answered without an access check.
    pub fn up_to_g10() -> Self {
        let version = "Decryption v0.3.0".into();
        Self::Served(Deployment { generation: Generation::UpToG10, version, hybrid: false })
    }
}

/// Says that the deployment may have changed. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct DeploymentDoubt(Arc<Notify>);

/// Blocks that are remembered, each for a while.
const BLOCKS_REMEMBERED: usize = 1_024;
const REMEMBERED_FOR: Duration = Duration::from_mins(10);

/// The generations that were found in blocks. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct KnownGenerations(Arc<Mutex<RecentMap<B256, Generation>>>);

impl Default for KnownGenerations {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(RecentMap::new(BLOCKS_REMEMBERED, REMEMBERED_FOR))))
    }
}

impl KnownGenerations {
    fn get(&self, block: B256) -> Option<Generation> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&block, Instant::now()).copied()
    }

    fn note(&self, block: B256, generation: Generation) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.touch(block, Instant::now(), || generation);
    }
}

impl<P: ChainReader> RequestContract<P> {
    /// The deployment, as the contracts tell: by their version texts, or, if that of the Decryption
    /// contract is unknown, by the functions that there are.
    pub async fn support(&self) -> Result<DeploymentSupport, RpcError> {
        self.support_at(BlockId::Latest).await
    }

    /// What all sound nodes tell of the deployment: in this block, or now. A node that has dropped the state
    /// of the block tells of its newest one: what stands there now is no older. An error: none answers.
    pub async fn told_support(&self, in_block: Option<u64>) -> Result<ToldSupport, RpcError> {
        let asking = |one: Self| async move {
            let Some(number) = in_block else { return one.support().await };
            match one.support_at(BlockId::Number(number)).await {
                Err(error) if error.is_state_pruned() => one.support().await,
                told => told,
            }
        };
        let told = self.hearing(asking).await.into_answers(&self.provider)?;
        Ok(ToldSupport::weigh(told, self.provider.node_count()))
    }

    /// The generation that took the requests of this block, as the nodes tell that have the block. `None`:
    /// newer than this program knows.
    pub async fn generation_in(&self, block: BlockRef) -> Result<Option<Generation>, RpcError> {
        if let Some(known) = self.generations.get(block.hash) {
            return Ok(Some(known));
        }
        let told = self.told_support(Some(block.number)).await?;
        let generation = told.support.answered().map(|known| known.generation);
        if let Some(generation) = generation.filter(|_| told.is_agreed) {
            self.generations.note(block.hash, generation);
        }
        Ok(generation)
    }

    /// Whether the nodes agree that this deployment stands there now. An error: none answers.
    pub async fn agrees_on(&self, deployment: &Deployment) -> Result<bool, RpcError> {
        let told = self.told_support(None).await?;
        let is_it = |found: &Deployment| {
            (found.generation, found.hybrid) == (deployment.generation, deployment.hybrid)
        };
        Ok(told.is_agreed && told.support.answered().is_some_and(is_it))
    }

    async fn support_at(&self, block: BlockId) -> Result<DeploymentSupport, RpcError> {
        let (contract, registry) = (self.address(), self.addresses.gateway_config);
        let version = abi::contract_version;
        let of_registry = self.optional_view_in(registry, version(), block).await?;
        let version: Option<String> = self.optional_view_in(contract, version(), block).await?;
        let generation = match abi::told_deployment(version.as_deref(), of_registry.as_deref()) {
            ToldDeployment::Known(deployment) => return Ok(DeploymentSupport::Served(deployment)),
            ToldDeployment::Newer => None,
            // A registry that says nothing, perhaps because there is none at the configured address, must
            // not pass for one without contexts.
            ToldDeployment::Unknown if of_registry.is_none() => None,
            ToldDeployment::Unknown => self.probe().await?.generation(),
        };
        let version = version.unwrap_or_default().into();
        Ok(match generation {
            Some(generation) => {
                DeploymentSupport::Served(Deployment { generation, version, hybrid: false })
            }
            None => DeploymentSupport::Newer { version },
        })
    }

    async fn probe(&self) -> Result<DeploymentProbes, RpcError> {
        let (contract, registry) = (self.address(), self.addresses.gateway_config);
        let context = self.optional_view(registry, abi::current_kms_context_id()).await?;
        let valid = abi::is_valid_kms_context(context.unwrap_or_default());
        Ok(DeploymentProbes {
            has_contexts: context.is_some(),
            knows_valid_contexts: self.has(registry, &valid).await?,
            has_unified_requests: self.has(contract, &abi::unified_request_is_ready()).await?,
        })
    }

    /// Whether the contract has this function. One that refuses its arguments with an error has it.
    async fn has<T>(&self, contract: Address, view: &View<T>) -> Result<bool, RpcError> {
        match call_view(&self.provider, contract, view).await {
            Ok(_) => Ok(true),
            Err(ViewError::Undecodable(_)) => Ok(false),
            Err(ViewError::Rpc(error)) => match error.revert_data() {
                Some(data) => Ok(!data.is_empty()),
                None => Err(error),
            },
        }
    }

    /// Has the deployment read again soon: something happened that another one would explain.
    pub fn doubt_deployment(&self) {
        self.deployment_doubt.0.notify_one();
    }

    /// Waits until somebody doubts the deployment.
    pub async fn deployment_doubted(&self) {
        self.deployment_doubt.0.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolValue as _;

    use super::*;
    use crate::{
        chain::fake_chain::{ADDRESSES, FakeChain, NodeFaults},
        domain::{Bytes, U256},
    };

    fn served(generation: Generation, hybrid: bool) -> DeploymentSupport {
        DeploymentSupport::Served(Deployment { generation, version: "v".into(), hybrid })
    }

    #[test]
    fn g4_the_gateway_is_trusted_with_access_only_if_no_node_tells_otherwise() {
        let (old, newer) =
            (served(Generation::UpToG10, false), DeploymentSupport::Newer { version: "n".into() });
        let (g12, g13) = (served(Generation::G12, false), served(Generation::G13, false));
        let hybrid = served(Generation::G12, true);
        for (told, counts) in [
            (vec![old.clone(), newer.clone()], newer.clone()),
            (vec![old.clone(), g12.clone(), newer.clone()], g12.clone()),
            (vec![g13.clone(), g12.clone(), old.clone()], g13.clone()),
            (vec![g12.clone(), hybrid], g12.clone()),
            (vec![newer.clone(), g12.clone()], g12.clone()),
            (vec![old.clone(), old.clone(), g12.clone(), g12.clone()], g12.clone()),
        ] {
            for told in [told.clone(), told.into_iter().rev().collect()] {
                let nodes = told.len();
                let expected = ToldSupport { support: counts.clone(), is_agreed: false };
                assert_eq!(ToldSupport::weigh(told.clone(), nodes), expected, "{told:?}");
            }
        }
    }

    /// One node alone neither switches the access check off, nor has requests judged by rules that are not
    /// theirs.
    #[test]
    fn g4_two_nodes_that_agree_outvote_the_others() {
        let (old, newer) =
            (served(Generation::UpToG10, false), DeploymentSupport::Newer { version: "n".into() });
        let (g12, head) = (served(Generation::G12, false), served(Generation::Head, false));
        for (told, counts) in [
            (vec![old.clone(), old.clone(), g12.clone()], old.clone()),
            (vec![g12.clone(), g12.clone(), old.clone()], g12.clone()),
            (vec![head.clone(), g12.clone(), g12.clone()], g12.clone()),
            (vec![newer.clone(), newer.clone(), g12.clone()], newer.clone()),
            (vec![old.clone(), old.clone(), old.clone(), g12.clone(), head.clone()], old.clone()),
            (vec![g12.clone(), g12.clone()], g12.clone()),
        ] {
            let nodes = told.len();
            let expected = ToldSupport { support: counts, is_agreed: true };
            assert_eq!(ToldSupport::weigh(told.clone(), nodes), expected, "{told:?}");
        }
        // The only one is believed; one of several that does not hear the others is none.
        for (nodes, is_agreed) in [(1, true), (2, false)] {
            let told = ToldSupport::weigh(vec![old.clone()], nodes);
            assert_eq!(told, ToldSupport { support: old.clone(), is_agreed });
        }
    }

    #[test]
    fn g4_a_contract_does_not_go_back() {
        use Generation::{G12, G14, UpToG10};
        let went_back = |told, known| {
            let DeploymentSupport::Served(told) = served(told, false) else { unreachable!() };
            DeploymentSupport::WentBack { told, known }
        };
        for (told, known, expected) in [
            (UpToG10, None, served(UpToG10, false)),
            (UpToG10, Some(UpToG10), served(UpToG10, false)),
            (UpToG10, Some(G12), went_back(UpToG10, G12)),
            (G12, Some(G14), went_back(G12, G14)),
            (G14, Some(G14), served(G14, false)),
            (G14, Some(G12), served(G14, false)),
        ] {
            assert_eq!(served(told, false).not_before(known), expected, "{told} {known:?}");
        }
        let newer = DeploymentSupport::Newer { version: "n".into() };
        assert_eq!(newer.clone().not_before(Some(G14)), newer);
        assert_eq!(went_back(UpToG10, G12).answered(), None);
    }

    #[test]
    fn g4_what_nobody_knows_is_not_answered() {
        assert!(served(Generation::UpToG10, false).answered().is_some());
        assert_eq!(DeploymentSupport::Newer { version: "v".into() }.answered(), None);
        assert_eq!(DeploymentSupport::Upgraded { block: 1 }.answered(), None);
    }

    #[test]
    fn a_contract_that_names_itself_otherwise_is_another_one() {
        for (version, is_another) in [
            ("GatewayConfig v0.4.0", true),
            ("Decryption v0.3.0", false),
            ("Decryption, mine", false),
            ("2.1", false),
            ("", false),
        ] {
            let support = DeploymentSupport::Newer { version: version.into() };
            assert_eq!(support.is_of_another_contract("Decryption"), is_another, "{version}");
        }
    }

    /// Each block by its own state, and once; by the newest where that is gone.
    #[tokio::test]
    async fn g4_the_generation_is_asked_of_the_block_itself() {
        use Generation::{G12, UpToG10};
        let chain = FakeChain::new(20);
        let adapter = RequestContract::new(chain.clone(), ADDRESSES);
        let generation = async |block: BlockRef| adapter.generation_in(block).await;
        let version = |text| chain.state().answer_history.version = Some(text);
        version("Decryption v0.3.0");
        assert_eq!(generation(chain.block(7)).await.unwrap(), Some(UpToG10));
        version("Decryption v0.4.0");
        assert_eq!(generation(chain.block(7)).await.unwrap(), Some(UpToG10), "it was told");
        assert_eq!(generation(chain.block(8)).await.unwrap(), Some(G12));
        version("Decryption v0.9.0");
        assert_eq!(generation(chain.block(9)).await.unwrap(), None, "nobody knows it");
        version("Decryption v0.3.0");
        let beyond = BlockRef { number: 99, ..chain.block(10) };
        assert!(generation(beyond).await.is_err(), "no node has it");
        chain.state().no_state_below = Some(15);
        assert_eq!(generation(chain.block(11)).await.unwrap(), Some(UpToG10));
    }

    #[tokio::test]
    async fn g3_a_contract_of_unknown_name_is_known_by_its_functions() {
        let chain = FakeChain::new(1);
        let adapter = RequestContract::new(chain.clone(), ADDRESSES);
        let text = |text: &str| Bytes::from(text.to_owned().abi_encode());
        let version = (abi::contract_version().calldata(), text("Decryption, mine"));
        let number = |view: Bytes| (view, Bytes::from(U256::ONE.abi_encode()));
        let contexts = number(abi::current_kms_context_id().calldata());
        let valid = number(abi::is_valid_kms_context(U256::ONE).calldata());
        let unified = number(abi::unified_request_is_ready().calldata());
        let newer = DeploymentSupport::Newer { version: "Decryption, mine".into() };
        let known = |generation| {
            let version = "Decryption, mine".into();
            DeploymentSupport::Served(Deployment { generation, version, hybrid: false })
        };
        for (views, expected) in [
            (vec![version.clone()], known(Generation::UpToG10)),
            (vec![version.clone(), contexts.clone()], known(Generation::G12)),
            (vec![version.clone(), contexts.clone(), valid.clone()], known(Generation::G13)),
            (vec![version, contexts, valid, unified], newer),
            // No text anywhere: whether there is a registry is not known.
            (vec![], DeploymentSupport::Newer { version: "".into() }),
        ] {
            chain.state().faults = vec![NodeFaults { views, ..NodeFaults::default() }];
            assert_eq!(adapter.support().await.unwrap(), expected);
        }
    }
}
