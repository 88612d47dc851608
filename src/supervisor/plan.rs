//! Running x desired -> who may have what. Pure.
//!
//! Two things cannot be shared: a wallet on a chain (its nonces have one owner), and a KMS Core
//! between deployments (it knows requests by their id alone, and ids repeat). Claims come from the
//! desired set: who is no longer desired blocks nobody, and its wallet wanted under a new name is a
//! rename. Who has a claim already keeps it; among newcomers the first name wins.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
};

use crate::{
    config::{Config, Wallet},
    domain::Address,
};

/// Configurations by instance name.
pub type Configs = BTreeMap<String, Arc<Config>>;

/// A wallet on a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalletClaim {
    chain_id: u64,
    signer: Signer,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Signer {
    Address(Address),
    /// A key in AWS KMS by its id, region and endpoint: its address is not known offline. Two names
    /// of one key get as far as its journal, whose lock is the last word.
    AwsKey {
        key_id: String,
        region: Option<String>,
        endpoint: Option<String>,
    },
}

impl WalletClaim {
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let signer = match &config.wallet {
            Wallet::PrivateKey(key) => Signer::Address(key.address()),
            Wallet::AwsKms { key_id, region, endpoint } => Signer::AwsKey {
                key_id: key_id.clone(),
                region: region.clone(),
                endpoint: endpoint.as_ref().map(|url| url.expose().to_string()),
            },
        };
        Self { chain_id: config.chain_id, signer }
    }
}

impl fmt::Display for WalletClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.signer {
            Signer::Address(address) => write!(f, "wallet {address}")?,
            Signer::AwsKey { key_id, .. } => write!(f, "AWS KMS key {key_id}")?,
        }
        write!(f, " on chain {}", self.chain_id)
    }
}

/// What may become of the desired set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Desired instances that collide with another, and how. The others are granted.
    pub refused: BTreeMap<String, String>,
    /// Names of one wallet, old to new: the same instance under a new name.
    pub renamed: BTreeMap<String, String>,
    /// Refused ones that may not even go on as they are: what they run is granted to another.
    pub displaced: Vec<String>,
}

/// Decides who of `desired` may run, where `current` runs already (or would, after a pause).
#[must_use]
pub fn plan(current: &Configs, desired: &Configs) -> Plan {
    let mut claims = Claims::default();
    let mut plan = Plan::default();
    let wallet_is_unchanged = |name: &String, config: &Arc<Config>| {
        current.get(name).is_some_and(|current| WalletClaim::of(current) == WalletClaim::of(config))
    };
    let rank = |name: &String, config: &Arc<Config>| match current.get(name) {
        Some(current) if current == config => 0,
        Some(_) if wallet_is_unchanged(name, config) => 1,
        Some(_) => 2,
        None => 3,
    };
    let mut order: Vec<_> = desired.iter().collect();
    order.sort_by_key(|(name, config)| (rank(name, config), name.as_str()));
    for (name, config) in order {
        let Err(collision) = claims.take(name, config) else { continue };
        plan.refused.insert(name.clone(), collision);
        // It goes on as it is, if nobody was granted what it has.
        if let Some(current) = current.get(name)
            && claims.take(name, current).is_err()
        {
            plan.displaced.push(name.clone());
        }
    }
    let leaving: BTreeMap<_, _> = current
        .iter()
        .filter(|(name, _)| !desired.contains_key(*name))
        .map(|(name, config)| (WalletClaim::of(config), name))
        .collect();
    for (name, config) in desired {
        let is_new = !current.contains_key(name) && !plan.refused.contains_key(name);
        if is_new && let Some(old) = leaving.get(&WalletClaim::of(config)) {
            plan.renamed.insert((*old).clone(), name.clone());
        }
    }
    plan
}

/// What is taken, and by whom.
#[derive(Default)]
struct Claims<'a> {
    wallets: BTreeMap<WalletClaim, &'a str>,
    cores: BTreeMap<String, (u64, Address, &'a str)>,
}

impl<'a> Claims<'a> {
    /// All or nothing.
    fn take(&mut self, name: &'a str, config: &Config) -> Result<(), String> {
        let endpoint = config.kms_core_endpoint.expose().to_string();
        if let Some((chain_id, decryption, other)) = self.cores.get(&endpoint)
            && (*chain_id, *decryption) != (config.chain_id, config.decryption_address)
        {
            return Err(format!(
                "its KMS Core at {} serves instance {other} for chain {chain_id}, Decryption \
                 {decryption}: a Core knows requests by their id alone and serves one deployment; \
                 give one of them another kms_core_endpoint",
                config.kms_core_endpoint,
            ));
        }
        match self.wallets.entry(WalletClaim::of(config)) {
            Entry::Occupied(taken) => {
                return Err(format!(
                    "its {} is that of instance {}: a wallet has one owner; give one of them \
                     another wallet, or remove its file",
                    taken.key(),
                    taken.get(),
                ));
            }
            Entry::Vacant(free) => free.insert(name),
        };
        self.cores.insert(endpoint, (config.chain_id, config.decryption_address, name));
        Ok(())
    }
}
