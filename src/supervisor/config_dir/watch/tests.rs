//! Real temporary directories. Where wake-ups are injected, tokio's clock is paused: only the order
//! of events counts, and a minute costs nothing. The last section uses real inotify in real time.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::supervisor::config_dir::snapshot::{DesiredInstance, first_snapshot, tests::text};

/// A watcher that runs over a directory.
struct Scene {
    root: TempDir,
    wake: Arc<Notify>,
    nudge: watch::Sender<ReloadRequests>,
    looks: mpsc::Receiver<ConfigSnapshot>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Scene {
    /// Begins with these files. Every watcher's first snapshot is already received.
    async fn new<const N: usize>(files: [(&str, u32); N], inotify: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("conf")).unwrap();
        for (name, size) in files {
            fs::write(root.path().join("conf").join(name), text(size)).unwrap();
        }
        let watched = ConfigFiles::Directory(root.path().join("conf"));
        let mut scene = Self::over(root, watched, inotify);
        scene.look().await;
        scene
    }

    fn over(root: TempDir, files: ConfigFiles, inotify: bool) -> Self {
        let environment = Environment::default();
        let (_, settled) = first_snapshot(&files, &environment, &[]);
        let mut watcher = Watcher::new(files, environment, settled);
        if !inotify {
            watcher.directory_watch = None;
        }
        let wake = watcher.wake.clone();
        let (nudge, nudges) = watch::channel(ReloadRequests::default());
        let (sender, looks) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(watcher.run(nudges, sender, stop.clone()));
        Self { root, wake, nudge, looks, stop, tasks }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("conf").join(name)
    }

    /// A change by an editor or a script, with its event.
    fn change(&self, change: impl FnOnce(&Self)) {
        change(self);
        self.wake.notify_one();
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        self.change(|scene| fs::write(scene.path(name), text).unwrap());
    }

    async fn look(&mut self) -> ConfigSnapshot {
        timeout(Duration::from_secs(25), self.looks.recv()).await.unwrap().unwrap()
    }

    /// Names and channel sizes of the next snapshot; 0 is a problem.
    async fn sizes(&mut self) -> Vec<(String, usize)> {
        let look = self.look().await;
        assert!(look.problem.is_none(), "{:?}", look.problem);
        sizes(&look)
    }

    /// Receives snapshots until one matches; inotify may report several bursts.
    async fn until(&mut self, expected: &[(&str, usize)]) {
        let expected = owned(expected);
        loop {
            let look = self.look().await;
            if look.problem.is_none() && sizes(&look) == expected {
                return;
            }
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

fn sizes(look: &ConfigSnapshot) -> Vec<(String, usize)> {
    let size = |wanted: &DesiredInstance| wanted.config.channel_size;
    look.files.iter().map(|(name, file)| (name.clone(), file.as_ref().map_or(0, size))).collect()
}

fn owned(sizes: &[(&str, usize)]) -> Vec<(String, usize)> {
    sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
}

/// Swaps a `ConfigMap`: files are links through `..data`, which a rename swaps.
fn swap_config_map(directory: &Path, version: &str, files: &[(&str, u32)]) {
    let data = directory.join(version);
    fs::create_dir(&data).unwrap();
    for (name, size) in files {
        fs::write(data.join(name), text(*size)).unwrap();
    }
    let old = fs::read_link(directory.join("..data")).ok();
    symlink(version, directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    for (name, _) in files {
        if !directory.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), directory.join(name)).unwrap();
        }
    }
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() && !path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(directory.join(old)).unwrap();
    }
}

// ---- what happens to files

/// Unmounted, or removed and recreated: not a request to end all instances.
#[tokio::test(start_paused = true)]
async fn d2_a_directory_that_vanished_ends_nothing_until_somebody_says_so() {
    let mut scene = Scene::new([("a.toml", 1), ("b.toml", 2)], false).await;
    let vanish = |scene: &Scene| {
        fs::remove_dir_all(scene.root.path().join("conf")).unwrap();
        fs::create_dir(scene.root.path().join("conf")).unwrap();
    };
    scene.change(vanish);
    let look = scene.look().await;
    assert!(matches!(look.problem, Some(Unlisted::Vanished)));
    scene.wake.notify_one();
    assert!(scene.look().await.problem.is_some(), "it stays so");
    scene.write("a.toml", text(3));
    assert_eq!(scene.sizes().await, owned(&[("a", 3)]), "files are there again");
    scene.change(vanish);
    assert!(scene.look().await.problem.is_some());
    scene.nudge.send_modify(means);
    assert_eq!(scene.sizes().await, [], "it is meant");
    scene.end().await;
}

