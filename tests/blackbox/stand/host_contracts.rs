//! The test contracts of host chains behave as the protocol's tables say.

use alloy::{
    primitives::{Address, B256, Bytes, FixedBytes, U64, U256, b256, fixed_bytes},
    sol_types::{SolCall, SolError, SolEvent},
};
use serde_json::{Value, json};
use world::{
    Error, Result,
    contracts::{Proxy, Variant, reverted},
    deployment::{Node, Thresholds},
    host::{EVERY_CONTRACT, Host, HostChain, HostOptions},
    host_contracts::{ACL, Mood, ProtocolConfig, ProtocolConfigG13, Wallet, acl_version},
    random, random_address, random_key,
    request::{Ask, fhe},
    scene::{Scene, SceneOptions},
    signing::sign,
};

use super::contracts::assert_absent;

/// A host chain that makes a block for each transaction, and its one KMS node.
struct Net {
    _dir: tempfile::TempDir,
    chain: HostChain,
    node: Node,
}

impl Net {
    async fn up(variant: Variant) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("tempdir".into(), e))?;
        let node = some_node();
        let options = HostOptions::of(variant).block_time(None);
        let chain = HostChain::start(dir.path(), options, &[node], Thresholds::ONE).await?;
        Ok(Self { _dir: dir, chain, node })
    }

    fn host(&self) -> &Host {
        &self.chain.host
    }

    /// Makes a block of this time.
    async fn at(&self, timestamp: u64) -> Result<()> {
        let chain = &self.host().chain;
        let _: Value = chain.rpc("evm_setNextBlockTimestamp", json!([timestamp])).await?;
        chain.mine(1).await
    }

    /// The time of the latest block.
    async fn now(&self) -> Result<u64> {
        field(self.host(), "latest", "timestamp").await
    }
}

/// A number in the header of a block.
async fn field(host: &Host, block: &str, name: &str) -> Result<u64> {
    let block: Value = host.chain.rpc("eth_getBlockByNumber", json!([block, false])).await?;
    Ok(serde_json::from_value::<U64>(block[name].clone())?.to())
}

fn some_node() -> Node {
    Node { wallet: random_address(), signer: random_address() }
}

/// Selectors as the protocol's tables give them.
const SELECTORS: [([u8; 4], FixedBytes<4>); 28] = [
    (ACL::isAllowedForDecryptionCall::SELECTOR, fixed_bytes!("c0d02943")),
    (ACL::isAllowedCall::SELECTOR, fixed_bytes!("82027b6d")),
    (ACL::persistAllowedCall::SELECTOR, fixed_bytes!("1e2f86ba")),
    (ACL::isHandleDelegatedForUserDecryptionCall::SELECTOR, fixed_bytes!("d09c0dee")),
    (ACL::getUserDecryptionDelegationExpirationDateCall::SELECTOR, fixed_bytes!("3f462dbe")),
    (ACL::decryptionSignatureInvalidatedBeforeCall::SELECTOR, fixed_bytes!("0dff1525")),
    (ACL::isAccountDeniedCall::SELECTOR, fixed_bytes!("9edc01ec")),
    (ACL::WILDCARD_DELEGATION_ADDRESSCall::SELECTOR, fixed_bytes!("d2870421")),
    (ACL::getVersionCall::SELECTOR, fixed_bytes!("0d8e6e2c")),
    (ProtocolConfig::getCurrentKmsContextAndEpochCall::SELECTOR, fixed_bytes!("65b394af")),
    (ProtocolConfig::getCurrentKmsContextIdCall::SELECTOR, fixed_bytes!("976f3eb9")),
    (ProtocolConfig::getCurrentKmsContextIdCounterCall::SELECTOR, fixed_bytes!("9d1b1be1")),
    (ProtocolConfig::isValidKmsContextCall::SELECTOR, fixed_bytes!("bf9b16c8")),
    (ProtocolConfig::isLiveKmsContextCall::SELECTOR, fixed_bytes!("ee7d52d1")),
    (ProtocolConfig::isValidEpochForContextCall::SELECTOR, fixed_bytes!("cceac019")),
    (ProtocolConfig::getKmsContextAnchorCall::SELECTOR, fixed_bytes!("c999a8b4")),
    (ProtocolConfig::getKmsNodeForContextCall::SELECTOR, fixed_bytes!("31ff41c8")),
    (ProtocolConfig::getKmsNodesForContextCall::SELECTOR, fixed_bytes!("f9c670c3")),
    (ProtocolConfig::getKmsSignersForContextCall::SELECTOR, fixed_bytes!("5bff76d9")),
    (ProtocolConfig::isKmsSignerForContextCall::SELECTOR, fixed_bytes!("9447cfd4")),
    (ProtocolConfig::isKmsTxSenderForContextCall::SELECTOR, fixed_bytes!("46c5bbbd")),
    (
        ProtocolConfig::getPublicDecryptionThresholdForContextCall::SELECTOR,
        fixed_bytes!("c3aaaa5a"),
    ),
    (ProtocolConfig::getUserDecryptionThresholdForContextCall::SELECTOR, fixed_bytes!("281e8bfe")),
    (ProtocolConfig::InvalidKmsContext::SELECTOR, fixed_bytes!("77ddbe81")),
    (ProtocolConfig::InvalidKmsEpoch::SELECTOR, fixed_bytes!("7995bbcf")),
    (ProtocolConfig::KmsContextNotPending::SELECTOR, fixed_bytes!("3586efa1")),
    (ProtocolConfig::KmsLifecycleOperationInFlight::SELECTOR, fixed_bytes!("078020be")),
    (Wallet::isValidSignatureCall::SELECTOR, fixed_bytes!("1626ba7e")),
];

