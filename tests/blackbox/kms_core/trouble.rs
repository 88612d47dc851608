//! A KMS Core in trouble and the connector in front of it: restarts, too much at once, requests that
//! it can never answer. What can be answered is, once, and nothing is refused.

use std::time::Duration;

use tonic::Code;
use world::{
    Result,
    audit::Journal,
    contracts::Variant,
    core_stub::{CoreVersion, Hopeless},
    fleet::Fleet,
    program,
    request::{Ask, Issued, fhe},
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

const POLL: Duration = Duration::from_millis(50);

/// Waits until the Core has accepted each of these `times` times.
async fn accepted(scene: &Scene, requests: &[Issued], times: usize) -> Result<()> {
    until(&format!("{times} asks of each"), PATIENCE, POLL, async || {
        let all = requests.iter().all(|request| scene.core.accepted(request.id) == times);
        Ok(all.then_some(()))
    })
    .await
}

/// T27, T61: the Core keeps its requests in memory and forgets them when it restarts; each is asked
/// once more. T35: it may take its time to come back.
#[world::test]
async fn t27_t35_t61_what_a_restarted_core_had_accepted_is_asked_once_more() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.core.change(|core| core.never_finish = true);
    scene.start(program())?;
    let requests = scene.deployment.request(Ask::mixed(10, 10)).await?;
    accepted(&scene, &requests, 1).await?;
    scene.core.stop().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.core.restart().await;
    accepted(&scene, &requests, 2).await?;
    scene.core.change(|core| core.never_finish = false);
    scene.audit(&requests, Journal::Whole).await?;
    for request in &requests {
        assert_eq!(scene.core.accepted(request.id), 2, "{:#x}", request.id);
    }
    Ok(())
}

/// T30: after a restart of the connector the Core is polled; nothing is fetched and sent again.
#[world::test]
async fn t30_a_restarted_connector_asks_nothing_again() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.core.change(|core| core.never_finish = true);
    scene.start(program())?;
    let requests = scene.deployment.request(Ask::mixed(5, 5)).await?;
    for request in &requests {
        scene.row(request.id, "asked", |row| row.stage == "asked").await?;
    }
    scene.kill();
    scene.start_again(program())?;
    let before: Vec<usize> = requests.iter().map(|one| scene.core.polls(one.id)).collect();
    until("polls after the restart", PATIENCE, POLL, async || {
        let polled = requests.iter().zip(&before).all(|(one, n)| scene.core.polls(one.id) > *n);
        Ok(polled.then_some(()))
    })
    .await?;
    scene.core.change(|core| core.never_finish = false);
    scene.audit(&requests, Journal::Whole).await?;
    assert_eq!(scene.core.asks().len(), requests.len());
    Ok(())
}

/// T24: the bytes go once the Core has them. All that the Core works on at the same time would not
/// fit into the memory for ciphertexts.
#[world::test]
async fn t24_ciphertexts_are_dropped_once_the_core_has_them() -> Result<()> {
    const COUNT: usize = 48;
    const SIZE: usize = 4 << 20;
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.core.change(|core| core.never_finish = true);
    scene.start_with(program(), &scene.config("ciphertext_memory_mib = 160"))?;
    // One body under many handles: the connector does not know, and takes each by itself.
    let body = Ask::public(&[fhe::UINT256]).sized(SIZE).ciphertexts.remove(0);
    let mut asks: Vec<Ask> = (0..COUNT).map(|_| Ask::public(&[fhe::UINT256])).collect();
    for ask in &mut asks {
        ask.ciphertexts[0].bytes.clone_from(&body.bytes);
        ask.ciphertexts[0].digest = body.digest;
    }
    scene.deployment.upload(&asks[..1]).await?;
    let requests = scene.deployment.emit(asks).await?;
    accepted(&scene, &requests, 1).await?;
    scene.core.change(|core| core.never_finish = false);
    scene.answered(&requests).await
}

/// The Core takes ten asks in a second, and five times as many come at once: all are answered, and
/// the Core says "busy" less often than it says yes.
#[world::test]
async fn a_core_that_takes_ten_a_second_is_asked_about_as_often() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start(program())?;
    let first = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&first).await?;
    scene.core.change(|core| core.per_second = Some(10));
    let burst = scene.deployment.request(Ask::mixed(25, 25)).await?;
    until("a busy Core", PATIENCE, POLL, async || {
        let busy = scene.core.asks().iter().any(|ask| ask.code == Code::ResourceExhausted);
        Ok(busy.then_some(()))
    })
    .await?;
    let more = scene.deployment.request(Ask::mixed(25, 25)).await?;
    let all = [first, burst, more].concat();
    scene.audit(&all, Journal::Whole).await?;
    let asks = scene.core.asks();
    let busy = asks.iter().filter(|ask| ask.code == Code::ResourceExhausted).count();
    println!("{busy} of {} asks were too many", asks.len());
    assert!(busy < all.len(), "{busy} of {} asks were too many", asks.len());
    // It is quick again by itself.
    scene.core.change(|core| core.per_second = None);
    let quick = scene.deployment.request(Ask::mixed(25, 25)).await?;
    scene.answered(&quick).await
}

