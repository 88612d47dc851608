//! What the client's calls go over. The product has one way, tonic's `Channel`; the tests have a
//! second, a function in the same process: no socket and no HTTP/2, whose tasks and clocks a
//! simulated world could not repeat. Everything above is the real client: messages and their bytes,
//! deadlines, the table of statuses, the check of signatures.
//!
//! Either way a reply is read within its bounds ([`reply`](super::reply)).

use std::{
    fmt,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, StdError, http},
    transport::{Channel, Error},
};

use super::reply::{Bounded, Limit, Room};

/// One connection, or what stands for one.
#[derive(Clone)]
pub(super) enum Way {
    Channel(Channel),
    #[cfg(test)]
    InProcess(InProcess),
}

/// A call in the same process. An error is a line that was cut: nobody knows what the Core did.
#[cfg(test)]
pub(crate) type InProcess = std::sync::Arc<
    dyn Fn(http::Request<Body>) -> BoxFuture<http::Response<Body>, StdError> + Send + Sync,
>;

/// A way, and the room for the replies that come over it.
#[derive(Clone)]
pub(super) struct Line {
    way: Way,
    room: Room,
}

impl Line {
    pub fn new(way: Way, room: Room) -> Self {
        Self { way, room }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Service<http::Request<Body>> for Line {
    type Response = http::Response<Bounded<Body>>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, StdError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match &mut self.way {
            Way::Channel(channel) => channel.poll_ready(context).map_err(Into::into),
            #[cfg(test)]
            Way::InProcess(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let limit = request.extensions().get::<Limit>().copied().unwrap_or_default();
        let room = self.room.clone();
        let answer: BoxFuture<http::Response<Body>, StdError> = match &mut self.way {
            Way::Channel(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(|error: Error| error.into()) })
            }
            #[cfg(test)]
            Way::InProcess(call) => call(request),
        };
        Box::pin(async move { Ok(answer.await?.map(|body| Bounded::new(body, limit, room))) })
    }
}
