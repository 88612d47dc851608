//! What the modelled lane has recorded.

use std::collections::{BTreeSet, HashMap};

use crate::{
    chain::lane::{GiveUpReason, MinedTransaction, Recovered, SignedTransaction, TransactionId},
    domain::{B256, BlockRef, U256},
};

/// What is durable.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub rows: Vec<SignedTransaction>,
    pub mined: HashMap<B256, BlockRef>,
    pub given_up: HashMap<B256, GiveUpReason>,
}

impl Ledger {
    pub fn recovered(&self) -> Recovered {
        let used: BTreeSet<u64> = self
            .rows
            .iter()
            .filter(|row| self.mined.contains_key(&row.hash))
            .map(|row| row.nonce)
            .collect();
        let open = |row: &&SignedTransaction| {
            !used.contains(&row.nonce) && !self.given_up.contains_key(&row.hash)
        };
        let mined = self.rows.iter().filter_map(|row| {
            let block = *self.mined.get(&row.hash)?;
            Some(MinedTransaction { nonce: row.nonce, hash: row.hash, block })
        });
        let mut open: Vec<SignedTransaction> = self.rows.iter().filter(open).cloned().collect();
        open.sort_by_key(|row| row.nonce);
        let mut mined: Vec<MinedTransaction> = mined.collect();
        mined.sort_by_key(|one| one.nonce);
        let rejected = |row: &&SignedTransaction| {
            !matches!(
                self.given_up.get(&row.hash),
                Some(GiveUpReason::Rejected | GiveUpReason::Stranded)
            )
        };
        let highest = self.rows.iter().filter(rejected).map(|row| row.nonce).max();
        let stranded = |row: &&SignedTransaction| {
            self.given_up.get(&row.hash) == Some(&GiveUpReason::Stranded)
        };
        let stranded = self.rows.iter().filter(stranded).cloned().collect();
        Recovered { open, mined, highest, stranded }
    }

    /// The same where a receipt is not enough: of requests without an outcome, everything recorded under the
    /// last nonce is followed.
    pub fn unconfirmed(&self, unanswered: &BTreeSet<U256>) -> Recovered {
        let last = |id: &U256| {
            let of = |row: &&SignedTransaction| row.request.is_some_and(|key| key.id == *id);
            let taken = |row: &&SignedTransaction| !self.given_up.contains_key(&row.hash);
            self.rows.iter().filter(of).filter(taken).map(|row| row.nonce).max()
        };
        let last: BTreeSet<u64> = unanswered.iter().filter_map(last).collect();
        let recovered = self.recovered();
        let used: BTreeSet<u64> = recovered.mined.iter().map(|one| one.nonce).collect();
        let follows = |row: &&SignedTransaction| {
            last.contains(&row.nonce)
                && used.contains(&row.nonce)
                && !self.given_up.contains_key(&row.hash)
        };
        let mut open = recovered.open;
        open.extend(self.rows.iter().filter(follows).cloned());
        open.sort_by_key(|row| row.nonce);
        Recovered { open, ..recovered }
    }

    /// The versions of a nonce that were not given up, oldest first.
    pub fn versions(&self, nonce: u64) -> impl Iterator<Item = &SignedTransaction> {
        let own = move |row: &&SignedTransaction| row.nonce == nonce;
        self.rows.iter().filter(own).filter(|row| !self.given_up.contains_key(&row.hash))
    }

    pub fn reopen(&mut self, ids: &[TransactionId]) -> Vec<SignedTransaction> {
        let mut nonces = BTreeSet::new();
        for row in self.rows.iter().filter(|row| ids.contains(&row.id())) {
            self.mined.remove(&row.hash);
            nonces.insert(row.nonce);
        }
        let mut open: Vec<SignedTransaction> = self
            .rows
            .iter()
            .filter(|row| nonces.contains(&row.nonce) && !self.given_up.contains_key(&row.hash))
            .cloned()
            .collect();
        open.sort_by_key(|row| row.nonce);
        open
    }
}
