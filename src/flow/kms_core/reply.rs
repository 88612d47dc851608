//! How much of a reply is read: no more than an answer to the request can have, and of all replies
//! together no more than there is room for.
//!
//! A message begins with its length. Room for all of it is taken before the rest is read, so that no
//! two replies hold half of what they need; what finds no room is not read, and the Core has to wait.
//! One that is larger than it may be ends the call at once.

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

use crate::domain::{Operation, Request, fhe_bits};

/// Keys, digests and signatures of every scheme there is (ML-DSA-87: 2.6 and 4.6 KB), with room.
const REPLY: usize = 64 << 10;
/// What comes with the share of one ciphertext: it is encrypted (ML-KEM-1024: 1.6 KB) and signed.
const SHARE: usize = 16 << 10;
/// The share of two bits: one element, whose 8 coefficients have 128 bits, in 128 bytes. A plaintext
/// is smaller.
const TWO_BITS: usize = 1 << 10;
/// The reply of a call that has none but its status.
const EMPTY: usize = 16 << 10;

/// Replies of one client that are read at the same time. The largest legal one, of 1,024 Bools, has
/// 17 MiB.
const TOGETHER: usize = 32 << 20;
const UNIT: usize = 1 << 10;
/// One byte that says whether it is compressed, four of the length.
const PREFIX: usize = 5;

/// How many bytes a reply may have. A call that does not say takes none but an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(usize);

impl Default for Limit {
    fn default() -> Self {
        Self(EMPTY)
    }
}

impl Limit {
    /// Of an answer to this request.
    pub fn of(request: &Request) -> Self {
        let extra_data = match &request.operation {
            Operation::PublicDecryption(public) => public.extra_data.len(),
            Operation::UserDecryption(user) => user.extra_data.len(),
            Operation::Unsupported { .. } => 0,
        };
        let shares = request.materials().iter().map(|material| {
            // Of a type that we have no size of: the largest one's.
            let bits = fhe_bits(material.fhe_type()).unwrap_or(2048);
            SHARE + TWO_BITS * usize::try_from(bits.div_ceil(2)).unwrap_or(usize::MAX)
        });
        let bytes = shares.fold(REPLY + extra_data, usize::saturating_add);
        Self(bytes.min(TOGETHER))
    }
}

/// A reply that is larger than it may be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too large")]
pub(super) struct TooLarge;

fn too_large(bytes: usize, Limit(limit): Limit) -> StdError {
    let mut status =
        Status::out_of_range(format!("a reply of {bytes} bytes, at most {limit} are read"));
    status.set_source(Arc::new(TooLarge));
    status.into()
}

/// Room for the replies of one client. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOGETHER / UNIT)))
    }
}

type Taken = Option<OwnedSemaphorePermit>;

impl Room {
    fn take(&self, bytes: usize) -> BoxFuture<'static, Taken> {
        let units = u32::try_from(bytes.min(TOGETHER).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let taking = self.0.clone().acquire_many_owned(units);
        // Never closed.
        Box::pin(async move { taking.await.ok() })
    }
}

/// A reply's body that is read within its bounds.
pub(super) struct Bounded<B> {
    body: B,
    limit: Limit,
    room: Room,
    prefix: [u8; PREFIX],
    /// So many bytes of it, prefix included.
    read: usize,
    /// What may be read, prefix included; the prefix alone while it is not known.
    whole: usize,
    /// Room is waited for, with the piece that came meanwhile.
    waits: Option<(BoxFuture<'static, Taken>, Frame<Bytes>)>,
    /// Until the body is dropped.
    taken: Taken,
}

impl<B> Bounded<B> {
    pub fn new(body: B, limit: Limit, room: Room) -> Self {
        let (prefix, read, whole) = ([0; PREFIX], 0, PREFIX);
        Self { body, limit, room, prefix, read, whole, waits: None, taken: None }
    }

    /// Some more of it came. How many bytes there is room to be made for: those of the whole message,
    /// once they are known.
    fn came(&mut self, piece: &[u8]) -> Result<Option<usize>, StdError> {
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
                self.whole = PREFIX + length;
                announced = Some(length);
            }
        }
        self.read = self.read.saturating_add(piece.len());
        if self.read > self.whole.max(PREFIX) {
            // A second message, which nobody asked for.
            return Err(too_large(self.read, self.limit));
        }
        Ok(announced)
    }
}

impl<B: Body<Data = Bytes, Error: Into<StdError>> + Unpin> Body for Bounded<B> {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        if let Some((taking, _)) = &mut this.waits {
            this.taken = ready!(taking.as_mut().poll(context));
            return Poll::Ready(this.waits.take().map(|(_, piece)| Ok(piece)));
        }
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        let Some(piece) = frame.data_ref() else { return Poll::Ready(Some(Ok(frame))) };
        match this.came(piece) {
            Err(error) => Poll::Ready(Some(Err(error))),
            // What an empty reply may have does not wait.
            Ok(Some(bytes)) if bytes > EMPTY => {
                this.waits = Some((this.room.take(bytes), frame));
                Pin::new(this).poll_frame(context)
            }
            Ok(_) => Poll::Ready(Some(Ok(frame))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waits.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests;
