//! Why an open request is not further: what it waits for, where nothing that failed says so. For who
//! asks for requests, and of the one that waits longest for everybody.

use tokio::sync::watch;

use super::line::line_of_listed;
use crate::{
    domain::{Kind, RequestKey, Source},
    flow::{
        Attended, Doing, Entrance,
        depth::{Depth, Line, Tag},
    },
    journal::{Listed, StageName},
    observe::{
        requests::{RequestLine, Told},
        status::WaitingRequest,
    },
};

/// Who is on the way need not say why, in milliseconds.
const LONG_MS: u64 = 10_000;

/// What there is to ask.
#[derive(Clone, Debug)]
pub(super) struct Why {
    /// Where all that is told comes from.
    pub source: Source,
    /// How deep in the chain a request has to be before it is walked, and what that comes to now.
    pub depth: Depth,
    pub line: watch::Receiver<Line>,
    pub tag: watch::Receiver<Option<Tag>>,
    /// Who has it in hand.
    pub walk: Entrance,
}

impl Why {
    pub(super) fn new(
        source: Source,
        depth: Depth,
        line: &watch::Receiver<Line>,
        tag: &watch::Receiver<Option<Tag>>,
        walk: &Entrance,
    ) -> Self {
        Self { source, depth, line: line.clone(), tag: tag.clone(), walk: walk.clone() }
    }

    /// Has those that wait say for what.
    pub(super) fn explain(&self, told: &mut Told, now_ms: u64) {
        let explain = |request: &mut RequestLine| request.waits = self.of(request, now_ms);
        match told {
            Told::Lines { requests, .. } => requests.iter_mut().for_each(explain),
            Told::Stories { requests } => {
                requests.iter_mut().map(|story| &mut story.line).for_each(explain);
            }
            Told::Exported { requests, .. } => {
                requests.iter_mut().map(|one| &mut one.story.line).for_each(explain);
            }
            Told::Retried { .. } | Told::Backfilled(_) => {}
        }
    }

    /// The oldest one that is not held, if it has stood where it is for long.
    pub(super) fn longest(&self, oldest: &Listed, now_ms: u64) -> Option<WaitingRequest> {
        let line = line_of_listed(oldest);
        let why = self.of(&line, now_ms).or(line.last_error.clone()).unwrap_or_default();
        let since_ms = line.since_ms();
        let (id, stage) = (line.id, line.stage);
        let is_long = now_ms.saturating_sub(since_ms) >= LONG_MS;
        is_long.then_some(WaitingRequest { id, stage, since_ms, why })
    }

    /// `None`: it is on its way, is held, has ended, or the last failure says why.
    fn of(&self, request: &RequestLine, now_ms: u64) -> Option<String> {
        if request.held.is_some() || request.outcome.is_some() {
            return None;
        }
        let kind = Kind::from_name(&request.kind);
        let (line, tag) = (*self.line.borrow(), *self.tag.borrow());
        if request.stage == StageName::Arrived.as_str()
            && let Some(why) = self.depth.why(kind?, request.block, line, tag)
        {
            return Some(why);
        }
        let key = RequestKey {
            source: self.source,
            id: request.id.parse().ok()?,
            content: request.content.parse().ok()?,
        };
        let is_long = now_ms.saturating_sub(request.since_ms()) >= LONG_MS;
        in_hand(self.walk.attended(key), &request.stage).filter(|_| is_long)
    }
}

fn in_hand(attended: Attended, stage: &str) -> Option<String> {
    match attended {
        Attended::InVain => None,
        Attended::By(Doing::Sending) if stage == StageName::Submitted.as_str() => {
            Some("its transaction waits to be mined".to_owned())
        }
        Attended::By(doing) => Some(doing.to_string()),
        Attended::Nobody => {
            Some("waits in the journal until those before it are walked".to_owned())
        }
    }
}
