//! The disk under a journal: full, read-only, damaged, restored from a backup, lost, deleted while it
//! is in use. Nothing is lost, nothing is answered twice, and an operator is told what to do.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use alloy::primitives::U256;
use world::{
    Error, Result,
    audit::{Journal, number},
    connector,
    fleet::{Fleet, name},
    full_disk::FullDisk,
    journal,
    process::Process,
    program,
    proxy::{Proxy, Weather},
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions},
    status::InstanceStatus,
    until,
};

const POLL: Duration = Duration::from_millis(50);

async fn scene() -> Result<Scene> {
    Scene::new(SceneOptions::default()).await
}

fn io(what: &str) -> impl Fn(std::io::Error) -> Error {
    let what = what.to_owned();
    move |error| Error::Io(what.clone(), error)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Garbage over all pages but the first, in the file as it stands there: who has it open reads that.
fn damage(journal: &Path) -> Result<()> {
    let damaging = || {
        let size = fs::metadata(journal)?.len();
        let garbage = vec![0xee; usize::try_from(size).unwrap_or(0).saturating_sub(4096)];
        let file = fs::OpenOptions::new().write(true).open(journal)?;
        std::os::unix::fs::FileExt::write_all_at(&file, &garbage, 4096)
    };
    damaging().map_err(io("damaging the journal"))
}

/// Folds the log of a journal that nobody has open into its file.
fn fold(journal: &Path) -> Result<()> {
    let folding = || {
        let connection = rusqlite::Connection::open(journal)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    };
    folding().map_err(|error| Error::other(error.to_string()))
}

/// Runs a command of the program to its end.
async fn run(mut command: Command) -> Result<(Option<i32>, String)> {
    let running = tokio::task::spawn_blocking(move || command.output());
    let output =
        running.await.map_err(|e| Error::other(e.to_string()))?.map_err(io("a command"))?;
    let Output { status, stdout, stderr } = output;
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok((status.code(), text))
}

/// `journal rebuild` of an instance of the fleet.
async fn rebuild(fleet: &Fleet, index: usize, from: u64) -> Result<(Option<i32>, String)> {
    let (from, name) = (from.to_string(), name(index));
    let arguments = ["journal", "rebuild", "--from", &from, "--instance", &name];
    let mut command = fleet.supervisor.client(program(), &arguments);
    command.arg("--config-dir").arg(fleet.supervisor.configs.path());
    command.arg("--state-dir").arg(fleet.supervisor.state_dir());
    run(command).await
}

/// `journal rebuild` of the scene's configuration.
async fn rebuild_scene(scene: &Scene, from: u64) -> Result<(Option<i32>, String)> {
    let mut command = connector();
    command.args(["journal", "rebuild", "--from", &from.to_string(), "-c"]);
    command.arg(scene.config_file()).arg("--state-dir").arg(scene.state_dir());
    run(command).await
}

fn parked_why(status: &InstanceStatus) -> &str {
    assert_eq!(status.state, "parked", "{status:?}");
    status.why.as_deref().unwrap_or_default()
}

/// Waits until an instance waits for its journal. Answers why.
async fn waits_for_its_disk(fleet: &Fleet, index: usize) -> Result<String> {
    let status = fleet.supervisor.until_state(&name(index), "waiting").await?;
    match (&status.on, &status.why) {
        (Some(on), Some(why)) if on.contains("journal") => Ok(why.clone()),
        _ => Err(Error::other(format!("{status:?}"))),
    }
}

fn first_block(requests: &[Issued]) -> u64 {
    requests.iter().map(|request| request.block).min().unwrap_or_default()
}

/// One transaction of this wallet for each request, and none that failed.
async fn no_gas_was_wasted(scene: &Scene, requests: usize) -> Result<()> {
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0);
    let sent = scene.deployment.chain.nonce(scene.wallet.address()).await?;
    assert_eq!(sent, requests as u64, "one transaction for each request");
    Ok(())
}

/// Two parties with gas enough for any answer: the first one to a request costs more than a party
/// learns while the other is faster, and what runs out of gas is not what is counted here.
async fn two_with_gas() -> Result<Fleet> {
    let mut fleet = Fleet::new(2).await?;
    for index in fleet.all() {
        fleet.write(index, "gas_limit = 3000000")?;
    }
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[name(0), name(1)]).await?;
    Ok(fleet)
}

