//! How far a contract is read that is read beside another one of its chain.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::{
    admin::status::ContractPosition,
    domain::{Address, BlockRef},
    flow::arrivals::reading_state::{ReadingState, UncertainBlocks},
};

/// Of one contract. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::instance) struct BesideReading {
    name: &'static str,
    contract: Address,
    /// Its cursor, and what is uncertain, once the journal has told where it is continued.
    begun: Arc<OnceLock<(watch::Receiver<Option<BlockRef>>, ReadingState)>>,
}

impl BesideReading {
    pub(in crate::instance) fn new(name: &'static str, contract: Address) -> Self {
        Self { name, contract, begun: Arc::default() }
    }

    /// Reading begins. A reading begins once.
    pub(in crate::instance) fn begin(
        &self,
        progress: watch::Receiver<Option<BlockRef>>,
        state: ReadingState,
    ) {
        self.begun.get_or_init(|| (progress, state));
    }

    pub(super) fn position(&self) -> ContractPosition {
        let cursor = self.begun.get().and_then(|(progress, _)| *progress.borrow());
        ContractPosition {
            name: self.name.to_owned(),
            contract: self.contract.to_string(),
            cursor: cursor.map(|block| block.number),
        }
    }

    pub(super) fn uncertain(&self) -> UncertainBlocks {
        self.begun.get().map(|(_, state)| state.uncertain()).unwrap_or_default()
    }
}
