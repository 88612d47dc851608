//! ADAPTER: the GatewayConfig contract: each coprocessor's bucket, and the registration of this KMS
//! node.
//!
//! Answers are cached per instance for a while, empty ones never: a coprocessor that registers its
//! bucket late is found at the next request. What is said of KMS contexts counts under its head only.

mod coprocessors;
mod contexts;
mod shared_reads;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

pub use self::coprocessors::CoprocessorRegistry;
use self::shared_reads::SharedReads;
use super::{
    abi,
    decryption::{ViewError, call_view},
};
use crate::chain::{reader::ChainReader, rpc_error::RpcError};
use crate::domain::{Address, U256};

/// Lifetime of a cached answer.
const LIFETIME: Duration = Duration::from_mins(1);
/// After a failed call no other call is made for this long.
const FAILURE_LIFETIME: Duration = Duration::from_millis(500);
/// Contexts whose signers are cached.
const MOST_CONTEXTS: usize = 64;
/// "No contract here" is checked again after this: it is one node's word and may change.
const DEPLOYMENT_CHECKED_EVERY: Duration = Duration::from_secs(10);

/// The adapter. Clones share the cache.
#[derive(Clone, Debug)]
pub struct GatewayConfigAdapter<P> {
    provider: P,
    address: Address,
    wallet: Address,
    /// Whether there is a contract at the address: the default address is a placeholder.
    deployed: Arc<AtomicBool>,
    cache: Arc<Mutex<Cache>>,
    coprocessors: Arc<Mutex<coprocessors::RegistrySnapshot>>,
    /// What is asked of contexts.
    shared_reads: SharedReads,
}

#[derive(Debug, Default)]
struct Cache {
    buckets: HashMap<Address, Cached<String>>,
    coprocessors: Option<Cached<Vec<Address>>>,
    /// Signers that any node reports for this KMS node in a context (`None`: the current one). Never empty.
    signers: HashMap<Option<U256>, Cached<Vec<Address>>>,
    failed: Option<(Instant, RegistryError)>,
    /// When no contract was found.
    not_deployed_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Cached<T> {
    value: T,
    at: Instant,
}

impl<T> Cached<T> {
    fn now(value: T) -> Self {
        Self { value, at: Instant::now() }
    }

    fn fresh(&self) -> Option<&T> {
        (self.at.elapsed() < LIFETIME).then_some(&self.value)
    }
}

/// How this node is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The current KMS context. `None`: the contract has none (before G12).
    pub context: Option<U256>,
    /// This node's signer in it. `None`: the wallet is no transaction sender there.
    pub signer: Option<Address>,
}

impl Registration {
    /// Where it is looked for, for messages: nothing, or the context.
    #[must_use]
    pub fn place(&self) -> String {
        let context = self.context.map(|context| format!(" in the KMS context {context:#066x}"));
        context.unwrap_or_default()
    }
}

/// The registry could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("GatewayConfig could not be read: {0}")]
pub struct RegistryError(#[from] ViewError);

impl RegistryError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code()
    }
}

impl<P: ChainReader> GatewayConfigAdapter<P> {
    /// `wallet`: this node's transaction sender.
    pub async fn connect(provider: P, address: Address, wallet: Address) -> Result<Self, RpcError> {
        let deployed = provider.code_size(address).await? > 0;
        let missed = (!deployed).then(Instant::now);
        let cache = Cache { not_deployed_at: missed, ..Cache::default() };
        let deployed = Arc::new(AtomicBool::new(deployed));
        let (cache, coprocessors) = (Arc::new(Mutex::new(cache)), Arc::default());
        let shared_reads = SharedReads::default();
        Ok(Self { provider, address, wallet, deployed, cache, coprocessors, shared_reads })
    }

    /// Whether a contract was found when it was last checked.
    pub fn is_deployed(&self) -> bool {
        self.deployed.load(Ordering::Relaxed)
    }

