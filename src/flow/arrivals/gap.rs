//! cursor x head -> what to read next. Pure.

/// Within this distance of the head every block is read by its hash; farther away by ranges. Also the
/// number of blocks that are read again after a reconnect and at intervals.
pub const NEAR: u64 = 32;

/// What to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPlan {
    /// Nothing new.
    Idle,
    /// Block by block, joined by parent hash. Both ends included.
    Near { from: u64, to: u64 },
    /// By number ranges, ended well below the head so that a node lagging behind knows them too.
    Far { from: u64, to: u64 },
}

/// Plans the next read after `cursor` when the chain's head is `head`.
#[must_use]
pub fn plan(cursor: u64, head: u64) -> ReadPlan {
    if head <= cursor {
        ReadPlan::Idle
    } else if head - cursor > NEAR {
        ReadPlan::Far { from: cursor + 1, to: head - NEAR }
    } else {
        ReadPlan::Near { from: cursor + 1, to: head }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{super::pages::PageSizes, *};
    use crate::chain::{reader::NodeId, rpc_error::RpcError};

    #[test]
    fn near_and_far_meet() {
        assert_eq!(plan(10, 10), ReadPlan::Idle);
        assert_eq!(plan(10, 9), ReadPlan::Idle);
        assert_eq!(plan(10, 11), ReadPlan::Near { from: 11, to: 11 });
        assert_eq!(plan(10, 42), ReadPlan::Near { from: 11, to: 42 });
        assert_eq!(plan(10, 43), ReadPlan::Far { from: 11, to: 11 });
        assert_eq!(plan(0, 1000), ReadPlan::Far { from: 1, to: 968 });
    }

    proptest! {
        /// Reading plan after plan reaches the head and skips no block.
        ///
        /// Field failure T11.
        #[test]
        fn no_block_is_skipped(start in 0u64..10_000, ahead in 0u64..10_000, failures in prop::collection::vec(any::<bool>(), 0..64)) {
            let head = start + ahead;
            let mut cursor = start;
            let mut pages = PageSizes::default();
            let now = Instant::now();
            let error = RpcError::Refused {
                host: "node".into(), code: -32000, message: "too many results".into(), data: None,
            };
            let mut failures = failures.into_iter();
            loop {
                let (from, to) = match plan(cursor, head) {
                    ReadPlan::Idle => break,
                    ReadPlan::Near { from, to } => (from, to),
                    ReadPlan::Far { from, to } => pages.page(NodeId(0), from, to),
                };
                prop_assert_eq!(from, cursor + 1);
                prop_assert!(to >= from && to <= head);
                if failures.next().unwrap_or(false) {
                    pages.record_failure(NodeId(0), (from, to), &error, now);
                    continue;
                }
                pages.record_success(NodeId(0), (from, to), now);
                cursor = to;
            }
            prop_assert_eq!(cursor, head);
        }
    }
}
