//! From G12 on nobody but the connector checks who may decrypt what: it lets through what the host chains
//! grant, and nothing else.

mod walk;
mod two_events;
mod upgrades;
mod denials;
mod host_nodes;
mod random_worlds;

use world::{core_stub::CoreStub, request::Issued};

/// Whether the Core was ever given anything of a request, under whichever id.
fn reached(core: &CoreStub, request: &Issued) -> bool {
    let id = format!("{:064x}", request.id);
    let is_of = |digest| request.digests.contains(digest);
    core.asks().iter().any(|ask| ask.id == id || ask.digests.iter().any(is_of))
}
