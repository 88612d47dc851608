//! Keeps a copy of a journal before its tables change.
//!
//! An older version of this program cannot read newer tables. To go back to it, an operator renames the copy
//! to the journal's name. The copy is then a backup that lacks everything done since, and is treated as one:
//! nonces continue where the chain stands, and a request from before that start is answered only after its
//! own earlier answer was looked for.
//!
//! ```text
//! 31337-9e..-aa...sqlite3               the journal
//! 31337-9e..-aa...sqlite3.version-8     as it was before version 9 of the tables
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use super::{files, store::copy_into};
use crate::journal::OpenError;

/// Separates a journal's name from the version of the tables in its copy.
const COPY: &str = ".version-";
/// The number of copies kept: the new one, and of the others those of the newest versions.
const KEPT: usize = 2;

/// Keeps a copy of the journal at `path`, whose tables have this `version`: one complete file, durable before
/// this returns. Replaces an older copy of the same version.
pub(super) fn keep_copy(
    connection: &Connection,
    path: &Path,
    version: usize,
) -> Result<(), OpenError> {
    const DOING: &str = "copying it before its tables change";
    let io = OpenError::io(path, DOING);
    let copy = files::with_suffix(path, &format!("{COPY}{version}"));
    let new = files::with_suffix(&copy, ".new");
    copy_into(connection, &new, path).map_err(|cause| OpenError::Store {
        path: path.to_owned(),
        doing: DOING,
        cause,
    })?;
    files::put_in_place(&new, &copy).map_err(&io)?;
    tracing::info!(
        path = %path.display(),
        copy = %copy.display(),
        version,
        "the journal's tables change with this version of the program: a copy of the old journal \
         is kept"
    );
    for old in superfluous(path, version).map_err(&io)? {
        files::remove(&old).map_err(&io)?;
    }
    Ok(())
}

