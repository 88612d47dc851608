//! Ciphertexts: what the event says of one, and its bytes.

use alloy::primitives::{Address, B256, Bytes, U256};

/// One encrypted value of a request (`SnsCiphertextMaterial` on chain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    pub handle: B256,
    /// The FHE key that encrypted it. The same for all materials of a request.
    pub key_id: U256,
    /// keccak256 of the ciphertext's bytes in the buckets.
    pub digest: B256,
    /// Transaction senders of the coprocessors that store it, in the event's order.
    pub coprocessors: Vec<Address>,
}

impl Material {
    /// The FHE type number of the encrypted value (protocol: ciphertext-storage 6).
    #[must_use]
    pub fn fhe_type(&self) -> u8 {
        fhe_type(&self.handle)
    }
}

/// The FHE type number of a handle (protocol: ciphertext-storage 6).
#[must_use]
pub fn fhe_type(handle: &B256) -> u8 {
    handle[30]
}

/// The id of the host chain that owns a handle: bytes 22 to 29, big-endian (protocol: ciphertext-storage
/// 6).
#[must_use]
pub fn handle_chain_id(handle: &B256) -> u64 {
    handle[22..30].iter().fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

/// The number of bits of a value of this FHE type; a Bool counts as two, as on chain. `None`: an
/// unknown type.
#[must_use]
pub fn fhe_bits(fhe_type: u8) -> Option<u64> {
    Some(match fhe_type {
        0 | 12 => 2,
        1 => 4,
        13 => 6,
        2 => 8,
        3 => 16,
        4 => 32,
        5 => 64,
        6 => 128,
        7 => 160,
        8 => 256,
        9 => 512,
        10 => 1024,
        11 => 2048,
        _ => return None,
    })
}

/// A ciphertext whose bytes have the digest from the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ciphertext {
    pub handle: B256,
    pub format: CiphertextFormat,
    pub body: Bytes,
}

/// How a ciphertext is serialised: the KMS Core must be told (protocol: ciphertext-storage 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CiphertextFormat {
    BigCompressed,
    BigExpanded,
}
