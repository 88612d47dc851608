//! Detects gateway nodes that do not follow the chain: one that others have passed, or all of them
//! where no new block appears. Pure: each node's view and the time are arguments.
//!
//! Lag is measured in time, not in blocks, which fits any block time. Where no node shows a newer
//! block, a stale node and a quiet chain look the same, so the report names both. A disconnected node
//! is neither; the connection state is reported elsewhere.

use std::time::Duration;

use super::lag::Lag;
use crate::{admin::status::StaleNode, telemetry::metrics::NodeGauges};

/// A node is stale when others have known a newer block for this long. Sound nodes are a moment apart.
const BEHIND_AFTER: Duration = Duration::from_secs(10);
/// No node has shown a new block for this long. A live chain is never without one for as long.
const NO_BLOCK_AFTER: Duration = Duration::from_mins(1);

/// A node's host, whether it is connected, and its newest block.
type NodeView<'n> = (&'n str, bool, Option<u64>);

/// State per node, in the order in which they are passed.
#[derive(Debug, Default)]
pub(super) struct StaleNodes {
    each: Vec<ObservedNode>,
}

#[derive(Debug, Default)]
struct ObservedNode {
    /// Its newest block, and since when (Unix ms) it shows that; `None` if disconnected.
    shows: Option<(u64, u64)>,
    /// Blocks that other nodes have shown above its own.
    lag: Lag,
    behind_since_ms: Option<u64>,
}

impl StaleNodes {
    /// Updates all nodes. Returns each node's state and what an operator should know.
    pub(super) fn update<'n>(
        &mut self,
        sights: &[NodeView<'n>],
        now_ms: u64,
    ) -> (Vec<NodeGauges<'n>>, Vec<StaleNode>) {
        let newest = sights.iter().filter_map(connected_head).max();
        self.each.resize_with(sights.len(), ObservedNode::default);
        for (node, sight) in self.each.iter_mut().zip(sights) {
            node.update(connected_head(sight), newest, now_ms);
        }
        let since = |at_ms| Duration::from_millis(now_ms.saturating_sub(at_ms));
        let gauges = self.each.iter().zip(sights).map(|(node, (host, up, head))| NodeGauges {
            host,
            up: *up,
            head: *head,
            behind: node.shows.map(|_| node.behind_since_ms.map_or(Duration::ZERO, since)),
            still: node.shows.map(|(_, at_ms)| since(at_ms)),
        });
        let told =
            self.behind(sights, newest, now_ms).chain(self.all_still(sights, newest, now_ms));
        (gauges.collect(), told.collect())
    }

    fn behind(
        &self,
        sights: &[NodeView<'_>],
        newest: Option<u64>,
        now_ms: u64,
    ) -> impl Iterator<Item = StaleNode> {
        self.each.iter().zip(sights).filter_map(move |(node, (host, ..))| {
            let (since_ms, (head, _)) = (node.behind_since_ms?, node.shows?);
            let host = (*host).to_owned();
            has_passed(BEHIND_AFTER, since_ms, now_ms).then_some(StaleNode {
                host,
                head,
                since_ms,
                others: newest,
            })
        })
    }

    /// All connected nodes as one report, if none of them advances.
    fn all_still(
        &self,
        sights: &[NodeView<'_>],
        newest: Option<u64>,
        now_ms: u64,
    ) -> Option<StaleNode> {
        let moved_ms = self.each.iter().filter_map(|node| Some(node.shows?.1)).max()?;
        let shown = sights.iter().filter(|sight| connected_head(sight).is_some());
        let mut hosts: Vec<&str> = shown.map(|(host, ..)| *host).collect();
        // Two nodes may share a host.
        hosts.dedup();
        let told =
            StaleNode { host: hosts.join(", "), head: newest?, since_ms: moved_ms, others: None };
        has_passed(NO_BLOCK_AFTER, moved_ms, now_ms).then_some(told)
    }
}

impl ObservedNode {
    fn update(&mut self, head: Option<u64>, newest: Option<u64>, now_ms: u64) {
        let (Some(head), Some(newest)) = (head, newest) else {
            *self = Self::default();
            return;
        };
        if self.shows.is_none_or(|(known, _)| known != head) {
            self.shows = Some((head, now_ms));
        }
        self.behind_since_ms = self.lag.update(head, newest, now_ms);
    }
}

fn connected_head((_, up, head): &NodeView<'_>) -> Option<u64> {
    head.filter(|_| *up)
}

fn has_passed(time: Duration, since_ms: u64, now_ms: u64) -> bool {
    Duration::from_millis(now_ms.saturating_sub(since_ms)) >= time
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report at a given second: host, since when, and whether others know more.
    fn told(
        nodes: &mut StaleNodes,
        second: u64,
        sights: &[NodeView<'_>],
    ) -> Vec<(String, u64, bool)> {
        let (_, told) = nodes.update(sights, second * 1_000);
        let told = told.into_iter();
        told.map(|node| (node.host, node.since_ms / 1_000, node.others.is_some())).collect()
    }

    #[test]
    fn one_that_others_have_passed_is_told_until_it_follows() {
        let mut nodes = StaleNodes::default();
        for second in 1..=10 {
            let sights = [("a", true, Some(100 + second)), ("b", true, Some(100))];
            assert!(told(&mut nodes, second, &sights).is_empty());
        }
        let sights = [("a", true, Some(111)), ("b", true, Some(100))];
        assert_eq!(told(&mut nodes, 11, &sights), [("b".to_owned(), 1, true)]);
        let (gauges, _) = nodes.update(&sights, 11_000);
        assert_eq!(
            gauges.iter().map(|one| one.behind.unwrap().as_secs()).collect::<Vec<_>>(),
            [0, 10]
        );
        // It advances one block a second and stays the same distance behind.
        for second in 12..40 {
            let sights = [("a", true, Some(100 + second)), ("b", true, Some(85 + second))];
            let [(host, _, true)] = &told(&mut nodes, second, &sights)[..] else {
                panic!("{second}");
            };
            assert_eq!(host, "b");
        }
        let sights = [("a", true, Some(141)), ("b", true, Some(141))];
        assert!(told(&mut nodes, 41, &sights).is_empty());
    }

    #[test]
    fn a_chain_on_which_nothing_comes_is_told_once_for_all_nodes() {
        let mut nodes = StaleNodes::default();
        let still = [("a", true, Some(7)), ("b", true, Some(7)), ("c", false, Some(9))];
        for second in 0..60 {
            assert!(told(&mut nodes, second, &still).is_empty(), "{second}");
        }
        assert_eq!(told(&mut nodes, 60, &still), [("a, b".to_owned(), 0, false)]);
        let (gauges, _) = nodes.update(&still, 60_000);
        let seconds: Vec<_> = gauges.iter().map(|one| one.still.map(|it| it.as_secs())).collect();
        assert_eq!(seconds, [Some(60), Some(60), None]);
        let next = [("a", true, Some(8)), ("b", true, Some(7)), ("c", false, Some(9))];
        assert!(told(&mut nodes, 61, &next).is_empty());
    }

    #[test]
    fn one_that_was_away_is_given_its_time() {
        let mut nodes = StaleNodes::default();
        let at = |up, head| [("a", up, Some(head))];
        assert!(told(&mut nodes, 0, &at(true, 7)).is_empty());
        assert!(told(&mut nodes, 100, &at(false, 7)).is_empty());
        assert!(told(&mut nodes, 101, &at(true, 7)).is_empty());
        assert_eq!(told(&mut nodes, 161, &at(true, 7)), [("a".to_owned(), 101, false)]);
    }
}
