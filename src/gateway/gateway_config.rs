//! ADAPTER: the GatewayConfig contract: which bucket a coprocessor writes to, who this KMS node is.
//!
//! Answers are cached per instance with an expiry, empty ones never: a coprocessor that registers
//! its bucket late is found at the next request.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{
    abi,
    decryption::view,
    provider::{Provider, RpcError},
};
use crate::domain::{Address, OutsideText};

/// How long an answer of the registry is believed.
const LIFETIME: Duration = Duration::from_mins(1);
/// After a failed look-up nobody asks again for so long.
const FAILURE_LIFETIME: Duration = Duration::from_millis(500);

/// The adapter. Clones share the cache.
#[derive(Clone, Debug)]
pub struct GatewayConfigAdapter<P> {
    provider: P,
    wallet: Address,
    /// Whether there is a contract at the address: the seed's default is a placeholder.
    deployed: bool,
    cache: Arc<Mutex<Cache>>,
}

#[derive(Debug, Default)]
struct Cache {
    buckets: HashMap<Address, Cached<String>>,
    coprocessors: Option<Cached<Vec<Address>>>,
    signer: Option<Cached<Option<Address>>>,
    failed: Option<(Instant, OutsideText)>,
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

/// The registry could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("GatewayConfig could not be read: {0}")]
pub struct RegistryError(OutsideText);

impl<P: Provider> GatewayConfigAdapter<P> {
    /// `wallet` is this node's transaction sender.
    pub async fn connect(provider: P, wallet: Address) -> Result<Self, RpcError> {
        let deployed = provider.code_size(provider.addresses().gateway_config).await? > 0;
        Ok(Self { provider, wallet, deployed, cache: Arc::default() })
    }

    /// Whether there is a contract to ask.
    pub fn is_deployed(&self) -> bool {
        self.deployed
    }

    fn address(&self) -> Address {
        self.provider.addresses().gateway_config
    }

    /// The base URL of a coprocessor's bucket; `None` if it is not registered or has none.
    pub async fn bucket_url(&self, coprocessor: Address) -> Result<Option<String>, RegistryError> {
        if !self.deployed {
            return Ok(None);
        }
        let mut cache = self.cache.lock().await;
        if let Some(url) = cache.buckets.get(&coprocessor).and_then(Cached::fresh) {
            return Ok(Some(url.clone()));
        }
        let found =
            cache.ask(&self.provider, self.address(), &abi::coprocessor(coprocessor)).await?;
        let url = found.map(|found| found.url).filter(|url| !url.is_empty());
        if let Some(url) = &url {
            cache.buckets.insert(coprocessor, Cached::now(url.clone()));
        }
        Ok(url)
    }

    /// Whether the registry lists this coprocessor.
    pub async fn is_registered(&self, coprocessor: Address) -> Result<bool, RegistryError> {
        if !self.deployed {
            return Ok(false);
        }
        let mut cache = self.cache.lock().await;
        if let Some(known) = cache.coprocessors.as_ref().and_then(Cached::fresh) {
            return Ok(known.contains(&coprocessor));
        }
        let known =
            cache.ask(&self.provider, self.address(), &abi::coprocessor_tx_senders()).await?;
        let registered = known.contains(&coprocessor);
        if !known.is_empty() {
            cache.coprocessors = Some(Cached::now(known));
        }
        Ok(registered)
    }

    /// Every registered coprocessor, asked anew.
    pub async fn coprocessors(&self) -> Result<Vec<Address>, RegistryError> {
        if !self.deployed {
            return Ok(Vec::new());
        }
        let mut cache = self.cache.lock().await;
        cache.ask(&self.provider, self.address(), &abi::coprocessor_tx_senders()).await
    }

    /// The signer registered for this node's Core. `None` where the contract does not say: not
    /// deployed, or the wallet is not registered (then sending will show it).
    pub async fn core_signer(&self) -> Result<Option<Address>, RegistryError> {
        if !self.deployed {
            return Ok(None);
        }
        let mut cache = self.cache.lock().await;
        if let Some(signer) = cache.signer.as_ref().and_then(Cached::fresh) {
            return Ok(*signer);
        }
        let node = cache.ask(&self.provider, self.address(), &abi::kms_node(self.wallet)).await?;
        let signer = node.map(|node| node.signer);
        if signer.is_some() {
            cache.signer = Some(Cached::now(signer));
        }
        Ok(signer)
    }

    /// Asks again who this node's signer is: an answer of the Core contradicts what is remembered.
    pub async fn core_signer_anew(&self) -> Result<Option<Address>, RegistryError> {
        self.cache.lock().await.signer = None;
        self.core_signer().await
    }
}

impl Cache {
    async fn ask<T, P: Provider>(
        &mut self,
        provider: &P,
        address: Address,
        of: &abi::View<T>,
    ) -> Result<T, RegistryError> {
        if let Some((at, what)) = &self.failed
            && at.elapsed() < FAILURE_LIFETIME
        {
            return Err(RegistryError(what.clone()));
        }
        match view(provider, address, of).await {
            Ok(value) => {
                self.failed = None;
                Ok(value)
            }
            Err(error) => {
                let what = OutsideText::of(&error);
                // An outage concerns every question, the contract's own answer only this one.
                if !error.is_answer() {
                    self.failed = Some((Instant::now(), what.clone()));
                }
                Err(RegistryError(what))
            }
        }
    }
}
