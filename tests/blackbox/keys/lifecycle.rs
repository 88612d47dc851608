//! Contexts and epochs on Ethereum: every node that takes part has its Core make them, and confirms them
//! once. Resharing needs the old committee: who leaves asks its Core, and confirms no epoch.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use world::{
    Result,
    contracts::Variant,
    core_stub::{Lifecycle, request_id},
    deployment::{Node, Thresholds},
    fleet::name,
    host::Host,
    key_generation::KeyRequest,
    lifecycle::data_hash,
    program,
    request::{Ask, Issued, fhe},
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::stage::{POLL, Stage};

const OLD: [usize; 4] = [0, 1, 2, 3];
/// Party 0 leaves, 4 and 5 come.
const NEW: [usize; 5] = [1, 2, 3, 4, 5];
const LEAVES: usize = 0;
const AGREE: Thresholds = Thresholds { public: 3, user: 3 };

fn host(stage: &Stage) -> &Host {
    &stage.fleet.parties.hosts[0].host
}

fn nodes(stage: &Stage, parties: &[usize]) -> Vec<Node> {
    let node = |party: &usize| {
        let party = &stage.fleet.parties.list[*party];
        Node { wallet: party.address(), signer: party.signer.address() }
    };
    parties.iter().map(node).collect()
}

/// Waits until this context and epoch are in force.
async fn in_force(stage: &Stage, context: U256, epoch: U256) -> Result<()> {
    let what = format!("context {context:#x} with epoch {epoch:#x} in force");
    let seen = until(&what, PATIENCE, POLL, async || {
        Ok((host(stage).in_force().await? == (context, epoch)).then_some(()))
    });
    stage.told(seen.await)
}

/// Waits until a party has ended the request of `id` so.
async fn settled(stage: &Stage, party: usize, id: U256, outcome: &str) -> Result<()> {
    let what = format!("{id:#x} ends as {outcome} at party {party}");
    let seen = until(&what, PATIENCE, POLL, async || {
        let entries = stage.fleet.key_entries(party).unwrap_or_default();
        let is_it = |entry: &world::journal::Entry| {
            entry.id == id && entry.outcome.as_deref() == Some(outcome)
        };
        Ok(entries.iter().any(is_it).then_some(()))
    });
    stage.told(seen.await)
}

/// Public decryptions under a key, in the context they name.
async fn decrypt(
    stage: &Stage,
    count: usize,
    key: &KeyRequest,
    context: U256,
) -> Result<Vec<Issued>> {
    let named = [&[1][..], &context.to_be_bytes::<32>()].concat();
    let ask = || Ask { key_id: key.id, ..Ask::public(&[fhe::UINT64]) }.extra_data(named.clone());
    let asks: Vec<Ask> = (0..count).map(|_| ask()).collect();
    host(stage).grant(&asks).await?;
    stage.fleet.request(asks).await
}

/// Each of these parties, and nobody else, has confirmed this epoch once, with one hash that is the chain's.
async fn confirmed(stage: &Stage, epoch: U256, parties: &[usize]) -> Result<()> {
    let request = host(stage).epoch_request(&stage.keys, epoch).await?;
    let hash = data_hash(&stage.core(parties[0]).epoch_result(&request));
    let confirmations = host(stage).confirmations(epoch).await?;
    let mut by: Vec<Address> = confirmations.iter().map(|one| one.by).collect();
    let mut expected = stage.fleet.parties.signers(parties);
    by.sort();
    expected.sort();
    assert_eq!(by, expected);
    assert!(confirmations.iter().all(|one| one.dataHash == hash), "{confirmations:?}");
    Ok(())
}

