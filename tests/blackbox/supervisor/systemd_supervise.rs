//! What `supervise` tells the service manager, and when.

use std::{fs, path::PathBuf, time::Duration};

use rustix::{
    process::Signal,
    time::{ClockId, clock_gettime},
};
use world::{
    Error, Result, connector, free_port,
    notify_socket::{Message, NotifySocket},
    random_address, random_key,
    request::Ask,
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

fn io(error: std::io::Error) -> Error {
    Error::Io("a test's file".into(), error)
}

/// A scene whose connector is a supervisor, and the service manager above it.
struct Service {
    scene: Scene,
    manager: NotifySocket,
}

impl Service {
    /// With these files, named without `.toml`.
    async fn start(files: &[&str], watchdog: Option<Duration>) -> Result<Self> {
        let scene = Scene::new(SceneOptions::default()).await?;
        let manager = NotifySocket::in_folder(scene.dir.path())?;
        let mut service = Self { scene, manager };
        fs::create_dir(service.configs()).map_err(io)?;
        for file in files {
            let text = if *file == "one" { service.scene.config("") } else { silent()? };
            service.write(file, &text)?;
        }
        let mut command = connector();
        command.arg("supervise").arg("--socket").arg(service.scene.dir.path().join("control.sock"));
        command.env("KMS_CONNECTOR_CONFIG_DIR", service.configs());
        command.env("KMS_CONNECTOR_LISTEN", "127.0.0.1:0");
        service.manager.manage(&mut command, watchdog);
        service.scene.spawn(command)?;
        Ok(service)
    }

    fn configs(&self) -> PathBuf {
        self.scene.dir.path().join("configs")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.configs().join(format!("{file}.toml")), text).map_err(io)
    }

    fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.configs().join(format!("{file}.toml"))).map_err(io)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.scene.connector.as_ref().expect("it was started").signal(signal)
    }

    /// The first message from `from` on whose status has all of these words.
    async fn status(&self, from: usize, words: &[&str]) -> Result<(usize, Message)> {
        let has = |message: &Message| {
            let status = message.value("STATUS");
            status.is_some_and(|status| words.iter().all(|word| status.contains(word)))
        };
        let heard = self.manager.hear(from, &words.join(", "), has).await;
        heard.map_err(|error| Error::other(format!("{error}\n{}", self.scene.log())))
    }
}

/// An instance whose node never answers; wallet, Core and contract are nobody else's.
fn silent() -> Result<String> {
    let (node, core) = (free_port()?, free_port()?);
    Ok(format!(
        "gateway_url = \"http://127.0.0.1:{node}\"\nkms_core_endpoint = \"http://127.0.0.1:{core}\"\n\
         chain_id = 31337\ndecryption_address = \"{}\"\ngateway_config_address = \"{}\"\n\
         private_key = \"{}\"\n",
        random_address(),
        random_address(),
        random_key().to_bytes(),
    ))
}

fn monotonic_micros() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// Field failure T50.
#[world::test]
async fn it_is_ready_when_every_instance_runs_or_waits() -> Result<()> {
    let service = Service::start(&["one", "two"], None).await?;
    let (ready, message) = service.manager.hear_line(0, "READY=1").await?;
    let status = message.value("STATUS").unwrap_or_default();
    assert!(status.contains("1 running") && status.contains("1 waiting"), "{message:?}");
    assert!(status.contains("two"), "it names the one that does not run: {status}");
    assert!(!service.manager.heard()[..ready].iter().any(|early| early.says("READY=1")));
    let requests = service.scene.deployment.request(Ask::mixed(1, 1)).await?;
    service.scene.answered(&requests).await
}

#[world::test]
async fn it_is_ready_without_instances() -> Result<()> {
    let service = Service::start(&[], None).await?;
    service.manager.hear_line(0, "READY=1").await?;
    service.write("bad", "gateway_url = 1")?;
    service.status(0, &["bad"]).await?;
    Ok(())
}

