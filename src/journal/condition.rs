//! The condition of a journal's store, for observers. Writer and readers report it; the instance shows
//! it and acts on it.

use std::sync::Arc;

use tokio::sync::watch;

use super::{JournalError, StoreError, store::StoreId};

/// Damage found in an open journal.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The damaged store: by now another one may be in its place.
    pub(super) store_id: StoreId,
    /// The store's error.
    pub cause: Arc<StoreError>,
}

/// The condition of one open journal. Clones share it; it outlives the journal.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    waiting_reason: watch::Sender<Option<JournalError>>,
    damage: watch::Sender<Option<Damage>>,
}

impl Condition {
    /// Why nothing can be stored at the moment, if so: the writer retries, and all callers wait.
    #[must_use]
    pub fn waiting_reason(&self) -> Option<JournalError> {
        self.waiting_reason.borrow().clone()
    }

    /// The damage that was found, if any.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        self.damage.borrow().clone()
    }

    /// Waits until damage is found.
    pub async fn wait_damaged(&self) -> Damage {
        let mut damage = self.damage.subscribe();
        match damage.wait_for(Option::is_some).await.ok().and_then(|found| found.clone()) {
            Some(found) => found,
            // Cannot happen: `self` holds the sender.
            None => std::future::pending().await,
        }
    }

    /// Returns whether it changed.
    pub(super) fn set_waiting_reason(&self, why: Option<JournalError>) -> bool {
        self.waiting_reason.send_if_modified(|waits| {
            let news =
                waits.as_ref().map(JournalError::code) != why.as_ref().map(JournalError::code);
            *waits = why;
            news
        })
    }

    /// The first report is kept.
    pub(super) fn set_damage(&self, mark: StoreId, cause: Arc<StoreError>) {
        self.damage.send_if_modified(|damage| {
            let first = damage.is_none();
            if first {
                *damage = Some(Damage { store_id: mark, cause });
            }
            first
        });
    }
}
