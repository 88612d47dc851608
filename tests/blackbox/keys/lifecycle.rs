//! Contexts and epochs on Ethereum: every node that takes part has its Core make them, and confirms them
//! once. Resharing needs the old committee: who leaves asks its Core, and confirms no epoch.

use alloy::primitives::{Address, U256};
use world::{
    Result,
    contracts::Variant,
    core_stub::{Lifecycle, request_id},
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::{
    committee::{AGREE, decrypt, end_of},
    stage::{POLL, SOON_FINAL, Stage},
};

pub const OLD: [usize; 4] = [0, 1, 2, 3];
/// Party 0 leaves, 4 and 5 come.
pub const NEW: [usize; 5] = [1, 2, 3, 4, 5];
pub const ALL: [usize; 6] = [0, 1, 2, 3, 4, 5];
pub const LEAVES: usize = 0;
/// The epoch is not in force before its Core has made it.
pub const LAST: usize = 5;

async fn change(variant: Variant, more: &str) -> Result<()> {
    let options = SceneOptions { newcomers: 2, ..SceneOptions::of(variant) };
    let mut stage = Stage::of(options, 6).await?;
    let key = stage.made_before().await?;
    stage.run(&ALL, &format!("{SOON_FINAL}\n{more}")).await?;
    let ethereum = stage.ethereum().clone();
    let (first, first_epoch) = ethereum.in_force().await?;

    stage.core(LAST).change(|core| core.never_finish = true);
    let context = ethereum.define_context(&stage.nodes(&NEW), AGREE).await?;
    let of_gateway = stage.fleet.deployment().new_context(&stage.nodes(&NEW), AGREE).await?;
    assert_eq!(of_gateway, context, "one context on both chains");
    let epoch = first_epoch + U256::ONE;
    // Meanwhile requests name the old one.
    let meanwhile = decrypt(&stage.fleet.parties, 2, &key, first).await?;
    stage.taken_by_cores(&ALL, epoch).await?;
    // It gives its shares, waits for nobody, and sends nothing.
    stage.settled_at(&[LEAVES], epoch, "no_answer_due").await?;
    stage.core(LAST).change(|core| core.never_finish = false);
    stage.in_force(context, epoch).await?;
    stage.fleet.answered_by(&OLD, &meanwhile).await?;
    let after = decrypt(&stage.fleet.parties, 2, &key, context).await?;
    stage.fleet.answered_by(&NEW, &after).await?;

    asked_as_told(&stage, first, (context, epoch)).await?;
    stage.confirmed(epoch, &NEW).await?;
    let mut created: Vec<Address> =
        ethereum.confirmations(context).await?.into_iter().map(|one| one.by).collect();
    let confirmations = created.len();
    created.sort();
    created.dedup();
    assert_eq!(created.len(), confirmations, "each once");
    stage.settled_at(&NEW, epoch, "accepted").await?;
    stage.fleet.unbroken()
}

/// Old and new were asked once, each for what the chain says; who comes new knows the old context too.
pub async fn asked_as_told(stage: &Stage, first: U256, new: (U256, U256)) -> Result<()> {
    let (context, epoch) = new;
    let ethereum = stage.ethereum();
    let asked_context = Lifecycle::NewContext(ethereum.context_request(context).await?);
    let asked_epoch = Lifecycle::NewEpoch(ethereum.epoch_request(&stage.keys, epoch).await?);
    let previous = Lifecycle::NewContext(ethereum.context_request(first).await?);
    for party in ALL {
        let accepted = |id| stage.core(party).accepted_lifecycle(id);
        assert_eq!(accepted(first), std::slice::from_ref(&previous), "party {party}");
        assert_eq!(accepted(context), std::slice::from_ref(&asked_context), "party {party}");
        assert_eq!(accepted(epoch), std::slice::from_ref(&asked_epoch), "party {party}");
    }
    Ok(())
}

#[world::test]
async fn a_context_changes_from_four_parties_to_five_on_g14() -> Result<()> {
    change(Variant::G14, "").await
}

#[world::test]
async fn a_context_changes_from_four_parties_to_five_on_head() -> Result<()> {
    change(Variant::Head, "key_representation = \"uncompressed\"").await
}

/// Waits until these Cores were told that this context is no more, with these epochs.
pub async fn destroyed_at(
    stage: &Stage,
    parties: &[usize],
    context: U256,
    epochs: &[U256],
) -> Result<()> {
    let epochs: Vec<_> = epochs.iter().copied().map(request_id).collect();
    for party in parties {
        let seen = until("the old context destroyed", PATIENCE, POLL, async || {
            let asked = stage.core(*party).accepted_lifecycle(context);
            Ok(asked.into_iter().find_map(|ask| {
                let Lifecycle::DestroyContext(request) = ask else { return None };
                Some(request.epoch_ids)
            }))
        });
        assert_eq!(stage.told(seen.await)?, epochs, "party {party}");
    }
    Ok(())
}

/// Party 0 has left before. What is destroyed is destroyed at all Cores, with all its epochs.
#[world::test]
async fn an_epoch_in_place_is_of_its_nodes_and_a_destroyed_context_is_destroyed_at_all()
-> Result<()> {
    let mut stage = Stage::set(SceneOptions::of(Variant::G14)).await?;
    stage.made_before().await?;
    let (first, first_epoch) = stage.ethereum().in_force().await?;
    let (context, _) = stage.ethereum().new_context(&stage.nodes(&[1, 2, 3]), AGREE).await?;
    stage.run(&OLD, SOON_FINAL).await?;
    let epoch = stage.ethereum().new_epoch().await?;
    stage.in_force(context, epoch).await?;
    stage.confirmed(epoch, &[1, 2, 3]).await?;
    stage.settled_at(&[1, 2, 3], epoch, "accepted").await?;
    stage.settled_at(&[LEAVES], epoch, "recorded").await?;
    assert_eq!(stage.core(LEAVES).accepted_lifecycle(epoch), []);
    stage.ethereum().destroy_context(first).await?;
    destroyed_at(&stage, &OLD, first, &[first_epoch]).await?;
    stage.settled_at(&OLD, end_of(first), "no_answer_due").await?;
    stage.fleet.unbroken()
}
