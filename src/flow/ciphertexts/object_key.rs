//! Under which name a bucket keeps a ciphertext (protocol: ciphertext-storage 2).

use std::fmt;

use crate::domain::B256;

/// The context of the coprocessors, the last part of a name with a handle.
pub(super) const COPROCESSOR_CONTEXT: u64 = 1;

/// A way to name a ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Spelling {
    /// `ct128/{handle}/1`: from v0.14.0-7 on; the only one at HEAD.
    PrefixedHandle,
    /// `{handle}/1`: v0.14.0-0 to v0.14.0-6.
    Handle,
    /// Up to v0.13; a copy in v0.14.
    Digest,
}

impl Spelling {
    /// The object's key in its bucket.
    pub fn key(self, handle: B256, digest: B256) -> ObjectKey {
        ObjectKey(match self {
            Self::PrefixedHandle => format!("ct128/{handle:x}/{COPROCESSOR_CONTEXT}"),
            Self::Handle => format!("{handle:x}/{COPROCESSOR_CONTEXT}"),
            Self::Digest => format!("{digest:x}"),
        })
    }
}

/// The name of an object in its bucket. Only digits and letters between its slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectKey(String);

impl ObjectKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_protocol() {
        let (handle, digest) = (B256::with_last_byte(0xab), B256::with_last_byte(7));
        let key = |spelling: Spelling| spelling.key(handle, digest).to_string();
        assert_eq!(key(Spelling::PrefixedHandle), format!("ct128/{:064x}/1", 0xab));
        assert_eq!(key(Spelling::Handle), format!("{:064x}/1", 0xab));
        assert_eq!(key(Spelling::Digest), format!("{:064x}", 7));
    }
}
