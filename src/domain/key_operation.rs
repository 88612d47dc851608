//! What the `KMSGeneration` contract asks a KMS node for: key material instead of a decryption (protocol:
//! gateway-abi 6). It takes hours, and its answer is a vote that cannot be taken back.
//!
//! Up to G12 the contract stands on the gateway and says nothing of a KMS context. From G13 on it stands on
//! Ethereum, and its events have `extraData`, which names one and is signed: so that alone tells the two apart.
//!
//! From G14 on the `ProtocolConfig` contract beside it asks for KMS contexts and epochs (gateway-abi 7): who the
//! nodes are, and that they share all keys anew.

use std::sync::Arc;

use super::{B256, Bytes, Kind, KmsContext, U256};

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
    /// Know this KMS context, and confirm that.
    NewKmsContext {
        /// The one in force when it was defined, or [`no_context`].
        previous: U256,
        context: Arc<KmsContext>,
        /// Of everything that its event says, as the contract computes it.
        info_hash: B256,
    },
    /// Share all keys anew for this KMS context, and confirm the result.
    NewKmsEpoch {
        context: U256,
        /// The same one, if its keys are shared anew in place.
        previous_context: U256,
        previous_epoch: U256,
        /// The keys that were complete after this block.
        material_block: U256,
        /// What is signed beside each key.
        extra_data: Bytes,
    },
    /// This KMS context is no more, nor is any epoch of it.
    ContextDestroyed { context: U256 },
    /// This epoch is no more.
    EpochDestroyed { epoch: U256 },
    /// An event that tells of contexts or epochs and asks a node for nothing. Its request's id is its content.
    RecordedEvent {
        /// Its signature.
        event: &'static str,
    },
    /// An event of the contract that this version does not know. Its request's id is its content.
    UnsupportedEvent {
        /// `None`: it is anonymous.
        topic: Option<B256>,
    },
}

impl KeyOperation {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::PrepKeygen { .. } => Kind::PrepKeygen,
            Self::Keygen { .. } => Kind::Keygen,
            Self::Crsgen { .. } => Kind::Crsgen,
            Self::AbortKeygen { .. } => Kind::AbortKeygen,
            Self::AbortCrsgen { .. } => Kind::AbortCrsgen,
            Self::PrssInit => Kind::PrssInit,
            Self::KeyReshare { .. } => Kind::KeyReshareSameSet,
            Self::NewKmsContext { .. } => Kind::NewKmsContext,
            Self::NewKmsEpoch { .. } => Kind::NewKmsEpoch,
            Self::ContextDestroyed { .. } => Kind::ContextDestroyed,
            Self::EpochDestroyed { .. } => Kind::EpochDestroyed,
            Self::RecordedEvent { .. } => Kind::RecordedEvent,
            Self::UnsupportedEvent { .. } => Kind::UnsupportedEvent,
        }
    }

    /// What is signed beside the result, exactly as on chain. `None`: up to G12, where nothing is, and of what has
    /// no signed result.
    #[must_use]
    pub fn extra_data(&self) -> Option<&Bytes> {
        match self {
            Self::PrepKeygen { extra_data, .. }
            | Self::Keygen { extra_data, .. }
            | Self::Crsgen { extra_data, .. } => extra_data.as_ref(),
            Self::NewKmsEpoch { extra_data, .. } => Some(extra_data),
            Self::AbortKeygen { .. }
            | Self::AbortCrsgen { .. }
            | Self::PrssInit
            | Self::KeyReshare { .. }
            | Self::NewKmsContext { .. }
            | Self::ContextDestroyed { .. }
            | Self::EpochDestroyed { .. }
            | Self::RecordedEvent { .. }
            | Self::UnsupportedEvent { .. } => None,
        }
    }

    /// Whether contracts on Ethereum ask for it, from G13 on.
    #[must_use]
    pub fn is_of_ethereum(&self) -> bool {
        self.extra_data().is_some() || self.kind().is_lifecycle()
    }
}

/// The id of the request to set up randomness, whose event has none. The Core knows it by another one.
#[must_use]
pub fn prss_init_id() -> U256 {
    (U256::from(0x86) << 248) | U256::ONE
}

/// The id of the request to abort or destroy what has this id. It is an id of its own: two requests of one id
/// exclude each other, because ids are counters. No counter reaches its highest bit.
#[must_use]
pub fn abort_id(aborted: U256) -> U256 {
    aborted | (U256::ONE << 255)
}

/// What stands for the KMS context before the first one: the base of their ids (protocol: gateway-abi 2).
#[must_use]
pub fn no_context() -> U256 {
    U256::from(7) << 248
}

/// The first epoch, which no event tells of: the first KMS context begins with it.
#[must_use]
pub fn first_epoch() -> U256 {
    (U256::from(8) << 248) | U256::ONE
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

/// The contracts' `KeyType` of a compressed key set. Those up to v0.14 have no such member, and refuse it without
/// saying why.
pub const COMPRESSED_KEY_SET: u8 = 3;

impl KeyRepresentation {
    pub const ALL: [Self; 2] = [Self::Uncompressed, Self::Compressed];

    /// The representation of keys of these types (the contracts' `KeyType`).
    #[must_use]
    pub fn of_types(mut types: impl Iterator<Item = u8>) -> Self {
        if types.any(|one| one == COMPRESSED_KEY_SET) {
            Self::Compressed
        } else {
            Self::Uncompressed
        }
    }

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
