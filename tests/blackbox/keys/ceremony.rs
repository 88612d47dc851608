//! A ceremony of four parties, each with a connector: preprocessing, key, CRS, to activation on chain.

use std::time::Duration;

use alloy::primitives::U256;
use world::{
    Result,
    contracts::Variant,
    core_stub::{KeyAsk, KeyOperation},
    fleet::name,
    host::HostOptions,
    key_contracts::KMSGeneration,
    key_generation::KeyRequest,
    program,
    request::{Ask, fhe},
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::stage::{POLL, SOON_FINAL, Stage};

pub const ALL: [usize; 4] = [0, 1, 2, 3];

/// Asks for a key and a CRS, and waits until every party has answered each of the three requests.
async fn ceremony(stage: &Stage) -> Result<[KeyRequest; 3]> {
    let preprocessing = stage.keys.keygen().await?;
    let key = preprocessing.key();
    let crs = stage.keys.crsgen().await?;
    stage.answered(&ALL, &[&preprocessing, &key, &crs]).await?;
    Ok([preprocessing, key, crs])
}

/// The key and the CRS of a ceremony are the ones in force, as all Cores made them.
pub async fn in_force(stage: &Stage, [_, key, crs]: &[KeyRequest; 3]) -> Result<()> {
    let keys = &stage.keys;
    assert_eq!(keys.view(KMSGeneration::getActiveKeyIdCall {}).await?, key.id);
    assert_eq!(keys.view(KMSGeneration::getActiveCrsIdCall {}).await?, crs.id);
    let told = keys.view(KMSGeneration::getKeyMaterialsCall { keyId: key.id }).await?.digests;
    let told: Vec<_> = told.into_iter().map(|one| (one.keyType, one.digest.0)).collect();
    assert_eq!(told, stage.core(0).answer_to(&key.ask()).digests);
    Ok(())
}

/// Each request was asked of a party's own Core once, as the chain told it.
pub fn asked_as_told(stage: &Stage, party: usize, requests: &[KeyRequest]) {
    let asks = stage.core(party).key_asks();
    for request in requests {
        let id = format!("{:064x}", request.id);
        let mine: Vec<&KeyAsk> =
            asks.iter().filter(|ask| ask.operation == request.operation && ask.id == id).collect();
        assert_eq!(mine.len(), 1, "party {party}: {request:?}");
        let wanted = request.ask();
        assert_eq!(mine[0].extra_data, wanted.extra_data, "{request:?}");
        assert_eq!(mine[0].keyset, wanted.keyset, "{request:?}");
        assert_eq!(mine[0].preprocessing, wanted.preprocessing);
        // As the event says; a key's are those of its preprocessing.
        let params = (request.operation != KeyOperation::Key).then_some(1);
        assert_eq!(mine[0].params, params, "{request:?}");
        assert_eq!(mine[0].context_id.is_some(), stage.keys.is_on_ethereum());
    }
}

/// Decryptions under a new key are answered by all.
pub async fn decrypts(stage: &Stage, key: &KeyRequest) -> Result<()> {
    let ask = || Ask { key_id: key.id, ..Ask::public(&[fhe::UINT64]) };
    let asks = vec![ask(), ask()];
    for chain in &stage.fleet.parties.hosts {
        chain.host.grant(&asks).await?;
    }
    let issued = stage.fleet.request(asks).await?;
    stage.fleet.answered_by(&ALL, &issued).await?;
    let key_id = format!("{:064x}", key.id);
    for party in ALL {
        assert!(stage.core(party).asks().iter().all(|ask| ask.key_id == key_id));
    }
    Ok(())
}

async fn is_held_on(variant: Variant, more: &str) -> Result<()> {
    let mut options = SceneOptions::of(variant);
    if variant.since(Variant::G12) {
        let block_time = Some(Duration::from_millis(250));
        options.hosts.push(HostOptions::of(variant).block_time(block_time));
    }
    let mut stage = Stage::set(options).await?;
    for party in ALL {
        stage.fleet.write(party, more)?;
    }
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&ALL.map(name)).await?;
    let requests = ceremony(&stage).await?;
    in_force(&stage, &requests).await?;
    for party in ALL {
        asked_as_told(&stage, party, &requests);
    }
    // And again: the next numbers.
    let again = ceremony(&stage).await?;
    in_force(&stage, &again).await?;
    stage.fleet.unbroken()?;
    let ids: Vec<U256> = requests.iter().chain(&again).map(|request| request.id).collect();
    stage.fleet.audit_keys(&ALL, &ids).await?;
    for party in ALL {
        let sent = stage.keys.chain.nonce(stage.fleet.wallet(party)).await?;
        let warnings = stage.warnings();
        assert_eq!(sent, 6, "party {party} sends each answer and nothing else\n{warnings}");
    }
    let [_, key, _] = &again;
    decrypts(&stage, key).await?;
    assert_eq!(stage.fleet.supervisor.stop().await?, Some(0));
    Ok(())
}

#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_g9() -> Result<()> {
    is_held_on(Variant::V0_9_7, "").await
}

#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_g10() -> Result<()> {
    is_held_on(Variant::G10, "").await
}

#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_g12() -> Result<()> {
    is_held_on(Variant::G12, "").await
}

#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_ethereum_of_g13() -> Result<()> {
    is_held_on(Variant::G13, SOON_FINAL).await
}

#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_ethereum_of_g14() -> Result<()> {
    is_held_on(Variant::G14, SOON_FINAL).await
}

/// Its operators have agreed on the kind of key.
#[world::test]
async fn four_parties_make_a_key_and_a_crs_on_ethereum_of_head() -> Result<()> {
    is_held_on(Variant::Head, &format!("{SOON_FINAL}\nkey_representation = \"compressed\"")).await
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
    let ids = [preprocessing.id, key.id, crs.id];
    in_force(&stage, &[preprocessing, key, crs]).await?;
    stage.fleet.audit_keys(&ALL, &ids).await?;
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
