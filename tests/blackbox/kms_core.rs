//! The KMS Core of every version, and one in trouble.

mod sample;
mod protocol;
mod contexts;
mod trouble;
mod forgotten;
