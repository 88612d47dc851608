//! Files change while requests come: what should run runs, who was not meant does not notice, and
//! nothing is lost.

use std::{collections::BTreeSet, time::Duration};

use kms_connector::time::clock::unix_millis;
use world::{
    Error, Result,
    deployment::Node,
    fleet::{Fleet, name},
    program, random_key,
    request::Ask,
    scene::PATIENCE,
    status::Status,
    supervised::find,
    until,
};

const POLL: Duration = Duration::from_millis(50);
/// No drain takes longer.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

async fn sleep(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// What must stay the same about an instance that was not meant: generation, since when it runs,
/// and its connections.
fn unmoved(fleet: &Fleet, status: &Status, index: usize) -> Result<(u64, u64, BTreeSet<u64>)> {
    let one = find(status, &name(index)).ok_or_else(|| Error::other(name(index)))?;
    Ok((one.generation, one.since_ms, fleet.core_connections(index)?))
}

#[world::test]
async fn editing_one_of_eight_under_load_loses_nothing() -> Result<()> {
    let fleet = Fleet::running(8, program()).await?;
    let (supervisor, edited) = (&fleet.supervisor, 3);
    let others: Vec<usize> = fleet.all().into_iter().filter(|index| *index != edited).collect();
    let warm = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&fleet.all(), &warm).await?;
    let before = supervisor.status().await?;
    let chain = fleet.chain_connections()?;
    let mut still = Vec::new();
    for index in &others {
        still.push(unmoved(&fleet, &before, *index)?);
    }

    let editing = async {
        sleep(1500).await;
        let written = unix_millis();
        fleet.write(edited, "max_requests_in_flight = 500")?;
        let next = |status: &Status| {
            find(status, &name(edited))
                .is_some_and(|one| one.generation == 2 && one.state == "running" && !one.changing)
        };
        let status = supervisor.until("the second generation", next).await?;
        sleep(2000).await;
        Ok((written, find(&status, &name(edited)).unwrap().since_ms))
    };
    let (requests, (written, since)) =
        fleet.under_load(Duration::from_millis(250), editing).await?;
    let requests = [warm, requests].concat();
    fleet.audit(&fleet.all(), &requests).await?;

    let after = supervisor.status().await?;
    for (index, then) in others.iter().zip(still) {
        assert_eq!(unmoved(&fleet, &after, *index)?, then, "{}", name(*index));
    }
    let kept = fleet.chain_connections()?.intersection(&chain).count();
    assert!(kept >= others.len(), "{kept} connections to the chain are the same");
    let settled = fleet.entries(edited)?.into_iter().filter_map(|entry| entry.settled_at);
    let settled = settled.filter_map(|at| u64::try_from(at).ok()).filter(|at| *at >= since);
    let first = settled.min().ok_or_else(|| Error::other("the new generation answered nothing"))?;
    println!(
        "from the write to the new generation: {} ms; to its first answer: {} ms",
        since.saturating_sub(written),
        first.saturating_sub(written)
    );
    fleet.unbroken()
}

#[world::test]
async fn a_removed_file_stops_signing() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let (supervisor, gone) = (&fleet.supervisor, fleet.wallet(1));
    // The removed one has requests in every stage.
    fleet.parties.list[1].core.change(|core| core.latency = Duration::from_millis(400));
    let removing = async {
        sleep(1000).await;
        supervisor.configs.remove(&name(1))?;
        let removed = tokio::time::Instant::now();
        let absent = |status: &Status| find(status, &name(1)).is_none();
        supervisor.until("node-1 gone", absent).await?;
        assert!(removed.elapsed() < DRAIN_LIMIT + Duration::from_secs(10));
        sleep(500).await;
        let chain = &fleet.deployment().chain;
        let nonce = chain.nonce(gone).await?;
        assert!(chain.unmined(gone).await?.is_empty(), "what was sent is mined");
        sleep(2500).await;
        assert_eq!(chain.nonce(gone).await?, nonce, "and nothing more is sent");
        assert!(chain.unmined(gone).await?.is_empty());
        assert!(fleet.core_connections(1)?.is_empty());
        Ok(())
    };
    let (requests, ()) = fleet.under_load(Duration::from_millis(150), removing).await?;
    fleet.audit(&[0], &requests).await?;
    // Back again: nothing was lost.
    fleet.write(1, "")?;
    fleet.audit(&[0, 1], &requests).await?;
    fleet.unbroken()
}

