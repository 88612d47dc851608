//! One instance is as sick as can be: its rooms panic and hang, its node and its Core fall silent, it
//! is asked for two thousand things at once. Seven others in the same process must not notice more of
//! it than of the same trouble in another process.

use std::{collections::BTreeSet, time::Duration};

use kms_connector::{clock::unix_millis, heart, observe::status::Status};

use crate::{
    walk::program,
    world::{
        Error, Result,
        fleet::{Fleet, name},
        proxy::{Proxy, Weather},
        request::{Ask, Issued},
        scene::{Scene, SceneOptions},
        supervised::{Supervised, find},
    },
};

const HEALTHY: usize = 7;
const SICK: &str = "sick";
/// Two requests in a second for each healthy one.
const PAUSE: Duration = Duration::from_millis(500);

async fn sleep(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// A world of its own, whose chain and Core can fall silent.
struct Ward {
    scene: Scene,
    chain: Proxy,
    core: Proxy,
}

impl Ward {
    async fn new() -> Result<Self> {
        let scene = Scene::new(SceneOptions::default()).await?;
        let chain = Proxy::start(scene.anvil.port()).await?;
        let core = Proxy::start(scene.core.port()).await?;
        Ok(Self { scene, chain, core })
    }

    fn config(&self) -> String {
        let chain = format!("ws://127.0.0.1:{}", self.chain.port());
        let core = format!("http://127.0.0.1:{}", self.core.port());
        let config = self.scene.config("");
        config
            .replace(&self.scene.anvil.ws_url(), &chain)
            .replace(&self.scene.core.endpoint(), &core)
    }

    fn weather(&self, weather: Weather) {
        self.chain.set(weather);
        self.core.set(weather);
    }

    async fn request(&self, count: usize) -> Result<Vec<Issued>> {
        self.scene.deployment.request_public(count).await
    }

    /// `count` requests for one ciphertext in one block.
    async fn flood(&self, count: usize) -> Result<Vec<Issued>> {
        let ask = Ask::mixed(1, 0);
        self.scene.deployment.upload(&ask).await?;
        self.scene.deployment.emit(vec![ask[0].clone(); count]).await
    }

    /// Everything that can happen to an instance, one after the other.
    async fn trouble(&self, supervisor: &Supervised) -> Result<()> {
        let mut requests = Vec::new();
        for room in heart::ROOMS {
            let begun = unix_millis();
            supervisor.sicken(SICK, room, "panic").await?;
            // Some rooms turn only when there is something to do.
            requests.extend(self.request(1).await?);
            let ended = |status: &Status| {
                let error = find(status, SICK).and_then(|one| one.last_error.as_ref());
                error.is_some_and(|error| error.at_ms >= begun && error.text.contains(room))
            };
            supervisor.until(&format!("the end of {room}"), ended).await?;
            supervisor.operate("restart", SICK).await?;
            supervisor.until_state(SICK, "running").await?;
        }
        // Its walks panic, which is no end of an instance.
        let before = supervisor.instance(SICK).await?.generation;
        supervisor.sicken(SICK, heart::REQUEST_WALK, "panic").await?;
        requests.extend(self.request(2).await?);
        self.scene.answered(&requests).await?;
        assert_eq!(supervisor.instance(SICK).await?.generation, before);

        supervisor.sicken(SICK, heart::LANE, "hang").await?;
        requests.extend(self.request(5).await?);
        sleep(1500).await;
        supervisor.operate("restart", SICK).await?;
        supervisor.until_state(SICK, "running").await?;

        self.weather(Weather::Silent);
        self.scene.core.change(|core| core.never_finish = true);
        requests.extend(self.request(20).await?);
        sleep(3000).await;
        self.weather(Weather::Clear);
        sleep(500).await;
        self.scene.core.change(|core| core.never_finish = false);

        requests.extend(self.flood(2000).await?);
        self.scene.answered_within(&requests, Duration::from_mins(2)).await
    }
}

/// What the healthy ones were like: milliseconds from a request's arrival to its transaction, and to
/// its outcome, all requests of all of them in order.
struct Times {
    sent: Vec<u64>,
    settled: Vec<u64>,
}

impl Times {
    fn of(fleet: &Fleet) -> Result<Self> {
        let (mut sent, mut settled) = (Vec::new(), Vec::new());
        for index in fleet.all() {
            for entry in fleet.entries(index)? {
                let after = |at: Option<i64>| u64::try_from(at? - entry.arrived_at).ok();
                sent.extend(after(entry.submitted_at));
                settled.extend(after(entry.settled_at));
            }
        }
        sent.sort_unstable();
        settled.sort_unstable();
        Ok(Self { sent, settled })
    }

    fn tell(&self, when: &str) {
        println!(
            "{when}: {} requests; sent after {} ms, p99 {} ms; settled after {} ms, p99 {} ms",
            self.settled.len(),
            part(&self.sent, 50),
            part(&self.sent, 99),
            part(&self.settled, 50),
            part(&self.settled, 99),
        );
    }
}

/// The value below which so many percent of them are.
fn part(sorted: &[u64], percent: usize) -> u64 {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}

/// What must not change about a healthy one.
type Health = (u64, u64, u64, String, BTreeSet<u64>);

async fn health(fleet: &Fleet) -> Result<Vec<Health>> {
    let status = fleet.supervisor.status().await?;
    let of = |index: usize| {
        let one = find(&status, &name(index)).ok_or_else(|| Error::other(name(index)))?;
        let (state, core) = (one.state.word().to_owned(), fleet.core_connections(index)?);
        Ok((one.generation, one.since_ms, one.restarts, state, core))
    };
    fleet.all().into_iter().map(of).collect()
}

/// Seven healthy ones under load while `trouble` happens. Answers how fast they were.
async fn seven(fleet: &Fleet, trouble: impl Future<Output = Result<()>>) -> Result<Times> {
    let warm = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&fleet.all(), &warm).await?;
    let (before, chain) = (health(fleet).await?, fleet.chain_connections()?);
    let (requests, ()) = fleet.under_load(PAUSE, trouble).await?;
    fleet.audit(&fleet.all(), &[warm, requests].concat()).await?;
    assert_eq!(health(fleet).await?, before);
    assert!(chain.is_subset(&fleet.chain_connections()?), "no connection was opened anew");
    Times::of(fleet)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sick_instance_is_not_felt_by_the_healthy() -> Result<()> {
    // The control: the same trouble in a process outside.
    let apart = {
        let (fleet, ward) = (Fleet::running(HEALTHY, program()).await?, Ward::new().await?);
        let mut outside = Supervised::new(ward.scene.dir.path())?;
        outside.configs.write(SICK, &ward.config())?;
        outside.start(program())?;
        outside.until_running(&[SICK]).await?;
        seven(&fleet, ward.trouble(&outside)).await?
    };
    apart.tell("in another process");

    let (fleet, ward) = (Fleet::running(HEALTHY, program()).await?, Ward::new().await?);
    fleet.supervisor.configs.write(SICK, &ward.config())?;
    fleet.supervisor.until_state(SICK, "running").await?;
    let together = seven(&fleet, ward.trouble(&fleet.supervisor)).await?;
    together.tell("in the same process");
    for (apart, together) in [(&apart.sent, &together.sent), (&apart.settled, &together.settled)] {
        let (apart, together) = (part(apart, 99), part(together, 99));
        // Generous: the machine may have been busier the second time.
        assert!(together <= 3 * apart + 500, "p99 {together} ms, apart {apart} ms");
    }
    Ok(())
}
