//! Keys and CRSs: every node of a network is asked for them by events, and votes once.

mod stage;
mod ceremony;
mod storms;
mod troubles;
mod troubles_on_ethereum;
mod aborts;
mod contract_errors;
mod approval;
mod second_chain;
mod committee;
mod lifecycle;
mod lifecycle_under_fire;
mod lifecycle_ends;
