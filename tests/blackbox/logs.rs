//! What is logged, and what is not: each request's story by its id, and no flood when all fail at once.

use std::{collections::BTreeMap, process::Command, time::Duration};

use serde_json::Value;

use crate::{
    walk::program,
    world::{
        Error, Result,
        request::Ask,
        scene::{PATIENCE, Scene, SceneOptions},
        until,
    },
};

const POLL: Duration = Duration::from_millis(50);

/// A start that logs JSON, at this level.
fn start_json(scene: &mut Scene, level: &str) -> Result<()> {
    std::fs::write(scene.config_file(), scene.config(""))
        .map_err(|e| Error::Io("writing the configuration".into(), e))?;
    let mut command = Command::new(program());
    command.arg("start").arg("-c").arg(scene.config_file()).args(["--log-format", "json"]);
    command.env("RUST_LOG", level);
    scene.spawn(command)
}

fn lines(scene: &Scene) -> Result<Vec<Value>> {
    scene.log().lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The request a line is about, if it is about one.
fn request_of(line: &Value) -> Option<String> {
    let of_span = |span: &Value| span["id"].as_str().map(str::to_owned);
    let spans = line["spans"].as_array().into_iter().flatten();
    spans.rev().find_map(of_span).or_else(|| line["request"].as_str().map(str::to_owned))
}

/// Field failure T53: forty requests, at the level that shows everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requests_story_is_found_by_its_id() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    start_json(&mut scene, "debug")?;
    let requests = scene.deployment.request(Ask::mixed(20, 20)).await?;
    for request in &requests {
        scene.settled(request.id, "accepted").await?;
    }
    let lines = lines(&scene)?;
    let mut stories: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in &lines {
        if let Some(id) = request_of(line) {
            let message = line["message"].as_str().unwrap_or_default();
            let (from, to) = (line["from"].as_str(), line["to"].as_str());
            let doors = from.zip(to).map(|(from, to)| format!("{from} to {to}"));
            stories.entry(id).or_default().push(doors.unwrap_or_else(|| message.to_owned()));
        }
    }
    for request in &requests {
        let story = &stories[&format!("{:#x}", request.id)];
        let told = ["request arrived", "arrived to asked", "asked to answered", "request settled"];
        let mut story = story.iter();
        for chapter in told {
            assert!(story.any(|line| line == chapter), "{chapter} in order of {:#x}", request.id);
        }
    }
    let instance = |line: &&Value| line["spans"][0]["name"] == "instance";
    let without = lines.iter().filter(|line| request_of(line).is_some() && !instance(line)).count();
    assert_eq!(without, 0, "each line says whose it is");
    let info = lines.iter().filter(|line| line["level"] == "INFO").count();
    let of_requests: usize = stories.values().map(Vec::len).sum();
    println!(
        "{} requests: {info} lines at INFO, {of_requests} of requests and {} in all at DEBUG",
        requests.len(),
        lines.len()
    );
    assert!(
        of_requests < 20 * requests.len(),
        "{of_requests} lines of {} requests",
        requests.len()
    );
    Ok(())
}

/// Field failure T53: a hundred requests that fail for one reason are one thing to say, however long it
/// lasts and however often each is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_a_few_lines_whatever_is_in_hand() -> Result<()> {
    let mut scene = Scene::new(SceneOptions { funded: false, ..SceneOptions::default() }).await?;
    scene.core.stop().await;
    start_json(&mut scene, "info")?;
    let requests = scene.deployment.request(Ask::mixed(50, 50)).await?;
    let count = |scene: &Scene, level: &str| -> Result<usize> {
        Ok(lines(scene)?.iter().filter(|line| line["level"] == level).count())
    };
    let arrived = async || {
        let all = lines(&scene)?;
        let arrived = all.iter().filter(|line| line["message"] == "request arrived").count();
        Ok((arrived == requests.len()).then_some(()))
    };
    until("all requests in hand", PATIENCE, POLL, arrived).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let of_core = count(&scene, "WARN")?;
    // Then the Core is there, and the wallet has nothing to pay with.
    scene.core.restart().await;
    scene.logged("no_funds").await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let of_wallet = count(&scene, "WARN")? - of_core;
    println!("100 requests: {of_core} warnings without a Core, {of_wallet} more without funds");
    assert!((1..=10).contains(&of_core), "{}", scene.log());
    assert!((1..=10).contains(&of_wallet), "{}", scene.log());
    scene.anvil.fund(scene.wallet.address()).await?;
    for request in &requests {
        scene.settled(request.id, "accepted").await?;
    }
    let info = count(&scene, "INFO")?;
    println!("{info} lines at INFO for {} answered requests", requests.len());
    assert!(info < 3 * requests.len(), "{}", scene.log());
    Ok(())
}
