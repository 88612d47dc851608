//! `requests` and `backfill` as an operator uses them: on a running instance, on one that does not
//! run, and on what is not there.

use std::{process::Command, time::Duration};

use kms_connector::admin::requests::{
    ExportedRequest, RequestDetail, RequestOverview, Retried, RetryVerdict,
};
use serde::de::DeserializeOwned;
use tonic::Code;
use world::{
    Error, Result, connector,
    fleet::{Fleet, name},
    program,
    request::Ask,
    scene::PATIENCE,
    supervised::Supervised,
    until,
};

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(mut command: Command) -> Result<Said> {
    let output = command.output().map_err(|e| Error::Io("a command".into(), e))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

impl Said {
    fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.out).map_err(|e| Error::other(format!("{e}: {self:?}")))
    }

    /// It failed, and says so in these words.
    #[track_caller]
    fn failed(&self, words: &str) {
        assert!(self.code == Some(1) && self.err.contains(words), "{words:?} in {self:?}");
        assert_eq!(self.out, "", "errors go to stderr");
    }

    #[track_caller]
    fn done(&self, words: &str) {
        assert!(self.code == Some(0) && self.out.contains(words), "{words:?} in {self:?}");
    }
}

/// A command that finds the supervisor, and the state directory if it does not run.
fn client(supervisor: &Supervised, arguments: &[&str]) -> Result<Said> {
    let mut command = supervisor.client(program(), arguments);
    command.arg("--state-dir").arg(supervisor.state_dir());
    said(command)
}

/// Held requests are tried again when the test says so.
fn without_retries(config: &str) -> String {
    config.replace("held_retry_secs = 2", "held_retry_secs = 3600")
}

#[world::test]
async fn what_is_held_is_listed_shown_and_tried_again() -> Result<()> {
    let mut fleet = Fleet::new(1).await?;
    let zero = name(0);
    let config = without_retries(&fleet.config(0, ""));
    fleet.supervisor.configs.write(&zero, &config)?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[&zero]).await?;
    let (supervisor, core) = (&fleet.supervisor, &fleet.parties.list[0].core);
    let ask = |arguments: &[&str]| {
        client(supervisor, &[&["requests"], arguments, &["--instance", &zero]].concat())
    };
    let lines = |arguments: &[&str]| ask(arguments)?.json::<Vec<RequestOverview>>();
    let held = async || {
        until("a held request", PATIENCE, Duration::from_millis(100), async || {
            Ok(lines(&["list", "--held", "--json"])?.into_iter().next())
        })
        .await
    };
    ask(&[])?.done("nothing unfinished");
    let answered = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&[0], &answered).await?;

    core.change(|core| core.ask_status = Some((Code::InvalidArgument, "not this one")));
    let refused = fleet.request(Ask::mixed(1, 0)).await?;
    let id = format!("{:#066x}", refused[0].id);
    let line = held().await?;
    assert_eq!((line.id.as_str(), line.kind.as_str()), (id.as_str(), "public_decryption"));
    assert_eq!((line.stage.as_str(), line.outcome.as_deref()), ("arrived", None));
    assert_eq!(
        (line.block, line.held.unwrap().reason.as_str()),
        (refused[0].block, "core_refused")
    );
    assert_eq!(lines(&["--json"])?.len(), 1, "by default what is unfinished");
    assert_eq!(lines(&["list", "--all", "--json"])?.len(), 3);
    assert_eq!(lines(&["list", "--all", "--limit", "2", "--json"])?.len(), 2);
    let text = ask(&["list"])?;
    text.done(&id);
    assert!(text.out.contains("arrived held") && text.out.contains("core_refused"), "{text:?}");

    // By its decimal number, too.
    let stories: Vec<RequestDetail> =
        ask(&["show", &refused[0].id.to_string(), "--json"])?.json()?;
    let [story] = stories.as_slice() else { panic!("{stories:?}") };
    assert_eq!(story.event.transaction, refused[0].transaction.to_string());
    assert_eq!((story.generation.as_deref(), story.transactions.len()), (Some("G9 to G13"), 0));
    ask(&["show", &id])?.done("core_refused");

    core.change(|core| core.ask_status = None);
    ask(&["retry", &id])?.done("tried again now");
    fleet.answered_by(&[0], &refused).await?;
    // The last step reaches the disk a moment after the receipt.
    let all = [answered, refused].concat();
    fleet.audit(&[0], &all).await?;
    ask(&["retry", &id])?.code.filter(|code| *code == 1).expect("nothing to try");
    let retried: Vec<Retried> = ask(&["retry", &id, "--json"])?.json()?;
    assert_eq!(retried[0].verdict, RetryVerdict::Refused);
    assert!(retried[0].text.contains("accepted in block"), "{retried:?}");
    let told: Vec<RequestDetail> = ask(&["show", &id, "--json"])?.json()?;
    assert_eq!(told[0].accepted.as_ref().unwrap().transaction, told[0].transactions[0].hash);
    assert_eq!(told[0].overview.stage, "settled");

    ask(&["show", "0xdead"])?.failed("there is no request 0x0000");
    ask(&["show", "nobody"])?.failed("no request id");
    let nobody = client(supervisor, &["requests", "--instance", "nobody"])?;
    nobody.failed(&zero);
    // Who does not find the socket is told who has the journal.
    let mut blind = connector();
    blind.args(["requests", "retry", &id, "--instance", &zero, "--socket", "/nowhere/at.all"]);
    blind.arg("--state-dir").arg(supervisor.state_dir());
    said(blind)?.failed(&format!("in use by process {}", supervisor.pid()?));

    a_stopped_one(&fleet, &all).await
}

