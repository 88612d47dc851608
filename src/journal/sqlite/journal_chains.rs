//! Which chains the journals of a directory belong to. Two chains with the same id differ in their block 0.
//! Where a journal knows that block, no node alone decides which chain is meant. Reads only: creates, locks
//! and repairs nothing.

use std::{fs, io, path::Path};

use super::{
    columns::{Fixed, Number},
    create::read_identity,
    files, schema, statements as sql, succession,
};
use crate::{
    domain::{Address, B256, BlockRef},
    journal::Identity,
};

/// A chain that a journal belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalChain {
    /// The first digits of the hash of block 0, as in the file's name.
    genesis_prefix: String,
    /// The hash of block 0. `None`: the journal cannot be read.
    pub genesis: Option<B256>,
    /// The blocks that were read: all after the first of these, up to and including the second.
    pub read: Option<(u64, BlockRef)>,
    written_ms: u64,
}

/// What could be read of a journal.
#[derive(Debug, Default)]
struct JournalFacts {
    identity: Option<Identity>,
    keeper: Option<String>,
    read: Option<(u64, BlockRef)>,
}

impl JournalChain {
    /// Returns whether this is the chain with this block 0.
    #[must_use]
    pub fn has_genesis(&self, genesis: B256) -> bool {
        self.genesis_prefix == genesis_prefix(genesis)
    }
}

fn genesis_prefix(genesis: B256) -> String {
    Identity::genesis_prefix(genesis)
}

/// Returns the chains with this id of which the wallet has journals, the one last written first. Journals
/// that were set aside count. If the wallet has none, returns those of the instance named `keeper` (its
/// wallet was changed). Blocking.
pub fn journal_chains(
    dir: &Path,
    chain_id: u64,
    wallet: Address,
    keeper: &str,
) -> io::Result<Vec<JournalChain>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (chain, wallet) = (chain_id.to_string(), format!("{wallet:x}"));
    let (mut own, mut kept) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = files::stem_of_aside(&name).or_else(|| name.strip_suffix(files::ENDING));
        let parts = stem.map(|stem| stem.splitn(3, '-').collect::<Vec<_>>());
        let Some([of_chain, begins, of_wallet]) = parts.as_deref() else { continue };
        if *of_chain != chain || begins.len() != 16 {
            continue;
        }
        let JournalFacts { identity, keeper: name, read } = read_facts(&path).unwrap_or_default();
        let beginning = JournalChain {
            genesis_prefix: (*begins).to_owned(),
            genesis: identity.map(|identity| identity.genesis),
            read,
            written_ms: succession::written_ms(&path).unwrap_or_default(),
        };
        if *of_wallet == wallet {
            own.push(beginning);
        } else if name.as_deref() == Some(keeper) {
            kept.push(beginning);
        }
    }
    let mut found = if own.is_empty() { kept } else { own };
    found.sort_by_key(|beginning| std::cmp::Reverse(beginning.written_ms));
    Ok(found)
}

fn read_facts(path: &Path) -> rusqlite::Result<JournalFacts> {
    let connection = schema::connect_read_only(path, schema::BUSY_TIMEOUT)?;
    let identity = read_identity(&connection)?;
    let keeper = connection.query_row(sql::SELECT_KEEPER, [], |row| row.get(0)).ok();
    let newer = connection.prepare(sql::SELECT_LAST_CURSOR);
    let last_cursor = newer.map_or(sql::SELECT_LAST_CURSOR_V10, |_| sql::SELECT_LAST_CURSOR);
    let read = connection.query_row(last_cursor, [], |row| {
        let (number, hash) = (row.get::<_, Number>(1)?.0, row.get::<_, Fixed<B256>>(2)?.0);
        Ok((row.get::<_, Number>(0)?.0, BlockRef { number, hash }))
    });
    Ok(JournalFacts { identity, keeper, read: read.ok() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal::open_as, machine::Machine};

    #[test]
    fn b1_the_chains_of_a_wallet_are_found_by_its_journals() {
        let dir = tempfile::tempdir().unwrap();
        let (wallet, contract) = (Address::repeat_byte(1), Address::repeat_byte(9));
        let find = |chain_id, wallet, keeper: &str| {
            let found = journal_chains(dir.path(), chain_id, wallet, keeper).unwrap();
            found.into_iter().map(|beginning| beginning.genesis.unwrap()).collect::<Vec<_>>()
        };
        assert!(find(7, wallet, "one").is_empty());
        let make = |chain_id, genesis, wallet, keeper| {
            let identity = Identity { chain_id, genesis: B256::repeat_byte(genesis), wallet };
            drop(
                open_as(&Machine::default(), dir.path(), identity, contract, keeper, None).unwrap(),
            );
        };
        make(7, 2, wallet, "one");
        make(8, 3, wallet, "one");
        make(7, 4, Address::repeat_byte(5), "other");
        assert_eq!(find(7, wallet, "one"), [B256::repeat_byte(2)]);
        let changed = Address::repeat_byte(6);
        assert_eq!(find(7, changed, "one"), [B256::repeat_byte(2)], "its wallet was changed");
        assert!(find(7, changed, "new").is_empty());
        let known = journal_chains(dir.path(), 7, wallet, "one").unwrap();
        assert!(
            known[0].has_genesis(B256::repeat_byte(2))
                && !known[0].has_genesis(B256::repeat_byte(4))
        );
    }

    /// A pipe in the directory must not be opened: that would wait for a writer for ever.
    #[test]
    fn d8_a_pipe_under_a_journals_name_is_told_and_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (wallet, contract) = (Address::repeat_byte(1), Address::repeat_byte(9));
        let identity = Identity { chain_id: 7, genesis: B256::repeat_byte(2), wallet };
        let path = dir.path().join(format!("{}{}", identity.file_stem(), files::ENDING));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let known = journal_chains(dir.path(), 7, wallet, "one").unwrap();
        assert_eq!(known.len(), 1);
        assert_eq!(known[0].genesis, None);
        let opened = open_as(&Machine::default(), dir.path(), identity, contract, "one", None);
        let error = opened.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("remove it"), "{error}");
    }
}
