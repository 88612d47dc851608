//! The product seen from outside, on real servers. `scripts/setup` installs those.

mod requests;
mod access;
mod chain;
mod kms_core;
mod keys;
mod buckets;
mod journal;
mod supervisor;
mod operator;
mod faults;
mod security;
mod stand;
