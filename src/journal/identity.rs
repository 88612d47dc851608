//! The chain and wallet that a journal belongs to, and the file name made of them.

use crate::domain::{Address, B256};

/// The chain and wallet that a journal belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub chain_id: u64,
    /// The hash of block 0.
    pub genesis: B256,
    pub wallet: Address,
}

impl Identity {
    /// `<chain id>-<first 16 hex digits of the genesis hash>-<wallet>`, without an extension.
    #[must_use]
    pub fn file_stem(&self) -> String {
        format!("{}-{}-{:x}", self.chain_id, Self::genesis_prefix(self.genesis), self.wallet)
    }

    /// The first eight bytes of the genesis hash, in hex.
    pub(super) fn genesis_prefix(genesis: B256) -> String {
        alloy::hex::encode(&genesis[..8])
    }

    /// Returns whether `stem` may be that of another wallet on the same chain.
    pub(super) fn shares_chain_with(&self, stem: &str) -> bool {
        let own = self.file_stem();
        let chain = own.rsplit_once('-').map_or("", |(chain, _)| chain);
        stem.rsplit_once('-').is_some_and(|(other, _)| other == chain)
    }

    /// Returns whether `stem` is that of the same chain id and wallet on another genesis.
    pub(super) fn is_reset_of(&self, stem: &str) -> bool {
        let prefix = format!("{}-", self.chain_id);
        let suffix = format!("-{:x}", self.wallet);
        stem != self.file_stem()
            && stem.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&suffix)).is_some_and(
                |genesis| {
                    genesis.len() == 16 && genesis.bytes().all(|byte| byte.is_ascii_hexdigit())
                },
            )
    }
}
