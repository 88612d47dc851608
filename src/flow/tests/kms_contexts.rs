//! KMS contexts and epochs: whom the Core is told of, who takes part, and what ends without an answer.

use alloy::{
    primitives::keccak256,
    sol,
    sol_types::{SolEvent, SolValue as _},
};
use tonic::Status;

use super::{
    host_key_operations::{connect, core, keys, walked},
    key_operations::log,
    scene::Scene,
};
use crate::{
    chain::fake_chain::{ADDRESSES, FakeChain, host::Told},
    contracts::{
        abi::{key_generation, protocol_config},
        decryption::RequestContract,
        kms_lifecycle::KmsLifecycle,
    },
    domain::{
        Address, Answer, Bytes, Event, HoldReason, Outcome, SignedResult, U256, first_epoch,
        no_context,
    },
    flow::{
        Confirmation, KeyPolicy, KeyRooms, LifecycleRooms, Mode, kms_core::fake_core::FakeCore,
        submission::Submission,
    },
};

sol! {
    struct KmsNodeParams {
        address txSenderAddress; address signerAddress; string ipAddress; string storageUrl;
        int32 partyId; string mpcIdentity; bytes caCert; string storagePrefix;
    }
    struct KmsThresholds {
        uint256 publicDecryption; uint256 userDecryption; uint256 kmsGen; uint256 mpc;
    }
    struct PcrValues { bytes pcr0; bytes pcr1; bytes pcr2; }
    event NewKmsContext(
        uint256 indexed contextId, uint256 indexed previousContextId, KmsNodeParams[] kmsNodeParams,
        KmsThresholds thresholds, string softwareVersion, PcrValues[] pcrValues
    );
    event NewKmsEpoch(
        uint256 indexed kmsContextId, uint256 indexed epochId, uint256 previousContextId,
        uint256 previousEpochId, uint256 materialBlockNumber
    );
    event KmsContextDestroyed(uint256 indexed kmsContextId);
}

const PROTOCOL_CONFIG: Address = Address::repeat_byte(0x9e);
const KEY_GENERATION: Address = Address::repeat_byte(0x9d);
const OTHER: Address = Address::repeat_byte(0x77);
/// The block whose keys an epoch shares anew.
const MATERIAL: u64 = 5;

fn id(number: u64) -> U256 {
    no_context() | U256::from(number)
}

fn epoch(number: u64) -> U256 {
    first_epoch() + U256::from(number)
}

fn context(context: U256, previous: U256, wallets: &[Address]) -> Event {
    let node = |wallet: &Address| KmsNodeParams {
        txSenderAddress: *wallet,
        signerAddress: Address::repeat_byte(1),
        ipAddress: String::new(),
        storageUrl: String::new(),
        partyId: 1,
        mpcIdentity: "party".to_owned(),
        caCert: Bytes::new(),
        storagePrefix: String::new(),
    };
    let one = U256::ONE;
    let said = NewKmsContext {
        contextId: context,
        previousContextId: previous,
        kmsNodeParams: wallets.iter().map(node).collect(),
        thresholds: KmsThresholds {
            publicDecryption: one,
            userDecryption: one,
            kmsGen: one,
            mpc: one,
        },
        softwareVersion: String::new(),
        pcrValues: Vec::new(),
    };
    let topics = vec![NewKmsContext::SIGNATURE_HASH, context.into(), previous.into()];
    Event { topics, ..log(NewKmsContext::SIGNATURE_HASH, said.encode_data()) }
}

fn new_epoch() -> Event {
    let (context, epoch_id) = (id(2), epoch(1));
    let said = NewKmsEpoch {
        kmsContextId: context,
        epochId: epoch_id,
        previousContextId: id(1),
        previousEpochId: first_epoch(),
        materialBlockNumber: U256::from(MATERIAL),
    };
    let topics = vec![NewKmsEpoch::SIGNATURE_HASH, context.into(), epoch_id.into()];
    Event { topics, ..log(NewKmsEpoch::SIGNATURE_HASH, said.encode_data()) }
}

/// Who is in the context before, and in the new one: this node's wallet, or another.
#[derive(Clone, Copy)]
struct Members {
    previous: bool,
    new: bool,
}

const BOTH: Members = Members { previous: true, new: true };

