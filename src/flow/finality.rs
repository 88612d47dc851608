//! The one gate: up to which block requests may be walked. The line moves with the chain's head, and with the
//! finality tag where one is asked for, as every node tells it.
//!
//! Requests are journaled as they are read. Those above the line wait at the dispatcher and take no place;
//! the walk looks again whether their block is still there, and whoever shows them asks here why they wait.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::warn;

use super::depth::{Depth, Line, Tag};
use crate::{
    clock::Clock,
    gateway::provider::{ChainReader, Hearing, NodeId},
    lately::Lately,
    repeats::Repeats,
};

/// How often the nodes are asked for their finality tag, at most. It moves by itself.
const TAG_EVERY: Duration = Duration::from_secs(1);
/// Nodes whose tag is remembered.
const TAGS_OF: usize = 16;
/// Who takes longer for it is not heard this time.
const TAG_WITHIN: Duration = Duration::from_secs(2);
/// What a node told counts for so long.
const TAG_COUNTS_FOR: Duration = Duration::from_mins(1);
/// At the start a node that has not told yet is waited for so long.
const FIRST_TAGS_WITHIN: Duration = Duration::from_secs(5);

/// What moves the line.
#[derive(Debug)]
pub struct Finality<P> {
    provider: P,
    depth: Depth,
    line: watch::Sender<Line>,
    /// The tag that counts, and what each node told.
    tag: watch::Sender<Option<Tag>>,
    told: Lately<NodeId, Tag>,
    /// When the nodes were asked first, and last.
    asked: Option<(Instant, Instant)>,
    repeats: Repeats,
    clock: Clock,
}

impl<P: ChainReader> Finality<P> {
    /// The line of this depth.
    pub fn new(provider: P, depth: Depth, line: watch::Sender<Line>, clock: Clock) -> Self {
        let (tag, told) = (watch::channel(None).0, Lately::new(TAGS_OF, TAG_COUNTS_FOR));
        Self { provider, depth, line, tag, told, asked: None, repeats: Repeats::default(), clock }
    }

    /// The tag that counts, where one is asked for.
    pub fn tag(&self) -> watch::Receiver<Option<Tag>> {
        self.tag.subscribe()
    }

    /// Moves the line until it is dropped.
    pub async fn run(mut self) {
        let mut heads = self.provider.heads();
        loop {
            let head = *heads.borrow_and_update();
            if let Some(head) = head.filter(|_| self.depth != Depth::NONE) {
                self.look(head.block.number).await;
            }
            let is_asked = self.depth.tag().is_some();
            tokio::select! {
                biased;
                changed = heads.changed() => if changed.is_err() {
                    // The instance is stopping.
                    std::future::pending::<()>().await;
                },
                () = sleep(TAG_EVERY), if is_asked => {}
            }
        }
    }

    /// Under this head.
    async fn look(&mut self, head: u64) {
        self.ask_for_tag(head).await;
        let line = self.depth.line(head, self.tag.borrow().and_then(|tag| tag.at));
        self.line.send_if_modified(|current| std::mem::replace(current, line) != line);
    }

