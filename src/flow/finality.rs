//! Tracks the *final height*: the highest block whose requests may be processed. It moves with the
//! chain's head and, if the rule names one, with the finality tag as every node reports it.
//!
//! Requests are journaled as soon as they are read. Those above the final height wait at the dispatcher,
//! without a permit, and nowhere else: a walk that finds its request in a higher block ends, and the
//! request waits there again. Status views ask here why a request waits.

pub mod rule;
use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::warn;

use crate::flow::finality::rule::{FinalHeight, FinalityRule, TagPosition};
use crate::{
    chain::{
        reader::{ChainReader, NodeId},
        survey::Survey,
    },
    telemetry::log_throttle::LogThrottle,
    time::{clock::Clock, recent_map::RecentMap},
};

/// How often the nodes are asked for their finality tag, at most, unless it is said: it advances by itself.
const TAG_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The most nodes whose tag is remembered.
const MAX_NODES: usize = 16;
/// A node that takes longer is skipped in this round.
const TAG_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node's last tag is used.
const TAG_VALID_FOR: Duration = Duration::from_mins(1);
/// How long a start waits for nodes that have not reported a tag yet.
const FIRST_TAGS_TIMEOUT: Duration = Duration::from_secs(5);

/// Moves the final height.
#[derive(Debug)]
pub struct FinalityTracker<P> {
    provider: P,
    rule: FinalityRule,
    final_height: watch::Sender<FinalHeight>,
    /// The effective tag, and what each node reported.
    tag: watch::Sender<Option<TagPosition>>,
    tags_by_node: RecentMap<NodeId, TagPosition>,
    /// When the nodes were asked first, and last.
    first_and_last_poll: Option<(Instant, Instant)>,
    log_throttle: LogThrottle,
    clock: Clock,
    tag_interval: Duration,
}

impl<P: ChainReader> FinalityTracker<P> {
    /// With this rule.
    pub fn new(
        provider: P,
        rule: FinalityRule,
        final_height: watch::Sender<FinalHeight>,
        clock: Clock,
    ) -> Self {
        let (tag, tags_by_node) =
            (watch::channel(None).0, RecentMap::new(MAX_NODES, TAG_VALID_FOR));
        Self {
            provider,
            rule,
            final_height,
            tag,
            tags_by_node,
            first_and_last_poll: None,
            log_throttle: LogThrottle::default(),
            clock,
            tag_interval: TAG_POLL_INTERVAL,
        }
    }

    /// Asks the nodes for their tag at this interval at most. Not longer than what a tag is used for.
    #[must_use]
    pub fn asking_every(self, tag_interval: Duration) -> Self {
        Self { tag_interval, ..self }
    }

    /// The effective tag, if the rule names one.
    pub fn tag(&self) -> watch::Receiver<Option<TagPosition>> {
        self.tag.subscribe()
    }

    /// Moves the final height until it is dropped.
    pub async fn run(mut self) {
        let mut heads = self.provider.heads();
        loop {
            let head = *heads.borrow_and_update();
            if let Some(head) = head.filter(|_| self.rule != FinalityRule::NONE) {
                self.refresh(head.block.number).await;
            }
            let is_asked = self.rule.node_tag().is_some();
            tokio::select! {
                biased;
                changed = heads.changed() => if changed.is_err() {
                    // The instance is stopping.
                    std::future::pending::<()>().await;
                },
                () = sleep(self.tag_interval), if is_asked => {}
            }
        }
    }

    /// Recomputes the final height for this head.
    async fn refresh(&mut self, head: u64) {
        self.poll_tag(head).await;
        let final_height = self.rule.final_height(head, self.tag.borrow().and_then(|tag| tag.at));
        self.final_height
            .send_if_modified(|current| std::mem::replace(current, final_height) != final_height);
    }

    /// Asks for the finality tag at intervals, and logs if it has not moved for long.
    async fn poll_tag(&mut self, head: u64) {
        let Some(at) = self.rule.node_tag() else { return };
        if self.first_and_last_poll.is_some_and(|(_, last)| last.elapsed() < self.tag_interval) {
            return;
        }
        let ask = |one: P| async move { one.header(at).await };
        let hearing = Survey::run(&self.provider, TAG_TIMEOUT, ask).await;
        let (now, now_ms) = (Instant::now(), self.clock.unix_millis());
        let new = TagPosition::new(self.rule.finality, head, now_ms);
        for (node, block) in hearing.replies {
            if let Some(block) = block {
                let tag = self.tags_by_node.touch(node, now, || new);
                tag.update(Some(block.block.number), head, now_ms);
            }
        }
        let first = self.first_and_last_poll.map_or(now, |(first, _)| first);
        self.first_and_last_poll = Some((first, now));
        let known = *self.tag.borrow();
        let tag = TagPosition::lowest(&self.valid_tags(first, now), now_ms).unwrap_or_else(|| {
            let mut tag = known.unwrap_or(new);
            tag.update(None, head, now_ms);
            tag
        });
        if known != Some(tag) {
            self.tag.send_replace(Some(tag));
        }
        if !tag.is_stale(now_ms) {
            self.log_throttle.reset();
        } else if let Some(times) = self.log_throttle.should_log("tag_stands_still", now) {
            let (name, still) = (tag.finality.as_str(), tag.unmoved_for(now_ms));
            let at = tag.at;
            warn!(
                tag = name,
                at,
                head,
                ?still,
                times,
                "the finality tag stands still: requests wait for it"
            );
        }
    }

