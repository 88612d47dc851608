//! The loop feeds the service manager's watchdog once per turn, and nowhere else.

use tokio::{net::UnixDatagram, time::Instant};

use super::*;
use crate::supervisor::config_dir::snapshot;

const WATCHDOG: Duration = Duration::from_millis(800);

/// Its start blocks the loop for twice the watchdog's timeout, which no real instance may do.
struct Blocking;

impl InstanceRunner for Blocking {
    type Tenure = ();

    fn preflight(
        &self,
        _: Arc<Config>,
        _: Option<Arc<Config>>,
    ) -> impl Future<Output = Result<(), PreflightError>> + Send + 'static {
        std::future::ready(Ok(()))
    }

    fn run(
        &self,
        _: Arc<Config>,
        supervision: Supervision,
        _: Option<()>,
    ) -> impl Future<Output = (Exit, Option<()>)> + Send + 'static {
        std::thread::sleep(2 * WATCHDOG);
        async move {
            supervision.stop.cancelled().await;
            (Exit::Stopped, None)
        }
    }

    async fn close_tenure((): ()) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_loop_feeds_no_watchdog() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("notify.sock");
    let listening = UnixDatagram::bind(&socket).unwrap();
    let variables = [
        ("NOTIFY_SOCKET", socket.display().to_string()),
        ("WATCHDOG_USEC", WATCHDOG.as_micros().to_string()),
    ];
    let manager = ServiceManager::from_environment(&variables.into_iter().collect());
    let directory = home.path().to_owned();
    let mut supervisor =
        Supervisor::new(Blocking, home.path().join("state"), Some(directory.clone()), manager);
    let (sender, snapshots) = mpsc::channel(1);
    let (signals, script) = mpsc::channel(1);
    let (_commands, control_requests) = mpsc::channel(1);
    let (reload_requests, _) = watch::channel(ReloadRequests::default());
    let inputs = Inputs { signals: Script(script), snapshots, control_requests, reload_requests };
    let mut running = JoinSet::new();
    running.spawn(async move { supervisor.run(inputs).await });

    fs::write(directory.join("one.toml"), content(0, 1)).unwrap();
    let (look, _) =
        snapshot::first_snapshot(&ConfigFiles::Directory(directory), &Environment::default(), &[]);
    let mut look = Some(look);
    let mut fed = Vec::new();
    while fed.len() < 6 {
        let mut word = [0; 1024];
        let length = listening.recv(&mut word).await.unwrap();
        if word[..length].starts_with(b"WATCHDOG=1") {
            fed.push(Instant::now());
        }
        if let Some(look) = look.take_if(|_| fed.len() == 2) {
            sender.send(look).await.unwrap();
        }
    }
    // systemd would have ended the process in the longest silence.
    let silence = fed.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(silence.is_some_and(|silence| silence > WATCHDOG), "{silence:?}");
    signals.send(Signal::Terminate("SIGTERM")).await.unwrap();
    assert!(running.join_next().await.unwrap().unwrap().is_stopped());
}