/// No transaction of this party failed.
async fn nothing_failed(fleet: &Fleet, index: usize) -> Result<()> {
    let mut failed = fleet.deployment().failed_transactions().await?;
    failed.retain(|receipt| receipt.from == fleet.wallet(index));
    assert!(failed.is_empty(), "gas was wasted: {failed:?}");
    Ok(())
}

/// The files in a state directory whose names say that they were set aside.
fn set_aside(state_dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(state_dir).map_err(io("the state directory"))?;
    let names = entries.flatten().map(|entry| entry.path());
    Ok(names
        .filter(|path| {
            let name = path.to_string_lossy();
            name.contains(".damaged-") && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .collect())
}

/// Two parties, and the disk of their journals.
async fn two_on_a_disk() -> Result<(Fleet, FullDisk)> {
    let mut fleet = Fleet::new(2).await?;
    let disk = FullDisk::new(fleet.dir.path())?;
    fleet.supervisor.disk = Some(disk.clone());
    fleet.run_all(program()).await?;
    Ok((fleet, disk))
}

/// Field failures T12, T48.
#[world::test]
async fn a_full_disk_is_waited_for_and_another_instance_goes_on() -> Result<()> {
    let (fleet, disk) = two_on_a_disk().await?;
    let mut requests = fleet.request(Ask::mixed(3, 3)).await?;
    fleet.answered_by(&[0, 1], &requests).await?;
    let before = fleet.supervisor.instance(&name(0)).await?;
    disk.fill(&fleet.journal(0)?)?;
    for _ in 0..4 {
        requests.extend(fleet.request(Ask::mixed(10, 10)).await?);
    }
    let why = waits_for_its_disk(&fleet, 0).await?;
    assert!(why.contains(".sqlite3") && why.contains("free space"), "{why}");
    fleet.answered_by(&[1], &requests).await?;

    // What is not stored is not acted on: no ask without its request, no transaction without its row.
    let core = &fleet.parties.list[0].core;
    let asked = requests.iter().filter(|request| core.accepted(request.id) > 0);
    let asked: Vec<U256> = asked.map(|request| request.id).collect();
    let mined = fleet.deployment().chain.nonce(fleet.wallet(0)).await?;
    let stored: Vec<U256> = fleet.entries(0)?.iter().map(|entry| entry.id).collect();
    assert!(stored.len() < requests.len(), "the disk is full");
    for id in asked {
        assert!(stored.contains(&id), "{id:#x} was asked and is not stored");
    }
    let signed = journal::query(&fleet.journal(0)?, "SELECT count(*) FROM transactions", |row| {
        number(row, 0)
    })?;
    assert!(mined <= signed[0], "{mined} mined, {} stored", signed[0]);

    disk.empty()?;
    fleet.audit(&[0, 1], &requests).await?;
    fleet.supervisor.until_state(&name(0), "running").await?;
    let after = fleet.supervisor.instance(&name(0)).await?;
    assert_eq!((after.generation, after.restarts), (before.generation, before.restarts));
    fleet.unbroken()
}

#[world::test]
async fn a_disk_that_is_full_at_the_start_is_waited_for() -> Result<()> {
    let (mut fleet, disk) = two_on_a_disk().await?;
    let mut requests = fleet.request(Ask::mixed(2, 2)).await?;
    fleet.audit(&[0, 1], &requests).await?;
    assert_eq!(fleet.supervisor.stop().await?, Some(0));
    disk.fill(&fleet.journal(0)?)?;
    fleet.supervisor.start(program())?;
    requests.extend(fleet.request(Ask::mixed(20, 20)).await?);
    waits_for_its_disk(&fleet, 0).await?;
    fleet.answered_by(&[1], &requests).await?;
    // Told to end while it waits, it does.
    fleet.supervisor.operate("stop", &name(0)).await?;
    fleet.supervisor.operate("restart", &name(0)).await?;
    waits_for_its_disk(&fleet, 0).await?;
    disk.empty()?;
    fleet.audit(&[0, 1], &requests).await
}

/// Runs the connector as a user who is not root: root may write anywhere.
fn start_as_nobody(scene: &mut Scene) -> Result<()> {
    let mut command = connector();
    command.arg("start").arg("-c").arg(scene.config_file());
    command.arg("--socket").arg(scene.dir.path().join("control.sock"));
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    scene.spawn(command)
}

/// Whether the state directory and what is in it can be written.
fn set_writable(scene: &Scene, writable: bool) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (of_dir, of_file) = if writable { (0o700, 0o600) } else { (0o500, 0o400) };
    let setting = || {
        for entry in fs::read_dir(scene.state_dir())? {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(of_file))?;
        }
        fs::set_permissions(scene.state_dir(), fs::Permissions::from_mode(of_dir))
    };
    setting().map_err(io("the state directory"))
}

