//! What is logged, and what is not: each request's story by its id, and no flood when all fail at once.

use std::{collections::BTreeMap, process::Command, time::Duration};

use kms_connector::domain::is_printable;
use serde_json::Value;
use tonic::Code;
use world::{
    Error, Result, connector,
    faulty_rpc::{FaultyRpc, Lie, Rule},
    free_port,
    request::Ask,
    scene::{PATIENCE, Scene, SceneOptions},
    strict_json, until,
};

const POLL: Duration = Duration::from_millis(50);

/// A start with a log of this format.
fn logging(scene: &Scene, format: &str, config: &str) -> Result<Command> {
    std::fs::write(scene.config_file(), config)
        .map_err(|e| Error::Io("writing the configuration".into(), e))?;
    let mut command = connector();
    command.arg("start").arg("-c").arg(scene.config_file()).args(["--log-format", format]);
    Ok(command)
}

/// A start that logs JSON, at this level.
fn start_json(scene: &mut Scene, level: &str) -> Result<()> {
    let mut command = logging(scene, "json", &scene.config(""))?;
    command.env("RUST_LOG", level);
    scene.spawn(command)
}

fn lines(scene: &Scene) -> Result<Vec<Value>> {
    scene.log().lines().map(|line| Ok(strict_json::parse(line)?)).collect()
}

/// The request a line is about, if it is about one.
fn request_of(line: &Value) -> Option<String> {
    let of_span = |span: &Value| span["id"].as_str().map(str::to_owned);
    let spans = line["spans"].as_array().into_iter().flatten();
    spans.rev().find_map(of_span).or_else(|| line["request"].as_str().map(str::to_owned))
}

/// Field failure T53: forty requests, at the level that shows everything. B10: in no object of it does
/// a key come twice, and each line says whose it is.
#[world::test]
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
        let story = &stories[&format!("{:#066x}", request.id)];
        let told = ["request arrived", "arrived to asked", "asked to answered", "request settled"];
        let mut story = story.iter();
        for chapter in told {
            assert!(story.any(|line| line == chapter), "{chapter} in order of {:#x}", request.id);
        }
    }
    let name = scene.config_file().file_stem().and_then(|stem| Some(stem.to_str()?.to_owned()));
    let name = name.unwrap_or_default();
    let instance = |line: &&Value| {
        let span = &line["spans"][0];
        span["name"] == "instance" && span["instance"] == name.as_str()
    };
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
#[world::test]
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

/// What hostile servers say: a cleared screen, a forged line, the end of a text of C, a text turned
/// round.
const HOSTILE: &str = "no\u{1b}[2J\n2026-09-14T16:05:12.000000Z ERROR forged\0\u{9b}31m\u{202e}";

#[track_caller]
fn steers_nothing(what: &str, text: &str) {
    let odd = text.chars().find(|c| *c != '\n' && !is_printable(*c));
    assert_eq!(odd, None, "in {what}: {text:?}");
    let forged = text.lines().find(|line| line.starts_with("2026-09-14T16:05:12.000000Z"));
    assert_eq!(forged, None, "in {what}: {text:?}");
}

/// A node that does not take a transaction and a Core that does not take a request, and what they say
/// to that wherever it is told.
#[world::test]
async fn b9_what_a_node_and_a_core_say_forges_no_line_and_steers_no_terminal() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    let url = format!("http://{}", node.host());
    for method in ["eth_sendRawTransaction", "eth_sendRawTransactionSync"] {
        node.rule(Rule::always(method, Lie::error(-32000, HOSTILE)));
    }
    let config = scene.config("").replace(&scene.anvil.ws_url(), &url);
    let mut logged = String::new();
    for format in ["text", "json"] {
        let mut command = logging(&scene, format, &config)?;
        command.env("KMS_CONNECTOR_LISTEN", format!("127.0.0.1:{}", free_port()?));
        scene.spawn(command)?;
        scene.core.change(|core| core.ask_status = Some((Code::InvalidArgument, HOSTILE)));
        let refused = scene.deployment.request(Ask::mixed(1, 0)).await?;
        scene.row(refused[0].id, "held", |row| row.held == "core_refused").await?;
        scene.core.change(|core| core.ask_status = None);
        scene.deployment.request(Ask::mixed(1, 0)).await?;
        let broadcast = async || {
            let new = scene.log().split_off(logged.len());
            let told = ["request held", "broadcast not accepted"];
            Ok(told.iter().all(|words| new.contains(words)).then_some(new))
        };
        let new = until("both to be told", PATIENCE, POLL, broadcast).await?;
        steers_nothing(format, &new);
        for line in new.lines().filter(|_| format == "json") {
            steers_nothing(line, &strict_json::parse(line)?.to_string());
        }
        let id = format!("{:#066x}", refused[0].id);
        for arguments in [
            vec!["status"],
            vec!["status", "connector"],
            vec!["status", "--json"],
            vec!["requests", "--instance", "connector"],
            vec!["requests", "show", &id, "--instance", "connector"],
            vec!["requests", "show", &id, "--instance", "connector", "--json"],
        ] {
            let question = arguments.join(" ");
            let said = until(&question, PATIENCE, POLL, async || {
                let mut command = connector();
                command.args(&arguments);
                command.arg("--socket").arg(scene.state_dir().join("control.sock"));
                let output =
                    command.output().map_err(|e| Error::Io("asking the connector".into(), e))?;
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                // A list has no room for all of it.
                let words =
                    if question.starts_with("requests --") { "core_refused" } else { "forged" };
                Ok(said.contains(words).then_some(said))
            });
            let said = said.await?;
            steers_nothing(&question, &said);
        }
        scene.kill();
        logged = scene.log();
    }
    Ok(())
}
