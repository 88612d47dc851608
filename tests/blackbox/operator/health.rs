//! `/livez`, `/readyz` and `kms-connector health`, as whoever decides on a restart or on traffic asks.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Command,
    time::Duration,
};

use kms_connector::admin::readiness::Readiness;
use serde_json::Value;
use world::{
    Error, Result, connector,
    fleet::{Fleet, name},
    program,
    proxy::{Proxy, Weather},
    request::Ask,
    scene::PATIENCE,
    supervised::Supervised,
    until,
};

const POLL: Duration = Duration::from_millis(50);

/// `/readyz` or `/readyz/NAME`: the status code and the verdict.
async fn ready(supervisor: &Supervised, path: &str) -> Result<(u16, Readiness)> {
    let response = supervisor.get(path).await?;
    let code = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json", "{path}: {code}");
    Ok((code, response.json().await?))
}

async fn code_of(supervisor: &Supervised, path: &str) -> Result<u16> {
    Ok(supervisor.get(path).await?.status().as_u16())
}

/// Waits until `/readyz` answers this code and a reason with these words.
async fn until_ready(supervisor: &Supervised, code: u16, words: &str) -> Result<Readiness> {
    let mut last = None;
    let what = format!("{code} and {words:?}");
    let found = until(&what, PATIENCE, POLL, async || {
        let (now, readiness) = ready(supervisor, "/readyz").await?;
        let is = now == code && readiness.reasons.iter().any(|reason| reason.contains(words));
        last = Some((now, readiness.clone()));
        Ok(is.then_some(readiness))
    });
    found.await.map_err(|error| Error::other(format!("{error}; it is {last:?}")))
}

/// `kms-connector health …` for this supervisor: its exit code, and what it said.
async fn health(supervisor: &Supervised, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = connector();
    command.arg("health").args(arguments);
    command.env("KMS_CONNECTOR_LISTEN", supervisor.listener().await?);
    said(command)
}

fn said(mut command: Command) -> Result<(Option<i32>, String)> {
    let output = command.output().map_err(|e| Error::Io("a command".into(), e))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[world::test]
async fn readiness_says_who_is_down_and_why() -> Result<()> {
    let mut fleet = Fleet::new(2).await?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until("a first status", |_| true).await?;
    until_ready(&fleet.supervisor, 503, "no configuration").await?;
    assert_eq!(code_of(&fleet.supervisor, "/livez").await?, 200);
    assert_eq!(health(&fleet.supervisor, &[]).await?.0, Some(1));

    let wrong = format!("chain_id = {}", fleet.deployment().chain_id + 1);
    let config = fleet.config(1, "");
    let config = config.replace(&format!("chain_id = {}", fleet.deployment().chain_id), &wrong);
    fleet.write(0, "")?;
    fleet.supervisor.configs.write(&name(1), &config)?;
    fleet.supervisor.until_state(&name(0), "running").await?;
    fleet.supervisor.until_state(&name(1), "parked").await?;
    let supervisor = &fleet.supervisor;
    let readiness = until_ready(supervisor, 503, "chain_id").await?;
    assert_eq!(readiness.reasons.len(), 1, "{readiness:?}");
    let alone = ready(supervisor, "/readyz/node-0").await?;
    assert_eq!((alone.0, alone.1.reasons), (200, Vec::new()));
    assert_eq!(ready(supervisor, "/readyz/node%2D1").await?.0, 503);
    assert_eq!(code_of(supervisor, "/readyz/nobody").await?, 404);
    let (code, text) = health(supervisor, &[]).await?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("node-1: parked") && text.contains("chain_id"), "{text}");
    let (code, text) = health(supervisor, &["--instance", "node-0"]).await?;
    assert_eq!((code, text.as_str()), (Some(0), "ready\n"));
    let (code, text) = health(supervisor, &["--instance", "nobody"]).await?;
    assert!(code == Some(1) && text.contains("nobody"), "{text}");

    // Nobody misses what was stopped on purpose.
    supervisor.operate("stop", &name(1)).await?;
    let stopped = until("ready again", PATIENCE, POLL, async || {
        let (code, readiness) = ready(supervisor, "/readyz").await?;
        Ok((code == 200).then_some(readiness))
    });
    assert_eq!(stopped.await?.reasons, Vec::<String>::new());
    assert_eq!(health(supervisor, &[]).await?, (Some(0), "ready\n".to_owned()));
    assert_eq!(ready(supervisor, "/readyz/node-1").await?.0, 503);
    let version: Value = supervisor.get("/version").await?.json().await?;
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["contract_generations"].as_array().is_some_and(|all| !all.is_empty()));
    Ok(())
}

/// Field failure T50: what is outside is frozen, and nobody who asks whether the process lives, or is
/// ready, waits for it or is told to restart it.
#[world::test]
async fn no_answer_waits_for_a_frozen_dependency() -> Result<()> {
    let mut fleet = Fleet::new(1).await?;
    let chain = Proxy::start(fleet.parties.anvil.port()).await?;
    let core = Proxy::start(fleet.parties.list[0].core.port()).await?;
    let config = fleet.config(0, "");
    let config =
        config.replace(&fleet.parties.anvil.ws_url(), &format!("ws://127.0.0.1:{}", chain.port()));
    let config = config.replace(
        &fleet.parties.list[0].core.endpoint(),
        &format!("http://127.0.0.1:{}", core.port()),
    );
    fleet.supervisor.configs.write(&name(0), &config)?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[name(0)]).await?;
    chain.set(Weather::Silent);
    core.set(Weather::Silent);
    let supervisor = &fleet.supervisor;
    for path in ["/livez", "/readyz", "/readyz/node-0", "/metrics", "/status"] {
        assert_eq!(code_of(supervisor, path).await?, 200, "{path}");
    }
    // Once it is noticed, it is a reason, and nothing to restart anything for.
    let readiness = until_ready(supervisor, 200, "waiting for").await?;
    assert!(readiness.ready, "{readiness:?}");
    for path in ["/livez", "/readyz/node-0", "/metrics"] {
        assert_eq!(code_of(supervisor, path).await?, 200, "{path}");
    }
    assert_eq!(health(supervisor, &[]).await?.0, Some(0));
    chain.set(Weather::Clear);
    core.set(Weather::Clear);
    fleet.supervisor.until_running(&[name(0)]).await?;
    let requests = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&[0], &requests).await?;
    assert_eq!(fleet.supervisor.instance(&name(0)).await?.restarts, 0);
    fleet.unbroken()
}

/// Field failure T65: an address that is taken ends the process, and it says which.
#[world::test]
async fn a_taken_port_is_told_and_ends_the_process() -> Result<()> {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let taken = taken.map_err(|e| Error::Io("a listener".into(), e))?;
    let address = taken.local_addr().map_err(|e| Error::Io("its address".into(), e))?.to_string();
    let fleet = Fleet::new(1).await?;
    fleet.write(0, "")?;
    let supervise = fleet.supervisor.command(program());
    let mut start = connector();
    start.arg("start").arg("-c").arg(fleet.supervisor.configs.file(&name(0)));
    start.arg("--state-dir").arg(fleet.supervisor.state_dir());
    for mut command in [supervise, start] {
        command.arg("--listen").arg(&address);
        let (code, text) = said(command)?;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&address) && text.contains("KMS_CONNECTOR_LISTEN"), "{text}");
    }
    // It does not answer as a connector does.
    let mut command = connector();
    drop(taken);
    command.args(["health", "--listen", &address]);
    let (code, text) = said(command)?;
    assert!(code == Some(1) && text.contains(&address), "{text}");
    Ok(())
}