#[world::test]
async fn a_read_only_state_directory_is_waited_for() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut scene = scene().await?;
    let preparing = || {
        fs::create_dir(scene.state_dir())?;
        fs::write(scene.config_file(), scene.config(""))?;
        fs::set_permissions(scene.config_file(), fs::Permissions::from_mode(0o600))?;
        fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755))?;
        if rustix::process::geteuid().is_root() {
            chown(scene.state_dir(), Some(65534), Some(65534))?;
            chown(scene.config_file(), Some(65534), Some(65534))?;
        }
        Ok(())
    };
    preparing().map_err(io("a folder for another user"))?;
    let mut requests = Vec::new();
    // Nothing there yet; then a journal that cannot be written.
    for round in 0..2 {
        set_writable(&scene, false)?;
        start_as_nobody(&mut scene)?;
        until("waiting for its journal", PATIENCE, POLL, async || {
            let said = scene.log().matches("the disk of its journal").count() > round;
            Ok(said.then_some(()))
        })
        .await?;
        requests.extend(scene.deployment.request(Ask::mixed(2, 1)).await?);
        scene.alive()?;
        set_writable(&scene, true)?;
        // The first start begins with the head: what came before it is nobody's.
        if round == 0 {
            scene.logged("reading begins").await?;
            requests = scene.deployment.request(Ask::mixed(2, 1)).await?;
        }
        scene.answered(&requests).await?;
        assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    }
    Ok(())
}

/// Damaged where it is opened, in a supervisor of two: parked until it is rebuilt, across a restart of
/// the process; then nothing from the block on is lost, and nothing answered again.
#[world::test]
async fn a_damaged_journal_is_set_aside_and_rebuilt() -> Result<()> {
    let mut fleet = two_with_gas().await?;
    let mut requests = fleet.request(Ask::mixed(6, 6)).await?;
    fleet.audit(&[0, 1], &requests).await?;
    // Some are under way when it ends.
    fleet.parties.list[0].core.change(|core| core.never_finish = true);
    requests.extend(fleet.request(Ask::mixed(3, 3)).await?);
    fleet.answered_by(&[1], &requests).await?;
    fleet.supervisor.kill();
    fleet.parties.list[0].core.change(|core| core.never_finish = false);
    let file = fleet.journal(0)?;
    fold(&file)?;
    damage(&file)?;
    requests.extend(fleet.request(Ask::mixed(2, 2)).await?);

    for stops in [true, false] {
        fleet.supervisor.start(program())?;
        let status = fleet.supervisor.until_state(&name(0), "parked").await?;
        let why = parked_why(&status);
        assert!(why.contains("journal rebuild --from") && why.contains(".damaged-"), "{why}");
        assert!(why.contains(&format!("--instance {}`", name(0))), "{why}");
        fleet.answered_by(&[1], &requests).await?;
        assert_eq!(set_aside(&fleet.supervisor.state_dir())?.len(), 1);
        assert!(fleet.journal(0).is_err(), "no other journal is begun");
        requests.extend(fleet.request(Ask::mixed(1, 1)).await?);
        if stops {
            assert_eq!(fleet.supervisor.stop().await?, Some(0));
        }
    }
    let (code, said) = rebuild(&fleet, 0, first_block(&requests)).await?;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("node-0: "), "the supervisor had it go on: {said}");
    fleet.answered_by(&[0, 1], &requests).await?;
    let file = fleet.journal(0)?;
    fleet.books(0, &file).audit(&requests, Journal::Cut).await?;
    fleet.books(1, &fleet.journal(1)?).audit(&requests, Journal::Whole).await?;
    nothing_failed(&fleet, 0).await?;
    let sent = fleet.deployment().chain.nonce(fleet.wallet(0)).await?;
    assert_eq!(sent, requests.len() as u64, "one transaction for each request");
    assert_eq!(set_aside(&fleet.supervisor.state_dir())?.len(), 1, "kept");
    Ok(())
}

