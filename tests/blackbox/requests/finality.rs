//! Requests wait until their block is deep enough, blocks leave the chain, and a Core may answer what
//! the chain does not ask for any more; several nodes under a whole connector.

use std::time::Duration;

use world::{
    Error, Result,
    audit::Journal,
    faulty_rpc::{FaultyRpc, Lie, Logs, Rule},
    program,
    proxy::Weather,
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

const POLL: Duration = Duration::from_millis(50);

async fn sleep(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// A scene whose chain makes blocks only when told to.
async fn still() -> Result<Scene> {
    let mut options = SceneOptions::default();
    options.anvil.block_time = None;
    Scene::new(options).await
}

fn stage(scene: &Scene, request: &Issued) -> Result<Option<(String, Option<String>)>> {
    let id = request.id.to_be_bytes::<32>();
    let rows = scene.query("SELECT id, stage, outcome FROM requests", |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get(2)?))
    })?;
    Ok(rows.into_iter().find(|row| row.0 == id).map(|row| (row.1, row.2)))
}

async fn is_stored(scene: &Scene, request: &Issued) -> Result<()> {
    until("the request in the journal", PATIENCE, POLL, async || {
        if scene.journal().is_none() {
            return Ok(None);
        }
        Ok(stage(scene, request).unwrap_or_default().map(drop))
    })
    .await
}

/// T17: journaled at once, asked of the Core when its block is deep enough; a restart waits again.
#[world::test]
async fn t17_a_request_waits_for_its_confirmations_also_after_a_restart() -> Result<()> {
    let mut scene = still().await?;
    let config = scene.config("public_decryption_confirmations = 12");
    scene.start_with(program(), &config)?;
    let public = scene.deployment.request(Ask::mixed(1, 0)).await?;
    let user = scene.deployment.request(Ask::mixed(0, 1)).await?;
    scene.answered(&user).await?;
    is_stored(&scene, &public[0]).await?;
    scene.kill();
    scene.start_again(program())?;
    let more = scene.deployment.request(Ask::mixed(0, 1)).await?;
    scene.answered(&more).await?;
    assert_eq!(stage(&scene, &public[0])?, Some(("arrived".into(), None)));
    assert!(scene.deployment.response(public[0].id).await?.is_empty());
    scene.deployment.chain.mine(12).await?;
    scene.answered(&public).await
}

#[world::test]
async fn t17_a_request_waits_for_the_finality_tag() -> Result<()> {
    let mut scene = still().await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let request = scene.deployment.request(Ask::mixed(1, 1)).await?;
    node.lie(|lies| lies.finalized = Some(request[0].block - 1));
    let config =
        scene.config("finality = \"finalized\"").replace(&scene.anvil.ws_url(), &node.ws_url());
    scene.start_with(program(), &config)?;
    is_stored(&scene, &request[0]).await?;
    scene.deployment.chain.mine(50).await?;
    sleep(3000).await;
    assert!(scene.deployment.answers().await?.is_empty());
    // No block is made: the tag alone moves.
    let block = request[1].block;
    node.lie(|lies| lies.finalized = Some(block));
    scene.answered(&request).await
}

