//! What two readings agree on.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
};

use super::{
    instance_stem,
    read::{FileContent, FileListing, Unlisted},
};
use crate::config;

/// The accepted content of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettledFiles {
    /// The content that two readings agreed on, by file name.
    pub(super) contents: BTreeMap<OsString, FileContent>,
    /// Among files whose names map to the same environment variables, the one that has them.
    pub(super) form_owners: BTreeSet<OsString>,
}

/// The result of two consecutive readings.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub settled: SettledFiles,
    /// The readings differ somewhere: a third one is needed.
    pub is_unsettled: bool,
    /// A listing failed, so nothing was settled.
    pub problem: Option<Unlisted>,
}

/// Accepts what both readings agree on, and keeps the earlier content where they differ.
#[must_use]
pub fn settle(before: &SettledFiles, first: &FileListing, second: &FileListing) -> Settlement {
    let (first, second) = match (first, second) {
        (Ok(first), Ok(second)) => (first, second),
        (first, second) => {
            let problem = second.as_ref().err().or(first.as_ref().err()).cloned();
            let again = first.is_ok() != second.is_ok();
            return Settlement { settled: before.clone(), is_unsettled: again, problem };
        }
    };
    let mut settled = BTreeMap::new();
    let mut again = false;
    let names = [first, second, &before.contents].into_iter().flat_map(BTreeMap::keys);
    for name in names {
        let (one, other) = (first.get(name), second.get(name));
        let agreed = one == other;
        again |= !agreed;
        // A file that both readings lack is agreed on, too: it is removed.
        let believed = if agreed { other } else { before.contents.get(name) };
        if let Some(content) = believed {
            settled.insert(name.clone(), content.clone());
        }
    }
    let settled = SettledFiles::new(settled, |file| before.form_owners.contains(file));
    Settlement { settled, is_unsettled: again, problem: None }
}

impl SettledFiles {
    pub(super) fn new(
        contents: BTreeMap<OsString, FileContent>,
        had: impl Fn(&OsStr) -> bool,
    ) -> Self {
        let (mut forms, mut form_owners) = (BTreeSet::new(), BTreeSet::new());
        let (first, then): (Vec<_>, Vec<_>) = contents.keys().partition(|file| had(file));
        for file in first.into_iter().chain(then) {
            if let Ok(stem) = instance_stem(file)
                && forms.insert(config::variable_form(stem))
            {
                form_owners.insert(file.clone());
            }
        }
        Self { contents, form_owners }
    }
}
