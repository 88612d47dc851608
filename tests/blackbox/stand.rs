//! The test world itself: its contracts and servers do what the tests rely on.

mod contracts;
mod servers;
mod key_generation;
mod core_keys;
mod core_lifecycle;
mod lifecycle;
mod contexts;
mod host_contracts;
mod attestations;
