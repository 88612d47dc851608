//! Running x desired -> which instance gets which wallet and Core. Pure.
//!
//! Two things cannot be shared: a wallet on a chain (its nonces have one owner), and a KMS Core
//! between deployments (a Core knows requests by their id alone, and ids repeat). Claims come from
//! the desired set: an instance that is no longer desired blocks no other, and its wallet under a
//! new name is a rename. An instance that has a claim keeps it: over a restart because it kept the
//! wallet's journal, and also while its file is invalid. Among newcomers the first name wins.
//!
//! A Core that two instances of one deployment have is granted to both and told: one of them is of no use.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    sync::Arc,
};

use crate::{
    config::{Config, KeyChain, Wallet},
    domain::{Address, CoreAddress},
    instance::second_keeper,
    journal::Keeper,
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
    /// A key in AWS KMS by id, region and endpoint: its address is not known offline. Two names of
    /// one key both get as far as the journal, whose lock decides.
    AwsKey {
        key_id: String,
        region: Option<String>,
        endpoint: Option<String>,
    },
    /// An instance that only observes claims no wallet.
    Nobody,
}

impl WalletClaim {
    /// The claim on the gateway's chain.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let signer = match &config.wallet {
            Some(Wallet::PrivateKey(key)) => Signer::Address(key.address()),
            Some(Wallet::AwsKms { key_id, region, endpoint }) => Signer::AwsKey {
                key_id: key_id.clone(),
                region: region.clone(),
                endpoint: endpoint.as_ref().map(|url| url.expose().to_string()),
            },
            None => Signer::Nobody,
        };
        Self { chain_id: config.chain_id, signer }
    }

    /// All claims of an instance: its wallet has one owner on each of its chains.
    #[must_use]
    pub fn all(config: &Config) -> Vec<Self> {
        let gateway = Self::of(config);
        let second = match config.key_chain() {
            Some(KeyChain::Ethereum { chain, .. }) if gateway.is_exclusive() => {
                Some(Self { chain_id: chain.chain_id, signer: gateway.signer.clone() })
            }
            Some(KeyChain::Ethereum { .. } | KeyChain::Gateway { .. }) | None => None,
        };
        std::iter::once(gateway).chain(second).collect()
    }

    /// Returns whether this instance kept the wallet's journal, as far as that is known without the
    /// key.
    fn was_kept_by(&self, name: &str, keeper: &Keeper) -> bool {
        keeper.name == name
            && keeper.chain_id == self.chain_id
            && match &self.signer {
                Signer::Address(address) => *address == keeper.wallet,
                Signer::AwsKey { .. } => true,
                Signer::Nobody => false,
            }
    }

    /// Returns whether no other instance may have the same claim.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.signer != Signer::Nobody
    }
}

impl fmt::Display for WalletClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.signer {
            Signer::Address(address) => write!(f, "wallet {address}")?,
            Signer::AwsKey { key_id, .. } => write!(f, "AWS KMS key {key_id}")?,
            Signer::Nobody => write!(f, "no wallet")?,
        }
        write!(f, " on chain {}", self.chain_id)
    }
}

/// What should run.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Instances with a valid file.
    pub files: Configs,
    /// Instances with an invalid file that run already: they continue unchanged.
    pub kept: Configs,
    /// Instances with a valid file that an operator stopped: they keep the claims they had.
    pub stopped: Configs,
    /// Instances with an invalid file that do not run. Such a file does not name the wallet, but the
    /// journal may.
    pub broken: BTreeSet<String>,
}

/// The decisions about the desired instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files that collide with another one, and why. All others are granted.
    pub refused: BTreeMap<String, Collision>,
    /// The same wallet under another name, old name to new: one instance that is renamed.
    pub renamed: BTreeMap<String, String>,
    /// Refused instances that may not even continue as they are: their claims were granted to
    /// another.
    pub displaced: Vec<String>,
    /// Instances whose KMS Core is that of another one in the same deployment. They run all the same.
    pub shared_cores: BTreeMap<String, Collision>,
}

