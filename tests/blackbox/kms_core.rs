//! The KMS Core of every version, and one in trouble.

mod sample;
mod protocol;
mod statuses;
mod answers;
mod connections;
mod contexts;
mod trouble;
mod forgotten;
