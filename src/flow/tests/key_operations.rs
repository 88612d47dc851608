//! Key operations: what is asked of the Core, when, and what is sent.

use std::{sync::Arc, time::Duration};

use alloy::{sol, sol_types::SolEvent};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::scene::{self, EXPIRY, Scene};
use crate::{
    chain::fake_chain::SOURCE,
    contracts::abi,
    domain::{
        Address, Answer, B256, BlockRef, Bytes, Event, HoldReason, Outcome, PerKind, SignedResult,
        U256, stage::Stage,
    },
    flow::{
        KeyPolicy, Mode, capacity::Capacity, finality::rule::FinalHeight,
        kms_core::fake_core::FakeCore, walk_channels,
    },
    telemetry::heartbeat::Heartbeat,
};

sol! {
    event PrepKeygenRequest(uint256 prepKeygenId, uint256 epochId, uint8 paramsType);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId);
    struct KeyDigest { uint8 keyType; bytes digest; }
    event KeygenResponse(
        uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender
    );
}

pub(super) fn tagged(tag: u8) -> U256 {
    (U256::from(tag) << 248_usize) | U256::ONE
}

pub(super) fn log(topic0: B256, data: Vec<u8>) -> Event {
    Event {
        block: BlockRef { number: 0, hash: B256::ZERO },
        transaction: B256::with_last_byte(9),
        log_index: 0,
        topics: vec![topic0],
        data: data.into(),
    }
}

fn preparation() -> Event {
    let of = PrepKeygenRequest { prepKeygenId: tagged(3), epochId: U256::ZERO, paramsType: 0 };
    log(PrepKeygenRequest::SIGNATURE_HASH, of.encode_data())
}

fn keygen() -> Event {
    let of = KeygenRequest { prepKeygenId: tagged(3), keyId: tagged(4) };
    log(KeygenRequest::SIGNATURE_HASH, of.encode_data())
}

fn asks(scene: &Scene) -> usize {
    scene.core.counts().asks
}

