//! Requests that one node shows and another denies. On a real walk with a Core, a bucket and nodes in
//! memory, in virtual time.

use alloy::{
    primitives::{Address, keccak256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolError as _,
};

use super::scene::{FakeCore, Scene};
use super::*;
use crate::gateway::fake_chain::Lies;

alloy::sol! {
    error NotKmsSigner(address signerAddress);
}

/// Its ciphertexts may be many, and the forged ones thousands.
#[tokio::test(start_paused = true)]
async fn b5_what_is_disputed_is_fetched_once() {
    let scene = Scene::new(FakeCore::pending(), Stage::Arrived).await;
    scene.chain.node().lies = vec![Lies::default(), Lies { denies: true, ..Lies::default() }];
    let places = Places::new(1);
    let minute = tokio::time::timeout(Duration::from_mins(1), scene.walk(&places)).await;
    assert!(minute.is_err(), "they do not agree");
    assert!(scene.now().last_error.contains("node-1 does not have"), "{}", scene.now().last_error);
    assert_eq!((scene.gets(), scene.core.told().asks), (1, 0));
    // It was late.
    scene.chain.node().lies[1].denies = false;
    let (ended, _) = scene.walk(&places).await;
    assert_eq!((ended, scene.core.told().asks), (crate::flow::walk::Ended::Held, 1));
}

/// What one node damaged and was stored like that: what should be in its place is looked for, as long
/// as it is held.
#[tokio::test(start_paused = true)]
async fn a14_the_block_of_other_content_is_read_again() {
    let signature = PrivateKeySigner::random().sign_hash_sync(&keccak256([1])).unwrap();
    let signature = signature.as_bytes().into();
    let answer = Answer::PublicDecryption(SignedResult { signature, ..answer().signed().clone() });
    let scene = Scene::new(FakeCore::pending(), Stage::Answered(answer)).await;
    let other = NotKmsSigner { signerAddress: Address::repeat_byte(2) };
    scene.chain.node().verdict = Some(other.abi_encode().into());
    let block = scene.request.block.number;
    assert!(!scene.suspects.is_waiting(block, block));
    let places = Places::new(1);
    let _goes_on = tokio::time::timeout(Duration::from_mins(1), scene.walk(&places)).await;
    assert!(scene.suspects.is_waiting(block, block), "{}", scene.now().last_error);
}
