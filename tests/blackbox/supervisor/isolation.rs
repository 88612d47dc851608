//! One instance is as sick as can be: its rooms panic and hang, its node and its Core fall silent, it
//! is flooded with requests. The others in the same process must not notice: they keep their connections,
//! answer everything, and do not wait for its end. How much slower they are than beside the same trouble in
//! another process is told by a long test.

use std::{collections::BTreeSet, path::Path, process::Command, sync::Arc, time::Duration};

use kms_connector::{
    config::{Config, Environment},
    instance::{Exit, JournalTenure, PreflightError, Supervision},
    supervisor::{
        self, ConnectorRunner, InstanceRunner, Options, config_dir::snapshot::ConfigFiles,
    },
    telemetry::{heartbeat, logging},
    time::clock::unix_millis,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use world::{
    Error, Result,
    fleet::{Fleet, name},
    proxy::{Proxy, Weather},
    request::{Ask, Issued},
    scene::{Scene, SceneOptions},
    status::Status,
    supervised::{Supervised, find},
};

use super::ailments::{Ailment, Ailments};

const SICK: &str = "sick";
/// Names the folder of a supervisor to its process.
const FOLDER: &str = "AILING_FOLDER";
const FLOOD: &str = "the flood";
const AFTERWARDS: &str = "after that";
/// Two requests in a second for each healthy one.
const PAUSE: Duration = Duration::from_millis(500);

/// The real instances, of which [`SICK`] falls ill as its ailments say.
struct Ailing(Ailments);

impl InstanceRunner for Ailing {
    type Tenure = JournalTenure;

    fn preflight(
        &self,
        config: Arc<Config>,
        running: Option<Arc<Config>>,
    ) -> impl Future<Output = std::result::Result<(), PreflightError>> + Send + 'static {
        ConnectorRunner.preflight(config, running)
    }

    fn run(
        &self,
        config: Arc<Config>,
        mut supervision: Supervision,
        estate: Option<JournalTenure>,
    ) -> impl Future<Output = (Exit, Option<JournalTenure>)> + Send + 'static {
        if supervision.name == SICK {
            // A hanging room is the operator's to end.
            supervision.heartbeats = self.0.hearts(Duration::from_mins(2));
        }
        ConnectorRunner.run(config, supervision, estate)
    }

    fn close_tenure(estate: JournalTenure) -> impl Future<Output = ()> + Send + 'static {
        ConnectorRunner::close_tenure(estate)
    }
}

/// Where the sick instance of the supervisor with this folder is told of its ailments.
fn ailments(folder: &Path) -> Result<Ailments> {
    Ailments::told_in(&folder.join("ailments"))
}

/// Starts a supervisor of [`Ailing`] instances: this very program, as a process of its own.
fn start(supervisor: &mut Supervised) -> Result<()> {
    let tests = std::env::current_exe().map_err(|e| Error::Io("the program of tests".into(), e))?;
    let mut command = Command::new(tests);
    command.args([
        "--exact",
        "supervisor::isolation::supervises_ailing_instances",
        "--ignored",
        "--nocapture",
    ]);
    command.env(FOLDER, supervisor.dir());
    supervisor.spawn(command)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "no test: what a supervisor's process does that a test starts"]
async fn supervises_ailing_instances() -> Result<()> {
    let Some(folder) = std::env::var_os(FOLDER) else { return Ok(()) };
    let supervised = Supervised::new(Path::new(&folder))?;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).map_err(|e| Error::Io("open files".into(), e.into()))?;
    kms_connector::net::tls::install_provider();
    let options = Options {
        files: ConfigFiles::Directory(supervised.configs.path().into()),
        state_dir: supervised.state_dir(),
        socket: Some(supervised.socket()),
        listen: None,
        listen_names: Vec::new(),
        environment: Environment::of_process(),
        log_handles: logging::init(&logging::Settings::default())
            .map_err(|e| Error::other(e.to_string()))?,
    };
    let ended = supervisor::run(Ailing(ailments(supervised.dir())?), options).await;
    let exit = ended.map_err(|e| Error::other(e.to_string()))?;
    assert!(exit.is_stopped(), "{exit}");
    Ok(())
}

/// How sick the one is, and for how long.
struct Course {
    /// These panic, one after the other.
    panics: &'static [&'static str],
    hangs: Duration,
    silence: Duration,
    /// So many requests in one block, answered within a time.
    flood: (usize, Duration),
}

