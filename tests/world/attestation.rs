//! What coprocessors keep in their buckets: under which names, and from v0.14 on what they attest about
//! it (ciphertext-storage 2 to 5), and every way to lie about it.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    signers::local::PrivateKeySigner,
};
use serde_json::json;

use super::{
    Result,
    contracts::Variant,
    ministack::{COMPRESSED, FORMAT, UNCOMPRESSED},
    random, random_key,
    request::{Ask, Ciphertext},
    signing::sign,
};

/// The header with the attestation.
pub const ATTESTATION: &str = "x-amz-meta-ct-attestation";
/// The only version there is.
const VERSION: u8 = 1;
/// The coprocessors' context, also the last part of an object's name.
const CONTEXT: u64 = 1;

/// Under which names a coprocessor keeps the ciphertext of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Up to v0.13: its digest.
    Digests,
    /// v0.14.0-0 to -6: handle and context, and the digest.
    Handles,
    /// v0.14.0-7 and later: the same under `ct128/`, and the digest.
    PrefixedHandles,
    /// v0.15-dev: `ct128/`, handle and context alone.
    PrefixedHandlesOnly,
}

impl Layout {
    /// That of the newest coprocessors of a variant.
    pub fn of(variant: Variant) -> Self {
        match variant {
            Variant::Head => Self::PrefixedHandlesOnly,
            Variant::G14 => Self::PrefixedHandles,
            Variant::G7
            | Variant::G8
            | Variant::V0_9_0
            | Variant::V0_9_7
            | Variant::G10
            | Variant::G12
            | Variant::G13 => Self::Digests,
        }
    }

    /// The names of one ciphertext.
    pub fn keys(self, handle: B256, digest: B256) -> Vec<String> {
        let by_digest = format!("{digest:x}");
        match self {
            Self::Digests => vec![by_digest],
            Self::Handles => vec![format!("{handle:x}/{CONTEXT}"), by_digest],
            Self::PrefixedHandles => vec![format!("ct128/{handle:x}/{CONTEXT}"), by_digest],
            Self::PrefixedHandlesOnly => vec![format!("ct128/{handle:x}/{CONTEXT}")],
        }
    }

    pub fn is_attested(self) -> bool {
        self != Self::Digests
    }
}

/// What a bucket says or does that is not so. Each is signed as well as it can be, unless the signature
/// is the lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// No attestation at all.
    Silent,
    NoJson,
    /// Of a version nobody knows.
    OtherVersion,
    UnknownFormat,
    /// The other one of compressed and uncompressed.
    OtherFormat,
    OtherKey,
    OtherCiphertextDigest,
    OtherSnsDigest,
    /// The zero digest: there is no such ciphertext.
    NoSnsCiphertext,
    /// Signed for another handle.
    OtherHandle,
    /// Signed for another context of coprocessors.
    OtherContext,
    /// Signed by somebody who is not registered.
    Stranger,
    /// Names another signer than who signed.
    ForeignSigner,
    ShortSignature,
    /// Attested well, and other bytes under the name.
    OtherBytes,
    /// Attested well, and nothing under the name.
    Missing,
}

impl Lie {
    pub const ALL: [Self; 16] = [
        Self::Silent,
        Self::NoJson,
        Self::OtherVersion,
        Self::UnknownFormat,
        Self::OtherFormat,
        Self::OtherKey,
        Self::OtherCiphertextDigest,
        Self::OtherSnsDigest,
        Self::NoSnsCiphertext,
        Self::OtherHandle,
        Self::OtherContext,
        Self::Stranger,
        Self::ForeignSigner,
        Self::ShortSignature,
        Self::OtherBytes,
        Self::Missing,
    ];
}

/// What is said of one ciphertext.
#[derive(Clone, Debug)]
pub struct Attestation {
    pub version: u8,
    pub handle: B256,
    pub key_id: U256,
    pub context: u64,
    /// Of the regular ciphertext, which no connector fetches.
    pub ciphertext_digest: B256,
    pub sns_ciphertext_digest: B256,
    pub format: &'static str,
}

impl Attestation {
    /// The truth about a ciphertext.
    pub fn of(ask: &Ask, ciphertext: &Ciphertext) -> Self {
        Self {
            version: VERSION,
            handle: ciphertext.handle,
            key_id: ask.key_id,
            context: CONTEXT,
            ciphertext_digest: keccak256(ciphertext.handle),
            sns_ciphertext_digest: ciphertext.digest,
            format: ask.format.unwrap_or(UNCOMPRESSED),
        }
    }

