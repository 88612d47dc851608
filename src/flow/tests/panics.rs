//! A walk that panics because of what its bucket sends, in virtual time.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::scene::{FakeCore, Scene, Stored};
use super::*;
use crate::telemetry::heartbeat::Heartbeat;

/// Processes one request whose first `panics` fetches panic. Returns what the ledger has of it in the
/// end.
async fn walked(panics: usize) -> Stored {
    let refusing = move |nth| {
        assert!(nth > panics, "a test asked for it");
        None
    };
    let scene = Scene::refused_by_bucket(FakeCore::pending(), Stage::Arrived, refusing).await;
    let (intakes, walk, _walk_again) = walk_channels(1, 1);
    let (ledger, stop) = (scene.flow.ledger.clone(), CancellationToken::new());
    let mut running = JoinSet::new();
    running.spawn(Arc::new(scene.flow).run(intakes, Heartbeat::default(), stop.clone()));
    walk.send(walk.attend(scene.request.clone(), false)).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    stop.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();
    ledger.now()
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_attempt_and_the_third_one_holds() {
    let stored = walked(2).await;
    assert_eq!((stored.standing.stage, stored.standing.held), (Stage::Asked, None));
    assert_eq!((stored.attempts, stored.last_error.as_str()), (2, "its walk panicked"));
    let stored = walked(3).await;
    let held = (Stage::Arrived, Some(HoldReason::Panicked));
    assert_eq!((stored.standing.stage, stored.standing.held), held);
    assert!(stored.detail.contains("panicked 3 times"), "{}", stored.detail);
}
