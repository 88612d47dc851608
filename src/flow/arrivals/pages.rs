//! How many blocks one call for a range covers, for each node. Pure.
//!
//! Nodes refuse ranges that are too long, each at its own limit, and results that are too large. A
//! refusal is remembered, and more is tried ever more rarely: a node that allows ten blocks is not
//! asked for eleven all the time.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::chain::{quirks::RangeRefusal, reader::NodeId, rpc_error::RpcError};

/// For a node that has not refused anything.
const INITIAL: u64 = 500;
const LARGEST: u64 = 2000;
/// How long after a refusal more is tried; the time doubles with each further refusal.
const FIRST_RETRY_AFTER: Duration = Duration::from_mins(2);
const MAX_RETRY_AFTER: Duration = Duration::from_hours(8);

/// The page size of every node.
#[derive(Clone, Debug, Default)]
pub struct PageSizes(BTreeMap<NodeId, PageSize>);

impl PageSizes {
    /// The page that starts at `from`, at most up to `to`.
    #[must_use]
    pub fn page(&self, node: NodeId, from: u64, to: u64) -> (u64, u64) {
        self.0.get(&node).copied().unwrap_or_default().page(from, to)
    }

    /// The node returned these blocks.
    pub fn record_success(&mut self, node: NodeId, (from, to): (u64, u64), now: Instant) {
        self.0.entry(node).or_default().record_success(blocks(from, to), now);
    }

    /// The call failed. Returns whether the node wants a smaller range and there is one, so that the call
    /// can be repeated at once.
    pub fn record_failure(
        &mut self,
        node: NodeId,
        (from, to): (u64, u64),
        error: &RpcError,
        now: Instant,
    ) -> bool {
        let size = self.0.entry(node).or_default();
        let asked = blocks(from, to);
        match (error.range_refusal(), error) {
            (Some(RangeRefusal::Blocks { limit: most }), _) => {
                size.record_refusal(asked, most, now);
            }
            (Some(RangeRefusal::Results), _) => size.halve(asked),
            // Too large a result may also show as a timeout or a truncated response.
            (None, RpcError::Unavailable { .. } | RpcError::Unreadable { .. }) => {
                size.halve(asked);
                return false;
            }
            // For other errors, smaller ranges would only mean more calls.
            (
                None,
                RpcError::Refused { .. }
                | RpcError::RateLimited { .. }
                | RpcError::TooLarge { .. }
                | RpcError::WrongChain { .. }
                | RpcError::WrongGenesis { .. },
            ) => return false,
        }
        asked > 1
    }
}

fn blocks(from: u64, to: u64) -> u64 {
    to.saturating_sub(from).saturating_add(1)
}

/// What one node allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageSize {
    size: u64,
    /// The most that is asked: more was refused.
    ceiling: u64,
    /// The most it returned since something smaller was refused.
    largest_success: u64,
    /// When more than the ceiling is tried, and the wait that this took.
    next_increase: Option<(Instant, Duration)>,
    /// The previous ceiling, while more is being tried.
    previous_ceiling: Option<u64>,
}

impl Default for PageSize {
    fn default() -> Self {
        Self {
            size: INITIAL,
            ceiling: LARGEST,
            largest_success: 0,
            next_increase: None,
            previous_ceiling: None,
        }
    }
}

impl PageSize {
    fn page(self, from: u64, to: u64) -> (u64, u64) {
        (from, to.min(from.saturating_add(self.size - 1)))
    }

    fn record_success(&mut self, asked: u64, now: Instant) {
        self.largest_success = self.largest_success.max(asked);
        // The short page at the end of a range says nothing about the limit.
        if asked < self.size {
            return;
        }
        if let Some((at, wait)) = self.next_increase
            && self.size >= self.ceiling
            && now >= at
        {
            self.previous_ceiling = Some(std::mem::replace(&mut self.ceiling, LARGEST));
            let wait = wait.saturating_mul(2).min(MAX_RETRY_AFTER);
            self.next_increase = Some((now + wait, wait));
        } else if self.previous_ceiling.is_some_and(|before| asked > before) {
            // The limit has risen: find the new one from scratch.
            (self.previous_ceiling, self.next_increase) = (None, None);
        }
        self.size = (self.size + self.size / 4 + 1).min(self.ceiling);
    }

    /// `asked` blocks are too many. `most`: the limit that the node named.
    fn record_refusal(&mut self, asked: u64, most: Option<u64>, now: Instant) {
        self.next_increase.get_or_insert((now + FIRST_RETRY_AFTER, FIRST_RETRY_AFTER));
        if let Some(before) = self.previous_ceiling.take().filter(|before| *before < asked) {
            (self.size, self.ceiling) = (before, before);
            return;
        }
        if self.largest_success >= asked {
            self.largest_success = 0;
        }
        if let Some(most) = most.filter(|most| (1..asked).contains(most)) {
            (self.size, self.ceiling) = (most, most);
        } else {
            self.ceiling = (asked - 1).max(1);
            self.size = self.largest_success.max(asked / 2).max(1);
        }
    }