/// Found by a read or a commit of an instance that runs.
#[world::test]
async fn damage_under_a_running_instance_parks_it() -> Result<()> {
    let fleet = two_with_gas().await?;
    let mut requests = fleet.request(Ask::mixed(10, 10)).await?;
    fleet.audit(&[0, 1], &requests).await?;
    // What is folded into the file is read from there.
    fleet.supervisor.operate("stop", &name(0)).await?;
    fleet.supervisor.operate("restart", &name(0)).await?;
    fleet.supervisor.until_running(&[name(0), name(1)]).await?;
    let before = fleet.supervisor.instance(&name(0)).await?.generation;
    damage(&fleet.journal(0)?)?;
    let parked = async { fleet.supervisor.until_state(&name(0), "parked").await };
    let (more, status) = fleet.under_load(Duration::from_millis(200), parked).await?;
    requests.extend(more);
    assert!(parked_why(&status).contains("journal rebuild --from"), "{status:?}");
    assert_eq!(status.generation, before, "nobody had to open it again to find out");
    assert_eq!(set_aside(&fleet.supervisor.state_dir())?.len(), 1);
    // What is under way while nobody knows of it may be sent twice, and fails once.
    until("the last transactions", PATIENCE, POLL, async || {
        let unmined = fleet.deployment().chain.unmined(fleet.wallet(0)).await?;
        Ok(unmined.is_empty().then_some(()))
    })
    .await?;

    let (code, said) = rebuild(&fleet, 0, first_block(&requests)).await?;
    assert_eq!(code, Some(0), "{said}");
    fleet.answered_by(&[0, 1], &requests).await?;
    fleet.books(0, &fleet.journal(0)?).audit(&requests, Journal::Cut).await?;
    nothing_failed(&fleet, 0).await
}

/// `start` ends where a supervisor would park, and says the same.
#[world::test]
async fn start_refuses_a_damaged_journal_until_it_is_rebuilt() -> Result<()> {
    let mut scene = scene().await?;
    scene.start(program())?;
    let mut requests = scene.deployment.request(Ask::mixed(3, 3)).await?;
    scene.answered(&requests).await?;
    let (code, said) = rebuild_scene(&scene, 1).await?;
    let pid = scene.connector.as_ref().map(Process::pid).unwrap_or_default();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("in use by process {pid}")), "{said}");
    assert_eq!(scene.stop().await?, Some(0));
    let file = scene.journal().ok_or_else(|| Error::other("no journal"))?;
    fs::write(&file, vec![0x42; 20_000]).map_err(io("the journal"))?;
    requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
    for _ in 0..2 {
        scene.start_again(program())?;
        let connector = scene.connector.as_mut().ok_or_else(|| Error::other("no connector"))?;
        assert_eq!(connector.wait(PATIENCE).await?.code(), Some(78));
        assert!(connector.output().contains("journal rebuild --from"));
    }
    let head = scene.deployment.chain.block_number().await?;
    let (code, said) = rebuild_scene(&scene, head + 10).await?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no block"), "{said}");
    let (code, said) = rebuild_scene(&scene, first_block(&requests)).await?;
    assert_eq!(code, Some(0), "{said}");
    scene.start_again(program())?;
    scene.answered(&requests).await?;
    settled_all(&scene, &requests).await?;
    no_gas_was_wasted(&scene, requests.len()).await
}

/// Waits until the journal has an outcome for each of `requests` and no others.
async fn settled_all(scene: &Scene, requests: &[Issued]) -> Result<()> {
    until("outcomes", PATIENCE, POLL, async || {
        let sql = "SELECT count(*), count(outcome) FROM requests";
        let counts = scene.query(sql, |row| Ok((number(row, 0)?, number(row, 1)?)))?;
        let all = requests.len() as u64;
        Ok((counts == [(all, all)]).then_some(()))
    })
    .await
}

