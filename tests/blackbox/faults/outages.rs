//! What the connector talks to goes away and comes back, before the start and under load: every
//! request is answered once.

use std::time::Duration;

use world::{
    Error, Result,
    audit::Journal,
    program,
    proxy::{Proxy, Weather},
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

const POLL: Duration = Duration::from_millis(50);

async fn sleep(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

async fn scene() -> Result<Scene> {
    Scene::new(SceneOptions::default()).await
}

/// The configuration with the gateway behind `proxy`.
fn behind(scene: &Scene, proxy: &Proxy) -> String {
    let url = format!("ws://127.0.0.1:{}", proxy.port());
    scene.config("").replace(&scene.anvil.ws_url(), &url)
}

/// The configuration with another `starting_block`; `None` leaves the key out.
fn from_block(scene: &Scene, number: Option<u64>) -> String {
    let line = format!("starting_block = {}\n", scene.deployment.since_block);
    let config = scene.config("");
    assert!(config.contains(&line));
    config.replace(&line, &number.map_or_else(String::new, |n| format!("starting_block = {n}\n")))
}

/// Waits until a line meant for an operator names all of `words`: what is waited for is part of
/// what an operator is promised.
async fn said(scene: &Scene, words: &[&str]) -> Result<()> {
    until(&format!("a line with {words:?}"), PATIENCE, POLL, async || {
        let log = scene.log();
        let found = log
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("INFO"))
            .any(|line| words.iter().all(|word| line.contains(word)));
        Ok(found.then_some(()))
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", scene.log())))
}

async fn has_cursor(scene: &Scene) -> Result<u64> {
    until("a cursor", PATIENCE, POLL, async || Ok(scene.cursor().ok().flatten())).await
}

// Down when requests come.

/// Field failure T06.
#[world::test]
async fn requests_emitted_while_it_was_down_are_answered() -> Result<()> {
    let mut scene = scene().await?;
    scene.start(program())?;
    let mut requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&requests).await?;
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    requests.extend(scene.deployment.request(Ask::mixed(25, 25)).await?);
    scene.start_again(program())?;
    scene.audit(&requests, Journal::Whole).await
}

/// Field failures T08, T09, T11.
#[world::test]
async fn a_far_gap_is_read_whole() -> Result<()> {
    let mut scene = scene().await?;
    scene.start(program())?;
    let mut requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&requests).await?;
    scene.kill();
    // Below, at and above the sizes of a page and of what counts as near.
    for blocks in [700, 120, 31, 1, 32, 33, 90] {
        requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
        scene.deployment.chain.mine(blocks).await?;
    }
    scene.start_again(program())?;
    scene.audit(&requests, Journal::Whole).await
}

// Down under load.

/// Sixty requests over time, in the middle of which `trouble` happens.
async fn under_load(
    scene: &mut Scene,
    trouble: impl AsyncFnOnce(&mut Scene) -> Result<()>,
) -> Result<()> {
    // So that there always is something in hand.
    scene.core.change(|core| core.latency = Duration::from_millis(300));
    let deployment = scene.deployment.clone();
    let emitting = deployment.request_slowly(Ask::mixed(30, 30), 4, Duration::from_millis(80));
    let breaking = async {
        until("the first answers", PATIENCE, POLL, async || {
            Ok((deployment.answers().await?.len() >= 4).then_some(()))
        })
        .await?;
        trouble(scene).await
    };
    let (requests, ()) = tokio::try_join!(emitting, breaking)?;
    scene.audit(&requests, Journal::Whole).await
}

/// Field failure T04.
#[world::test]
async fn restarts_of_the_chain_node_lose_nothing() -> Result<()> {
    let mut scene = scene().await?;
    scene.start(program())?;
    scene.core.change(|core| core.latency = Duration::from_millis(300));
    let mut requests = Vec::new();
    // Nobody can emit while the node is down.
    for pause in [150, 400, 700] {
        requests.extend(scene.deployment.request(Ask::mixed(10, 10)).await?);
        sleep(pause).await;
        scene.anvil.restart().await?;
    }
    scene.audit(&requests, Journal::Whole).await
}

/// Field failure T02.
#[world::test]
async fn a_web_socket_that_is_cut_again_and_again_loses_nothing() -> Result<()> {
    let mut scene = scene().await?;
    let proxy = Proxy::start(scene.anvil.port()).await?;
    scene.start_with(program(), &behind(&scene, &proxy))?;
    under_load(&mut scene, async |_| {
        for pause in [100, 250, 30, 400, 700] {
            proxy.cut().await;
            sleep(pause).await;
        }
        // And refused for a while.
        proxy.set(Weather::Cut);
        sleep(600).await;
        proxy.set(Weather::Clear);
        Ok(())
    })
    .await
}

/// Field failure T27.
#[world::test]
async fn restarts_of_the_core_lose_nothing() -> Result<()> {
    let mut scene = scene().await?;
    scene.start(program())?;
    under_load(&mut scene, async |scene| {
        for pause in [100, 350, 500] {
            scene.core.restart().await;
            sleep(pause).await;
        }
        scene.core.stop().await;
        sleep(500).await;
        scene.core.restart().await;
        Ok(())
    })
    .await
}

#[world::test]
async fn restarts_of_the_buckets_lose_nothing() -> Result<()> {
    let mut scene = scene().await?;
    scene.start(program())?;
    under_load(&mut scene, async |scene| {
        scene.ministack.restart().await?;
        sleep(200).await;
        scene.ministack.restart().await
    })
    .await
}

// Down at the start.

/// Starts the connector and checks that it says what it waits for, and stays.
async fn waits(scene: &mut Scene, words: &[&str]) -> Result<()> {
    scene.start(program())?;
    said(scene, words).await?;
    sleep(500).await;
    scene.alive()
}

/// Field failure T03.
#[world::test]
async fn it_waits_for_the_chain_node_at_the_start() -> Result<()> {
    let mut scene = scene().await?;
    let requests = scene.deployment.request(Ask::mixed(3, 3)).await?;
    scene.anvil.stop().await?;
    let host = format!("127.0.0.1:{}", scene.anvil.port());
    waits(&mut scene, &["gateway", &host]).await?;
    scene.anvil.start_again().await?;
    scene.audit(&requests, Journal::Whole).await
}

/// Field failure T35.
#[world::test]
async fn it_waits_for_the_core_at_the_start() -> Result<()> {
    let mut scene = scene().await?;
    let mut requests = scene.deployment.request(Ask::mixed(3, 3)).await?;
    scene.core.stop().await;
    let host = scene.core.endpoint().replace("http://", "");
    waits(&mut scene, &["KMS Core", &host]).await?;
    scene.core.restart().await;
    requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
    scene.audit(&requests, Journal::Whole).await
}

#[world::test]
async fn it_waits_for_the_buckets_at_the_start() -> Result<()> {
    let mut scene = scene().await?;
    let requests = scene.deployment.request(Ask::mixed(3, 3)).await?;
    scene.ministack.stop().await?;
    let host = format!("127.0.0.1:{}", scene.ministack.port());
    waits(&mut scene, &[&host]).await?;
    scene.ministack.start_again().await?;
    scene.audit(&requests, Journal::Whole).await
}

#[world::test]
async fn it_waits_for_everything_at_the_start() -> Result<()> {
    let mut scene = scene().await?;
    let requests = scene.deployment.request(Ask::mixed(3, 3)).await?;
    scene.anvil.stop().await?;
    scene.core.stop().await;
    scene.ministack.stop().await?;
    waits(&mut scene, &["gateway"]).await?;
    scene.anvil.start_again().await?;
    said(&scene, &["KMS Core"]).await?;
    let host = format!("127.0.0.1:{}", scene.ministack.port());
    said(&scene, &[&host]).await?;
    scene.ministack.start_again().await?;
    scene.core.restart().await;
    scene.audit(&requests, Journal::Whole).await
}

// Networks that swallow packets.

/// Field failure T50.
#[world::test]
async fn a_silent_network_delays_and_loses_nothing() -> Result<()> {
    let mut scene = scene().await?;
    let proxy = Proxy::start(scene.anvil.port()).await?;
    proxy.set(Weather::Silent);
    scene.start_with(program(), &behind(&scene, &proxy))?;
    sleep(1000).await;
    scene.alive()?;
    proxy.set(Weather::Clear);
    under_load(&mut scene, async |_| {
        proxy.set(Weather::Silent);
        sleep(2000).await;
        proxy.set(Weather::Clear);
        Ok(())
    })
    .await
}

/// Nobody closes the connection: the connector itself must find out and open another.
///
/// Field failure T04.
#[world::test]
async fn a_connection_that_hangs_is_replaced() -> Result<()> {
    let mut scene = scene().await?;
    let proxy = Proxy::start(scene.anvil.port()).await?;
    scene.start_with(program(), &behind(&scene, &proxy))?;
    under_load(&mut scene, async |_| {
        proxy.freeze();
        Ok(())
    })
    .await
}

// Other ways in.

/// Field failure T47.
#[world::test]
async fn an_http_url_serves_as_well() -> Result<()> {
    let mut scene = scene().await?;
    let config = scene.config("").replace(&scene.anvil.ws_url(), &scene.anvil.http_url());
    scene.start_with(program(), &config)?;
    let requests = scene.deployment.request(Ask::mixed(20, 20)).await?;
    scene.audit(&requests, Journal::Whole).await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");
    Ok(())
}

// Where reading begins.

/// Emits two requests and leaves their block behind.
async fn earlier(scene: &Scene) -> Result<Vec<Issued>> {
    let requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.deployment.chain.mine(3).await?;
    Ok(requests)
}

#[world::test]
async fn without_a_starting_block_reading_begins_with_the_head() -> Result<()> {
    let mut scene = scene().await?;
    let before = earlier(&scene).await?;
    scene.start_with(program(), &from_block(&scene, None))?;
    has_cursor(&scene).await?;
    let mut requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.audit(&requests, Journal::Whole).await?;

    // A cursor wins over whatever the file says later.
    scene.kill();
    requests.extend(earlier(&scene).await?);
    scene.start_with(program(), &from_block(&scene, Some(before[0].block)))?;
    requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
    scene.audit(&requests, Journal::Whole).await?;
    scene.kill();
    requests.extend(earlier(&scene).await?);
    let far_ahead = scene.deployment.chain.block_number().await? + 1_000_000;
    scene.start_with(program(), &from_block(&scene, Some(far_ahead)))?;
    scene.audit(&requests, Journal::Whole).await?;

    let unwanted = scene.deployment.answers().await?;
    assert!(!unwanted.iter().any(|answer| before.iter().any(|old| old.id == answer.id)));
    Ok(())
}

/// Field failure T13.
#[world::test]
async fn reading_begins_with_the_starting_block() -> Result<()> {
    let mut scene = scene().await?;
    let before = earlier(&scene).await?;
    let mut requests = earlier(&scene).await?;
    scene.start_with(program(), &from_block(&scene, Some(requests[0].block)))?;
    requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
    scene.audit(&requests, Journal::Whole).await?;
    let answers = scene.deployment.answers().await?;
    assert!(!answers.iter().any(|answer| before.iter().any(|old| old.id == answer.id)));
    Ok(())
}
