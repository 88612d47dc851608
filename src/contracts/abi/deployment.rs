//! Which deployment of the contracts stands there, and what that means for a request (gateway-abi 1).
//!
//! Each contract tells its own version, and they are upgraded apart: the Decryption contract decides, and
//! the registry where that alone does not tell. The numbering restarted at v0.9.0, so one version of the
//! Decryption contract may belong to several generations, but never to both sides of G12.
//!
//! | Decryption | GatewayConfig | deployment |
//! |---|---|---|
//! | v0.1 to v0.3 | any | G7 to G10 |
//! | v0.4 | up to v0.5 | G12 |
//! | v0.4 | from v0.6 on | G12, hybrid (fhevm v0.13.0-0) |
//! | v0.5, v0.6, v0.7 | any | G13, G14, HEAD |
//! | later | any | newer than this version knows |
//! | unknown | | what the functions tell that are there ([`DeploymentProbes`]) |

use std::fmt;

use super::ContractError;
use crate::domain::{EventShape, Generation, UntrustedText};

/// The deployed contracts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    pub generation: Generation,
    /// The version text of the Decryption contract.
    pub version: UntrustedText,
    /// The registry is of a later generation than the Decryption contract (fhevm v0.13.0-0).
    pub hybrid: bool,
}

/// What `extraData` means, and who knows whether its context is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextRule {
    /// Bytes without meaning.
    Opaque,
    /// It names a context: `GatewayConfig` lists signers for the valid ones.
    GatewaySigners,
    /// It names a context: `GatewayConfig` tells whether it is valid.
    GatewayValid,
    /// It names a context and perhaps an epoch: `ProtocolConfig` on Ethereum tells.
    ProtocolConfig,
}

/// How a ciphertext is found (protocol: ciphertext-storage 2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CiphertextSource {
    /// Under the digest in the event's materials.
    Digest,
    /// Under the handle, then under that digest. The digest is checked in any case.
    HandleThenDigest,
    /// Under the handle, with what enough coprocessors attest. The event's materials are not used.
    Attestation,
}

impl Deployment {
    /// Whether nobody else checks access: then nothing is asked before this node has.
    #[must_use]
    pub fn checks_access(&self) -> bool {
        self.generation >= Generation::G12
    }

    #[must_use]
    pub fn context_rule(&self) -> ContextRule {
        match self.generation {
            Generation::UpToG10 => ContextRule::Opaque,
            Generation::G12 if self.hybrid => ContextRule::GatewayValid,
            Generation::G12 => ContextRule::GatewaySigners,
            Generation::G13 => ContextRule::GatewayValid,
            Generation::G14 | Generation::Head => ContextRule::ProtocolConfig,
        }
    }

    #[must_use]
    pub fn ciphertext_source(&self) -> CiphertextSource {
        match self.generation {
            Generation::UpToG10 | Generation::G12 | Generation::G13 => CiphertextSource::Digest,
            Generation::G14 => CiphertextSource::HandleThenDigest,
            Generation::Head => CiphertextSource::Attestation,
        }
    }

    /// Whether the answer must be for the context that was current when the request was made.
    #[must_use]
    pub fn pins_context(&self) -> bool {
        self.generation >= Generation::G13
    }

    /// Whether `extraData` of exactly one zero byte is signed as empty, as at the other nodes of this
    /// deployment: consensus needs equal bytes (gateway-abi 11).
    #[must_use]
    pub fn drops_zero_extra_data(&self) -> bool {
        self.generation >= Generation::G12 && !self.hybrid
    }

    /// Whether `extraData` of a zero byte and more is signed as it is. Before, from G12 on, the other
    /// nodes refuse it.
    #[must_use]
    pub fn forwards_long_zero_extra_data(&self) -> bool {
        self.generation >= Generation::G14
    }

    /// Whether these contracts may refuse an answer so (gateway-abi 4.3). If not, other ones may stand
    /// there by now.
    #[must_use]
    pub fn raises(&self, error: &ContractError) -> bool {
        let (raised_for, _) = error.origin();
        raised_for.fits(self.generation)
    }

    /// Whether these contracts, or earlier ones at the same address, emit events of this shape.
    #[must_use]
    pub fn emits(&self, shape: EventShape) -> bool {
        match shape {
            EventShape::G7 | EventShape::G8 | EventShape::G9 => true,
            EventShape::G14 => self.generation >= Generation::G14,
            EventShape::Head => self.generation >= Generation::Head,
        }
    }
}

/// For logs and status: the generation and what the contract calls itself.
impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, version, hybrid } = self;
        let registry = if *hybrid { ", with the registry of a later one" } else { "" };
        write!(f, "{generation}{registry} (\"{version}\")")
    }
}

/// What the version texts tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToldDeployment {
    Known(Deployment),
    /// Above the versions that this program knows.
    Newer,
    /// The texts do not tell: see which functions there are.
    Unknown,
}

