//! Random changes of the directory. A model that does not know plans and lifecycles judges the result.
//! After a quiet period each valid file's content runs, or waits for an instance with an invalid file
//! that has its wallet; an invalid file's last valid content runs; an untouched instance was not
//! disturbed.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// Writes the file in place.
    Write {
        file: usize,
        version: u64,
    },
    /// Writes another file and renames it over this one.
    Replace {
        file: usize,
        version: u64,
    },
    /// Removes the file and creates it a moment later.
    Recreate {
        file: usize,
        version: u64,
    },
    /// Writes half of it, pauses, writes the rest.
    WriteSlowly {
        file: usize,
        version: u64,
    },
    Break {
        file: usize,
    },
    /// Writes the same bytes again.
    Touch {
        file: usize,
    },
    Remove {
        file: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    /// The whole directory is gone for a while.
    Vanish,
    /// Pauses until everything has settled.
    Rest,
}

const FILES: usize = 5;

fn op() -> impl Strategy<Value = Op> {
    let file = 0..FILES;
    let edit = || (0..FILES, prop_oneof![6 => 1u64..50, 1 => Just(DRAINS_LONG)]);
    prop_oneof![
        4 => edit().prop_map(|(file, version)| Op::Write { file, version }),
        3 => edit().prop_map(|(file, version)| Op::Replace { file, version }),
        2 => edit().prop_map(|(file, version)| Op::Recreate { file, version }),
        2 => edit().prop_map(|(file, version)| Op::WriteSlowly { file, version }),
        2 => file.clone().prop_map(|file| Op::Break { file }),
        1 => file.clone().prop_map(|file| Op::Touch { file }),
        2 => file.clone().prop_map(|file| Op::Remove { file }),
        2 => (file.clone(), file).prop_map(|(from, to)| Op::Rename { from, to }),
        1 => Just(Op::Vanish),
        3 => Just(Op::Rest),
    ]
}

/// A file in the model: its wallet, and its version if it is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileModel {
    wallet: usize,
    version: Option<u64>,
}

/// The files, and what may run for them.
#[derive(Debug, Default)]
struct Model {
    /// Wallets handed out so far; never reused.
    wallets: usize,
    files: BTreeMap<usize, FileModel>,
    /// The versions each file may have been read with, at the last rest and since.
    seen: BTreeMap<usize, BTreeSet<u64>>,
    /// Files changed since the last rest.
    touched: BTreeSet<usize>,
    /// Files present all the time since the last rest whose instance ran then.
    kept: BTreeSet<usize>,
    rested: BTreeMap<usize, (RunningInstance, InstanceStatus)>,
}

fn name(file: usize) -> String {
    format!("config-{file}")
}

impl Model {
    /// The text of a file with this version, or an invalid text.
    fn write(&mut self, file: usize, version: Option<u64>) -> String {
        let known = self.files.get(&file).map(|paper| paper.wallet);
        let wallet = known.unwrap_or_else(|| {
            self.wallets += 1;
            self.wallets
        });
        let paper = FileModel { wallet, version };
        if self.files.insert(file, paper.clone()) != Some(paper) {
            self.touched.insert(file);
        }
        self.seen.entry(file).or_default().extend(version);
        version.map_or_else(|| "gateway_url = ".to_owned(), |version| content(wallet, version))
    }

    fn remove(&mut self, file: usize) {
        self.files.remove(&file);
        self.touched.insert(file);
        self.kept.remove(&file);
    }

    fn rename(&mut self, from: usize, to: usize) {
        let Some(paper) = self.files.get(&from).cloned() else { return };
        let mut seen = self.seen.get(&from).cloned().unwrap_or_default();
        seen.extend(self.seen.get(&to).into_iter().flatten());
        self.remove(from);
        self.files.insert(to, paper);
        self.seen.insert(to, seen);
        self.touched.insert(to);
        // Its wallet changes, and its old one may appear under another name.
        self.kept.remove(&to);
    }

    /// Compares what runs with what the files say.
    fn rest(&mut self, playing: &BTreeMap<String, RunningInstance>, status: &Status) {
        let mut left = playing.clone();
        let instance = |file| status.instances.iter().find(|one| one.name == name(file));
        let mut rested = BTreeMap::new();
        for (&file, paper) in &self.files {
            let plays = left.remove(&name(file));
            match (&plays, paper.version) {
                (None, Some(_)) if waits_for_bad(&name(file), status) => {}
                (Some(plays), Some(version)) if !waits_for_bad(&name(file), status) => {
                    assert_eq!(plays.version, version, "{status:?}");
                }
                (None, Some(_)) => panic!("{} does not run: {status:?}", name(file)),
                (Some(plays), None | Some(_)) => {
                    let seen = &self.seen[&file];
                    assert!(seen.contains(&plays.version), "{plays:?} was never {seen:?}");
                }
                (None, None) => {
                    assert!(!self.kept.contains(&file), "{} was ended: {status:?}", name(file));
                }
            }
            let now = instance(file).expect("every file has its line").clone();
            let is_amiss = paper.version.is_none() || waits_for_bad(&name(file), status);
            assert_eq!(now.reload_failed.is_some(), is_amiss, "{now:?}");
            let Some(plays) = plays else { continue };
            if let Some((before, was)) = self.rested.get(&file)
                && !self.touched.contains(&file)
            {
                assert_eq!(&plays, before, "it was disturbed");
                assert_eq!((now.generation, now.since_ms), (was.generation, was.since_ms));
            }
            rested.insert(file, (plays, now));
        }
        assert!(left.is_empty(), "{left:?} run without a file");
        assert!(status.instances.len() == self.files.len(), "{status:?}");
        self.seen =
            rested.iter().map(|(file, (plays, _))| (*file, [plays.version].into())).collect();
        for (file, paper) in &self.files {
            self.seen.entry(*file).or_default().extend(paper.version);
        }
        self.kept = rested.keys().copied().collect();
        self.touched.clear();
        self.rested = rested;
    }
}