    /// Asks where the finality tag is, now and then, and says so if that is where it was long ago.
    async fn ask_for_tag(&mut self, head: u64) {
        let Some(at) = self.depth.tag() else { return };
        if self.asked.is_some_and(|(_, last)| last.elapsed() < TAG_EVERY) {
            return;
        }
        let ask = |one: P| async move { one.header(at).await };
        let hearing = Hearing::of(&self.provider, TAG_WITHIN, ask).await;
        let (now, now_ms) = (Instant::now(), self.clock.unix_millis());
        let new = Tag::new(self.depth.finality, head, now_ms);
        for (node, block) in hearing.said {
            if let Some(block) = block {
                let tag = self.told.say(node, now, || new);
                tag.look(Some(block.block.number), head, now_ms);
            }
        }
        let first = self.asked.map_or(now, |(first, _)| first);
        self.asked = Some((first, now));
        let known = *self.tag.borrow();
        let tag = Tag::lowest(&self.counting(first, now), now_ms).unwrap_or_else(|| {
            let mut tag = known.unwrap_or(new);
            tag.look(None, head, now_ms);
            tag
        });
        if known != Some(tag) {
            self.tag.send_replace(Some(tag));
        }
        if !tag.stands_still(now_ms) {
            self.repeats.over();
        } else if let Some(times) = self.repeats.heard("tag_stands_still", now) {
            let (name, still) = (tag.finality.as_str(), tag.still(now_ms));
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

    /// Those that count: not only of the nodes that were heard just now. None before each node was heard,
    /// or had time for it since they were asked first.
    fn counting(&self, first: Instant, now: Instant) -> Vec<Tag> {
        let told: Vec<Tag> = self.told.all(now).copied().collect();
        let nodes = self.provider.node_count().min(TAGS_OF);
        let young = now.saturating_duration_since(first) < FIRST_TAGS_WITHIN;
        if young && told.len() < nodes { Vec::new() } else { told }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::{
        domain::{Kind, PerKind},
        flow::depth::Finality as Asked,
        gateway::fake_chain::{FakeChain, Lies},
    };

    /// A line that moves: the highest block that it covers.
    struct Moving {
        line: watch::Receiver<Line>,
        tag: watch::Receiver<Option<Tag>>,
        _running: JoinSet<()>,
    }

    impl Moving {
        fn under(chain: &FakeChain, depth: Depth) -> Self {
            let (sender, line) = watch::channel(depth.line(0, None));
            let finality = Finality::new(chain.clone(), depth, sender, Clock::Wall);
            let (tag, mut running) = (finality.tag(), JoinSet::new());
            running.spawn(finality.run());
            Self { line, tag, _running: running }
        }

        async fn after(&self, millis: u64) -> Option<u64> {
            sleep(Duration::from_millis(millis)).await;
            self.line.borrow().of(Kind::UserDecryption)
        }
    }

    const FINALIZED: Depth = Depth { finality: Asked::Finalized, ..Depth::NONE };

    #[tokio::test(start_paused = true)]
    async fn the_line_moves_with_the_head() {
        let chain = FakeChain::new(40);
        let depth = Depth { confirmations: PerKind::all(3), ..Depth::NONE };
        let moving = Moving::under(&chain, depth);
        assert_eq!(moving.after(100).await, Some(37));
        chain.mine_empty(1);
        assert_eq!(moving.after(100).await, Some(38));
        let open = Moving::under(&chain, Depth::NONE);
        assert_eq!(open.after(100).await, Some(u64::MAX));
    }

    /// T17: what the node's tag does not cover is not acted on. The tag moves while the chain stands.
    #[tokio::test(start_paused = true)]
    async fn t17_the_line_is_at_the_finality_tag() {
        let chain = FakeChain::new(140);
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(5000).await, None, "who does not tell holds everything back");
        for tagged in [41, 45] {
            chain.node().tagged = Some(tagged);
            assert_eq!(moving.after(5000).await, Some(tagged));
        }
    }

    /// One of two nodes calls everything final: nothing is decrypted by its word alone.
    #[tokio::test(start_paused = true)]
    async fn b5_the_tag_is_where_every_node_has_it() {
        let chain = FakeChain::new(42);
        chain.node().lies = vec![Lies::default(), Lies::default()];
        chain.node().tagged = Some(40);
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(100).await, Some(40));
        chain.node().lies[0].tagged = Some(42);
        assert_eq!(moving.after(5000).await, Some(40));
        chain.node().tagged = Some(41);
        assert_eq!(moving.after(5000).await, Some(41));
        // A node that does not answer for long has no say.
        chain.node().lies[1].mute = true;
        assert_eq!(moving.after(65_000).await, Some(42));
    }

    /// One of two nodes calls everything final, and the other one is away for a moment.
    #[tokio::test(start_paused = true)]
    async fn l5_what_a_node_told_of_the_tag_a_moment_ago_counts() {
        let chain = FakeChain::new(41);
        chain.node().tagged = Some(40);
        chain.node().lies = vec![Lies::default(), Lies::default()];
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(1500).await, Some(40));
        chain.node().lies[0].tagged = Some(41);
        chain.node().lies[1].mute = true;
        assert_eq!(moving.after(50_000).await, Some(40));
        assert_eq!(moving.after(15_000).await, Some(41), "but not for ever");
    }

    /// Nor does it count that the other one is not connected yet.
    #[tokio::test(start_paused = true)]
    async fn l5_a_node_whose_tag_was_never_told_is_waited_for() {
        let chain = FakeChain::new(41);
        chain.node().lies = vec![Lies::default(), Lies { mute: true, ..Lies::default() }];
        (chain.node().tagged, chain.node().lies[0].tagged) = (Some(40), Some(41));
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(2500).await, None);
        chain.node().lies[1].mute = false;
        assert_eq!(moving.after(10_000).await, Some(40));
        // One that is away for good is not waited for.
        chain.node().lies[1].mute = true;
        let moving = Moving::under(&chain, FINALIZED);
        assert_eq!(moving.after(10_000).await, Some(41));
    }

    #[tokio::test(start_paused = true)]
    async fn a8_where_the_tag_stands_is_told() {
        let chain = FakeChain::new(41);
        let moving = Moving::under(&chain, FINALIZED);
        moving.after(100).await;
        assert_eq!(moving.tag.borrow().unwrap().at, None, "the node does not tell it");
        chain.node().tagged = Some(35);
        moving.after(5000).await;
        assert_eq!(moving.tag.borrow().unwrap().at, Some(35));
    }
}
