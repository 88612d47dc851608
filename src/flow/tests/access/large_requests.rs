//! What needs very many questions waits for others like it, and nothing else waits for that.

use tokio::time::Instant;

use super::*;
use crate::{contracts::decryption::DeploymentSupport, domain::Request};

/// How long the host chain's nodes take.
const SLOW: Duration = Duration::from_secs(2);

impl World {
    /// Whether this request is granted, and after how many seconds. The pass is good from when its answers were
    /// asked for.
    async fn check_of(&self, request: &Request) -> (bool, u64) {
        let DeploymentSupport::Served(deployment) = self.scene.support.borrow().clone() else {
            panic!("it is served");
        };
        let access = &self.scene.flow.decryptions.as_ref().unwrap().access;
        let begun = Instant::now();
        let check = access.check(request, request.block, &deployment, None).await;
        (check.result.is_ok_and(|pass| access.is_fresh(&pass)), begun.elapsed().as_secs())
    }
}

#[tokio::test(start_paused = true)]
async fn large_requests_wait_for_each_other_and_ordinary_ones_for_nobody() {
    // Some 16,000 questions: two of them are more than are in hand at a time.
    let large = Ask::unified().with_more_contracts(8_000);
    let world = World::new(&large, Generation::G14, 1).await;
    world.grant_all(&large);
    world.grant_all(&Ask::public());
    for node in 0..2 {
        world.host.state().faults[node].slow_state = SLOW;
    }
    let large = &world.scene.request;
    let event = Event { block: large.block, ..Ask::public().event() };
    let ordinary = abi::decode(SOURCE, &event).unwrap();
    let (first, second, third, beside) = tokio::join!(
        world.check_of(large),
        world.check_of(large),
        world.check_of(large),
        world.check_of(&ordinary),
    );
    assert_eq!([first, second, third], [(true, 2), (true, 4), (true, 6)]);
    assert_eq!(beside, (true, 2));
    // Where the nodes take too long the first has no answer, then the second; for the third there is no turn.
    for node in 0..2 {
        world.host.state().faults[node].slow_state = Duration::from_mins(1);
    }
    let many = (0..3).map(|_| world.check_of(large));
    let results = futures_util::future::join_all(many).await;
    assert_eq!(results, [(false, 10), (false, 20), (false, 15)]);
    for node in 0..2 {
        world.host.state().faults[node].slow_state = Duration::ZERO;
    }
    assert_eq!(world.check_of(large).await, (true, 0));
}
