//! What two readings agree on.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
};

use super::{
    read::{Content, Listing, Unlisted},
    stem,
};
use crate::config;

/// The accepted content of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The content that two readings agreed on, by file name.
    pub(super) contents: BTreeMap<OsString, Content>,
    /// Among files whose names map to the same environment variables, the one that has them.
    pub(super) holders: BTreeSet<OsString>,
}

/// The result of two consecutive readings.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub settled: Settled,
    /// The readings differ somewhere: a third one is needed.
    pub again: bool,
    /// A listing failed, so nothing was settled.
    pub problem: Option<Unlisted>,
}

/// Accepts what both readings agree on, and keeps the earlier content where they differ.
#[must_use]
pub fn settle(before: &Settled, first: &Listing, second: &Listing) -> Settlement {
    let (first, second) = match (first, second) {
        (Ok(first), Ok(second)) => (first, second),
        (first, second) => {
            let problem = second.as_ref().err().or(first.as_ref().err()).cloned();
            let again = first.is_ok() != second.is_ok();
            return Settlement { settled: before.clone(), again, problem };
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
    let settled = Settled::new(settled, |file| before.holders.contains(file));
    Settlement { settled, again, problem: None }
}

impl Settled {
    pub(super) fn new(contents: BTreeMap<OsString, Content>, had: impl Fn(&OsStr) -> bool) -> Self {
        let (mut forms, mut holders) = (BTreeSet::new(), BTreeSet::new());
        let (first, then): (Vec<_>, Vec<_>) = contents.keys().partition(|file| had(file));
        for file in first.into_iter().chain(then) {
            if let Ok(stem) = stem(file)
                && forms.insert(config::variable_form(stem))
            {
                holders.insert(file.clone());
            }
        }
        Self { contents, holders }
    }
}
