//! When requests are handed on to the walk: once their block is deep enough.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::{Arrivals, ReadError, TAG_EVERY};
use crate::{
    flow::{
        depth::{Depth, Tag},
        intake::Intake,
        ledger::RequestLedger,
    },
    gateway::provider::{At, Head, NodeId, Provider},
};

/// Nodes asked for their tag, at most.
const TAGS_OF: usize = 3;
/// Who takes longer for it is not heard this time.
const TAG_WITHIN: Duration = Duration::from_secs(2);
/// What a node told counts for so long.
const TAG_COUNTS_FOR: Duration = Duration::from_mins(1);
/// At the start a node that has not told yet is waited for so long.
const FIRST_TAGS_WITHIN: Duration = Duration::from_secs(5);

/// What the nodes told of the tag.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// Of each, and when it did last.
    told: HashMap<NodeId, (Tag, Instant)>,
    /// When they were asked first.
    since: Option<Instant>,
}

impl Tags {
    /// Takes in what was told just now. `new`: how a tag begins.
    fn heard(&mut self, told: Vec<(NodeId, u64)>, new: Tag, head: u64, now_ms: u64) {
        let now = Instant::now();
        self.since.get_or_insert(now);
        for (node, block) in told {
            let (tag, at) = self.told.entry(node).or_insert((new, now));
            tag.look(Some(block), head, now_ms);
            *at = now;
        }
    }

    /// Those that count, of so many nodes: not only of those that were heard just now. None before
    /// each of the nodes was heard, or had time for it.
    fn counting(&self, nodes: usize) -> Vec<Tag> {
        let young = self.since.is_some_and(|since| since.elapsed() < FIRST_TAGS_WITHIN);
        if young && self.told.len() < nodes {
            return Vec::new();
        }
        let told = self.told.values().filter(|(_, at)| at.elapsed() < TAG_COUNTS_FOR);
        told.map(|(tag, _)| *tag).collect()
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
        let told = self.told_tags(at).await;
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

    /// Where the sound nodes have it; of those that say so in time.
    async fn told_tags(&self, at: At) -> Vec<(NodeId, u64)> {
        let provider = self.adapter.provider();
        let asking = provider.sound_nodes().into_iter().take(TAGS_OF).map(|node| {
            let provider = provider.only(node);
            async move { (node, timeout(TAG_WITHIN, provider.header(at)).await) }
        });
        let mut told = Vec::new();
        for (node, answer) in join_all(asking).await {
            match answer {
                Ok(Ok(Some(block))) => told.push((node, block.block.number)),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => debug!(?at, %error, "a node does not tell the finality tag"),
                Err(_) => {
                    debug!(?at, host = provider.host(node), "the finality tag comes too late");
                }
            }
        }
        told
    }

    pub(super) async fn hand_on(&self, intake: Intake) -> Result<(), ReadError> {
        // The journal has it: a stop here only means that the next start walks it.
        let sent = self.heart.rest_while(self.walk.send(intake)).await;
        sent.map_err(|_| ReadError::Stopping)
    }
}