/// Topics as the tables give them.
const TOPICS: [(B256, B256); 6] = [
    (
        ProtocolConfigG13::NewKmsContext::SIGNATURE_HASH,
        b256!("e5296a8184d19a5fd24548749ea3c435b69ad26f12ca0afa1e8efef592368bf2"),
    ),
    (
        ProtocolConfig::NewKmsContext::SIGNATURE_HASH,
        b256!("204d6b80121154cd87d99cf54c639a3dd0a53b3084277098de972ebdd34c6be9"),
    ),
    (
        ProtocolConfig::NewKmsEpoch::SIGNATURE_HASH,
        b256!("15aaaf475ef407543f5164f57dcf57f7f93816f55bae77ca09efc445ba40eef7"),
    ),
    (
        ProtocolConfig::KmsContextDestroyed::SIGNATURE_HASH,
        b256!("da075d09198d207e3a918d4b8dfc87df2d60a00be703fd39eaac90962da0b7f0"),
    ),
    (
        ProtocolConfig::KmsEpochDestroyed::SIGNATURE_HASH,
        b256!("03436013075f8d1abb1781dbcaf418fc76fc797d1ab51c38664c1a51f3cd57f9"),
    ),
    (
        ProtocolConfig::ActivateEpoch::SIGNATURE_HASH,
        b256!("1a547b42e72cd3dda04e6adccd2200276cfef01fe2138d07f3a7440f416d38bc"),
    ),
];

#[test]
fn host_signatures_are_those_of_the_protocol() {
    for (number, (ours, protocol)) in SELECTORS.into_iter().enumerate() {
        assert_eq!(FixedBytes(ours), protocol, "number {number}");
    }
    for (ours, protocol) in TOPICS {
        assert_eq!(ours, protocol);
    }
}

