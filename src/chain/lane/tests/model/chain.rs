//! The modelled chain, and what its nodes keep of transactions that are not mined.

use std::collections::BTreeMap;

use alloy::primitives::keccak256;

use crate::{
    chain::{
        lane::{SignedTransaction, fee_market::Fees, unsigned::fees_and_gas_of},
        reader::{Head, NodeId, Receipt},
    },
    domain::{B256, BlockRef},
};

/// A mined transaction, and the bytes if it is ours.
#[derive(Clone, Debug)]
pub(super) struct ModelTransaction {
    pub nonce: u64,
    pub hash: B256,
    pub raw: Option<SignedTransaction>,
}

/// How a pool treats what it does not have yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PoolMood {
    #[default]
    Open,
    /// It takes replacements only.
    Full,
    /// It wants a tip of so many wei per gas.
    Dear(u128),
    /// It refuses what the base fee has outgrown.
    Strict,
}

/// A chain with two nodes, each with a pool of its own.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub blocks: Vec<(BlockRef, Vec<ModelTransaction>)>,
    pub forks: u64,
    pub pools: [BTreeMap<u64, SignedTransaction>; 2],
    /// Wei per gas. `None`: a sequencer's chain, where fees play no part.
    pub base_fee: Option<u128>,
    pub moods: [PoolMood; 2],
    /// The highest number of blocks that it ever had.
    pub longest: usize,
}

/// Where there are pools, no reorganisation goes further below the highest block that ever was.
const DEEPEST: usize = 30;

pub(super) fn fees_of(transaction: &SignedTransaction) -> Fees {
    fees_and_gas_of(transaction).expect("our own bytes decode").0
}

impl Chain {
    pub fn count(&self) -> u64 {
        self.blocks.iter().map(|(_, mined)| mined.len() as u64).sum()
    }

    pub fn height(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    pub fn mined(&self) -> impl Iterator<Item = (&BlockRef, &ModelTransaction)> {
        self.blocks.iter().flat_map(|(block, mined)| mined.iter().map(move |one| (block, one)))
    }

    pub fn receipt(&self, hash: B256) -> Option<Receipt> {
        let (block, _) = self.mined().find(|(_, mined)| mined.hash == hash)?;
        Some(Receipt { hash, block: *block, success: true, gas_used: 90_000, gas_price: 1 })
    }

    /// What the next block contains under a nonce.
    fn best(&self, nonce: u64) -> Option<SignedTransaction> {
        let mut there = self.pools.iter().filter_map(|pool| pool.get(&nonce));
        let pays =
            |one: &&SignedTransaction| self.base_fee.is_none_or(|base| fees_of(one).max >= base);
        there.find(pays).cloned()
    }

    pub fn block(&mut self, foreign: bool) -> Head {
        let mut next = self.count();
        let mut mined = Vec::new();
        if foreign {
            mined.push(ModelTransaction {
                nonce: next,
                hash: keccak256(next.to_be_bytes()),
                raw: None,
            });
            next += 1;
        }
        while let Some(one) = self.best(next) {
            mined.push(ModelTransaction { nonce: next, hash: one.hash, raw: Some(one) });
            next += 1;
        }
        for pool in &mut self.pools {
            pool.retain(|nonce, _| *nonce >= next);
        }
        let number = self.blocks.len() as u64;
        let hash = keccak256([number.to_be_bytes(), self.forks.to_be_bytes()].concat());
        let parent = self.blocks.last().map_or(B256::ZERO, |(block, _)| block.hash);
        let block = BlockRef { number, hash };
        self.blocks.push((block, mined));
        let (base_fee, gas_limit, by) = (Some(self.base_fee.unwrap_or(1)), None, NodeId(0));
        let timestamp = None;
        Head { block, parent, bloom: None, base_fee, gas_limit, timestamp, connection: 1, node: by }
    }

    /// Removes the last `depth` blocks. `back`: their transactions return to the first node's pool.
    pub fn reorganise(&mut self, depth: usize, back: bool) {
        self.longest = self.longest.max(self.blocks.len());
        let deepest = if self.base_fee.is_some() { DEEPEST } else { self.longest };
        let lowest = self.longest.saturating_sub(deepest).max(1);
        let left = self.blocks.len().saturating_sub(depth).max(lowest);
        self.forks += 1;
        for (_, mined) in self.blocks.split_off(left) {
            for one in mined.into_iter().filter_map(|mined| mined.raw).filter(|_| back) {
                self.pools[0].insert(one.nonce, one);
            }
        }
    }

    pub fn take(
        &mut self,
        pool: usize,
        transaction: &SignedTransaction,
    ) -> Result<(), &'static str> {
        let nonce = transaction.nonce;
        if nonce < self.count() {
            return Err("nonce too low");
        }
        // A sequencer's node replaces a transaction only if the new one pays more, which the state always
        // does.
        if let Some(base) = self.base_fee {
            self.pool_takes(pool, base, transaction)?;
        }
        self.pools[pool].insert(nonce, transaction.clone());
        Ok(())
    }

    fn pool_takes(
        &self,
        pool: usize,
        base: u128,
        transaction: &SignedTransaction,
    ) -> Result<(), &'static str> {
        let fees = fees_of(transaction);
        match (self.pools[pool].get(&transaction.nonce), self.moods[pool]) {
            (Some(old), _) if old.hash == transaction.hash => return Ok(()),
            (Some(old), _) => {
                let old = fees_of(old);
                let is_more = |new: u128, old: u128| new * 10 >= old * 11;
                if !(is_more(fees.max, old.max) && is_more(fees.tip, old.tip)) {
                    return Err("replacement transaction underpriced");
                }
            }
            (None, PoolMood::Full) => return Err("txpool is full"),
            (None, PoolMood::Dear(least)) if fees.tip < least => {
                return Err("transaction underpriced");
            }
            (None, _) => {}
        }
        if self.moods[pool] == PoolMood::Strict && fees.max < base {
            return Err("max fee per gas less than block base fee");
        }
        Ok(())
    }

    /// The lowest nonce that is missing below one in a pool.
    pub fn gap(&self) -> Option<u64> {
        let has = |nonce: &u64| self.pools.iter().any(|pool| pool.contains_key(nonce));
        let last =
            self.pools.iter().filter_map(|pool| pool.last_key_value()).map(|(n, _)| *n).max();
        (self.count()..last?).find(|nonce| !has(nonce))
    }
}
