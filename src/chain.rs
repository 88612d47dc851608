//! A chain: moves bytes, and knows no contract. `provider` reads and sends through any number of nodes,
//! `lane` owns the nonces of one wallet, `wallet` signs.

#[cfg(test)]
pub(crate) mod fake_chain;
pub mod lane;
pub mod wallet;
pub mod provider;