/// Why a file is in the way of another one, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The other instance.
    pub other: String,
    pub why: String,
    pub remedy: &'static str,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.remedy)
    }
}

/// The rank of an instance that never had what it claims.
const NEWCOMER: u8 = 4;

/// Decides which instances may run. `current`: those that run already, or would after a pause. No
/// instance is renamed to a name in `running`: a draining run must be found under its own name until it
/// ends, and its successor waits for that. `keepers`: the instances that last wrote the journals.
#[must_use]
pub fn plan(
    current: &Configs,
    desired: &Desired,
    running: &BTreeSet<String>,
    keepers: &[Keeper],
) -> Plan {
    let mut claims = Claims::default();
    let mut plan = Plan::default();
    let rank = |name: &String, config: &Arc<Config>| match current.get(name) {
        Some(current) if current == config => 0,
        Some(current) if WalletClaim::of(current) == WalletClaim::of(config) => 1,
        Some(_) => 2,
        None => {
            let claim = WalletClaim::of(config);
            if desired.stopped.get(name).is_some_and(|had| WalletClaim::of(had) == claim) {
                return 1;
            }
            if keepers.iter().any(|keeper| claim.was_kept_by(name, keeper)) { 3 } else { NEWCOMER }
        }
    };
    let mut order: Vec<_> = desired.files.iter().collect();
    order.sort_by_key(|(name, config)| (rank(name, config), name.as_str()));
    let newcomers = order.partition_point(|(name, config)| rank(name, config) < NEWCOMER);
    // Running instances never collide with each other.
    for (name, config) in &desired.kept {
        if claims.claim(name, config).is_err() {
            plan.displaced.push(name.clone());
        }
    }
    for (index, (name, config)) in order.into_iter().enumerate() {
        if index == newcomers {
            claims.reserve(&desired.broken, keepers);
        }
        let Err(collision) = claims.claim(name, config) else { continue };
        plan.refused.insert(name.clone(), collision);
        // The refused instance continues unchanged unless its claims were granted to another.
        if let Some(current) = current.get(name)
            && claims.claim(name, current).is_err()
        {
            plan.displaced.push(name.clone());
        }
    }
    let mut leaving: BTreeMap<WalletClaim, &String> = BTreeMap::new();
    for (name, config) in current {
        let stays = desired.kept.contains_key(name) || desired.files.contains_key(name);
        if !stays && WalletClaim::of(config).is_exclusive() {
            leaving.insert(WalletClaim::of(config), name);
        }
    }
    for (name, config) in &desired.files {
        let is_new = !current.contains_key(name) && !plan.refused.contains_key(name);
        if is_new
            && !running.contains(name)
            && let Some(old) = leaving.remove(&WalletClaim::of(config))
        {
            plan.renamed.insert(old.clone(), name.clone());
        }
    }
    let granted = desired.files.iter().filter(|(name, _)| !plan.refused.contains_key(*name));
    let kept = desired.kept.iter().filter(|(name, _)| !plan.displaced.contains(name));
    plan.shared_cores = shared_cores(granted.chain(kept).collect());
    plan
}

/// Two wallets on one Core are two KMS nodes with one signer. Each instance is told of the first one, by
/// name, that has its Core.
fn shared_cores(running: BTreeMap<&String, &Arc<Config>>) -> BTreeMap<String, Collision> {
    let mut first: BTreeMap<CoreAddress, &String> = BTreeMap::new();
    let mut shared = BTreeMap::new();
    for (name, config) in running.into_iter().filter(|(_, config)| !config.observes()) {
        let endpoint = &config.kms_core_endpoint;
        match first.entry(CoreAddress::of(endpoint.expose())) {
            Entry::Vacant(free) => {
                free.insert(name);
            }
            Entry::Occupied(taken) => {
                let other = (*taken.get()).clone();
                let why = format!(
                    "its KMS Core at {endpoint} is that of instance {other} too: a Core signs as one \
                     KMS node, and the contract takes one answer per signer, so what one of the two \
                     wallets sends is in vain"
                );
                let remedy =
                    "give each a Core of its own, or set mode = \"observe\" in one of them";
                shared.insert(name.clone(), Collision { other, why, remedy });
            }
        }
    }
    shared
}

