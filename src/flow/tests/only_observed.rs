//! In an observing instance a request is processed like any other and ends where the Core would be
//! asked.

use tokio_util::sync::CancellationToken;

use super::scene::{FakeCore, Scene, Stored};
use super::*;
use crate::telemetry::heartbeat::Heartbeat;

const PANIC: &str = "the bucket's answer makes the walk panic";

/// From the journal to its end, through the one dispatcher.
async fn observe(refusing: impl Fn(usize) -> bool + Send + Sync + 'static) -> (Stored, u64) {
    let answer = move |nth| {
        assert!(!refusing(nth), "{PANIC}");
        None
    };
    let mut scene = Scene::refused_by_bucket(FakeCore::pending(), Stage::Arrived, answer).await;
    let (observed, count) = watch::channel(0);
    scene.flow.mode = Mode::Observe { observed };
    let Scene { flow, core, request, chain: _chain, .. } = scene;
    let ledger = flow.ledger.clone();
    let (again, again_intake) = mpsc::channel(1);
    let (_fresh, fresh_intake) = mpsc::channel(1);
    again.send(QueuedRequest::alone(request, true)).await.unwrap();
    let intakes = WalkReceivers::of_decryptions(fresh_intake, again_intake);
    let stop = CancellationToken::new();
    let running = Arc::new(flow).run(intakes, Heartbeat::default(), stop.clone());
    let ended = async {
        let ended = |now: &Stored| now.outcome.is_some() || now.standing.held.is_some();
        while !ended(&ledger.now()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    tokio::join!(async { running.await.unwrap() }, ended);
    let told = *core.counts();
    assert_eq!((told.asks, told.polls), (0, 0), "no Core is asked");
    let observed = *count.borrow();
    (ledger.now(), observed)
}

#[tokio::test(start_paused = true)]
async fn it_ends_as_observed_and_nothing_is_asked() {
    let (stored, observed) = observe(|_| false).await;
    assert_eq!((stored.outcome, observed), (Some(Outcome::Observed), 1));
}

/// One rule for both modes.
#[tokio::test(start_paused = true)]
async fn it_is_held_at_the_third_panic_and_not_before() {
    let (stored, observed) = observe(|nth| nth < 3).await;
    assert_eq!((stored.outcome, observed), (Some(Outcome::Observed), 1));
    assert_eq!(stored.attempts, 2, "{}", stored.last_error);
    let (stored, observed) = observe(|_| true).await;
    assert_eq!((stored.outcome, observed), (None, 0));
    assert_eq!((stored.standing.held, stored.attempts), (Some(HoldReason::Panicked), 2));
}
