//! Ciphertexts: buckets, formats, sizes.

mod sources;
mod stage;
