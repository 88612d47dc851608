//! Reads that requests share: of one contract, under one head.
//!
//! A contract's state changes with blocks only. So who asks under the same head shares one answer, those
//! included who ask while it is being read. The next head forgets all answers, and so does a head that
//! stands still for long: it may be that of a node which does. A failed read is nobody's answer but of those
//! who waited for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::time::Instant;

use super::RegistryError;
use crate::domain::{B256, Bytes};

/// Answers that are shared. Contexts come with requests: none may fill the memory. What finds no room is
/// read for its asker alone.
const MOST_READS: usize = 256;
/// A head that stands still for longer than this is no reason to believe an answer.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// What came back. `None`: the contract has no such function or refuses, or the node has dropped the state of
/// the block.
pub(super) type Returned = Option<Bytes>;
pub(super) type Reading = BoxFuture<'static, Result<Returned, RegistryError>>;

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    /// The hash of the block. `None`: the newest.
    pub at: Option<B256>,
    pub calldata: Bytes,
}

/// The answers under the newest head. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedReads(Arc<Mutex<Answers>>);

#[derive(Debug, Default)]
struct Answers {
    /// The head under which they were read, and when the first of them was asked for.
    head: Option<(B256, Instant)>,
    /// Counts the times that all answers were forgotten.
    era: u64,
    reads: BTreeMap<Question, Read>,
}

#[derive(Debug)]
enum Read {
    /// It goes on as long as somebody waits for it.
    Underway(WeakShared<Reading>),
    Known(Returned),
}

impl SharedReads {
    /// The answer to `question` under this head; `read` asks for it if nobody did. `None`: there is no head
    /// yet, and nothing is shared.
    pub(super) async fn get(
        &self,
        head: Option<B256>,
        question: Question,
        read: impl FnOnce() -> Reading,
    ) -> Result<Returned, RegistryError> {
        let Some(head) = head else { return read().await };
        let (reading, era) = match self.lock().find(head, &question, read) {
            Found::Known(returned) => return Ok(returned),
            Found::Underway(reading, era) => (reading, era),
        };
        let returned = reading.await?;
        self.lock().keep(era, question, &returned);
        Ok(returned)
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is to a question.
enum Found {
    Known(Returned),
    /// Begun in this era.
    Underway(Shared<Reading>, u64),
}

impl Answers {
    fn find(&mut self, head: B256, question: &Question, read: impl FnOnce() -> Reading) -> Found {
        self.follow(head, Instant::now());
        match self.reads.get(question) {
            Some(Read::Known(returned)) => return Found::Known(returned.clone()),
            Some(Read::Underway(reading)) => {
                // One that is done and not known has failed.
                let underway = reading.upgrade().filter(|reading| reading.peek().is_none());
                if let Some(reading) = underway {
                    return Found::Underway(reading, self.era);
                }
            }
            None => {}
        }
        let reading = read().shared();
        if let Some(shared) = reading.downgrade()
            && (self.reads.len() < MOST_READS || self.reads.contains_key(question))
        {
            self.reads.insert(question.clone(), Read::Underway(shared));
        }
        Found::Underway(reading, self.era)
    }

    /// Forgets everything if the head is another one, or has stood still.
    fn follow(&mut self, head: B256, now: Instant) {
        let is_same = self.head.is_some_and(|(known, since)| {
            known == head && now.saturating_duration_since(since) < BELIEVED_FOR
        });
        if !is_same {
            self.head = Some((head, now));
            self.era += 1;
            self.reads.clear();
        }
    }

    /// Keeps an answer, unless everything was forgotten since it was asked for.
    fn keep(&mut self, era: u64, question: Question, returned: &Returned) {
        if self.era == era && self.reads.contains_key(&question) {
            self.reads.insert(question, Read::Known(returned.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