/// The claims granted so far, and their owners.
#[derive(Default)]
struct Claims<'a> {
    wallets: BTreeMap<WalletClaim, &'a str>,
    cores: BTreeMap<CoreAddress, (u64, Address, &'a str)>,
}

impl<'a> Claims<'a> {
    /// Reserves the wallets whose journals have these instances' names, unless they are taken.
    fn reserve(&mut self, names: &'a BTreeSet<String>, keepers: &[Keeper]) {
        for Keeper { name, chain_id, wallet } in keepers {
            let is_kept_by =
                |instance: &&String| *instance == name || second_keeper(instance) == *name;
            if let Some(name) = names.iter().find(is_kept_by) {
                let claim = WalletClaim { chain_id: *chain_id, signer: Signer::Address(*wallet) };
                self.wallets.entry(claim).or_insert(name);
            }
        }
    }

    /// Grants all claims of an instance, or none.
    fn claim(&mut self, name: &'a str, config: &Config) -> Result<(), Collision> {
        if config.observes() {
            // It neither sends transactions nor asks a Core.
            return Ok(());
        }
        let endpoint = CoreAddress::of(config.kms_core_endpoint.expose());
        if let Some((chain_id, decryption, other)) = self.cores.get(&endpoint)
            && (*chain_id, *decryption) != (config.chain_id, config.decryption_address)
        {
            let why = format!(
                "its KMS Core at {} serves instance {other} for chain {chain_id}, Decryption \
                 {decryption}: a Core knows requests by their id alone and serves one deployment",
                config.kms_core_endpoint,
            );
            let (other, remedy) =
                ((*other).to_owned(), "give one of them another kms_core_endpoint");
            return Err(Collision { other, why, remedy });
        }
        let wallets = WalletClaim::all(config);
        let taken = wallets.iter().find_map(|wallet| self.wallets.get_key_value(wallet));
        if let Some((wallet, owner)) = taken {
            let why = format!("its {wallet} is that of instance {owner}: a wallet has one owner");
            let remedy = "give one of them another wallet, or remove its file";
            return Err(Collision { other: (*owner).to_owned(), why, remedy });
        }
        self.wallets.extend(wallets.into_iter().map(|wallet| (wallet, name)));
        self.cores.insert(endpoint, (config.chain_id, config.decryption_address, name));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Environment, LoadMode, Source, load};

    /// [`super::plan`] where nothing drains and no journal is known.
    fn plan(current: &Configs, desired: &Desired) -> Plan {
        super::plan(current, desired, &BTreeSet::new(), &[])
    }

    /// `wallet` and `core` are numbers; `version` makes the configuration differ.
    fn config(wallet: u32, core: u32, version: u32) -> Arc<Config> {
        on_chain(1, wallet, core, version)
    }

    fn on_chain(chain: u32, wallet: u32, core: u32, version: u32) -> Arc<Config> {
        let variables = [
            ("KMS_CONNECTOR_CHAIN_ID", chain.to_string()),
            ("KMS_CONNECTOR_PRIVATE_KEY", format!("{wallet:064x}")),
            ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", format!("http://core-{core}:50051")),
            ("KMS_CONNECTOR_RETRY_INTERVAL_SECS", version.to_string()),
        ];
        let environment: Environment = variables.into_iter().collect();
        let source =
            Source { file: None, environment, credentials_directory: None, mode: LoadMode::Start };
        Arc::new(load(&source).unwrap().config)
    }

    fn configs<const N: usize>(of: [(&str, Arc<Config>); N]) -> Configs {
        of.into_iter().map(|(name, config)| (name.to_owned(), config)).collect()
    }

