//! Requests that one node shows and another denies. On a real walk with a Core, a bucket and nodes in
//! memory, in virtual time.

use super::scene::{Core, Scene};
use super::*;
use crate::gateway::fake_chain::Lies;

/// Its ciphertexts may be many, and the forged ones thousands.
#[tokio::test(start_paused = true)]
async fn b5_what_is_disputed_is_fetched_once() {
    let scene = Scene::new(Core::pending(), Stage::Arrived).await;
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