    /// The tags in use, which include recent ones of nodes that did not answer just now. None before every
    /// node has answered, or had time to since the first question.
    fn valid_tags(&self, first: Instant, now: Instant) -> Vec<TagPosition> {
        let told: Vec<TagPosition> = self.tags_by_node.values(now).copied().collect();
        let nodes = self.provider.node_count().min(MAX_NODES);
        let young = now.saturating_duration_since(first) < FIRST_TAGS_TIMEOUT;
        if young && told.len() < nodes { Vec::new() } else { told }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::{
        chain::fake_chain::{FakeChain, NodeFaults},
        domain::{Kind, PerKind},
        flow::finality::rule::FinalityTag as Asked,
    };

    /// A final height that moves.
    struct Moving {
        line: watch::Receiver<FinalHeight>,
        tag: watch::Receiver<Option<TagPosition>>,
        _running: JoinSet<()>,
    }

    impl Moving {
        fn under(chain: &FakeChain, depth: FinalityRule) -> Self {
            let (sender, line) = watch::channel(depth.final_height(0, None));
            let finality = FinalityTracker::new(chain.clone(), depth, sender, Clock::Wall);
            let (tag, mut running) = (finality.tag(), JoinSet::new());
            running.spawn(finality.run());
            Self { line, tag, _running: running }
        }

        async fn after(&self, millis: u64) -> Option<u64> {
            sleep(Duration::from_millis(millis)).await;
            self.line.borrow().of(Kind::UserDecryption)
        }
    }

    const FINALIZED: FinalityRule =
        FinalityRule { finality: Asked::Finalized, ..FinalityRule::NONE };

    #[tokio::test(start_paused = true)]
    async fn the_line_moves_with_the_head() {
        let chain = FakeChain::new(40);
        let depth = FinalityRule { confirmations: PerKind::all(3), ..FinalityRule::NONE };
        let moving = Moving::under(&chain, depth);
        assert_eq!(moving.after(100).await, Some(37));
        chain.mine_empty(1);
        assert_eq!(moving.after(100).await, Some(38));
        let open = Moving::under(&chain, FinalityRule::NONE);
        assert_eq!(open.after(100).await, Some(u64::MAX));
    }

    /// T17: a request above the node's tag is not processed. The tag moves while the chain stands still.
    #[tokio::test(start_paused = true)]
    async fn t17_the_line_is_at_the_finality_tag() {
        let chain = FakeChain::new(140);
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(5000).await, None, "who does not tell holds everything back");
        for tagged in [41, 45] {
            chain.state().tagged = Some(tagged);
            assert_eq!(moving.after(5000).await, Some(tagged));
        }
    }

    /// One of two nodes calls every block final: nothing is decrypted on its word alone.
    #[tokio::test(start_paused = true)]
    async fn b5_the_tag_is_where_every_node_has_it() {
        let chain = FakeChain::new(42);
        chain.state().faults = vec![NodeFaults::default(), NodeFaults::default()];
        chain.state().tagged = Some(40);
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(100).await, Some(40));
        chain.state().faults[0].tagged = Some(42);
        assert_eq!(moving.after(5000).await, Some(40));
        chain.state().tagged = Some(41);
        assert_eq!(moving.after(5000).await, Some(41));
        // A node that has been silent for long is ignored.
        chain.state().faults[1].is_silent = true;
        assert_eq!(moving.after(65_000).await, Some(42));
    }

    /// One of two nodes calls every block final while the other one is briefly silent.
    #[tokio::test(start_paused = true)]
    async fn l5_what_a_node_told_of_the_tag_a_moment_ago_counts() {
        let chain = FakeChain::new(41);
        chain.state().tagged = Some(40);
        chain.state().faults = vec![NodeFaults::default(), NodeFaults::default()];
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(1500).await, Some(40));
        chain.state().faults[0].tagged = Some(41);
        chain.state().faults[1].is_silent = true;
        assert_eq!(moving.after(50_000).await, Some(40));
        assert_eq!(moving.after(15_000).await, Some(41), "but not for ever");
    }

    /// The same before the other node has connected.
    #[tokio::test(start_paused = true)]
    async fn l5_a_node_whose_tag_was_never_told_is_waited_for() {
        let chain = FakeChain::new(41);
        chain.state().faults =
            vec![NodeFaults::default(), NodeFaults { is_silent: true, ..NodeFaults::default() }];
        (chain.state().tagged, chain.state().faults[0].tagged) = (Some(40), Some(41));
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(2500).await, None);
        chain.state().faults[1].is_silent = false;
        assert_eq!(moving.after(10_000).await, Some(40));
        // A node that is down for good is not waited for.
        chain.state().faults[1].is_silent = true;
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(10_000).await, Some(41));
    }

    #[tokio::test(start_paused = true)]
    async fn a8_where_the_tag_stands_is_told() {
        let chain = FakeChain::new(41);
        let moving = Moving::under(&chain, FINALIZED);
        moving.after(100).await;
        assert_eq!(moving.tag.borrow().unwrap().at, None, "the node does not tell it");
        chain.state().tagged = Some(35);
        moving.after(5000).await;
        assert_eq!(moving.tag.borrow().unwrap().at, Some(35));
    }
}
