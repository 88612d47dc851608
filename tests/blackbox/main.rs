//! The product seen from outside, on real servers. `scripts/setup` installs those.

#[expect(dead_code, reason = "the devnet and the tests each use a part of the world")]
#[path = "../world/mod.rs"]
mod world;

mod ciphertexts;
mod cli;
mod contracts;
mod crash;
mod kms_core;
mod ministack;
mod outages;
mod servers;
mod walk;
mod wallet;
