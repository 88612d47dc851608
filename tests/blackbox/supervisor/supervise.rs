//! `supervise` as an operator meets it: what the files say is what runs, and what is wrong is said
//! by name.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use world::{
    Error, Result, connector,
    fleet::{Fleet, name},
    program, random_address, random_key,
    request::Ask,
    status::Status,
    supervised::{Supervised, find, running},
};

/// `kms-connector <arguments> --socket …`: its exit code, and what it said.
fn client(supervisor: &Supervised, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = supervisor.client(program(), arguments).output();
    let output = output.map_err(|e| Error::Io("a command".into(), e))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

// Starting.

#[world::test]
async fn without_its_directory_it_ends_with_78() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = Supervised::new(dir.path())?;
    std::fs::remove_dir(supervisor.configs.path()).unwrap();
    supervisor.start(program())?;
    assert_eq!(supervisor.ended().await?, Some(78), "{}", supervisor.log());
    let missing = supervisor.configs.path().display().to_string();
    assert!(supervisor.log().contains(&missing), "{}", supervisor.log());
    Ok(())
}

#[world::test]
async fn a_variable_that_would_be_everybodys_ends_it_with_78() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let mut supervisor = Supervised::new(dir.path())?;
    let key = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
    let mut command = supervisor.command(program());
    command.env("KMS_CONNECTOR_PRIVATE_KEY", key);
    supervisor.spawn(command)?;
    assert_eq!(supervisor.ended().await?, Some(78), "{}", supervisor.log());
    let log = supervisor.log();
    assert!(log.contains("KMS_CONNECTOR_INSTANCE_"), "it says what to set instead: {log}");
    assert!(!log.contains(&key[2..]), "and does not repeat the key");
    Ok(())
}

#[world::test]
async fn an_empty_directory_is_watched_until_something_comes() -> Result<()> {
    let mut fleet = Fleet::new(1).await?;
    fleet.supervisor.start(program())?;
    let status = fleet.supervisor.until("an empty status", |_| true).await?;
    assert!(status.instances.is_empty(), "{status:?}");
    fleet.write(0, "")?;
    fleet.supervisor.until_running(&[name(0)]).await?;
    let requests = fleet.request(Ask::mixed(2, 2)).await?;
    fleet.audit(&[0], &requests).await
}

/// Field failure T65.
#[world::test]
async fn a_second_supervisor_is_sent_away() -> Result<()> {
    let fleet = Fleet::running(1, program()).await?;
    let mut command = fleet.supervisor.command(program());
    command.env_remove("RUST_LOG");
    let output = command.output().map_err(|e| Error::Io("a second supervisor".into(), e))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    let socket = fleet.supervisor.socket().display().to_string();
    assert!(said.contains(&socket), "{said}");
    let requests = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.audit(&[0], &requests).await
}

// Wrong files.

#[world::test]
async fn a_bad_file_leaves_running_what_ran_and_is_told() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let (supervisor, one) = (&fleet.supervisor, name(1));
    let before = supervisor.status().await?;

    supervisor.configs.overwrite(&one, "gateway_url = \"ws://127.0.0.1:1\nchain_id = nonsense")?;
    let refused = |status: &_| find(status, &one).is_some_and(|one| one.reload_failed.is_some());
    let bad = supervisor.until("a failed reload", refused).await?;
    // A new file that is bad from the beginning, and one that is good: this is still applied.
    supervisor.configs.write("stranger", "no_such_key = 1\n")?;
    let named = |problem: &String| problem.contains("stranger");
    let status = supervisor
        .until("a problem of the stranger", |status| status.reload.problems.iter().any(named))
        .await?;
    assert!(status.reload.problems.iter().any(|line| line.contains(&one)), "{status:#?}");
    for name in [name(0), one.clone()] {
        let (then, now) = (find(&before, &name).unwrap(), find(&status, &name).unwrap());
        assert_eq!((then.generation, then.since_ms), (now.generation, now.since_ms), "{name}");
        assert_eq!(now.state, "running");
        assert_eq!(then.config_hash, now.config_hash, "the old content is what runs");
    }
    assert_eq!(find(&bad, &name(0)).unwrap().reload_failed, None);
    let requests = fleet.request(Ask::mixed(2, 2)).await?;
    fleet.answered_by(&[0, 1], &requests).await?;
    let (code, said) = client(supervisor, &["status"])?;
    assert!(code == Some(1) && said.contains(&one) && said.contains("stranger"), "{code:?} {said}");

    // Mended with another value: the next generation. The stranger goes.
    fleet.write(1, "max_requests_in_flight = 500")?;
    supervisor.configs.remove("stranger")?;
    let fine = |status: &Status| {
        let mended = find(status, &one).is_some_and(|one| {
            one.generation == 2 && one.reload_failed.is_none() && one.state == "running"
        });
        mended && status.reload.problems.is_empty() && status.instances.len() == 2
    };
    supervisor.until("everything in order", fine).await?;
    assert_eq!(client(supervisor, &["status"])?.0, Some(0));
    fleet.unbroken()
}

