//! The KMS context and epoch of a request: nothing is asked in one that is not in force, and nothing for
//! which the contract takes no answer.

use alloy::sol_types::SolError as _;

use super::*;
use crate::{
    contracts::{abi::protocol_config, protocol_config::ProtocolConfig},
    domain::BlockRef,
};

alloy::sol! {
    error DecryptionContextMismatch(
        uint256 decryptionId, uint256 requestContextId, uint256 responseContextId
    );
}

const CONTEXTS: Address = Address::repeat_byte(0x9c);
const FINAL: u64 = 9;

fn id(number: u64) -> U256 {
    U256::from(7) << 248 | U256::from(number)
}

fn epoch() -> U256 {
    U256::from(8) << 248 | U256::ONE
}

/// `extraData` that names these.
fn naming(version: u8, words: &[U256]) -> Ask {
    let words = words.iter().flat_map(U256::to_be_bytes::<32>);
    Ask::public().with_extra_data(std::iter::once(version).chain(words).collect())
}

fn naming_context() -> Ask {
    naming(1, &[id(3)])
}

fn word(value: &impl alloy::sol_types::SolValue) -> Told {
    Told::Returns(value.abi_encode().into())
}

/// From a new block on the registry answers so.
fn registry_tells(gateway: &FakeChain, call: Bytes, told: Told) {
    gateway.mine_empty(1);
    gateway.tell(ADDRESSES.gateway_config, call, told);
}

/// From a new block on this context is the gateway's current one.
fn is_current(gateway: &FakeChain, context: U256) {
    registry_tells(gateway, abi::current_kms_context_id().calldata(), word(&context));
}

/// Whether the gateway takes an answer in the context that is current now.
fn refuses_answers(gateway: &FakeChain, refuses: bool) {
    let mismatch = DecryptionContextMismatch {
        decryptionId: U256::ONE,
        requestContextId: id(3),
        responseContextId: id(4),
    };
    gateway.state().verdict = refuses.then(|| mismatch.abi_encode().into());
}

/// A chain with `ProtocolConfig`, whose last block is final, and the context known and live.
fn ethereum() -> FakeChain {
    let chain = FakeChain::host(FINAL, CONTEXTS, "ProtocolConfig v0.2.0");
    chain.state().tagged = Some(FINAL);
    chain.answer(protocol_config::context_id_counter().calldata(), id(5));
    chain.answer(protocol_config::is_live_context(id(3)).calldata(), true);
    chain
}

fn is_valid(ethereum: &FakeChain, valid: bool) {
    ethereum.answer(protocol_config::is_valid_context(id(3)).calldata(), valid);
}

fn epoch_is_valid(ethereum: &FakeChain, valid: bool) {
    ethereum.answer(protocol_config::is_valid_epoch(id(3), epoch()).calldata(), valid);
}

impl World {
    fn connect_ethereum(&mut self, chain: &FakeChain) {
        let options = PinnedOptions {
            chain_id: 1,
            agreement: 1,
            max_age: Duration::from_mins(2),
            deadline: Duration::from_secs(10),
            calls: 8,
            clock: Clock::Wall,
        };
        let nodes = chain.state().faults.len();
        let endpoints = (0..nodes).map(|node| ChainEndpoint::of(chain, NodeId(node))).collect();
        let reads = PinnedReader::new(options, endpoints);
        self.scene.decryptions().access.options.protocol_config =
            Some(ProtocolConfig::new(reads, CONTEXTS));
    }

    fn bound_context(&self) -> Option<U256> {
        self.scene.now().standing.bound_context
    }

    /// It is not asked, and ends so at the second look.
    async fn ends_refused(&self, expected: &str) {
        assert_eq!(self.walk().await, 0, "{expected}");
        assert_eq!(self.held(), Some("unconfirmed"), "{expected}: {:?}", self.scene.now());
        assert_eq!(self.walk().await, 0, "{expected}");
        assert_eq!(self.refused(), Some(expected), "{:?}", self.scene.now());
    }

    /// It is not asked for this reason.
    async fn stays_held(&self, expected: &str) {
        assert_eq!(self.walk().await, 0, "{expected}");
        assert_eq!(self.held(), Some(expected), "{:?}", self.scene.now());
        assert_eq!(self.scene.now().outcome, None, "{:?}", self.scene.now());
    }
}

/// Up to G13 the gateway tells which contexts are valid, each generation in its way.
#[tokio::test(start_paused = true)]
async fn the_gateway_knows_the_context_that_a_request_names() {
    let ask = naming_context();
    let (signers, valid) = (abi::kms_signers_for_context(id(3)), abi::is_valid_kms_context(id(3)));
    let (someone, nobody) = (vec![Address::ZERO], Vec::<Address>::new());
    let rows = [
        (Generation::G12, signers.calldata(), word(&nobody), word(&someone)),
        (Generation::G13, valid.calldata(), word(&false), word(&true)),
    ];
    for (generation, view, no, yes) in rows {
        let world = World::new(&ask, generation, 1).await;
        world.grant_all(&ask);
        // It speaks of no such context.
        world.stays_held("context_unknown").await;
        registry_tells(&world.scene.chain, view.clone(), no);
        world.stays_held("context_unknown").await;
        registry_tells(&world.scene.chain, view, yes);
        assert_eq!(world.walk().await, 1, "{generation}: {:?}", world.scene.now());
        assert_eq!(world.bound_context(), None, "it names its own");
    }
}