/// A scene whose Ethereum has two contexts, of which the second is pending, and no key.
async fn scene(core: FakeCore, members: Members, of: impl Fn(Address) -> Event) -> Scene {
    // Whose wallet it is shows only then.
    let wallet =
        Scene::with_key_operation(core.clone(), new_epoch(), KeyPolicy::Answer).await.lane.sender();
    let mut scene = Scene::with_key_operation(core, of(wallet), KeyPolicy::Answer).await;
    assert_eq!(scene.lane.sender(), wallet);
    let chain = FakeChain::host(4, PROTOCOL_CONFIG, "ProtocolConfig v0.2.0");
    chain.state().tagged = Some(4);
    let own = |is_in: bool| if is_in { wallet } else { OTHER };
    let defined = [
        context(id(1), no_context(), &[own(members.previous)]),
        context(id(2), id(1), &[own(members.new)]),
    ];
    for (number, event) in (1..).zip(defined) {
        let anchor = (U256::from(chain.height() + 1), keccak256(&event.data));
        chain.mine(vec![event]);
        chain.answer(protocol_config::context_anchor(id(number)).calldata(), anchor);
        chain.answer(protocol_config::is_live_context(id(number)).calldata(), true);
    }
    chain.answer(protocol_config::context_id_counter().calldata(), id(2));
    let none = Vec::<U256>::new().abi_encode();
    for list in [key_generation::completed_keys(), key_generation::completed_crs_list()] {
        let at = Told::Returns(none.clone().into());
        chain.state().tell_from(MATERIAL, (KEY_GENERATION, list.calldata()), at);
    }
    connect(&mut scene, &chain);
    let contract =
        RequestContract::new(scene.chain.clone(), ADDRESSES).protocol_config(ADDRESSES.decryption);
    let (lane, metrics) = (scene.lane.clone(), scene.flow.metrics.clone());
    let suspects = scene.suspects.clone();
    let Mode::Answer(rooms) = &scene.flow.mode else { panic!("it answers") };
    let core = rooms.core.clone();
    keys(&mut scene).lifecycle = Some(LifecycleRooms {
        rooms: KeyRooms {
            core,
            submission: Submission::new(lane, contract.clone(), None, metrics),
            confirmation: Confirmation::new(contract.clone(), suspects),
            contract,
        },
        history: KmsLifecycle::new(chain, PROTOCOL_CONFIG, KEY_GENERATION),
    });
    scene.flow.ledger.change(|stored| stored.others_answered = true);
    scene
}

fn second_context(wallet: Address) -> Event {
    context(id(2), id(1), &[wallet])
}

fn asked(scene: &Scene) -> Vec<String> {
    scene.core.contexts_and_epochs()
}

fn hex(id: U256) -> String {
    format!("{id:064x}")
}

#[tokio::test(start_paused = true)]
async fn the_core_is_told_of_the_context_before_and_then_of_the_new_one() {
    let scene = scene(core(), BOTH, second_context).await;
    walked(&scene).await;
    assert_eq!(asked(&scene), [hex(id(1)), hex(id(2))]);
    assert_eq!(scene.held(), None, "{}", scene.now().detail);
}