/// A `reload` without a name, by an operator who knows that the directory vanished.
fn means(nudges: &mut ReloadRequests) {
    nudges.count += 1;
    nudges.vanish_confirmed = Some(nudges.count);
}

/// Another request, or an operator who does not know yet, confirms nothing.
#[tokio::test(start_paused = true)]
async fn d2_only_who_was_told_that_the_directory_vanished_can_mean_it() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    fs::remove_dir_all(scene.root.path().join("conf")).unwrap();
    fs::create_dir(scene.root.path().join("conf")).unwrap();
    // The disappearance has not been reported yet.
    scene.nudge.send_modify(means);
    assert!(scene.look().await.problem.is_some(), "nobody was told");
    scene.nudge.send_modify(|nudges| nudges.count += 1);
    assert!(scene.look().await.problem.is_some(), "SIGHUP, or `reload` with a name");
    scene.wake.notify_one();
    assert!(scene.look().await.problem.is_some(), "what was said before counts once");
    scene.nudge.send_modify(means);
    assert_eq!(scene.sizes().await, [], "it is meant");
    scene.end().await;
}

/// In the same directory a removed file is a request.
#[tokio::test(start_paused = true)]
async fn d2_the_last_file_that_is_removed_ends_its_instance() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    scene.change(|scene| fs::remove_file(scene.path("a.toml")).unwrap());
    assert_eq!(scene.sizes().await, []);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn files_come_change_and_go() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    scene.write("b.toml", text(1));
    assert_eq!(scene.sizes().await, owned(&[("a", 1), ("b", 1)]));
    scene.write("a.toml", text(2));
    assert_eq!(scene.sizes().await, owned(&[("a", 2), ("b", 1)]));
    scene.write("a.toml", "chain_id = ");
    assert_eq!(scene.sizes().await, owned(&[("a", 0), ("b", 1)]));
    scene.write("a.toml", text(2));
    assert_eq!(scene.sizes().await, owned(&[("a", 2), ("b", 1)]));
    scene.change(|scene| fs::remove_file(scene.path("a.toml")).unwrap());
    assert_eq!(scene.sizes().await, owned(&[("b", 1)]));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_touched_or_rewritten_file_says_what_it_said() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    scene.write("a.toml", text(1));
    let look = scene.look().await;
    let before = look.files["a"].as_ref().unwrap();
    scene.change(|scene| {
        fs::File::options().append(true).open(scene.path("a.toml")).unwrap().sync_all().unwrap();
    });
    let look = scene.look().await;
    let after = look.files["a"].as_ref().unwrap();
    assert_eq!((&before.config, &before.hash), (&after.config, &after.hash));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn renames_are_one_step() {
    let mut scene = Scene::new([("a.toml", 1), ("b.toml", 1)], false).await;
    scene.change(|scene| {
        fs::write(scene.path(".a.toml.tmp"), text(2)).unwrap();
        fs::rename(scene.path(".a.toml.tmp"), scene.path("a.toml")).unwrap();
        fs::rename(scene.path("b.toml"), scene.path("c.toml")).unwrap();
    });
    assert_eq!(scene.sizes().await, owned(&[("a", 2), ("c", 1)]));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rename_in_between_two_readings_is_one_step() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    scene.nudge.send_modify(|nudges| nudges.count += 1);
    // Between the first and the second reading, whenever those are.
    for names in [("a.toml", "b.toml"), ("b.toml", "a.toml"), ("a.toml", "b.toml")] {
        sleep(Duration::from_millis(2100)).await;
        scene.change(|scene| fs::rename(scene.path(names.0), scene.path(names.1)).unwrap());
    }
    let mut last = Vec::new();
    while let Ok(Some(look)) = timeout(Duration::from_secs(20), scene.looks.recv()).await {
        last = sizes(&look);
        assert_eq!(last.len(), 1, "{last:?}");
    }
    assert_eq!(last, owned(&[("b", 1)]));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_deleted_and_created_again_was_never_gone() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    for size in 2..12 {
        scene.change(|scene| fs::remove_file(scene.path("a.toml")).unwrap());
        // Reload requests skip the debounce, so readings fall in between.
        scene.nudge.send_modify(|nudges| nudges.count += 1);
        sleep(Duration::from_millis(450)).await;
        scene.write("a.toml", text(size));
        sleep(Duration::from_millis(1700)).await;
        while let Ok(look) = scene.looks.try_recv() {
            assert_eq!(look.files.len(), 1, "{look:?}");
        }
    }
    assert_eq!(scene.sizes().await, owned(&[("a", 11)]));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_config_map_is_swapped() {
    let mut scene = Scene::new([], false).await;
    let directory = scene.path("");
    swap_config_map(&directory, "..2026_1", &[("a.toml", 1), ("b.toml", 1)]);
    scene.wake.notify_one();
    assert_eq!(scene.sizes().await, owned(&[("a", 1), ("b", 1)]));
    swap_config_map(&directory, "..2026_2", &[("a.toml", 2), ("c.toml", 2)]);
    scene.wake.notify_one();
    assert_eq!(scene.sizes().await, owned(&[("a", 2), ("c", 2)]));
    scene.end().await;
}

/// Without its last line each of these texts is a valid configuration, too.
#[tokio::test(start_paused = true)]
async fn a_slowly_written_file_is_never_taken_half_written() {
    for pause in [50, 250, 300, 480] {
        let mut scene = Scene::new([("a.toml", 11), ("z.toml", 1)], false).await;
        for size in [22, 33] {
            let text = text(size);
            let mut written = String::new();
            for line in text.lines() {
                written += line;
                written.push('\n');
                scene.write("a.toml", &written);
                // The longest pause is before the line that matters.
                sleep(Duration::from_millis(pause)).await;
                scene.nudge.send_modify(|nudges| nudges.count += 1);
            }
        }
        let mut seen = Vec::new();
        while let Ok(Some(look)) = timeout(Duration::from_secs(20), scene.looks.recv()).await {
            seen.push(sizes(&look)[0].1);
        }
        let whole = [11, 22, 33];
        assert!(seen.iter().all(|size| whole.contains(size)), "{pause}: {seen:?}");
        assert_eq!(seen.last(), Some(&33), "{pause}: {seen:?}");
        scene.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_never_rests_holds_up_no_other() {
    let mut scene = Scene::new([("a.toml", 1), ("z.toml", 1)], false).await;
    scene.write("a.toml", text(2));
    let path = scene.path("z.toml");
    scene.tasks.spawn(async move {
        for size in 2..80 {
            fs::write(&path, text(size)).unwrap();
            sleep(Duration::from_millis(300)).await;
        }
    });
    assert_eq!(scene.sizes().await, owned(&[("a", 2), ("z", 1)]));
    // No event follows, and yet the file is read again.
    while scene.sizes().await != owned(&[("a", 2), ("z", 79)]) {}
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_vanishes_changes_nothing() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    let (here, away) = (scene.path(""), scene.root.path().join("away"));
    scene.change(|_| fs::rename(&here, &away).unwrap());
    let look = scene.look().await;
    assert!(look.files.is_empty());
    assert!(look.problem.unwrap().to_string().contains("conf"));
    scene.nudge.send_modify(|nudges| nudges.count += 1);
    let look = scene.look().await;
    assert!(look.problem.is_some() && look.reload_number == 1);
    scene.change(|_| fs::rename(&away, &here).unwrap());
    assert_eq!(scene.sizes().await, owned(&[("a", 1)]));
    scene.end().await;
}

// ---- when

#[tokio::test(start_paused = true)]
async fn a_storm_ends_in_one_or_two_looks() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    for size in 1..=1000 {
        scene.write("a.toml", text(size));
        if size % 2 == 0 {
            sleep(Duration::from_millis(8)).await;
        }
    }
    let mut seen = Vec::new();
    while let Ok(Some(look)) = timeout(Duration::from_secs(20), scene.looks.recv()).await {
        seen.push(sizes(&look)[0].1);
    }
    assert!((1..=2).contains(&seen.len()), "{seen:?}");
    assert_eq!(seen.last(), Some(&1000));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_look() {
    let mut scene = Scene::new([("a.toml", 1), ("b.toml", 1), ("c.toml", 1)], false).await;
    sleep(MIN_SNAPSHOT_INTERVAL).await; // or that would collect it
    for name in ["a.toml", "b.toml", "c.toml"] {
        scene.write(name, text(2));
        sleep(Duration::from_millis(900)).await;
    }
    assert_eq!(scene.sizes().await, owned(&[("a", 2), ("b", 2), ("c", 2)]));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_endless_storm_does_not_keep_it_from_looking() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    scene.write("a.toml", text(2));
    let wake = scene.wake.clone();
    scene.tasks.spawn(async move {
        loop {
            wake.notify_one();
            sleep(Duration::from_millis(100)).await;
        }
    });
    assert_eq!(scene.sizes().await, owned(&[("a", 2)]));
    scene.tasks.abort_all();
}

#[tokio::test(start_paused = true)]
async fn every_nudge_is_answered_and_looks_keep_their_pace() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    let mut last = Instant::now();
    for number in 1..=3 {
        scene.nudge.send_modify(|nudges| nudges.count += 1);
        assert_eq!(scene.look().await.reload_number, number);
        assert!(last.elapsed() >= MIN_SNAPSHOT_INTERVAL);
        last = Instant::now();
    }
    // A reload request during a reading gets its own snapshot.
    scene.nudge.send_modify(|nudges| nudges.count += 1);
    sleep(MIN_SNAPSHOT_INTERVAL + READ_INTERVAL / 2).await;
    scene.nudge.send_modify(|nudges| nudges.count += 1);
    assert_eq!(scene.look().await.reload_number, 4);
    assert_eq!(scene.look().await.reload_number, 5);
    scene.write("a.toml", text(2));
    assert_eq!(scene.look().await.reload_number, 5);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_rescan_sees_what_no_event_told_of() {
    let mut scene = Scene::new([], false).await;
    let key = scene.root.path().join("key");
    let of_key = |digit: &str| fs::write(&key, digit.repeat(64)).unwrap();
    of_key("1");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let inline = text(1).lines().find(|line| line.contains("private_key")).unwrap().to_owned();
    fs::write(scene.path("a.toml"), text(1).replace(&inline, "private_key_file = '../key'"))
        .unwrap();
    let next = async |scene: &mut Scene| {
        timeout(RESCAN_INTERVAL * 2, scene.looks.recv()).await.unwrap().unwrap().files["a"].clone()
    };
    let first = next(&mut scene).await.unwrap();
    of_key("2");
    let second = next(&mut scene).await.unwrap();
    assert_ne!(first.config.wallet, second.config.wallet);
    assert_eq!(first.hash, second.hash);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_file_is_read_when_asked_only() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("one.toml");
    fs::write(&file, text(1)).unwrap();
    let mut scene =
        Scene::over(root, ConfigFiles::One { file: Some(file.clone()), name: None }, true);
    fs::write(&file, text(2)).unwrap();
    assert!(timeout(RESCAN_INTERVAL * 10, scene.looks.recv()).await.is_err());
    scene.nudge.send_modify(|nudges| nudges.count += 1);
    assert_eq!(scene.sizes().await, owned(&[("one", 2)]));
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_listens() {
    let mut scene = Scene::new([("a.toml", 1)], false).await;
    scene.looks.close();
    scene.wake.notify_one();
    scene.tasks.join_next().await.unwrap().unwrap();
}

// ---- real inotify, real time; every wait ends before a rescan could help

#[tokio::test]
async fn inotify_tells_of_an_edit() {
    let mut scene = Scene::new([("a.toml", 1)], true).await;
    fs::write(scene.path("a.toml"), text(2)).unwrap();
    scene.until(&[("a", 2)]).await;
    // Reading is not an event: nothing more arrives.
    assert!(timeout(Duration::from_secs(5), scene.looks.recv()).await.is_err());
    scene.end().await;
}

#[tokio::test]
async fn inotify_tells_of_a_rename_over_a_file() {
    let mut scene = Scene::new([("a.toml", 1)], true).await;
    fs::write(scene.path(".new"), text(2)).unwrap();
    fs::rename(scene.path(".new"), scene.path("a.toml")).unwrap();
    scene.until(&[("a", 2)]).await;
    scene.end().await;
}

#[tokio::test]
async fn inotify_tells_of_a_config_map_swap() {
    let mut scene = Scene::new([], true).await;
    swap_config_map(&scene.path(""), "..2026_1", &[("a.toml", 1), ("b.toml", 1)]);
    scene.until(&[("a", 1), ("b", 1)]).await;
    swap_config_map(&scene.path(""), "..2026_2", &[("a.toml", 2), ("b.toml", 1)]);
    scene.until(&[("a", 2), ("b", 1)]).await;
    scene.end().await;
}

#[tokio::test]
async fn inotify_survives_its_directory() {
    let mut scene = Scene::new([("a.toml", 1)], true).await;
    for size in [2, 3] {
        fs::remove_dir_all(scene.path("")).unwrap();
        while scene.look().await.problem.is_none() {}
        fs::create_dir(scene.path("")).unwrap();
        fs::write(scene.path("a.toml"), text(size)).unwrap();
        scene.until(&[("a", size as usize)]).await;
        // The new directory is watched like the first one.
        fs::write(scene.path("a.toml"), text(size + 10)).unwrap();
        scene.until(&[("a", size as usize + 10)]).await;
    }
    // Gone for too short a time for any reading; the new one may have the old inode.
    fs::remove_dir_all(scene.path("")).unwrap();
    fs::create_dir(scene.path("")).unwrap();
    fs::write(scene.path("a.toml"), text(4)).unwrap();
    scene.until(&[("a", 4)]).await;
    fs::write(scene.path("a.toml"), text(5)).unwrap();
    scene.until(&[("a", 5)]).await;
    scene.end().await;
}