/// It takes hours: it is asked once, polled for as long as it takes, and neither held nor expired.
#[tokio::test(start_paused = true)]
async fn a_preparation_is_polled_for_as_long_as_it_takes() {
    let scene =
        Scene::with_key_operation(FakeCore::pending(), preparation(), KeyPolicy::Answer).await;
    let places = Capacity::new(1);
    let walking = timeout(EXPIRY * 20, scene.walk(&places)).await;
    assert!(walking.is_err(), "{walking:?}");
    let now = scene.now();
    assert_eq!((asks(&scene), now.standing.held, now.outcome), (1, None, None), "{}", now.detail);
    assert!(scene.core.counts().polls > 100);
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_must_approve_waits_for_that() {
    let scene =
        Scene::with_key_operation(FakeCore::pending(), preparation(), KeyPolicy::Hold).await;
    let places = Capacity::new(1);
    scene.walk(&places).await;
    assert_eq!((scene.held(), asks(&scene)), (Some(HoldReason::OperatorApproval), 0));
    scene.flow.ledger.change(|stored| stored.standing.is_approved = true);
    let walking = timeout(Duration::from_mins(1), scene.walk(&places)).await;
    assert!(walking.is_err() && asks(&scene) == 1, "{walking:?}");
    assert_eq!(scene.held(), None);
}

/// The test's ledger says that the preparation is not answered.
#[tokio::test(start_paused = true)]
async fn a_key_waits_for_this_nodes_own_preparation() {
    let scene = Scene::with_key_operation(FakeCore::pending(), keygen(), KeyPolicy::Answer).await;
    scene.walk(&Capacity::new(1)).await;
    assert_eq!((scene.held(), asks(&scene)), (Some(HoldReason::WaitsForPreparation), 0));
}

#[tokio::test(start_paused = true)]
async fn a_core_of_another_age_is_not_asked() {
    let core = FakeCore::pending().of_age(true);
    let scene = Scene::with_key_operation(core, preparation(), KeyPolicy::Answer).await;
    scene.walk(&Capacity::new(1)).await;
    assert_eq!((scene.held(), asks(&scene)), (Some(HoldReason::CoreVersion), 0));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_knows_is_held_by_its_topic() {
    let topic = B256::repeat_byte(0xaa);
    let core = FakeCore::pending();
    let scene = Scene::with_key_operation(core, log(topic, vec![1]), KeyPolicy::Answer).await;
    scene.walk(&Capacity::new(1)).await;
    assert_eq!((scene.held(), asks(&scene)), (Some(HoldReason::UnsupportedEvent), 0));
    assert!(scene.now().detail.contains(&topic.to_string()), "{}", scene.now().detail);
}

#[tokio::test(start_paused = true)]
async fn without_the_contract_in_the_configuration_nothing_is_asked() {
    let mut scene =
        Scene::with_key_operation(FakeCore::pending(), preparation(), KeyPolicy::Answer).await;
    if let Mode::Answer(rooms) = &mut scene.flow.mode {
        rooms.keys = None;
    }
    scene.walk(&Capacity::new(1)).await;
    assert_eq!((scene.held(), asks(&scene)), (Some(HoldReason::KeyManagementNotConfigured), 0));
}

/// A chain whose contracts ask for key operations alone.
#[tokio::test(start_paused = true)]
async fn a_flow_without_decryptions_serves_key_operations_and_holds_the_rest() {
    let mut scene =
        Scene::with_key_operation(FakeCore::pending(), preparation(), KeyPolicy::Answer).await;
    scene.flow.decryptions = None;
    if let Mode::Answer(rooms) = &mut scene.flow.mode {
        rooms.submission = None;
    }
    let places = Capacity::new(1);
    let walking = timeout(Duration::from_mins(1), scene.walk(&places)).await;
    assert!(walking.is_err() && asks(&scene) == 1, "{walking:?}");
    let decryption = Event { block: scene.chain.block(50), ..scene::event() };
    scene.request = abi::decode(SOURCE, &decryption).unwrap();
    for stage in [Stage::Arrived, Stage::Asked] {
        scene.flow.ledger.change(|stored| {
            stored.standing.stage = stage;
            stored.standing.held = None;
        });
        scene.walk(&places).await;
        assert_eq!((scene.held(), asks(&scene)), (Some(HoldReason::UnsupportedEvent), 1));
    }
}

/// Decryptions that have all places do not delay it.
#[tokio::test(start_paused = true)]
async fn it_has_a_place_of_its_own() {
    let scene =
        Scene::with_key_operation(FakeCore::pending(), preparation(), KeyPolicy::Answer).await;
    let Scene { flow, core, request, chain, .. } = scene;
    let decryption = Event { block: chain.block(50), ..scene::event() };
    let decryption = abi::decode(SOURCE, &decryption).unwrap();
    let (receivers, walk, _again) = walk_channels(4, 4);
    let stop = CancellationToken::new();
    let running = Arc::new(flow).run(receivers, Heartbeat::default(), stop.clone());
    let asking = async {
        for (queued, asks) in [(decryption, 1), (request, 2)] {
            walk.send(walk.attend(queued, false)).await.unwrap();
            sleep(Duration::from_secs(2)).await;
            assert_eq!(core.counts().asks, asks);
        }
        stop.cancel();
    };
    let (ran, ()) = tokio::join!(running, asking);
    ran.unwrap();
}

/// A vote cannot be taken back.
#[tokio::test(start_paused = true)]
async fn a_result_that_differs_from_another_nodes_is_not_sent() {
    let scene = Scene::with_key_operation(FakeCore::pending(), keygen(), KeyPolicy::Answer).await;
    let vote = |key_id, digest: u8| {
        let digest = Bytes::from(vec![digest; 32]);
        let response = KeygenResponse {
            keyId: key_id,
            keyDigests: vec![KeyDigest { keyType: 1, digest }],
            signature: Bytes::new(),
            kmsTxSender: Address::repeat_byte(5),
        };
        log(KeygenResponse::SIGNATURE_HASH, response.encode_data())
    };
    let payload = abi::key_digests_payload([(1, Bytes::from(vec![7; 32]))]);
    let answer = Answer::Key(SignedResult { payload, ..SignedResult::default() });
    let compare = async || {
        let Mode::Answer(rooms) = &scene.flow.mode else { panic!("it answers") };
        let compared = scene.flow.compare_votes(rooms, &scene.request, &answer).await;
        compared.map_err(|setback| setback.cause.to_string())
    };
    compare().await.unwrap();
    // The same, and one of another key.
    scene.chain.mine(vec![vote(tagged(4), 7)]);
    scene.chain.mine(vec![vote(U256::ONE, 8)]);
    compare().await.unwrap();
    scene.chain.mine(vec![vote(tagged(4), 8)]);
    let told = compare().await.unwrap_err();
    assert!(told.contains("0x0707") && told.contains("0x0808"), "{told}");
    scene.flow.ledger.change(|stored| {
        stored.standing.stage = Stage::Answered(answer.clone());
        stored.standing.held = Some(HoldReason::ResultDiffers);
    });
    let before = scene.chain.call_count("send");
    // The Core is asked once whether it has another result by now.
    let ended = timeout(EXPIRY * 20, scene.walk(&Capacity::new(1))).await;
    assert!(ended.is_err() && scene.core.counts().polls > 0, "{ended:?}");
    assert_eq!(scene.chain.call_count("send"), before, "nothing is sent");
}

/// A key is asked for by the vote that is the last one needed. After a reorganisation that may be another node's:
/// the request goes on where it was read last.
#[tokio::test(start_paused = true)]
async fn a_request_that_another_transaction_makes_after_a_reorganisation_goes_on() {
    for is_read_at_once in [true, false] {
        let scene =
            Scene::with_key_operation(FakeCore::pending(), keygen(), KeyPolicy::Answer).await;
        scene.flow.ledger.change(|stored| stored.others_answered = true);
        let height = scene.chain.height();
        scene.final_height.send_replace(FinalHeight(PerKind::all(Some(height + 100))));
        let again = Event { transaction: B256::with_last_byte(77), ..keygen() };
        scene.chain.reorganise(1, vec![vec![], vec![again.clone()]]);
        scene.chain.mine_empty(if is_read_at_once { 0 } else { 70 });
        let block = scene.chain.block(height + 1);
        let reading = async {
            sleep(Duration::from_secs(if is_read_at_once { 20 } else { 0 })).await;
            let read = Event { block, ..again };
            scene.flow.ledger.change(|stored| stored.read_last = Some(read));
        };
        let places = Capacity::new(1);
        let walking = timeout(Duration::from_mins(2), scene.walk(&places));
        let (walked, ()) = tokio::join!(walking, reading);
        assert!(walked.is_err(), "it is polled: {walked:?}");
        let now = scene.now();
        assert_eq!((asks(&scene), now.outcome), (1, None), "{}", now.last_error);
    }
}

/// Without that it ends as one that the chain does not have any more.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_nowhere_after_a_reorganisation_is_orphaned() {
    let scene = Scene::with_key_operation(FakeCore::pending(), keygen(), KeyPolicy::Answer).await;
    scene.flow.ledger.change(|stored| stored.others_answered = true);
    let height = scene.chain.height();
    scene.final_height.send_replace(FinalHeight(PerKind::all(Some(height + 100))));
    scene.chain.reorganise(1, vec![vec![]]);
    scene.chain.mine_empty(70);
    timeout(Duration::from_mins(2), scene.walk(&Capacity::new(1))).await.unwrap();
    let now = scene.now();
    assert_eq!((asks(&scene), now.outcome), (0, Some(Outcome::Orphaned)), "{}", now.last_error);
}
