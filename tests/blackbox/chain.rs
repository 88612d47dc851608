//! Gateway nodes, the lane and wallets.

mod endpoints;
mod host_chains;
mod trust;
mod storm;
mod lane;
mod mempool;
mod wallet;
mod wallet_change;
mod proxied;