/// From G14 on `ProtocolConfig` does, whatever the gateway says.
#[tokio::test(start_paused = true)]
async fn ethereum_knows_the_context_and_the_epoch_that_a_request_names() {
    let in_epoch = naming(2, &[id(3), epoch()]);
    for ask in [naming_context(), in_epoch.clone()] {
        let mut world = World::new(&ask, Generation::G14, 1).await;
        world.grant_all(&ask);
        let valid = abi::is_valid_kms_context(id(3)).calldata();
        registry_tells(&world.scene.chain, valid, word(&true));
        world.stays_held("ethereum_not_configured").await;
        let ethereum = ethereum();
        world.connect_ethereum(&ethereum);
        world.stays_held("context_unknown").await;
        ethereum.state().faults[0].is_silent = true;
        world.stays_held("host_chain_unreachable").await;
        ethereum.state().faults[0].is_silent = false;
        // In force, and not final yet.
        ethereum.mine_empty(1);
        is_valid(&ethereum, true);
        epoch_is_valid(&ethereum, true);
        world.stays_held("context_unknown").await;
        ethereum.state().tagged = Some(FINAL + 1);
        assert_eq!(world.walk().await, 1, "{ask:?}: {:?}", world.scene.now());
    }
    let mut world = World::new(&in_epoch, Generation::G14, 1).await;
    world.grant_all(&in_epoch);
    let ethereum = ethereum();
    is_valid(&ethereum, true);
    world.connect_ethereum(&ethereum);
    world.stays_held("epoch_unknown").await;
}

/// Destroyed is for ever, and counts at once.
#[tokio::test(start_paused = true)]
async fn in_a_destroyed_context_or_epoch_nothing_is_asked() {
    let in_epoch = || naming(2, &[id(3), epoch()]);
    for (ask, of_epoch) in [(naming_context(), false), (in_epoch(), false), (in_epoch(), true)] {
        let mut world = World::new(&ask, Generation::G14, 1).await;
        world.grant_all(&ask);
        let ethereum = ethereum();
        is_valid(&ethereum, true);
        epoch_is_valid(&ethereum, true);
        ethereum.mine_empty(1);
        epoch_is_valid(&ethereum, false);
        if !of_epoch {
            is_valid(&ethereum, false);
            ethereum.answer(protocol_config::is_live_context(id(3)).calldata(), false);
        }
        world.connect_ethereum(&ethereum);
        world.ends_refused("context_destroyed").await;
    }
}

/// One answer is enough to go on with, and one of two nodes is not enough to end a request.
#[tokio::test(start_paused = true)]
async fn one_of_two_ethereum_nodes_destroys_no_context() {
    let ask = naming_context();
    for is_alone in [false, true] {
        let mut world = World::new(&ask, Generation::G14, 1).await;
        world.grant_all(&ask);
        let ethereum = ethereum();
        is_valid(&ethereum, true);
        let no = || false.abi_encode().into();
        let lies = vec![
            (protocol_config::is_valid_context(id(3)).calldata(), no()),
            (protocol_config::is_live_context(id(3)).calldata(), no()),
        ];
        let liar = NodeFaults { views: lies, ..NodeFaults::default() };
        let other = NodeFaults { is_silent: is_alone, ..NodeFaults::default() };
        ethereum.state().faults = vec![liar, other];
        world.connect_ethereum(&ethereum);
        for _ in 0..4 {
            world.stays_held("unconfirmed").await;
            // By then it is asked first again.
            tokio::time::advance(Duration::from_mins(1)).await;
        }
        ethereum.state().faults = vec![NodeFaults::default(); 2];
        assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());
    }
}

/// Nor does one of two gateway nodes, whichever is asked first.
#[tokio::test(start_paused = true)]
async fn one_of_two_gateway_nodes_changes_no_context() {
    let ask = Ask::public();
    let of_three = |gateway: &FakeChain| is_current(gateway, id(3));
    let mismatch = || {
        let chain = FakeChain::new(1);
        refuses_answers(&chain, true);
        let verdict = chain.state().verdict.clone();
        NodeFaults { verdict, ..NodeFaults::default() }
    };
    let (honest, silent) =
        (NodeFaults::default(), NodeFaults { is_silent: true, ..NodeFaults::default() });
    for nodes in [[mismatch(), honest.clone()], [honest, mismatch()]] {
        let world = World::after(&ask, Generation::G13, 1, of_three).await;
        world.grant_all(&ask);
        is_current(&world.scene.chain, id(4));
        world.scene.chain.state().faults = nodes.to_vec();
        assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());
    }
    // The other one does not answer.
    let world = World::after(&ask, Generation::G13, 1, of_three).await;
    world.grant_all(&ask);
    is_current(&world.scene.chain, id(4));
    world.scene.chain.state().faults = vec![mismatch(), silent];
    for _ in 0..4 {
        world.stays_held("unconfirmed").await;
    }
    // It says the same.
    world.scene.chain.state().faults = vec![mismatch(); 2];
    assert_eq!(world.walk().await, 0);
    assert_eq!(world.refused(), Some("context_changed"), "{:?}", world.scene.now());
}

