//! A13: a journal is lost, and the Core has another signing key since. The contract refuses a second
//! answer by signer, so it would take one: the connector finds what its wallet has answered.

use std::time::Duration;

use alloy::{
    primitives::{Bytes, U256},
    sol_types::SolValue as _,
};
use world::{
    Error, Result,
    contracts::Variant,
    deployment::{Node, Thresholds},
    faulty_rpc::FaultyRpc,
    program, random_key,
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions, tail},
    until,
};

/// As many blocks as an answer has to be under.
const SETTLED: u64 = 12;

/// Answers requests, with consensus and without, then loses the journal and changes the Core's key.
async fn a_lost_life(variant: Variant) -> Result<(Scene, Vec<Issued>)> {
    let mut scene = Scene::new(SceneOptions::of(variant)).await?;
    scene.start(program())?;
    let mut answered = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.answered(&answered).await?;
    scene.deployment.set_thresholds(Thresholds { public: 2, user: 2 }).await?;
    let more = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.answered(&more).await?;
    answered.extend(more);
    scene.kill();
    std::fs::remove_dir_all(scene.state_dir())
        .map_err(|error| Error::Io("the state directory".into(), error))?;
    let signer = random_key();
    scene.core.set_signer(signer.clone());
    scene.core.forget();
    let node = Node { wallet: scene.wallet.address(), signer: signer.address() };
    scene.deployment.register(node).await?;
    scene.deployment.chain.mine(SETTLED).await?;
    Ok((scene, answered))
}

/// Waits until the journal has an outcome for each of these, and answers how they ended.
async fn outcomes(scene: &Scene, requests: &[Issued]) -> Result<Vec<String>> {
    let sql = "SELECT id, outcome FROM requests WHERE outcome IS NOT NULL";
    let ended = until("the outcomes", PATIENCE, Duration::from_millis(50), async || {
        if scene.journal().is_none() {
            return Ok(None);
        }
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?));
        let rows: Vec<(Vec<u8>, String)> = scene.query(sql, read).unwrap_or_default();
        let outcome = |one: &Issued| {
            let id = one.id.to_be_bytes::<32>();
            rows.iter().find(|row| row.0 == id).map(|row| row.1.clone())
        };
        Ok(requests.iter().map(outcome).collect::<Option<Vec<String>>>())
    });
    ended.await.map_err(|error| Error::other(format!("{error}\n{}", tail(&scene.log()))))
}

async fn answers(scene: &Scene, id: U256) -> Result<usize> {
    Ok(scene.deployment.response(id).await?.len())
}

async fn none_is_answered_twice(variant: Variant) -> Result<()> {
    let (mut scene, old) = a_lost_life(variant).await?;
    // Nobody has answered these.
    let missed = scene.deployment.request(Ask::mixed(1, 1)).await?;
    let config = scene.config("");
    assert!(config.contains("starting_block"), "from before the first request");
    scene.start_with(program(), &config)?;
    scene.answered(&missed).await?;
    let ended = outcomes(&scene, &old).await?;
    assert!(ended.iter().all(|outcome| outcome == "already_answered"), "{ended:?}");
    // Also what an operator has read again, and whatever a later start makes of it.
    scene.kill();
    scene.start_again(program())?;
    let fresh = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&fresh).await?;
    for one in old.iter().chain(&missed).chain(&fresh) {
        assert_eq!(answers(&scene, one.id).await?, 1, "{:#x}", one.id);
    }
    Ok(())
}

#[world::test]
async fn a13_g7_answers_nothing_twice_after_its_journal_was_lost() -> Result<()> {
    none_is_answered_twice(Variant::G7).await
}

#[world::test]
async fn a13_g8_answers_nothing_twice_after_its_journal_was_lost() -> Result<()> {
    none_is_answered_twice(Variant::G8).await
}

#[world::test]
async fn a13_v0_9_answers_nothing_twice_after_its_journal_was_lost() -> Result<()> {
    none_is_answered_twice(Variant::V0_9_0).await
}

#[world::test]
async fn a13_g10_answers_nothing_twice_after_its_journal_was_lost() -> Result<()> {
    none_is_answered_twice(Variant::G10).await
}

/// One of two nodes says of everything that this wallet has answered it.
#[world::test]
async fn a13_a_node_that_lies_about_answers_loses_no_request() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let (liar, honest) = (
        FaultyRpc::start(&scene.anvil.http_url()).await?,
        FaultyRpc::start(&scene.anvil.http_url()).await?,
    );
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.deployment.chain.mine(SETTLED).await?;
    let list = Bytes::from(vec![scene.wallet.address()].abi_encode());
    let consensus_tx_senders = "0x0900cc69";
    liar.lie(|lies| lies.views = vec![(consensus_tx_senders, serde_json::json!(list))]);
    let more = format!("gateway_fallback_urls = [\"{}\"]", honest.ws_url());
    let config = scene.config(&more).replace(&scene.anvil.ws_url(), &liar.ws_url());
    scene.start_with(program(), &config)?;
    scene.answered(&requests).await
}
