//! What hostile reading of the walk feared, on the real stack.

use world::{
    Result,
    deployment::Node,
    program, random_address, random_key,
    request::Ask,
    scene::{Scene, SceneOptions},
};

/// Requests whose ciphertexts never come take every place. They give way to those that can be
/// answered, and stay in the journal.
#[world::test]
async fn requests_that_cannot_be_answered_do_not_delay_the_rest() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let config = scene
        .config("max_requests_in_flight = 4")
        .replace("held_retry_secs = 2", "held_retry_secs = 600");
    scene.start_with(program(), &config)?;
    let hopeless = scene.deployment.emit(Ask::mixed(2, 2)).await?;
    scene.row(hopeless[3].id, "tried", |row| row.attempts > 0).await?;
    let served = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.answered(&served).await?;
    let rows = hopeless.iter().flat_map(|request| scene.rows(request.id));
    assert!(rows.into_iter().any(|row| row.held == "no_progress"), "it is said which gave way");
    Ok(())
}

/// The Core signed with a key the contract does not know; it is mended by a restart with another
/// one. The retries cost no gas, and the old answer is not sent for ever.
#[world::test]
async fn an_answer_the_contract_rejects_is_asked_for_again() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.core.set_signer(random_key());
    // Without the registry only the contract can say whose signature it is.
    let s3 = format!(
        "[s3_config]\nregion = \"us-east-1\"\nbucket = \"ct128-0\"\nendpoint = \"{}\"",
        scene.ministack.url()
    );
    let registry = scene.deployment.gateway_config.to_string();
    let config = scene.config(&s3).replace(&registry, &random_address().to_string());
    scene.start_with(program(), &config)?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    for request in &requests {
        scene.held(request.id, "signer_not_registered").await?;
    }
    let mended = random_key();
    let node = Node { wallet: scene.wallet.address(), signer: mended.address() };
    scene.deployment.register(node).await?;
    scene.core.set_signer(mended);
    scene.core.restart().await;
    scene.answered(&requests).await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");
    Ok(())
}