    /// These blocks had too many results. Others may have fewer.
    fn halve(&mut self, asked: u64) {
        self.size = (asked.min(self.size) / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODE: NodeId = NodeId(0);

    fn refusal(code: i64, message: &str) -> RpcError {
        RpcError::Refused { host: "node".into(), code, message: message.into(), data: None }
    }

    /// Simulates reading so many blocks from a node that allows `limit`; counts answered and refused calls.
    fn walk(
        pages: &mut PageSizes,
        now: &mut Instant,
        length: u64,
        limit: u64,
        error: &RpcError,
    ) -> (u64, u64) {
        let (mut answered, mut refused, mut from) = (0, 0, 1);
        while from <= length {
            *now += Duration::from_millis(100);
            let page = pages.page(NODE, from, length);
            if blocks(page.0, page.1) > limit {
                refused += 1;
                assert!(pages.record_failure(NODE, page, error, *now));
            } else {
                answered += 1;
                pages.record_success(NODE, page, *now);
                from = page.1 + 1;
            }
        }
        (answered, refused)
    }

    /// A3.
    #[test]
    fn a3_a_limit_is_learned_once_and_tried_higher_rarely() {
        let says = "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 \
                    block range.";
        for (limit, error, most) in [
            (10, refusal(-32600, says), 1),
            (100, refusal(-32602, "range 600 exceeds limit of 100"), 1),
            // Its error names no limit.
            (10, refusal(-32000, "block range is too wide"), 9),
            (1, refusal(-32000, "block range is too wide"), 10),
        ] {
            let (mut pages, mut now) = (PageSizes::default(), Instant::now());
            let (answered, refused) = walk(&mut pages, &mut now, 100 * limit, limit, &error);
            assert!(refused <= most, "{error}: {refused}");
            assert!(answered <= 110, "{error}: {answered}");
            // One hour.
            let (answered, refused) = walk(&mut pages, &mut now, 36_000 * limit, limit, &error);
            assert!(refused <= 10, "{error}: {refused} in {answered}");
        }
    }

    #[test]
    fn a_node_that_takes_more_again_is_asked_for_more() {
        let (mut pages, mut now) = (PageSizes::default(), Instant::now());
        walk(&mut pages, &mut now, 1000, 10, &refusal(-32000, "block range is too wide"));
        now += FIRST_RETRY_AFTER * 2;
        let error = refusal(-32000, "block range is too wide");
        let (answered, _) = walk(&mut pages, &mut now, 100_000, 2000, &error);
        assert!(answered < 100, "{answered}");
    }

    #[test]
    fn another_nodes_limit_is_another_ones() {
        let (mut pages, now) = (PageSizes::default(), Instant::now());
        let error = refusal(-32602, "range 500 exceeds limit of 100");
        assert!(pages.record_failure(NODE, (1, 500), &error, now));
        assert_eq!(pages.page(NODE, 1, 5000), (1, 100));
        assert_eq!(pages.page(NodeId(1), 1, 5000), (1, INITIAL));
    }

    #[test]
    fn c1_a_node_in_a_hurry_is_not_asked_for_less() {
        let (mut pages, now) = (PageSizes::default(), Instant::now());
        for (code, message) in [
            (429, "too many requests"),
            (-32005, "daily request count exceeded, request rate limited"),
            (-32000, "rate limit exceeded"),
            (-32005, "project ID request rate exceeded"),
            (-32000, "header not found"),
            (-32602, "block range extends beyond current head block"),
        ] {
            assert!(
                !pages.record_failure(NODE, (1, 500), &refusal(code, message), now),
                "{message}"
            );
            assert_eq!(pages.page(NODE, 1, 5000), (1, INITIAL), "{message}");
        }
        let busy = RpcError::RateLimited { host: "node".into(), what: "HTTP status 429".into() };
        assert!(!pages.record_failure(NODE, (1, 500), &busy, now));
        assert_eq!(pages.page(NODE, 1, 5000), (1, INITIAL));
        let silent = RpcError::Unavailable { host: "node".into(), what: "timed out".into() };
        assert!(!pages.record_failure(NODE, (1, 500), &silent, now));
        assert_eq!(pages.page(NODE, 1, 5000), (1, INITIAL / 2));
    }

    proptest! {
        /// Whatever is refused and however: a page has at least one block, and continues where it should.
        #[test]
        fn a_page_is_never_empty_and_never_beyond(
            steps in prop::collection::vec((0u8..4, 0u64..3000, 0u64..100_000), 1..100),
        ) {
            let (mut size, mut now) = (PageSize::default(), Instant::now());
            for (step, number, seconds) in steps {
                now += Duration::from_secs(seconds);
                let (from, to) = size.page(7, 7 + number);
                prop_assert!(from == 7 && to >= 7 && to <= 7 + number && to - from < LARGEST);
                let asked = blocks(from, to);
                match step {
                    0 => size.record_success(asked, now),
                    1 => size.record_refusal(asked, None, now),
                    2 => size.record_refusal(asked, Some(number), now),
                    _ => size.halve(asked),
                }
            }
        }
    }
}
