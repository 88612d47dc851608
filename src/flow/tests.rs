//! The walk's own decisions. Whole walks are tested from outside, with the real stages.

mod access;
mod bucket_refuses;
mod core_contradicts;
mod core_never_answers;
mod foreign_answers;
mod forged_requests;
mod key_operations;
mod host_key_operations;
mod kms_contexts;
mod aborts;
mod only_observed;
mod panics;
mod scene;

use std::sync::Arc;

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::scene::{FakeCore, Scene};
use super::{
    capacity::{Capacity, PermitHolder, WaitingQueues},
    walk::policy::core_history::stage_to_resume,
    *,
};
use crate::{
    chain::fake_chain::{SOURCE, request_event},
    contracts::abi,
    domain::{Answer, HoldReason, Outcome, PerKind, SignedResult, stage::Stage},
    telemetry::heartbeat::Heartbeat,
};

fn intake(id: u64, recovered: bool) -> QueuedRequest {
    let request = abi::decode(SOURCE, &request_event(id)).unwrap();
    QueuedRequest::alone(request, recovered)
}

fn answer() -> Answer {
    let payload = alloy::primitives::Bytes::from_static(&[1]);
    Answer::PublicDecryption(SignedResult { payload, ..SignedResult::default() })
}

#[test]
fn what_the_core_may_have_is_polled_first() {
    let standing = |stage, held| RequestState {
        stage,
        held,
        worked: Duration::ZERO,
        bound_context: None,
        is_approved: false,
    };
    for reason in [HoldReason::CoreFailed, HoldReason::CoreStuck, HoldReason::CoreForgets] {
        assert_eq!(stage_to_resume(standing(Stage::Asked, Some(reason))), Stage::Asked);
        assert_eq!(stage_to_resume(standing(Stage::Arrived, Some(reason))), Stage::Asked);
    }
    assert_eq!(
        stage_to_resume(standing(Stage::Arrived, Some(HoldReason::CoreRefused))),
        Stage::Arrived
    );
    assert_eq!(stage_to_resume(standing(Stage::Asked, Some(HoldReason::CoreSilent))), Stage::Asked);
    assert_eq!(stage_to_resume(standing(Stage::Asked, None)), Stage::Asked);
    let answered = Stage::Answered(answer());
    assert_eq!(stage_to_resume(standing(answered.clone(), Some(HoldReason::CoreFailed))), answered);
}

/// Thousands of requests from the journal get half of the permits; new requests get the other half.
#[tokio::test(start_paused = true)]
async fn what_was_left_does_not_delay_what_is_new() {
    let places = Capacity::new(4);
    let (fresh, fresh_intake) = mpsc::channel(10);
    let (again, again_intake) = mpsc::channel(10);
    let mut intakes = QueueReceivers { from_chain: fresh_intake, from_journal: again_intake };
    let mut rows = WaitingQueues::new(1000);
    for id in 0..10 {
        again.send(intake(id, true)).await.unwrap();
    }
    let first =
        places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true).await.unwrap();
    let second =
        places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true).await.unwrap();
    assert!(first.1.recovered && second.1.recovered);
    let third = tokio::time::timeout(
        Duration::from_secs(1),
        places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true),
    )
    .await;
    assert!(third.is_err(), "no third one");
    assert!(places.is_contended(true), "those out of the journal wait for each other");
    assert!(!places.is_contended(false));
    fresh.send(intake(100, false)).await.unwrap();
    let fresh_one =
        places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true).await.unwrap();
    assert!(!fresh_one.1.recovered);
    drop(first);
    assert!(
        places
            .next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true)
            .await
            .unwrap()
            .1
            .recovered,
        "its place was given on"
    );
    assert!(!places.is_contended(false), "nobody waits for a place");
}

/// One permit is enough for both sides, and waiting takes nothing from a channel.
///
/// Field failure T57.
#[tokio::test(start_paused = true)]
async fn a_single_place_serves_both_sides() {
    let places = Capacity::new(1);
    let (fresh, fresh_intake) = mpsc::channel(10);
    let (again, again_intake) = mpsc::channel(10);
    let mut intakes = QueueReceivers { from_chain: fresh_intake, from_journal: again_intake };
    let mut rows = WaitingQueues::new(1000);
    for round in 0..20 {
        let waiting = tokio::time::timeout(
            Duration::from_millis(10),
            places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true),
        );
        assert!(waiting.await.is_err());
        let (side, recovered) = if round % 2 == 0 { (&fresh, false) } else { (&again, true) };
        side.send(intake(round, recovered)).await.unwrap();
        let (_place, taken) = places
            .next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true)
            .await
            .unwrap();
        assert_eq!(taken.request.key.id.to::<u64>(), round);
    }
    drop((fresh, again));
    assert!(
        places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true).await.is_none()
    );
}

