//! Gateway nodes, the lane and wallets.

mod endpoints;
mod trust;
mod storm;
mod lane;
mod wallet;
mod wallet_change;
mod proxied;
