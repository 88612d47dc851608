//! A connection whose replies are read within their bounds ([`reply`](super::reply)).

use std::{
    fmt,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, StdError, http},
};

use super::{
    reply::{Bounded, Limit, Room},
    transport::Carrier,
};

/// A connection, and the budget for its replies.
#[derive(Clone)]
pub(super) struct Line {
    carrier: Carrier,
    room: Room,
}

impl Line {
    pub fn new(carrier: Carrier, room: Room) -> Self {
        Self { carrier, room }
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

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        // Always ready: a call waits for a free stream by itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let limit = request.extensions().get::<Limit>().copied().unwrap_or_default();
        let (room, answer) = (self.room.clone(), (self.carrier)(request));
        Box::pin(async move { Ok(answer.await?.map(|body| Bounded::new(body, limit, room))) })
    }
}