#[tokio::test]
async fn each_kind_of_request_is_granted_and_taken_back() {
    let net = Net::up(Variant::Head).await.unwrap();
    let types = [fhe::UINT8, fhe::BOOL];
    let account = net.host().wallet(Mood::OfOwner, random_address()).await.unwrap();
    let asks = [
        Ask::public(&types),
        Ask::user(&types),
        Ask::user(&types).delegated(),
        Ask::user(&types).unified(),
        Ask::user(&types).delegated().unified(),
        Ask::user(&types).by_account(account),
    ];
    for ask in &asks {
        assert!(!net.host().grants_all(ask).await.unwrap(), "{ask:?}");
        net.host().grant(std::slice::from_ref(ask)).await.unwrap();
        assert!(net.host().grants_all(ask).await.unwrap(), "{ask:?}");
    }
    // Each permission counts: one that is missing is a denial.
    for ask in &asks {
        let grants = net.host().grants(ask, false);
        for (index, taken) in grants.into_iter().enumerate() {
            net.host().send(vec![taken]).await.unwrap();
            assert!(!net.host().grants_all(ask).await.unwrap(), "{index} of {ask:?}");
            net.host().grant(std::slice::from_ref(ask)).await.unwrap();
        }
        net.host().revoke(std::slice::from_ref(ask)).await.unwrap();
        assert!(!net.host().grants_all(ask).await.unwrap(), "{ask:?}");
    }
}

#[tokio::test]
async fn the_acl_is_that_of_its_version() {
    for variant in [Variant::G10, Variant::G12, Variant::G13, Variant::G14, Variant::Head] {
        let mut net = Net::up(variant).await.unwrap();
        let version = net.host().view(ACL::getVersionCall {}).await.unwrap();
        assert_eq!(version, acl_version(variant));
        let ask = Ask::user(&[fhe::UINT8]).delegated();
        let (handle, owner) = (ask.handles()[0], ask.access.owners[0]);
        let (user, contract) = (ask.user, ask.access.contracts[0]);
        net.host().grant(std::slice::from_ref(&ask)).await.unwrap();

        // The last second of a delegation.
        let expiry = net.now().await.unwrap() + 100;
        net.host().send(vec![net.host().delegate(owner, user, contract, expiry)]).await.unwrap();
        let call = ACL::getUserDecryptionDelegationExpirationDateCall {
            delegator: owner,
            delegate: user,
            contractAddress: contract,
        };
        assert_eq!(net.host().view(call).await.unwrap(), expiry);
        for (time, still) in
            [(expiry - 1, true), (expiry, !variant.since(Variant::G13)), (expiry + 1, false)]
        {
            net.at(time).await.unwrap();
            assert_eq!(net.host().grants_all(&ask).await.unwrap(), still, "{variant:?} at {time}");
        }

        // One for every contract, though still only for those that have the handle.
        let host = net.host();
        host.send(vec![host.delegate(owner, user, EVERY_CONTRACT, u64::MAX)]).await.unwrap();
        let wildcard = variant.since(Variant::G13);
        assert_eq!(host.grants_all(&ask).await.unwrap(), wildcard, "{variant:?}");
        let name = host.view(ACL::WILDCARD_DELEGATION_ADDRESSCall {}).await;
        if wildcard {
            assert_eq!(name.unwrap(), EVERY_CONTRACT);
        } else {
            assert_absent(name);
        }
        host.send(vec![host.allow(handle, contract, false)]).await.unwrap();
        assert!(!host.grants_all(&ask).await.unwrap(), "{variant:?}");

        let invalidated = ACL::decryptionSignatureInvalidatedBeforeCall { account: user };
        if variant.since(Variant::G14) {
            assert_eq!(host.view(invalidated.clone()).await.unwrap(), U256::ZERO);
            host.send(vec![host.invalidate_before(user, 77)]).await.unwrap();
            assert_eq!(host.view(invalidated).await.unwrap(), U256::from(77));
        } else {
            assert_absent(host.view(invalidated).await);
        }
        assert!(!host.view(ACL::isAccountDeniedCall { account: user }).await.unwrap());
        host.send(vec![host.deny(user, true)]).await.unwrap();
        assert!(host.view(ACL::isAccountDeniedCall { account: user }).await.unwrap());

        // An upgrade keeps what was granted.
        let direct = Ask::user(&[fhe::UINT8]);
        net.host().grant(std::slice::from_ref(&direct)).await.unwrap();
        net.chain.host.upgrade_acl(Variant::Head).await.unwrap();
        assert!(net.host().grants_all(&direct).await.unwrap());
        let version = net.host().view(ACL::getVersionCall {}).await.unwrap();
        assert_eq!(version, acl_version(Variant::Head));
        let upgraded = net.host().chain.logs(net.host().acl, 0, Proxy::Upgraded::SIGNATURE_HASH);
        assert_eq!(upgraded.await.unwrap().len(), 2);
    }
}

