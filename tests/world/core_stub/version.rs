//! The Core versions that differ on the wire, and in what (protocol: kms-core-grpc 6).

use std::time::Duration;

use tonic::Code;

use super::KeyOperation;

/// A version, from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoreVersion {
    /// First response shape, no `extraData`, legacy result encoding, `Aborted` for everything.
    V0_11_0_21,
    /// Second response shape, `extraData`, legacy result encoding, `Aborted` for everything.
    V0_11_0_26,
    /// Words, `AlreadyExists` and `InvalidArgument`.
    V0_12,
    /// As v0.12, with generic messages and the key checked after registration.
    V0_13,
    /// Contexts and epochs; a request that names none is of the default ones.
    V0_13_10,
    /// As seen on a real v0.13.22: the key is checked before registration, and refusals of requests that
    /// are malformed or too many name another id.
    V0_13_20,
    /// A failed decryption can be asked again; a full store says `ResourceExhausted`.
    V0_14,
    /// v0.15: an id that was deleted still exists for whoever asks.
    Head,
}

/// What becomes of a request whose key it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKey {
    /// Refused, and the id stays usable.
    Refused,
    /// Accepted; it never finishes.
    Pends,
    /// Refused, and its id never finishes.
    RefusedAndPends,
}

/// The context of a request that names none, from v0.13.10 on.
pub const DEFAULT_CONTEXT: &str =
    "0700000000000000000000000000000000000000000000000000000000000001";
/// The id that v0.13.20 names instead of the real one.
const OTHER_ID: &str = "0100000000000000000000000000000000000000000000000000000000000000";

impl CoreVersion {
    pub const ALL: [Self; 8] = [
        Self::V0_11_0_21,
        Self::V0_11_0_26,
        Self::V0_12,
        Self::V0_13,
        Self::V0_13_10,
        Self::V0_13_20,
        Self::V0_14,
        Self::Head,
    ];

    /// Every refusal is `Aborted`.
    pub fn says_aborted(self) -> bool {
        self < Self::V0_12
    }

    pub fn signs_extra_data(self) -> bool {
        self > Self::V0_11_0_21
    }

    /// Whether `decryptedResult` is one word per value.
    pub fn writes_words(self) -> bool {
        self >= Self::V0_12
    }

    /// Whether it makes keys in the form in which contracts of v0.9 and later take them.
    pub fn makes_keys(self) -> bool {
        self >= Self::V0_12
    }

    /// Whether results of key generation are signed with `extraData`. With that, the numbers of
    /// `CompressedKeyConfig` and the kind that is made without one were flipped.
    pub fn signs_key_extra_data(self) -> bool {
        self >= Self::V0_13_20
    }

    /// Whether a key generation can be aborted.
    pub fn aborts_keys(self) -> bool {
        self >= Self::V0_13_20
    }

    /// How long a poll for a result of key generation is held.
    pub fn key_hold(self, operation: KeyOperation) -> Duration {
        let long = self >= Self::V0_13_10;
        match operation {
            KeyOperation::Key | KeyOperation::Crs if self >= Self::V0_14 => Duration::ZERO,
            KeyOperation::Preprocessing | KeyOperation::Key if long => Duration::from_mins(5),
            KeyOperation::Preprocessing | KeyOperation::Key | KeyOperation::Crs => {
                Duration::from_mins(1)
            }
        }
    }

    /// The context that a request is answered in.
    pub fn context(self, named: Option<&str>) -> Option<String> {
        let default = (self >= Self::V0_13_10).then_some(DEFAULT_CONTEXT);
        named.or(default).map(str::to_owned)
    }

    pub fn unknown_context(self) -> Code {
        if self < Self::V0_13 { Code::Internal } else { Code::NotFound }
    }

    pub fn unknown_key(self) -> UnknownKey {
        match self {
            Self::V0_11_0_26 => UnknownKey::Pends,
            Self::V0_13 | Self::V0_13_10 => UnknownKey::RefusedAndPends,
            Self::V0_11_0_21 | Self::V0_12 | Self::V0_13_20 | Self::V0_14 | Self::Head => {
                UnknownKey::Refused
            }
        }
    }

    pub fn full_store(self) -> Code {
        if self < Self::V0_14 { Code::Aborted } else { Code::ResourceExhausted }
    }

    /// Whether it computes a request again that failed.
    pub fn asks_failed_again(self) -> bool {
        self >= Self::V0_14
    }

    /// Whether it remembers the ids of what it deleted.
    pub fn remembers_deleted(self) -> bool {
        self >= Self::Head
    }

    /// The text of a refusal: from v0.13 on the same for every reason.
    pub fn text(self, code: Code, id: &str, why: &str) -> String {
        let odd = self >= Self::V0_13_20 && code == Code::InvalidArgument;
        let id = if odd { OTHER_ID } else { id };
        if self >= Self::V0_13 {
            format!("Failed on requestID {id} with metric decrypt")
        } else {
            format!("{why}: {id}")
        }
    }
}
