//! What goes wrong with keys and CRSs: nothing wrong is sent, nothing is asked twice, and what waits for
//! somebody waits under its name.

use std::time::Duration;

use alloy::primitives::{U256, keccak256};
use world::{
    Result,
    contracts::Variant,
    core_stub::{CoreVersion, Fault, KeyOperation},
    fleet::name,
    journal::Entry,
    key_contracts::{OnGateway, RawLog, raw},
    program, random_key,
    request::Ask,
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::stage::{POLL, Stage, reason_of};

#[world::test]
async fn an_event_that_comes_twice_is_one_request() -> Result<()> {
    let stage = Stage::with_one(Variant::G12, "").await?;
    let preprocessing = stage.keys.keygen().await?;
    let key = preprocessing.key();
    let again = OnGateway::PrepKeygenRequest {
        prepKeygenId: preprocessing.id,
        epochId: U256::ZERO,
        paramsType: 1,
    };
    stage.keys.emit_raw(vec![raw(&again), raw(&again)]).await?;
    stage.others_vote(&preprocessing).await?;
    let again = OnGateway::KeygenRequest { prepKeygenId: preprocessing.id, keyId: key.id };
    stage.keys.emit_raw(vec![raw(&again)]).await?;
    stage.others_vote(&key).await?;
    stage.answered(&[0, 1, 2, 3], &[&preprocessing, &key]).await?;
    for request in [&preprocessing, &key] {
        assert_eq!(stage.core(0).accepted_key(request.operation, request.id), 1);
        let rows = stage.fleet.key_entries(0)?.into_iter().filter(|entry| entry.id == request.id);
        assert_eq!(rows.count(), 1);
    }
    Ok(())
}

/// A Core that restarted between the two has no preprocessing to make the key of. One node alone
/// cannot make another.
#[world::test]
async fn a_key_whose_preprocessing_the_core_lost_is_held() -> Result<()> {
    let mut stage = Stage::with_one(Variant::G10, "").await?;
    let preprocessing = stage.keys.keygen().await?;
    let key = preprocessing.key();
    until("our vote", PATIENCE, POLL, async || {
        Ok((stage.mine(&preprocessing).await? == 1).then_some(()))
    })
    .await?;
    stage.fleet.parties.list[0].core.restart().await;
    stage.others_vote(&preprocessing).await?;
    stage.held(key.id, "core_lacks_preparation").await?;
    assert_eq!(stage.mine(&key).await?, 0);
    Ok(())
}

/// The preprocessing of the pair was before this node's time.
#[world::test]
async fn a_key_without_its_preprocessing_is_held() -> Result<()> {
    let mut stage = Stage::set(SceneOptions::of(Variant::G10)).await?;
    let preprocessing = stage.keys.keygen().await?;
    let key = preprocessing.key();
    let begin = stage.keys.chain.block_number().await? + 1;
    let config = stage.fleet.config(0, "");
    let since = format!("starting_block = {}", stage.fleet.deployment().since_block);
    let config = config.replace(&since, &format!("starting_block = {begin}"));
    stage.fleet.supervisor.configs.write(&name(0), &config)?;
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;
    stage.others_vote(&preprocessing).await?;
    stage.held(key.id, "core_lacks_preparation").await?;
    assert_eq!(stage.core(0).accepted_key(KeyOperation::Key, key.id), 0);
    Ok(())
}

/// Digests of a kind that no contract knows, digests that are not those signed, none at all.
#[world::test]
async fn an_answer_that_cannot_be_voted_is_held_until_the_core_gives_another() -> Result<()> {
    let stage = Stage::with_one(Variant::G12, "").await?;
    let preprocessing = stage.keys.keygen().await?;
    let key = preprocessing.key();
    stage.answered(&[0], &[&preprocessing]).await?;
    stage.core(0).change(|behaviour| behaviour.fault = Some(Fault::UnknownKeyType));
    stage.others_vote(&preprocessing).await?;
    stage.held(key.id, "invalid_answer").await?;
    for fault in [Fault::Empty, Fault::NoSignature, Fault::OtherRequest] {
        stage.core(0).change(|behaviour| behaviour.fault = Some(fault));
        let polls = stage.core(0).polls(key.id);
        until("another look", PATIENCE, POLL, async || {
            Ok((stage.core(0).polls(key.id) > polls + 1).then_some(()))
        })
        .await?;
        stage.held(key.id, "invalid_answer").await?;
        assert_eq!(stage.mine(&key).await?, 0, "{fault:?}");
    }
    stage.core(0).change(|behaviour| behaviour.fault = None);
    stage.answered(&[0], &[&key]).await
}

#[world::test]
async fn a_signature_by_another_key_is_held() -> Result<()> {
    let stage = Stage::with_one(Variant::G10, "").await?;
    let registered = stage.fleet.parties.list[0].signer.clone();
    stage.core(0).set_signer(random_key());
    let crs = stage.keys.crsgen().await?;
    let preprocessing = stage.keys.keygen().await?;
    stage.held(crs.id, "signer_mismatch").await?;
    stage.held(preprocessing.id, "signer_mismatch").await?;
    assert_eq!(stage.mine(&crs).await?, 0);
    stage.core(0).set_signer(registered);
    stage.answered(&[0], &[&crs, &preprocessing]).await
}

/// A vote cannot be taken back: it is not given against those of others.
#[world::test]
async fn a_result_that_differs_from_the_votes_of_others_is_not_voted() -> Result<()> {
    for variant in [Variant::V0_9_7, Variant::G12] {
        let stage = Stage::with_one(variant, "").await?;
        let core = stage.core(0);
        core.change(|behaviour| {
            behaviour.fault = Some(Fault::Diverges);
            behaviour.never_finish = true;
        });
        let crs = stage.keys.crsgen().await?;
        stage.others_vote(&crs).await?;
        core.change(|behaviour| behaviour.never_finish = false);
        let told = stage.held(crs.id, "result_differs").await?;
        for digest in
            [core, stage.core(1)].map(|core| core.answer_to(&crs.ask()).digests[0].1.clone())
        {
            let digest = alloy::hex::encode(digest);
            assert!(told.contains(&digest), "{digest} in {told}");
        }
        assert_eq!(stage.mine(&crs).await?, 0);
        core.change(|behaviour| behaviour.fault = None);
        stage.answered(&[0, 1, 2, 3], &[&crs]).await?;
    }
    Ok(())
}

#[world::test]
async fn an_event_of_another_version_is_held_and_not_lost() -> Result<()> {
    let stage = Stage::with_one(Variant::G12, "").await?;
    let topic = keccak256("KeygenRequest(uint256,uint256,uint256)");
    stage.keys.emit_raw(vec![RawLog { topics: vec![topic], data: vec![7; 96].into() }]).await?;
    let held = |entry: &Entry| reason_of(entry) == Some("unsupported_event");
    stage.row("an unsupported event", held).await?;
    // A Core that has this call is told; a later one has none.
    let prss = stage.keys.send(&OnGateway::prssInitCall {}).await?.transaction_hash;
    let told = |entry: &Entry| {
        entry.outcome.as_deref() == Some("no_answer_due")
            || reason_of(entry) == Some("core_version")
    };
    stage.row("randomness", |entry| entry.event_transaction == prss && told(entry)).await?;
    assert_eq!(stage.fleet.key_entries(0)?.into_iter().filter(held).count(), 1);
    // And what it knows goes on.
    let crs = stage.keys.crsgen().await?;
    stage.answered(&[0], &[&crs]).await
}

#[world::test]
async fn a_core_of_a_later_version_is_not_asked() -> Result<()> {
    let options = SceneOptions { core: CoreVersion::V0_13_20, ..SceneOptions::of(Variant::G12) };
    let mut stage = Stage::set(options).await?;
    stage.fleet.write(0, "")?;
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;
    let crs = stage.keys.crsgen().await?;
    let preprocessing = stage.keys.keygen().await?;
    stage.held(preprocessing.id, "core_version").await?;
    stage.held(crs.id, "core_version").await?;
    assert_eq!(stage.core(0).key_asks(), []);
    Ok(())
}

/// The Core can be told 32 bits of it.
#[world::test]
async fn a_crs_of_more_bits_than_can_be_asked_for_is_refused() -> Result<()> {
    let stage = Stage::with_one(Variant::G10, "").await?;
    let crs = stage.keys.crsgen_of((U256::from(1) << 32) + U256::from(2048)).await?;
    stage.settled(crs.id, "refused").await?;
    assert_eq!(stage.core(0).key_asks(), []);
    Ok(())
}

/// While something runs in the Core that excludes it, a request waits.
#[world::test]
async fn what_the_core_cannot_begin_yet_is_asked_again() -> Result<()> {
    let stage = Stage::with_one(Variant::G12, "").await?;
    stage.core(0).change(|behaviour| behaviour.lifecycle_runs = true);
    let crs = stage.keys.crsgen().await?;
    until("it is asked", PATIENCE, POLL, async || {
        Ok((stage.core(0).key_asks().len() > 1).then_some(()))
    })
    .await?;
    stage.core(0).change(|behaviour| behaviour.lifecycle_runs = false);
    stage.answered(&[0], &[&crs]).await?;
    assert_eq!(stage.core(0).accepted_key(KeyOperation::Crs, crs.id), 1);
    Ok(())
}

/// Decryptions that fill every place are not in its way.
#[world::test]
async fn key_operations_have_places_of_their_own() -> Result<()> {
    let stage = Stage::with_one(Variant::G10, "max_requests_in_flight = 2").await?;
    stage.core(0).change(|core| core.latency = Duration::from_mins(10));
    let decryptions = stage.fleet.request(Ask::mixed(4, 0)).await?;
    until("both places are taken", PATIENCE, POLL, async || {
        Ok((stage.core(0).asks().len() >= 2).then_some(()))
    })
    .await?;
    let crs = stage.keys.crsgen().await?;
    stage.answered(&[0], &[&crs]).await?;
    stage.settled(crs.id, "accepted").await?;
    assert!(stage.core(0).asks().len() < decryptions.len(), "the places are still taken");
    Ok(())
}
