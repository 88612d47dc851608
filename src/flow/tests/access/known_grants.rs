//! Grants that are known from before: only final ones, and only those of the very contract that gave them.

use super::*;
use crate::{
    contracts::{acl::AclAnswer, decryption::DeploymentSupport},
    flow::access::{AccessCheck, AccessError},
};

impl World {
    /// The check alone, once.
    async fn check(&self) -> AccessCheck {
        let support = self.scene.support.borrow().clone();
        let DeploymentSupport::Served(deployment) = support else { panic!("{support:?}") };
        let request = &self.scene.request;
        self.scene
            .flow
            .decryptions
            .as_ref()
            .unwrap()
            .access
            .check(request, request.block, &deployment, None)
            .await
    }

    /// Whether it is granted, and how many messages the host chain got for it.
    async fn asks(&self) -> (bool, usize) {
        let before = self.host.call_count("read_state");
        let check = self.check().await;
        let denied = matches!(check.result, Err(AccessError::Denied { .. }));
        assert!(denied != check.result.is_ok(), "{:?}", check.result);
        (check.result.is_ok(), self.host.call_count("read_state") - before)
    }

    /// The contract is what it is now.
    async fn look(&self) {
        let host =
            self.scene.flow.decryptions.as_ref().unwrap().access.options.hosts.get(CHAIN).unwrap();
        host.look().await.unwrap();
    }

    fn allow(&self, number: u8, allowed: bool) {
        self.host.answer(acl::is_allowed_for_decryption(handle(number)).calldata(), allowed);
    }

    fn allow_all(&self, allowed: bool) {
        for number in HANDLES {
            self.allow(number, allowed);
        }
    }

    /// All blocks are final.
    fn finalise(&self) {
        let height = self.host.height();
        self.host.state().tagged = Some(height);
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_known_once_it_is_final_and_not_before() {
    let world = World::new(&Ask::public(), Generation::G13, 1).await;
    world.finalise();
    world.host.mine_empty(1);
    world.look().await;
    world.allow_all(true);
    for _ in 0..2 {
        assert_eq!(world.asks().await, (true, 1), "it may still leave the chain");
    }
    world.finalise();
    assert_eq!(world.asks().await, (true, 1));
    assert_eq!(world.asks().await, (true, 0), "known");
    let record = world.check().await.record;
    assert!(record.as_str().contains("known since a finalized block"), "{record:?}");
    // An answer at the newest block serves its own check only, whatever it was.
    let world = World::new(&Ask::public(), Generation::G13, 1).await;
    world.finalise();
    world.host.mine_empty(1);
    world.look().await;
    world.allow_all(true);
    assert_eq!(world.asks().await, (true, 1));
    world.host.reorganise(1, vec![]);
    world.allow_all(false);
    assert_eq!(world.asks().await, (false, 1));
}

#[tokio::test(start_paused = true)]
async fn after_an_upgrade_of_the_contract_nothing_is_known() {
    let world = World::new(&Ask::public(), Generation::G13, 1).await;
    world.look().await;
    world.allow(HANDLES[0], true);
    world.finalise();
    // The first grant is known, the other one is missing.
    assert_eq!(world.asks().await, (false, 1));
    let told = world.check().await.record;
    assert!(told.as_str().contains("= yes (known)"), "{told:?}");
    world.host.state().host.implementation = Address::repeat_byte(0x1b);
    world.host.mine_empty(1);
    world.allow(HANDLES[0], false);
    world.allow(HANDLES[1], true);
    assert_eq!(world.asks().await, (false, 2), "what was known is asked of the new contract");
    world.allow(HANDLES[0], true);
    assert_eq!(world.asks().await, (true, 1));
}

/// What may end is asked each time.
#[tokio::test(start_paused = true)]
async fn a_delegation_is_never_known() {
    let ask = Ask::delegated();
    let world = World::new(&ask, Generation::G13, 1).await;
    world.look().await;
    world.grant_all(&ask);
    world.finalise();
    for _ in 0..3 {
        assert_eq!(world.asks().await, (true, 1));
    }
    let host =
        world.scene.flow.decryptions.as_ref().unwrap().access.options.hosts.get(CHAIN).unwrap();
    let told = host.ask(&ask.needs()).await.unwrap();
    assert!(told.answers.iter().all(|one| *one == AclAnswer::Yes), "{told:?}");
}