/// One instance's Core is busy with everything; another instance does not feel it, and the first one
/// goes on by itself.
#[world::test]
async fn a_busy_core_slows_down_its_own_instance_only() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let [busy, calm] = [&fleet.parties.list[0].core, &fleet.parties.list[1].core];
    busy.change(|core| core.busy = u32::MAX);
    let requests = fleet.request(Ask::mixed(20, 20)).await?;
    fleet.answered_by(&[1], &requests).await?;
    assert!(calm.asks().iter().all(|ask| ask.code == Code::Ok), "it was never asked twice");
    let refused = busy.asks().len();
    assert!(refused > 0);
    // Each of the forty asking by itself, about once a second, would be four hundred.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let while_slow = busy.asks().len() - refused;
    assert!(while_slow < 100, "{while_slow} asks of a busy Core in ten seconds");
    busy.change(|core| core.busy = 0);
    fleet.audit(&[0, 1], &requests).await
}

/// T33: requests the Core can never answer, of every kind, take every place. They give way to those
/// that can be answered, and are answered when the Core can.
#[world::test]
async fn t33_t63_hopeless_requests_do_not_delay_the_rest() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let hopeless = scene.deployment.request(Ask::mixed(4, 4)).await?;
    let kinds = [Hopeless::Breaks, Hopeless::Pends, Hopeless::Fails, Hopeless::Forgotten];
    let fates = hopeless.iter().zip(kinds.into_iter().cycle());
    let fates: Vec<_> = fates.map(|(request, kind)| (request.id, kind)).collect();
    scene.core.change(|core| core.hopeless = fates.iter().copied().collect());
    let config = scene
        .config("max_requests_in_flight = 4")
        .replace("held_retry_secs = 2", "held_retry_secs = 600");
    scene.start_with(program(), &config)?;
    for (id, kind) in &fates {
        let held = match kind {
            Hopeless::Breaks | Hopeless::Forgotten => "no_progress",
            Hopeless::Pends => "core_silent",
            Hopeless::Fails => "core_failed",
        };
        // The last of them have nobody to give way to.
        if *kind == Hopeless::Fails {
            scene.held(*id, held).await?;
        }
    }
    let served = scene.deployment.request(Ask::mixed(10, 10)).await?;
    scene.answered(&served).await?;
    let held = |kind| {
        let of_kind = fates.iter().filter(move |(_, one)| *one == kind);
        of_kind.flat_map(|(id, _)| scene.rows(*id)).map(|row| row.held).collect::<Vec<_>>()
    };
    assert!(
        held(Hopeless::Pends).contains(&"core_silent".to_owned()),
        "{:?}",
        held(Hopeless::Pends)
    );
    for (id, _) in &fates {
        assert_eq!(scene.rows(*id)[0].outcome, "");
    }
    scene.core.change(|core| core.hopeless.clear());
    scene.core.restart().await;
    scene.stop().await?;
    scene.start_again(program())?;
    scene.audit(&[hopeless, served].concat(), Journal::Whole).await
}

/// `Internal` of a Core that keeps a failed request failed: held and polled, never refused; answered
/// once the Core has forgotten it. B2: once it has said that it keeps it, nothing is fetched and sent
/// any more. An unknown context is said the same way up to v0.12.
#[world::test]
async fn t33_what_an_old_core_failed_on_is_held_and_tried_again() -> Result<()> {
    for (variant, core) in
        [(Variant::V0_9_7, CoreVersion::V0_12), (Variant::G10, CoreVersion::V0_13)]
    {
        let mut scene = Scene::new(SceneOptions { core, ..SceneOptions::of(variant) }).await?;
        let failing = scene.deployment.request(Ask::mixed(1, 1)).await?;
        let fates = failing.iter().map(|request| (request.id, Hopeless::Fails));
        scene.core.change(|core| core.hopeless = fates.collect());
        scene.start(program())?;
        for request in &failing {
            scene.held(request.id, "core_stuck").await?;
        }
        let polls = |request: &Issued| scene.core.polls(request.id);
        let before: Vec<_> = failing.iter().map(polls).collect();
        until("retries", PATIENCE, POLL, async || {
            let now = failing.iter().map(polls).zip(&before);
            Ok(now.into_iter().all(|(now, before)| now >= before + 2).then_some(()))
        })
        .await?;
        for request in &failing {
            assert_eq!(scene.rows(request.id)[0].outcome, "", "not refused");
            let id = format!("{:064x}", request.id);
            let asks = scene.core.asks().into_iter().filter(|ask| ask.id == id).count();
            assert_eq!(asks, 2, "once, and once more to hear that it is known");
        }
        let served = scene.deployment.request(Ask::mixed(1, 1)).await?;
        scene.answered(&served).await?;
        scene.core.change(|core| core.hopeless.clear());
        scene.core.forget();
        scene.audit(&[failing, served].concat(), Journal::Whole).await?;
    }
    Ok(())
}