const SHORT: Course = Course {
    panics: &[heartbeat::JOURNAL, heartbeat::WALK],
    hangs: Duration::from_millis(500),
    silence: Duration::from_secs(1),
    flood: (150, Duration::from_mins(2)),
};

const LONG: Course = Course {
    panics: &heartbeat::COMPONENTS,
    hangs: Duration::from_millis(1500),
    silence: Duration::from_secs(3),
    flood: (2000, Duration::from_mins(10)),
};

/// So many healthy parties, under a supervisor that can run the sick one too.
async fn healthy(count: usize) -> Result<Fleet> {
    let mut fleet = Fleet::new(count).await?;
    for index in fleet.all() {
        fleet.write(index, "")?;
    }
    start(&mut fleet.supervisor)?;
    let names: Vec<String> = fleet.all().into_iter().map(name).collect();
    fleet.supervisor.until_running(&names).await?;
    Ok(fleet)
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

    /// Everything that can happen to an instance, one after the other. Answers what began when.
    async fn trouble(&self, supervisor: &Supervised, course: &Course) -> Result<Vec<Phase>> {
        let ailments = ailments(supervisor.dir())?;
        let mut requests = Vec::new();
        let mut phases = vec![Phase::now("panics")];
        for &room in course.panics {
            let begun = unix_millis();
            ailments.sicken(room, Ailment::Panic)?;
            // Some rooms turn only when there is something to do, others when they begin.
            if [heartbeat::RECOVERY, heartbeat::HOUSEKEEPING].contains(&room) {
                supervisor.ask(&json!({"request": "restart", "name": SICK})).await?;
            }
            requests.extend(self.request(1).await?);
            let ended = |status: &Status| {
                let error = find(status, SICK).and_then(|one| one.last_error.as_ref());
                error.is_some_and(|error| error.at_ms >= begun && error.text.contains(room))
            };
            supervisor.until(&format!("the end of {room}"), ended).await?;
            supervisor.operate("restart", SICK).await?;
            supervisor.until_state(SICK, "running").await?;
        }

        phases.push(Phase::now("a hanging lane"));
        ailments.sicken(heartbeat::LANE, Ailment::Hang)?;
        requests.extend(self.request(5).await?);
        tokio::time::sleep(course.hangs).await;
        supervisor.operate("restart", SICK).await?;
        supervisor.until_state(SICK, "running").await?;

        phases.push(Phase::now("silence"));
        self.weather(Weather::Silent);
        self.scene.core.change(|core| core.never_finish = true);
        requests.extend(self.request(20).await?);
        tokio::time::sleep(course.silence).await;
        self.weather(Weather::Clear);
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.scene.core.change(|core| core.never_finish = false);

        phases.push(Phase::now(FLOOD));
        let (count, deadline) = course.flood;
        requests.extend(self.flood(count).await?);
        self.scene.answered_within(&requests, deadline).await?;
        phases.push(Phase::now(AFTERWARDS));
        Ok(phases)
    }
}

/// What happened to the sick one from then on.
#[derive(Clone, Copy, Debug)]
struct Phase {
    what: &'static str,
    begun: u64,
}

impl Phase {
    fn now(what: &'static str) -> Self {
        Self { what, begun: unix_millis() }
    }
}

/// How long the healthy ones took, by phase: milliseconds from a request's arrival to its outcome, all
/// requests of all of them in order.
struct Times {
    phases: Vec<(&'static str, Vec<u64>)>,
}

impl Times {
    fn of(fleet: &Fleet, phases: &[Phase]) -> Result<Self> {
        let mut times: Vec<(&str, Vec<u64>)> =
            phases.iter().map(|phase| (phase.what, Vec::new())).collect();
        for index in fleet.all() {
            for entry in fleet.entries(index)? {
                let arrived = u64::try_from(entry.arrived_at).unwrap_or_default();
                let phase = phases.iter().rposition(|phase| phase.begun <= arrived);
                let took =
                    entry.settled_at.and_then(|at| u64::try_from(at - entry.arrived_at).ok());
                if let (Some(phase), Some(took)) = (phase, took) {
                    times[phase].1.push(took);
                }
            }
        }
        for (_, times) in &mut times {
            times.sort_unstable();
        }
        Ok(Self { phases: times })
    }

    fn tell(&self, place: &str) {
        println!("the sick one {place}, and the healthy ones meanwhile:");
        for (what, times) in &self.phases {
            let (middle, high) = (part(times, 50), part(times, 99));
            println!("  {what}: {} answers after {middle} ms, p99 {high} ms", times.len());
        }
    }
}

/// The value below which so many percent of them are.
fn part(sorted: &[u64], percent: usize) -> u64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0)
}

