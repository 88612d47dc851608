//! The chain in two layers: the provider moves bytes; adapters know contracts, their addresses, encoding
//! and errors, and use a provider.

pub mod decryption;
pub mod gateway_config;
pub mod lane;
pub mod wallet;
pub mod provider;
pub mod abi;
#[cfg(test)]
pub(crate) mod fake_chain;