/// Reads `getVersion()` of the Decryption contract and of the registry.
#[must_use]
pub fn told_deployment(decryption: Option<&str>, registry: Option<&str>) -> ToldDeployment {
    let numbers = |name, text: Option<&str>| version_numbers(name, text?);
    let registry = numbers("GatewayConfig", registry);
    let generation = match numbers("Decryption", decryption) {
        Some((0, 1..=3, _)) => Generation::UpToG10,
        Some((0, 4, _)) => Generation::G12,
        Some((0, 5, _)) => Generation::G13,
        Some((0, 6, _)) => Generation::G14,
        Some((0, 7, _)) => Generation::Head,
        Some((0, 8.., _) | (1.., _, _)) => return ToldDeployment::Newer,
        Some((0, 0, _)) | None => return ToldDeployment::Unknown,
    };
    ToldDeployment::Known(Deployment {
        generation,
        version: decryption.unwrap_or_default().to_owned().into(),
        hybrid: generation == Generation::G12 && registry >= Some(FIRST_WITH_VALID_CONTEXTS),
    })
}

/// `GatewayConfig` of v0.13.0-0.
const FIRST_WITH_VALID_CONTEXTS: (u32, u32, u32) = (0, 6, 0);

/// Which functions there are, for a Decryption contract whose version text is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentProbes {
    /// `GatewayConfig.getCurrentKmsContextId()`.
    pub has_contexts: bool,
    /// `GatewayConfig.isValidKmsContext(uint256)`.
    pub knows_valid_contexts: bool,
    /// `Decryption.isUserDecryptionReady((bytes32,address,address)[],bytes)`.
    pub has_unified_requests: bool,
}

impl DeploymentProbes {
    /// The generation. `None`: G14 or later, which no function tells apart.
    #[must_use]
    pub fn generation(self) -> Option<Generation> {
        match self {
            Self { has_contexts: false, .. } => Some(Generation::UpToG10),
            Self { has_unified_requests: true, .. } => None,
            Self { knows_valid_contexts: true, .. } => Some(Generation::G13),
            Self { knows_valid_contexts: false, .. } => Some(Generation::G12),
        }
    }
}