/// Of one context: whether it is valid and whether it is live.
async fn standing(host: &Host, context: U256) -> Result<(bool, bool)> {
    let call = ProtocolConfig::isValidKmsContextCall { kmsContextId: context };
    let valid = host.protocol(call).await?;
    let call = ProtocolConfig::isLiveKmsContextCall { kmsContextId: context };
    Ok((valid, host.protocol(call).await?))
}

async fn in_force(host: &Host, context: U256, epoch: U256) -> Result<bool> {
    let call = ProtocolConfig::isValidEpochForContextCall { kmsContextId: context, epochId: epoch };
    host.protocol(call).await
}

fn refused<E: SolError>(answer: Result<impl Sized>) -> E {
    let Err(error) = answer else { panic!("expected {}", E::SIGNATURE) };
    reverted::<E>(&error).unwrap_or_else(|| panic!("expected {}, got {error}", E::SIGNATURE))
}

#[tokio::test]
async fn contexts_and_epochs_have_a_life() {
    let net = Net::up(Variant::Head).await.unwrap();
    let host = net.host();
    let (first, epoch) = host.in_force().await.unwrap();
    assert_eq!(first, (U256::from(7) << 248) + U256::ONE);
    assert_eq!(epoch, (U256::from(8) << 248) + U256::ONE);
    assert_eq!(standing(host, first).await.unwrap(), (true, true));
    assert!(in_force(host, first, epoch).await.unwrap());
    let counter =
        async || host.protocol(ProtocolConfig::getCurrentKmsContextIdCounterCall {}).await.unwrap();
    assert_eq!(counter().await, first);

    // Pending, created, active: the old ones stay in force as well.
    let node = some_node();
    let second = host.define_context(&[node], Thresholds::ONE).await.unwrap();
    assert_eq!((counter().await, second), (second, first + U256::ONE));
    assert_eq!(standing(host, second).await.unwrap(), (false, true));
    let busy = host.define_context(&[node], Thresholds::ONE).await;
    refused::<ProtocolConfig::KmsLifecycleOperationInFlight>(busy);
    let signers = ProtocolConfig::getKmsSignersForContextCall { kmsContextId: second };
    refused::<ProtocolConfig::InvalidKmsContext>(host.protocol(signers.clone()).await);
    let later = host.confirm_creation(second).await.unwrap();
    refused::<ProtocolConfig::KmsContextNotPending>(host.confirm_creation(second).await);
    assert_eq!(standing(host, second).await.unwrap(), (false, true));
    assert!(!in_force(host, second, later).await.unwrap());
    host.activate_epoch(later).await.unwrap();
    assert_eq!(host.in_force().await.unwrap(), (second, later));
    assert_eq!(standing(host, second).await.unwrap(), (true, true));
    assert_eq!(host.protocol(signers).await.unwrap(), [node.signer]);
    assert!(in_force(host, second, later).await.unwrap());
    assert!(in_force(host, first, epoch).await.unwrap());
    assert!(!in_force(host, first, later).await.unwrap(), "of the other context");

    // A further epoch of the same context; a pending one is none yet.
    let third = host.new_epoch().await.unwrap();
    assert!(!in_force(host, second, third).await.unwrap());
    host.activate_epoch(third).await.unwrap();
    assert!(
        in_force(host, second, third).await.unwrap()
            && in_force(host, second, later).await.unwrap()
    );
    host.destroy_epoch(later).await.unwrap();
    assert!(!in_force(host, second, later).await.unwrap());
    refused::<ProtocolConfig::InvalidKmsEpoch>(host.destroy_epoch(later).await);
    let last = host.destroy_epoch(third).await;
    refused::<ProtocolConfig::LatestActiveKmsEpochCannotBeDestroyed>(last);

    // Destroyed: neither valid nor live, and still counted. Its nodes can still be read.
    host.destroy_context(first).await.unwrap();
    assert_eq!(standing(host, first).await.unwrap(), (false, false));
    assert!(!in_force(host, first, epoch).await.unwrap());
    assert_eq!(counter().await, second);
    refused::<ProtocolConfig::InvalidKmsContext>(host.destroy_context(first).await);
    let last = host.destroy_context(second).await;
    refused::<ProtocolConfig::LatestActiveKmsContextCannotBeDestroyed>(last);
    let call =
        ProtocolConfig::getKmsNodeForContextCall { kmsContextId: first, txSender: net.node.wallet };
    assert_eq!(host.protocol(call).await.unwrap().signerAddress, net.node.signer);
    let call = ProtocolConfig::getKmsContextAnchorCall { contextId: first };
    assert!(host.protocol(call).await.unwrap().emissionBlockNumber > U256::ZERO);

    // Unknown: neither, and not counted.
    let nowhere = second + U256::ONE;
    assert_eq!(standing(host, nowhere).await.unwrap(), (false, false));
    let call = ProtocolConfig::getKmsContextAnchorCall { contextId: nowhere };
    refused::<ProtocolConfig::InvalidKmsContext>(host.protocol(call).await);
}

