//! Tests from outside: the library against servers of the protocol.

#[path = "../world/core_stub.rs"]
mod core_stub;

mod kms_core;
