//! Answers of the Core that are somebody else's, and answers that the contract refuses for their KMS
//! context: real walks with a Core, a registry and a node in memory, in virtual time.

use alloy::{
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{SolError as _, SolValue as _},
};
use prost::Message as _;

use super::scene::{FakeCore, Scene, WALLET_KEY, domain};
use super::*;
use crate::{
    chain::fake_chain::NodeFaults,
    contracts::{
        abi::{Deployment, Generation},
        decryption::DeploymentSupport,
    },
    domain::{Address, B256, Bytes, Refusal, Request, U256},
    flow::kms_core::{
        eip712::public_digest,
        proto::kms::v1,
        wire::{ResultEncoding, decrypted_result},
    },
};

alloy::sol! {
    error NotKmsSigner(address signerAddress);
    error InvalidKmsContext(uint256 kmsContextId);
    error DecryptionContextMismatch(
        uint256 decryptionId, uint256 requestContextId, uint256 responseContextId
    );
}

/// Longer than the registry's answers are kept.
const STALE: Duration = Duration::from_secs(61);

fn context(number: u64) -> U256 {
    U256::from(7) << 248 | U256::from(number)
}

/// The context that the request was made in.
fn bound() -> U256 {
    context(3)
}

fn key(number: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[number; 32]).unwrap()
}

/// The registered Core, and another one.
fn ours() -> PrivateKeySigner {
    key(0x51)
}

fn stranger() -> PrivateKeySigner {
    key(0x52)
}

/// The Core's reply to a request with these handles, signed by this key.
fn reply(id: U256, handles: &[B256], by: &PrivateKeySigner) -> v1::PublicDecryptionResponse {
    let plaintexts: Vec<_> = handles
        .iter()
        .map(|_| v1::TypedPlaintext { bytes: prost::bytes::Bytes::from_static(&[1]), fhe_type: 0 })
        .collect();
    let result = decrypted_result(ResultEncoding::Words, &plaintexts).unwrap();
    let digest = public_digest(&domain(), handles, &result, Some(&[]));
    let payload = v1::PublicDecryptionResponsePayload {
        plaintexts,
        request_id: Some(kms_core::wire::request_id(id)),
        ..Default::default()
    };
    v1::PublicDecryptionResponse {
        payload_or_external_signature: by
            .sign_hash_sync(&digest)
            .unwrap()
            .as_bytes()
            .to_vec()
            .into(),
        payload: Some(payload.encode_to_vec().into()),
        ..Default::default()
    }
}

/// The same as it was stored, with this extraData.
fn stored(request: &Request, by: &PrivateKeySigner, extra_data: Vec<u8>) -> Answer {
    let payload = U256::ONE.to_be_bytes::<32>();
    let digest = public_digest(&domain(), request.handles(), &payload, Some(&extra_data));
    Answer::PublicDecryption(SignedResult {
        payload: payload.into(),
        signature: by.sign_hash_sync(&digest).unwrap().as_bytes().into(),
        extra_data: extra_data.into(),
    })
}

/// The scene of a request of G13 that names no context, at this stage. The contract has a registry that
/// registers nobody.
async fn scene(stage: Stage) -> Scene {
    let scene = Scene::new(FakeCore::pending(), stage).await;
    let deployment =
        Deployment { generation: Generation::G13, version: "of a test".into(), hybrid: false };
    scene.support.send_replace(DeploymentSupport::Served(deployment));
    scene.flow.ledger.change(|stored| stored.standing.bound_context = Some(bound()));
    scene.chain.state().has_registry = true;
    // That there is none is looked at again.
    tokio::time::sleep(STALE).await;
    scene
}

/// From now on these are this node's signers, each in a context (`None`: the current one).
fn register(scene: &Scene, signers: &[(Option<U256>, Address)]) {
    let wallet = PrivateKeySigner::from_slice(&WALLET_KEY).unwrap().address();
    let nobody = (Address::ZERO, Address::ZERO, String::new(), String::new());
    let neighbours = [None, Some(context(2)), Some(bound()), Some(context(4))];
    let views = neighbours.map(|of| {
        let view = match of {
            Some(of) => abi::kms_node_for_context(of, wallet),
            None => abi::kms_node(wallet),
        };
        let signer = signers.iter().find(|(context, _)| *context == of).map(|(_, signer)| *signer);
        let node =
            signer.map_or(nobody.clone(), |signer| (wallet, signer, String::new(), String::new()));
        (view.calldata(), Bytes::from(node.abi_encode()))
    });
    scene.chain.state().faults[0].views = views.to_vec();
}

