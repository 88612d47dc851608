//! A context changes and then an epoch, while decryptions are asked for and connectors die at random moments: what
//! names the old context is answered under it, what names the new one under the new, and each vote is given once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use alloy::primitives::U256;
use world::{
    Error, Result,
    contracts::Variant,
    fleet::{Fleet, name},
    journal,
    key_generation::KeyRequest,
    parties::Parties,
    program,
    request::Issued,
    scene::{PATIENCE, SceneOptions},
    supervised::Supervised,
    until,
};

use super::{
    committee::{AGREE, decrypt, ethereum, nodes},
    lifecycle::{ALL, LAST, LEAVES, NEW, OLD, asked_as_told, destroyed_at},
    stage::{POLL, SOON_FINAL, Stage},
};

/// Two processes: each has every second party, and dies by itself.
const PROCESSES: usize = 2;

/// Kills a process at a random moment, and starts it again.
async fn kills(processes: [&mut Supervised; PROCESSES], count: usize) -> Result<()> {
    let seed = std::env::var_os("CRASH_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("CRASH_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..count {
        tokio::time::sleep(Duration::from_millis(rng.u64(200..1500))).await;
        let process = &mut *processes[rng.usize(..PROCESSES)];
        process.alive()?;
        process.kill();
        process.start(program())?;
    }
    Ok(())
}

/// Requests one after the other until it is `over` and each context was named, by the context that each names.
async fn load(
    parties: &Parties,
    key: &KeyRequest,
    first: U256,
    over: &AtomicBool,
) -> Result<Vec<(U256, Issued)>> {
    let mut issued = Vec::new();
    let names_one = |issued: &[(U256, Issued)]| issued.iter().all(|(named, _)| *named == first);
    while !over.load(Ordering::Relaxed) || names_one(&issued) {
        let (current, _) = ethereum(parties).in_force().await?;
        let named = if issued.len() % 2 == 0 { first } else { current };
        let request = decrypt(parties, 1, key, named).await?;
        issued.extend(request.into_iter().map(|request| (named, request)));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(issued)
}

/// A new context, and an epoch in it. Answers context, its first epoch, and the last one.
async fn changes(parties: &Parties, first_epoch: U256) -> Result<[U256; 3]> {
    let ethereum = ethereum(parties);
    let nodes = nodes(parties, &NEW);
    parties.list[LAST].core.change(|core| core.never_finish = true);
    let context = ethereum.define_context(&nodes, AGREE).await?;
    parties.deployment.new_context(&nodes, AGREE).await?;
    let epoch = first_epoch + U256::ONE;
    let in_force = async |epoch| {
        let what = format!("epoch {epoch:#x} in force");
        until(&what, PATIENCE, POLL, async || {
            Ok((ethereum.in_force().await? == (context, epoch)).then_some(()))
        })
        .await
    };
    until("the epoch asked of every Core", PATIENCE, POLL, async || {
        let taken = |party: &usize| !parties.list[*party].core.accepted_lifecycle(epoch).is_empty();
        Ok(ALL.iter().all(taken).then_some(()))
    })
    .await?;
    parties.list[LAST].core.change(|core| core.never_finish = false);
    in_force(epoch).await?;
    let last = ethereum.new_epoch().await?;
    in_force(last).await?;
    Ok([context, epoch, last])
}

async fn under_fire(variant: Variant, more: &str, count: usize) -> Result<()> {
    let options = SceneOptions { newcomers: 2, ..SceneOptions::of(variant) };
    let mut stage = Stage::of(options, 6).await?;
    let key = stage.made_before().await?;
    let (first, first_epoch) = stage.ethereum().in_force().await?;
    let dir = stage.fleet.dir.path().join("others");
    std::fs::create_dir(&dir).map_err(|error| Error::Io("a folder".into(), error))?;
    let mut others = Supervised::new(&dir)?;
    for party in ALL {
        let config = stage.config_from_now(party, &format!("{SOON_FINAL}\n{more}")).await?;
        let of = if party % PROCESSES == 0 { &stage.fleet.supervisor } else { &others };
        of.configs.write(&name(party), &config)?;
    }
    stage.fleet.supervisor.start(program())?;
    others.start(program())?;
    stage.fleet.supervisor.until_running(&[0, 2, 4].map(name)).await?;
    others.until_running(&[1, 3, 5].map(name)).await?;

    // The votes for the key.
    let mut before = Vec::new();
    for party in ALL {
        before.push(stage.keys.chain.nonce(stage.fleet.wallet(party)).await?);
    }
    let over = AtomicBool::new(false);
    let Fleet { supervisor, parties, .. } = &mut stage.fleet;
    let parties = &*parties;
    let changing = async {
        let changed = changes(parties, first_epoch).await;
        over.store(true, Ordering::Relaxed);
        changed
    };
    let (changed, issued, killed) = tokio::join!(
        changing,
        load(parties, &key, first, &over),
        kills([supervisor, &mut others], count)
    );
    let log = || println!("{}", world::scene::tail(&others.log()));
    let [context, epoch, last] = stage.told(changed).inspect_err(|_| log())?;
    killed?;

    // Each is answered in the context that it names, once by each of its nodes, whose Core was asked once.
    let (old, new): (Vec<_>, Vec<_>) = issued?.into_iter().partition(|(named, _)| *named == first);
    assert!(!old.is_empty() && !new.is_empty(), "{} and {}", old.len(), new.len());
    for (requests, nodes) in [(old, &OLD[..]), (new, &NEW[..])] {
        let requests: Vec<Issued> = requests.into_iter().map(|(_, request)| request).collect();
        stage.fleet.answered_by(nodes, &requests).await.inspect_err(|_| log())?;
        for (party, request) in
            ALL.iter().flat_map(|party| requests.iter().map(move |one| (party, one)))
        {
            let (asked, is_node) = (stage.core(*party).accepted(request.id), nodes.contains(party));
            // Who is no node there is told so by the contract, later.
            assert!(asked == 1 || (asked == 0 && !is_node), "party {party}: {asked}");
        }
    }
    // So is what concerns contexts and epochs: the leaving party gives its shares to the first epoch alone.
    asked_as_told(&stage, first, (context, epoch)).await?;
    assert_eq!(stage.core(LEAVES).accepted_lifecycle(last), []);
    for epoch in [epoch, last] {
        stage.confirmed(epoch, &NEW).await?;
    }
    let sent = async |party| stage.keys.chain.nonce(stage.fleet.wallet(party)).await;
    assert!(sent(LEAVES).await? <= 1, "the others may have been enough without it");
    for party in NEW {
        let votes = sent(party).await? - before[party];
        assert_eq!(votes, 3, "party {party}: one context and two epochs");
    }

    // What is destroyed is destroyed at all, and nothing is asked in it any more.
    stage.ethereum().destroy_context(first).await?;
    destroyed_at(&stage, &ALL, first, &[first_epoch]).await?;
    let late = decrypt(&stage.fleet.parties, 1, &key, first).await?.remove(0);
    for party in OLD {
        let of = if party % PROCESSES == 0 { &stage.fleet.supervisor } else { &others };
        let (chain_id, wallet) = (stage.fleet.deployment().chain_id, stage.fleet.wallet(party));
        let what = format!("it is refused at party {party}");
        let seen = until(&what, PATIENCE, POLL, async || {
            let file = journal::of_chain(&of.state_dir(), chain_id, wallet);
            let rows = file.map(|file| journal::entries(&file)).transpose()?.unwrap_or_default();
            let row = rows.into_iter().find(|row| row.id == late.id);
            Ok(row.and_then(|row| row.refusal))
        });
        let refusal = seen.await.inspect_err(|_| log())?;
        assert!(refusal.contains("context_destroyed"), "{refusal}");
        assert_eq!(stage.core(party).accepted(late.id), 0);
    }
    stage.fleet.unbroken()?;
    world::audit::unbroken(&others.log())
}

#[world::test]
async fn a_context_changes_under_load_and_kill_nine_on_g14() -> Result<()> {
    under_fire(Variant::G14, "", 4).await
}

#[world::test]
#[ignore = "long: scripts/test --long"]
async fn long_a_context_changes_under_load_and_kill_nine_on_head() -> Result<()> {
    under_fire(Variant::Head, "key_representation = \"uncompressed\"", 20).await
}