    /// The bytes whose hash is signed.
    pub fn message(&self) -> Vec<u8> {
        let mut message = b"FHEVMCTA".to_vec();
        message.push(self.version);
        message.extend(self.handle);
        message.extend(self.key_id.to_be_bytes::<32>());
        message.extend(U256::from(self.context).to_be_bytes::<32>());
        message.extend(self.ciphertext_digest);
        message.extend(self.sns_ciphertext_digest);
        message.push(match self.format {
            "uncompressed_on_cpu" => 10,
            "compressed_on_cpu" => 11,
            "uncompressed_on_gpu" => 20,
            "compressed_on_gpu" => 21,
            _ => 0,
        });
        message
    }

    pub fn signature(&self, key: &PrivateKeySigner) -> Result<Bytes> {
        sign(key, keccak256(self.message()))
    }

    /// The header's text.
    pub fn json(&self, signer: Address, signature: &Bytes) -> String {
        json!({
            "version": self.version,
            "key_id": self.key_id,
            "ciphertext_digest": self.ciphertext_digest,
            "sns_ciphertext_digest": self.sns_ciphertext_digest,
            "format": self.format,
            "signer": signer,
            "signature": signature,
        })
        .to_string()
    }
}

/// One object in a bucket.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: String,
    pub bytes: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
}

/// What the coprocessor with this key stores of a ciphertext.
pub fn objects(
    layout: Layout,
    ask: &Ask,
    ciphertext: &Ciphertext,
    key: &PrivateKeySigner,
    lie: Option<Lie>,
) -> Result<Vec<Object>> {
    if lie == Some(Lie::Missing) {
        return Ok(Vec::new());
    }
    let mut headers = Vec::new();
    // At HEAD the format stands in the attestation alone.
    if layout != Layout::PrefixedHandlesOnly {
        headers.extend(ask.format.map(|format| (FORMAT, format.to_owned())));
    }
    if layout.is_attested() {
        let truth = Attestation::of(ask, ciphertext);
        headers.extend(attested(&truth, key, lie)?.map(|text| (ATTESTATION, text)));
    }
    let bytes = if lie == Some(Lie::OtherBytes) {
        random::<64>().to_vec()
    } else {
        ciphertext.bytes.clone()
    };
    let object = |key| Object { key, bytes: bytes.clone(), headers: headers.clone() };
    Ok(layout.keys(ciphertext.handle, ciphertext.digest).into_iter().map(object).collect())
}

fn attested(
    truth: &Attestation,
    key: &PrivateKeySigner,
    lie: Option<Lie>,
) -> Result<Option<String>> {
    let mut said = truth.clone();
    let Some(lie) = lie else {
        return Ok(Some(truth.json(key.address(), &truth.signature(key)?)));
    };
    match lie {
        Lie::Silent | Lie::Missing => return Ok(None),
        Lie::NoJson => return Ok(Some("{\"version\": 1".into())),
        Lie::OtherVersion => said.version = VERSION + 1,
        Lie::UnknownFormat => said.format = "folded_on_paper",
        Lie::OtherFormat => {
            said.format = if truth.format == COMPRESSED { UNCOMPRESSED } else { COMPRESSED };
        }
        Lie::OtherKey => said.key_id += U256::from(1),
        Lie::OtherCiphertextDigest => said.ciphertext_digest = random().into(),
        Lie::OtherSnsDigest => said.sns_ciphertext_digest = random().into(),
        Lie::NoSnsCiphertext => said.sns_ciphertext_digest = B256::ZERO,
        Lie::OtherHandle => said.handle = random().into(),
        Lie::OtherContext => said.context = CONTEXT + 1,
        Lie::Stranger => {
            let stranger = random_key();
            return Ok(Some(said.json(stranger.address(), &said.signature(&stranger)?)));
        }
        Lie::ForeignSigner => {
            return Ok(Some(said.json(key.address(), &said.signature(&random_key())?)));
        }
        Lie::ShortSignature => {
            let signature = said.signature(key)?.slice(..64);
            return Ok(Some(said.json(key.address(), &signature)));
        }
        Lie::OtherBytes => {}
    }
    Ok(Some(said.json(key.address(), &said.signature(key)?)))
}
