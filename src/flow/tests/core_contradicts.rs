//! A Core whose answers contradict each other, on a real walk in virtual time: how often it is asked
//! with all ciphertexts, and what the operator reads.

use tonic::Status;

use super::scene::{FakeCore, Scene};
use super::*;
use crate::flow::walk::WalkEnd;

fn known() -> Result<(), Status> {
    Err(Status::already_exists("known"))
}

fn unknown() -> Status {
    Status::not_found("no such request")
}

fn failed() -> Status {
    Status::internal("failed")
}

/// The Core of v0.15 answers like this for ids that it has deleted.
#[tokio::test(start_paused = true)]
async fn a7_an_id_that_the_core_knows_and_does_not_know_is_held() {
    let scene = Scene::new(FakeCore::new(|_| known(), |_| Some(unknown())), Stage::Arrived).await;
    let places = Capacity::new(1);
    let walking = tokio::time::timeout(Duration::from_mins(1), scene.walk(&places));
    let (ended, _) = walking.await.expect("it is held within a minute");
    assert_eq!((ended, scene.held()), (WalkEnd::Held, Some(HoldReason::CoreForgets)));
    assert!(scene.now().detail.contains("deleted"), "{:?}", scene.now());
    assert!(scene.now().attempts >= 4 && !scene.now().last_error.is_empty(), "{:?}", scene.now());
    let told = *scene.core.counts();
    assert_eq!((told.asks, told.polls, scene.gets()), (2, 5, 2));
    // Each retry finds the same at the cost of one fetch.
    for retry in 1..4 {
        assert_eq!(scene.walk(&places).await.0, WalkEnd::Held);
        assert_eq!(scene.held(), Some(HoldReason::CoreForgets));
        assert_eq!((scene.core.counts().asks, scene.gets()), (2 + retry, 2 + retry));
    }
}

/// It restarted between its two answers.
#[tokio::test(start_paused = true)]
async fn a_core_that_has_forgotten_meanwhile_is_asked_again() {
    let poll = |nth| (nth < 5).then(unknown);
    let ask = |nth| if nth == 1 { known() } else { Ok(()) };
    let scene = Scene::new(FakeCore::new(ask, poll), Stage::Arrived).await;
    let places = Capacity::new(1);
    assert_eq!(scene.walk(&places).await.0, WalkEnd::Held);
    assert_eq!((scene.held(), scene.gets()), (Some(HoldReason::CoreSilent), 2));
}

/// Two Cores behind one address: one does not know what the other has accepted.
#[tokio::test(start_paused = true)]
async fn a_core_that_forgets_all_it_takes_is_left_alone_after_a_while() {
    let scene = Scene::new(FakeCore::new(|_| Ok(()), |_| Some(unknown())), Stage::Arrived).await;
    let places = Capacity::new(1);
    let walking = tokio::time::timeout(Duration::from_mins(2), scene.walk(&places));
    let (ended, took) = walking.await.expect("it is held within two minutes");
    assert_eq!((ended, scene.held()), (WalkEnd::Held, Some(HoldReason::CoreForgets)));
    assert!(took >= Duration::from_secs(20), "a Core that starts has some time: {took:?}");
    assert!(scene.gets() < 15, "{} fetches", scene.gets());
    assert!(scene.now().attempts > 1);
}

/// It answers others, and breaks at this request.
#[tokio::test(start_paused = true)]
async fn a_core_that_breaks_at_a_request_is_polled_before_it_is_asked_again() {
    let broken = |_| Err(Status::unknown("broken"));
    let scene = Scene::new(FakeCore::new(broken, |_| Some(unknown())), Stage::Arrived).await;
    let places = Capacity::new(1);
    let walking = tokio::time::timeout(Duration::from_mins(2), scene.walk(&places));
    let (ended, _) = walking.await.expect("it is held within two minutes");
    assert_eq!((ended, scene.held()), (WalkEnd::Held, Some(HoldReason::NoProgress)));
    assert!(scene.gets() < 15, "{} fetches", scene.gets());
    // It had accepted the request, and only its reply was lost.
    let broken = |_| Err(Status::unknown("broken"));
    let scene = Scene::new(FakeCore::new(broken, |_| None), Stage::Arrived).await;
    assert_eq!(scene.walk(&places).await.0, WalkEnd::Held);
    assert_eq!((scene.held(), scene.gets()), (Some(HoldReason::CoreSilent), 1));
}

/// Up to v0.13 a failed request stays failed until the Core restarts.
#[tokio::test(start_paused = true)]
async fn b2_what_the_core_keeps_failed_is_fetched_twice_and_never_again() {
    let ask = |nth| if nth == 2 { known() } else { Ok(()) };
    // The Core restarts before the eighth poll.
    let poll = |nth| match nth {
        ..8 => Some(failed()),
        8 => Some(unknown()),
        _ => None,
    };
    let scene = Scene::new(FakeCore::new(ask, poll), Stage::Arrived).await;
    let places = Capacity::new(1);
    let mut seen = Vec::new();
    for _ in 0..6 {
        assert_eq!(scene.walk(&places).await.0, WalkEnd::Held);
        seen.push((scene.held().unwrap(), scene.gets()));
    }
    let stuck = (HoldReason::CoreStuck, 2);
    assert_eq!(seen, [(HoldReason::CoreFailed, 1), stuck, stuck, stuck, stuck, stuck]);
    assert_eq!(scene.core.counts().polls, 7);
    assert!(scene.now().detail.contains("restarted"), "{:?}", scene.now());
    assert_eq!(scene.walk(&places).await.0, WalkEnd::Held);
    assert_eq!((scene.held(), scene.gets()), (Some(HoldReason::CoreSilent), 3));
}

/// From v0.14 on a Core computes a failed request again when asked.
#[tokio::test(start_paused = true)]
async fn b2_what_the_core_does_again_is_asked_once_at_each_retry() {
    let scene = Scene::new(FakeCore::new(|_| Ok(()), |_| Some(failed())), Stage::Arrived).await;
    let places = Capacity::new(1);
    for retry in 1..5 {
        assert_eq!(scene.walk(&places).await.0, WalkEnd::Held);
        assert_eq!((scene.held(), scene.gets()), (Some(HoldReason::CoreFailed), retry));
    }
}
