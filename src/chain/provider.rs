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
mod block_hashes;
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
mod pinned;
mod rate_limit;
mod raw;
mod broadcast;
mod socket;
mod exchange_error;

use std::{fmt, time::Duration};

pub use self::{arbitrum::ArbitrumProvider, identity::GenesisStatus};

/// Deadline of a call, including connecting.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// What a chain is to this instance: how its nodes are named in the log, and how often their head is
/// asked for where it is not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainRole {
    #[default]
    Gateway,
    /// Handles are owned there, or contexts are defined.
    Host,
    /// Contexts are defined there, or key operations asked for, and no handles are owned.
    Ethereum,
}

impl ChainRole {
    /// Interval of polls for the head over HTTP.
    fn poll_interval(self) -> Duration {
        match self {
            // The Gateway's block time.
            Self::Gateway => Duration::from_millis(250),
            // Blocks take longer there, and hosted nodes count calls.
            Self::Host => Duration::from_secs(1),
            // Its block time.
            Self::Ethereum => Duration::from_secs(12),
        }
    }
}

impl fmt::Display for ChainRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Host => "host chain",
            Self::Ethereum => "Ethereum",
        })
    }
}
