//! One request, all the way: the main job on the real stack.

use std::time::Duration;

use world::{
    Result,
    contracts::Variant,
    program,
    request::Ask,
    scene::{Scene, SceneOptions},
};

async fn forty_mixed_requests(variant: Variant) -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(variant)).await?;
    scene.start(program())?;
    let requests = scene.deployment.request(Ask::mixed(20, 20)).await?;
    scene.answered(&requests).await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    Ok(())
}

#[world::test]
async fn g7_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G7).await
}

#[world::test]
async fn g8_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G8).await
}

#[world::test]
async fn v0_9_0_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::V0_9_0).await
}

#[world::test]
async fn v0_9_7_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::V0_9_7).await
}

/// Field failure T41.
#[world::test]
async fn g10_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G10).await
}

/// T53: a request that goes well is two lines, its arrival and its end; nothing else is said.
#[world::test]
async fn t53_a_request_is_two_lines_and_an_idle_instance_none() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start(program())?;
    let first = scene.deployment.request(Ask::mixed(1, 1)).await?;
    for request in &first {
        scene.settled(request.id, "accepted").await?;
    }
    let before = scene.log().lines().count();
    let requests = scene.deployment.request(Ask::mixed(10, 10)).await?;
    for request in &requests {
        scene.settled(request.id, "accepted").await?;
    }
    let lines = scene.log().lines().count() - before;
    assert_eq!(lines, 2 * requests.len(), "{}", scene.log());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.log().lines().count() - before, lines, "{}", scene.log());
    Ok(())
}