    /// Whether there is a contract; checks again if none was found for a while.
    async fn check_deployed(&self, cache: &mut Cache) -> Result<bool, RegistryError> {
        let just = |at: Instant| at.elapsed() < DEPLOYMENT_CHECKED_EVERY;
        if self.is_deployed() || cache.not_deployed_at.is_some_and(just) {
            return Ok(self.is_deployed());
        }
        let size = self.provider.code_size(self.address).await;
        let found = size.map_err(ViewError::from)? > 0;
        self.deployed.store(found, Ordering::Relaxed);
        cache.not_deployed_at = (!found).then(Instant::now);
        Ok(found)
    }

    /// The base URL of a coprocessor's bucket. `None`: not registered, or without a bucket.
    pub async fn bucket_url(&self, coprocessor: Address) -> Result<Option<String>, RegistryError> {
        let mut cache = self.cache.lock().await;
        if !self.check_deployed(&mut cache).await? {
            return Ok(None);
        }
        if let Some(url) = cache.buckets.get(&coprocessor).and_then(Cached::fresh) {
            return Ok(Some(url.clone()));
        }
        let found =
            cache.call_view(&self.provider, self.address, &abi::coprocessor(coprocessor)).await?;
        let url = found.map(|found| found.url).filter(|url| !url.is_empty());
        if let Some(url) = &url {
            cache.buckets.insert(coprocessor, Cached::now(url.clone()));
        }
        Ok(url)
    }

    /// Whether the registry lists this coprocessor.
    pub async fn is_registered(&self, coprocessor: Address) -> Result<bool, RegistryError> {
        let mut cache = self.cache.lock().await;
        if !self.check_deployed(&mut cache).await? {
            return Ok(false);
        }
        if let Some(known) = cache.coprocessors.as_ref().and_then(Cached::fresh) {
            return Ok(known.contains(&coprocessor));
        }
        let known =
            cache.call_view(&self.provider, self.address, &abi::coprocessor_tx_senders()).await?;
        let registered = known.contains(&coprocessor);
        if !known.is_empty() {
            cache.coprocessors = Some(Cached::now(known));
        }
        Ok(registered)
    }

    /// Every registered coprocessor, without the cache.
    pub async fn coprocessors(&self) -> Result<Vec<Address>, RegistryError> {
        let mut cache = self.cache.lock().await;
        if !self.check_deployed(&mut cache).await? {
            return Ok(Vec::new());
        }
        cache.call_view(&self.provider, self.address, &abi::coprocessor_tx_senders()).await
    }

    /// The signer registered for this node's Core in a context (`None`: the current one, and before G12,
    /// where there are no contexts); several if nodes differ. Empty if the contract does not say: not
    /// deployed, the context unknown, or the wallet not registered (which shows at sending).
    pub async fn core_signers_for(
        &self,
        context: Option<U256>,
    ) -> Result<Vec<Address>, RegistryError> {
        let mut cache = self.cache.lock().await;
        if !self.check_deployed(&mut cache).await? {
            return Ok(Vec::new());
        }
        if let Some(signers) = cache.signers.get(&context).and_then(Cached::fresh) {
            return Ok(signers.clone());
        }
        let view = self.kms_node(context);
        let node = match cache.call_view(&self.provider, self.address, &view).await {
            // From G13 on the contract refuses to speak of a context that it does not know.
            Err(error) if context.is_some() && error.0.is_answer() => None,
            said => said?,
        };
        let signers = node.map(|node| node.signer).into_iter().collect();
        Ok(cache.remember_signers(context, signers))
    }

    /// This node's registration in the context that is current now.
    pub async fn registration(&self) -> Result<Registration, RegistryError> {
        let context = self.current_context().await?;
        let signers = self.core_signers_for(context).await?;
        Ok(Registration { context, signer: signers.first().copied() })
    }

    fn kms_node(&self, context: Option<U256>) -> abi::View<Option<abi::KmsNode>> {
        match context {
            Some(context) => abi::kms_node_for_context(context, self.wallet),
            None => abi::kms_node(self.wallet),
        }
    }