/// The copies of the journal at `path` that are not kept beside that of `version`.
fn superfluous(path: &Path, version: usize) -> io::Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned() + COPY;
    let mut others: Vec<(usize, PathBuf)> = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let found = entry.file_name();
        let of = found.to_str().and_then(|found| found.strip_prefix(&name)?.parse().ok());
        if let Some(of) = of.filter(|of| *of != version) {
            others.push((of, entry.path()));
        }
    }
    others.sort_by_key(|(of, _)| std::cmp::Reverse(*of));
    Ok(others.into_iter().skip(KEPT - 1).map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rusqlite::types::Value;
    use world::journal::{VERSION_7, VERSION_8};

    use super::*;
    use crate::{
        domain::{Address, HoldReason, U256},
        journal::{
            Identity, Journal, Query, RequestFilter, RequestRecord, sqlite::schema::MIGRATIONS,
            tests::records,
        },
    };

    /// Journals as the last two versions left them.
    const REAL: [(usize, &str); 2] = [(7, VERSION_7), (8, VERSION_8)];

    fn identity() -> Identity {
        let genesis = "0xa52069a4928e6f864ee82c14c23c66190c975c2a6bc0913702eca0043aedb706";
        let wallet = "0x7e6997f699034edcccd31870e38c96d705db3be2";
        Identity {
            chain_id: 31_337,
            genesis: genesis.parse().unwrap(),
            wallet: wallet.parse().unwrap(),
        }
    }

    fn contract() -> Address {
        "0xe7f1725e7734ce288f8367e1bb143e90bb3f0512".parse().unwrap()
    }

    /// Writes the journal into `dir`, where its program would find it.
    fn lay(dir: &Path, sql: &str) -> PathBuf {
        let path = dir.join(identity().file_stem() + files::ENDING);
        files::create_new(&path).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(sql).unwrap();
        path
    }

    fn rows(path: &Path) -> BTreeMap<String, Vec<Vec<Value>>> {
        let connection = Connection::open(path).unwrap();
        let mut names =
            connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
        let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let read = |table: String| {
            let mut all = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = all.column_count();
            let row = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get(at)).collect();
            let all = all.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap();
            (table, all)
        };
        names.map(|name| read(name.unwrap())).collect()
    }

    fn version(path: &Path) -> usize {
        let connection = Connection::open(path).unwrap();
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0));
        u32::try_into(version.unwrap()).unwrap()
    }

    fn copy_of(path: &Path, version: usize) -> PathBuf {
        files::with_suffix(path, &format!(".version-{version}"))
    }

    /// Checks that the journal still has its contents and can be used, whichever version it comes from.
    async fn is_all_there(dir: &Path) {
        let (journal, writer) = Journal::open(dir, identity(), contract()).unwrap();
        assert_eq!(journal.ask(Query::Cursor).await.unwrap().unwrap().number, 786);
        assert_eq!(journal.ask(Query::HighestNonce).await.unwrap(), Some(1));
        assert_eq!(journal.recently_mined(9).await.unwrap()[0].nonce, 0);
        let held = records(&journal, RequestFilter::Held).await;
        let reason = |one: &RequestRecord| one.progress.held.as_ref().unwrap().hold.reason;
        let held: Vec<_> = held.iter().map(|one| (one.key.id, reason(one))).collect();
        let twins = (U256::from(1) << 248) + U256::from(2);
        let wanted = [(twins, HoldReason::ContractRejected), (twins, HoldReason::StaleAnswer)];
        assert_eq!(held, wanted);
        let unfinished = records(&journal, RequestFilter::Unfinished).await;
        assert_eq!(unfinished.len(), 2);
        for request in unfinished {
            let decoded =
                crate::contracts::abi::decode(request.key.source, &request.event).unwrap();
            assert_eq!(decoded.key, request.key);
            assert_eq!(request.progress.asked_core, None, "nobody noted it");
        }
        drop((journal, writer));
    }

    /// Field failure T49.
    #[tokio::test]
    async fn journals_of_the_last_two_versions_go_on_and_are_kept_as_they_were() {
        for (of, sql) in REAL {
            let dir = tempfile::tempdir().unwrap();
            let path = lay(dir.path(), sql);
            let before = rows(&path);
            assert_eq!(before["requests"].len(), 3);
            for _ in 0..2 {
                is_all_there(dir.path()).await;
                assert_eq!(version(&path), MIGRATIONS.len());
            }
            let copy = copy_of(&path, of);
            if of == MIGRATIONS.len() {
                assert!(!copy.exists(), "nothing changed");
                continue;
            }
            assert_eq!(version(&copy), of);
            assert_eq!(rows(&copy), before);
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(&copy).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);

            // Back to the copy, then forward again.
            fs::rename(&copy, &path).unwrap();
            assert_eq!(rows(&path), before);
            is_all_there(dir.path()).await;
            assert_eq!(rows(&copy), before);
        }
    }

    #[test]
    fn a_few_copies_stay_and_each_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = lay(dir.path(), REAL[0].1);
        let connection = Connection::open(&path).unwrap();
        let copies =
            || -> Vec<usize> { (0..20).filter(|of| copy_of(&path, *of).exists()).collect() };
        for (of, stay) in
            [(6, vec![6]), (7, vec![6, 7]), (9, vec![7, 9]), (9, vec![7, 9]), (6, vec![6, 9])]
        {
            // An interrupted copy does not count.
            fs::write(files::with_suffix(&copy_of(&path, of), ".new"), "half").unwrap();
            keep_copy(&connection, &path, of).unwrap();
            assert_eq!(copies(), stay);
            assert_eq!(rows(&copy_of(&path, of)), rows(&path));
        }
        let left = fs::read_dir(dir.path()).unwrap();
        let left = left.filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".new")
        });
        assert_eq!(left.count(), 0);
    }

    /// No table changes without a copy.
    #[test]
    fn a_journal_that_cannot_be_copied_stays_as_it_is_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (of, sql) = REAL[0];
        let path = lay(dir.path(), sql);
        // A directory cannot be replaced by a file.
        fs::create_dir(copy_of(&path, of)).unwrap();
        let error = Journal::open(dir.path(), identity(), contract()).unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("before its tables"), "{error}");
        assert_eq!(version(&path), of);
        fs::remove_dir(copy_of(&path, of)).unwrap();
        drop(Journal::open(dir.path(), identity(), contract()).unwrap());
        assert_eq!(version(&path), MIGRATIONS.len());
    }
}
