//! Generations of the deployed contracts.

use std::fmt;

/// A generation of contracts, as far as it makes a difference to a request (protocol: gateway-abi 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// The gateway checks access.
    UpToG10,
    /// From here on nobody but the connectors checks access, and responses are for a KMS context.
    G12,
    /// From here on the context is pinned when the request is made.
    G13,
    /// From here on there are unified requests, and contexts and epochs of `ProtocolConfig`.
    G14,
    /// Ciphertexts are what the coprocessors attest.
    Head,
}

impl Generation {
    /// Oldest first.
    pub const ALL: [Self; 5] = [Self::UpToG10, Self::G12, Self::G13, Self::G14, Self::Head];

    /// The name shown to people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpToG10 => "G7 to G10",
            Self::G12 => "G12",
            Self::G13 => "G13",
            Self::G14 => "G14",
            Self::Head => "HEAD",
        }
    }

    /// The generation of the newest contracts that it means, which a configuration and the journal name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UpToG10 => "G10",
            Self::G12 | Self::G13 | Self::G14 | Self::Head => self.as_str(),
        }
    }

    /// The generation of this [`Self::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|generation| generation.name() == name)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g2_a_generation_is_found_by_its_name() {
        assert!(Generation::ALL.is_sorted());
        for generation in Generation::ALL {
            assert_eq!(Generation::from_name(generation.name()), Some(generation));
        }
        assert_eq!(Generation::from_name("G7 to G10"), None);
    }
}
