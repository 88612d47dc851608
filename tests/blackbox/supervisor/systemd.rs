//! The service: units that systemd takes, an installation that comes and goes, and what the program
//! tells the service manager.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use world::{
    Error, Result, connector,
    notify_socket::NotifySocket,
    program,
    request::Ask,
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

const UNITS: [&str; 2] = ["kms-connector.service", "kms-connector@.service"];

fn io(error: std::io::Error) -> Error {
    Error::Io("a test's file".into(), error)
}

/// A folder of this checkout.
fn checkout(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

fn words(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// `systemd-analyze` with these arguments, or `None` where there is no systemd.
fn analyze(arguments: &[&str], folder: &Path) -> Result<Option<Output>> {
    let mut command = Command::new("systemd-analyze");
    match command.args(arguments).env("LC_ALL", "C.UTF-8").current_dir(folder).output() {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!(
                "SKIPPED: there is no systemd-analyze on this machine; the units are unchecked"
            );
            Ok(None)
        }
        Err(error) => Err(io(error)),
    }
}

/// systemd's number, where there is one.
fn systemd_version() -> Result<Option<u32>> {
    let Some(output) = analyze(&["--version"], Path::new("/"))? else { return Ok(None) };
    let number = words(&output).split_whitespace().nth(1).and_then(|number| number.parse().ok());
    number.map(Some).ok_or_else(|| Error::other("systemd-analyze does not tell its version"))
}

/// The units as this machine could run them: with a program that exists. The template also as one
/// of its instances.
fn units() -> Result<TempDir> {
    let folder = tempfile::tempdir().map_err(io)?;
    for unit in UNITS {
        let text = fs::read_to_string(checkout("systemd").join(unit)).map_err(io)?;
        let installed = "/usr/local/bin/kms-connector";
        assert!(text.contains(installed), "{unit} starts something else");
        let text = text.replace(installed, &program().display().to_string());
        for name in [unit, &unit.replace('@', "@config-1")] {
            fs::write(folder.path().join(name), &text).map_err(io)?;
        }
    }
    Ok(folder)
}

/// What systemd has to say about the two units in the folder; nothing, if they are in order.
fn complaints(folder: &Path) -> Result<Option<String>> {
    let verify = ["verify", "--man=no", "kms-connector.service", "kms-connector@config-1.service"];
    let Some(output) = analyze(&verify, folder)? else { return Ok(None) };
    // An unknown setting is only warned about: the exit code does not tell.
    let said = words(&output);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("kms-connector")).collect();
    assert!(output.status.success() || !ours.is_empty(), "{said}");
    Ok(Some(ours.join("\n")))
}

/// Puts a drop-in beside a unit.
fn drop_in(folder: &Path, unit: &str, name: &str, text: &str) -> Result<()> {
    let folder = folder.join(format!("{unit}.d"));
    fs::create_dir_all(&folder).map_err(io)?;
    fs::write(folder.join(name), text).map_err(io)
}

#[test]
fn systemd_takes_the_units_without_a_word() -> Result<()> {
    let folder = units()?;
    let Some(complaints_of_ours) = complaints(folder.path())? else { return Ok(()) };
    assert_eq!(complaints_of_ours, "");
    // And it would say a word: this test can fail.
    drop_in(folder.path(), UNITS[0], "wrong.conf", "[Service]\nProtectSistem=strict\n")?;
    assert!(complaints(folder.path())?.unwrap_or_default().contains("ProtectSistem"));
    Ok(())
}

#[test]
fn systemd_takes_the_drop_ins() -> Result<()> {
    let Some(version) = systemd_version()? else { return Ok(()) };
    let folder = units()?;
    let credentials = fs::read_to_string(checkout("systemd/credentials.conf")).map_err(io)?;
    let credentials = credentials.replace("#Load", "Load");
    assert!(credentials.matches("\nLoadCredential").count() >= 4, "{credentials}");
    let reload = fs::read_to_string(checkout("systemd/notify-reload.conf")).map_err(io)?;
    for unit in UNITS {
        drop_in(folder.path(), unit, "credentials.conf", &credentials)?;
        if version >= 253 {
            drop_in(folder.path(), unit, "notify-reload.conf", &reload)?;
        } else {
            eprintln!("SKIPPED: systemd {version} does not know Type=notify-reload");
        }
    }
    assert_eq!(complaints(folder.path())?.unwrap_or_default(), "");
    Ok(())
}

#[test]
fn the_units_are_less_exposed_than_promised() -> Result<()> {
    let folder = units()?;
    let readme = fs::read_to_string(checkout("systemd/README.md")).map_err(io)?;
    for unit in UNITS {
        let security = ["security", "--offline=true", "--no-pager", unit];
        let Some(output) = analyze(&security, folder.path())? else { return Ok(()) };
        let text = words(&output);
        let score = text
            .split_once("Overall exposure level for ")
            .and_then(|(_, rest)| rest.split_once(": ")?.1.split_whitespace().next())
            .ok_or_else(|| Error::other(format!("no score for {unit}:\n{text}")))?;
        let number: f64 = score.parse().map_err(|_| Error::other(score))?;
        assert!(number < 2.0, "{text}");
        // Other versions of systemd count differently; systemd/README.md has that of 252.
        if systemd_version()? == Some(252) {
            assert!(
                readme.contains(&format!("**{score}**")),
                "systemd/README.md says another than {score}"
            );
        }
    }
    Ok(())
}

