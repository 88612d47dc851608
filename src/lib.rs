//! `kms-connector` connects a KMS Core with the Gateway contracts of the Zama Protocol.
//!
//! A **supervisor** runs one isolated **instance** per config. An instance carries each request of
//! one Gateway deployment through four rooms:
//!
//! ```text
//! event  ->  ciphertexts (S3)  ->  KMS Core (gRPC)  ->  Gateway (transaction)
//! ```
//!
//! Modules below stand in reading order, from the outside in. Imports point down only:
//! supervisor -> instance -> flow -> rooms -> adapters -> provider, `domain` at the bottom. Rooms
//! never import each other, the journal or the config: flow and lane own the ports they record
//! through, and the journal implements them. `tests/architecture.rs` holds this.

pub mod cli;
pub mod supervisor;
pub mod instance;
pub mod flow;
pub mod gateway;
pub mod journal;
pub mod config;
pub mod observe;
pub mod tls;
pub mod backoff;
pub mod clock;
pub mod domain;
