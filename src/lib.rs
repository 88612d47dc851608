//! `kms-connector` connects KMS Cores with the Gateway contracts of the Zama Protocol.
//!
//! A **supervisor** runs one isolated **instance** per configuration. An instance takes each request of one
//! Gateway deployment through these stages:
//!
//! ```text
//! event  ->  access check  ->  ciphertexts (S3)  ->  KMS Core (gRPC)  ->  Gateway (transaction)
//! ```
//!
//! The task that does this for one request is its **walk**. The owner of a wallet's nonces is the **lane**. A
//! request that only time or an operator can help is **held**, with a reason.
//!
//! One request:
//!
//! ```text
//! the chain   a log, in a block that follows the cursor's               flow::arrivals
//! door (a)    request and cursor are stored in one commit               flow::ledger, journal
//! finality    its block is as deep as the operator wants it             flow::finality
//! dispatch    it gets a permit, and a task of its own                   flow::dispatch, flow::capacity
//! arrived     what its host chains grant (from G12 on), bytes with the   flow::access,
//!             digests on chain, and a second node that shows the event;  flow::ciphertexts
//!             then the Core is asked                                     contracts::decryption
//! asked       the Core is polled, its signature is checked              flow::kms_core
//! answered    nonce, signature, stored (door (b)), broadcast            chain::lane
//! submitted   receipt, in a block that is on the chain                  flow::submission
//! settled     one outcome; or held, with a reason and a next try        flow::walk::policy
//! ```
//!
//! One change of a file:
//!
//! ```text
//! wake        inotify, a signal, `reload`, or 30 s                      supervisor::config_dir::watch
//! snapshot    every file is read twice, each with a deadline            supervisor::config_dir::snapshot
//! claims      which instance has which name, wallet and Core            supervisor::claims
//! managed     what this instance needs next                             supervisor::managed
//! preflight   the new configuration is tried; nothing is opened         instance::preflight
//! stop        the old run ends at its next door, its journal is kept    instance::journal_state
//! start       the new run takes the journal over                        instance::run
//! back        it fails: the old configuration runs again                supervisor::managed
//! exit        a pause, or parked with a reason                          supervisor::restart
//! report      status, page, metrics, log                                supervisor::operator, admin, telemetry
//! ```
//!
//! Where things are:
//!
//! - `flow` is the walk and the rooms it passes. Begin with `flow` (its words and the port it records
//!   through), then `flow::walk` (one `match` on the stage), then the rooms in the order of the drawing.
//!   What a failure or a denial leads to is in `flow::walk::policy`; held requests are tried again by
//!   `instance::recovery`. Key operations take the same walk: their order of checks is a table in
//!   `flow::walk::policy::key_operations`, carried out by `flow::walk::key_operations`; answers are compared
//!   with others' votes by `flow::walk::key_votes`.
//! - `contracts` are the adapters: what each generation of the contracts means. `chain` moves bytes: its
//!   ports (`reader`, `sender`), the provider (any number of nodes), the lane, the wallet.
//!   The contracts of host chains, which say who may have what decrypted, are adapters of their own
//!   (`contracts::acl`, `contracts::protocol_config`), their nodes further providers.
//! - `journal` is the durable store: `journal::store` is its port, `journal::sqlite` implements it.
//! - `instance::run` is the only wiring: one stack of rooms for the gateway, and a second one, with a journal
//!   and a lane of its own, for Ethereum where key operations are asked for there
//!   (`instance::second_chain`). Its external dependencies come in as `instance::Edges`, in the
//!   simulation (`instance::simulation`) too. An observing instance (`instance::observer`) walks the
//!   same way up to the Core and has no wallet, lane or Core (`flow::Mode`).
//! - `supervisor` is the loop above the instances: event, decision, action.
//! - `admin` is what an operator asks of a running process, `telemetry` what it reports by itself.
//!
//! Invariants: a request and the cursor that passed it are durable together, before either counts;
//! signed bytes and their nonce are durable before the first broadcast; everything else may be lost in
//! a crash and is only repeated; an exit is a value, never a process exit; a secret has a type that
//! does not print; instances share no mutable state.
//!
//! The modules below stand in reading order, from the outside in. Imports point down only:
//! cli -> supervisor -> instance -> journal -> flow -> contracts -> chain -> telemetry -> (net, time) -> domain;
//! `admin` and `config` stand below `instance`. Rooms never import each other, the journal or the
//! configuration: flow (`flow::ledger`) and lane own the ports they record through, and the journal
//! implements them. `tests/architecture.rs` lists all rooms and what each may import.

pub mod cli;
pub mod supervisor;
pub mod instance;
pub mod journal;
pub mod flow;
pub mod contracts;
pub mod chain;
pub mod admin;
pub mod config;
pub mod telemetry;
pub mod net;
pub mod time;
pub mod dice;
pub mod machine;
pub mod domain;
