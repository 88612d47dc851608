//! Nothing reaches the Core that a host chain does not grant, and what is granted later is asked without a
//! restart. Real walks with a Core, a bucket, a gateway node and host nodes in memory, in virtual time.

mod contexts;
mod events;
mod known_grants;
mod large_requests;

use alloy::sol_types::SolValue as _;

use self::events::{Ask, CHAIN, HANDLES, OTHER_CONTRACT, handle, wallet_address};
use super::scene::{CIPHERTEXT, FakeCore, Scene};
use super::*;
use crate::{
    chain::{
        fake_chain::{ADDRESSES, CONTRACT, FakeChain, NodeFaults, host::Told},
        reader::{NodeId, Transaction},
    },
    contracts::{
        abi::{self, Deployment, Generation, acl},
        acl::{AclQuestion, HostChain, HostChains},
        decryption::{DeploymentSupport, RequestContract},
        gateway_config::GatewayConfigAdapter,
        pinned_reads::{ChainEndpoint, PinnedOptions, PinnedReader},
    },
    domain::{Address, B256, Bytes, Event, Refusal, SigningDomain, U256},
    flow::access::{Access, AccessOptions},
    time::clock::Clock,
};

/// Brings trouble upon a host chain, or ends it.
type Trouble = fn(&FakeChain, bool);

const ACL: Address = Address::repeat_byte(0xac);

/// A gateway with one request, and the host chain of its handles.
struct World {
    scene: Scene,
    host: FakeChain,
}

impl World {
    /// `agreement`: of the two nodes of the host chain.
    async fn new(ask: &Ask, generation: Generation, agreement: usize) -> Self {
        Self::after(ask, generation, agreement, |_| {}).await
    }

    /// The gateway was prepared before the request was made.
    async fn after(
        ask: &Ask,
        generation: Generation,
        agreement: usize,
        prepare: impl FnOnce(&FakeChain),
    ) -> Self {
        let mut scene = Scene::new(FakeCore::pending(), Stage::Arrived).await;
        scene.chain.state().answer_history.version = Some(match generation {
            Generation::UpToG10 => "Decryption v0.3.0",
            Generation::G12 => "Decryption v0.4.0",
            Generation::G13 => "Decryption v0.5.0",
            Generation::G14 => "Decryption v0.6.0",
            Generation::Head => "Decryption v0.7.0",
        });
        prepare(&scene.chain);
        let event = ask.event();
        scene.chain.mine(vec![event.clone()]);
        let block = scene.chain.block(scene.chain.height());
        scene.chain.mine_empty(1);
        scene.request = abi::decode(SOURCE, &Event { block, ..event }).unwrap();
        let transaction = Transaction {
            hash: scene.request.transaction,
            to: Some(ask.calls.unwrap_or(CONTRACT)),
            input: ask.calldata(),
            block: Some(block),
        };
        scene.chain.state().host.transactions.insert(transaction.hash, transaction);
        let deployment =
            Deployment { generation, version: "of a test".to_owned().into(), hybrid: false };
        scene.support.send_replace(DeploymentSupport::Served(deployment));
        let host = FakeChain::host(9, ACL, "ACL v0.5.0");
        host.state().faults = vec![NodeFaults::default(); 2];
        host.state().host.code.insert(wallet_address(), Bytes::from_static(&[1]));
        let mut world = Self { scene, host };
        world.connect(Some(agreement)).await;
        world
    }

    /// `None`: the configuration lacks the host chain.
    async fn connect(&mut self, agreement: Option<usize>) {
        let options = |agreement| PinnedOptions {
            chain_id: CHAIN,
            agreement,
            max_age: Duration::from_mins(2),
            deadline: Duration::from_secs(10),
            calls: 8,
            clock: Clock::Wall,
        };
        let endpoints = (0..2).map(|node| ChainEndpoint::of(&self.host, NodeId(node))).collect();
        let chain = agreement.map(|agreement| {
            let reads = PinnedReader::new(options(agreement), endpoints);
            (CHAIN, HostChain::new(reads, ACL, 100_000))
        });
        let hosts: HostChains<FakeChain> = chain.into_iter().collect();
        let gateway = self.scene.chain.clone();
        let (registry, at) = (ADDRESSES.gateway_config, tokio::time::Instant::now());
        self.scene.decryptions().access = Access::new(AccessOptions {
            hosts,
            protocol_config: None,
            gateway: RequestContract::new(gateway.clone(), ADDRESSES),
            registry: GatewayConfigAdapter::connect(gateway, registry, Address::ZERO)
                .await
                .unwrap(),
            domain: events::domain(),
            clock: Clock::Runtime { at, unix_ms: 0 },
            metrics: self.scene.flow.metrics.clone(),
        });
    }

