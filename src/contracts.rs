//! ADAPTERS: what the contracts mean. They know encoding, events and errors of each generation, and use a
//! provider (`chain`).

pub mod abi;
pub mod decryption;
pub mod gateway_config;
pub mod pinned_reads;
pub mod acl;
pub mod protocol_config;
pub mod kms_lifecycle;
