//! A ceremony of four parties, each with a connector: preprocessing, key, CRS, to activation on chain.

use std::time::Duration;

use world::{
    Result,
    contracts::Variant,
    core_stub::KeyOperation,
    key_contracts::KMSGeneration,
    key_generation::KeyRequest,
    program,
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::stage::{POLL, Stage};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// Asks for a key and a CRS, and waits until every party has answered each of the three requests.
async fn ceremony(stage: &Stage) -> Result<[KeyRequest; 3]> {
    let preprocessing = stage.keys.keygen().await?;
    let key = preprocessing.key();
    let crs = stage.keys.crsgen().await?;
    stage.answered(&ALL, &[&preprocessing, &key, &crs]).await?;
    Ok([preprocessing, key, crs])
}

/// The key and the CRS of a ceremony are the ones in force, as all Cores made them.
async fn in_force(stage: &Stage, [_, key, crs]: &[KeyRequest; 3]) -> Result<()> {
    let keys = &stage.keys;
    assert_eq!(keys.view(KMSGeneration::getActiveKeyIdCall {}).await?, key.id);
    assert_eq!(keys.view(KMSGeneration::getActiveCrsIdCall {}).await?, crs.id);
    let told = keys.view(KMSGeneration::getKeyMaterialsCall { keyId: key.id }).await?.digests;
    let told: Vec<_> = told.into_iter().map(|one| (one.keyType, one.digest.0)).collect();
    assert_eq!(told, stage.core(0).answer_to(&key.ask()).digests);
    Ok(())
}

async fn is_held_on(variant: Variant) -> Result<()> {
    let mut stage = Stage::set(SceneOptions::of(variant)).await?;
    stage.fleet.run_all(program()).await?;
    let requests = ceremony(&stage).await?;
    in_force(&stage, &requests).await?;
    for party in ALL {
        for request in &requests {
            let asked = stage.core(party).accepted_key(request.operation, request.id);
            assert_eq!(asked, 1, "party {party} asks its own Core once: {request:?}");
        }
        let asks = stage.core(party).key_asks();
        let preprocessing = asks.iter().find(|ask| ask.operation == KeyOperation::Preprocessing);
        assert_eq!(preprocessing.and_then(|ask| ask.params), Some(1), "as the event says");
        assert!(asks.iter().all(|ask| ask.keyset.is_none() && ask.extra_data.is_empty()));
        let made = asks.iter().find(|ask| ask.operation == KeyOperation::Key);
        assert_eq!(made.and_then(|ask| ask.params), None, "a key's are its preprocessing's");
    }
    // And again: the next numbers.
    let requests = ceremony(&stage).await?;
    in_force(&stage, &requests).await?;
    stage.fleet.unbroken()?;
    assert_eq!(stage.fleet.supervisor.stop().await?, Some(0));
    Ok(())
}

#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_g9() -> Result<()> {
    is_held_on(Variant::V0_9_7).await
}

#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_g10() -> Result<()> {
    is_held_on(Variant::G10).await
}

#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_g12() -> Result<()> {
    is_held_on(Variant::G12).await
}

/// The process dies at ten random moments. A Core that restarts loses what it is at, but for a CRS that is
/// stored; a preprocessing that was voted for and is lost can be made by no node alone, so Cores restart
/// here while the CRS is made.
#[world::test]
async fn kill_nine_and_restarts_of_cores_lose_and_double_no_vote() -> Result<()> {
    let seed = std::env::var_os("CRASH_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("CRASH_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut stage = Stage::set(SceneOptions::of(Variant::G10)).await?;
    stage.fleet.run_all(program()).await?;
    for party in &stage.fleet.parties.list {
        // Long enough for a kill to find it at work.
        party.core.change(|behaviour| behaviour.key_latency = Duration::from_millis(700));
    }
    let crs = stage.keys.crsgen().await?;
    for _ in 0..5 {
        kill_and_start(&mut stage, &mut rng).await?;
        let party = rng.usize(0..4);
        stage.fleet.parties.list[party].core.restart().await;
    }
    let preprocessing = stage.keys.keygen().await?;
    for _ in 0..5 {
        kill_and_start(&mut stage, &mut rng).await?;
    }
    let key = preprocessing.key();
    stage.answered(&ALL, &[&crs, &preprocessing, &key]).await?;
    in_force(&stage, &[preprocessing, key, crs]).await?;
    stage.fleet.unbroken()
}

async fn kill_and_start(stage: &mut Stage, rng: &mut fastrand::Rng) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(rng.u64(100..1500))).await;
    stage.fleet.supervisor.alive()?;
    stage.fleet.supervisor.kill();
    stage.fleet.supervisor.start(program())
}

/// What a Core was at when it restarted is asked of it again, and answered once.
#[world::test]
async fn a_core_that_restarts_at_work_is_asked_again() -> Result<()> {
    let mut stage = Stage::with_one(Variant::G12, "").await?;
    stage.core(0).change(|behaviour| behaviour.never_finish = true);
    let crs = stage.keys.crsgen().await?;
    let preprocessing = stage.keys.keygen().await?;
    for request in [&preprocessing, &crs] {
        until("it is polled", PATIENCE, POLL, async || {
            Ok((stage.core(0).polls(request.id) > 0).then_some(()))
        })
        .await?;
    }
    stage.fleet.parties.list[0].core.restart().await;
    stage.core(0).change(|behaviour| behaviour.never_finish = false);
    for request in [&preprocessing, &crs] {
        stage.others_vote(request).await?;
        stage.answered(&ALL, &[request]).await?;
        assert_eq!(stage.core(0).accepted_key(request.operation, request.id), 2);
    }
    Ok(())
}