    fn grant(&self, question: &AclQuestion) {
        match question {
            AclQuestion::ValidSignature { account, digest, signature } => {
                let call = acl::is_valid_signature(*digest, signature.clone()).calldata();
                let mut magic = [0; 32];
                magic[..4].copy_from_slice(&[0x16, 0x26, 0xba, 0x7e]);
                self.host.tell(*account, call, Told::Returns(magic.into()));
            }
            AclQuestion::CodeSize { account } => {
                self.host.state().host.code.insert(*account, Bytes::from_static(&[1]));
            }
            AclQuestion::AllowedForDecryption { handle } => {
                self.host.answer(acl::is_allowed_for_decryption(*handle).calldata(), true);
            }
            AclQuestion::Allowed { handle, account } => {
                self.host.answer(acl::is_allowed(*handle, *account).calldata(), true);
            }
            AclQuestion::Delegated { delegator, delegate, contract, handle } => {
                let view = acl::is_delegated(*delegator, *delegate, *contract, *handle);
                self.host.answer(view.calldata(), true);
            }
            AclQuestion::InvalidatedBefore { account } => {
                let call = acl::signature_invalidated_before(*account).calldata();
                self.host.answer(call, U256::MAX);
            }
        }
    }

    fn grant_all(&self, ask: &Ask) {
        ask.needs().iter().for_each(|question| self.grant(question));
    }

    /// One walk, as at the retry of held requests. Returns the number of asks so far.
    async fn walk(&self) -> usize {
        self.scene.walk(&Capacity::new(1)).await;
        self.scene.core.counts().asks
    }

    fn held(&self) -> Option<&'static str> {
        self.scene.held().map(HoldReason::as_str)
    }

    /// Why it was refused.
    fn refused(&self) -> Option<&'static str> {
        if let Outcome::Refused(Refusal::AccessRefused(why)) = self.scene.now().outcome? {
            return Some(why.reason.as_str());
        }
        None
    }
}

/// Every kind of request, each with a grant less than it needs.
#[tokio::test(start_paused = true)]
async fn what_lacks_one_grant_is_not_asked_and_once_it_has_it_is() {
    for ask in Ask::each() {
        let needs = ask.needs();
        for missing in 0..needs.len() {
            let world = World::new(&ask, Generation::G14, 1).await;
            for (index, question) in needs.iter().enumerate() {
                if index != missing {
                    world.grant(question);
                }
            }
            let shown = format!("{ask:?} without {:?}", needs[missing]);
            assert_eq!(world.walk().await, 0, "{shown}");
            assert_eq!(world.held(), Some("access_denied_on_chain"), "{shown}");
            assert_eq!(world.walk().await, 0, "again: {shown}");
            world.grant(&needs[missing]);
            assert_eq!(world.walk().await, 1, "{shown}: {:?}", world.scene.now());
            assert!(world.scene.now().access.contains("granted"), "{:?}", world.scene.now());
        }
    }
}

/// What nothing can mend ends, but not by one look.
#[tokio::test(start_paused = true)]
async fn what_ends_a_request_never_asks_the_core() {
    for (expected, ask, prepare) in events::refusals() {
        let world = World::new(&ask, Generation::G14, 1).await;
        world.grant_all(&ask);
        prepare(&world.host);
        assert_eq!(world.walk().await, 0, "{expected}");
        assert_eq!(world.held(), Some("unconfirmed"), "{expected}: {:?}", world.scene.now());
        assert_eq!(world.walk().await, 0, "{expected}");
        assert_eq!(world.refused(), Some(expected), "{:?}", world.scene.now());
    }
}