    /// Asks every sound node for the signer, because an answer of the Core contradicts the cached one. A
    /// signer that any node reports may be right: the contract decides in the end.
    pub async fn core_signers_of_all_nodes(
        &self,
        context: Option<U256>,
    ) -> Result<Vec<Address>, RegistryError> {
        let mut cache = self.cache.lock().await;
        if !self.check_deployed(&mut cache).await? {
            return Ok(Vec::new());
        }
        let (mut signers, mut said, mut failed) = (Vec::new(), false, None);
        let view = self.kms_node(context);
        for node in self.provider.sound_nodes() {
            match call_view(&self.provider.for_node(node), self.address, &view).await {
                Ok(registered) => {
                    said = true;
                    let signer = registered.map(|registered| registered.signer);
                    signers.extend(signer.filter(|signer| !signers.contains(signer)));
                }
                Err(error) if context.is_some() && error.is_answer() => said = true,
                Err(error) => failed = Some(RegistryError(error)),
            }
        }
        match failed {
            Some(error) if !said => Err(error),
            Some(_) | None => Ok(cache.remember_signers(context, signers)),
        }
    }
}

impl Cache {
    /// Caches the signers unless there are none.
    fn remember_signers(&mut self, context: Option<U256>, signers: Vec<Address>) -> Vec<Address> {
        if signers.is_empty() {
            self.signers.remove(&context);
        } else {
            // Contexts come with requests: none may fill the memory.
            self.signers.retain(|_, cached| cached.fresh().is_some());
            if self.signers.len() < MOST_CONTEXTS {
                self.signers.insert(context, Cached::now(signers.clone()));
            }
        }
        signers
    }

