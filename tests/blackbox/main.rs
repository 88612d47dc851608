//! The product seen from outside, on real servers. `scripts/setup` installs those.

#[expect(dead_code, reason = "the devnet and the tests each use a part of the world")]
#[path = "../world/mod.rs"]
mod world;

mod requests;
mod chain;
mod kms_core;
mod buckets;
mod journal;
mod supervisor;
mod operator;
mod faults;
mod security;
mod stand;