#[tokio::test]
async fn contexts_of_v0_13_are_valid_at_once_and_move_on_with_the_current_one() {
    let mut net = Net::up(Variant::G13).await.unwrap();
    let host = net.host();
    let call = ProtocolConfig::getVersionCall {};
    assert_eq!(host.protocol(call).await.unwrap(), "ProtocolConfig v0.1.0");
    let first = host.protocol(ProtocolConfig::getCurrentKmsContextIdCall {}).await.unwrap();
    let second = host.define_context(&[some_node()], Thresholds::ONE).await.unwrap();
    for context in [first, second] {
        let call = ProtocolConfig::isValidKmsContextCall { kmsContextId: context };
        assert!(host.protocol(call).await.unwrap());
    }
    assert_absent(host.in_force().await);
    let call = ProtocolConfig::isLiveKmsContextCall { kmsContextId: first };
    assert_absent(host.protocol(call).await);
    let call = ProtocolConfig::getCurrentKmsContextIdCounterCall {};
    assert_absent(host.protocol(call).await);
    let current = host.destroy_context(second).await;
    refused::<ProtocolConfig::CurrentKmsContextCannotBeDestroyed>(current);

    net.chain.host.upgrade_protocol_config(Variant::G14).await.unwrap();
    let host = net.host();
    let (context, epoch) = host.in_force().await.unwrap();
    assert_eq!((context, epoch), (second, (U256::from(8) << 248) + U256::ONE));
    assert_eq!(standing(host, second).await.unwrap(), (true, true));
    // The contract's own upgrade leaves all others behind.
    assert_eq!(standing(host, first).await.unwrap(), (false, true));
    let call = ProtocolConfig::getVersionCall {};
    assert_eq!(host.protocol(call).await.unwrap(), "ProtocolConfig v0.2.0");
}

/// What `eth_call` with a limit of 100,000 gas gets of a wallet.
async fn asked(host: &Host, wallet: Address, hash: B256, signature: &Bytes) -> Result<Bytes> {
    let call = Wallet::isValidSignatureCall { hash, signature: signature.clone() };
    let data = Bytes::from(call.abi_encode());
    let transaction = json!({"to": wallet, "data": data, "gas": "0x186a0"});
    host.chain.rpc("eth_call", json!([transaction, "latest"])).await
}

