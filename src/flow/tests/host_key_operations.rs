//! Key operations of the contract on Ethereum (G13 and later): their context, the Core's age, and the kind of key.

use std::time::Duration;

use alloy::{sol, sol_types::SolEvent};
use tokio::time::timeout;

use super::{
    key_operations::{log, tagged},
    scene::Scene,
};
use crate::{
    chain::{
        fake_chain::{FakeChain, host::Told},
        reader::NodeId,
    },
    contracts::{
        abi::{self, Deployment, Generation, protocol_config},
        decryption::DeploymentSupport,
        pinned_reads::{ChainEndpoint, PinnedOptions, PinnedReader},
        protocol_config::ProtocolConfig,
    },
    domain::{
        Address, Answer, Bytes, COMPRESSED_KEY_SET, Event, HoldReason, KeyRepresentation,
        SignedResult, U256, stage::Stage,
    },
    flow::{
        KeyManagement, KeyPolicy, Mode, RepresentationChoice,
        capacity::Capacity,
        kms_core::{fake_core::FakeCore, proto::kms::v1},
    },
    time::clock::Clock,
};

sol! {
    event PrepKeygenRequest(uint256 prepKeygenId, uint8 paramsType, bytes extraData);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId, bytes extraData);
}

const CONTEXTS: Address = Address::repeat_byte(0x9c);
const FINAL: u64 = 9;

fn context() -> U256 {
    U256::from(7) << 248 | U256::from(3)
}

fn extra_data() -> Bytes {
    std::iter::once(1).chain(context().to_be_bytes::<32>()).collect()
}

pub(super) fn preparation() -> Event {
    let (id, bytes) = (tagged(3), extra_data());
    let of = PrepKeygenRequest { prepKeygenId: id, paramsType: 0, extraData: bytes };
    log(PrepKeygenRequest::SIGNATURE_HASH, of.encode_data())
}

pub(super) fn keygen() -> Event {
    let (preparation, id, bytes) = (tagged(3), tagged(4), extra_data());
    let of = KeygenRequest { prepKeygenId: preparation, keyId: id, extraData: bytes };
    log(KeygenRequest::SIGNATURE_HASH, of.encode_data())
}

/// A Core from v0.13.20 on that works for ever.
pub(super) fn core() -> FakeCore {
    FakeCore::pending().of_age(true)
}

/// A chain with `ProtocolConfig`, in which the context is known and not in force yet.
fn ethereum() -> FakeChain {
    let chain = FakeChain::host(FINAL, CONTEXTS, "ProtocolConfig v0.2.0");
    chain.state().tagged = Some(FINAL);
    chain.answer(protocol_config::context_id_counter().calldata(), context());
    chain.answer(protocol_config::is_live_context(context()).calldata(), true);
    chain
}

fn is_valid(ethereum: &FakeChain, valid: bool) {
    ethereum.answer(protocol_config::is_valid_context(context()).calldata(), valid);
}

pub(super) fn keys(scene: &mut Scene) -> &mut KeyManagement<FakeChain> {
    let Mode::Answer(rooms) = &mut scene.flow.mode else { panic!("it answers") };
    rooms.keys.as_mut().expect("it serves key operations")
}

pub(super) fn connect(scene: &mut Scene, chain: &FakeChain) {
    let options = PinnedOptions {
        chain_id: 1,
        agreement: 1,
        max_age: Duration::from_mins(2),
        deadline: Duration::from_secs(10),
        calls: 8,
        clock: Clock::Wall,
    };
    let reads = PinnedReader::new(options, vec![ChainEndpoint::of(chain, NodeId(0))]);
    // It does not speak of this node: any signer will do.
    let wallet = keys(scene).generation.submission.wallet();
    let of_node = abi::kms_node_for_context(context(), wallet).calldata();
    chain.tell(CONTEXTS, of_node, Told::Reverts(Bytes::new()));
    let at = chain.state().host.contract.expect("the contract's address");
    keys(scene).contexts = Some(ProtocolConfig::new(reads, at));
}

/// A scene whose context is in force.
pub(super) async fn scene(core: FakeCore, event: Event) -> Scene {
    let mut scene = Scene::with_key_operation(core, event, KeyPolicy::Answer).await;
    let chain = ethereum();
    is_valid(&chain, true);
    connect(&mut scene, &chain);
    scene
}

fn deployed(scene: &Scene, generation: Generation) {
    let deployment = Deployment { generation, version: "x".into(), hybrid: false };
    scene.support.send_replace(DeploymentSupport::Served(deployment));
}

