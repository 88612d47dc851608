//! A request that the Core accepts and never answers: it is polled, gives way to others, and ends as
//! expired; an outage does not count towards that. A real walk with a Core and a node in memory, in
//! virtual time.

use tokio::time::timeout;

use super::scene::{EXPIRY, FakeCore, Scene, Stored, TIMEOUT};
use super::*;
use crate::flow::walk::WalkEnd;

async fn scene() -> Scene {
    Scene::new(FakeCore::pending(), Stage::Asked).await
}

/// T33: held after each timeout, and ended after the expiry, towards which an outage does not count.
#[tokio::test(start_paused = true)]
async fn t33_it_is_polled_until_its_working_time_is_over() {
    let scene = scene().await;
    let places = Capacity::new(1);
    for round in 1..3 {
        let (ended, took) = scene.walk(&places).await;
        assert_eq!(ended, WalkEnd::Held);
        assert!(took >= TIMEOUT && took < TIMEOUT * 2, "{took:?}");
        let Stored { standing, outcome, .. } = scene.now();
        assert_eq!((standing.held, outcome), (Some(HoldReason::CoreSilent), None));
        assert!(standing.worked >= TIMEOUT * round && standing.worked < EXPIRY);
    }
    let worked = scene.now().standing.worked;
    scene.core.cut(true);
    let outage = timeout(Duration::from_hours(100), scene.walk(&places)).await;
    assert!(outage.is_err(), "an outage ends nothing");
    assert_eq!(scene.now().standing.worked, worked);
    scene.core.cut(false);
    assert_eq!(scene.walk(&places).await.0, WalkEnd::Settled);
    assert_eq!(scene.now().outcome, Some(Outcome::Expired));
}

/// T63: a walk that polls gives its permit to a waiting request long before its timeout, and keeps it
/// if none waits.
#[tokio::test(start_paused = true)]
async fn t63_it_gives_way_to_who_waits_for_its_place() {
    let scene = scene().await;
    let places = Capacity::new(1);
    let (fresh, fresh_intake) = mpsc::channel(1);
    let (_again, again_intake) = mpsc::channel(1);
    let mut intakes = QueueReceivers { from_chain: fresh_intake, from_journal: again_intake };
    let mut rows = WaitingQueues::new(1000);
    let waiting = || {
        let request = scene.request.clone();
        QueuedRequest::alone(request, false)
    };
    fresh.send(waiting()).await.unwrap();
    let place =
        places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true).await.unwrap();

    let alone = async {
        tokio::join!(
            scene.walk(&places),
            timeout(
                TIMEOUT,
                places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true)
            )
        )
    };
    let ((ended, took), nobody) = alone.await;
    assert_eq!(ended, WalkEnd::Held);
    assert!(took >= TIMEOUT && nobody.is_err());

    fresh.send(waiting()).await.unwrap();
    let walking = async {
        let walked = scene.walk(&places).await;
        drop(place);
        walked
    };
    let ((ended, took), next) = tokio::join!(
        walking,
        places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true)
    );
    assert_eq!(ended, WalkEnd::Held);
    assert!(took < TIMEOUT / 2, "{took:?}");
    assert!(next.is_some());
    let standing = scene.now().standing;
    assert_eq!((standing.stage, standing.held), (Stage::Asked, Some(HoldReason::CoreSilent)));
}
