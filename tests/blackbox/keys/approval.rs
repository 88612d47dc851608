//! `key_management = "hold"`: every key operation waits for an operator's word.

use world::{
    Error, Result, contracts::Variant, fleet::name, key_generation::KeyRequest, program,
    scene::PATIENCE, until,
};

use super::stage::{POLL, SOON_FINAL, Stage};

/// The operator of party 0 says that it may be done. Answers whether that was taken.
async fn approve(stage: &Stage, request: &KeyRequest) -> Result<bool> {
    let (id, instance) = (format!("{:#x}", request.id), name(0));
    let arguments = ["requests", "approve", &id, "--instance", &instance];
    let mut command = stage.fleet.supervisor.client(program(), &arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.map_err(|error| Error::other(error.to_string()))?;
    let output = output.map_err(|error| Error::Io("requests approve".into(), error))?;
    println!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.status.success())
}

#[world::test]
async fn an_operation_waits_for_its_operator_and_remembers_the_word() -> Result<()> {
    waits_for_its_operator(Variant::G12, "").await
}

#[world::test]
async fn an_operation_on_ethereum_waits_for_its_operator_and_remembers_the_word() -> Result<()> {
    waits_for_its_operator(Variant::G14, SOON_FINAL).await
}

async fn waits_for_its_operator(variant: Variant, more: &str) -> Result<()> {
    let more = format!("key_management = \"hold\"\n{more}");
    let mut stage = Stage::with_one(variant, &more).await?;
    let preprocessing = stage.keys.keygen().await?;
    let crs = stage.keys.crsgen().await?;
    for request in [&preprocessing, &crs] {
        stage.held(request.id, "operator_approval").await?;
    }
    assert_eq!(stage.core(0).key_asks(), []);

    // The word for one is no word for another.
    stage.core(0).change(|behaviour| behaviour.never_finish = true);
    assert!(approve(&stage, &crs).await?);
    until("it is asked", PATIENCE, POLL, async || {
        Ok((stage.core(0).accepted_key(crs.operation, crs.id) == 1).then_some(()))
    })
    .await?;
    stage.held(preprocessing.id, "operator_approval").await?;

    // It is kept over a restart.
    stage.fleet.supervisor.kill();
    stage.fleet.supervisor.start(program())?;
    stage.core(0).change(|behaviour| behaviour.never_finish = false);
    stage.answered(&[0], &[&crs]).await?;
    assert!(approve(&stage, &preprocessing).await?);
    stage.answered(&[0], &[&preprocessing]).await?;
    stage.others_vote(&preprocessing).await?;

    // A key is an operation of its own.
    let key = preprocessing.key();
    stage.held(key.id, "operator_approval").await?;
    assert!(approve(&stage, &key).await?);
    stage.answered(&[0], &[&key]).await?;
    Ok(())
}
