//! The requests of a simulated world: events as the contract emits them, and their ciphertexts.

use std::collections::BTreeMap;

use alloy::{primitives::keccak256, sol, sol_types::SolEvent};
use fastrand::Rng;

use crate::{
    contracts::abi::Counter,
    domain::{Address, B256, BlockRef, Bytes, Event, U256},
};

sol! {
    event PublicDecryptionRequest(
        uint256 indexed decryptionId,
        (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
        bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
        address userAddress,
        bytes publicKey,
        bytes extraData
    );
}

/// Two coprocessors, each with a bucket.
pub(super) const COPROCESSORS: [Address; 2] =
    [Address::repeat_byte(0xc1), Address::repeat_byte(0xc2)];

/// The buckets' hosts, in the order of [`COPROCESSORS`].
pub(super) const BUCKETS: [&str; 2] = ["http://one.bucket/ct128", "http://two.bucket/ct128"];

/// Serialisation names of ciphertexts.
pub(super) const COMPRESSED: &str = "high_level_api::CompressedSquashedNoiseCiphertextList";
const EXPANDED: &str = "high_level_api::SquashedNoiseFheUint";

/// Every request ever made.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    made: u64,
    /// Ciphertexts by digest.
    pub ciphertexts: BTreeMap<B256, Bytes>,
}

impl Catalogue {
    /// A new request with its own handles. Its block assigns its number.
    pub fn request(&mut self, dice: &mut Rng) -> Event {
        self.made += 1;
        let made = self.made;
        let user = dice.bool();
        // The top byte is the kind's tag.
        let counter = if user { Counter::User } else { Counter::Public };
        let id = counter.id(0);
        let materials: Vec<_> = (0..dice.u64(1..=3))
            .map(|nth| {
                let mut handle = keccak256([made.to_be_bytes(), nth.to_be_bytes()].concat());
                handle.0[30] = 2;
                let body = ciphertext(handle, dice);
                let digest = keccak256(&body);
                self.ciphertexts.insert(digest, body);
                (handle, U256::from(7), digest, COPROCESSORS.to_vec())
            })
            .collect();
        let extra_data = Bytes::from_static(&[0]);
        let log = if user {
            let public_key = Bytes::from(keccak256(made.to_be_bytes()).to_vec());
            let user = Address::repeat_byte(0xee);
            UserDecryptionRequest {
                decryptionId: id,
                snsCtMaterials: materials,
                userAddress: user,
                publicKey: public_key,
                extraData: extra_data,
            }
            .encode_log_data()
        } else {
            PublicDecryptionRequest {
                decryptionId: id,
                snsCtMaterials: materials,
                extraData: extra_data,
            }
            .encode_log_data()
        };
        Event {
            block: BlockRef { number: 0, hash: B256::ZERO },
            transaction: keccak256([made.to_be_bytes(), [0xee; 8]].concat()),
            log_index: 0,
            topics: log.topics().to_vec(),
            data: log.data,
        }
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
    let id = U256::from_be_bytes(event.topics[1].0);
    (id & U256::from(u64::MAX)).to()
}
