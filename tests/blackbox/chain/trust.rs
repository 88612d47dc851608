//! What one gateway node that lies may cost where there is another one.

use std::time::Duration;

use alloy::primitives::{B256, U256};
use world::{
    Error, Result,
    faulty_rpc::{FORGED, FaultyRpc, Logs},
    program,
    proxy::Weather,
    request::Ask,
    scene::{Scene, SceneOptions},
    until,
};

/// Everything the connector may ask of its nodes was asked.
const A_WHILE: Duration = Duration::from_secs(3);

/// The node that is read from shows requests that are not on chain: nobody has them decrypted.
#[world::test]
async fn b5_a_forged_log_is_not_asked_of_the_core() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let liar = FaultyRpc::start(&scene.anvil.http_url()).await?;
    liar.lie(|lies| lies.logs = Logs::Forged);
    let honest = format!("gateway_fallback_urls = [\"{}\"]", scene.anvil.ws_url());
    let config = scene.config(&honest);
    let named = format!("gateway_url = \"{}\"", scene.anvil.ws_url());
    let config = config.replace(&named, &format!("gateway_url = \"{}\"", liar.ws_url()));
    scene.start_with(program(), &config)?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.answered(&requests).await?;
    let rows = async |what: &str, like: &str| {
        until(what, A_WHILE * 5, A_WHILE / 30, async || {
            let count = format!("SELECT count(*) FROM requests WHERE {like}");
            let count = scene.query(&count, |row| row.get::<_, i64>(0))?;
            Ok((count.first() == Some(&4)).then_some(()))
        })
        .await
    };
    rows("the forged ones to be tried", "last_error LIKE '%does not have this request%'").await?;
    tokio::time::sleep(A_WHILE).await;
    for request in &requests {
        assert_eq!(scene.core.accepted(request.id), 1);
        let forged = request.id + U256::from(FORGED);
        assert_eq!(scene.core.accepted(forged), 0, "a forged one was asked");
    }
    // Once the liar is honest nobody has them.
    liar.be_honest();
    rows("the forged ones to end", "outcome = 'orphaned'").await
}

/// Nodes of other chains have the same chain id: which one is meant is not said by whoever is there
/// first.
#[world::test]
async fn b1_a_restart_with_only_a_liar_begins_no_other_journal() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start(program())?;
    scene.answered(&scene.deployment.request(Ask::mixed(1, 1)).await?).await?;
    scene.stop().await?;
    let liar = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let right = FaultyRpc::start(&scene.anvil.http_url()).await?;
    liar.lie(|lies| lies.other_blocks = vec![(0, B256::repeat_byte(9))]);
    right.proxy.set(Weather::Cut);
    let fallback = format!("gateway_fallback_urls = [\"{}\"]", liar.ws_url());
    let config = scene.config(&fallback).replace(
        &format!("gateway_url = \"{}\"", scene.anvil.ws_url()),
        &format!("gateway_url = \"{}\"", right.ws_url()),
    );
    scene.start_with(program(), &config)?;
    let requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.logged("may know better").await?;
    tokio::time::sleep(A_WHILE).await;
    let journals =
        std::fs::read_dir(scene.state_dir()).map_err(|e| Error::Io("state".into(), e))?;
    let journals = journals.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert_eq!(journals.filter(|name| name.ends_with(".sqlite3")).count(), 1);
    right.proxy.set(Weather::Clear);
    scene.answered(&requests).await
}

/// At the first start only a liar is there. Later every node says otherwise, it too. What nobody read in
/// between is read then: it was this chain all the time.
#[world::test]
async fn b1_a_block_0_that_no_node_has_is_given_up_without_a_restart() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let liar = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let right = FaultyRpc::start(&scene.anvil.http_url()).await?;
    liar.lie(|lies| lies.other_blocks = vec![(0, B256::repeat_byte(9))]);
    right.proxy.set(Weather::Cut);
    let fallback = format!("gateway_fallback_urls = [\"{}\"]", liar.ws_url());
    let config = scene.config(&fallback).replace(
        &format!("gateway_url = \"{}\"", scene.anvil.ws_url()),
        &format!("gateway_url = \"{}\"", right.ws_url()),
    );
    let from_the_head = config.lines().filter(|line| !line.starts_with("starting_block"));
    let config = from_the_head.collect::<Vec<_>>().join("\n");
    scene.start_with(program(), &config)?;
    scene.logged("reading begins").await?;
    liar.proxy.set(Weather::Cut);
    liar.proxy.cut().await;
    let unread = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.deployment.chain.mine(5).await?;
    liar.be_honest();
    liar.proxy.set(Weather::Clear);
    right.proxy.set(Weather::Clear);
    scene.logged("the chain was reset").await?;
    scene.answered(&scene.deployment.request(Ask::mixed(1, 1)).await?).await?;
    scene.answered(&unread).await
}

/// A test chain is made anew, with the same id, under a running instance.
#[world::test]
async fn c10_a_chain_made_anew_under_a_running_instance_is_noticed() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let config = scene.config("").replace(
        &format!("gateway_url = \"{}\"", scene.anvil.ws_url()),
        &format!("gateway_url = \"{}\"", node.ws_url()),
    );
    scene.start_with(program(), &config)?;
    scene.answered(&scene.deployment.request(Ask::mixed(1, 1)).await?).await?;
    let old = scene.journal().ok_or_else(|| Error::other("no journal"))?;
    let old = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
    node.lie(|lies| lies.other_blocks = vec![(0, B256::repeat_byte(9))]);
    node.proxy.cut().await;
    scene.logged("is of another chain: its block 0").await?;
    scene.stop().await?;
    scene.start_again(program())?;
    scene.logged("the chain was reset").await?;
    assert!(scene.log().contains(&old), "{}", scene.log());
    scene.logged("instance running").await
}
