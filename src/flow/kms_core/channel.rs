//! A connection whose replies are read within their bounds ([`super::bounded_reply`]), and whose messages are
//! begun in time ([`super::timely_body`]).

use std::{
    fmt,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, StdError, http},
};

use super::{
    bounded_reply::{BoundedBody, ReplyBudget, ReplyLimit},
    timely_body::SendBefore,
    transport::GrpcService,
};

/// A connection, and the budget for its replies.
#[derive(Clone)]
pub(super) struct BoundedChannel {
    carrier: GrpcService,
    room: ReplyBudget,
}

impl BoundedChannel {
    pub fn new(carrier: GrpcService, room: ReplyBudget) -> Self {
        Self { carrier, room }
    }
}

impl fmt::Debug for BoundedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedChannel").finish_non_exhaustive()
    }
}

impl Service<http::Request<Body>> for BoundedChannel {
    type Response = http::Response<BoundedBody<Body>>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, StdError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        // Always ready: a call waits for a free stream by itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(before) = request.extensions_mut().remove::<SendBefore>() {
            request = request.map(|body| before.guard(body));
        }
        let limit = request.extensions().get::<ReplyLimit>().copied().unwrap_or_default();
        let (room, answer) = (self.room.clone(), (self.carrier)(request));
        Box::pin(async move { Ok(answer.await?.map(|body| BoundedBody::new(body, limit, room))) })
    }
}
