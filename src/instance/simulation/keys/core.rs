//! Key operations of the simulated Core: what it knows of them.

mod calls;

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

pub(in crate::instance::simulation) use self::calls::{
    Made, Order, abort, ask, crs_digest, id_of, key_digests, result, tell,
};
use super::contract::What;
use crate::domain::{Bytes, U256};

#[derive(Clone, Debug)]
struct Work {
    what: What,
    ready: Instant,
    extra_data: Bytes,
    is_aborted: bool,
}

/// What the Core knows of key operations.
#[derive(Debug, Default)]
pub(in crate::instance::simulation) struct KeyCore {
    works: BTreeMap<U256, Work>,
    /// Everything that it ever took.
    ordered: BTreeSet<U256>,
    /// Preparations whose result was ever handed out.
    handed_out: BTreeSet<U256>,
    /// What it was told and gives no result for, and when first.
    told: BTreeMap<U256, Instant>,
}

impl KeyCore {
    /// It forgets everything, or keeps preparations that are done.
    pub fn restart(&mut self, forgets_preparations: bool) {
        let now = Instant::now();
        self.works.retain(|_, work| {
            !forgets_preparations && work.what == What::Preparation && work.ready <= now
        });
    }

    pub fn knows(&self, id: U256) -> bool {
        self.works.contains_key(&id)
    }

    pub fn was_told(&self, id: U256) -> bool {
        self.told.contains_key(&id)
    }
}