/// Nor by one of two nodes, where one is enough to grant: it tells a time after the signature's validity.
#[tokio::test(start_paused = true)]
async fn one_of_two_host_nodes_ends_no_request() {
    let far = Some(crate::time::clock::unix_millis() / 1_000 + 1_000_000_000);
    let ask = Ask::unified();
    for is_alone in [false, true] {
        let world = World::new(&ask, Generation::G14, 1).await;
        world.grant_all(&ask);
        let liar = NodeFaults { shows_time: far, ..NodeFaults::default() };
        let other = NodeFaults { is_silent: is_alone, ..NodeFaults::default() };
        world.host.state().faults = vec![liar.clone(), other];
        for _ in 0..4 {
            assert_eq!(world.walk().await, 0);
            assert_eq!(world.held(), Some("unconfirmed"), "{:?}", world.scene.now());
            assert_eq!(world.refused(), None, "{:?}", world.scene.now());
            // By then it is asked first again.
            tokio::time::advance(Duration::from_mins(1)).await;
        }
        // The second one tells the same; or none does.
        world.host.state().faults = vec![if is_alone { liar } else { NodeFaults::default() }; 2];
        if is_alone {
            assert_eq!(world.walk().await, 0);
            assert_eq!(world.refused(), Some("validity_expired"), "{:?}", world.scene.now());
        } else {
            assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn before_a_signature_is_valid_it_is_waited_for() {
    let now = crate::time::clock::unix_millis() / 1_000;
    let soon = Ask::unified().starting(now + 1_000);
    let world = World::new(&soon, Generation::G14, 1).await;
    world.grant_all(&soon);
    assert_eq!(world.walk().await, 0);
    assert_eq!(world.held(), Some("not_yet_valid"));
    world.host.state().timestamp = Some(now + 1_000);
    world.host.mine_empty(1);
    assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());
}

/// When it becomes valid it is looked at again, though nobody looks for held requests here; and once more a
/// moment later, if the chain's last block was before that.
#[tokio::test(start_paused = true)]
async fn once_a_signature_is_valid_its_request_is_looked_at_again() {
    let now = crate::time::clock::unix_millis() / 1_000;
    let ask = Ask::unified().starting(now + 1_000);
    let world = World::new(&ask, Generation::G14, 1).await;
    world.grant_all(&ask);
    let World { scene, host } = world;
    let begun = tokio::time::Instant::now();
    let (ledger, core) = (scene.flow.ledger.clone(), scene.core.clone());
    let (receivers, walk, _walk_again) = walk_channels(1, 1);
    let mut running = JoinSet::new();
    let flow = Arc::new(scene.flow).run(receivers, Heartbeat::default(), CancellationToken::new());
    running.spawn(flow);
    walk.send(walk.attend(scene.request.clone(), false)).await.unwrap();
    let mut looks = 0;
    for (until, asks) in [(990, 0), (1_010, 0), (1_040, 1)] {
        tokio::time::sleep(Duration::from_secs(until).saturating_sub(begun.elapsed())).await;
        let held = ledger.now().standing.held.map(HoldReason::as_str);
        assert_eq!((core.counts().asks, held), (asks, (asks == 0).then_some("not_yet_valid")));
        let looked = host.call_count("read_state");
        assert!(looked > looks, "at {until} s");
        looks = looked;
        // The chain is this late, and goes on.
        host.state().timestamp = Some(now + until);
        host.mine_empty(1);
    }
}

/// A node that lies, nodes that stand still or are silent, and no node at all.
#[tokio::test(start_paused = true)]
async fn trouble_with_a_host_chain_holds_by_name_and_lets_nothing_through() {
    let ask = Ask::public();
    let disagrees: Trouble = |host, is_bad| {
        let lie = (acl::is_allowed_for_decryption(handle(1)).calldata(), true.abi_encode().into());
        host.state().faults[1].views = if is_bad { vec![lie] } else { Vec::new() };
    };
    let is_silent: Trouble = |host, is_bad| {
        host.state().faults.iter_mut().for_each(|node| node.is_silent = is_bad);
    };
    let stands_still: Trouble = |host, is_bad| {
        if is_bad {
            host.age_blocks_below(100, 1_000);
        } else {
            host.mine_empty(1);
        }
    };
    let rows = [
        ("host_nodes_disagree", 2, disagrees),
        ("host_chain_unreachable", 1, is_silent),
        ("host_chain_stale", 1, stands_still),
    ];
    for (expected, agreement, trouble) in rows {
        let world = World::new(&ask, Generation::G13, agreement).await;
        if expected != "host_nodes_disagree" {
            world.grant_all(&ask);
        }
        trouble(&world.host, true);
        assert_eq!(world.walk().await, 0, "{expected}");
        assert_eq!(world.held(), Some(expected), "{:?}", world.scene.now());
        trouble(&world.host, false);
        world.grant_all(&ask);
        assert_eq!(world.walk().await, 1, "{expected}: {:?}", world.scene.now());
    }
    let mut world = World::new(&ask, Generation::G12, 1).await;
    world.connect(None).await;
    assert_eq!(world.walk().await, 0);
    assert_eq!(world.held(), Some("host_chain_not_configured"));
}

/// The grant leaves the chain while the ciphertexts are fetched.
#[tokio::test(start_paused = true)]
async fn a_pass_that_has_become_old_is_made_again() {
    let ask = Ask::public();
    let world = World::new(&ask, Generation::G13, 1).await;
    world.host.mine_empty(1);
    world.grant_all(&ask);
    // Together longer than a pass is good for.
    *world.scene.lookup_delay.lock().unwrap() = Duration::from_secs(9);
    *world.scene.bucket_delay.lock().unwrap() = Duration::from_secs(4);
    let reorganising = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.host.reorganise(1, vec![vec![]]);
        for number in HANDLES {
            let call = acl::is_allowed_for_decryption(handle(number)).calldata();
            world.host.answer(call, false);
        }
    };
    let (asks, ()) = tokio::join!(world.walk(), reorganising);
    assert_eq!((asks, world.held()), (0, Some("access_denied_on_chain")));
    // The same delay without a reorganisation: it is checked again, and asked.
    world.grant_all(&ask);
    let checks = world.host.call_count("read_state");
    assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());
    assert!(world.host.call_count("read_state") - checks >= 2);
}

