//! The KMS Core of every version, and one in trouble.

mod protocol;
mod trouble;
mod forgotten;
