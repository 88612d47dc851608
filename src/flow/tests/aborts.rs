//! Aborts of key operations: what they end, and what they do not.

use std::time::Duration;

use alloy::{sol, sol_types::SolEvent};
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::{
    host_key_operations::{core, keygen, preparation, scene, walked},
    key_operations::{log, tagged},
    scene::Scene,
};
use crate::{
    domain::{Answer, Event, HoldReason, Outcome, SignedResult, stage::Stage},
    flow::{KeyPolicy, capacity::Capacity, kms_core::fake_core::FakeCore},
};

sol! {
    event AbortKeygen(uint256 prepKeygenId);
}

fn abort() -> Event {
    let of = AbortKeygen { prepKeygenId: tagged(3) };
    log(AbortKeygen::SIGNATURE_HASH, of.encode_data())
}

/// The Core is told of the preparation's abort so often.
fn told(scene: &Scene, times: usize) {
    let id = format!("{:064x}", tagged(3));
    assert_eq!(scene.core.aborts(), vec![id; times]);
}

fn answered() -> Stage {
    Stage::Answered(Answer::Key(SignedResult::default()))
}

/// Also where an operator has to approve key operations, and where the Core is too old to have been asked.
#[tokio::test(start_paused = true)]
async fn the_core_is_told_and_nothing_is_sent() {
    for is_new in [true, false] {
        let core = FakeCore::pending().of_age(is_new);
        let scene = Scene::with_key_operation(core, abort(), KeyPolicy::Hold).await;
        let before = scene.chain.call_count("send");
        assert_eq!(walked(&scene).await, (None, 0));
        assert_eq!(scene.now().outcome, Some(Outcome::NoAnswerDue));
        told(&scene, usize::from(is_new));
        assert_eq!(scene.chain.call_count("send"), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_core_that_is_away_is_told_when_it_is_back() {
    let scene = Scene::with_key_operation(core(), abort(), KeyPolicy::Answer).await;
    scene.core.cut(true);
    assert_eq!(walked(&scene).await.1, 0);
    assert_eq!(scene.now().outcome, None, "it goes on trying");
    scene.core.cut(false);
    walked(&scene).await;
    assert_eq!(scene.now().outcome, Some(Outcome::NoAnswerDue));
    told(&scene, 1);
}

/// The abort was read first, or while this one was held.
#[tokio::test(start_paused = true)]
async fn what_was_aborted_before_it_was_asked_is_not_asked() {
    for event in [preparation(), keygen()] {
        let scene = scene(core(), event).await;
        scene.flow.ledger.change(|stored| {
            stored.is_abort_done = true;
            stored.standing.held = Some(HoldReason::OperatorApproval);
        });
        assert_eq!(walked(&scene).await.1, 0);
        assert_eq!(scene.now().outcome, Some(Outcome::Aborted));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_aborted_while_the_core_works_ends_and_the_core_hears_of_it() {
    let scene = scene(core(), preparation()).await;
    let places = Capacity::new(1);
    let aborting = async {
        sleep(Duration::from_mins(3)).await;
        assert_eq!(scene.core.counts().asks, 1);
        scene.flow.ledger.change(|stored| stored.is_abort_done = true);
    };
    let (walked, ()) = tokio::join!(timeout(Duration::from_mins(4), scene.walk(&places)), aborting);
    walked.unwrap();
    assert_eq!(scene.now().outcome, Some(Outcome::Aborted));
    told(&scene, 1);
}

/// The abort's walk tells the Core first, and notes that a moment later.
#[tokio::test(start_paused = true)]
async fn a_core_that_knows_of_the_abort_first_is_believed_when_the_chain_says_so() {
    let aborted =
        || FakeCore::new(|_| Ok(()), |_| Some(Status::aborted("it was aborted"))).of_age(true);
    let one = scene(aborted(), preparation()).await;
    let places = Capacity::new(1);
    let noting = async {
        sleep(Duration::from_secs(2)).await;
        one.flow.ledger.change(|stored| stored.is_abort_done = true);
    };
    let (walked_to, ()) = tokio::join!(timeout(Duration::from_mins(1), one.walk(&places)), noting);
    walked_to.unwrap();
    assert_eq!(one.now().outcome, Some(Outcome::Aborted));
    // Nobody on chain has aborted this one.
    let other = scene(aborted(), preparation()).await;
    assert_eq!(walked(&other).await.0, Some(HoldReason::CoreAborted));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_not_sent_yet_is_not_sent() {
    let unsent = scene(core(), preparation()).await;
    let before = unsent.chain.call_count("send");
    unsent.flow.ledger.change(|stored| {
        stored.is_abort_done = true;
        stored.standing.stage = answered();
    });
    walked(&unsent).await;
    assert_eq!(unsent.now().outcome, Some(Outcome::Aborted));
    assert_eq!(unsent.chain.call_count("send"), before);
}
