//! What the `KMSGeneration` contract asks a KMS node for: key material instead of a decryption (protocol:
//! gateway-abi 6). It takes hours, and its answer is a vote that cannot be taken back.
//!
//! Up to G12 the contract stands on the gateway and says nothing of a KMS context. From G13 on it stands on
//! Ethereum, and its events have `extraData`, which names one and is signed: so that alone tells the two apart.

use super::{B256, Bytes, U256};

/// A key operation with its arguments. The id of its request is the id of what is made: `prepKeygenId`,
/// `keyId`, `crsId`; or of the request to undo that ([`abort_id`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOperation {
    /// Prepare a key generation.
    PrepKeygen { parameters: KeyParameters, extra_data: Option<Bytes> },
    /// Generate a key from this preparation.
    Keygen { preparation: U256, extra_data: Option<Bytes> },
    /// Generate a common reference string for proofs of up to this many bits.
    Crsgen { max_bits: U256, parameters: KeyParameters, extra_data: Option<Bytes> },
    /// This preparation, and the key made of it, are not wanted any more.
    AbortKeygen { preparation: U256 },
    /// This common reference string is not wanted any more.
    AbortCrsgen { crs: U256 },
    /// Set up the shared randomness of the nodes (v0.9.7 to v0.12, like the next one).
    PrssInit,
    /// Share this key anew among the same nodes.
    KeyReshare { preparation: U256, key: U256, parameters: KeyParameters },
    /// An event of the contract that this version does not know. Its request's id is its content.
    UnsupportedEvent {
        /// `None`: it is anonymous.
        topic: Option<B256>,
    },
}

impl KeyOperation {
    /// What is signed beside the result, exactly as on chain. `None`: up to G12, where nothing is.
    #[must_use]
    pub fn extra_data(&self) -> Option<&Bytes> {
        match self {
            Self::PrepKeygen { extra_data, .. }
            | Self::Keygen { extra_data, .. }
            | Self::Crsgen { extra_data, .. } => extra_data.as_ref(),
            Self::AbortKeygen { .. }
            | Self::AbortCrsgen { .. }
            | Self::PrssInit
            | Self::KeyReshare { .. }
            | Self::UnsupportedEvent { .. } => None,
        }
    }
}

/// The id of the request to set up randomness, whose event has none. The Core knows it by another one.
#[must_use]
pub fn prss_init_id() -> U256 {
    (U256::from(0x86) << 248) | U256::ONE
}

/// The id of the request to abort what has this id. It is an id of its own: two requests of one id exclude each
/// other, because ids are counters. No counter reaches its highest bit.
#[must_use]
pub fn abort_id(aborted: U256) -> U256 {
    aborted | (U256::ONE << 255)
}

/// In which form a key is made. From v0.13 on contracts leave that to the operators: all nodes have to make the
/// same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRepresentation {
    /// A server key and a public key.
    Uncompressed,
    /// A public key and a compressed key set, which contracts take from v0.15-dev (HEAD) on.
    Compressed,
}

impl KeyRepresentation {
    pub const ALL: [Self; 2] = [Self::Uncompressed, Self::Compressed];

    /// The name in the configuration, in messages and in the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Compressed => "compressed",
        }
    }

    /// The representation of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }
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