/// Returns whether the instance waits for a wallet because an instance with an invalid file has it.
fn waits_for_bad(name: &str, status: &Status) -> bool {
    let why_not = |name: &str| {
        let found = status.instances.iter().find(|one| one.name == name);
        found.and_then(|one| one.reload_failed.as_deref())
    };
    let holder = why_not(name).and_then(|why| why.split_once("that of instance "));
    let holder = holder.and_then(|(_, rest)| rest.split(':').next());
    holder.is_some_and(|holder| why_not(holder).is_some())
}

/// The directory, written like an editor or like a Kubernetes volume.
struct ConfigDir {
    dir: PathBuf,
    wake: Arc<Notify>,
    /// Files are links into `..data`, which is itself a link and swapped as a whole.
    config_map: bool,
    swaps: u64,
}

impl ConfigDir {
    fn file(file: usize) -> String {
        format!("{}.toml", name(file))
    }

    /// Changes the files, and possibly wakes the watcher.
    fn change(&mut self, wakes: bool, change: impl FnOnce(&Path)) {
        if self.config_map {
            self.swap(change);
        } else {
            change(&self.dir);
        }
        if wakes {
            self.wake.notify_one();
        }
    }

    fn swap(&mut self, change: impl FnOnce(&Path)) {
        let old = self.dir.join(format!("..{}", self.swaps));
        self.swaps += 1;
        let target = format!("..{}", self.swaps);
        let new = self.dir.join(&target);
        fs::create_dir(&new).unwrap();
        if old.exists() {
            for entry in fs::read_dir(&old).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), new.join(entry.file_name())).unwrap();
            }
        }
        change(&new);
        symlink(&target, self.dir.join("..swap")).unwrap();
        fs::rename(self.dir.join("..swap"), self.dir.join("..data")).unwrap();
        for file in (0..FILES).map(Self::file) {
            let link = self.dir.join(&file);
            let is_linked = fs::symlink_metadata(&link).is_ok();
            match (new.join(&file).exists(), is_linked) {
                (true, false) => symlink(format!("..data/{file}"), &link).unwrap(),
                (false, true) => fs::remove_file(&link).unwrap(),
                (true, true) | (false, false) => {}
            }
        }
        let _first_time = fs::remove_dir_all(&old);
    }

    async fn carry_out(&mut self, op: Op, wakes: bool, model: &mut Model) {
        let moment = Duration::from_millis(fastrand::u64(10..400));
        match op {
            Op::Write { file, version } => {
                let text = model.write(file, Some(version));
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::Replace { file, version } => {
                let text = model.write(file, Some(version));
                self.change(wakes, |dir| {
                    fs::write(dir.join(".draft"), text).unwrap();
                    fs::rename(dir.join(".draft"), dir.join(Self::file(file))).unwrap();
                });
            }
            Op::Recreate { file, version } => {
                let text = model.write(file, Some(version));
                if !self.config_map {
                    let _new = fs::remove_file(self.dir.join(Self::file(file)));
                    self.wake.notify_one();
                    sleep(moment).await;
                }
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::WriteSlowly { file, version } => {
                let text = model.write(file, Some(version));
                if !self.config_map {
                    let half = &text[..text.len() / 2];
                    fs::write(self.dir.join(Self::file(file)), half).unwrap();
                    self.wake.notify_one();
                    sleep(moment).await;
                }
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::Break { file } => {
                let text = model.write(file, None);
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::Touch { file } => {
                let Some(version) = model.files.get(&file).map(|paper| paper.version) else {
                    return;
                };
                let text = model.write(file, version);
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::Remove { file } => {
                model.remove(file);
                self.change(wakes, |dir| {
                    let _none = fs::remove_file(dir.join(Self::file(file)));
                });
            }
            Op::Rename { from, to } => {
                if from != to && model.files.contains_key(&from) {
                    model.rename(from, to);
                    self.change(wakes, |dir| {
                        fs::rename(dir.join(Self::file(from)), dir.join(Self::file(to))).unwrap();
                    });
                }
            }
            Op::Vanish => {
                let away = self.dir.with_extension("away");
                fs::rename(&self.dir, &away).unwrap();
                self.wake.notify_one();
                sleep(Duration::from_secs(fastrand::u64(1..50))).await;
                fs::rename(&away, &self.dir).unwrap();
                self.change(wakes, |_| {});
            }
            Op::Rest => {}
        }
    }
}

async fn whatever_is_done(config_map: bool, ops: Vec<(Op, u64, bool)>) {
    let rig = Harness::new();
    let mut desk = ConfigDir { dir: rig.dir.clone(), wake: rig.wake.clone(), config_map, swaps: 0 };
    let mut model = Model::default();
    for (op, pause, wakes) in ops {
        let rests = matches!(op, Op::Rest);
        desk.carry_out(op, wakes, &mut model).await;
        sleep(Duration::from_millis(pause)).await;
        if rests {
            quiet().await;
            model.rest(&rig.stage.playing(), &rig.status().await);
        }
    }
    quiet().await;
    model.rest(&rig.stage.playing(), &rig.status().await);
    rig.stage.check();
    rig.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_runs_is_what_the_files_say(
        config_map in any::<bool>(),
        ops in prop::collection::vec((op(), 0u64..3000, prop::bool::weighted(0.8)), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(whatever_is_done(config_map, ops));
    }
}