async fn change(variant: Variant, more: &str) -> Result<()> {
    let options = SceneOptions { newcomers: 2, ..SceneOptions::of(variant) };
    let mut stage = Stage::of(options, 6).await?;
    for party in 0..6 {
        stage.fleet.write(party, more)?;
    }
    stage.fleet.supervisor.start(program())?;
    let names: Vec<String> = (0..6).map(name).collect();
    stage.fleet.supervisor.until_running(&names).await?;
    let preprocessing = stage.keys.keygen().await?;
    let key = preprocessing.key();
    let crs = stage.keys.crsgen().await?;
    stage.answered(&OLD, &[&preprocessing, &key, &crs]).await?;
    let ethereum = host(&stage).clone();
    let (first, first_epoch) = ethereum.in_force().await?;

    // So long that whoever leaves asks before the others are done.
    for party in &stage.fleet.parties.list {
        party.core.change(|behaviour| behaviour.key_latency = Duration::from_millis(1500));
    }
    let context = ethereum.define_context(&nodes(&stage, &NEW), AGREE).await?;
    let of_gateway = stage.fleet.deployment().new_context(&nodes(&stage, &NEW), AGREE).await?;
    assert_eq!(of_gateway, context, "one context on both chains");
    let epoch = first_epoch + U256::ONE;
    // Meanwhile requests name the old one.
    let meanwhile = decrypt(&stage, 2, &key, first).await?;
    in_force(&stage, context, epoch).await?;
    stage.fleet.answered_by(&OLD, &meanwhile).await?;
    let after = decrypt(&stage, 2, &key, context).await?;
    stage.fleet.answered_by(&NEW, &after).await?;

    // Old and new were asked once, each for what the chain says; who comes new knows the old context too.
    let asked_context = Lifecycle::NewContext(ethereum.context_request(context).await?);
    let asked_epoch = Lifecycle::NewEpoch(ethereum.epoch_request(&stage.keys, epoch).await?);
    let previous = Lifecycle::NewContext(ethereum.context_request(first).await?);
    for party in 0..6 {
        let accepted = |id| stage.core(party).accepted_lifecycle(id);
        assert_eq!(accepted(first), std::slice::from_ref(&previous), "party {party}");
        assert_eq!(accepted(context), std::slice::from_ref(&asked_context), "party {party}");
        assert_eq!(accepted(epoch), std::slice::from_ref(&asked_epoch), "party {party}");
    }
    confirmed(&stage, epoch, &NEW).await?;
    let mut created: Vec<Address> =
        ethereum.confirmations(context).await?.into_iter().map(|one| one.by).collect();
    let confirmations = created.len();
    created.sort();
    created.dedup();
    assert_eq!(created.len(), confirmations, "each once");
    settled(&stage, LEAVES, epoch, "no_answer_due").await?;
    settled(&stage, NEW[0], epoch, "accepted").await?;

    // An epoch in place: who has left is not concerned.
    let epoch = ethereum.new_epoch().await?;
    in_force(&stage, context, epoch).await?;
    confirmed(&stage, epoch, &NEW).await?;
    settled(&stage, LEAVES, epoch, "recorded").await?;
    assert_eq!(stage.core(LEAVES).accepted_lifecycle(epoch), []);

    // What is destroyed is destroyed at the Cores, with all its epochs.
    ethereum.destroy_context(first).await?;
    for party in 0..6 {
        let seen = until("the old context destroyed", PATIENCE, POLL, async || {
            let asked = stage.core(party).accepted_lifecycle(first);
            Ok(asked.into_iter().find_map(|ask| {
                let Lifecycle::DestroyContext(request) = ask else { return None };
                Some(request.epoch_ids)
            }))
        });
        assert_eq!(stage.told(seen.await)?, [request_id(first_epoch)], "party {party}");
    }
    stage.fleet.unbroken()?;
    assert_eq!(stage.fleet.supervisor.stop().await?, Some(0));
    Ok(())
}

#[world::test]
async fn a_context_changes_from_four_parties_to_five_on_g14() -> Result<()> {
    change(Variant::G14, "").await
}

#[world::test]
#[ignore = "long: scripts/test --long"]
async fn long_a_context_changes_from_four_parties_to_five_on_head() -> Result<()> {
    change(Variant::Head, "key_representation = \"uncompressed\"").await
}