#[tokio::test]
async fn smart_accounts_have_every_mood() {
    let net = Net::up(Variant::G14).await.unwrap();
    let (host, owner) = (net.host(), random_key());
    let hash = B256::from(random());
    let signed = sign(&owner, hash).unwrap();
    let yes = Bytes::copy_from_slice(
        &b256!("1626ba7e00000000000000000000000000000000000000000000000000000000").0,
    );
    let wallet = host.wallet(Mood::OfOwner, owner.address()).await.unwrap();
    assert_eq!(asked(host, wallet, hash, &signed).await.unwrap(), yes);
    let wrong = sign(&random_key(), hash).unwrap();
    for signature in [wrong, Bytes::new()] {
        assert_ne!(asked(host, wallet, hash, &signature).await.unwrap(), yes);
    }
    host.set_mood(wallet, Mood::Accepts).await.unwrap();
    assert_eq!(asked(host, wallet, hash, &Bytes::new()).await.unwrap(), yes);
    host.set_mood(wallet, Mood::Refuses).await.unwrap();
    assert_ne!(asked(host, wallet, hash, &signed).await.unwrap(), yes);
    for mood in [Mood::Reverts, Mood::BurnsGas] {
        host.set_mood(wallet, mood).await.unwrap();
        asked(host, wallet, hash, &signed).await.unwrap_err();
    }
    host.set_mood(wallet, Mood::AnswersShort).await.unwrap();
    assert_eq!(asked(host, wallet, hash, &signed).await.unwrap(), yes[..4]);
    host.set_mood(wallet, Mood::AnswersDirt).await.unwrap();
    let dirt = asked(host, wallet, hash, &signed).await.unwrap();
    assert_eq!((dirt.len(), &dirt[..4]), (32, &yes[..4]));
    assert_ne!(dirt, yes);
    // The limit of the other nodes: some fit into it and some do not.
    let frugal = host.wallet(Mood::BurnsSome(50_000), owner.address()).await.unwrap();
    assert_eq!(asked(host, frugal, hash, &signed).await.unwrap(), yes);
    let greedy = host.wallet(Mood::BurnsSome(150_000), owner.address()).await.unwrap();
    asked(host, greedy, hash, &signed).await.unwrap_err();
}

#[tokio::test]
async fn two_host_chains_stand_side_by_side() {
    let (one, other) = tokio::join!(Net::up(Variant::G14), async {
        let dir = tempfile::tempdir().unwrap();
        let options = HostOptions::of(Variant::G13).chain_id(77).block_time(None);
        let chain = HostChain::start(dir.path(), options, &[], Thresholds::ONE).await.unwrap();
        (dir, chain)
    });
    let (one, (_dir, other)) = (one.unwrap(), other);
    let here = Ask::user(&[fhe::UINT8]);
    let there = Ask::user(&[fhe::UINT8]).on_chain(77);
    assert_eq!((here.chain_id(), there.chain_id()), (one.host().chain_id, other.host.chain_id));
    let asks = [here.clone(), there.clone()];
    for host in [one.host(), &other.host] {
        host.grant(&asks).await.unwrap();
    }
    assert!(one.host().grants_all(&here).await.unwrap());
    assert!(!one.host().grants_all(&there).await.unwrap());
    assert!(other.host.grants_all(&there).await.unwrap());
    // A block is final once two stand on it.
    let head = one.host().chain.block_number().await.unwrap();
    assert_eq!(field(one.host(), "finalized", "number").await.unwrap() + 2, head);
}

#[tokio::test]
async fn a_scene_has_host_chains_of_its_own() {
    let hosts = vec![HostOptions::of(Variant::G14), HostOptions::of(Variant::G14).chain_id(77)];
    let options = SceneOptions { hosts, ..SceneOptions::of(Variant::G14) };
    let scene = Scene::new(options).await.unwrap();
    let config: toml::Table = scene.config("").parse().unwrap();
    let chains = config["host_chains"].as_array().unwrap();
    assert_eq!(chains.len(), 2);
    for (said, HostChain { anvil, host }) in chains.iter().zip(&scene.hosts) {
        assert_eq!(said["chain_id"].as_integer(), Some(host.chain_id.try_into().unwrap()));
        assert_eq!(said["url"].as_str(), Some(anvil.http_url().as_str()));
        assert_eq!(said["acl_address"].as_str(), Some(host.acl.to_string().as_str()));
    }
    // The node is in the contexts of both chains, gateway and host.
    let wallet = scene.wallet.address();
    let (context, _epoch) = scene.hosts[0].host.in_force().await.unwrap();
    assert_eq!(context, scene.deployment.context().await.unwrap());
    let call =
        ProtocolConfig::isKmsTxSenderForContextCall { kmsContextId: context, txSender: wallet };
    assert!(scene.hosts[0].host.protocol(call).await.unwrap());
}
