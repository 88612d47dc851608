//! Journals in `SQLite` files: the only place that knows SQL and the file layout. Implements the port
//! [`super::store`].

mod aside;
mod contents;
mod create;
pub(super) mod journal_chains;
mod errors;
pub(super) mod file_system;
pub(super) mod inspect;
pub(super) mod keepers;
mod lock;
mod files;
pub(super) mod open;
pub(super) mod read_only;
mod reader;
pub(super) mod rebuild;
mod columns;
mod salvage;
mod schema;
mod statements;
pub(super) mod store;
pub(super) mod succession;
mod tables;
mod tenure;
mod upgrade;
#[cfg(test)]
mod tests;
