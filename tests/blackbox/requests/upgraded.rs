//! A journal of an earlier version is taken over, and a copy of it is kept. Who goes back to that copy has
//! a journal that knows nothing of what was answered since: a restored backup.

use std::time::Duration;

use world::{
    Error, Result,
    deployment::{Node, Thresholds},
    journal, program, random_key,
    request::Ask,
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

/// As many blocks as an answer has to be under.
const SETTLED: u64 = 12;

/// The Core signs with another key by then: the contract refuses a second answer by signer, so it would
/// take one.
#[world::test]
async fn going_back_to_the_copy_of_an_upgrade_answers_nothing_twice() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start(program())?;
    let before = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&before).await?;
    for request in &before {
        scene.settled(request.id, "accepted").await?;
    }
    scene.kill();
    let file = scene.journal().ok_or_else(|| Error::other("no journal"))?;
    journal::into_version_6(&file)?;

    scene.start_again(program())?;
    scene.deployment.set_thresholds(Thresholds { public: 2, user: 2 }).await?;
    let since = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.answered(&since).await?;
    scene.kill();

    let beside = |ending: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        std::path::PathBuf::from(name)
    };
    let io = |error| Error::Io("the copy".into(), error);
    for log in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(beside(log));
    }
    std::fs::rename(beside(".version-6"), &file).map_err(io)?;
    let signer = random_key();
    scene.core.set_signer(signer.clone());
    scene.core.forget();
    let node = Node { wallet: scene.wallet.address(), signer: signer.address() };
    scene.deployment.register(node).await?;
    scene.deployment.chain.mine(SETTLED).await?;

    scene.start_again(program())?;
    let after = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&after).await?;
    for request in &since {
        scene.settled(request.id, "already_answered").await?;
    }
    let all = before.iter().chain(&since).chain(&after);
    let mut sent = 0;
    for request in all {
        assert_eq!(scene.deployment.response(request.id).await?.len(), 1, "{:#x}", request.id);
        sent += 1;
    }
    let nonce = scene.deployment.chain.nonce(scene.wallet.address()).await?;
    assert_eq!(nonce, sent, "each nonce brought an answer");
    until("the copy, made again", PATIENCE, Duration::from_millis(50), async || {
        Ok(beside(".version-6").exists().then_some(()))
    })
    .await?;
    scene.alive()
}