#[tokio::test(start_paused = true)]
async fn who_is_in_neither_context_asks_nothing() {
    let members = Members { previous: false, new: false };
    let of_another = |_| second_context(OTHER);
    let scene = scene(core(), members, of_another).await;
    assert_eq!(walked(&scene).await.0, Some(HoldReason::WalletNotRegistered));
    assert_eq!(asked(&scene), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_first_context_is_only_recorded() {
    let first = |wallet| context(id(1), no_context(), &[wallet]);
    let scene = scene(core(), BOTH, first).await;
    walked(&scene).await;
    assert_eq!(scene.now().outcome, Some(Outcome::Recorded));
    assert_eq!(asked(&scene), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_older_core_is_not_told_of_a_context() {
    let scene = scene(FakeCore::pending(), BOTH, second_context).await;
    assert_eq!(walked(&scene).await.0, Some(HoldReason::CoreVersion));
    assert_eq!(asked(&scene), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_epoch_waits_for_its_context_and_is_then_asked_once() {
    let scene = scene(core(), BOTH, |_| new_epoch()).await;
    scene.flow.ledger.change(|stored| stored.others_answered = false);
    assert_eq!(walked(&scene).await.0, Some(HoldReason::WaitsForContext));
    scene.flow.ledger.change(|stored| stored.others_answered = true);
    assert_eq!(walked(&scene).await.0, None, "{}", scene.now().detail);
    assert_eq!(asked(&scene), [hex(epoch(1))]);
}

/// It has no signature of this node for the new context, and is not looked at.
#[tokio::test(start_paused = true)]
async fn who_leaves_gives_its_shares_and_sends_nothing() {
    let members = Members { previous: true, new: false };
    let core = FakeCore::new(|_| Ok(()), |_| None).of_age(true).with_epochs_done();
    let scene = scene(core, members, |_| new_epoch()).await;
    let before = scene.chain.call_count("send");
    walked(&scene).await;
    assert_eq!(scene.now().outcome, Some(Outcome::NoAnswerDue), "{}", scene.now().detail);
    assert_eq!(asked(&scene), [hex(epoch(1))]);
    assert_eq!(scene.chain.call_count("send"), before);
}

/// It is stored there, and its result was in memory.
#[tokio::test(start_paused = true)]
async fn an_epoch_whose_result_the_core_lost_is_held_by_that_name() {
    let ask = |asks| if asks == 1 { Ok(()) } else { Err(Status::invalid_argument("exists")) };
    let core = FakeCore::new(ask, |_| Some(Status::not_found("unknown"))).of_age(true);
    let scene = scene(core, BOTH, |_| new_epoch()).await;
    assert_eq!(walked(&scene).await.0, Some(HoldReason::EpochResultLost));
    // A refusal from the first is none.
    let core = FakeCore::new(|_| Err(Status::invalid_argument("odd")), |_| None).of_age(true);
    let scene = self::scene(core, BOTH, |_| new_epoch()).await;
    assert_eq!(walked(&scene).await.0, Some(HoldReason::CoreRefused));
}

#[tokio::test(start_paused = true)]
async fn without_the_contract_in_the_configuration_a_context_is_held() {
    let mut scene = scene(core(), BOTH, second_context).await;
    keys(&mut scene).lifecycle = None;
    assert_eq!(walked(&scene).await.0, Some(HoldReason::KeyManagementNotConfigured));
    assert!(scene.now().detail.contains("protocol_config_address"), "{}", scene.now().detail);
}

/// The contract keeps no definition from before v0.14. The Core needs every epoch of what it destroys.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_context_from_before_v0_14_is_told_to_no_core() {
    let ended = |_| {
        let topics = vec![KmsContextDestroyed::SIGNATURE_HASH, id(1).into()];
        Event { topics, ..log(KmsContextDestroyed::SIGNATURE_HASH, Vec::new()) }
    };
    for (previous, expected) in [(id(1), None), (no_context(), Some(Outcome::Recorded))] {
        let mut scene = scene(core(), BOTH, ended).await;
        let chain = FakeChain::host(4, PROTOCOL_CONFIG, "ProtocolConfig v0.2.0");
        let second = context(id(2), previous, &[OTHER]);
        let second_anchor = (U256::from(5), keccak256(&second.data));
        chain.mine(vec![second]);
        let none = (U256::ZERO, alloy::primitives::B256::ZERO);
        chain.answer(protocol_config::context_anchor(id(1)).calldata(), none);
        chain.answer(protocol_config::context_anchor(id(2)).calldata(), second_anchor);
        chain.answer(protocol_config::context_id_counter().calldata(), id(2));
        let history = KmsLifecycle::new(chain, PROTOCOL_CONFIG, KEY_GENERATION);
        keys(&mut scene).lifecycle.as_mut().expect("it is configured").history = history;
        walked(&scene).await;
        assert_eq!(scene.now().outcome, expected, "{}", scene.now().detail);
        if expected.is_none() {
            assert_eq!(scene.held(), Some(HoldReason::ContextUnproven));
            let told = scene.now().detail.clone();
            assert!(told.contains("by hand") && told.contains(&hex(first_epoch())), "{told}");
        }
        assert_eq!(asked(&scene), Vec::<String>::new());
    }
}

/// It would be sent as an epoch without keys.
#[tokio::test(start_paused = true)]
async fn a_stored_result_that_does_not_decode_is_told_as_that() {
    let scene = scene(core(), BOTH, |_| new_epoch()).await;
    let payload = Bytes::from_static(&[1, 2]);
    let answer = Answer::Key(SignedResult { payload, ..SignedResult::default() });
    let Mode::Answer(rooms) = &scene.flow.mode else { panic!("it answers") };
    let compared = scene.flow.compare_votes(rooms, &scene.request, &answer).await;
    let told = compared.expect_err("it is held").cause.to_string();
    assert!(told.contains("does not decode"), "{told}");
}
