//! PROVIDER: talks to the nodes of a chain. It moves bytes, knows nodes and deadlines, and nothing of
//! contracts or requests.
//!
//! The WebSocket (or, over HTTP, a poll) is a source of wake-ups and headers, never of truth: events are
//! always read by block hash or by range. There is no silent reconnect, which would repeat calls and
//! subscriptions unnoticed: a new connection has a new [`Head::connection`](crate::chain::reader::Head::connection) number, and a reader that
//! needs continuity reads again.
//!
//! Several endpoints form one provider: reads go to one of them ([`selection`]), a failed call goes to
//! another one within its deadline, raw transactions go to all at once.
//!
//! URLs contain API keys: every text that leaves this module names the host and nothing else.

mod arbitrum;
mod batch;
mod response_limits;
pub mod selection;
mod client;
pub mod connection;
pub mod endpoint;
pub mod endpoint_pool;
mod fanout;
mod head;
mod history;
mod http;
mod identity;
mod message;
mod nodes;
mod node_handle;
mod parameters;
mod rate_limit;
mod raw;
mod broadcast;
mod socket;
mod exchange_error;

use std::time::Duration;

pub use self::{arbitrum::ArbitrumProvider, identity::GenesisStatus};

/// Deadline of a call, including connecting.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
