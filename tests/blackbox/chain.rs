//! Gateway nodes, the lane and wallets.

mod endpoints;
mod host_chains;
mod trust;
mod storm;
mod lane;
mod wallet;
mod wallet_change;
mod proxied;
