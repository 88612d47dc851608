//! `kms-connector` connects a KMS Core with the Gateway contracts of the Zama Protocol.
//!
//! A **supervisor** runs one isolated **instance** per config. An instance carries each request of
//! one Gateway deployment through four rooms:
//!
//! ```text
//! event  ->  ciphertexts (S3)  ->  KMS Core (gRPC)  ->  Gateway (transaction)
//! ```
//!
//! One request:
//!
//! ```text
//! the chain   a log, in a block that joins the cursor's                 flow::arrivals
//! door (a)    request and cursor are stored in one commit               flow::ledger, journal
//! finality    its block is as deep as the operator wants it             flow::arrivals, flow::depth
//! dispatch    it gets a place, and a task of its own                    flow::dispatch
//! arrived     bytes with the digests on chain, and a second node that   flow::ciphertexts
//!             shows the event; then the Core is asked                   gateway::decryption
//! asked       the Core is polled, its signature is checked              flow::kms_core
//! answered    nonce, signature, stored (door (b)), broadcast            gateway::lane
//! submitted   receipt, in a block that joins the chain's                flow::submission
//! settled     one outcome; or held, with a reason and a next try        flow::walk::policy
//! ```
//!
//! One change of a file:
//!
//! ```text
//! wake        inotify, a signal, `reload`, or 30 s                      supervisor::watcher
//! look        every file read twice, each with a deadline               supervisor::directory
//! plan        who has which name, wallet and Core                       supervisor::plan
//! slot        what this instance needs next                             supervisor::slot
//! check       the new configuration is tried; nothing is opened         instance::check
//! stop        the old run ends at its next door, its journal is kept    instance::run, instance::keeping
//! start       the new run takes the journal over                        instance::run
//! back        it fails: the old configuration runs again                supervisor::slot
//! exit        a pause, or parked with a reason                          supervisor::restart
//! told        status, page, metrics, log                                supervisor::operator, observe
//! ```
//!
//! Start with `flow` (the words of the walk and the port it records through), then `flow::walk` (one
//! `match` on the stage), then the four rooms in the order of the drawing, then `gateway::lane` (the
//! one owner of a wallet's nonces). `instance::run` wires all of it, and waits for the world first; what
//! it meets of the world comes in as `instance::Edges`, in the tests' world too.
//! `supervisor` is a loop of its own: `supervisor::slot` (what one instance is and needs next),
//! `supervisor::plan` (who may have what), then the loop that turns events into acts.
//!
//! An instance that only observes (`instance::observer`) walks the same way as far as the first two rooms
//! lead: it has no wallet, lane or Core that could be used by mistake (`flow::Mode`).
//!
//! What must hold: a request and the cursor that passed it are durable together, before either
//! counts; signed bytes and their nonce are durable before the first broadcast; everything else may
//! be lost in a crash and is only repeated; an end is a value, never a process exit; a secret has a
//! type that does not print; instances share nothing that can change.
//!
//! Modules below stand in reading order, from the outside in. Imports point down only:
//! supervisor -> instance -> journal -> flow -> rooms -> adapters -> provider, `domain` at the bottom.
//! Rooms never import each other, the journal or the config: flow (`flow::ledger`) and lane own the ports
//! they record through, and the journal implements them. `tests/architecture.rs` lists all rooms in order,
//! and from which each may take.

pub mod cli;
pub mod supervisor;
pub mod instance;
pub mod flow;
pub mod gateway;
pub mod journal;
pub mod config;
pub mod observe;
pub mod tls;
pub mod aws;
pub mod proxy;
pub mod metrics;
pub mod traces;
pub mod heart;
pub mod backoff;
pub mod repeats;
pub mod lately;
pub mod crowd;
pub mod clock;
pub mod dice;
pub mod machine;
pub mod domain;
