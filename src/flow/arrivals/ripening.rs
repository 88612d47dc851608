//! When requests are handed on to the walk: once their block is deep enough.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::{Arrivals, ReadError, TAG_EVERY};
use crate::{
    flow::{
        depth::{Depth, Tag},
        intake::Intake,
        ledger::RequestLedger,
    },
    gateway::provider::{Head, Hearing, NodeId, Provider},
    lately::Lately,
};

/// Nodes whose tag is remembered.
const TAGS_OF: usize = 16;
/// Who takes longer for it is not heard this time.
const TAG_WITHIN: Duration = Duration::from_secs(2);
/// What a node told counts for so long.
const TAG_COUNTS_FOR: Duration = Duration::from_mins(1);
/// At the start a node that has not told yet is waited for so long.
const FIRST_TAGS_WITHIN: Duration = Duration::from_secs(5);

/// What the nodes told of the tag.
#[derive(Debug)]
pub(super) struct Tags {
    told: Lately<NodeId, Tag>,
    /// When they were asked first.
    since: Option<Instant>,
}

impl Default for Tags {
    fn default() -> Self {
        Self { told: Lately::new(TAGS_OF, TAG_COUNTS_FOR), since: None }
    }
}

impl Tags {
    /// Takes in what was told just now. `new`: how a tag begins.
    fn heard(&mut self, told: Vec<(NodeId, u64)>, new: Tag, head: u64, now_ms: u64) {
        let now = Instant::now();
        self.since.get_or_insert(now);
        for (node, block) in told {
            self.told.say(node, now, || new).look(Some(block), head, now_ms);
        }
    }

    /// Those that count, of so many nodes: not only of those that were heard just now. None before
    /// each of the nodes was heard, or had time for it.
    fn counting(&self, nodes: usize) -> Vec<Tag> {
        let young = self.since.is_some_and(|since| since.elapsed() < FIRST_TAGS_WITHIN);
        let told: Vec<Tag> = self.told.all(Instant::now()).copied().collect();
        if young && told.len() < nodes { Vec::new() } else { told }
    }
}

impl<P: Provider, L: RequestLedger> Arrivals<P, L> {
    /// Moves the line under this head, and hands on what it covers now.
    pub(super) async fn ripen(&mut self, head: &Head) -> Result<(), ReadError> {
        if self.depth == Depth::NONE {
            return Ok(());
        }
        self.ask_for_tag(head.block.number).await;
        let tagged = self.tag.borrow().and_then(|tag| tag.at);
        let line = self.depth.line(head.block.number, tagged);
        self.line.send_if_modified(|current| {
            let changed = *current != line;
            *current = line;
            changed
        });
        for intake in self.unripe.take(line) {
            self.hand_on(intake).await?;
        }
        Ok(())
    }

    /// Asks where the finality tag is, now and then, and says so if that is where it was long ago.
    async fn ask_for_tag(&mut self, head: u64) {
        let Some(at) = self.depth.tag() else { return };
        if self.tag_asked.is_some_and(|asked| asked.elapsed() < TAG_EVERY) {
            return;
        }
        let ask = |one: P| async move { one.header(at).await };
        let hearing = Hearing::of(self.adapter.provider(), TAG_WITHIN, ask).await;
        let told = hearing.said.into_iter();
        let told = told.filter_map(|(node, block)| Some((node, block?.block.number))).collect();
        self.tag_asked = Some(Instant::now());
        let now_ms = self.notes.now_ms();
        let new = Tag::new(self.depth.finality, head, now_ms);
        self.tags.heard(told, new, head, now_ms);
        let told = self.tags.counting(self.adapter.provider().node_count().min(TAGS_OF));
        let known = *self.tag.borrow();
        let tag = Tag::lowest(&told, now_ms).unwrap_or_else(|| {
            let mut tag = known.unwrap_or(new);
            tag.look(None, head, now_ms);
            tag
        });
        if known != Some(tag) {
            self.tag.send_replace(Some(tag));
        }
        if !tag.stands_still(now_ms) {
            self.tag_repeats.over();
        } else if let Some(times) = self.tag_repeats.heard("tag_stands_still", Instant::now()) {
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

    pub(super) async fn hand_on(&self, intake: Intake) -> Result<(), ReadError> {
        // The journal has it: a stop here only means that the next start walks it.
        let sent = self.heart.rest_while(self.walk.send(intake)).await;
        sent.map_err(|_| ReadError::Stopping)
    }
}
