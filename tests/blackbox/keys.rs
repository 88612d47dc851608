//! Keys and CRSs: every node of a network is asked for them by events, and votes once.

mod stage;
mod ceremony;
mod troubles;
mod approval;
mod second_chain;