#[world::test]
async fn a_renamed_file_leaves_no_gap() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let supervisor = &fleet.supervisor;
    let renaming = async {
        sleep(1000).await;
        supervisor.configs.rename(&name(1), "other-name")?;
        supervisor.until_running(&[name(0), "other-name".into()]).await?;
        sleep(1500).await;
        Ok(())
    };
    let (requests, ()) = fleet.under_load(Duration::from_millis(150), renaming).await?;
    fleet.audit(&[0, 1], &requests).await?;
    let mut answered: Vec<u64> = Vec::new();
    for answer in fleet.deployment().answers().await? {
        if answer.tx_sender == fleet.wallet(1) {
            answered.push(answer.block);
        }
    }
    let longest = answered.windows(2).map(|pair| pair[1] - pair[0]).max();
    println!("longest time between two answers of the renamed one: {longest:?} blocks of 250 ms");
    fleet.unbroken()
}

#[world::test]
async fn a_changed_wallet_leaves_nothing_behind() -> Result<()> {
    changed_wallet(Mined::InTheDrain).await
}

/// The drain lasts as long as it may.
#[world::test]
#[ignore = "long: scripts/test --long"]
async fn long_a_changed_wallet_is_followed_after_its_drain() -> Result<()> {
    changed_wallet(Mined::Afterwards).await
}

/// When the transactions of the earlier wallet are mined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mined {
    InTheDrain,
    Afterwards,
}

async fn changed_wallet(mined: Mined) -> Result<()> {
    let fleet = Fleet::running(1, program()).await?;
    let (supervisor, deployment) = (&fleet.supervisor, fleet.deployment());
    let (old, new) = (fleet.wallet(0), random_key());
    fleet.parties.anvil.fund(new.address()).await?;
    let signer = fleet.parties.list[0].signer.address();
    deployment.register(Node { wallet: new.address(), signer }).await?;

    // Some are sent and not mined, others wait for their ciphertexts.
    let chain = &deployment.chain;
    chain.set_block_time(0).await?;
    let asks = Ask::mixed(3, 3);
    let waiting = deployment.emit(asks.clone()).await?;
    let sent = fleet.request(Ask::mixed(3, 3)).await?;
    let unmined = until("broadcast transactions", PATIENCE, POLL, async || {
        let unmined = chain.unmined(old).await?;
        Ok((unmined.len() == sent.len()).then_some(unmined))
    });
    let unmined = unmined.await?;

    let text = fleet.config(0, "");
    let key = fleet.parties.list[0].wallet.to_bytes().to_string();
    assert!(text.contains(&key));
    supervisor.configs.write(&name(0), &text.replace(&key, &new.to_bytes().to_string()))?;
    if mined == Mined::InTheDrain {
        let changing = |status: &Status| find(status, &name(0)).is_some_and(|one| one.changing);
        supervisor.until("the change", changing).await?;
        chain.set_block_time(1).await?;
    }
    let wallet = new.address().to_string();
    let switched = |status: &Status| {
        find(status, &name(0)).is_some_and(|one| {
            one.state == "running" && one.gauges.wallet.as_deref() == Some(wallet.as_str())
        })
    };
    supervisor.until("the new wallet", switched).await?;
    chain.set_block_time(1).await?;
    deployment.upload(&asks).await?;

    fleet.answered_by(&[0], &[waiting.clone(), sent].concat()).await?;
    let mined = until("the old wallet's transactions mined", PATIENCE, POLL, async || {
        Ok((chain.nonce(old).await? == unmined.len() as u64).then_some(()))
    });
    mined.await?;
    for hash in unmined.values() {
        assert_eq!(chain.receipt(*hash).await?.from, old, "the same transactions, followed");
    }
    for answer in deployment.answers().await? {
        if waiting.iter().any(|request| request.id == answer.id) {
            assert_eq!(answer.tx_sender, new.address(), "{:#x}", answer.id);
        }
    }
    fleet.unbroken()
}

