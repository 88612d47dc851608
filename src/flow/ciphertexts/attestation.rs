//! What a coprocessor attests about a ciphertext: a text in a header of the object, signed (protocol:
//! ciphertext-storage 5). Pure.
//!
//! The signature also covers the handle and the context of the coprocessors, which the text does not
//! contain: they are those of the object's name. So an attestation about another object recovers to another
//! signer than the one that it names, and does not count. Who may attest is another question ([`super::consensus`]).

use alloy::{
    hex,
    primitives::{Signature, keccak256},
};
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::object_key::COPROCESSOR_CONTEXT;
use crate::domain::{Address, B256, CiphertextFormat, U256, UntrustedText};

/// The HTTP header with the attestation.
const HEADER: &str = "x-amz-meta-ct-attestation";
/// S3 keeps no more metadata of an object than this, in bytes.
const LONGEST: usize = 2048;
/// The only version there is.
const VERSION: u8 = 1;
/// Begins the signed message.
const DOMAIN_TAG: &[u8] = b"FHEVMCTA";
const MESSAGE: usize = 170;

/// What is attested of one ciphertext: coprocessors agree on all of it, or they do not agree. The order of
/// the fields is the order in which materials are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AttestedMaterial {
    pub key_id: U256,
    /// keccak256 of the regular ciphertext, which no connector fetches.
    pub ciphertext_digest: B256,
    /// keccak256 of the ciphertext that the Core gets.
    pub sns_ciphertext_digest: B256,
    pub serialisation: Serialisation,
}

/// How and by what the ciphertext was serialised. The numbers are those of the signed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Serialisation {
    UncompressedOnCpu = 10,
    CompressedOnCpu = 11,
    UncompressedOnGpu = 20,
    CompressedOnGpu = 21,
}

impl Serialisation {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "uncompressed_on_cpu" => Self::UncompressedOnCpu,
            "compressed_on_cpu" => Self::CompressedOnCpu,
            "uncompressed_on_gpu" => Self::UncompressedOnGpu,
            "compressed_on_gpu" => Self::CompressedOnGpu,
            _ => return None,
        })
    }

    /// The format as the Core is told it.
    pub fn format(self) -> CiphertextFormat {
        match self {
            Self::CompressedOnCpu | Self::CompressedOnGpu => CiphertextFormat::BigCompressed,
            Self::UncompressedOnCpu | Self::UncompressedOnGpu => CiphertextFormat::BigExpanded,
        }
    }
}

/// An attestation whose signature was checked. Whether its signer is registered is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attestation {
    pub material: AttestedMaterial,
    pub signer: Address,
}

/// Why what a bucket says about a ciphertext is no attestation, or does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    #[error("the object has no attestation")]
    Missing,
    #[error("its attestation has {bytes} bytes, more than S3 keeps")]
    TooLong { bytes: usize },
    #[error("its attestation cannot be read: {why}")]
    Malformed { why: UntrustedText },
    #[error("its attestation is of version {version}, which this connector does not know")]
    UnknownVersion { version: u64 },
    #[error("its attestation names the unknown format \"{name}\"")]
    UnknownFormat { name: UntrustedText },
    #[error("its attestation's signature has {bytes} bytes instead of 65")]
    SignatureLength { bytes: usize },
    #[error("its attestation's signature recovers to no address")]
    Unrecoverable,
    /// Also of an attestation about another handle, or in another context of coprocessors.
    #[error(
        "its attestation names {claimed} and recovers to {recovered}: a false signer or handle"
    )]
    OtherSigner { claimed: Address, recovered: Address },
    #[error("its attestation is signed by {signer}, who is not registered")]
    UnregisteredSigner { signer: Address },
    #[error("it attests that there is no ciphertext")]
    NoCiphertext,
    /// Well signed, and not what most say.
    #[error("it attests another {} than most", .differs.as_str())]
    Outvoted { differs: Difference },
}

impl AttestationError {
    /// Stable, for metrics and log throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "attestation_missing",
            Self::TooLong { .. } | Self::Malformed { .. } => "attestation_malformed",
            Self::UnknownVersion { .. } => "attestation_version",
            Self::UnknownFormat { .. } => "attestation_format",
            Self::SignatureLength { .. } | Self::Unrecoverable | Self::OtherSigner { .. } => {
                "attestation_signature"
            }
            Self::UnregisteredSigner { .. } => "attestation_stranger",
            Self::NoCiphertext => "attestation_empty",
            Self::Outvoted { .. } => "attestation_outvoted",
        }
    }
}

/// The first part in which one attested material differs from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    KeyId,
    SnsCiphertextDigest,
    CiphertextDigest,
    Format,
}

