//! Applies a snapshot of the files to the managed instances: the plan grants claims, each instance gets
//! its target, and what cannot be applied is logged once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use tracing::{error, info, warn};

use super::{
    InstanceRunner, Supervisor,
    claims::{self, Collision, Configs, Desired},
    managed::{Lifecycle, ManagedInstance},
};
use crate::supervisor::config_dir::snapshot::{ConfigSnapshot, DesiredInstance, Unlisted};
use crate::{
    config::{self, Problem, Problems},
    telemetry::errors::UNAPPLIED,
    time::clock,
};

impl<I: InstanceRunner> Supervisor<I> {
    /// Applies one reading of the files.
    pub(super) fn apply(&mut self, look: ConfigSnapshot) {
        let ConfigSnapshot { files, problem, reload_number: asked } = look;
        if let Some(problem) = problem {
            let code = problem.code();
            if self.directory_problem.as_ref().map(Unlisted::code) != Some(code) {
                let directory = self.directory.as_deref().unwrap_or(Path::new("."));
                error!(directory = %directory.display(), %problem, code,
                    "reload failed: running instances continue unchanged");
                self.reload.at_ms = clock::unix_millis();
            }
            self.directory_problem = Some(problem);
            self.reload_applied(asked);
            return;
        }
        if self.directory_problem.take().is_some() {
            info!("the configuration directory is readable again");
            self.reload.at_ms = clock::unix_millis();
        }
        let planned = claims::plan(
            &self.current_configs(),
            &self.desired_configs(&files),
            &self.running_names(),
            &self.keepers,
        );
        self.warn_about_shared_cores(planned.shared_cores);
        for (old, new) in planned.renamed {
            self.rename(&old, new);
        }
        let mut collisions = planned.refused;
        let mut names: BTreeSet<String> = self.managed.keys().cloned().collect();
        for (name, file) in files {
            names.remove(&name);
            let collision = collisions.remove(&name).map(|collision| collision.to_string());
            self.apply_file(&name, file, collision);
        }
        for name in planned.displaced {
            if let Some(slot) = self.managed.get_mut(&name) {
                slot.lifecycle.displace();
            }
        }
        for name in names {
            if let Some(slot) = self.managed.get_mut(&name) {
                if slot.lifecycle.current().is_some() || slot.problem().is_some() {
                    info!(instance = name, "its file was removed: the instance ends");
                    self.reload.at_ms = clock::unix_millis();
                }
                slot.clear_target(None);
            }
        }
        self.reload_applied(asked);
    }

    fn apply_file(
        &mut self,
        name: &str,
        file: Result<DesiredInstance, Problems>,
        collision: Option<String>,
    ) {
        let path = match &file {
            Ok(wanted) => wanted.file.clone(),
            Err(_) => self.directory.as_ref().map(|dir| dir.join(format!("{name}.toml"))),
        };
        let is_new = !self.managed.contains_key(name);
        let is_disabled = self.is_disabled(&file);
        let slot = self.managed.entry(name.to_owned()).or_insert_with(|| {
            self.last_number += 1;
            ManagedInstance::new(name.to_owned(), self.last_number)
        });
        let news = match (file, collision) {
            _ if is_disabled => {
                let ends = slot.lifecycle.current().is_some();
                let news = ends
                    || is_new
                    || slot.problem().is_some()
                    || slot.lifecycle.stopped_config().is_some();
                if ends {
                    info!(instance = name, "enabled = false: the instance ends");
                } else if news {
                    info!(instance = name, "enabled = false: the instance does not run");
                }
                slot.clear_target(path);
                news
            }
            (Err(problems), _) => {
                let news = slot.reject_file(path, problems.to_string());
                if news {
                    log_problems(name, &problems);
                }
                news
            }
            (Ok(_), Some(collision)) => {
                let news = slot.reject_file(path, collision.clone());
                if news {
                    error!(
                        target: UNAPPLIED, instance = name, why = collision, "configuration refused"
                    );
                }
                news
            }
            (Ok(wanted), None) => {
                let (warnings, enabled) = (wanted.warnings.clone(), wanted.config.enabled);
                let news = slot.set_target(Arc::new(wanted));
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

    /// Logs each once.
    fn warn_about_shared_cores(&mut self, shared: BTreeMap<String, Collision>) {
        for (instance, collision) in &shared {
            if self.shared_cores.get(instance) != Some(collision) {
                let Collision { why, remedy, .. } = collision;
                warn!(instance, why, remedy, "two instances share a KMS Core");
            }
        }
        self.shared_cores = shared;
    }

    /// Returns whether the file keeps its instance from running; other problems of the file do not
    /// matter then. Under `start` the named file runs anyway.
    fn is_disabled(&self, file: &Result<DesiredInstance, Problems>) -> bool {
        self.directory.is_some()
            && match file {
                Ok(wanted) => !wanted.config.enabled,
                Err(problems) => problems.is_disabled(),
            }
    }

    fn current_configs(&self) -> Configs {
        let configs = self.managed.iter().filter_map(|(name, slot)| {
            slot.lifecycle.current().map(|target| (name.clone(), target.config.clone()))
        });
        configs.collect()
    }

    /// The names under which a run has not ended, desired or not.
    fn running_names(&self) -> BTreeSet<String> {
        let running = self.managed.iter().filter(|(_, slot)| slot.run().is_some());
        running.map(|(name, _)| name.clone()).collect()
    }

    /// What the files describe; for an invalid file, what runs in its place.
    fn desired_configs(
        &self,
        files: &BTreeMap<String, Result<DesiredInstance, Problems>>,
    ) -> Desired {
        let mut desired = Desired::default();
        for (name, file) in files {
            let standing = self.managed.get(name).map(|slot| &slot.lifecycle);
            let stopped = standing.and_then(Lifecycle::stopped_config);
            match file {
                _ if self.is_disabled(file) => {}
                Ok(wanted) => {
                    let had = stopped.map(|config| (name.clone(), config.clone()));
                    desired.stopped.extend(had);
                    desired.files.insert(name.clone(), wanted.config.clone());
                }
                Err(_) => {
                    match standing
                        .and_then(Lifecycle::current)
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
        if let Some(mut slot) = self.managed.remove(old) {
            info!(
                instance = old,
                to = new,
                "its file was renamed, or another file has its wallet now: it continues under that \
                 name"
            );
            slot.rename(new.clone());
            for pending in &mut self.pending {
                if pending.known_names.remove(old) {
                    pending.known_names.insert(new.clone());
                }
            }
            self.managed.insert(new, slot);
        }
    }
}

fn log_problems(instance: &str, problems: &Problems) {
    for problem in problems.as_slice() {
        let Problem { place, key, found, allowed, .. } = problem;
        let advice = problem.advice();
        error!(
            target: UNAPPLIED, instance, %place, key, found, allowed, advice, "configuration problem"
        );
    }
}

fn log_warnings(instance: &str, warnings: &[config::Warning]) {
    for warning in warnings {
        let config::Warning { place, key, message } = warning;
        warn!(instance, %place, key, warning = message, "configuration warning");
    }
}
