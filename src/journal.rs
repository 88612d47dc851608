//! The durable store of one instance: requests with their stages, the cursor, and every signed
//! transaction. It implements the ports of the flow and of the lane.
//!
//! There is one `SQLite` file per (chain id, genesis, wallet), so that a renamed config keeps its
//! history and a reset test chain is not taken for the old one. Requests and cursors inside are keyed
//! by the Decryption contract, transactions by nonce, so that two contracts share one lane. A lock file
//! beside it ensures that one process writes; an operator's `sqlite3` may read.
//!
//! Guarantees:
//!
//! - `store_batch`, `record_signed`, `reopen`, `open_again`, `prune` and `flush` are on disk (fsync) when
//!   they return `Ok`;
//! - `note`, `record_mined` and `record_given_up` are on disk within about 20 ms or with the next of the
//!   above; losing them costs a repeated call, never an outcome;
//! - commands of one caller take effect in the order it made them, and a crash keeps a prefix of that order;
//! - reads see what is on disk: what a restart would see. A note is visible after its commit
//!   ([`Journal::flush`] waits for it).
//!
//! The storage itself is behind a port ([`store`]). [`Journal`] is a cheap handle; [`Writer`] is the
//! one task that writes; [`IdleStore`] is what the writer leaves when it ends: the open store, for the
//! next writer. Calls on a handle have no effect before the writer runs. All futures here may be
//! dropped: a durable command whose future was dropped may or may not be stored, and repeating it
//! changes nothing.
//!
//! Reads run beside a commit, one at a time.
//!
//! Only the functions that take a directory ([`open_as`] and those below it in the list of `sqlite`) know which
//! implementation stores it: handle, writer and ports do not.

mod handle;
mod commands;
mod condition;
mod errors;
mod identity;
mod ledgers;
mod queries;
mod progress;
mod records;
mod request_page;
mod sqlite;
mod store;
mod writer;
#[cfg(test)]
mod tests;

pub use self::{
    condition::{Condition, Damage},
    errors::{JournalError, OpenError, OpenWarning, StoreError, StoreFault},
    handle::Journal,
    identity::Identity,
    progress::{Progress, StageName, StoredHold},
    queries::Queries,
    records::{
        Approval, Counts, FailingRequest, JournaledTransaction, Pruned, RequestRecord, Space,
        Statistics,
    },
    request_page::{Position, RequestFilter, RequestPage, RequestSummary},
    sqlite::{
        file_system::{FileSystem, USE_LOCAL_DISK},
        inspect::{Holder, Inspection, JournalContents, inspect},
        journal_chains::{JournalChain, journal_chains},
        keepers::{Keeper, keepers},
        open::set_aside,
        read_only::{FindError, ReadOnly},
        rebuild::{ReadContracts, RebuildKind, Rebuilt, rebuild},
        succession::{EarlierJournal, OpenedJournal, Predecessor, open_as},
    },
    store::Query,
    writer::{IdleStore, Writer},
};
