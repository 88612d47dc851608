//! The connections to one Core: one for asks, whose messages are large, and as many for polls as needed.
//! All replies share one budget.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{bounded_reply::ReplyBudget, channel::BoundedChannel, transport::Transport};
use crate::domain::CoreAddress;

/// A new connection for polls is opened above this number of polls.
const POLLS_PER_CONNECTION: usize = 100;
const POLL_CONNECTIONS: usize = 16;

/// Clones share the connections.
#[derive(Clone)]
pub(super) struct ChannelPool {
    asks: BoundedChannel,
    polls: Arc<[PollChannel]>,
    transport: Transport,
    room: ReplyBudget,
}

impl fmt::Debug for ChannelPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelPool").field("polls", &self.polls).finish_non_exhaustive()
    }
}

/// A connection for polls, and the number of polls on it.
#[derive(Debug, Default)]
struct PollChannel {
    /// Created at first use: an idle instance has none.
    channel: OnceLock<BoundedChannel>,
    polls: AtomicUsize,
}

/// A poll's place on a connection; returned on drop.
pub(super) struct PollGuard<'a>(&'a PollChannel);

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        self.0.polls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ChannelPool {
    pub fn new(transport: Transport) -> Self {
        let room = ReplyBudget::default();
        Self {
            asks: BoundedChannel::new(transport.connect(), room.clone()),
            polls: std::iter::repeat_with(PollChannel::default).take(POLL_CONNECTIONS).collect(),
            transport,
            room,
        }
    }

    pub fn address(&self) -> &CoreAddress {
        self.transport.address()
    }

    pub fn ask_channel(&self) -> BoundedChannel {
        self.asks.clone()
    }

    /// A connection with a place on it: the first one with room, or the least loaded one.
    pub fn poll_channel(&self) -> (BoundedChannel, PollGuard<'_>) {
        let load = |connection: &&PollChannel| connection.polls.load(Ordering::Relaxed);
        let connection = self
            .polls
            .iter()
            .find(|connection| load(connection) < POLLS_PER_CONNECTION)
            .or_else(|| self.polls.iter().min_by_key(load))
            .expect("there is at least one connection");
        connection.polls.fetch_add(1, Ordering::Relaxed);
        let guard = PollGuard(connection);
        let line = connection
            .channel
            .get_or_init(|| BoundedChannel::new(self.transport.connect(), self.room.clone()));
        (line.clone(), guard)
    }
}
