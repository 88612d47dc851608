//! Creates a journal's file. The file has its tables and identity before it gets its final name.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    columns::{Fixed, Number},
    files, schema,
};
use crate::{
    domain::{Address, B256},
    journal::{Identity, OpenError, StoreError},
};

/// Creates the journal at `path`, where there is none. It is built under a temporary name until it has its
/// tables, its identity and the rows that `fill` writes, so a crash never leaves an empty journal under the
/// final name.
pub(super) fn create_journal(
    path: &Path,
    identity: Identity,
    fill: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
) -> Result<(), OpenError> {
    let io = |doing| OpenError::io(path, doing);
    let new = files::with_suffix(path, ".new");
    files::remove(&new).map_err(io("removing an unfinished file"))?;
    files::create_new(&new).map_err(io("creating it"))?;
    let filled = || {
        let mut connection = schema::connect_new(&new)?;
        schema::migrate(&mut connection, schema::MIGRATIONS)?;
        claim_identity(&connection, identity)?;
        fill(&mut connection)?;
        // This is the only connection: closing it checkpoints the write-ahead log.
        connection.close().map_err(|(_, cause)| cause)
    };
    filled().map_err(|cause| OpenError::Store {
        path: path.to_owned(),
        doing: "making it",
        cause: StoreError::of(&new, cause),
    })?;
    files::put_in_place(&new, path).map_err(io("putting it in place"))
}

/// Writes the identity into a new file. Returns the identity that the file has.
pub(super) fn claim_identity(
    connection: &Connection,
    identity: Identity,
) -> rusqlite::Result<Identity> {
    if let Some(stored) = read_identity(connection)? {
        return Ok(stored);
    }
    connection.execute(
        "INSERT INTO identity (chain_id, genesis, wallet) VALUES (?1, ?2, ?3)",
        params![Number(identity.chain_id), Fixed(identity.genesis), Fixed(identity.wallet)],
    )?;
    Ok(identity)
}

pub(super) fn read_identity(connection: &Connection) -> rusqlite::Result<Option<Identity>> {
    connection
        .query_row("SELECT chain_id, genesis, wallet FROM identity", [], |row| {
            Ok(Identity {
                chain_id: row.get::<_, Number>(0)?.0,
                genesis: row.get::<_, Fixed<B256>>(1)?.0,
                wallet: row.get::<_, Fixed<Address>>(2)?.0,
            })
        })
        .optional()
}
