//! Whatever kills the connector, and whatever is left of its journal: every request is answered
//! once.

use std::{path::Path, time::Duration};

use alloy::primitives::{B256, U256};
use fastrand::Rng;
use rustix::process::Signal;
use world::{
    Error, Result,
    audit::{Journal, number},
    program,
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions},
    until,
    wal::Wal,
};

const POLL: Duration = Duration::from_millis(20);

/// A random source whose seed is in the output of a failing test; `CRASH_SEED` repeats one.
fn seeded() -> Rng {
    let given = std::env::var_os("CRASH_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("CRASH_SEED={seed}");
    Rng::with_seed(seed)
}

fn millis(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// A scene whose connector has a configuration and does not run yet.
async fn scene() -> Result<Scene> {
    let scene = Scene::new(SceneOptions::default()).await?;
    std::fs::write(scene.config_file(), scene.config(""))
        .map_err(|e| Error::Io("writing the configuration".into(), e))?;
    // Long enough for a kill to find requests in every stage.
    scene.core.change(|core| core.latency = Duration::from_millis(150));
    Ok(scene)
}

/// Field failure T46.
#[world::test]
async fn kill_nine_at_ten_random_moments_loses_and_doubles_nothing() -> Result<()> {
    let mut rng = seeded();
    let mut scene = scene().await?;
    let deployment = scene.deployment.clone();
    let emitting = deployment.request_slowly(Ask::mixed(100, 100), 5, Duration::from_millis(100));
    let killing = async {
        for _ in 0..10 {
            scene.start_again(program())?;
            tokio::time::sleep(millis(&mut rng, 50..1500)).await;
            scene.alive()?;
            scene.kill();
        }
        Ok(())
    };
    let (requests, ()) = tokio::try_join!(emitting, killing)?;
    assert_eq!(requests.len(), 200);
    scene.start_again(program())?;
    scene.audit(&requests, Journal::Whole).await
}

/// What a journal must be at any time, read as `SQLite` recovers it: whole, and with every request
/// of the chain up to its cursor.
fn check_recovered(database: &Path, requests: &[Issued]) -> rusqlite::Result<Option<u64>> {
    let connection = rusqlite::Connection::open(database)?;
    let healthy: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    assert_eq!(healthy, "ok");
    let tables: u64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'cursors'",
        [],
        |row| number(row, 0),
    )?;
    if tables == 0 {
        return Ok(None);
    }
    let cursors: Vec<u64> = connection
        .prepare("SELECT number FROM cursors")?
        .query_map([], |row| number(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let stored: Vec<U256> = connection
        .prepare("SELECT r.id FROM requests r JOIN events e ON e.seq = r.seq")?
        .query_map([], |row| Ok(U256::from_be_slice(&row.get::<_, Vec<u8>>(0)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let cursor = cursors.first().copied();
    for request in requests {
        let passed = cursor.is_some_and(|cursor| request.block <= cursor);
        assert_eq!(stored.contains(&request.id), passed, "{:#x}, cursor {cursor:?}", request.id);
    }
    let unanswered: u64 = connection.query_row(
        "SELECT count(*) FROM requests r WHERE stage IN ('answered', 'submitted')
         AND NOT EXISTS (SELECT 1 FROM answers a WHERE a.seq = r.seq)",
        [],
        |row| number(row, 0),
    )?;
    assert_eq!(unanswered, 0, "a stage that needs an answer has one");
    let nonces: Vec<u64> = connection
        .prepare("SELECT nonce FROM transactions ORDER BY nonce")?
        .query_map([], |row| number(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    assert!(nonces.iter().copied().eq(0..nonces.len() as u64), "{nonces:?}");
    Ok(cursor)
}

#[world::test]
async fn every_frame_of_a_real_log_is_a_whole_journal() -> Result<()> {
    let mut scene = scene().await?;
    scene.start_again(program())?;
    let deployment = scene.deployment.clone();
    let requests =
        deployment.request_slowly(Ask::mixed(10, 10), 4, Duration::from_millis(120)).await?;
    scene.answered(&requests[..8]).await?;
    scene.alive()?;
    scene.kill();

    let database = scene.journal().ok_or_else(|| Error::other("no journal"))?;
    let wal = Wal::read(&database)?;
    assert!(wal.frames() > 50, "{} frames", wal.frames());
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut cursors = Vec::new();
    for frames in 0..=wal.frames() {
        for half in [false, true] {
            let copy = folder.path().join(format!("{frames}-{half}.sqlite3"));
            wal.copy_cut(&database, &copy, frames, half)?;
            cursors.extend(check_recovered(&copy, &requests).unwrap());
            std::fs::remove_file(&copy).unwrap();
        }
    }
    assert!(cursors.is_sorted(), "a longer log never has an older cursor");

    scene.start_again(program())?;
    scene.audit(&requests, Journal::Whole).await
}

#[world::test]
async fn a_journal_cut_at_any_frame_answers_everything_once() -> Result<()> {
    let mut rng = seeded();
    let mut scene = scene().await?;
    let mut requests = Vec::new();
    // How many durable frames are taken away: none but half of one that follows, then more and
    // more, in the end all of them.
    for lost in [0, 1, 2, 3, 4, 6, 9, 14, 22, 34, 52, usize::MAX] {
        requests.extend(scene.deployment.request(Ask::mixed(2, 1)).await?);
        scene.start_again(program())?;
        tokio::time::sleep(millis(&mut rng, 150..900)).await;
        scene.alive()?;
        scene.kill();
        let Some(database) = scene.journal() else { continue };
        let wal = Wal::read(&database)?;
        let kept = wal.frames().saturating_sub(lost);
        println!("{} frames, {kept} kept", wal.frames());
        wal.cut(kept, kept < wal.frames() && rng.bool())?;
    }
    scene.start_again(program())?;
    scene.audit(&requests, Journal::Cut).await
}

/// Waits until `count` transactions of the wallet wait to be mined.
async fn broadcast(scene: &Scene, count: usize) -> Result<Vec<B256>> {
    let (chain, wallet) = (&scene.deployment.chain, scene.wallet.address());
    let broadcast = until("broadcast transactions", PATIENCE, POLL, async || {
        let unmined = chain.unmined(wallet).await?;
        Ok((unmined.len() >= count).then_some(unmined))
    });
    let broadcast = broadcast.await.map_err(|e| Error::other(format!("{e}\n{}", scene.log())))?;
    Ok(broadcast.into_values().collect())
}

/// Checks that these transactions answer the requests, and that the wallet sent no others.
async fn answered_by(scene: &mut Scene, requests: &[Issued], sent: &[B256]) -> Result<()> {
    scene.audit(requests, Journal::Whole).await?;
    let nonce = scene.deployment.chain.nonce(scene.wallet.address()).await?;
    assert_eq!(nonce, requests.len() as u64);
    assert_eq!(answering(scene).await?, sent);
    Ok(())
}

/// The transactions that brought the answers, in the order of the wallet's nonces.
async fn answering(scene: &Scene) -> Result<Vec<B256>> {
    let mut answers = scene.deployment.answers().await?;
    answers.retain(|answer| answer.tx_sender == scene.wallet.address());
    Ok(answers.into_iter().map(|answer| answer.transaction).collect())
}

/// Field failure T44.
#[world::test]
async fn broadcast_transactions_are_followed_and_not_sent_again() -> Result<()> {
    let mut scene = scene().await?;
    let chain = scene.deployment.chain.clone();
    chain.set_block_time(0).await?;
    let requests = scene.deployment.request(Ask::mixed(10, 10)).await?;
    scene.start_again(program())?;
    let sent = broadcast(&scene, requests.len()).await?;
    for pause in [50, 400, 900] {
        scene.kill();
        scene.start_again(program())?;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        scene.alive()?;
    }
    assert_eq!(broadcast(&scene, requests.len()).await?, sent, "the same, and no other");
    chain.set_block_time(1).await?;
    answered_by(&mut scene, &requests, &sent).await
}

/// The worst a cut can do: transactions are on their way, and the journal knows none of them. The
/// wallet then signs others for the same nonces; one per nonce is mined.
///
/// Field failure T44.
#[world::test]
async fn forgotten_broadcasts_are_answered_once() -> Result<()> {
    let mut scene = scene().await?;
    let chain = scene.deployment.chain.clone();
    chain.set_block_time(0).await?;
    let requests = scene.deployment.request(Ask::mixed(6, 6)).await?;
    scene.start_again(program())?;
    broadcast(&scene, requests.len()).await?;
    scene.kill();

    let database = scene.journal().ok_or_else(|| Error::other("no journal"))?;
    let wal = Wal::read(&database)?;
    let folder = tempfile::tempdir().unwrap();
    // Up to half of them are kept: some are known, others not.
    for known in [requests.len() / 2, 0] {
        let kept = (0..=wal.frames()).rev().find(|frames| {
            let copy = folder.path().join(format!("{known}-{frames}.sqlite3"));
            wal.copy_cut(&database, &copy, *frames, false).unwrap();
            let connection = rusqlite::Connection::open(copy).unwrap();
            let sql = "SELECT count(*) FROM transactions";
            connection.query_row(sql, [], |row| number(row, 0)).unwrap() <= known as u64
        });
        wal.cut(kept.unwrap(), false)?;
        scene.start_again(program())?;
        tokio::time::sleep(Duration::from_millis(900)).await;
        scene.alive()?;
        scene.kill();
    }
    scene.start_again(program())?;
    chain.set_block_time(1).await?;
    scene.audit(&requests, Journal::Cut).await
}

#[world::test]
async fn what_was_mined_while_it_was_dead_is_not_sent_again() -> Result<()> {
    let mut scene = scene().await?;
    let chain = scene.deployment.chain.clone();
    chain.set_block_time(0).await?;
    let requests = scene.deployment.request(Ask::mixed(5, 5)).await?;
    scene.start_again(program())?;
    let sent = broadcast(&scene, requests.len()).await?;
    scene.kill();
    chain.mine(1).await?;
    scene.start_again(program())?;
    chain.set_block_time(1).await?;
    answered_by(&mut scene, &requests, &sent).await
}

#[world::test]
async fn a_stop_under_load_finishes_what_is_answered() -> Result<()> {
    let mut scene = scene().await?;
    // The Core always has some in hand.
    scene.core.change(|core| core.latency = Duration::from_millis(600));
    scene.start_again(program())?;
    let deployment = scene.deployment.clone();
    let emitting = deployment.request_slowly(Ask::mixed(30, 30), 4, Duration::from_millis(100));
    let stopping = async {
        until("ten answers", PATIENCE, POLL, async || {
            Ok((deployment.answers().await?.len() >= 10).then_some(()))
        })
        .await?;
        scene.stop().await
    };
    let (requests, code) = tokio::try_join!(emitting, stopping)?;
    assert_eq!(code, Some(0), "{}", scene.log());
    assert_eq!(scene.unsettled_in(&["answered", "submitted"])?, Vec::<U256>::new());
    assert!(!scene.unsettled_in(&["arrived", "asked"])?.is_empty(), "what was asked is left");
    scene.start_again(program())?;
    scene.audit(&requests, Journal::Whole).await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");
    Ok(())
}

#[world::test]
async fn a_second_signal_ends_it_at_once_and_loses_nothing() -> Result<()> {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut scene = scene().await?;
        let chain = scene.deployment.chain.clone();
        chain.set_block_time(0).await?;
        let requests = scene.deployment.request(Ask::mixed(8, 8)).await?;
        scene.start_again(program())?;
        let sent = broadcast(&scene, requests.len()).await?;
        let connector = scene.connector.as_mut().unwrap();
        connector.signal(first)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(connector.exited()?.is_none(), "it waits for its receipts: {}", scene.log());
        // Well below the drain's 20 s.
        let status = connector.stop(second, Duration::from_secs(10)).await?;
        assert!(status.code().is_some(), "it ended by itself: {status}");
        scene.start_again(program())?;
        chain.set_block_time(1).await?;
        scene.audit(&requests, Journal::Whole).await?;
        assert_eq!(answering(&scene).await?, sent, "nothing was sent twice");
    }
    Ok(())
}