/// Up to G10 the gateway checks access: no host chain is needed.
#[tokio::test(start_paused = true)]
async fn up_to_g10_no_host_chain_is_asked() {
    let ask = Ask::public();
    let mut world = World::new(&ask, Generation::UpToG10, 1).await;
    world.connect(None).await;
    assert_eq!(world.walk().await, 1);
    assert_eq!(world.host.call_count("read_state"), 0);
}

/// More events than are compared may hide the one that contradicts the request.
#[tokio::test(start_paused = true)]
async fn g9_a_flood_of_invented_events_of_one_transaction_holds_the_request() {
    let ask = Ask::public();
    let world = World::new(&ask, Generation::Head, 1).await;
    world.grant_all(&ask);
    let flood = |events| world.scene.flow.ledger.set_beside(vec![ask.event(); events]);
    flood(33);
    assert_eq!((world.walk().await, world.held()), (0, Some("events_disagree")));
    assert!(world.scene.now().detail.contains("too many"), "{:?}", world.scene.now());
    flood(32);
    world.walk().await;
    assert_ne!(world.held(), Some("events_disagree"), "none contradicts it");
}

/// The contract was upgraded, and the log of that is late or the node that told of the contract was behind.
#[tokio::test(start_paused = true)]
async fn an_upgrade_that_nobody_told_of_lets_nothing_through() {
    let ask = Ask::public();
    let world = World::new(&ask, Generation::UpToG10, 1).await;
    world.scene.chain.state().answer_history.version = Some("Decryption v0.5.0");
    let hearing = async {
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(world.scene.core.counts().asks, 0);
        world.grant_all(&ask);
        let (generation, version) = (Generation::G13, "Decryption v0.5.0".into());
        let deployment = Deployment { generation, version, hybrid: false };
        world.scene.support.send_replace(DeploymentSupport::Served(deployment));
    };
    let (asks, ()) = tokio::join!(world.walk(), hearing);
    assert_eq!(asks, 1);
    assert!(world.host.call_count("read_state") > 0);
}

/// While its ciphertexts are fetched the contract becomes one that leaves access to the connectors.
#[tokio::test(start_paused = true)]
async fn a_deployment_that_changes_before_the_ask_is_judged_anew() {
    let ask = Ask::public();
    let world = World::new(&ask, Generation::UpToG10, 1).await;
    *world.scene.bucket_delay.lock().unwrap() = Duration::from_secs(4);
    let upgrading = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (generation, version) = (Generation::G13, "Decryption v0.5.0".into());
        let deployment = Deployment { generation, version, hybrid: false };
        world.scene.support.send_replace(DeploymentSupport::Served(deployment));
    };
    let (asks, ()) = tokio::join!(world.walk(), upgrading);
    assert_eq!((asks, world.held()), (0, Some("access_denied_on_chain")));
    world.grant_all(&ask);
    assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());
}

/// The rules by which a request is refused may not be those of the contract: one of two nodes tells of an
/// older one.
#[tokio::test(start_paused = true)]
async fn nothing_is_refused_by_the_rules_of_a_deployment_that_one_node_alone_tells_of() {
    let long = vec![9; 40];
    let unknown_extra_data = Ask::public().with_extra_data(long);
    for (ask, why) in [
        (Ask::direct().through(OTHER_CONTRACT), "foreign_call"),
        (unknown_extra_data, "extra_data_invalid"),
    ] {
        let world = World::new(&ask, Generation::G13, 1).await;
        world.grant_all(&ask);
        let version = |text: &str| Bytes::from(text.to_owned().abi_encode());
        let older = (abi::contract_version().calldata(), version("Decryption v0.3.0"));
        let older = NodeFaults { views: vec![older], ..NodeFaults::default() };
        world.scene.chain.state().faults = vec![NodeFaults::default(), older];
        for _ in 0..3 {
            assert_eq!((world.walk().await, world.refused()), (0, None), "{why}");
            assert_eq!(world.held(), Some("unconfirmed"), "{:?}", world.scene.now());
        }
        world.scene.chain.state().faults = vec![NodeFaults::default(); 2];
        assert_eq!((world.walk().await, world.refused()), (0, Some(why)));
    }
}

