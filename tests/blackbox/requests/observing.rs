//! `mode = "observe"`: an instance that sees every request, asks nothing and sends nothing.

use std::{path::PathBuf, time::Duration};

use world::{
    Result,
    fleet::{Fleet, name},
    journal, program,
    request::Ask,
    scene::PATIENCE,
    status::Status,
    supervised::find,
    until,
};

/// With the same key as the one that answers, and without any.
const OBSERVERS: [&str; 2] = ["same-key", "no-key"];

fn observed(status: &Status) -> Vec<Option<u64>> {
    OBSERVERS.map(|name| find(status, name).and_then(|one| one.gauges.observed)).into()
}

fn journal_of(fleet: &Fleet, observer: &str) -> PathBuf {
    let dir = fleet.supervisor.state_dir().join(format!("observe-{observer}"));
    journal::file(&dir).expect("a journal apart")
}

#[world::test]
async fn an_observer_beside_one_that_answers_sees_all_and_sends_nothing() -> Result<()> {
    // The second party's Core is the one that observers could ask, its wallet never sends.
    let mut fleet = Fleet::new(2).await?;
    let zero = name(0);
    fleet.write(0, "")?;
    let [with, without] = OBSERVERS;
    let (core, other) =
        (fleet.parties.list[0].core.endpoint(), fleet.parties.list[1].core.endpoint());
    let config = fleet.config(0, "mode = \"observe\"").replace(&core, &other);
    fleet.supervisor.configs.write(with, &config)?;
    let keyless: String = config
        .lines()
        .filter(|line| !line.starts_with("private_key"))
        .flat_map(|l| [l, "\n"])
        .collect();
    fleet.supervisor.configs.write(without, &keyless)?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[&zero, with, without]).await?;

    let requests = fleet.request(Ask::mixed(5, 5)).await?;
    fleet.answered_by(&[0], &requests).await?;
    let supervisor = &fleet.supervisor;
    supervisor.until("both saw all", |status| observed(status) == [Some(10), Some(10)]).await?;
    let status = supervisor.client(program(), &["status"]).output().expect("a status");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("10 requests since it started; nothing is asked or sent"), "{status}");

    // Only one of them sees these.
    supervisor.operate("stop", &zero).await?;
    let unanswered = fleet.request(Ask::mixed(1, 1)).await?;
    supervisor.operate("restart", without).await?;
    for observer in OBSERVERS {
        let file = journal_of(&fleet, observer);
        until("all observed", PATIENCE, Duration::from_millis(100), async || {
            let entries = journal::entries(&file)?;
            let ended = entries.iter().filter(|one| one.outcome.as_deref() == Some("observed"));
            Ok((ended.count() == 12).then_some(()))
        })
        .await?;
        let signed: Vec<u32> =
            journal::query(&file, "SELECT count(*) FROM transactions", |row| row.get(0))?;
        assert_eq!(signed, [0_u32], "{observer}");
    }
    assert_eq!(fleet.parties.list[1].core.asks(), Vec::new(), "no Core was asked");
    assert_eq!(supervisor.connections(fleet.parties.list[1].core.port())?.len(), 0);
    assert_eq!(fleet.deployment().chain.nonce(fleet.wallet(1)).await?, 0);
    assert!(supervisor.log().contains("nothing is asked, signed or sent"));

    // What was observed is not taken for answered by who answers later.
    supervisor.configs.remove(&zero)?;
    supervisor.configs.write(with, &fleet.config(0, ""))?;
    let all = [requests, unanswered].concat();
    fleet.audit(&[0], &all).await?;
    supervisor.until_running(&[with, without]).await?;
    fleet.unbroken()
}