    fn files<const N: usize>(of: [(&str, Arc<Config>); N]) -> Desired {
        Desired { files: configs(of), ..Desired::default() }
    }

    /// On the gateway of that id, with key operations on this Ethereum.
    fn with_ethereum(chain: u32, ethereum: u32, wallet: u32, core: u32) -> Arc<Config> {
        let variables = [
            ("KMS_CONNECTOR_CHAIN_ID", chain.to_string()),
            ("KMS_CONNECTOR_PRIVATE_KEY", format!("{wallet:064x}")),
            ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", format!("http://core-{core}:50051")),
            ("KMS_CONNECTOR_ETHEREUM_URL", "http://ethereum".to_owned()),
            ("KMS_CONNECTOR_ETHEREUM_CHAIN_ID", ethereum.to_string()),
            ("KMS_CONNECTOR_KMS_GENERATION_ADDRESS", format!("{:#042x}", 77)),
        ];
        let environment: Environment = variables.into_iter().collect();
        let source =
            Source { file: None, environment, credentials_directory: None, mode: LoadMode::Start };
        Arc::new(load(&source).unwrap().config)
    }

    #[test]
    fn a_wallet_has_one_owner_on_the_second_chain_too() {
        let refused = |others: [(&str, Arc<Config>); 2]| {
            let plan = self::plan(&Configs::new(), &files(others));
            plan.refused.into_iter().next()
        };
        let one = || ("a", with_ethereum(1, 9, 1, 1));
        // Two gateways, one Ethereum.
        let (name, collision) = refused([one(), ("b", with_ethereum(2, 9, 1, 2))]).unwrap();
        assert_eq!((name.as_str(), collision.other.as_str()), ("b", "a"));
        assert!(collision.why.contains("on chain 9"), "{collision}");
        // The second chain of one is the gateway's chain of the other.
        let (_, collision) = refused([one(), ("b", on_chain(9, 1, 2, 1))]).unwrap();
        assert!(collision.why.contains("on chain 9"), "{collision}");
        for other in [with_ethereum(2, 9, 2, 2), with_ethereum(2, 8, 1, 2)] {
            assert_eq!(refused([one(), ("b", other)]), None);
        }
    }