#[test]
fn both_units_are_hardened_alike() -> Result<()> {
    let settings = |unit| -> Result<Vec<String>> {
        let text = fs::read_to_string(checkout("systemd").join(unit)).map_err(io)?;
        let own = ["Description=", "ExecStart=", "StateDirectory=", "RuntimeDirectory="];
        let setting =
            |line: &&str| !line.starts_with('#') && !own.iter().any(|o| line.starts_with(o));
        Ok(text.lines().filter(setting).filter(|l| !l.is_empty()).map(str::to_owned).collect())
    };
    assert_eq!(settings(UNITS[0])?, settings(UNITS[1])?);
    Ok(())
}

/// Every file below, with its path from there; sorted.
fn files(below: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let path = path.strip_prefix(below).expect("below the folder");
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `scripts/install` into the tree, which must succeed; what it said.
fn install(tree: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(checkout("scripts/install"));
    command.arg("--destdir").arg(tree).args(arguments).env_remove("DESTDIR");
    let output = command.output().map_err(io)?;
    assert!(output.status.success(), "{}", words(&output));
    Ok(words(&output))
}

fn text(tree: &Path, file: &str) -> Result<String> {
    fs::read_to_string(tree.join(file)).map_err(io)
}

const EXAMPLE: &str = "etc/kms-connector/config-base.toml.example";

#[test]
fn an_installation_comes_and_goes() -> Result<()> {
    let tree = tempfile::tempdir().map_err(io)?;
    let tree = tree.path();
    let binary = program().display().to_string();
    install(tree, &["--binary", &binary])?;
    let installed = [
        EXAMPLE,
        "usr/local/bin/kms-connector",
        "usr/local/lib/systemd/system/kms-connector.service",
        "usr/local/lib/systemd/system/kms-connector@.service",
        "usr/local/lib/sysusers.d/kms-connector.conf",
        "usr/local/share/bash-completion/completions/kms-connector",
        "usr/local/share/fish/vendor_completions.d/kms-connector.fish",
        "usr/local/share/kms-connector/config-base.toml",
        "usr/local/share/kms-connector/credentials.conf",
        "usr/local/share/kms-connector/networks/mainnet.toml",
        "usr/local/share/kms-connector/networks/testnet.toml",
        "usr/local/share/kms-connector/notify-reload.conf",
        "usr/local/share/man/man1/kms-connector.1",
        "usr/local/share/man/man7/kms-connector.7",
        "usr/local/share/zsh/site-functions/_kms-connector",
    ];
    assert_eq!(files(tree)?, installed);
    let runs = Command::new(tree.join("usr/local/bin/kms-connector")).arg("--version").output();
    assert!(runs.map_err(io)?.status.success());
    assert!(
        text(tree, EXAMPLE)?.contains("\n#enabled = true\n"),
        "a copy of the example does not run"
    );
    // Nothing in the directory of configurations is a configuration yet.
    let list = connector()
        .arg("list")
        .env("KMS_CONNECTOR_CONFIG_DIR", tree.join("etc/kms-connector"))
        .output()
        .map_err(io)?;
    assert!(words(&list).starts_with("warning: there is no configuration in "), "{}", words(&list));
    assert!(list.status.success() && list.stdout.is_empty());

    // An operator's files outlive updates and the removal.
    let (config, key) = ("etc/kms-connector/one.toml", "etc/kms-connector/keys/one.private_key");
    fs::write(tree.join(config), "mine").map_err(io)?;
    fs::write(tree.join(key), "mine").map_err(io)?;
    fs::create_dir_all(tree.join("var/lib/kms-connector")).map_err(io)?;
    fs::write(tree.join("var/lib/kms-connector/x.sqlite3"), "mine").map_err(io)?;
    fs::write(tree.join("usr/local/share/kms-connector/config-base.toml"), "older").map_err(io)?;
    fs::write(tree.join(EXAMPLE), "older").map_err(io)?;
    install(tree, &["--binary", &binary])?;
    assert!(text(tree, EXAMPLE)?.contains("gateway_url"), "the example is of the old version");

    let said = install(tree, &["--uninstall"])?;
    assert!(said.contains("etc/kms-connector") && said.contains("var/lib/kms-connector"), "{said}");
    assert_eq!(files(tree)?, [key, config, "var/lib/kms-connector/x.sqlite3"]);
    install(tree, &["--uninstall"])?;
    Ok(())
}

#[test]
fn an_edited_example_is_kept() -> Result<()> {
    let tree = tempfile::tempdir().map_err(io)?;
    let tree = tree.path();
    let binary = program().display().to_string();
    install(tree, &["--binary", &binary])?;
    fs::write(tree.join(EXAMPLE), "edited").map_err(io)?;
    let said = install(tree, &["--binary", &binary])?;
    assert!(said.contains("edited"), "{said}");
    install(tree, &["--uninstall"])?;
    assert_eq!(files(tree)?, [EXAMPLE]);
    assert_eq!(text(tree, EXAMPLE)?, "edited");
    Ok(())
}

#[test]
fn another_prefix_is_where_systemd_finds_it() -> Result<()> {
    for (prefix, units) in [("/usr", "usr/lib/systemd/system"), ("/opt/kms", "etc/systemd/system")]
    {
        let tree = tempfile::tempdir().map_err(io)?;
        let tree = tree.path();
        let binary = program().display().to_string();
        install(tree, &["--binary", &binary, "--prefix", prefix])?;
        for unit in UNITS {
            let started = format!("ExecStart={prefix}/bin/kms-connector ");
            assert!(text(tree, &format!("{units}/{unit}"))?.contains(&started), "{prefix} {unit}");
        }
        install(tree, &["--uninstall", "--prefix", prefix])?;
        assert_eq!(files(tree)?, [""; 0], "{prefix}");
    }
    Ok(())
}

#[test]
fn the_users_file_makes_the_user() -> Result<()> {
    let tree = tempfile::tempdir().map_err(io)?;
    fs::create_dir(tree.path().join("etc")).map_err(io)?;
    let mut command = Command::new("systemd-sysusers");
    command.arg("--root").arg(tree.path()).arg(checkout("systemd/kms-connector.sysusers"));
    match command.output() {
        Ok(output) => assert!(output.status.success(), "{}", words(&output)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: there is no systemd-sysusers on this machine");
            return Ok(());
        }
        Err(error) => return Err(io(error)),
    }
    let passwd = text(tree.path(), "etc/passwd")?;
    let user = passwd.lines().find(|line| line.starts_with("kms-connector:"));
    assert!(user.is_some_and(|user| user.contains(":/var/lib/kms-connector:")), "{passwd}");
    assert!(text(tree.path(), "etc/group")?.contains("kms-connector:"));
    Ok(())
}

/// `start` as a service of this manager.
fn managed_start(scene: &Scene, manager: &NotifySocket, watchdog: Option<Duration>) -> Command {
    let mut command = connector();
    command.arg("start").arg("-c").arg(scene.config_file());
    manager.manage(&mut command, watchdog);
    command
}

#[world::test]
async fn start_tells_ready_and_stopping() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    fs::write(scene.config_file(), scene.config("")).map_err(io)?;
    for manager in [NotifySocket::in_folder(scene.dir.path())?, NotifySocket::without_file()?] {
        scene.spawn(managed_start(&scene, &manager, None))?;
        let (ready, message) = manager.hear_line(0, "READY=1").await?;
        assert!(message.value("STATUS").is_some_and(|status| !status.is_empty()), "{message:?}");
        let requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
        scene.answered(&requests).await?;
        assert_eq!(scene.stop().await?, Some(0));
        let (stopping, _) = manager.hear_line(ready, "STOPPING=1").await?;
        let heard = manager.heard();
        for word in ["READY=1", "STOPPING=1"] {
            assert_eq!(heard.iter().filter(|message| message.says(word)).count(), 1, "{heard:#?}");
        }
        // Nobody asked for a watchdog; and STOPPING is the last word.
        assert!(!heard.iter().any(|message| message.says("WATCHDOG=1")), "{heard:#?}");
        assert_eq!(stopping, heard.len() - 1, "{heard:#?}");
    }
    Ok(())
}

