//! The connections to one Core: one for asks, whose messages are large, and as many for polls as needed.
//! All replies share one budget.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{line::Line, reply::Room, transport::Transport};

/// A new connection for polls is opened above this number of polls.
const POLLS_PER_CONNECTION: usize = 100;
const POLL_CONNECTIONS: usize = 16;

/// Clones share the connections.
#[derive(Clone)]
pub(super) struct Lines {
    asks: Line,
    polls: Arc<[Connection]>,
    transport: Transport,
    room: Room,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("polls", &self.polls).finish_non_exhaustive()
    }
}

/// A connection for polls, and the number of polls on it.
#[derive(Debug, Default)]
struct Connection {
    /// Created at first use: an idle instance has none.
    line: OnceLock<Line>,
    polls: AtomicUsize,
}

/// A poll's place on a connection; returned on drop.
pub(super) struct Place<'a>(&'a Connection);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.polls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lines {
    pub fn over(transport: Transport) -> Self {
        let room = Room::default();
        Self {
            asks: Line::new(transport.connect(), room.clone()),
            polls: std::iter::repeat_with(Connection::default).take(POLL_CONNECTIONS).collect(),
            transport,
            room,
        }
    }

    /// Host and port of the Core, for messages.
    pub fn host(&self) -> &str {
        self.transport.host()
    }

    pub fn for_asks(&self) -> Line {
        self.asks.clone()
    }

    /// A connection with a place on it: the first one with room, or the least loaded one.
    pub fn for_poll(&self) -> (Line, Place<'_>) {
        let load = |connection: &&Connection| connection.polls.load(Ordering::Relaxed);
        let connection = self
            .polls
            .iter()
            .find(|connection| load(connection) < POLLS_PER_CONNECTION)
            .or_else(|| self.polls.iter().min_by_key(load))
            .expect("there is at least one connection");
        connection.polls.fetch_add(1, Ordering::Relaxed);
        let place = Place(connection);
        let line =
            connection.line.get_or_init(|| Line::new(self.transport.connect(), self.room.clone()));
        (line.clone(), place)
    }
}