impl Difference {
    fn as_str(self) -> &'static str {
        match self {
            Self::KeyId => "key id",
            Self::SnsCiphertextDigest => "digest",
            Self::CiphertextDigest => "digest of the regular ciphertext",
            Self::Format => "format",
        }
    }
}

impl AttestedMaterial {
    /// `None`: they are equal.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        if self.key_id != other.key_id {
            Some(Difference::KeyId)
        } else if self.sns_ciphertext_digest != other.sns_ciphertext_digest {
            Some(Difference::SnsCiphertextDigest)
        } else if self.ciphertext_digest != other.ciphertext_digest {
            Some(Difference::CiphertextDigest)
        } else if self.serialisation != other.serialisation {
            Some(Difference::Format)
        } else {
            None
        }
    }

    /// The message whose keccak256 is signed.
    fn message(&self, handle: &B256) -> [u8; MESSAGE] {
        let parts: [&[u8]; 8] = [
            DOMAIN_TAG,
            &[VERSION],
            handle.as_slice(),
            &self.key_id.to_be_bytes::<32>(),
            &U256::from(COPROCESSOR_CONTEXT).to_be_bytes::<32>(),
            self.ciphertext_digest.as_slice(),
            self.sns_ciphertext_digest.as_slice(),
            &[self.serialisation as u8],
        ];
        let (mut message, mut end) = ([0; MESSAGE], 0);
        for part in parts {
            message[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        message
    }
}

/// The attestation's text. Fields that this version does not know are not signed, and are ignored.
#[derive(Deserialize)]
struct Text {
    key_id: U256,
    ciphertext_digest: B256,
    sns_ciphertext_digest: B256,
    format: String,
    signer: Address,
    signature: String,
}

/// What is read first: another version may have other fields.
#[derive(Deserialize)]
struct VersionOfText {
    version: u64,
}

fn malformed(why: impl std::fmt::Display) -> AttestationError {
    AttestationError::Malformed { why: UntrustedText::of(why) }
}

impl Text {
    fn parse(headers: &HeaderMap) -> Result<Self, AttestationError> {
        let text = headers.get(HEADER).ok_or(AttestationError::Missing)?.as_bytes();
        if text.len() > LONGEST {
            return Err(AttestationError::TooLong { bytes: text.len() });
        }
        let VersionOfText { version } = serde_json::from_slice(text).map_err(malformed)?;
        if version != u64::from(VERSION) {
            return Err(AttestationError::UnknownVersion { version });
        }
        serde_json::from_slice(text).map_err(malformed)
    }

    fn serialisation(&self) -> Result<Serialisation, AttestationError> {
        let unknown = || AttestationError::UnknownFormat { name: self.format.as_str().into() };
        Serialisation::from_name(&self.format).ok_or_else(unknown)
    }

    /// As lenient with the prefix and the last byte (0, 1, 27 or 28) as the other nodes' connectors: a
    /// signature that one of them takes must count here too.
    fn signature(&self) -> Result<Signature, AttestationError> {
        let digits = self.signature.strip_prefix("0x").unwrap_or(&self.signature);
        let bytes = hex::decode(digits).map_err(malformed)?;
        let bytes: &[u8; 65] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| AttestationError::SignatureLength { bytes: bytes.len() })?;
        Signature::from_raw_array(bytes).map_err(|_| AttestationError::Unrecoverable)
    }
}

/// The attestation in the headers of the object with this handle.
pub(super) fn read(headers: &HeaderMap, handle: &B256) -> Result<Attestation, AttestationError> {
    let text = Text::parse(headers)?;
    let material = AttestedMaterial {
        key_id: text.key_id,
        ciphertext_digest: text.ciphertext_digest,
        sns_ciphertext_digest: text.sns_ciphertext_digest,
        serialisation: text.serialisation()?,
    };
    let recovered = text
        .signature()?
        .recover_address_from_prehash(&keccak256(material.message(handle)))
        .map_err(|_| AttestationError::Unrecoverable)?;
    if recovered != text.signer {
        return Err(AttestationError::OtherSigner { claimed: text.signer, recovered });
    }
    if material.sns_ciphertext_digest.is_zero() {
        return Err(AttestationError::NoCiphertext);
    }
    Ok(Attestation { material, signer: recovered })
}

/// The format that the attestation in these headers names, whoever signed it. The bytes decide in the
/// end ([`super::format`]).
pub(super) fn format_in(headers: &HeaderMap) -> Option<CiphertextFormat> {
    Some(Text::parse(headers).ok()?.serialisation().ok()?.format())
}

#[cfg(test)]
pub(super) mod tests;
