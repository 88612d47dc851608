//! Journals in `SQLite` files: the only place that knows SQL and the file layout. Implements the port
//! [`super::store`].

mod aside;
mod begin;
pub(super) mod beginnings;
mod errors;
pub(super) mod footing;
pub(super) mod glance;
pub(super) mod keepers;
mod lock;
mod names;
pub(super) mod open;
pub(super) mod read_only;
mod reader;
pub(super) mod rebuild;
mod record;
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