async fn held(scene: &Scene) -> (&'static str, String) {
    let places = Capacity::new(1);
    let walking = tokio::time::timeout(Duration::from_mins(20), scene.walk(&places));
    walking.await.unwrap_or_else(|_| panic!("it is not held: {:?}", scene.now()));
    let now = scene.now();
    (now.standing.held.map_or("nothing", HoldReason::as_str), now.detail)
}

/// What a walk says last that goes on and on.
async fn goes_on(scene: &Scene) -> String {
    let places = Capacity::new(1);
    let walking = tokio::time::timeout(Duration::from_secs(30), scene.walk(&places));
    assert!(walking.await.is_err(), "{:?}", scene.now());
    scene.now().last_error
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_context_names_that_context() {
    for (of, expected) in [
        (None, "the current KMS context".to_owned()),
        (Some(context(2)), format!("KMS context {:#066x}", context(2))),
        (Some(context(4)), format!("KMS context {:#066x}", context(4))),
    ] {
        let scene = scene(Stage::Asked).await;
        register(&scene, &[(Some(bound()), ours().address()), (of, stranger().address())]);
        let request = &scene.request;
        scene.core.answer_with(reply(request.key.id, request.handles(), &stranger()));
        let (reason, detail) = held(&scene).await;
        assert_eq!(reason, "signer_mismatch");
        for part in [
            format!("which is this node's signer in {expected};"),
            format!("the request is of KMS context {:#066x}", bound()),
            format!("signed as {}", stranger().address()),
            format!("where it is {}", ours().address()),
        ] {
            assert!(detail.contains(&part), "{part}: {detail}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_nobodys_is_told_with_both_signers() {
    let scene = scene(Stage::Asked).await;
    register(&scene, &[(Some(bound()), ours().address())]);
    let request = &scene.request;
    scene.core.answer_with(reply(request.key.id, request.handles(), &stranger()));
    let (reason, detail) = held(&scene).await;
    assert_eq!(reason, "signer_mismatch");
    assert!(detail.contains("has another signing key"), "{detail}");
    // One that makes no sense, of whomever.
    let mut broken = reply(request.key.id, request.handles(), &ours());
    broken.payload_or_external_signature = prost::bytes::Bytes::from_static(&[1]);
    scene.core.answer_with(broken);
    assert_eq!(held(&scene).await.0, "invalid_answer");
}

/// The Core knows requests by their id alone, and has the answer to one that has left the chain.
#[tokio::test(start_paused = true)]
async fn an_answer_to_another_request_of_the_same_id_is_called_that() {
    let scene = scene(Stage::Asked).await;
    register(&scene, &[(Some(bound()), ours().address())]);
    let other_handle = B256::with_last_byte(9);
    let other = super::scene::event_about(other_handle);
    let answer = reply(scene.request.key.id, &[other_handle], &ours());
    scene.core.answer_with(answer);
    assert_eq!(held(&scene).await.0, "signer_mismatch", "nobody knows of the other one");
    scene.flow.ledger.change(|stored| stored.namesakes = vec![other]);
    assert_eq!(held(&scene).await.0, "stale_answer");
}

/// The cache has the signer of before.
#[tokio::test(start_paused = true)]
async fn a_signer_that_was_registered_meanwhile_is_looked_up() {
    let scene = scene(Stage::Asked).await;
    register(&scene, &[(Some(bound()), stranger().address())]);
    let Mode::Answer(rooms) = &scene.flow.mode else { panic!() };
    let known = rooms.gateway_config.core_signers_for(Some(bound())).await.unwrap();
    assert_eq!(known, [stranger().address()]);
    register(&scene, &[(Some(bound()), ours().address())]);
    let request = &scene.request;
    scene.core.answer_with(reply(request.key.id, request.handles(), &ours()));
    assert!(goes_on(&scene).await.contains("registration has changed"), "{:?}", scene.now());
    assert_eq!(scene.held(), None);
}

/// The contract refuses the signer that the registry lists for the request's context: that is the node's
/// fault, whoever signs in the current one.
#[tokio::test(start_paused = true)]
async fn a_refused_signer_is_compared_with_the_one_of_the_requests_context() {
    let scene = scene(Stage::Arrived).await;
    let answer = stored(&scene.request, &ours(), Vec::new());
    scene.flow.ledger.change(|stored| stored.standing.stage = Stage::Answered(answer));
    register(&scene, &[(Some(bound()), ours().address()), (None, stranger().address())]);
    let refused = NotKmsSigner { signerAddress: ours().address() };
    scene.chain.state().verdict = Some(refused.abi_encode().into());
    let said = goes_on(&scene).await;
    assert!(said.contains("contradicts its own registry"), "{said}");
    register(&scene, &[(None, ours().address())]);
    assert_eq!(held(&scene).await.0, "signer_not_registered");
}

/// The node that is asked to take the answer says that the context has changed, and the other one does not.
#[tokio::test(start_paused = true)]
async fn one_of_two_nodes_ends_no_request_for_a_changed_context() {
    let mismatch = DecryptionContextMismatch {
        decryptionId: U256::ONE,
        requestContextId: bound(),
        responseContextId: context(4),
    };
    let liar = NodeFaults { verdict: Some(mismatch.abi_encode().into()), ..NodeFaults::default() };
    let silent = NodeFaults { is_silent: true, ..NodeFaults::default() };
    for (nodes, ends) in [
        (vec![liar.clone(), NodeFaults::default()], false),
        (vec![liar.clone(), silent], false),
        (vec![liar; 2], true),
    ] {
        let scene = scene(Stage::Arrived).await;
        let deployment =
            Deployment { generation: Generation::G13, version: "of a test".into(), hybrid: false };
        scene.support.send_replace(DeploymentSupport::Served(deployment));
        let answer = stored(&scene.request, &ours(), vec![]);
        scene.flow.ledger.change(|stored| stored.standing.stage = Stage::Answered(answer));
        scene.chain.state().faults = nodes;
        for _ in 0..4 {
            // A walk of a request that a node lies about may go on for as long as nobody else waits.
            let capacity = Capacity::new(1);
            let walking = scene.walk(&capacity);
            let _ = tokio::time::timeout(Duration::from_mins(5), walking).await;
        }
        let outcome = scene.now().outcome;
        assert_eq!(matches!(outcome, Some(Outcome::Refused(_))), ends, "{:?}", scene.now());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_contract_says_of_contexts_is_told_apart() {
    let mismatch = DecryptionContextMismatch {
        decryptionId: U256::ONE,
        requestContextId: bound(),
        responseContextId: context(4),
    };
    let (mismatch, unknown) = (
        Bytes::from(mismatch.abi_encode()),
        Bytes::from(InvalidKmsContext { kmsContextId: context(4) }.abi_encode()),
    );
    let names = [&[1][..], &context(4).to_be_bytes::<32>()].concat();
    for (generation, verdict, extra_data, expected) in [
        (Generation::G13, &mismatch, vec![], "unconfirmed"),
        (Generation::G14, &mismatch, vec![0, 9], "unconfirmed"),
        // The Core answered in a context that the request does not name.
        (Generation::G13, &mismatch, names, "invalid_answer"),
        // These contracts bind no request: others stand there by now.
        (Generation::G12, &mismatch, vec![], "invalid_answer"),
        (Generation::G13, &unknown, vec![], "context_unknown"),
    ] {
        let scene = scene(Stage::Arrived).await;
        let deployment = Deployment { generation, version: "of a test".into(), hybrid: false };
        scene.support.send_replace(DeploymentSupport::Served(deployment));
        let answer = stored(&scene.request, &ours(), extra_data.clone());
        scene.flow.ledger.change(|stored| stored.standing.stage = Stage::Answered(answer));
        scene.chain.state().verdict = Some(verdict.clone());
        let places = Capacity::new(1);
        scene.walk(&places).await;
        let shown = format!("{generation} {extra_data:?} {:?}", scene.now());
        assert_eq!(scene.held().map(HoldReason::as_str), Some(expected), "{shown}");
        if expected != "unconfirmed" {
            continue;
        }
        // The contract says the same at the retry; or takes it after all.
        scene.walk(&places).await;
        let outcome = scene.now().outcome;
        let Some(Outcome::Refused(Refusal::AccessRefused(why))) = outcome else {
            panic!("{shown}");
        };
        assert_eq!(why.reason.as_str(), "context_changed");
    }
}
