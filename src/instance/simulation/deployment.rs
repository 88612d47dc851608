//! Chains, contracts and coprocessors of a simulated world, as all its parts know them.

use alloy::signers::local::PrivateKeySigner;

use crate::domain::{Address, B256, RequestSource};

pub(super) const CHAIN_ID: u64 = 54_321;
pub(super) const DECRYPTION: Address = Address::repeat_byte(0xdc);
/// The chain and contract of every request.
pub(super) const SOURCE: RequestSource = RequestSource { chain_id: CHAIN_ID, contract: DECRYPTION };
pub(super) const GATEWAY_CONFIG: Address = Address::repeat_byte(0x9c);

/// Asks for key operations.
pub(super) const KMS_GENERATION: Address = Address::repeat_byte(0x6e);

/// The host chains.
pub(super) const HOST_IDS: [u64; 2] = [31_337, 31_338];
/// The first of them, which is Ethereum.
pub(super) const HOST_ID: u64 = HOST_IDS[0];
pub(super) const ACL: Address = Address::repeat_byte(0xac);
pub(super) const PROTOCOL_CONFIG: Address = Address::repeat_byte(0x9f);

/// A coprocessor, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coprocessor(u8);

pub(super) const COPROCESSORS: [Coprocessor; 3] = [Coprocessor(0), Coprocessor(1), Coprocessor(2)];
/// How many of them must attest the same.
pub(super) const THRESHOLD: u64 = 2;

impl Coprocessor {
    pub fn tx_sender(self) -> Address {
        Address::repeat_byte(0xc0 + self.0)
    }

    pub fn key(self) -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(0xc0 + self.0)).unwrap()
    }

    /// The base URL of its bucket.
    pub fn bucket(self) -> &'static str {
        ["http://one.bucket/ct128", "http://two.bucket/ct128", "http://three.bucket/ct128"]
            [usize::from(self.0)]
    }
}
