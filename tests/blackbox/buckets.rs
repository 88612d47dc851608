//! Ciphertexts: buckets, formats, sizes.

mod room;
mod stage;
mod attested;
mod sources;