/// The same instance, stopped by its operator.
async fn a_stopped_one(fleet: &Fleet, before: &[world::request::Issued]) -> Result<()> {
    let (supervisor, zero) = (&fleet.supervisor, name(0));
    let core = &fleet.parties.list[0].core;
    let ask = |arguments: &[&str]| {
        client(supervisor, &[&["requests"], arguments, &["--instance", &zero]].concat())
    };
    core.change(|core| core.ask_status = Some((Code::InvalidArgument, "not this one")));
    let more = fleet.request(Ask::mixed(0, 1)).await?;
    let id = format!("{:#066x}", more[0].id);
    until("held", PATIENCE, Duration::from_millis(100), async || {
        Ok(ask(&["list", "--held"])?.out.contains(&id).then_some(()))
    })
    .await?;
    supervisor.operate("stop", &zero).await?;
    let text = ask(&["list"])?;
    text.done(&id);
    assert!(text.out.contains("does not answer (node-0 is stopped); read from"), "{text:?}");
    ask(&["retry", &id])?.done("tried again when the instance starts");
    let refusal = client(supervisor, &["backfill", "--instance", &zero, "--from", "1"])?;
    refusal.failed("journal rebuild --from 1");

    // One that had ended without an answer.
    let file = fleet.journal(0)?;
    let edit = rusqlite::Connection::open(&file).expect("the journal");
    let expire =
        "UPDATE requests SET outcome = 'expired', settled_at = arrived_at, worked = 99999999,
        hold_reason = NULL, hold_detail = NULL, held_since = NULL WHERE outcome IS NULL";
    assert_eq!(edit.execute(expire, []).expect("an edit"), 1);
    drop(edit);
    let ended: Vec<RequestOverview> = ask(&["list", "--refused", "--json"])?.json()?;
    assert_eq!((ended.len(), ended[0].outcome.as_deref()), (1, Some("expired")));
    let opened: Vec<Retried> = ask(&["retry", &id, "--json"])?.json()?;
    assert_eq!(opened[0].verdict, RetryVerdict::OpenedAgain);
    let story: Vec<RequestDetail> = ask(&["show", &id, "--json"])?.json()?;
    let line = &story[0].overview;
    assert_eq!((line.outcome.as_deref(), line.stage.as_str()), (None, "arrived"));
    assert_eq!(line.last_error.as_deref(), Some("it had ended as expired"));
    assert_eq!(
        (story[0].worked_ms, line.held.as_ref().expect("held").reason.as_str()),
        (0, "retry_asked")
    );

    let exported = ask(&["export", "--all"])?;
    let lines: Vec<ExportedRequest> =
        exported.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), before.len() + 1);
    assert!(lines.iter().take(before.len()).all(|one| one.answer.is_some()), "{exported:?}");
    assert!(lines.iter().all(|one| one.data.starts_with("0x") && !one.topics.is_empty()));
    let key = alloy::hex::encode(fleet.parties.list[0].wallet.to_bytes());
    assert!(!exported.out.contains(&key));

    core.change(|core| core.ask_status = None);
    supervisor.operate("restart", &zero).await?;
    fleet.audit(&[0], &[before, &more].concat()).await?;
    fleet.unbroken()
}

#[world::test]
async fn a_backfill_finds_what_was_before_the_start() -> Result<()> {
    let mut fleet = Fleet::new(1).await?;
    let zero = name(0);
    let missed = fleet.request(Ask::mixed(3, 3)).await?;
    fleet.deployment().chain.mine(3).await?;
    let begins = format!("starting_block = {}", fleet.deployment().since_block);
    let config = fleet.config(0, "").replace(&begins, "starting_block = \"latest\"");
    fleet.supervisor.configs.write(&zero, &config)?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[&zero]).await?;
    let seen = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&[0], &seen).await?;
    assert!(fleet.entries(0)?.len() < missed.len() + seen.len(), "some were missed");

    let supervisor = &fleet.supervisor;
    let from = fleet.deployment().since_block.to_string();
    let backfill = |more: &[&str]| {
        client(supervisor, &[&["backfill", "--instance", &zero, "--from"], more].concat())
    };
    backfill(&["99999999"])?.failed("is read in its turn");
    backfill(&[&from, "--to", "0"])?.failed("is before --from");
    let read = backfill(&[&from])?;
    read.done("blocks read");
    assert!(!read.out.contains(" 0 of them new"), "{read:?}");
    let all = [missed, seen].concat();
    fleet.audit(&[0], &all).await?;
    backfill(&[&from])?.done(" 0 of them new");
    client(supervisor, &["backfill", "--instance", "nobody", "--from", "1"])?.failed(&zero);
    fleet.unbroken()
}

/// A reader of both is not to wonder which is right.
#[world::test]
async fn c10_requests_are_headed_as_status_says() -> Result<()> {
    let mut fleet = Fleet::new(1).await?;
    let zero = name(0);
    fleet.write(0, "")?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[&zero]).await?;
    let ask = || client(&fleet.supervisor, &["requests", "--instance", &zero]);
    ask()?.done(&format!("{zero}: running\n"));
    fleet.parties.list[0].core.stop().await;
    fleet.supervisor.until_state(&zero, "waiting").await?;
    let ask = || client(&fleet.supervisor, &["requests", "--instance", &zero]);
    ask()?.done(&format!("{zero}: waiting\n"));
    client(&fleet.supervisor, &["requests", "--instance", "nobody"])?
        .failed("there is no instance nobody");
    Ok(())
}