#[world::test]
async fn a_file_that_contradicts_the_world_leaves_running_what_ran() -> Result<()> {
    let fleet = Fleet::running(1, program()).await?;
    let supervisor = &fleet.supervisor;
    let good = fleet.config(0, "");
    let other_chain = good.replace(
        &format!("chain_id = {}", fleet.deployment().chain_id),
        &format!("chain_id = {}", fleet.deployment().chain_id + 1),
    );
    // And nobody is there.
    let unreachable = good.replace(&fleet.parties.list[0].core.endpoint(), "http://127.0.0.1:1");
    // The addresses of the two contracts in each other's place; and one where nothing stands.
    let [decryption, registry] =
        [fleet.deployment().decryption, fleet.deployment().gateway_config].map(|at| at.to_string());
    let swapped = good.replace(&decryption, "DECRYPTION").replace(&registry, &decryption);
    let swapped = swapped.replace("DECRYPTION", &registry);
    let nothing = good.replace(&decryption, &random_address().to_string());
    for (text, word) in [
        (other_chain, "chain"),
        (unreachable, "127.0.0.1:1"),
        (swapped, "GatewayConfig"),
        (nothing, "no code"),
    ] {
        assert_ne!(text, good);
        supervisor.configs.write(&name(0), &text)?;
        let told = |status: &_| {
            let why = find(status, &name(0)).and_then(|one| one.reload_failed.clone());
            why.is_some_and(|why| why.contains(word))
        };
        let status = supervisor.until(&format!("refused for {word}"), told).await?;
        let one = find(&status, &name(0)).unwrap();
        assert_eq!((one.generation, one.state.as_str()), (1, "running"));
    }
    let requests = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&[0], &requests).await?;
    // Back to what runs: nothing to do.
    supervisor.configs.write(&name(0), &good)?;
    let fine = |status: &_| find(status, &name(0)).is_some_and(|one| one.reload_failed.is_none());
    let status = supervisor.until("no reload failure", fine).await?;
    assert_eq!(find(&status, &name(0)).unwrap().generation, 1);
    fleet.unbroken()
}

#[world::test]
async fn one_wallet_or_core_for_two_is_refused_by_name() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let supervisor = &fleet.supervisor;
    let before = supervisor.status().await?;
    supervisor.configs.write("twin", &fleet.config(0, ""))?;
    let told = |line: &String| line.contains("twin") && line.contains(&name(0));
    let status = supervisor
        .until("the twin refused", |status| status.reload.problems.iter().any(told))
        .await?;
    assert_eq!(running(&status), [name(0), name(1)]);
    // A Core knows requests by their number alone: it cannot serve two contracts.
    let key = fleet.parties.list[1].wallet.to_bytes().to_string();
    let contract = fleet.deployment().decryption.to_string();
    let other = fleet.config(1, "").replace(&key, &random_key().to_bytes().to_string());
    let other = other.replace(&contract, &random_address().to_string());
    supervisor.configs.write("other-contract", &other)?;
    let told = |line: &String| line.contains("other-contract") && line.contains(&name(1));
    let status = supervisor
        .until("the other contract refused", |status| status.reload.problems.iter().any(told))
        .await?;
    assert_eq!(running(&status), [name(0), name(1)]);
    supervisor.configs.remove("other-contract")?;
    let requests = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&[0, 1], &requests).await?;
    // The holder goes: the claim is free.
    supervisor.configs.remove(&name(0))?;
    let status = supervisor.until_running(&[name(1), "twin".into()]).await?;
    let (then, now) = (find(&before, &name(1)).unwrap(), find(&status, &name(1)).unwrap());
    assert_eq!((then.generation, then.since_ms), (now.generation, now.since_ms));
    let more = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.audit(&[0, 1], &[requests, more].concat()).await
}

// Operators.