#[world::test]
async fn the_watchdog_is_fed_to_the_end_of_a_drain() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    fs::write(scene.config_file(), scene.config("")).map_err(io)?;
    let manager = NotifySocket::in_folder(scene.dir.path())?;
    let watchdog = Duration::from_secs(2);
    scene.spawn(managed_start(&scene, &manager, Some(watchdog)))?;
    let chain = scene.deployment.chain.clone();
    manager.hear_line(0, "READY=1").await?;
    // A transaction that is not mined keeps the drain waiting.
    chain.set_block_time(0).await?;
    let requests = scene.deployment.request(Ask::mixed(1, 0)).await?;
    let wallet = scene.wallet.address();
    until("an unmined answer", PATIENCE, Duration::from_millis(20), async || {
        Ok((!chain.unmined(wallet).await?.is_empty()).then_some(()))
    })
    .await?;
    scene.connector.as_ref().expect("it was started").signal(Signal::TERM)?;
    let (stopping, message) = manager.hear_line(0, "STOPPING=1").await?;
    let mut from = stopping;
    for _ in 0..3 {
        from = manager.hear_line(from + 1, "WATCHDOG=1").await?.0;
    }
    // systemd counts from the last word, whatever it was.
    let heard = manager.heard();
    for pair in heard.windows(2) {
        assert!(pair[1].at - pair[0].at < watchdog, "{heard:#?}");
    }
    assert!(heard[from].at - message.at > watchdog / 2, "the drain was no test");
    chain.set_block_time(1).await?;
    assert_eq!(scene.stop().await?, Some(0));
    scene.answered(&requests).await
}
