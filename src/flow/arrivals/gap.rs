//! cursor x head -> what to read next. Pure.

/// Within so many blocks of the head every block is read by its hash; farther away by ranges.
/// Also how many blocks are read again after a reconnect and every now and then.
pub const NEAR: u64 = 32;

/// What to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing new.
    Idle,
    /// Block by block, joined by parent hash. Both ends included.
    Near { from: u64, to: u64 },
    /// By number ranges, ended well below the head so that a node lagging behind knows them too.
    Far { from: u64, to: u64 },
}

/// Plans the next read after `cursor` when the chain's head is `head`.
#[must_use]
pub fn plan(cursor: u64, head: u64) -> Plan {
    if head <= cursor {
        Plan::Idle
    } else if head - cursor > NEAR {
        Plan::Far { from: cursor + 1, to: head - NEAR }
    } else {
        Plan::Near { from: cursor + 1, to: head }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{super::pages::Pages, *};
    use crate::gateway::provider::{NodeId, RpcError};

    #[test]
    fn near_and_far_meet() {
        assert_eq!(plan(10, 10), Plan::Idle);
        assert_eq!(plan(10, 9), Plan::Idle);
        assert_eq!(plan(10, 11), Plan::Near { from: 11, to: 11 });
        assert_eq!(plan(10, 42), Plan::Near { from: 11, to: 42 });
        assert_eq!(plan(10, 43), Plan::Far { from: 11, to: 11 });
        assert_eq!(plan(0, 1000), Plan::Far { from: 1, to: 968 });
    }

    proptest! {
        /// Reading plan after plan reaches the head and skips no block.
        ///
        /// Field failure T11.
        #[test]
        fn no_block_is_skipped(start in 0u64..10_000, ahead in 0u64..10_000, failures in prop::collection::vec(any::<bool>(), 0..64)) {
            let head = start + ahead;
            let mut cursor = start;
            let mut pages = Pages::default();
            let now = Instant::now();
            let error = RpcError::Refused {
                host: "node".into(), code: -32000, message: "too many results".into(), data: None,
            };
            let mut failures = failures.into_iter();
            loop {
                let (from, to) = match plan(cursor, head) {
                    Plan::Idle => break,
                    Plan::Near { from, to } => (from, to),
                    Plan::Far { from, to } => pages.page(NodeId(0), from, to),
                };
                prop_assert_eq!(from, cursor + 1);
                prop_assert!(to >= from && to <= head);
                if failures.next().unwrap_or(false) {
                    pages.failed(NodeId(0), (from, to), &error, now);
                    continue;
                }
                pages.worked(NodeId(0), (from, to), now);
                cursor = to;
            }
            prop_assert_eq!(cursor, head);
        }
    }
}
