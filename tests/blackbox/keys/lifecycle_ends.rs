//! Contexts and epochs that are given up while they are open, and results that are not sent: what is open ends by
//! that name, the Core is told, and nobody votes for what differs.

use std::time::Duration;

use alloy::primitives::U256;
use tonic::Code;
use world::{
    Error, Result,
    contracts::Variant,
    core_stub::{Fault, Lifecycle, request_id},
    faulty_rpc::FaultyRpc,
    fleet::name,
    key_generation::KeyRequest,
    lifecycle::data_hash,
    program,
    proto::kms::v1,
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::{
    committee::{AGREE, codes, end_of},
    lifecycle::{OLD, destroyed_at},
    stage::{POLL, SOON_FINAL, Stage, reason_of},
};

const OWN: &[usize] = &[0];

/// The Core is at something else all the time, so that neither is asked; then it is told of the end alone.
#[world::test]
async fn a_context_destroyed_before_the_core_takes_it_is_aborted() -> Result<()> {
    let (stage, _) = Stage::with_one_and_a_key(Variant::G14).await?;
    stage.core(0).change(|core| core.lifecycle_runs = true);
    let context = stage.ethereum().define_context(&stage.nodes(&OLD), AGREE).await?;
    let (first, _) = stage.ethereum().in_force().await?;
    // What it has to know before it is what it is told first.
    stage.put_off(first, 2).await?;
    stage.ethereum().destroy_context(context).await?;
    stage.put_off(context, 2).await?;
    stage.settled(context, "aborted").await?;
    stage.core(0).change(|core| core.lifecycle_runs = false);
    destroyed_at(&stage, OWN, context, &[]).await?;
    stage.settled(end_of(context), "no_answer_due").await?;
    assert!(!stage.core(0).contexts().contains(&context));
    assert_eq!(stage.sent().await?, 0);
    stage.fleet.unbroken()
}

/// Its Core has made the context, and there is no gas to say so. What is signed is followed to its end, which comes
/// with the gas.
#[world::test]
async fn a_context_destroyed_while_its_confirmation_waits_is_aborted() -> Result<()> {
    let (stage, _) = Stage::with_one_and_a_key(Variant::G14).await?;
    let wallet = stage.fleet.wallet(0);
    stage.keys.chain.set_balance(wallet, U256::ZERO).await?;
    let context = stage.ethereum().define_context(&stage.nodes(&OLD), AGREE).await?;
    stage.held(context, "no_funds").await?;
    stage.ethereum().destroy_context(context).await?;
    stage.settled(end_of(context), "no_answer_due").await?;
    destroyed_at(&stage, OWN, context, &[]).await?;
    stage.fleet.parties.hosts[0].anvil.fund(wallet).await?;
    stage.settled(context, "aborted").await?;
    let next = stage.ethereum().define_context(&stage.nodes(&OLD), AGREE).await?;
    stage.settled(next, "accepted").await?;
    assert_eq!(stage.ethereum().confirmations(context).await?.len(), 0);
    let (first, _) = stage.ethereum().in_force().await?;
    assert_eq!(stage.core(0).contexts(), [first, next]);
    stage.fleet.unbroken()
}

/// A Core that makes an epoch destroys no context: that is asked again until it is done.
#[world::test]
async fn a_context_destroyed_while_its_epoch_is_made_aborts_the_epoch() -> Result<()> {
    let (stage, _) = Stage::with_one_and_a_key(Variant::G14).await?;
    let (_, first_epoch) = stage.ethereum().in_force().await?;
    stage.core(0).change(|core| core.never_finish = true);
    let context = stage.ethereum().define_context(&stage.nodes(&OLD), AGREE).await?;
    stage.others_confirm_context(context).await?;
    let epoch = first_epoch + U256::ONE;
    stage.taken_by_cores(OWN, epoch).await?;
    stage.ethereum().destroy_context(context).await?;
    stage.put_off(context, 2).await?;
    stage.core(0).change(|core| core.never_finish = false);
    stage.settled(epoch, "aborted").await?;
    stage.settled(end_of(context), "no_answer_due").await?;
    destroyed_at(&stage, OWN, context, &[epoch]).await?;
    assert!(!stage.core(0).contexts().contains(&context));
    assert_eq!(stage.core(0).epochs(), [U256::ZERO; 0]);
    assert_eq!(stage.ethereum().confirmations(epoch).await?.len(), 0);
    assert_eq!(stage.sent().await?, 1, "of the context");
    stage.fleet.unbroken()
}

/// One that is being made, and one that was in force.
#[world::test]
async fn a_destroyed_epoch_is_aborted_or_forgotten_by_the_core() -> Result<()> {
    let (stage, _) = Stage::with_one_and_a_key(Variant::G14).await?;
    let (context, _) = stage.ethereum().in_force().await?;
    stage.core(0).change(|core| core.never_finish = true);
    let given_up = stage.ethereum().new_epoch().await?;
    stage.taken_by_cores(OWN, given_up).await?;
    stage.ethereum().destroy_epoch(given_up).await?;
    stage.put_off(given_up, 2).await?;
    stage.core(0).change(|core| core.never_finish = false);
    stage.settled(given_up, "aborted").await?;
    stage.settled(end_of(given_up), "no_answer_due").await?;
    assert_eq!(stage.sent().await?, 0);

    let [old, new] = [in_place(&stage, context).await?, in_place(&stage, context).await?];
    assert_eq!(stage.core(0).epochs(), [old, new]);
    stage.ethereum().destroy_epoch(old).await?;
    stage.settled(end_of(old), "no_answer_due").await?;
    for epoch in [given_up, old] {
        let destroyed = v1::DestroyMpcEpochRequest { epoch_id: Some(request_id(epoch)) };
        let told = stage.core(0).accepted_lifecycle(epoch);
        assert_eq!(told.last(), Some(&Lifecycle::DestroyEpoch(destroyed)));
        assert_eq!(told.len(), 2, "made and destroyed once");
    }
    assert_eq!(stage.core(0).epochs(), [new]);
    assert_eq!(stage.sent().await?, 2);
    stage.fleet.unbroken()
}

/// An epoch that all nodes confirm.
async fn in_place(stage: &Stage, context: U256) -> Result<U256> {
    let epoch = stage.ethereum().new_epoch().await?;
    stage.others_confirm_epoch(epoch).await?;
    stage.in_force(context, epoch).await?;
    stage.settled(epoch, "accepted").await?;
    Ok(epoch)
}

/// A vote cannot be taken back: it is not given against that of another.
#[world::test]
async fn an_epoch_that_another_node_confirmed_otherwise_is_not_confirmed() -> Result<()> {
    let (stage, _) = Stage::with_one_and_a_key(Variant::G14).await?;
    stage.core(0).change(|core| core.never_finish = true);
    let epoch = stage.ethereum().new_epoch().await?;
    stage.taken_by_cores(OWN, epoch).await?;
    let request = stage.ethereum().epoch_request(&stage.keys, epoch).await?;
    stage.core(1).change(|core| core.fault = Some(Fault::Diverges));
    let theirs = stage.core(1).epoch_result(&request);
    let (wallet, ours) = (stage.fleet.wallet(1), stage.core(0).epoch_result(&request));
    stage.ethereum().chain.send(stage.ethereum().confirm_epoch(wallet, epoch, &theirs)).await?;
    stage.core(0).change(|core| core.never_finish = false);
    let told = stage.held(epoch, "result_differs").await?;
    for result in [ours, theirs] {
        assert!(told.contains(&data_hash(&result).to_string()), "{told}");
    }
    // Nor later.
    let polls = stage.keys.chain.block_number().await? + 12;
    until("some seconds", PATIENCE, POLL, async || {
        Ok((stage.keys.chain.block_number().await? > polls).then_some(()))
    })
    .await?;
    stage.held(epoch, "result_differs").await?;
    assert_eq!(stage.ethereum().confirmations(epoch).await?.len(), 1);
    assert_eq!(stage.sent().await?, 0);
    stage.fleet.unbroken()
}

/// The Core has the epoch and not its result, which was in its memory.
#[world::test]
async fn an_epoch_whose_result_the_core_lost_waits_for_a_person() -> Result<()> {
    let (mut stage, _) = Stage::with_one_and_a_key(Variant::G14).await?;
    stage.core(0).change(|core| core.never_finish = true);
    let epoch = stage.ethereum().new_epoch().await?;
    stage.taken_by_cores(OWN, epoch).await?;
    stage.row("it is asked", |row| row.id == epoch && row.stage == "asked").await?;
    stage.fleet.supervisor.kill();
    // It is made, and told to nobody.
    stage.core(0).change(|core| (core.never_finish, core.key_latency) = (false, Duration::ZERO));
    stage.fleet.parties.list[0].core.restart().await;
    stage.fleet.supervisor.start(program())?;
    let told = stage.held(epoch, "epoch_result_lost").await?;
    assert!(told.contains("InvalidArgument"), "with what the Core said: {told}");
    assert_eq!(codes(stage.core(0), epoch)[..2], [Code::Ok, Code::InvalidArgument]);
    assert_eq!(stage.core(0).accepted_lifecycle(epoch).len(), 1);
    assert_eq!(stage.sent().await?, 0);
    // The others go on without it, and it is over for this node once the owner gives it up.
    stage.ethereum().destroy_epoch(epoch).await?;
    stage.settled(epoch, "aborted").await?;
    stage.fleet.unbroken()
}

/// The keys to be shared anew are those of a block whose state most nodes drop. A second node that keeps it is named.
#[world::test]
async fn without_a_node_that_keeps_old_state_an_epoch_waits_and_is_then_made() -> Result<()> {
    let mut stage = Stage::set(SceneOptions::of(Variant::G14)).await?;
    stage.made_before().await?;
    let node = &stage.fleet.parties.hosts[0].anvil;
    let (whole, pruned) = (node.ws_url(), FaultyRpc::start(&node.http_url()).await?);
    pruned.lie(|lies| lies.no_old_state_of = Some(stage.keys.address));
    // Also as the host chain's node, which is asked too.
    let named = |url: &str| format!("ethereum_url = \"{url}\"");
    let config = stage.config_from_now(0, SOON_FINAL).await?;
    let config = config.replace(&whole, &pruned.ws_url());
    stage.fleet.supervisor.configs.write(&name(0), &config)?;
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;

    let epoch = stage.ethereum().new_epoch().await?;
    let told = stage.held(epoch, "archive_node_needed").await?;
    assert!(told.contains("ethereum_fallback_urls"), "{told}");
    assert_eq!(stage.core(0).lifecycle_asks(), []);
    let both = format!("{}\nethereum_fallback_urls = [\"{whole}\"]", named(&pruned.ws_url()));
    let config = config.replace(&named(&pruned.ws_url()), &both);
    stage.fleet.supervisor.configs.write(&name(0), &config)?;
    stage.settled(epoch, "accepted").await?;
    stage.others_confirm_epoch(epoch).await?;
    stage.confirmed(epoch, &OLD).await?;
    let request = stage.ethereum().epoch_request(&stage.keys, epoch).await?;
    assert_eq!(stage.core(0).accepted_lifecycle(epoch), [Lifecycle::NewEpoch(request)]);
    stage.fleet.unbroken()
}

/// A key is being prepared when an epoch begins, and a CRS is asked for while the Core makes that: it takes none then.
#[world::test]
async fn keys_and_an_epoch_at_the_same_time_all_end_right() -> Result<()> {
    let (stage, _) = Stage::with_one_and_a_key(Variant::G14).await?;
    let (context, first_epoch) = stage.ethereum().in_force().await?;
    stage.core(0).change(|core| core.never_finish = true);
    let preparation = stage.keys.keygen().await?;
    let key = preparation.key();
    asked(&stage, &preparation).await?;
    let epoch = stage.ethereum().new_epoch().await?;
    stage.taken_by_cores(OWN, epoch).await?;
    let crs = stage.keys.crsgen().await?;
    let told = until("the CRS is put off", PATIENCE, POLL, async || {
        let rows = stage.fleet.key_entries(0)?;
        let waits = |row: &&world::journal::Entry| row.id == crs.id && reason_of(row).is_some();
        Ok(rows.iter().find(waits).and_then(|row| row.held.clone()))
    });
    let (_, told) = stage.told(told.await)?;
    assert!(told.contains("KMS context or an epoch"), "{told}");

    stage.core(0).change(|core| core.never_finish = false);
    stage.others_confirm_epoch(epoch).await?;
    stage.in_force(context, epoch).await?;
    stage.confirmed(epoch, &OLD).await?;
    stage.voted(&[&preparation, &crs]).await?;
    stage.voted(&[&key]).await?;
    stage.answered(&OLD, &[&preparation, &key, &crs]).await?;
    for request in [&preparation, &key, &crs] {
        stage.settled(request.id, "accepted").await?;
        assert_eq!(stage.core(0).accepted_key(request.operation, request.id), 1);
        // Each belongs to the epoch that was in force when it was asked for.
        let of = world::lifecycle::extra_data_of(context, first_epoch);
        assert_eq!(request.extra_data, of);
    }
    assert_eq!(stage.core(0).accepted_lifecycle(epoch).len(), 1);
    assert_eq!(stage.sent().await?, 4);
    // A key that was made after the epoch's block is shared with the next one.
    let next = in_place(&stage, context).await?;
    let [Lifecycle::NewEpoch(request)] = &stage.core(0).accepted_lifecycle(next)[..] else {
        return Err(Error::other("one epoch"));
    };
    let shared = request.previous_epoch.as_ref().map(|previous| &previous.keys_info);
    let mut shared = shared.into_iter().flatten().filter_map(|one| one.key_id.clone());
    assert_eq!(shared.next_back(), Some(request_id(key.id)));
    stage.fleet.unbroken()
}

/// Waits until party 0's Core works on it.
async fn asked(stage: &Stage, request: &KeyRequest) -> Result<()> {
    let seen = until("it is asked", PATIENCE, POLL, async || {
        Ok((stage.core(0).accepted_key(request.operation, request.id) == 1).then_some(()))
    });
    stage.told(seen.await)
}
