//! Every request of a simulated world, and the ciphertexts that the coprocessors keep for it.

use std::{collections::BTreeMap, sync::Arc};

use alloy::primitives::keccak256;
use fastrand::Rng;

use super::{
    asks::{Ask, Cipher, Making},
    deployment::HOST_IDS,
};
use crate::{
    contracts::abi::Generation,
    domain::{B256, Bytes, Event, U256},
};

/// Serialisation names of ciphertexts.
pub(super) const COMPRESSED: &str = "high_level_api::CompressedSquashedNoiseCiphertextList";
const EXPANDED: &str = "high_level_api::SquashedNoiseFheUint";

/// Every request ever made.
#[derive(Debug)]
pub(super) struct Catalogue {
    made: u64,
    /// Number of host chains that own handles.
    chains: usize,
    /// Ciphertexts by digest.
    pub ciphertexts: BTreeMap<B256, Bytes>,
    /// Digests by handle.
    pub digests: BTreeMap<B256, B256>,
}

impl Catalogue {
    pub fn new(chains: usize) -> Self {
        Self { made: 0, chains, ciphertexts: BTreeMap::new(), digests: BTreeMap::new() }
    }

    /// A new request with its own handles. Its block assigns its number. `context`: the number of the current
    /// one. `now`: Unix seconds.
    pub fn request(
        &mut self,
        (generation, context, now): (Generation, u64, u64),
        may_be_flawed: bool,
        dice: &mut Rng,
    ) -> Arc<Ask> {
        self.made += 1;
        let made = self.made;
        let host = HOST_IDS[dice.usize(..self.chains)];
        let may_mix = self.chains > 1 && dice.u8(..4) == 0;
        let ciphers = (0..dice.u64(1..=3))
            .map(|nth| {
                let host = if may_mix { HOST_IDS[dice.usize(..self.chains)] } else { host };
                let mut handle = keccak256([made.to_be_bytes(), nth.to_be_bytes()].concat());
                handle[22..30].copy_from_slice(&host.to_be_bytes());
                (handle[30], handle[31]) = (2, 0);
                let body = ciphertext(handle, dice);
                let digest = keccak256(&body);
                self.ciphertexts.insert(digest, body);
                Cipher { handle, digest }
            })
            .collect();
        let making = Making { made, generation, context, now, may_be_flawed, ciphers };
        let ask = Ask::new(making, dice);
        let digests = ask.ciphers.iter().map(|cipher| (cipher.handle, cipher.digest));
        self.digests.extend(digests);
        Arc::new(ask)
    }
}

impl Catalogue {
    /// The same request once more, in a transaction of its own.
    pub fn repeat(&mut self, ask: &Ask) -> Arc<Ask> {
        self.made += 1;
        Arc::new(ask.again(self.made))
    }
}

/// Bytes that name their type, as real ciphertexts do, and their handle.
fn ciphertext(handle: B256, dice: &mut Rng) -> Bytes {
    let name = if dice.bool() { COMPRESSED } else { EXPANDED };
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let head = [&text("0.5")[..], &[0; 4], &text("0.1"), &text(name)].concat();
    [head, handle.0.repeat(1 + dice.usize(..4))].concat().into()
}

/// The number that its block assigned to the request.
pub(super) fn number_of(event: &Event) -> u64 {
    let of_keys = || event.data.get(..32).map_or(U256::ZERO, U256::from_be_slice);
    let id = event.topics.get(1).map_or_else(of_keys, |topic| U256::from_be_bytes(topic.0));
    (id & U256::from(u64::MAX)).to()
}