/// Its block is gone before it was deep enough, and it does not come back: the Core never hears of
/// it.
#[world::test]
async fn a_request_whose_block_is_gone_ends_as_orphaned() -> Result<()> {
    let mut scene = still().await?;
    scene.deployment.chain.mine(5).await?;
    scene.start_with(program(), &scene.config("confirmations = 6"))?;
    let lost = scene.deployment.request(Ask::mixed(1, 0)).await?;
    is_stored(&scene, &lost[0]).await?;
    scene.deployment.chain.reorg(2).await?;
    scene.deployment.chain.mine(70).await?;
    until("its end", PATIENCE, POLL, async || {
        let stage = stage(&scene, &lost[0])?;
        Ok(stage.and_then(|stage| stage.1).filter(|outcome| outcome == "orphaned"))
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", scene.log())))?;
    Ok(())
}

/// The id goes to another request after the reorganisation: the Core, which knows requests by id
/// alone, still has the answer to the first one. It is recognised, sent to nobody, and the second
/// one is answered once the Core has forgotten. The first one ends by itself (A14).
#[world::test]
async fn an_answer_to_what_left_the_chain_is_recognised() -> Result<()> {
    let mut scene = still().await?;
    scene.deployment.chain.mine(5).await?;
    scene.start(program())?;
    let first = scene.deployment.request(Ask::mixed(1, 0)).await?;
    scene.answered(&first).await?;
    // The request and its answer leave the chain.
    let depth = scene.deployment.chain.block_number().await? - first[0].block + 1;
    scene.deployment.chain.reorg(depth).await?;
    let second = scene.deployment.request(Ask::mixed(1, 0)).await?;
    assert_eq!(first[0].id, second[0].id, "ids are counters");
    until("the hold", PATIENCE, POLL, async || {
        let rows = scene
            .query("SELECT hold_reason FROM requests", |row| row.get::<_, Option<String>>(0))?;
        Ok(rows.into_iter().flatten().any(|reason| reason == "stale_answer").then_some(()))
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", scene.log())))?;
    assert!(scene.deployment.answers().await?.is_empty());
    // A14: its answer is sent again, reverts, and is nobody's fault.
    let mut held = std::collections::BTreeSet::new();
    until("the first one's end", PATIENCE, POLL, async || {
        let reasons = scene
            .query("SELECT hold_reason FROM requests", |row| row.get::<_, Option<String>>(0))?;
        held.extend(reasons.into_iter().flatten());
        let ends = scene.query("SELECT outcome FROM requests ORDER BY seq", |row| {
            row.get::<_, Option<String>>(0)
        })?;
        Ok((ends[0].as_deref() == Some("orphaned")).then_some(()))
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", scene.log())))?;
    held.retain(|reason| reason != "stale_answer" && reason != "answer_dropped");
    assert!(held.is_empty(), "{held:?}");
    scene.core.restart().await;
    // The nonce of the first answer left the chain with it: bringing the second one there is the
    // lane's business, and not looked at here.
    until("the Core's answer to the second", PATIENCE, POLL, async || {
        let rows = scene.query("SELECT stage FROM requests WHERE hold_reason IS NULL", |row| {
            row.get::<_, String>(0)
        })?;
        let got_on = |stage: &&String| matches!(stage.as_str(), "answered" | "submitted");
        let settled = rows.iter().filter(|stage| *stage == "settled").count();
        Ok((settled == 2 || rows.iter().any(|stage| got_on(&stage))).then_some(()))
    })
    .await
}

/// The configuration with these nodes.
fn over(scene: &Scene, nodes: &[&FaultyRpc]) -> String {
    let fallback: Vec<String> =
        nodes[1..].iter().map(|node| format!("\"{}\"", node.ws_url())).collect();
    scene
        .config(&format!("gateway_fallback_urls = [{}]", fallback.join(", ")))
        .replace(&scene.anvil.ws_url(), &nodes[0].ws_url())
}

/// Each of two nodes goes away in turn while requests come: nobody notices.
#[world::test]
async fn one_node_of_two_is_enough() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let first = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let second = FaultyRpc::start(&scene.anvil.http_url()).await?;
    first.proxy.set(Weather::Cut);
    scene.start_with(program(), &over(&scene, &[&first, &second]))?;
    let mut requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.answered(&requests).await?;
    first.proxy.set(Weather::Clear);
    for (down, how) in
        [(&second, Weather::Cut), (&first, Weather::Silent), (&second, Weather::HalfClosed)]
    {
        down.proxy.set(how);
        let more = scene.deployment.request(Ask::mixed(3, 3)).await?;
        scene.answered(&more).await?;
        requests.extend(more);
        down.proxy.set(Weather::Clear);
        sleep(1500).await;
    }
    scene.audit(&requests, Journal::Whole).await
}

/// A1: the node that is read from shows no logs. Another one does; alone it is asked until it does.
#[world::test]
async fn a1_logs_that_a_node_hides_are_found() -> Result<()> {
    const RECEIPTS: &str = "eth_getBlockReceipts";
    let hide = |node: &FaultyRpc| {
        node.lie(|lies| lies.logs = Logs::Missing);
        node.rule(Rule::always(RECEIPTS, Lie::method_not_found()));
    };
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let first = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let second = FaultyRpc::start(&scene.anvil.http_url()).await?;
    scene.start_with(program(), &over(&scene, &[&first, &second]))?;
    let mut requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&requests).await?;
    hide(&first);
    let hidden = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered_within(&hidden, Duration::from_secs(8)).await?;
    assert!(scene.log().contains("hides logs"));
    hide(&second);
    requests.extend(hidden);
    let hidden = scene.deployment.request(Ask::mixed(1, 1)).await?;
    let listed = || scene.query("SELECT count(*) FROM unproven", |row| row.get::<_, u32>(0));
    until("the list", PATIENCE, POLL, async || Ok((listed()? != [0]).then_some(()))).await?;
    until("the question to both nodes", PATIENCE, POLL, async || {
        Ok((first.calls(RECEIPTS) > 0 && second.calls(RECEIPTS) > 0).then_some(()))
    })
    .await?;
    first.be_honest();
    scene.answered(&hidden).await?;
    until("the proof", PATIENCE, POLL, async || Ok((listed()? == [0]).then_some(()))).await?;
    requests.extend(hidden);
    scene.audit(&requests, Journal::Whole).await
}

/// B11: a node shows logs whose data is all zeroes, which ask for nothing: no request ends by that, and
/// what is in their place is answered.
#[world::test]
async fn b11_zeroed_logs_end_no_request() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    scene.start_with(program(), &over(&scene, &[&node]))?;
    scene.logged("instance running").await?;
    node.lie(|lies| lies.logs = Logs::Zeroed);
    let requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    let held = || {
        scene.query("SELECT hold_reason FROM requests WHERE hold_reason IS NOT NULL", |row| {
            row.get::<_, String>(0)
        })
    };
    until("the holds", PATIENCE, POLL, async || {
        Ok((held()?.iter().filter(|reason| *reason == "unconfirmed").count() == 2).then_some(()))
    })
    .await?;
    node.be_honest();
    scene.answered_within(&requests, PATIENCE * 2).await?;
    until("the end of what was never there", PATIENCE, POLL, async || {
        Ok(held()?.is_empty().then_some(()))
    })
    .await?;
    let outcomes =
        scene.query("SELECT outcome FROM requests ORDER BY seq", |row| row.get::<_, String>(0))?;
    assert_eq!(outcomes, ["orphaned", "orphaned", "accepted", "accepted"]);
    Ok(())
}

/// A6: a node whose headers have no `logsBloom`, told and asked for.
#[world::test]
async fn a6_a_node_without_blooms_serves_as_well() -> Result<()> {
    for scheme in ["ws", "http"] {
        let mut scene = Scene::new(SceneOptions::default()).await?;
        let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
        let of = ["eth_getBlockByNumber", "eth_getBlockByHash"];
        node.lie(|lies| lies.leaves_out = of.map(|method| (method, "logsBloom")).to_vec());
        let url = format!("{scheme}://{}", node.host());
        let config = scene.config("").replace(&scene.anvil.ws_url(), &url);
        scene.start_with(program(), &config)?;
        let requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
        scene.audit(&requests, Journal::Whole).await?;
    }
    Ok(())
}

/// Of two nodes one swallows every transaction, says yes, and forgets it; the other is slow.
#[world::test]
async fn a_node_that_accepts_and_forgets_costs_nothing() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let first = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let second = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let yes = Lie::Result(serde_json::json!(alloy::primitives::B256::ZERO));
    first.rule(Rule::always("eth_sendRawTransaction", yes));
    second.rule(Rule::share(0.5, "eth_sendRawTransaction", Lie::Late(Duration::from_millis(300))));
    scene.start_with(program(), &over(&scene, &[&first, &second]))?;
    let requests = scene.deployment.request(Ask::mixed(10, 10)).await?;
    scene.audit(&requests, Journal::Whole).await
}

/// T16: one node that shows its logs twice and in the wrong order, whose blooms are wrong,
/// and that is really two of different height.
#[world::test]
async fn t16_a_node_that_is_two_and_shows_logs_badly_loses_nothing() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let mut requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.deployment.chain.mine(120).await?;
    node.lie(|lies| {
        lies.second_node_lags = Some(60);
        lies.logs = Logs::Shuffled;
        lies.empty_blooms = true;
    });
    scene.start_with(program(), &over(&scene, &[&node]))?;
    requests.extend(scene.deployment.request(Ask::mixed(2, 2)).await?);
    scene.answered_within(&requests[..4], PATIENCE * 2).await?;
    // Read near the head or far from it by then, or not at all: not lost in any case.
    sleep(10_000).await;
    node.be_honest();
    scene.audit(&requests, Journal::Whole).await
}

#[world::test]
async fn nodes_of_another_chain_are_refused_only_together() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let first = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let second = FaultyRpc::start(&scene.anvil.http_url()).await?;
    first.lie(|lies| lies.chain_id = Some(1));
    scene.start_with(program(), &over(&scene, &[&first, &second]))?;
    let requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.audit(&requests, Journal::Whole).await?;
    assert!(scene.log().contains("a gateway node of another chain is left out"));
    scene.kill();
    second.lie(|lies| lies.chain_id = Some(1));
    scene.start_again(program())?;
    until("the refusal", PATIENCE, POLL, async || Ok(scene.alive().is_err().then_some(()))).await
}