/// Older than what has happened: transactions that it takes for open are mined, requests that it takes
/// for unanswered are answered, others it has never heard of.
#[world::test]
async fn a_journal_restored_from_a_backup_answers_nothing_twice() -> Result<()> {
    let mut scene = scene().await?;
    let chain = scene.deployment.chain.clone();
    scene.start(program())?;
    let mut requests = scene.deployment.request(Ask::mixed(4, 4)).await?;
    scene.answered(&requests).await?;
    // The backup: some are signed and not mined, some are asked and not answered.
    chain.set_block_time(0).await?;
    requests.extend(scene.deployment.request(Ask::mixed(3, 3)).await?);
    until("open transactions", PATIENCE, POLL, async || {
        Ok((chain.unmined(scene.wallet.address()).await?.len() == 6).then_some(()))
    })
    .await?;
    scene.core.change(|core| core.never_finish = true);
    requests.extend(scene.deployment.request(Ask::mixed(2, 2)).await?);
    stored_all(&scene, &requests).await?;
    let file = scene.journal().ok_or_else(|| Error::other("no journal"))?;
    let backup = scene.dir.path().join("backup");
    let backing_up = || {
        let connection = rusqlite::Connection::open(&file)?;
        connection.execute("VACUUM INTO ?1", [backup.to_str()])
    };
    backing_up().map_err(|e| Error::other(e.to_string()))?;
    // Life goes on.
    scene.core.change(|core| core.never_finish = false);
    chain.set_block_time(1).await?;
    requests.extend(scene.deployment.request(Ask::mixed(5, 5)).await?);
    scene.answered(&requests).await?;
    scene.kill();
    for ending in ["-wal", "-shm"] {
        fs::remove_file(beside(&file, ending)).map_err(io("the log"))?;
    }
    fs::rename(&backup, &file).map_err(io("the backup"))?;
    requests.extend(scene.deployment.request(Ask::mixed(2, 2)).await?);

    scene.start_again(program())?;
    scene.audit(&requests, Journal::Cut).await?;
    no_gas_was_wasted(&scene, requests.len()).await?;
    // Nobody is accused for ever of using the wallet: the next start knows all.
    let more = scene.deployment.request(Ask::mixed(2, 0)).await?;
    scene.answered(&more).await?;
    assert_eq!(scene.stop().await?, Some(0));
    let accusations = |log: &str| {
        let said = |line: &&str| line.contains("that the journal does not know");
        log.lines().filter(said).count()
    };
    assert_eq!(accusations(&scene.log()), 1, "{}", scene.log());
    scene.start_again(program())?;
    scene.logged("instance running").await?;
    let more = scene.deployment.request(Ask::mixed(2, 0)).await?;
    scene.answered(&more).await?;
    assert_eq!(accusations(&scene.log()), 1, "{}", scene.log());
    Ok(())
}

/// Waits until the journal has as many requests as these.
async fn stored_all(scene: &Scene, requests: &[Issued]) -> Result<()> {
    until("all stored", PATIENCE, POLL, async || {
        let sql = "SELECT count(*) FROM requests";
        let stored = scene.query(sql, |row| number(row, 0))?;
        Ok((stored == [requests.len() as u64]).then_some(()))
    })
    .await
}

/// Gone while the connector was down. Without `starting_block` it begins at the head, says so, and
/// `journal rebuild` has the rest read.
#[world::test]
async fn a_lost_journal_is_said_and_can_be_read_again() -> Result<()> {
    let mut scene = scene().await?;
    let config = scene.config("");
    let lines = config.lines().filter(|line| !line.starts_with("starting_block"));
    scene.start_with(program(), &lines.collect::<Vec<_>>().join("\n"))?;
    scene.logged("reading begins").await?;
    let mut requests = scene.deployment.request(Ask::mixed(4, 4)).await?;
    scene.answered(&requests).await?;
    assert_eq!(scene.stop().await?, Some(0));
    fs::remove_dir_all(scene.state_dir()).map_err(io("the state directory"))?;
    let missed = scene.deployment.request(Ask::mixed(2, 2)).await?;
    scene.deployment.chain.mine(3).await?;
    scene.start_again(program())?;
    scene.logged("the journal is empty and the wallet was used before").await?;
    scene.logged("reading begins").await?;
    let later = scene.deployment.request(Ask::mixed(1, 1)).await?;
    scene.answered(&later).await?;
    let ids: Vec<U256> = missed.iter().map(|request| request.id).collect();
    for id in &ids {
        assert!(scene.deployment.response(*id).await?.is_empty(), "nobody has read it");
    }
    assert_eq!(scene.stop().await?, Some(0));
    requests.extend(missed.into_iter().chain(later));
    let (code, said) = rebuild_scene(&scene, first_block(&requests)).await?;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("in order"), "{said}");
    scene.start_again(program())?;
    scene.audit(&requests, Journal::Cut).await?;
    no_gas_was_wasted(&scene, requests.len()).await
}