/// From G13 on: the one that was current in its block.
#[tokio::test(start_paused = true)]
async fn a_request_that_names_no_context_is_bound_to_that_of_its_block() {
    for (generation, extra_data) in [
        (Generation::G13, vec![]),
        (Generation::G13, vec![0]),
        (Generation::G14, vec![]),
        (Generation::G14, vec![0, 7]),
    ] {
        let ask = Ask::public().with_extra_data(extra_data);
        let of_three = |gateway: &FakeChain| is_current(gateway, id(3));
        // The same is current now.
        let world = World::after(&ask, generation, 1, of_three).await;
        world.grant_all(&ask);
        refuses_answers(&world.scene.chain, true);
        assert_eq!(world.walk().await, 1, "{generation}: {:?}", world.scene.now());
        assert_eq!(world.bound_context(), Some(id(3)));
        // Another one, and the contract takes no answer in it.
        let world = World::after(&ask, generation, 1, of_three).await;
        world.grant_all(&ask);
        is_current(&world.scene.chain, id(4));
        refuses_answers(&world.scene.chain, true);
        world.ends_refused("context_changed").await;
        let told = world.scene.now();
        assert!(told.access.contains(&format!("{:#066x}", id(3))), "{told:?}");
        // The contract takes one: it was not bound, because it was made before the contract learnt that.
        let world = World::after(&ask, generation, 1, of_three).await;
        world.grant_all(&ask);
        is_current(&world.scene.chain, id(4));
        assert_eq!(world.walk().await, 1, "{generation}: {:?}", world.scene.now());
        assert_eq!(world.bound_context(), Some(id(4)));
    }
}

/// What was once read of it stays known, whatever nodes have forgotten.
#[tokio::test(start_paused = true)]
async fn the_context_of_its_block_is_read_once() {
    let ask = Ask::public();
    let world = World::after(&ask, Generation::G13, 1, |gateway| is_current(gateway, id(3))).await;
    world.stays_held("access_denied_on_chain").await;
    assert_eq!(world.bound_context(), Some(id(3)), "a check without a pass notes it too");
    let BlockRef { number, .. } = world.scene.request.block;
    is_current(&world.scene.chain, id(4));
    world.scene.chain.state().no_state_below = Some(number + 1);
    refuses_answers(&world.scene.chain, true);
    world.grant_all(&ask);
    world.ends_refused("context_changed").await;
    assert!(world.scene.now().access.contains(&format!("{:#066x}", id(3))));
    // Nobody knows it, so the contract decides.
    for refuses in [true, false] {
        let world = World::new(&ask, Generation::G13, 1).await;
        world.grant_all(&ask);
        is_current(&world.scene.chain, id(4));
        world.scene.chain.state().no_state_below = Some(world.scene.request.block.number + 1);
        refuses_answers(&world.scene.chain, refuses);
        if refuses {
            world.ends_refused("context_changed").await;
        } else {
            assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());
            assert_eq!(world.bound_context(), Some(id(4)));
        }
    }
}

/// G12 takes an answer in whichever context is current when it comes.
#[tokio::test(start_paused = true)]
async fn g12_binds_no_request_to_a_context() {
    let ask = Ask::public();
    let world = World::after(&ask, Generation::G12, 1, |gateway| is_current(gateway, id(3))).await;
    world.grant_all(&ask);
    is_current(&world.scene.chain, id(4));
    refuses_answers(&world.scene.chain, true);
    assert_eq!(world.walk().await, 1, "{:?}", world.scene.now());
    assert_eq!(world.bound_context(), None);
}

/// Two reads, however many ask under one head; and two more under the next.
#[tokio::test(start_paused = true)]
async fn what_is_read_of_contexts_serves_every_request_of_its_head() {
    let ask = Ask::public();
    let world = World::after(&ask, Generation::G13, 1, |gateway| is_current(gateway, id(3))).await;
    world.grant_all(&ask);
    let deployment = world.scene.support.borrow().answered().unwrap().clone();
    let access = &world.scene.flow.decryptions.as_ref().unwrap().access;
    let request = &world.scene.request;
    let check = || access.check(request, request.block, &deployment, None);
    let reads = |before: usize| world.scene.chain.call_count("call") - before;
    for _ in 0..2 {
        let before = world.scene.chain.call_count("call");
        let checks = futures_util::future::join_all((0..50).map(|_| check())).await;
        assert!(checks.iter().all(|check| check.bound_context == Some(id(3))), "{checks:?}");
        assert_eq!((check().await.result.is_ok(), reads(before)), (true, 2));
        world.scene.chain.mine_empty(1);
    }
}
