//! A chain: moves bytes, and knows no contract. `reader` and `sender` are its ports, whose errors are
//! `rpc_error`; `provider` implements them over any number of nodes. `survey` asks every node the same,
//! `log_pages` reads the logs of many blocks.
//! `lane` owns the nonces of one wallet, `wallet` signs.

#[cfg(test)]
pub(crate) mod fake_chain;
pub mod reader;
pub mod sender;
pub mod rpc_error;
pub mod quirks;
pub mod survey;
pub mod log_pages;
pub mod lane;
pub mod wallet;
pub mod provider;
