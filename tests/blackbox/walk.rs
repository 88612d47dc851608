//! One request, all the way: the main job on the real stack.

use std::path::Path;

use crate::world::{
    Result,
    contracts::Variant,
    request::Ask,
    scene::{Scene, SceneOptions},
};

/// The binary under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kms-connector"))
}

async fn forty_mixed_requests(variant: Variant) -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(variant)).await?;
    scene.start(program())?;
    let requests = scene.deployment.request(Ask::mixed(20, 20)).await?;
    scene.answered(&requests).await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G7).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G8).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v0_9_0_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::V0_9_0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v0_9_7_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::V0_9_7).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G10).await
}