#[world::test]
async fn stop_holds_until_restart_and_restart_is_a_new_generation() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let (supervisor, zero) = (&fleet.supervisor, name(0));
    let before = supervisor.instance(&name(1)).await?;

    let (code, said) = client(supervisor, &["stop", &zero])?;
    assert_eq!(code, Some(0), "{said}");
    supervisor.until_state(&zero, "stopped").await?;
    let held = fleet.request(Ask::mixed(2, 2)).await?;
    fleet.answered_by(&[1], &held).await?;
    // Neither a reading of the files nor the same content again ends it.
    let (code, said) = client(supervisor, &["reload"])?;
    assert_eq!(code, Some(0), "{said}");
    fleet.write(0, "")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(supervisor.instance(&zero).await?.state, "stopped");
    assert!(fleet.deployment().answers().await?.iter().all(|a| a.tx_sender != fleet.wallet(0)));

    let (code, said) = client(supervisor, &["restart", &zero])?;
    assert_eq!(code, Some(0), "{said}");
    let restarted = supervisor.until_state(&zero, "running").await?;
    assert_eq!(restarted.generation, 2);
    fleet.answered_by(&[0], &held).await?;

    // From another content, too.
    supervisor.operate("stop", &zero).await?;
    fleet.write(0, "max_requests_in_flight = 500")?;
    supervisor.until_state(&zero, "running").await?;
    let after = supervisor.instance(&name(1)).await?;
    assert_eq!((before.generation, before.since_ms), (after.generation, after.since_ms));
    let (code, said) = client(supervisor, &["restart", "nobody"])?;
    assert!(code == Some(1) && said.contains(&zero), "the names there are: {code:?} {said}");
    fleet.audit(&[0, 1], &held).await?;
    fleet.unbroken()
}

#[world::test]
async fn reload_and_sighup_apply_at_once() -> Result<()> {
    let fleet = Fleet::running(1, program()).await?;
    let (supervisor, zero) = (&fleet.supervisor, name(0));
    fleet.write(0, "max_requests_in_flight = 500")?;
    let (code, said) = client(supervisor, &["reload"])?;
    assert!(code == Some(0) && said.contains(&zero), "{code:?} {said}");
    let reloaded = supervisor.instance(&zero).await?;
    assert_eq!((reloaded.generation, reloaded.changing), (2, false), "the answer comes after it");
    fleet.write(0, "max_requests_in_flight = 501")?;
    supervisor.signal(Signal::HUP)?;
    let third = |status: &_| find(status, &zero).is_some_and(|one| one.generation == 3);
    supervisor.until("the third generation", third).await?;
    supervisor.until_state(&zero, "running").await?;
    supervisor.configs.overwrite(&zero, "nonsense")?;
    let (code, said) = client(supervisor, &["reload"])?;
    assert!(code == Some(1) && said.contains(&zero), "{code:?} {said}");
    // What is disabled does not run, and is no problem.
    fleet.write(0, "enabled = false")?;
    let (code, said) = client(supervisor, &["reload", &zero])?;
    assert_eq!(code, Some(0), "{said}");
    supervisor.until_state(&zero, "stopped").await?;
    assert_eq!(client(supervisor, &["status"])?.0, Some(0));
    Ok(())
}

/// Log rotation sends SIGUSR1.
#[world::test]
async fn d5_signals_of_other_programs_end_nothing() -> Result<()> {
    let fleet = Fleet::running(1, program()).await?;
    let supervisor = &fleet.supervisor;
    let before = supervisor.instance(&name(0)).await?;
    let signals =
        [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::VTALARM, Signal::PROF, Signal::IO];
    for signal in signals.into_iter().chain(signals) {
        supervisor.signal(signal)?;
        let status = supervisor.status().await?;
        assert_eq!(running(&status), [name(0)]);
        assert_eq!(status.pid, supervisor.pid()?);
    }
    let after = supervisor.instance(&name(0)).await?;
    assert_eq!((before.generation, before.since_ms), (after.generation, after.since_ms));
    Ok(())
}

#[world::test]
async fn a_silly_question_is_refused_and_hurts_nobody() -> Result<()> {
    let fleet = Fleet::running(1, program()).await?;
    for request in [json!({"request": "sing"}), json!([]), json!({"request": "stop"})] {
        let answer = fleet.supervisor.ask(&request).await?;
        assert_eq!(answer["answer"], "refused", "{request}: {answer}");
    }
    let status = fleet.supervisor.status().await?;
    assert_eq!(running(&status), [name(0)]);
    let (code, said) = client(&fleet.supervisor, &["status", "--json"])?;
    let told: Status = serde_json::from_str(&said)?;
    assert_eq!((code, told.pid), (Some(0), fleet.supervisor.pid()?), "{said}");
    assert_eq!(running(&told), [name(0)]);
    let key = alloy::hex::encode(fleet.parties.list[0].wallet.to_bytes());
    assert!(!said.contains(&key));
    let nobody = connector().args(["status", "--socket", "/nowhere/at.all"]).output();
    let nobody = nobody.map_err(|e| Error::Io("status".into(), e))?;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("/nowhere/at.all"));
    Ok(())
}
