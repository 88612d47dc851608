//! Many connectors in one process: each does its own work, and the process ends as one does.

use std::time::Duration;

use alloy::primitives::U256;
use world::{
    Result,
    deployment::Thresholds,
    fleet::{Fleet, name},
    program,
    request::Ask,
    scene::{PATIENCE, SceneOptions},
    until,
};

const POLL: Duration = Duration::from_millis(50);

/// Field failure T36.
#[world::test]
async fn four_parties_answer_the_same_hundred_requests() -> Result<()> {
    let thresholds = Thresholds { public: 3, user: 4 };
    let mut fleet = Fleet::with(&SceneOptions::default(), 4, thresholds).await?;
    fleet.run_all(program()).await?;
    let all = fleet.all();
    let requests = fleet.request(Ask::mixed(50, 50)).await?;
    fleet.audit(&all, &requests).await?;
    for request in &requests {
        assert!(fleet.deployment().is_done(request.id).await?, "{:#x}", request.id);
        for party in &fleet.parties.list {
            assert_eq!(party.core.accepted(request.id), 1, "each asks its own Core");
        }
    }
    for answer in fleet.deployment().answers().await? {
        let party = fleet.parties.list.iter().find(|p| p.signer.address() == answer.signer);
        assert_eq!(answer.tx_sender, party.unwrap().address(), "each sends from its own wallet");
    }
    let failed = fleet.deployment().failed_transactions().await?.len();
    // What an answer costs depends on whether it is the first, or makes the consensus.
    println!("{failed} of {} transactions ran out of gas", 4 * requests.len());
    fleet.unbroken()?;
    assert_eq!(fleet.supervisor.stop().await?, Some(0), "{}", fleet.supervisor.log());
    Ok(())
}

#[world::test]
async fn kill_nine_under_load_loses_and_doubles_nothing() -> Result<()> {
    let mut fleet = Fleet::running(3, program()).await?;
    let all = fleet.all();
    for party in &fleet.parties.list {
        // Long enough for a kill to find requests in every stage.
        party.core.change(|core| core.latency = Duration::from_millis(150));
    }
    let deployment = fleet.deployment().clone();
    let emitting = deployment.request_slowly(Ask::mixed(30, 30), 3, Duration::from_millis(220));
    let killing = async {
        for pause in [800, 1400, 600, 1600] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            fleet.supervisor.alive()?;
            fleet.supervisor.kill();
            fleet.supervisor.start(program())?;
        }
        Ok(())
    };
    let (requests, ()) = tokio::try_join!(emitting, killing)?;
    fleet.audit(&all, &requests).await?;
    fleet.unbroken()
}

#[world::test]
async fn a_stop_under_load_finishes_what_is_answered_by_any() -> Result<()> {
    let mut fleet = Fleet::running(3, program()).await?;
    let all = fleet.all();
    for party in &fleet.parties.list {
        // The Cores always have some in hand.
        party.core.change(|core| core.latency = Duration::from_millis(600));
    }
    let deployment = fleet.deployment().clone();
    let emitting = deployment.request_slowly(Ask::mixed(20, 20), 4, Duration::from_millis(150));
    let stopping = async {
        until("thirty answers", PATIENCE, POLL, async || {
            Ok((deployment.answers().await?.len() >= 30).then_some(()))
        })
        .await?;
        fleet.supervisor.stop().await
    };
    let (requests, code) = tokio::try_join!(emitting, stopping)?;
    assert_eq!(code, Some(0), "{}", fleet.supervisor.log());
    for index in &all {
        let file = fleet.journal(*index)?;
        let books = fleet.books(*index, &file);
        let unfinished = books.unsettled_in(&["answered", "submitted"])?;
        assert_eq!(unfinished, Vec::<U256>::new(), "{}", name(*index));
        let left = books.unsettled_in(&["arrived", "asked"])?;
        assert!(!left.is_empty(), "{}: what was asked is left", name(*index));
    }
    fleet.supervisor.start(program())?;
    fleet.audit(&all, &requests).await?;
    fleet.unbroken()
}

/// `scripts/measure idle` tells what a hundred take; here is what must not grow with their number.
#[world::test]
async fn idle_instances_have_no_threads_of_their_own() -> Result<()> {
    let mut fleet = Fleet::new(16).await?;
    let write = |fleet: &Fleet, index| {
        fleet.supervisor.configs.write(&name(index), &fleet.parties.patient_config(index))
    };
    write(&fleet, 0)?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[name(0)]).await?;
    let alone = fleet.supervisor.usage()?;
    for index in fleet.all() {
        write(&fleet, index)?;
    }
    let names: Vec<String> = fleet.all().into_iter().map(name).collect();
    fleet.supervisor.until_running(&names).await?;
    // A thread that waited for a disk lives on for a while.
    let few = alone.threads + 6;
    let what = format!("at most {few} threads");
    let fewer = until(&what, PATIENCE, POLL, async || {
        let usage = fleet.supervisor.usage()?;
        Ok((usage.threads <= few).then_some(usage))
    });
    let together = fewer.await?;
    println!("one: {alone:?}\nsixteen: {together:?}");
    Ok(())
}
