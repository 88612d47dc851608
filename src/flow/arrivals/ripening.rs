//! When requests are handed on to the walk: once their block is deep enough.

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Arrivals, ReadError, TAG_EVERY};
use crate::{
    clock,
    flow::{
        Intake, RequestLedger,
        depth::{Depth, Tag},
    },
    gateway::provider::{Head, Provider},
};

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
        let told = self.adapter.provider().header(at).await;
        self.tag_asked = Some(Instant::now());
        let told = told.unwrap_or_else(|error| {
            debug!(tag = ?at, %error, "could not ask for the finality tag");
            None
        });
        let now_ms = clock::unix_millis();
        let known = *self.tag.borrow();
        let mut tag = known.unwrap_or_else(|| Tag::new(self.depth.finality, head, now_ms));
        tag.look(told.map(|block| block.block.number), head, now_ms);
        if known != Some(tag) {
            self.tag.send_replace(Some(tag));
        }
        if !tag.stands_still(now_ms) {
            self.tag_repeats.over();
        } else if let Some(times) = self.tag_repeats.heard("still", Instant::now()) {
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
