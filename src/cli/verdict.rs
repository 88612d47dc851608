//! The one judgement about the files of a configuration directory: what a supervisor that starts now
//! would make of each. `validate`, `check` and `list` show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use super::paths;
use crate::{
    config::{Environment, Problems},
    journal::Keeper,
    supervisor::{
        claims::{Collision, Configs, Desired, Plan, plan},
        config_dir::snapshot::{self, ConfigFiles, ConfigSnapshot, DesiredInstance, SettledFiles},
    },
};

/// What a supervisor makes of one file.
#[derive(Debug)]
pub(super) enum Verdict<'a> {
    /// It runs.
    Ok,
    /// `enabled = false`, and in order.
    Disabled,
    /// `enabled = false`: its problems do not matter.
    DisabledAndBad(&'a Problems),
    Bad(&'a Problems),
    /// It is in order, and another instance has its wallet or Core.
    Conflict(&'a Collision),
}

impl<'a> Verdict<'a> {
    pub(super) fn of(
        file: &'a Result<DesiredInstance, Problems>,
        conflict: Option<&'a Collision>,
    ) -> Self {
        match (file, conflict) {
            (Err(problems), _) if problems.is_disabled() => Self::DisabledAndBad(problems),
            (Err(problems), _) => Self::Bad(problems),
            (Ok(_), Some(conflict)) => Self::Conflict(conflict),
            (Ok(wanted), None) if !wanted.config.enabled => Self::Disabled,
            (Ok(_), None) => Self::Ok,
        }
    }

    /// Returns whether an operator has to act before the file runs.
    pub(super) fn is_bad(&self) -> bool {
        match self {
            Self::Bad(_) | Self::Conflict(_) => true,
            Self::Ok | Self::Disabled | Self::DisabledAndBad(_) => false,
        }
    }

    /// The verdict in one word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Disabled | Self::DisabledAndBad(_) => "disabled",
            Self::Bad(_) => "bad",
            Self::Conflict(_) => "conflict",
        }
    }
}

/// The verdict with its reason.
impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Disabled => f.write_str("ok (disabled)"),
            Self::DisabledAndBad(problems) => write!(f, "disabled ({})", count(problems)),
            Self::Bad(problems) => f.write_str(&count(problems)),
            Self::Conflict(collision) => write!(f, "conflict: {collision}"),
        }
    }
}

/// For example `2 problems`.
pub(super) fn count(problems: &Problems) -> String {
    match problems.as_slice().len() {
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    }
}

/// All files of a directory, as a supervisor that starts now would read them.
pub(super) struct ConfigDirCheck {
    pub(super) snapshot: ConfigSnapshot,
    pub(super) settled: SettledFiles,
    /// Instances that would be refused because of another one, and why.
    pub(super) conflicts: BTreeMap<String, Collision>,
    /// Instances that run, and whose KMS Core another one has too.
    pub(super) shared_cores: BTreeMap<String, Collision>,
}

impl ConfigDirCheck {
    /// Reads the files. An instance that had a name or a wallet before keeps it, according to the
    /// journals. Blocks.
    pub(super) fn load(config_dir: &Path, environment: &Environment, state_dir: &Path) -> Self {
        let files = ConfigFiles::Directory(config_dir.to_owned());
        let keepers = paths::read_keepers(state_dir);
        let (snapshot, settled) = snapshot::first_snapshot(&files, environment, &keepers);
        let Plan { refused, shared_cores, .. } = plan_start(&snapshot, &keepers);
        Self { snapshot, settled, conflicts: refused, shared_cores }
    }
}

/// The plan of a supervisor that starts now.
fn plan_start(snapshot: &ConfigSnapshot, keepers: &[Keeper]) -> Plan {
    let in_order =
        snapshot.files.iter().filter_map(|(name, file)| Some((name, file.as_ref().ok()?)));
    let enabled = in_order.filter(|(_, wanted)| wanted.config.enabled);
    let files = enabled.map(|(name, wanted)| (name.clone(), wanted.config.clone())).collect();
    let is_bad = |file: &Result<DesiredInstance, Problems>| {
        file.as_ref().is_err_and(|problems| !problems.is_disabled())
    };
    let bad = snapshot.files.iter().filter(|(_, file)| is_bad(file));
    let broken = bad.map(|(name, _)| name.clone()).collect();
    let desired = Desired { files, broken, ..Desired::default() };
    plan(&Configs::new(), &desired, &BTreeSet::new(), keepers)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn d3_who_kept_the_wallets_journal_is_not_the_one_to_be_refused() {
        let (configs, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = "gateway_url = \"ws://127.0.0.1:8545\"\nkms_core_endpoint = \"http://127.0.0.1:1\"\n\
             chain_id = 4242\ndecryption_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa3\"\n\
             gateway_config_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa4\"\n\
             private_key = \"4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318\"\n";
        for name in ["0b.toml", "b.toml"] {
            fs::write(configs.path().join(name), text).unwrap();
        }
        let refused = || {
            let look = ConfigDirCheck::load(configs.path(), &Environment::default(), state.path());
            look.conflicts.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(refused(), ["b"]);
        let wallet = "0x2c7536e3605d9c16a7a3d7b1898e529396a65c23";
        let lock = state.path().join(format!("4242-{}-{wallet}.lock", "0".repeat(16)));
        fs::write(lock, "4711\nb\n").unwrap();
        assert_eq!(refused(), ["0b"]);
        fs::write(configs.path().join("b.toml"), "a slip").unwrap();
        assert_eq!(refused(), ["0b"]);
    }
}