    async fn call_view<T, P: ChainReader>(
        &mut self,
        provider: &P,
        address: Address,
        of: &abi::View<T>,
    ) -> Result<T, RegistryError> {
        if let Some((at, error)) = &self.failed
            && at.elapsed() < FAILURE_LIFETIME
        {
            return Err(error.clone());
        }
        match call_view(provider, address, of).await {
            Ok(value) => {
                self.failed = None;
                Ok(value)
            }
            Err(error) => {
                // An outage concerns every call, the contract's own answer only this one.
                let concerns_all = !error.is_answer();
                let error = RegistryError(error);
                if concerns_all {
                    self.failed = Some((Instant::now(), error.clone()));
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolValue as _;
    use tokio::time::advance;

    use super::*;
    use crate::chain::fake_chain::{FakeChain, NodeFaults};

    /// One of two nodes reports another signer for the wallet: every caller gets both, however often it
    /// asks.
    #[tokio::test(start_paused = true)]
    async fn m4_a_signer_that_any_node_registers_counts_for_whoever_asks() {
        let chain = FakeChain::new(1);
        chain.state().has_registry = true;
        let wallet = Address::repeat_byte(1);
        let lies = |signer| {
            // The layout with three fields, with an empty address.
            let node = (wallet, signer, String::new());
            let told = (abi::kms_node(wallet).calldata(), node.abi_encode().into());
            NodeFaults { views: vec![told], ..NodeFaults::default() }
        };
        let (right, wrong) = (Address::repeat_byte(2), Address::repeat_byte(3));
        chain.state().faults = vec![lies(wrong), lies(right)];
        let registry =
            GatewayConfigAdapter::connect(chain.clone(), Address::ZERO, wallet).await.unwrap();
        assert_eq!(registry.core_signers_for(None).await.unwrap(), [wrong]);
        for _ in 0..3 {
            assert_eq!(registry.core_signers_of_all_nodes(None).await.unwrap(), [wrong, right]);
            assert_eq!(registry.core_signers_for(None).await.unwrap(), [wrong, right]);
        }
        // It was wrong for some seconds.
        chain.state().faults[0] = lies(right);
        assert_eq!(registry.core_signers_of_all_nodes(None).await.unwrap(), [right]);
    }

    /// From v0.13.0 on the contract refuses to speak of contexts that it does not know.
    #[tokio::test(start_paused = true)]
    async fn g5_each_context_has_its_signer() {
        let chain = FakeChain::new(1);
        chain.state().has_registry = true;
        let wallet = Address::repeat_byte(1);
        let node = |signer| (wallet, signer, String::new(), String::new()).abi_encode();
        let (old, new) = (Address::repeat_byte(2), Address::repeat_byte(3));
        let (first, second) = (U256::from(7), U256::from(8));
        chain.state().faults[0].views = vec![
            (abi::kms_node_for_context(first, wallet).calldata(), node(old).into()),
            (abi::kms_node_for_context(second, wallet).calldata(), node(new).into()),
            (abi::kms_node(wallet).calldata(), node(new).into()),
        ];
        let registry =
            GatewayConfigAdapter::connect(chain.clone(), Address::ZERO, wallet).await.unwrap();
        for _ in 0..2 {
            for (context, signer) in [(Some(first), old), (Some(second), new), (None, new)] {
                assert_eq!(registry.core_signers_for(context).await.unwrap(), [signer]);
                let of_all = registry.core_signers_of_all_nodes(context).await.unwrap();
                assert_eq!(of_all, [signer]);
            }
        }
        // Unknown, and answered so.
        let unknown = Some(U256::from(9));
        assert!(registry.core_signers_for(unknown).await.unwrap().is_empty());
        assert!(registry.core_signers_of_all_nodes(unknown).await.unwrap().is_empty());
        // However many contexts requests name.
        for context in 0..200 {
            let _ = registry.core_signers_for(Some(U256::from(context))).await;
        }
        assert!(registry.cache.lock().await.signers.len() <= MOST_CONTEXTS);
    }

    /// A destroyed context stays valid for no node's word, as long as another one answers.
    #[tokio::test(start_paused = true)]
    async fn g5_a_context_is_valid_if_every_node_that_answers_says_so() {
        let context = U256::from(7);
        let (signers, valid) =
            (abi::kms_signers_for_context(context), abi::is_valid_kms_context(context));
        for (rule, view, yes, no) in [
            (
                abi::ContextRule::GatewaySigners,
                signers.calldata(),
                vec![Address::ZERO].abi_encode(),
                Vec::<Address>::new().abi_encode(),
            ),
            (
                abi::ContextRule::GatewayValid,
                valid.calldata(),
                true.abi_encode(),
                false.abi_encode(),
            ),
        ] {
            let says = |said: &[u8]| NodeFaults {
                views: vec![(view.clone(), said.to_vec().into())],
                ..NodeFaults::default()
            };
            let silent = NodeFaults { is_silent: true, ..says(&no) };
            for (nodes, expected) in [
                (vec![says(&yes)], Some(true)),
                (vec![says(&yes), says(&yes)], Some(true)),
                (vec![says(&yes), says(&no)], Some(false)),
                (vec![says(&no), says(&yes)], Some(false)),
                (vec![says(&yes), silent.clone()], Some(true)),
                (vec![silent], None),
            ] {
                let chain = FakeChain::new(1);
                chain.state().has_registry = true;
                let registry =
                    GatewayConfigAdapter::connect(chain.clone(), Address::ZERO, Address::ZERO)
                        .await
                        .unwrap();
                chain.state().faults = nodes.clone();
                let told = registry.context_is_valid(context, rule).await.ok();
                assert_eq!(told, expected, "{rule:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn b5_that_there_is_no_registry_is_asked_again() {
        let chain = FakeChain::new(1);
        let registry = GatewayConfigAdapter::connect(chain.clone(), Address::ZERO, Address::ZERO)
            .await
            .unwrap();
        chain.state().has_registry = true;
        for (seconds, deployed, asked) in [(9, false, 1), (1, true, 2), (60, true, 2)] {
            advance(Duration::from_secs(seconds)).await;
            // Its answer does not matter here.
            let _ = registry.bucket_url(Address::ZERO).await;
            assert_eq!(registry.is_deployed(), deployed);
            assert_eq!(chain.call_count("code_size"), asked);
        }
    }
}
