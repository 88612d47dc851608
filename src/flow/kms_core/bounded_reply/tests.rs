//! Replies in pieces, too large ones, and too many at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{FutureExt, Stream, StreamExt as _, stream};
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;

use super::*;
use crate::chain::fake_chain::SOURCE;
use crate::domain::{
    self, Address, B256, BlockRef, EventShape, Material, Operation, PublicDecryption, RequestKey,
    U256, UserDecryption,
};

type Piece = Result<Frame<Bytes>, StdError>;

fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), bytes].concat()
}

fn body(
    pieces: impl Stream<Item = Vec<u8>> + Send + 'static,
    limit: usize,
    room: &ReplyBudget,
) -> BoundedBody<impl Body<Data = Bytes, Error = StdError> + Unpin> {
    let pieces = pieces.map(|piece| -> Piece { Ok(Frame::data(piece.into())) });
    BoundedBody::new(StreamBody::new(Box::pin(pieces)), ReplyLimit(limit), room.clone())
}

fn request(types: &[u8], user: bool) -> Request {
    let materials: Vec<Material> = types
        .iter()
        .map(|fhe_type| {
            let mut handle = B256::ZERO;
            handle.0[30] = *fhe_type;
            let (key_id, digest, coprocessors) = (U256::ONE, B256::ZERO, vec![Address::ZERO]);
            Material { handle, key_id, digest, coprocessors }
        })
        .collect();
    let extra_data = domain::Bytes::from_static(&[0; 100]);
    let operation = if user {
        let (user, public_key) = (Address::ZERO, domain::Bytes::new());
        Operation::UserDecryption(UserDecryption::of_materials(
            materials, user, public_key, extra_data,
        ))
    } else {
        Operation::PublicDecryption(PublicDecryption::of_materials(materials, extra_data))
    };
    Request {
        key: RequestKey { source: SOURCE, id: U256::ONE, content: B256::ZERO },
        shape: EventShape::G9,
        block: BlockRef { number: 1, hash: B256::ZERO },
        transaction: B256::ZERO,
        operation,
    }
}

/// For every type: four times the size of a share, encrypted and signed by the largest schemes, fits.
#[test]
fn every_legal_answer_fits_and_so_do_all_of_the_largest() {
    for (fhe_type, bits) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (4, 32),
        (5, 64),
        (6, 128),
        (7, 160),
        (8, 256),
        (11, 2048),
    ] {
        for count in [1, 2048 / bits] {
            for user in [false, true] {
                let ReplyLimit(limit) = ReplyLimit::of(&request(&vec![fhe_type; count], user));
                let share = bits.div_ceil(2) * 128 + 1_568 + 28 + 4_627 + 200;
                let largest = count * share / 4 + 2_592 + 5 * 4_627 + 100;
                assert!(limit > largest && limit < BUDGET, "{count} of {fhe_type}: {limit}");
            }
        }
    }
    let ReplyLimit(small) = ReplyLimit::of(&request(&[5], true));
    assert!(small < 128 << 10, "{small}");
    // Whatever an event asks for, there is an upper bound.
    assert_eq!(ReplyLimit::of(&request(&[84; 2_000], false)), ReplyLimit(BUDGET));
}

#[tokio::test]
async fn b4_a_reply_that_is_too_large_is_not_read() {
    let room = ReplyBudget::default();
    let read = Arc::new(AtomicUsize::new(0));
    let counting = read.clone();
    let endless = stream::repeat_with(move || {
        counting.fetch_add(1, Ordering::Relaxed);
        vec![0; 1 << 14]
    });
    let announced = message(&[])[..1].iter().copied().chain((1_u32 << 30).to_be_bytes()).collect();
    let large = body(stream::iter([announced]).chain(endless), 1 << 20, &room);
    let error = large.collect().await.expect_err("too large");
    let status = error.downcast_ref::<Status>().unwrap();
    let source = std::error::Error::source(status).unwrap();
    assert!(source.is::<TooLarge>());
    assert_eq!(read.load(Ordering::Relaxed), 0);
    // A second message after the first is refused.
    let two = body(stream::iter([message(b"one"), message(b"two")]), 1 << 20, &room);
    assert!(two.collect().await.is_err());
}

#[tokio::test]
async fn b4_replies_that_are_read_at_a_time_have_a_bound_together() {
    const EACH: usize = 1 << 20;
    let room = ReplyBudget::default();
    let mut begun: Vec<_> = (0..100)
        .map(|_| {
            let begins =
                [&[0][..], &u32::try_from(EACH).unwrap().to_be_bytes(), b"begins"].concat();
            body(stream::iter([begins]).chain(stream::pending()), EACH, &room)
        })
        .collect();
    let reads = |bodies: &mut Vec<_>| -> usize {
        bodies
            .iter_mut()
            .filter_map(|body: &mut BoundedBody<_>| body.frame().now_or_never())
            .count()
    };
    assert_eq!(reads(&mut begun), BUDGET / EACH);
    assert_eq!(reads(&mut begun), 0, "none of the others");
    // When a call has ended, the next one is read: those that waited longest first.
    begun.drain(..10);
    assert_eq!(reads(&mut begun), 10);
    // A small reply does not wait for them.
    let small = body(stream::iter([message(b"small")]), EACH, &room);
    assert!(small.collect().now_or_never().is_some());
}

proptest! {
    /// A message comes through complete, however it is cut into pieces.
    #[test]
    fn a_legal_reply_comes_through(length in 0..100_000_usize, cuts in prop::collection::vec(1..40_000_usize, 0..9)) {
        let message = message(&vec![7; length]);
        let mut rest = message.as_slice();
        let mut pieces = Vec::new();
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (piece, more) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece.to_vec());
            rest = more;
        }
        let room = ReplyBudget::default();
        let whole = body(stream::iter(pieces), 100_000, &room).collect();
        let whole = whole.now_or_never().expect("there is room").expect("it is legal");
        prop_assert_eq!(whole.to_bytes(), message);
    }
}