/// What must not change about a healthy one.
type Health = (u64, u64, u64, String, BTreeSet<u64>);

async fn health(fleet: &Fleet) -> Result<Vec<Health>> {
    let status = fleet.supervisor.status().await?;
    let of = |index: usize| {
        let one = find(&status, &name(index)).ok_or_else(|| Error::other(name(index)))?;
        let (state, core) = (one.state.clone(), fleet.core_connections(index)?);
        Ok((one.generation, one.since_ms, one.restarts, state, core))
    };
    fleet.all().into_iter().map(of).collect()
}

/// Healthy ones under load while `trouble` happens: they answer everything, and nothing about them changes.
/// Answers what happened when.
async fn beside(
    fleet: &Fleet,
    trouble: impl Future<Output = Result<Vec<Phase>>>,
) -> Result<Vec<Phase>> {
    let warm = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&fleet.all(), &warm).await?;
    let (before, chain) = (health(fleet).await?, fleet.chain_connections()?);
    let (requests, phases) = fleet.under_load(PAUSE, trouble).await?;
    fleet.audit(&fleet.all(), &[warm, requests].concat()).await?;
    assert_eq!(health(fleet).await?, before);
    assert!(chain.is_subset(&fleet.chain_connections()?), "no connection was opened anew");
    Ok(phases)
}

/// The healthy ones beside the sick one in the same process.
async fn together(count: usize, course: &Course) -> Result<(Fleet, Vec<Phase>)> {
    let (fleet, ward) = (healthy(count).await?, Ward::new().await?);
    fleet.supervisor.configs.write(SICK, &ward.config())?;
    fleet.supervisor.until_state(SICK, "running").await?;
    let phases = beside(&fleet, ward.trouble(&fleet.supervisor, course)).await?;
    Ok((fleet, phases))
}

/// Of what came to them in the first half of the flood, they answered most before it was over.
fn none_waited_for_the_end_of_the_flood(fleet: &Fleet, phases: &[Phase]) -> Result<()> {
    let begun = |what: &str| {
        let phase = phases.iter().find(|phase| phase.what == what);
        phase.map(|phase| phase.begun).ok_or_else(|| Error::other(what))
    };
    let (first, end) = (begun(FLOOD)?, begun(AFTERWARDS)?);
    let half = first..first + (end - first) / 2;
    let (mut came, mut answered) = (0, 0);
    for index in fleet.all() {
        for entry in fleet.entries(index)? {
            let millis = |at: i64| u64::try_from(at).unwrap_or_default();
            if half.contains(&millis(entry.arrived_at)) {
                came += 1;
                answered += usize::from(entry.settled_at.is_some_and(|at| millis(at) < end));
            }
        }
    }
    println!("in the first half of {} ms: {came} came, {answered} answered", end - first);
    assert!(came > 0, "the flood took no time");
    assert!(2 * answered >= came, "{answered} of {came} were answered before the flood was over");
    Ok(())
}

/// Field failures T01, T48, T57.
#[world::test]
async fn a_sick_instance_is_not_felt_by_the_healthy() -> Result<()> {
    let (fleet, phases) = together(3, &SHORT).await?;
    none_waited_for_the_end_of_the_flood(&fleet, &phases)
}

/// The same beside seven, and in the same process as in another one. Told and not judged: the machine may be
/// busier the second time, and the flood alone needs the processor. Two processes share it evenly, instances
/// by how much each has to do: on two processors the healthy ones' p99 was up to twice the control's in a
/// release build, up to eight times in a debug build.
#[world::test]
#[ignore = "long: scripts/test --long"]
async fn long_a_sick_instance_beside_others_and_in_another_process() -> Result<()> {
    const HEALTHY: usize = 7;
    {
        let (fleet, ward) = (healthy(HEALTHY).await?, Ward::new().await?);
        let mut outside = Supervised::new(ward.scene.dir.path())?;
        outside.configs.write(SICK, &ward.config())?;
        start(&mut outside)?;
        outside.until_running(&[SICK]).await?;
        let phases = beside(&fleet, ward.trouble(&outside, &LONG)).await?;
        Times::of(&fleet, &phases)?.tell("in another process");
    }
    let (fleet, phases) = together(HEALTHY, &LONG).await?;
    Times::of(&fleet, &phases)?.tell("in the same process");
    none_waited_for_the_end_of_the_flood(&fleet, &phases)
}