/// The longest-waiting walk gives its permit back, one at a time, and only if a request waits.
#[tokio::test(start_paused = true)]
async fn places_are_asked_back_one_by_one_while_a_request_waits() {
    let places = Capacity::new(2);
    let (fresh, fresh_intake) = mpsc::channel(10);
    let (_again, again_intake) = mpsc::channel(10);
    let mut intakes = QueueReceivers { from_chain: fresh_intake, from_journal: again_intake };
    let mut rows = WaitingQueues::new(1000);
    let mut walking = Vec::new();
    for id in 0..2 {
        fresh.send(intake(id, false)).await.unwrap();
        walking.push(
            places
                .next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true)
                .await
                .unwrap(),
        );
    }
    let (first, second) = (places.clone(), places.clone());
    let mut giving_way = JoinSet::new();
    giving_way.spawn(async move {
        first.wait_recalled(false).await;
        0
    });
    tokio::task::yield_now().await;
    giving_way.spawn(async move {
        second.wait_recalled(false).await;
        1
    });
    let nobody = tokio::time::timeout(
        Duration::from_mins(1),
        places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true),
    )
    .await;
    assert!(nobody.is_err());
    assert!(giving_way.try_join_next().is_none(), "no request waits");
    assert!(!places.is_contended(false));

    fresh.send(intake(2, false)).await.unwrap();
    let place = async {
        let next = places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true);
        let back = async {
            assert_eq!(giving_way.join_next().await.unwrap().unwrap(), 0);
            drop(walking.remove(0));
        };
        tokio::join!(next, back).0
    };
    let (_place, served) = place.await.unwrap();
    assert_eq!(served.request.key.id.to::<u64>(), 2);
    let more = tokio::time::timeout(Duration::from_mins(1), giving_way.join_next()).await;
    assert!(more.is_err(), "one was enough");
}

/// When a block has its share of the permits, one of its walks gives way for each other request of it
/// that waits, in the order in which they began to wait.
#[tokio::test(start_paused = true)]
async fn those_of_one_block_give_way_to_the_rest_of_it_one_by_one() {
    let (fresh, fresh_intake) = mpsc::channel(10);
    let (_again, again_intake) = mpsc::channel(10);
    let mut intakes = QueueReceivers { from_chain: fresh_intake, from_journal: again_intake };
    let (places, mut rows) = (Capacity::new(8), WaitingQueues::new(4));
    let minute = Duration::from_mins(1);
    for id in 0..5 {
        fresh.send(intake(id, false)).await.unwrap();
    }
    let (mut walking, mut giving_way) = (Vec::new(), JoinSet::new());
    for number in 0..3 {
        let next =
            places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true).await;
        let (place, intake) = next.unwrap();
        let share = rows.walk_began(intake.request.block);
        let places = places.clone();
        giving_way.spawn(async move {
            let seat = PermitHolder {
                attendance: &intake.attendance,
                capacity: &places,
                share: &share,
                recovered: false,
            };
            seat.wait_recalled_after(Duration::from_secs(number)).await;
            number
        });
        walking.push(place);
    }
    let block = intake(0, false).request.block;
    for gives_way in 0..2 {
        let none = places.next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true);
        assert!(tokio::time::timeout(minute, none).await.is_err(), "it has its share");
        assert_eq!(giving_way.join_next().await.unwrap().unwrap(), gives_way);
        let more = tokio::time::timeout(minute, giving_way.join_next()).await;
        assert!(more.is_err(), "one is enough");
        rows.walk_ended(block);
        walking.remove(0);
        walking.push(
            places
                .next_request(&mut intakes, &mut rows, FinalHeight::EVERYTHING, true)
                .await
                .unwrap()
                .0,
        );
        rows.walk_began(block);
    }
    assert!(tokio::time::timeout(minute, giving_way.join_next()).await.is_err(), "none waits");
}

/// T17: the block that it was in was final, and the one that it is in now is not. It waits at the gate,
/// without a permit and without a failed attempt.
#[tokio::test(start_paused = true)]
async fn t17_a_request_that_has_moved_up_waits_until_its_block_is_final() {
    let scene = Scene::new(FakeCore::pending(), Stage::Arrived).await;
    let up_to = |block| FinalHeight(PerKind::all(Some(block)));
    scene.final_height.send_replace(up_to(55));
    let mut again = vec![Vec::new(); 20];
    again.push(vec![scene::event()]);
    scene.chain.reorganise(60, again);
    let Scene { flow, core, request, final_height, .. } = scene;
    let ledger = flow.ledger.clone();
    let (fresh, from_chain) = mpsc::channel(1);
    let (_again, from_journal) = mpsc::channel(1);
    fresh.send(QueuedRequest::alone(request, false)).await.unwrap();
    let stop = CancellationToken::new();
    let receivers = WalkReceivers::of_decryptions(from_chain, from_journal);
    let running = Arc::new(flow).run(receivers, Heartbeat::default(), stop.clone());
    let moving = async {
        for height in 55..61 {
            final_height.send_replace(up_to(height));
            tokio::time::sleep(Duration::from_mins(1)).await;
            assert_eq!(core.counts().asks, 0, "{height}");
        }
        let now = ledger.now();
        assert_eq!((now.attempts, now.standing.held), (0, None), "{}", now.last_error);
        final_height.send_replace(up_to(61));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(core.counts().asks, 1);
        stop.cancel();
    };
    tokio::join!(async { running.await.unwrap() }, moving);
}