#[world::test]
async fn a_reload_begins_and_ends() -> Result<()> {
    let service = Service::start(&["one", "two"], None).await?;
    let (mut last, _) = service.manager.hear_line(0, "READY=1").await?;
    // Nothing changed, a file came, a file is bad: each reload is told to its end.
    for step in ["nothing", "new", "bad"] {
        match step {
            "new" => service.write("three", &silent()?)?,
            "bad" => service.write("three", "gateway_url = 1")?,
            _ => {}
        }
        let before = monotonic_micros();
        service.signal(Signal::HUP)?;
        let (reloading, message) = service.manager.hear_line(last + 1, "RELOADING=1").await?;
        let micros = message.value("MONOTONIC_USEC").and_then(|micros| micros.parse().ok());
        let asked = before..=monotonic_micros();
        assert!(micros.is_some_and(|micros: i64| asked.contains(&micros)), "{step}: {message:?}");
        let (ready, message) = service.manager.hear_line(reloading + 1, "READY=1").await?;
        let status = message.value("STATUS").unwrap_or_default();
        assert!(status.contains("1 running"), "{step}: {status}");
        assert_eq!(status.contains("three"), step != "nothing", "{step}: {status}");
        last = ready;
    }
    // Many signals at once: however many reloads they are, the last word is READY.
    for _ in 0..20 {
        service.signal(Signal::HUP)?;
    }
    service.manager.hear_line(last + 1, "RELOADING=1").await?;
    until("the last reload's end", PATIENCE, Duration::from_secs(3), async || {
        let heard = service.manager.heard();
        let begun = heard.iter().rposition(|message| message.says("RELOADING=1"));
        let ended = heard.iter().rposition(|message| message.says("READY=1"));
        Ok((ended > begun).then_some(()))
    })
    .await
}

#[world::test]
async fn the_status_follows_the_files() -> Result<()> {
    let service = Service::start(&["one"], None).await?;
    let (ready, _) = service.manager.hear_line(0, "READY=1").await?;
    service.write("two", &silent()?)?;
    let (two, _) = service.status(ready, &["1 running", "1 waiting", "two"]).await?;
    service.remove("two")?;
    let gone = service.manager.hear(two + 1, "one alone", |message| {
        let status = message.value("STATUS");
        status.is_some_and(|status| status.contains("1 running") && !status.contains("two"))
    });
    gone.await?;
    // Nobody asked: files that change by themselves are no reload of the service.
    let heard = service.manager.heard();
    assert!(!heard.iter().any(|message| message.says("RELOADING=1")), "{heard:#?}");
    // What is said twice is no news.
    let statuses: Vec<_> = heard.iter().filter_map(|message| message.value("STATUS")).collect();
    assert!(statuses.windows(2).all(|pair| pair[0] != pair[1]), "{heard:#?}");
    Ok(())
}

#[world::test]
async fn stopping_is_told_before_the_drain_and_the_watchdog_is_fed_through_it() -> Result<()> {
    let watchdog = Duration::from_secs(2);
    let mut service = Service::start(&["one", "two"], Some(watchdog)).await?;
    let (mut from, _) = service.manager.hear_line(0, "READY=1").await?;
    for _ in 0..3 {
        from = service.manager.hear_line(from + 1, "WATCHDOG=1").await?.0;
    }
    // A transaction that is not mined keeps the drain waiting.
    let chain = service.scene.deployment.chain.clone();
    chain.set_block_time(0).await?;
    let requests = service.scene.deployment.request(Ask::mixed(1, 0)).await?;
    let wallet = service.scene.wallet.address();
    until("an unmined answer", PATIENCE, Duration::from_millis(20), async || {
        Ok((!chain.unmined(wallet).await?.is_empty()).then_some(()))
    })
    .await?;
    service.signal(Signal::TERM)?;
    let (stopping, message) = service.manager.hear_line(from, "STOPPING=1").await?;
    from = stopping;
    for _ in 0..3 {
        from = service.manager.hear_line(from + 1, "WATCHDOG=1").await?.0;
    }
    let heard = service.manager.heard();
    for pair in heard.windows(2) {
        assert!(pair[1].at - pair[0].at < watchdog, "{heard:#?}");
    }
    assert!(heard[from].at - message.at > watchdog / 2, "the drain was no test");
    chain.set_block_time(1).await?;
    assert_eq!(service.scene.stop().await?, Some(0));
    service.scene.answered(&requests).await?;
    let after = &service.manager.heard()[stopping..];
    assert!(!after.iter().any(|message| message.says("READY=1")), "{after:#?}");
    assert_eq!(after.iter().filter(|message| message.says("STOPPING=1")).count(), 1, "{after:#?}");
    Ok(())
}

#[world::test]
async fn sighup_is_a_reload_of_start_too() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    fs::write(scene.config_file(), scene.config("")).map_err(io)?;
    let manager = NotifySocket::in_folder(scene.dir.path())?;
    let mut command = connector();
    command.arg("start").arg("-c").arg(scene.config_file());
    manager.manage(&mut command, None);
    scene.spawn(command)?;
    let (ready, _) = manager.hear_line(0, "READY=1").await?;
    scene.connector.as_ref().expect("it was started").signal(Signal::HUP)?;
    let (reloading, _) = manager.hear_line(ready + 1, "RELOADING=1").await?;
    manager.hear_line(reloading + 1, "READY=1").await?;
    let requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&requests).await?;
    assert_eq!(scene.stop().await?, Some(0));
    Ok(())
}