    #[test]
    fn who_has_a_wallet_keeps_it_and_first_come_first_served() {
        let current = configs([("b", config(1, 1, 1))]);
        let desired =
            files([("a", config(1, 1, 1)), ("b", config(1, 1, 2)), ("c", config(1, 1, 1))]);
        let plan = self::plan(&current, &desired);
        assert_eq!(plan.refused.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert!(plan.refused["a"].why.contains("instance b"), "{plan:?}");
        assert!(plan.renamed.is_empty() && plan.displaced.is_empty());
        let fresh = self::plan(&Configs::new(), &desired);
        assert_eq!(fresh.refused.keys().collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn d3_who_kept_the_wallets_journal_has_it_after_a_restart() {
        let desired = files([("a", config(1, 1, 1)), ("b", config(1, 1, 1))]);
        let of = config(1, 1, 1);
        let Some(Wallet::PrivateKey(key)) = &of.wallet else { panic!() };
        let (wallet, other) = (key.address(), Address::repeat_byte(9));
        let keeper =
            |name: &str, chain_id, wallet| Keeper { name: name.to_owned(), chain_id, wallet };
        let refused = |keepers: &[Keeper]| {
            let fresh = super::plan(&Configs::new(), &desired, &BTreeSet::new(), keepers);
            fresh.refused.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(refused(&[keeper("b", 1, wallet)]), ["a"]);
        assert_eq!(refused(&[keeper("b", 2, wallet), keeper("b", 1, other)]), ["b"]);
        assert_eq!(refused(&[keeper("a", 1, other), keeper("b", 1, wallet)]), ["a"]);
    }

    #[test]
    fn a_wallet_is_one_per_chain() {
        let desired = files([("a", on_chain(1, 1, 1, 1)), ("b", on_chain(2, 1, 2, 1))]);
        assert_eq!(plan(&Configs::new(), &desired), Plan::default());
    }

    #[test]
    fn who_only_observes_claims_nothing_and_is_refused_nothing() {
        let observer = || {
            let variables = [("KMS_CONNECTOR_MODE", "observe"), ("KMS_CONNECTOR_CHAIN_ID", "2")];
            let core = [("KMS_CONNECTOR_KMS_CORE_ENDPOINT", "http://core-1:50051")];
            let environment: Environment = variables.into_iter().chain(core).collect();
            let source = Source {
                file: None,
                environment,
                credentials_directory: None,
                mode: LoadMode::Start,
            };
            Arc::new(load(&source).unwrap().config)
        };
        // Two observers on the Core of another deployment.
        let desired = files([("a", config(1, 1, 1)), ("b", observer()), ("c", observer())]);
        assert_eq!(plan(&Configs::new(), &desired), Plan::default());
        // For an observer a new name is a new instance: its journal has the old name.
        let renamed = plan(&configs([("b", observer())]), &files([("d", observer())]));
        assert_eq!(renamed, Plan::default());
        assert!(!WalletClaim::of(&observer()).is_exclusive());
    }

    #[test]
    fn a_core_serves_one_deployment() {
        let desired = files([("a", on_chain(1, 1, 1, 1)), ("b", on_chain(2, 1, 1, 1))]);
        let refused = plan(&Configs::new(), &desired).refused;
        assert!(refused["b"].why.contains("core-1:50051 serves instance a"), "{refused:?}");
    }

    #[test]
    fn a_core_that_two_wallets_of_one_deployment_have_is_told() {
        let desired = files([
            ("a", config(1, 1, 1)),
            ("b", config(2, 1, 1)),
            ("c", config(3, 2, 1)),
            // It is refused, so it asks no Core.
            ("d", config(1, 1, 1)),
        ]);
        let both = plan(&Configs::new(), &desired);
        assert_eq!(both.refused.keys().collect::<Vec<_>>(), ["d"]);
        assert_eq!(both.shared_cores.keys().collect::<Vec<_>>(), ["b"]);
        let told = both.shared_cores["b"].to_string();
        assert!(told.contains("core-1:50051 is that of instance a too"), "{told}");
        // An invalid file's instance goes on with its Core.
        let current = configs([("b", config(2, 1, 1))]);
        let (files, kept) = (configs([("a", config(1, 1, 1))]), current.clone());
        let kept = plan(&current, &Desired { files, kept, ..Desired::default() });
        assert_eq!(kept.shared_cores.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn c11_a_core_is_a_host_and_a_port_however_its_url_goes_on() {
        let with_core = |chain: u32, url: &str| {
            let variables = [
                ("KMS_CONNECTOR_CHAIN_ID", chain.to_string()),
                ("KMS_CONNECTOR_PRIVATE_KEY", format!("{chain:064x}")),
                ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", url.to_owned()),
            ];
            let environment: Environment = variables.into_iter().collect();
            let source = Source {
                file: None,
                environment,
                credentials_directory: None,
                mode: LoadMode::Start,
            };
            Arc::new(load(&source).unwrap().config)
        };
        let refused = |one: &str, other: &str| {
            let desired = files([("a", with_core(1, one)), ("b", with_core(2, other))]);
            plan(&Configs::new(), &desired).refused.contains_key("b")
        };
        let core = "http://core.example:50051";
        for same in [
            "http://core.example:50051/",
            "http://core.example:50051/a/path",
            "http://CORE.example:50051/?q",
            "https://core.example.:50051",
        ] {
            assert!(refused(core, same) && refused(same, core), "{same}");
        }
        assert!(refused("http://core.example/x", "http://core.example:80"));
        for other in ["http://core.example:50052", "http://core-2.example:50051"] {
            assert!(!refused(core, other), "{other}");
        }
    }

    #[test]
    fn who_is_not_desired_any_more_blocks_nobody() {
        let current = configs([("a", config(1, 1, 1)), ("x", config(2, 2, 1))]);
        let desired = files([("b", config(1, 1, 2)), ("x", config(3, 2, 1))]);
        let plan = self::plan(&current, &desired);
        assert_eq!(plan.renamed, [("a".to_owned(), "b".to_owned())].into());
        assert!(plan.refused.is_empty());
    }

    #[test]
    fn wallets_are_swapped() {
        let current = configs([("a", config(1, 1, 1)), ("b", config(2, 2, 1))]);
        let desired = files([("a", config(2, 1, 1)), ("b", config(1, 2, 1))]);
        assert_eq!(plan(&current, &desired), Plan::default());
    }

    /// A typo in a file does not give its wallet or Core to a copy of that file.
    #[test]
    fn d3_who_has_a_wallet_keeps_it_while_its_file_is_bad() {
        let current = configs([("a", config(1, 1, 1))]);
        let with = |files: Configs| Desired { files, kept: current.clone(), ..Desired::default() };
        let free = with(configs([("c", config(2, 2, 1))]));
        assert_eq!(plan(&current, &free), Plan::default());
        for copy in [config(1, 1, 1), config(1, 2, 1), on_chain(2, 1, 1, 1)] {
            let plan = self::plan(&current, &with(configs([("old-a", copy)])));
            assert_eq!(plan.refused.keys().collect::<Vec<_>>(), ["old-a"]);
            assert!(plan.refused["old-a"].why.contains("instance a"), "{plan:?}");
            assert!(plan.renamed.is_empty() && plan.displaced.is_empty(), "{plan:?}");
        }
        // Nor to a running instance that now claims the wallet: that one continues unchanged.
        let current = configs([("a", config(1, 1, 1)), ("b", config(2, 1, 1))]);
        let kept = configs([("a", config(1, 1, 1))]);
        let files = configs([("b", config(1, 1, 2))]);
        let plan = self::plan(&current, &Desired { files, kept, ..Desired::default() });
        assert_eq!((plan.refused.len(), plan.displaced.len()), (1, 0), "{plan:?}");
    }

    #[test]
    fn d3_who_is_stopped_keeps_its_wallet() {
        let files = configs([("0b", config(1, 1, 1)), ("b", config(1, 1, 1))]);
        let refused = |stopped: Configs| {
            let desired = Desired { files: files.clone(), stopped, ..Desired::default() };
            plan(&Configs::new(), &desired).refused.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(refused(Configs::new()), ["b"]);
        assert_eq!(refused(configs([("b", config(1, 1, 1))])), ["0b"]);
        assert_eq!(refused(configs([("b", config(2, 1, 1))])), ["b"], "it had another wallet");
    }

    #[test]
    fn d3_who_kept_the_wallets_journal_has_it_while_its_file_is_bad_at_a_restart() {
        let Some(Wallet::PrivateKey(key)) = &config(1, 1, 1).wallet else { panic!() };
        let wallet = key.address();
        let keeper = |name: &str| Keeper { name: name.to_owned(), chain_id: 1, wallet };
        let broken = BTreeSet::from(["a".to_owned()]);
        let files = configs([("b", config(1, 1, 1)), ("c", config(2, 1, 1))]);
        let refused = |broken: &BTreeSet<String>, keepers: &[Keeper]| {
            let (files, broken) = (files.clone(), broken.clone());
            let desired = Desired { files, broken, ..Desired::default() };
            let fresh = super::plan(&Configs::new(), &desired, &BTreeSet::new(), keepers);
            fresh.refused.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(refused(&broken, &[keeper("a")]), ["b"]);
        assert_eq!(refused(&broken, &[]), [""; 0]);
        assert_eq!(refused(&BTreeSet::new(), &[keeper("a")]), [""; 0], "its file is gone");
        assert_eq!(refused(&broken, &[keeper("a"), keeper("b")]), [""; 0], "b had it, too");
    }

    #[test]
    fn a_refused_change_loses_what_another_was_granted() {
        let current =
            configs([("a", config(9, 9, 1)), ("b", config(1, 1, 1)), ("c", config(2, 2, 1))]);
        let desired =
            files([("a", config(1, 1, 1)), ("b", config(2, 1, 1)), ("c", config(2, 2, 1))]);
        let plan = self::plan(&current, &desired);
        assert_eq!(plan.refused.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(plan.displaced, ["b"]);
    }
    #[test]
    fn nobody_gets_the_name_of_one_that_drains() {
        let current = configs([("b", config(1, 1, 1))]);
        let desired = files([("a", config(1, 1, 1))]);
        let drains = BTreeSet::from(["a".to_owned()]);
        assert_eq!(super::plan(&current, &desired, &drains, &[]), Plan::default());
    }

    /// Some configurations of few wallets under few names.
    fn some_configs() -> impl Strategy<Value = Configs> {
        static POOL: LazyLock<Vec<Arc<Config>>> = LazyLock::new(|| {
            let numbers = (1..4).flat_map(|wallet| (1..3).map(move |core| (wallet, core)));
            let configs = numbers.flat_map(|(wallet, core)| [(wallet, core, 1), (wallet, core, 2)]);
            configs.map(|(wallet, core, version)| config(wallet, core, version)).collect()
        });
        let config = (0..POOL.len()).prop_map(|index| POOL[index].clone());
        prop::collection::btree_map("[a-e]", config, 0..5)
    }

    proptest! {
        /// The name of a running instance is never given away, so each run stays under its name.
        #[test]
        fn a12_every_run_keeps_a_slot_and_every_wallet_has_one_owner(
            wishes in some_configs(),
            broken in prop::collection::btree_set("[a-e]", 0..3),
            now in some_configs(),
            drains in prop::collection::btree_set("[a-e]", 0..3),
        ) {
            // A current instance holds its claims alone.
            let first = self::plan(&Configs::new(), &Desired { files: now.clone(), ..Desired::default() });
            let current: Configs =
                now.into_iter().filter(|(name, _)| !first.refused.contains_key(name)).collect();
            let running: BTreeSet<String> = current.keys().cloned().chain(drains).collect();
            let (files, kept) = wishes.into_iter().partition(|(name, _)| !broken.contains(name));
            let kept: Configs = Configs::into_iter(kept)
                .filter_map(|(name, _)| Some((name.clone(), current.get(&name)?.clone())))
                .collect();
            let desired = Desired { files, kept, ..Desired::default() };
            let plan = super::plan(&current, &desired, &running, &[]);

            for (old, new) in &plan.renamed {
                prop_assert!(!running.contains(new) && !plan.refused.contains_key(new), "{plan:?}");
                let (before, after) = (&current[old], &desired.files[new]);
                prop_assert_eq!(WalletClaim::of(before), WalletClaim::of(after));
            }
            let names: BTreeSet<&String> = plan.renamed.values().collect();
            prop_assert_eq!(names.len(), plan.renamed.len(), "two became one");
            let granted = desired.files.iter().filter(|(name, _)| !plan.refused.contains_key(*name));
            let mut owners: BTreeMap<WalletClaim, &String> = BTreeMap::new();
            for (name, config) in granted {
                prop_assert_eq!(owners.insert(WalletClaim::of(config), name), None);
            }
            // An instance that continues without a grant has no claim of one with a grant.
            for (name, config) in current.iter().filter(|(name, _)| {
                let refused = plan.refused.contains_key(*name) || desired.kept.contains_key(*name);
                refused && !plan.displaced.contains(name) && !plan.renamed.contains_key(*name)
            }) {
                let owner = owners.get(&WalletClaim::of(config));
                prop_assert!(owner.is_none_or(|owner| *owner == name), "{name}: {plan:?}");
            }
        }
    }
}
