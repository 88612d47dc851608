//! What the `KMSGeneration` contract asks a KMS node for: key material instead of a decryption (protocol:
//! gateway-abi 6). It takes hours, and its answer is a vote that cannot be taken back.

use super::{B256, U256};

/// A key operation with its arguments. The id of its request is the id of what is made: `prepKeygenId`,
/// `keyId`, `crsId`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOperation {
    /// Prepare a key generation.
    PrepKeygen { parameters: KeyParameters },
    /// Generate a key from this preparation.
    Keygen { preparation: U256 },
    /// Generate a common reference string for proofs of up to this many bits.
    Crsgen { max_bits: U256, parameters: KeyParameters },
    /// An event of the contract that this version does not know. Its request's id is its content.
    UnsupportedEvent {
        /// `None`: it is anonymous.
        topic: Option<B256>,
    },
}

/// The parameters of the encryption scheme (`ParamsType` on chain, `FheParameter` of the Core).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyParameters {
    Default,
    /// Small, fast and without any security.
    Test,
}

impl KeyParameters {
    /// The number in the contracts' enum. `None`: it has no such member.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Default),
            1 => Some(Self::Test),
            _ => None,
        }
    }

    /// The inverse of [`Self::from_number`].
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Test => 1,
        }
    }
}