#[world::test]
async fn a_lost_journal_begins_at_the_starting_block_again() -> Result<()> {
    let mut scene = scene().await?;
    assert!(scene.config("").contains("starting_block"), "from before the first request");
    scene.start(program())?;
    let mut requests = scene.deployment.request(Ask::mixed(5, 5)).await?;
    scene.answered(&requests).await?;
    scene.kill();
    fs::remove_dir_all(scene.state_dir()).map_err(io("the state directory"))?;
    requests.extend(scene.deployment.request(Ask::mixed(2, 2)).await?);
    scene.start_again(program())?;
    scene.audit(&requests, Journal::Cut).await?;
    no_gas_was_wasted(&scene, requests.len()).await
}

#[world::test]
async fn a_journal_deleted_under_a_running_instance_comes_back_whole() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let deleting = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let file = fleet.journal(0)?;
        for ending in ["", "-wal", "-shm"] {
            fs::remove_file(beside(&file, ending)).map_err(io("a file"))?;
        }
        let told = |one: &InstanceStatus| {
            one.last_error.as_ref().is_some_and(|error| error.text.contains("deleted"))
        };
        fleet
            .supervisor
            .until("the deletion is noticed", |status| status.instances.iter().any(told))
            .await?;
        fleet.supervisor.until_state(&name(0), "running").await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    };
    let (requests, ()) = fleet.under_load(Duration::from_millis(100), deleting).await?;
    fleet.audit(&[0, 1], &requests).await?;
    let other = fleet.supervisor.instance(&name(1)).await?;
    assert_eq!((other.generation, other.restarts), (1, 0));
    Ok(())
}

#[world::test]
async fn a_journal_deleted_while_its_instance_is_built_comes_back_whole() -> Result<()> {
    deleted_while_the_node_is_away(true).await
}

#[world::test]
async fn a_journal_deleted_while_its_instance_waits_comes_back_whole() -> Result<()> {
    deleted_while_the_node_is_away(false).await
}

/// Nothing is stored, because the node is away: while the next generation is built, or while one runs.
async fn deleted_while_the_node_is_away(restarts: bool) -> Result<()> {
    let mut fleet = Fleet::new(1).await?;
    let chain = Proxy::start(fleet.parties.anvil.port()).await?;
    let through = format!("ws://127.0.0.1:{}", chain.port());
    let config = fleet.config(0, "").replace(&fleet.parties.anvil.ws_url(), &through);
    fleet.supervisor.configs.write(&name(0), &config)?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[name(0)]).await?;
    let mut requests = fleet.request(Ask::mixed(2, 2)).await?;
    fleet.answered_by(&[0], &requests).await?;
    let file = fleet.journal(0)?;
    chain.set(Weather::Cut);
    if restarts {
        fleet.supervisor.operate("restart", &name(0)).await?;
    }
    fleet.supervisor.until_state(&name(0), "waiting").await?;
    for ending in ["", "-wal", "-shm"] {
        fs::remove_file(beside(&file, ending)).map_err(io("a file"))?;
    }
    let back = async || Ok(file.exists().then_some(()));
    until("the journal is there again", PATIENCE, POLL, back).await?;
    chain.set(Weather::Clear);
    fleet.supervisor.until_running(&[name(0)]).await?;
    requests.extend(fleet.request(Ask::mixed(1, 1)).await?);
    fleet.audit(&[0], &requests).await
}