/// Its hold once it has walked for a while, and how often the Core was asked.
pub(super) async fn walked(scene: &Scene) -> (Option<HoldReason>, usize) {
    let _ = timeout(Duration::from_mins(2), scene.walk(&Capacity::new(1))).await;
    (scene.held(), scene.core.counts().asks)
}

#[tokio::test(start_paused = true)]
async fn an_older_core_is_not_asked() {
    let scene = scene(FakeCore::pending(), preparation()).await;
    assert_eq!(walked(&scene).await, (Some(HoldReason::CoreVersion), 0));
    assert_eq!(scene.now().representation, None, "nothing is settled before the Core is asked");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_in_a_context_that_is_not_in_force() {
    let mut scene = Scene::with_key_operation(core(), preparation(), KeyPolicy::Answer).await;
    assert_eq!(walked(&scene).await, (Some(HoldReason::EthereumNotConfigured), 0));
    let chain = ethereum();
    connect(&mut scene, &chain);
    assert_eq!(walked(&scene).await, (Some(HoldReason::ContextUnknown), 0));
    is_valid(&chain, true);
    assert_eq!(walked(&scene).await, (None, 1));
}

#[tokio::test(start_paused = true)]
async fn the_kind_of_key_is_told_and_recorded_with_its_preparation() {
    let mut one = scene(core(), preparation()).await;
    assert_eq!(walked(&one).await, (None, 1));
    assert_eq!(one.now().representation, Some(KeyRepresentation::Uncompressed));
    let asked = one.core.asked_for();
    let [(extra_data_sent, config)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(*extra_data_sent, extra_data().0);
    let kind = |config: Option<&v1::KeySetConfig>| {
        let standard = config.and_then(|config| config.standard_keyset_config.as_ref());
        standard.map(|standard| standard.compressed_key_config)
    };
    assert_eq!(kind(config.as_ref()), Some(1), "uncompressed");
    // A key is of the kind of its preparation, whatever the configuration says by now.
    one = scene(core(), keygen()).await;
    one.flow.ledger.change(|stored| {
        stored.others_answered = true;
        stored.representation = Some(KeyRepresentation::Compressed);
    });
    keys(&mut one).representation = RepresentationChoice::Named(KeyRepresentation::Uncompressed);
    assert_eq!(walked(&one).await, (None, 1));
    assert_eq!(kind(one.core.asked_for()[0].1.as_ref()), Some(0), "compressed");
}

/// With these contracts nobody knows what the other nodes make.
#[tokio::test(start_paused = true)]
async fn under_head_an_operator_names_the_kind_of_key() {
    let mut scene = scene(core(), preparation()).await;
    deployed(&scene, Generation::Head);
    assert_eq!(walked(&scene).await, (Some(HoldReason::KeyRepresentation), 0));
    keys(&mut scene).representation = RepresentationChoice::Named(KeyRepresentation::Compressed);
    assert_eq!(walked(&scene).await, (None, 1));
    assert_eq!(scene.now().representation, Some(KeyRepresentation::Compressed));
}

/// Key type 3, which the contracts up to v0.14 refuse without saying why.
#[tokio::test(start_paused = true)]
async fn a_compressed_key_is_not_sent_to_contracts_that_know_none() {
    let scene = scene(core(), keygen()).await;
    let digest = |kind: u8| (kind, Bytes::from(vec![7; 32]));
    let payload = abi::key_digests_payload([digest(1), digest(COMPRESSED_KEY_SET)]);
    let answer = Answer::Key(SignedResult { payload, ..SignedResult::default() });
    let compare = async || {
        let Mode::Answer(rooms) = &scene.flow.mode else { panic!("it answers") };
        let compared = scene.flow.compare_votes(rooms, &scene.request, &answer).await;
        compared.map_err(|setback| setback.cause.to_string())
    };
    for generation in [Generation::G13, Generation::G14] {
        deployed(&scene, generation);
        let told = compare().await.unwrap_err();
        assert!(told.contains(&generation.to_string()), "{told}");
    }
    deployed(&scene, Generation::Head);
    compare().await.unwrap();
    let record = |kind| scene.flow.ledger.change(|stored| stored.representation = Some(kind));
    record(KeyRepresentation::Uncompressed);
    let told = compare().await.unwrap_err();
    assert!(told.contains("told to make a key of the kind uncompressed"), "{told}");
    // Ethereum's contracts are upgraded later than the gateway's.
    record(KeyRepresentation::Compressed);
    scene.flow.ledger.change(|stored| stored.standing.stage = Stage::Answered(answer.clone()));
    scene.chain.state().verdict = Some(Bytes::new());
    let before = scene.chain.call_count("send");
    assert_eq!(walked(&scene).await.0, Some(HoldReason::KeyRepresentation));
    assert_eq!(scene.chain.call_count("send"), before, "no gas is spent");
}
