//! One instance as its supervisor has it: what it leaves to the next generation, how it says how it is,
//! how it ends when a room fails, and how a configuration is checked beside it.

use std::{fmt::Display, path::Path, sync::Arc, time::Duration};

use kms_connector::{
    admin::status::{Phase, Reporter},
    config::{self, Config, Environment, LoadMode, Source},
    instance::{self, EndedInstance, Exit, JournalTenure, Supervision},
    telemetry::{
        heartbeat::{self, Heartbeats},
        metrics::Metrics,
    },
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use world::{
    Error, Result, at_length,
    contracts::Variant,
    host::HostOptions,
    random_address,
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

use super::ailments::{Ailment, Ailments};

const POLL: Duration = Duration::from_millis(20);

async fn scene() -> Result<Scene> {
    Scene::new(SceneOptions::default()).await
}

fn parse(scene: &Scene, text: &str) -> Result<Arc<Config>> {
    std::fs::write(scene.config_file(), text).map_err(|e| Error::Io("the config".into(), e))?;
    let source = Source {
        file: Some(scene.config_file()),
        environment: Environment::default(),
        credentials_directory: None,
        mode: LoadMode::Start,
    };
    let loaded = config::load(&source).map_err(|problems| Error::other(problems.to_string()))?;
    Ok(Arc::new(loaded.config))
}

/// One generation in a task of its own.
struct Generation {
    reporter: Reporter,
    stop: CancellationToken,
    abort: CancellationToken,
    running: JoinSet<EndedInstance>,
}

impl Generation {
    fn start(config: Arc<Config>, state_dir: &Path, estate: Option<JournalTenure>) -> Self {
        Self::with_hearts(Heartbeats::default(), config, state_dir, estate)
    }

    fn with_hearts(
        hearts: Heartbeats,
        config: Arc<Config>,
        state_dir: &Path,
        estate: Option<JournalTenure>,
    ) -> Self {
        let abort = CancellationToken::new();
        let (reporter, stop) = (Reporter::new(Metrics::new()), abort.child_token());
        let supervision = Supervision {
            name: "one".into(),
            state_dir: state_dir.into(),
            reporter: reporter.clone(),
            heartbeats: hearts,
            stop: stop.clone(),
            abort: abort.clone(),
        };
        let mut running = JoinSet::new();
        running.spawn(Box::pin(instance::run_with_real_edges(config, supervision, estate)));
        Self { reporter, stop, abort, running }
    }

    async fn ended(&mut self) -> Result<EndedInstance> {
        let ended = tokio::time::timeout(PATIENCE, self.running.join_next()).await;
        let ended = ended.map_err(|_| Error::other("the instance does not end"))?;
        Ok(ended.expect("one task").expect("an end is a value"))
    }

    async fn phase(&self, what: &str, wanted: impl Fn(&Phase) -> bool) -> Result<Phase> {
        let seen = until(what, PATIENCE, POLL, async || {
            let phase = self.reporter.phase.borrow().clone();
            Ok(wanted(&phase).then_some(phase))
        });
        seen.await.map_err(|e| Error::other(format!("{e}: {:?}", self.reporter.phase.borrow())))
    }

    async fn runs(&self) -> Result<()> {
        self.phase("running", |phase| *phase == Phase::Running).await.map(drop)
    }

    async fn waits_for(&self, dependency: &str) -> Result<String> {
        let waiting = self.phase(dependency, |phase| match phase {
            Phase::Waiting { on, .. } => on.contains(dependency),
            Phase::Starting | Phase::Running => false,
        });
        match waiting.await? {
            Phase::Waiting { on, why } => Ok(format!("{on}: {why}")),
            Phase::Starting | Phase::Running => unreachable!("filtered"),
        }
    }
}

/// Waits until the journal has an outcome for each, and no other requests.
async fn settled(scene: &Scene, requests: &[Issued]) -> Result<()> {
    scene.answered(requests).await?;
    until("outcomes", PATIENCE, POLL, async || {
        let outcomes =
            scene.query("SELECT outcome FROM requests", |row| row.get::<_, Option<String>>(0))?;
        let all = outcomes.len() == requests.len() && outcomes.iter().all(Option::is_some);
        Ok(all.then_some(()))
    })
    .await
}

#[world::test]
async fn generations_hand_the_journal_on_under_load() -> Result<()> {
    let scene = scene().await?;
    scene.core.change(|core| core.latency = Duration::from_millis(300));
    let config = parse(&scene, &scene.config(""))?;
    let deployment = scene.deployment.clone();
    let emitting = deployment.request_slowly(Ask::mixed(40, 40), 4, Duration::from_millis(100));
    let changing = async {
        let mut estate = None;
        for (abort, pause) in [(true, 900), (false, 700), (true, 300), (true, 30), (false, 600)] {
            let mut generation = Generation::start(config.clone(), &scene.state_dir(), estate);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let begun = tokio::time::Instant::now();
            if abort {
                generation.abort.cancel();
            } else {
                generation.stop.cancel();
            }
            let ended = generation.ended().await?;
            println!("{}: {:?}", if abort { "abort" } else { "stop" }, begun.elapsed());
            assert!(ended.exit.is_stopped(), "{}", ended.exit);
            estate = ended.tenure;
            assert!(estate.is_some(), "the journal is handed on");
        }
        // A configuration that is refused hands it back.
        let wrong = scene.config("decryption_domain_name = \"Wrong\"");
        let wrong = parse(&scene, &wrong)?;
        let mut refused = Generation::start(wrong, &scene.state_dir(), estate);
        let ended = refused.ended().await?;
        assert!(matches!(ended.exit, Exit::Refused { .. }), "{:?}", ended.exit);
        let estate = ended.tenure;
        assert!(estate.is_some());
        Ok(Generation::start(config.clone(), &scene.state_dir(), estate))
    };
    let (requests, mut last) = tokio::try_join!(emitting, changing)?;
    settled(&scene, &requests).await?;
    let gauges = last.reporter.gauges.borrow().clone();
    assert_eq!(gauges.wallet, Some(scene.wallet.address().to_string()));
    until("nothing in hand", PATIENCE, POLL, async || {
        let gauges = last.reporter.gauges.borrow().clone();
        Ok((gauges.in_hand == 0 && gauges.lag() < Some(3)).then_some(()))
    })
    .await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");

    // What nobody takes over is closed: the next one opens it anew.
    last.abort.cancel();
    drop(last.ended().await?.tenure);
    let mut again = Generation::start(config, &scene.state_dir(), None);
    again.runs().await?;
    again.abort.cancel();
    again.ended().await?.tenure.expect("an estate").close().await;
    Ok(())
}

/// Each room panics once, and some hang: the instance ends with its name, and the next generation goes on.
///
/// Field failure T05.
#[world::test]
async fn a_room_that_fails_ends_the_instance_by_its_name() -> Result<()> {
    let scene = scene().await?;
    let config = parse(&scene, &scene.config(""))?;
    let ailments = Ailments::told_in(&scene.dir.path().join("ailments"))?;
    let mut requests = Vec::new();
    let mut estate: Option<JournalTenure> = None;
    // That one hangs is noticed after some seconds, in each by the same look at its beats.
    let hang: &[&'static str] = if at_length() {
        &heartbeat::COMPONENTS
    } else {
        &[heartbeat::JOURNAL, heartbeat::LANE, heartbeat::HOUSEKEEPING]
    };
    for (ailment, rooms) in [(Ailment::Panic, &heartbeat::COMPONENTS[..]), (Ailment::Hang, hang)] {
        for &task in rooms {
            // These turn when they begin, and then not for long.
            let at_once = [heartbeat::RECOVERY, heartbeat::HOUSEKEEPING].contains(&task);
            if at_once {
                ailments.sicken(task, ailment)?;
            }
            let (hearts, before) = (ailments.hearts(Duration::from_secs(3)), estate.take());
            let mut generation =
                Generation::with_hearts(hearts, config.clone(), &scene.state_dir(), before);
            if !at_once {
                generation.runs().await?;
                ailments.sicken(task, ailment)?;
            }
            requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
            let ended = generation.ended().await?;
            let expected = match ailment {
                Ailment::Panic => Exit::Panicked { task },
                Ailment::Hang => Exit::Hung { task },
            };
            assert_eq!(ended.exit.to_string(), expected.to_string());
            assert_eq!(ended.tenure.is_some(), task != heartbeat::JOURNAL, "{task} {ailment:?}");
            estate = ended.tenure;
        }
    }
    let _generation = Generation::start(config, &scene.state_dir(), estate);
    settled(&scene, &requests).await
}

#[world::test]
async fn it_says_that_it_waits_for_its_node_and_that_it_runs_again() -> Result<()> {
    let mut scene = scene().await?;
    let config = parse(&scene, &scene.config(""))?;
    let gateway = scene.anvil.port().to_string();
    scene.anvil.stop().await?;
    let generation = Generation::start(config, &scene.state_dir(), None);
    let said = generation.waits_for("the gateway node").await?;
    assert!(said.contains(&gateway), "{said}");
    scene.anvil.start_again().await?;
    generation.runs().await?;

    scene.anvil.stop().await?;
    generation.waits_for("the gateway node").await?;
    scene.anvil.start_again().await?;
    generation.runs().await?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    settled(&scene, &requests).await
}

#[world::test]
async fn it_says_that_it_waits_for_its_core_and_that_it_runs_again() -> Result<()> {
    let mut scene = scene().await?;
    let config = parse(&scene, &scene.config(""))?;
    let core = scene.core.endpoint().replace("http://", "");
    let generation = Generation::start(config, &scene.state_dir(), None);
    generation.runs().await?;
    scene.core.stop().await;
    let said = generation.waits_for("the KMS Core").await?;
    assert!(said.contains(&core), "{said}");
    scene.core.restart().await;
    generation.runs().await?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    settled(&scene, &requests).await
}

#[world::test]
async fn it_says_that_its_core_is_not_serving_and_that_it_runs_again() -> Result<()> {
    let scene = scene().await?;
    let config = parse(&scene, &scene.config(""))?;
    let generation = Generation::start(config, &scene.state_dir(), None);
    generation.runs().await?;
    scene.core.change(|core| core.serving = false);
    let said = generation.waits_for("the KMS Core").await?;
    assert!(said.contains("not serving"), "{said}");
    scene.core.change(|core| core.serving = true);
    generation.runs().await?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    settled(&scene, &requests).await
}

#[world::test]
async fn a_check_says_what_would_keep_it_from_running() -> Result<()> {
    let mut scene = scene().await?;
    let text = scene.config("");
    let config = parse(&scene, &text)?;
    // Beside a running instance of the same wallet.
    let generation = Generation::start(config.clone(), &scene.state_dir(), None);
    generation.runs().await?;
    instance::preflight(&config, None).await.expect("it may run");

    let refused = async |text: &str, words: &str| -> Result<()> {
        match instance::preflight(&*parse(&scene, text)?, None).await {
            Err(why) if why.is_refusal() && why.to_string().contains(words) => Ok(()),
            other => Err(Error::other(format!("{other:?} instead of a refusal with {words:?}"))),
        }
    };
    let id = |id: u64| format!("chain_id = {id}\n");
    refused(&text.replace(&id(scene.deployment.chain_id), &id(999_999)), "chain id").await?;
    refused(&format!("decryption_domain_name = \"Wrong\"\n{text}"), "signs under").await?;

    // No contract, no funds, not registered: it would wait by itself.
    let elsewhere = format!("{}", world::random_address());
    let elsewhere = text.replace(&scene.deployment.decryption.to_string(), &elsewhere);
    let key = world::random_key().to_bytes().to_string();
    let elsewhere = elsewhere.replace(&scene.wallet.to_bytes().to_string(), &key);
    instance::preflight(&*parse(&scene, &elsewhere)?, None).await.expect("it would wait");

    let unreachable = async |scene: &Scene, words: &str| -> Result<()> {
        match instance::preflight(&*parse(scene, &text)?, None).await {
            Err(why) if !why.is_refusal() && why.to_string().contains(words) => Ok(()),
            other => Err(Error::other(format!("{other:?} instead of unreachable {words:?}"))),
        }
    };
    scene.core.stop().await;
    let core = format!("the KMS Core at {}", scene.core.endpoint().replace("http://", ""));
    unreachable(&scene, &core).await?;
    scene.core.restart().await;
    scene.anvil.stop().await?;
    let node = format!("the gateway node at 127.0.0.1:{}", scene.anvil.port());
    unreachable(&scene, &node).await
}

/// A running instance reports its host chains and waits for none. A file that contradicts one is a slip.
#[world::test]
async fn a_host_chain_that_contradicts_a_change_keeps_it_out_and_one_that_is_away_does_not()
-> Result<()> {
    let hosts = vec![HostOptions::of(Variant::G14)];
    let mut scene = Scene::new(SceneOptions { hosts, ..SceneOptions::default() }).await?;
    let text = scene.config("");
    let other = |from: &dyn Display, to: &dyn Display| -> Result<Arc<Config>> {
        let changed = text.replace(&from.to_string(), &to.to_string());
        assert_ne!(changed, text, "{from} is in the file");
        parse(&scene, &changed)
    };
    instance::preflight(&*parse(&scene, &text)?, None).await.expect("it may run");
    let host = &scene.hosts[0].host;
    let entry = |id: u64| format!("[[host_chains]]\nchain_id = {id}\n");
    for (config, code, words) in [
        (other(&entry(host.chain_id), &entry(77))?, "host_chain_other", "url or fallback_urls"),
        (other(&host.acl, &random_address())?, "host_chain_no_contract", "acl_address"),
        (
            other(&host.protocol_config, &random_address())?,
            "host_chain_no_contract",
            "protocol_config_address",
        ),
    ] {
        match instance::preflight(&config, None).await {
            Err(why) if why.is_refusal() && why.code() == code => {
                assert!(why.to_string().contains(words), "{why}");
            }
            other => return Err(Error::other(format!("{other:?} instead of {code}"))),
        }
    }
    // What runs already keeps no other change out.
    let wrong = other(&host.acl, &random_address())?;
    let running = Config { held_retry: Duration::from_secs(7), ..(*wrong).clone() };
    instance::preflight(&wrong, Some(&running)).await.expect("it is no worse");
    scene.hosts[0].anvil.stop().await?;
    instance::preflight(&*parse(&scene, &text)?, None)
        .await
        .expect("it would hold what needs the chain");
    Ok(())
}