/// The numbers in `<name> v<major>.<minor>.<patch>`.
pub(super) fn version_numbers(name: &str, version: &str) -> Option<(u32, u32, u32)> {
    let numbers = version.strip_prefix(name)?.strip_prefix(" v")?;
    let mut parts = numbers.split('.').map(|part| {
        // `parse` alone would accept a sign.
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()
    });
    let numbers = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(decryption: &str, registry: Option<&str>) -> ToldDeployment {
        told_deployment(Some(decryption), registry)
    }

    /// gateway-abi 1.1: both contracts of each tag.
    const TAGS: [(&str, &str, Generation, bool); 13] = [
        ("0.1.0", "0.1.0", Generation::UpToG10, false),
        ("0.2.0", "0.1.0", Generation::UpToG10, false),
        ("0.3.0", "0.2.0", Generation::UpToG10, false),
        ("0.2.0", "0.3.0", Generation::UpToG10, false),
        ("0.3.0", "0.4.0", Generation::UpToG10, false),
        ("0.3.17", "0.6.0", Generation::UpToG10, false),
        ("0.4.0", "0.5.0", Generation::G12, false),
        ("0.4.0", "0.6.0", Generation::G12, true),
        ("0.5.0", "0.6.0", Generation::G13, false),
        ("0.5.0", "0.7.0", Generation::G13, false),
        ("0.6.0", "0.7.0", Generation::G14, false),
        ("0.6.9", "0.5.0", Generation::G14, false),
        ("0.7.0", "0.8.0", Generation::Head, false),
    ];

    #[test]
    fn g3_the_versions_of_both_contracts_tell_the_deployment() {
        for (decryption, registry, generation, hybrid) in TAGS {
            let decryption = format!("Decryption v{decryption}");
            let registry = format!("GatewayConfig v{registry}");
            let version = decryption.clone().into();
            let expected = ToldDeployment::Known(Deployment { generation, version, hybrid });
            assert_eq!(told(&decryption, Some(&registry)), expected, "{decryption} {registry}");
            // Without the registry's text only the hybrid cannot be told.
            let version = decryption.clone().into();
            let alone = ToldDeployment::Known(Deployment { generation, version, hybrid: false });
            assert_eq!(told(&decryption, None), alone, "{decryption}");
            assert_eq!(told(&decryption, Some("v0.6.0")), alone, "{decryption}");
        }
    }

    #[test]
    fn g3_what_is_newer_or_odd_is_never_taken_for_something_known() {
        for newer in ["0.8.0", "0.10.0", "1.0.0", "7.0.0"] {
            assert_eq!(told(&format!("Decryption v{newer}"), None), ToldDeployment::Newer);
        }
        for odd in [
            "",
            "v0.3.0",
            "Decryption",
            "Decryption v",
            "Decryption v0.3",
            "Decryption v0.3.",
            "Decryption v0.3.0.1",
            "Decryption v0.3.0-rc1",
            "Decryption v0.+3.0",
            "Decryption v0.0.9",
            "Decryption v0.99999999999.0",
            "KmsManagement v0.1.0",
            "GatewayConfig v0.4.0",
            " Decryption v0.3.0",
        ] {
            assert_eq!(told(odd, Some("GatewayConfig v0.4.0")), ToldDeployment::Unknown, "{odd}");
        }
        assert_eq!(told_deployment(None, Some("GatewayConfig v0.4.0")), ToldDeployment::Unknown);
    }

    #[test]
    fn g3_functions_tell_what_an_unknown_text_does_not() {
        let generation = |has_contexts, knows_valid_contexts, has_unified_requests| {
            DeploymentProbes { has_contexts, knows_valid_contexts, has_unified_requests }
                .generation()
        };
        assert_eq!(generation(false, false, false), Some(Generation::UpToG10));
        assert_eq!(generation(true, false, false), Some(Generation::G12));
        assert_eq!(generation(true, true, false), Some(Generation::G13));
        assert_eq!(generation(true, true, true), None);
    }

    /// A new generation does not compile here: it needs a name, a row in each table below, and a word that
    /// `explain` knows.
    #[test]
    fn g3_every_generation_is_served_by_its_name() {
        use Generation::{G12, G13, G14, Head, UpToG10};
        let names = |generation| match generation {
            UpToG10 => vec!["G7", "G8", "G9", "G10"],
            G12 => vec!["G12"],
            G13 => vec!["G13"],
            G14 => vec!["G14"],
            Head => vec!["HEAD"],
        };
        let all = [UpToG10, G12, G13, G14, Head];
        assert_eq!(all.map(names).concat(), crate::domain::SERVED_GENERATIONS);
    }

    /// One row per deployment: access, context, ciphertexts; pinned, `00` dropped, `00…` sent.
    #[test]
    fn g3_what_a_deployment_can_do() {
        use CiphertextSource::{Attestation, Digest, HandleThenDigest};
        use ContextRule::{GatewaySigners, GatewayValid, Opaque, ProtocolConfig};
        let rows: [(Generation, bool, bool, _, _, [bool; 3]); 6] = [
            (Generation::UpToG10, false, false, Opaque, Digest, [false; 3]),
            (Generation::G12, false, true, GatewaySigners, Digest, [false, true, false]),
            (Generation::G12, true, true, GatewayValid, Digest, [false, false, false]),
            (Generation::G13, false, true, GatewayValid, Digest, [true, true, false]),
            (Generation::G14, false, true, ProtocolConfig, HandleThenDigest, [true; 3]),
            (Generation::Head, false, true, ProtocolConfig, Attestation, [true; 3]),
        ];
        for (generation, hybrid, access, context, ciphertexts, flags) in rows {
            let one = Deployment { generation, version: "x".into(), hybrid };
            assert_eq!(one.checks_access(), access, "{one}");
            assert_eq!(one.context_rule(), context, "{one}");
            assert_eq!(one.ciphertext_source(), ciphertexts, "{one}");
            let found = [
                one.pins_context(),
                one.drops_zero_extra_data(),
                one.forwards_long_zero_extra_data(),
            ];
            assert_eq!(found, flags, "{one}");
        }
    }

    #[test]
    fn g3_an_error_may_belong_to_other_contracts_than_are_known() {
        use crate::domain::{Address, U256};
        let raises = |generation, error: &ContractError| {
            Deployment { generation, version: "x".into(), hybrid: false }.raises(error)
        };
        let sender = ContractError::NotKmsTxSender(Address::ZERO);
        let version = ContractError::UnsupportedExtraDataVersion(9);
        let context = ContractError::InvalidKmsContext(U256::ZERO);
        let signer = ContractError::NotKmsSigner(Address::ZERO);
        for (generation, expected) in [
            (Generation::UpToG10, [true, false, false, true]),
            (Generation::G12, [false, true, false, true]),
            (Generation::G13, [false, true, true, true]),
            (Generation::Head, [false, true, true, true]),
        ] {
            let found = [&sender, &version, &context, &signer].map(|one| raises(generation, one));
            assert_eq!(found, expected, "{generation}");
        }
    }

    #[test]
    fn g3_an_event_may_be_older_than_the_deployment_but_not_newer() {
        use EventShape::{G7, G8, G9, G14, Head};
        let emits = |generation, shape| {
            Deployment { generation, version: "x".into(), hybrid: false }.emits(shape)
        };
        for generation in [Generation::UpToG10, Generation::G13, Generation::G14, Generation::Head]
        {
            assert!([G7, G8, G9].into_iter().all(|shape| emits(generation, shape)));
        }
        assert!(!emits(Generation::G13, G14) && !emits(Generation::UpToG10, Head));
        assert!(emits(Generation::G14, G14) && !emits(Generation::G14, Head));
        assert!(emits(Generation::Head, G14) && emits(Generation::Head, Head));
    }

    proptest! {
        #[test]
        fn versions_never_panic(decryption in ".{0,30}", registry in ".{0,30}") {
            let wrapped = format!("Decryption v{decryption}");
            for text in [decryption, wrapped] {
                if told(&text, Some(&registry)) != ToldDeployment::Unknown {
                    prop_assert!(text.starts_with("Decryption v"));
                }
            }
        }
    }
}
