//! A message that is not begun too late. A call waits for its connection, its handshake and a free stream for as
//! long as its deadline lets it, and what permits the message may be good for less. So that is judged when its
//! first byte is about to be sent: then it is sent, or the call ends without a byte of it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::time::clock::Clock;

/// Until when a message may be begun. Clones share whether it came too late.
#[derive(Clone, Debug)]
pub struct SendBefore {
    clock: Clock,
    /// Time since boot.
    until: Duration,
    was_late: Arc<AtomicBool>,
}

impl SendBefore {
    /// `until`: on this clock, time since boot.
    #[must_use]
    pub fn new(clock: Clock, until: Duration) -> Self {
        Self { clock, until, was_late: Arc::default() }
    }

    /// Returns whether nothing was sent because it would have been too late.
    #[must_use]
    pub fn was_late(&self) -> bool {
        self.was_late.load(Ordering::Relaxed)
    }

    /// The body, judged when it is begun.
    pub(super) fn guard(self, body: Body) -> Body {
        Body::new(TimelyBody { body, begins: Some(self) })
    }
}

struct TimelyBody {
    body: Body,
    /// `None`: it has begun.
    begins: Option<SendBefore>,
}

impl hyper::body::Body for TimelyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(SendBefore { clock, until, was_late }) = this.begins.take()
            && clock.since_boot() > until
        {
            was_late.store(true, Ordering::Relaxed);
            this.body = Body::empty();
            let why = "what permits the message is too old by now";
            return Poll::Ready(Some(Err(Status::deadline_exceeded(why))));
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.begins.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
