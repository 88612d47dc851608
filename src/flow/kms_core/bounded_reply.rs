//! Bounds how much of a reply is read: each reply to the size that an answer to its request can have, and all
//! replies together to a fixed amount of memory.
//!
//! A message begins with its length. Memory for the whole message is taken before the rest is read, so two
//! replies never each hold half of what they need. A reply without memory is not read, and the Core has to
//! wait. A reply above its limit ends the call at once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, codegen::StdError};

use crate::domain::{Kind, Request, fhe_bits, fhe_type};

/// Keys, digests and signatures of every scheme (ML-DSA-87: 2.6 and 4.6 KB), with a margin. In bytes.
const REPLY: usize = 64 << 10;
/// The part of a ciphertext's share that does not depend on its type: encryption (ML-KEM-1024: 1.6 KB) and
/// signature. In bytes.
const SHARE: usize = 16 << 10;
/// The share of two bits, in bytes: one element, whose 8 coefficients of 128 bits take 128 bytes, with a
/// margin. A plaintext is smaller.
const TWO_BITS: usize = 1 << 10;
/// The result of an epoch, with some hundred keys. In bytes.
const EPOCH: usize = 4 << 20;
/// The limit of a call whose reply is only a status, in bytes.
const EMPTY: usize = 16 << 10;

/// Memory for all replies of one client that are read at the same time, in bytes. The largest legal reply, to
/// 1,024 Bools, takes 17 MiB.
const BUDGET: usize = 32 << 20;
const UNIT: usize = 1 << 10;
/// The gRPC prefix of a message: one byte for compression, four for the length.
const PREFIX: usize = 5;

/// The largest reply in bytes. A call without a limit of its own takes an empty reply only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyLimit(usize);

impl Default for ReplyLimit {
    fn default() -> Self {
        Self(EMPTY)
    }
}

impl ReplyLimit {
    /// The limit of an answer to this request.
    pub fn of(request: &Request) -> Self {
        let extra_data = request.extra_data().len();
        let shares = request.handles().iter().map(|handle| {
            // A type of unknown size gets the limit of the largest type.
            let bits = fhe_bits(fhe_type(handle)).unwrap_or(2048);
            SHARE + TWO_BITS * usize::try_from(bits.div_ceil(2)).unwrap_or(usize::MAX)
        });
        let reply = if request.kind() == Kind::NewKmsEpoch { EPOCH } else { REPLY };
        let bytes = shares.fold(reply + extra_data, usize::saturating_add);
        Self(bytes.min(BUDGET))
    }
}

/// A reply above its limit.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too large")]
pub(super) struct TooLarge;

fn too_large(bytes: usize, ReplyLimit(limit): ReplyLimit) -> StdError {
    let mut status =
        Status::out_of_range(format!("a reply of {bytes} bytes, at most {limit} are read"));
    status.set_source(Arc::new(TooLarge));
    status.into()
}

/// Memory for the replies of one client. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ReplyBudget(Arc<Semaphore>);

impl Default for ReplyBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET / UNIT)))
    }
}

type BudgetPermit = Option<OwnedSemaphorePermit>;

impl ReplyBudget {
    fn take(&self, bytes: usize) -> BoxFuture<'static, BudgetPermit> {
        let units = u32::try_from(bytes.min(BUDGET).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let taking = self.0.clone().acquire_many_owned(units);
        // The semaphore is never closed.
        Box::pin(async move { taking.await.ok() })
    }
}

/// The body of a reply, read within its limits.
pub(super) struct BoundedBody<B> {
    body: B,
    limit: ReplyLimit,
    room: ReplyBudget,
    prefix: [u8; PREFIX],
    /// Bytes read so far, prefix included.
    read: usize,
    /// Bytes that may be read, prefix included. Until the length is known, the prefix alone.
    expected: usize,
    /// The pending acquisition of memory, and the piece that was read when it began.
    waiting: Option<(BoxFuture<'static, BudgetPermit>, Frame<Bytes>)>,
    /// Held until the body is dropped.
    permit: BudgetPermit,
}

impl<B> BoundedBody<B> {
    pub fn new(body: B, limit: ReplyLimit, room: ReplyBudget) -> Self {
        let (prefix, read, expected) = ([0; PREFIX], 0, PREFIX);
        Self { body, limit, room, prefix, read, expected, waiting: None, permit: None }
    }

    /// Accounts for another piece. Returns the length of the message once it is known: that much memory is
    /// needed.
    fn record_chunk(&mut self, piece: &[u8]) -> Result<Option<usize>, StdError> {
        let mut announced = None;
        if self.read < PREFIX {
            let missing = (PREFIX - self.read).min(piece.len());
            self.prefix[self.read..self.read + missing].copy_from_slice(&piece[..missing]);
            if self.read + missing == PREFIX {
                let [_, length @ ..] = self.prefix;
                let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                if length > self.limit.0 {
                    return Err(too_large(length, self.limit));
                }
                self.expected = PREFIX + length;
                announced = Some(length);
            }
        }
        self.read = self.read.saturating_add(piece.len());
        if self.read > self.expected.max(PREFIX) {
            // A second message, which nobody asked for.
            return Err(too_large(self.read, self.limit));
        }
        Ok(announced)
    }
}

impl<B: Body<Data = Bytes, Error: Into<StdError>> + Unpin> Body for BoundedBody<B> {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        if let Some((taking, _)) = &mut this.waiting {
            this.permit = ready!(taking.as_mut().poll(context));
            return Poll::Ready(this.waiting.take().map(|(_, piece)| Ok(piece)));
        }
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        let Some(piece) = frame.data_ref() else { return Poll::Ready(Some(Ok(frame))) };
        match this.record_chunk(piece) {
            Err(error) => Poll::Ready(Some(Err(error))),
            // A reply as small as an empty one does not wait for memory.
            Ok(Some(bytes)) if bytes > EMPTY => {
                this.waiting = Some((this.room.take(bytes), frame));
                Pin::new(this).poll_frame(context)
            }
            Ok(_) => Poll::Ready(Some(Ok(frame))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests;