#[world::test]
async fn a_storm_of_writes_is_a_few_changes() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let before = supervisor_status(&fleet).await?;
    let still = unmoved(&fleet, &before, 0)?;
    for write in 0..1000 {
        let text = fleet.config(1, &format!("max_requests_in_flight = {}", 500 + write % 7));
        if write % 2 == 0 {
            fleet.supervisor.configs.overwrite(&name(1), &text)?;
        } else {
            fleet.supervisor.configs.write(&name(1), &text)?;
        }
        sleep(1).await;
    }
    fleet.write(1, "max_requests_in_flight = 600")?;
    let hash = hash_of(&fleet, 1)?;
    let settled = |status: &Status| {
        find(status, &name(1)).is_some_and(|one| {
            one.state == "running"
                && !one.changing
                && one.config_hash.as_deref().is_some_and(|begin| hash.starts_with(begin))
        })
    };
    let after = fleet.supervisor.until("the last content", settled).await?;
    let generation = find(&after, &name(1)).unwrap().generation;
    assert!((2..=3).contains(&generation), "generation {generation}");
    assert_eq!(unmoved(&fleet, &after, 0)?, still);
    let requests = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.audit(&[0, 1], &requests).await?;
    fleet.unbroken()
}

async fn supervisor_status(fleet: &Fleet) -> Result<Status> {
    fleet.supervisor.status().await
}

/// As an operator computes it.
pub fn sha256sum(file: &std::path::Path) -> Result<String> {
    let output = std::process::Command::new("sha256sum").arg(file).output();
    let output = output.map_err(|e| Error::Io("sha256sum".into(), e))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let hash = text.split_whitespace().next().filter(|hash| hash.len() == 64);
    hash.map(str::to_owned).ok_or_else(|| Error::other(format!("sha256sum of {}", file.display())))
}

fn hash_of(fleet: &Fleet, index: usize) -> Result<String> {
    sha256sum(&fleet.supervisor.configs.file(&name(index)))
}

#[world::test]
async fn a_mounted_config_map_is_followed() -> Result<()> {
    let mut fleet = Fleet::new(4).await?;
    let names: Vec<String> = fleet.all().into_iter().map(name).collect();
    let publish = |fleet: &Fleet, which: &[(usize, &str)]| {
        let texts: Vec<(&str, String)> = which
            .iter()
            .map(|(index, more)| (names[*index].as_str(), fleet.config(*index, more)))
            .collect();
        let files: Vec<(&str, &str)> =
            texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        fleet.supervisor.configs.publish(&files)
    };
    publish(&fleet, &[(0, ""), (1, ""), (2, "")])?;
    fleet.supervisor.start(program())?;
    let before = fleet.supervisor.until_running(&names[..3]).await?;
    let still = unmoved(&fleet, &before, 0)?;
    // One stays, one changes, one goes, one comes: in one swap, as a rollout does it.
    publish(&fleet, &[(0, ""), (1, "max_requests_in_flight = 500"), (3, "")])?;
    let wanted = [names[0].as_str(), names[1].as_str(), names[3].as_str()];
    let swapped = |status: &Status| {
        let running: Vec<_> = status
            .instances
            .iter()
            .filter(|one| one.state == "running" && !one.changing)
            .map(|one| (one.name.as_str(), one.generation))
            .collect();
        running == [(wanted[0], 1), (wanted[1], 2), (wanted[2], 1)] && status.instances.len() == 3
    };
    let after = fleet.supervisor.until("the swap applied", swapped).await?;
    assert_eq!(unmoved(&fleet, &after, 0)?, still);
    let requests = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.audit(&[0, 1, 3], &requests).await?;
    fleet.unbroken()
}
