//! Which instances keep the journals of a directory, according to the notes in their lock files: who had a
//! name, or a wallet, before a restart. Creates, locks and opens nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::lock::LockNote;
use crate::domain::Address;

/// An instance that keeps a journal, or kept it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    pub name: String,
    pub chain_id: u64,
    pub wallet: Address,
}

/// Returns the keepers in a directory and its direct subdirectories. A directory that cannot be read counts
/// as empty. Blocking.
#[must_use]
pub fn keepers(dir: &Path) -> Vec<Keeper> {
    let paths = paths(dir);
    let below = paths.iter().filter(|path| path.is_dir()).flat_map(|below| self::paths(below));
    let below: Vec<PathBuf> = below.collect();
    paths.iter().chain(&below).filter_map(|path| keeper_by(path)).collect()
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn keeper_by(lock: &Path) -> Option<Keeper> {
    let stem = lock.file_name()?.to_str()?.strip_suffix(".lock")?;
    let mut parts = stem.splitn(3, '-');
    let (chain, _genesis, wallet) = (parts.next()?, parts.next()?, parts.next()?);
    let (chain_id, wallet) = (chain.parse().ok()?, wallet.parse().ok()?);
    Some(Keeper { name: LockNote::at(lock).ok()?.keeper?, chain_id, wallet })
}

/// The instance that kept the journal at `path` last, if its lock file names one.
pub(super) fn keeper_of(path: &Path) -> Option<String> {
    LockNote::at(&path.with_extension("lock")).ok()?.keeper
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::B256,
        journal::{Identity, open_as},
        machine::Machine,
    };

    #[test]
    fn d3_who_kept_a_journal_is_known_without_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(keepers(&dir.path().join("missing")).is_empty());
        let wallet = Address::repeat_byte(7);
        let identity = Identity { chain_id: 31_337, genesis: B256::repeat_byte(1), wallet };
        drop(
            open_as(&Machine::default(), dir.path(), identity, Address::ZERO, "node 1", None)
                .unwrap(),
        );
        fs::write(dir.path().join("9-x-y.lock"), "1\nsomebody\n").unwrap();
        let keeper = Keeper { name: "node 1".to_owned(), chain_id: 31_337, wallet };
        assert_eq!(keepers(dir.path()), std::slice::from_ref(&keeper));
        // An instance that only observes keeps its journal in a directory of its own.
        let below = dir.path().join("observe-node_2");
        fs::create_dir(&below).unwrap();
        drop(
            open_as(&Machine::default(), &below, identity, Address::ZERO, "node 2", None).unwrap(),
        );
        let other = Keeper { name: "node 2".to_owned(), ..keeper.clone() };
        assert_eq!(keepers(dir.path()), [keeper, other]);
    }
}
