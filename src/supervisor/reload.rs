//! Applies what the files say to the slots: the plan grants claims, each slot gets its target, and
//! what cannot be applied is logged once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use tracing::{error, info, warn};

use super::{
    Instances, Supervisor,
    directory::{Look, Unlisted, Wanted},
    plan::{self, Configs, Desired},
    slot::{Slot, Standing},
};
use crate::{
    clock,
    config::{self, Problem, Problems},
};

impl<I: Instances> Supervisor<I> {
    /// Applies one reading of the files.
    pub(super) fn apply(&mut self, look: Look) {
        let Look { files, problem, asked } = look;
        if let Some(problem) = problem {
            let code = problem.code();
            if self.directory_problem.as_ref().map(Unlisted::code) != Some(code) {
                let directory = self.directory.as_deref().unwrap_or(Path::new("."));
                error!(directory = %directory.display(), %problem, code,
                    "reload failed: what runs goes on as it is");
                self.reload.at_ms = clock::unix_millis();
            }
            self.directory_problem = Some(problem);
            self.reread(asked);
            return;
        }
        if self.directory_problem.take().is_some() {
            info!("the configuration directory is readable again");
            self.reload.at_ms = clock::unix_millis();
        }
        let planned =
            plan::plan(&self.current(), &self.desired(&files), &self.running(), &self.keepers);
        for (old, new) in planned.renamed {
            self.rename(&old, new);
        }
        let mut collisions = planned.refused;
        let mut names: BTreeSet<String> = self.slots.keys().cloned().collect();
        for (name, file) in files {
            names.remove(&name);
            let collision = collisions.remove(&name).map(|collision| collision.to_string());
            self.apply_file(&name, file, collision);
        }
        for name in planned.displaced {
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.standing.displace();
            }
        }
        for name in names {
            if let Some(slot) = self.slots.get_mut(&name) {
                if slot.standing.current().is_some() || slot.complaint().is_some() {
                    info!(instance = name, "its file is gone: the instance ends");
                    self.reload.at_ms = clock::unix_millis();
                }
                slot.unwant(None);
            }
        }
        self.reread(asked);
    }

    fn apply_file(
        &mut self,
        name: &str,
        file: Result<Wanted, Problems>,
        collision: Option<String>,
    ) {
        let path = match &file {
            Ok(wanted) => wanted.file.clone(),
            Err(_) => self.directory.as_ref().map(|dir| dir.join(format!("{name}.toml"))),
        };
        let is_new = !self.slots.contains_key(name);
        let is_disabled = self.is_disabled(&file);
        let slot = self.slots.entry(name.to_owned()).or_insert_with(|| {
            self.last_slot += 1;
            Slot::new(name.to_owned(), self.last_slot)
        });
        let news = match (file, collision) {
            _ if is_disabled => {
                let ends = slot.standing.current().is_some();
                let news = ends
                    || is_new
                    || slot.complaint().is_some()
                    || slot.standing.stopped().is_some();
                if ends {
                    info!(instance = name, "enabled = false: the instance ends");
                } else if news {
                    info!(instance = name, "enabled = false: the instance does not run");
                }
                slot.unwant(path);
                news
            }
            (Err(problems), _) => {
                let news = slot.keep(path, problems.to_string());
                if news {
                    log_problems(name, &problems);
                }
                news
            }
            (Ok(_), Some(collision)) => {
                let news = slot.keep(path, collision.clone());
                if news {
                    error!(instance = name, why = collision, "configuration refused");
                }
                news
            }
            (Ok(wanted), None) => {
                let (warnings, enabled) = (wanted.warnings.clone(), wanted.config.enabled);
                let news = slot.want(Arc::new(wanted));
                if news {
                    log_warnings(name, &warnings);
                    if !enabled {
                        warn!(
                            "enabled = false keeps only a supervisor from running this configuration"
                        );
                    }
                }
                news
            }
        };
        if news {
            self.reload.at_ms = clock::unix_millis();
        }
    }

    /// Returns whether the file keeps its instance from running; other problems of the file do not
    /// matter then. Under `start` the named file runs anyway.
    fn is_disabled(&self, file: &Result<Wanted, Problems>) -> bool {
        self.directory.is_some()
            && match file {
                Ok(wanted) => !wanted.config.enabled,
                Err(problems) => problems.are_of_disabled(),
            }
    }

    fn current(&self) -> Configs {
        let configs = self.slots.iter().filter_map(|(name, slot)| {
            slot.standing.current().map(|target| (name.clone(), target.config.clone()))
        });
        configs.collect()
    }

    /// The names under which a run has not ended, desired or not.
    fn running(&self) -> BTreeSet<String> {
        let running = self.slots.iter().filter(|(_, slot)| slot.run().is_some());
        running.map(|(name, _)| name.clone()).collect()
    }

    /// What the files describe; for an invalid file, what runs in its place.
    fn desired(&self, files: &BTreeMap<String, Result<Wanted, Problems>>) -> Desired {
        let mut desired = Desired::default();
        for (name, file) in files {
            let standing = self.slots.get(name).map(|slot| &slot.standing);
            let stopped = standing.and_then(Standing::stopped);
            match file {
                _ if self.is_disabled(file) => {}
                Ok(wanted) => {
                    let had = stopped.map(|config| (name.clone(), config.clone()));
                    desired.stopped.extend(had);
                    desired.files.insert(name.clone(), wanted.config.clone());
                }
                Err(_) => {
                    match standing
                        .and_then(Standing::current)
                        .map(|target| &target.config)
                        .or(stopped)
                    {
                        Some(config) => {
                            desired.kept.insert(name.clone(), config.clone());
                        }
                        None => {
                            desired.broken.insert(name.clone());
                        }
                    }
                }
            }
        }
        desired
    }

    fn rename(&mut self, old: &str, new: String) {
        if let Some(mut slot) = self.slots.remove(old) {
            info!(
                instance = old,
                to = new,
                "no file of its name wants its wallet, and another does: it goes on under that name"
            );
            slot.rename(new.clone());
            for pending in &mut self.pending {
                if pending.were.remove(old) {
                    pending.were.insert(new.clone());
                }
            }
            self.slots.insert(new, slot);
        }
    }
}

fn log_problems(instance: &str, problems: &Problems) {
    for problem in problems.as_slice() {
        let Problem { place, key, found, allowed, advice } = problem;
        error!(instance, %place, key, found, allowed, advice, "configuration problem");
    }
}

fn log_warnings(instance: &str, warnings: &[config::Warning]) {
    for warning in warnings {
        let config::Warning { place, key, message } = warning;
        warn!(instance, %place, key, warning = message, "configuration warning");
    }
}
