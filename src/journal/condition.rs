//! How a journal's store is, for who looks from outside. Writer and readers tell it here; the
//! instance shows it and acts on it.

use std::sync::Arc;

use tokio::sync::watch;

use super::{JournalError, StoreError, store::StoreId};

/// A journal that was found to be damaged while it was open.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The store it was found in: another one may stand there by now.
    pub(super) store_id: StoreId,
    /// What the store says.
    pub cause: Arc<StoreError>,
}

/// The condition of one open journal. Clones share it; it outlives the journal.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    waiting_reason: watch::Sender<Option<JournalError>>,
    damage: watch::Sender<Option<Damage>>,
}

impl Condition {
    /// Why nothing can be stored just now, if so: the writer tries on, and everybody waits for it.
    #[must_use]
    pub fn waiting_reason(&self) -> Option<JournalError> {
        self.waiting_reason.borrow().clone()
    }

    /// What damage was found, if any.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        self.damage.borrow().clone()
    }

    /// Waits until damage is found.
    pub async fn wait_damaged(&self) -> Damage {
        let mut damage = self.damage.subscribe();
        match damage.wait_for(Option::is_some).await.ok().and_then(|found| found.clone()) {
            Some(found) => found,
            // The sender is ours, so it is not gone.
            None => std::future::pending().await,
        }
    }

    /// Answers whether that is news.
    pub(super) fn set_waiting_reason(&self, why: Option<JournalError>) -> bool {
        self.waiting_reason.send_if_modified(|waits| {
            let news =
                waits.as_ref().map(JournalError::code) != why.as_ref().map(JournalError::code);
            *waits = why;
            news
        })
    }

    /// The first word counts.
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
