//! The product seen from outside, on real servers. `scripts/setup` installs those.

#[expect(dead_code, reason = "the devnet and the tests each use a part of the world")]
#[path = "../world/mod.rs"]
mod world;

mod bad_input;
mod buckets;
mod ciphertexts;
mod cli;
mod contracts;
mod contexts;
mod host_contracts;
mod attestations;
mod core_trouble;
mod crash;
mod disk;
mod edges;
mod endpoints;
mod errors;
mod faults;
mod finality;
mod forgotten;
mod fleet;
mod health;
mod instance;
mod isolation;
mod kms_core;
mod lane;
mod metrics;
mod night;
mod observe;
mod outages;
mod logs;
mod page;
mod poisoned;
mod random_changes;
mod requests;
mod reload;
mod secrets;
mod servers;
mod storm;
mod supervise;
mod surroundings;
mod systemd;
mod systemd_supervise;
mod review;
mod traces;
mod trust;
mod walk;
mod upgraded;
mod wallet;
mod wallet_change;
mod check;
mod proxied;