/// Two nodes show the calldata: one look is enough. One of two shows another one: that is not enough, and
/// the other one's is gone on with.
#[tokio::test(start_paused = true)]
async fn one_gateway_node_neither_ends_a_request_nor_gets_it_asked() {
    let foreign = Ask::direct().through(OTHER_CONTRACT);
    let world = World::new(&foreign, Generation::G13, 1).await;
    world.grant_all(&foreign);
    world.scene.chain.state().faults = vec![NodeFaults::default(); 2];
    assert_eq!((world.walk().await, world.refused()), (0, Some("foreign_call")));

    let ask = Ask::direct();
    let world = World::new(&ask, Generation::G13, 1).await;
    world.grant_all(&ask);
    let shown = Transaction {
        to: Some(OTHER_CONTRACT),
        ..world.scene.chain.state().host.transactions[&world.scene.request.transaction].clone()
    };
    let lies = NodeFaults { shows_transaction: Some(shown), ..NodeFaults::default() };
    world.scene.chain.state().faults = vec![lies.clone(), NodeFaults::default()];
    assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());

    // The other one is silent: it may know better.
    let world = World::new(&ask, Generation::G13, 1).await;
    world.grant_all(&ask);
    let silent = NodeFaults { is_silent: true, ..NodeFaults::default() };
    world.scene.chain.state().faults = vec![lies, silent];
    for _ in 0..3 {
        assert_eq!((world.walk().await, world.held()), (0, Some("unconfirmed")));
        assert_eq!(world.refused(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn without_its_transaction_a_legacy_request_waits() {
    let ask = Ask::delegated();
    let world = World::new(&ask, Generation::G13, 1).await;
    world.grant_all(&ask);
    let hidden = std::mem::take(&mut world.scene.chain.state().host.transactions);
    assert_eq!((world.walk().await, world.held()), (0, Some("no_transaction")));
    // In another block than the event it is another one's, however it fits.
    let elsewhere = world.scene.chain.block(1);
    world.scene.chain.state().host.transactions = hidden
        .iter()
        .map(|(hash, one)| (*hash, Transaction { block: Some(elsewhere), ..one.clone() }))
        .collect();
    assert_eq!((world.walk().await, world.held()), (0, Some("no_transaction")));
    world.scene.chain.state().host.transactions = hidden;
    assert_eq!(world.walk().await, 1);
}

/// A node that lies told of another event under the same id, in the same transaction or one that does not exist.
#[tokio::test(start_paused = true)]
async fn an_event_that_a_node_invented_ends_as_orphaned_once_all_say_so() {
    let (real, variant) = (Ask::direct(), Ask::direct().with_extra_data(vec![0]));
    for transaction in [None, Some(B256::repeat_byte(9))] {
        for nodes in [1, 3] {
            let mut world = World::new(&real, Generation::G13, 1).await;
            world.grant_all(&variant);
            let block = world.scene.request.block;
            let mut event = Event { block, ..variant.event() };
            event.transaction = transaction.unwrap_or(event.transaction);
            world.scene.request = abi::decode(SOURCE, &event).unwrap();
            let lies = NodeFaults { forges: vec![event], ..NodeFaults::default() };
            world.scene.chain.state().faults = vec![NodeFaults::default(); nodes];
            if nodes > 1 {
                world.scene.chain.state().faults[0] = lies;
                for _ in 0..3 {
                    assert_eq!(world.walk().await, 0);
                    assert_eq!(world.scene.now().outcome, None, "as long as one shows it");
                    assert!(world.held().is_some());
                }
                world.scene.chain.state().faults[0] = NodeFaults::default();
            } else {
                assert_eq!((world.walk().await, world.held()), (0, Some("no_transaction")));
                assert_eq!(world.scene.now().outcome, None, "one node alone is asked twice");
            }
            tokio::time::sleep(Duration::from_mins(1)).await;
            assert_eq!(world.walk().await, 0);
            assert_eq!(
                world.scene.now().outcome,
                Some(Outcome::Orphaned),
                "{nodes} {transaction:?}"
            );
        }
    }
}
