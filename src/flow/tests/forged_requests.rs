//! Requests that one node shows and another denies. A real walk with a Core, a bucket and nodes in
//! memory, in virtual time.

use alloy::{
    primitives::{Address, keccak256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolError as _,
};

use super::scene::{FakeCore, Scene};
use super::*;
use crate::chain::fake_chain::NodeFaults;

alloy::sol! {
    error NotKmsSigner(address signerAddress);
}

/// Forged requests come by the thousand, each with many ciphertexts.
#[tokio::test(start_paused = true)]
async fn b5_what_is_disputed_is_fetched_once() {
    let scene = Scene::new(FakeCore::pending(), Stage::Arrived).await;
    scene.chain.state().faults =
        vec![NodeFaults::default(), NodeFaults { hides_events: true, ..NodeFaults::default() }];
    let places = Capacity::new(1);
    let minute = tokio::time::timeout(Duration::from_mins(1), scene.walk(&places)).await;
    assert!(minute.is_err(), "they do not agree");
    assert!(scene.now().last_error.contains("node-1 does not have"), "{}", scene.now().last_error);
    assert_eq!((scene.gets(), scene.core.counts().asks), (1, 0));
    // It was late.
    scene.chain.state().faults[1].hides_events = false;
    let (ended, _) = scene.walk(&places).await;
    assert_eq!((ended, scene.core.counts().asks), (crate::flow::walk::WalkEnd::Held, 1));
}

/// A request was stored as one node damaged it: the real one is looked for as long as it is held.
#[tokio::test(start_paused = true)]
async fn a14_the_block_of_other_content_is_read_again() {
    let signature = PrivateKeySigner::random().sign_hash_sync(&keccak256([1])).unwrap();
    let signature = signature.as_bytes().into();
    let answer = Answer::PublicDecryption(SignedResult { signature, ..answer().signed().clone() });
    let scene = Scene::new(FakeCore::pending(), Stage::Answered(answer)).await;
    let other = NotKmsSigner { signerAddress: Address::repeat_byte(2) };
    scene.chain.state().verdict = Some(other.abi_encode().into());
    let block = scene.request.block.number;
    assert!(!scene.suspects.is_waiting(block, block));
    let places = Capacity::new(1);
    let _goes_on = tokio::time::timeout(Duration::from_mins(1), scene.walk(&places)).await;
    assert!(scene.suspects.is_waiting(block, block), "{}", scene.now().last_error);
}
