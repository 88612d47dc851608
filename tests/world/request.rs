//! Requests as a test asks for them, and the ciphertexts behind them.
//!
//! A ciphertext here is random bytes. What it "decrypts" to is a function of those bytes
//! ([`plaintext`]): a Core stub that computes it from the bytes it was *given* proves, when the
//! answer on chain fits the request, that the right bytes went the whole way.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use serde::{Deserialize, Serialize};

use super::{
    access::Access,
    contracts::SnsCiphertextMaterial,
    core_stub::{plaintext_of_digest, user_decrypted_share},
    ministack::UNCOMPRESSED,
};

/// FHE type numbers (gateway-abi 12).
pub mod fhe {
    pub const BOOL: u8 = 0;
    pub const UINT8: u8 = 2;
    pub const UINT16: u8 = 3;
    pub const UINT32: u8 = 4;
    pub const UINT64: u8 = 5;
    pub const UINT128: u8 = 6;
    pub const UINT160: u8 = 7;
    pub const UINT256: u8 = 8;
    /// Every type each generation takes.
    pub const COMMON: [u8; 8] = [BOOL, UINT8, UINT16, UINT32, UINT64, UINT128, UINT160, UINT256];
}

/// The key all materials name unless a test says otherwise: the first id with the key tag 0x04.
pub fn default_key_id() -> U256 {
    (U256::from(4) << 248) | U256::from(1)
}

/// The host chain in the handles, unless a test says otherwise.
pub const HOST_CHAIN: u64 = 12_345;

/// Whether shares go to a user or the value to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Public,
    User,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::User => "user",
        }
    }
}

/// A ciphertext as a coprocessor would have made it.
#[derive(Clone, Debug)]
pub struct Ciphertext {
    pub handle: B256,
    pub bytes: Vec<u8>,
    pub digest: B256,
}

impl Ciphertext {
    /// `size` random bytes under a fresh handle of `fhe_type` (which may be an unknown one).
    pub fn random(fhe_type: u8, size: usize) -> Self {
        let mut bytes = vec![0; size];
        fastrand::fill(&mut bytes);
        let digest = keccak256(&bytes);
        let mut handle = [0; 32];
        fastrand::fill(&mut handle[..21]);
        handle[21] = 0xff;
        handle[22..30].copy_from_slice(&HOST_CHAIN.to_be_bytes());
        handle[30] = fhe_type;
        Self { handle: handle.into(), bytes, digest }
    }
}

/// The value the Core stub decrypts a ciphertext with this keccak256 to: as many low-order bytes,
/// little-endian, as the type has. `None` for types without a plain integer of at most 256 bits.
pub fn plaintext(digest: B256, fhe_type: u8) -> Option<U256> {
    let length = match fhe_type {
        fhe::BOOL | fhe::UINT8 => 1,
        fhe::UINT16 => 2,
        fhe::UINT32 => 4,
        fhe::UINT64 => 8,
        fhe::UINT128 => 16,
        fhe::UINT160 => 20,
        fhe::UINT256 => 32,
        _ => return None,
    };
    let value = U256::from_le_slice(&digest[..length]);
    Some(if fhe_type == fhe::BOOL { value & U256::from(1) } else { value })
}

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Ask {
    pub kind: Kind,
    pub ciphertexts: Vec<Ciphertext>,
    pub key_id: U256,
    pub user: Address,
    pub public_key: Bytes,
    pub extra_data: Bytes,
    /// The `Ct-Format` header of the objects; v0.7 coprocessors write none.
    pub format: Option<&'static str>,
    /// By what right a user asks.
    pub access: Access,
}

/// Bytes of a test ciphertext where size does not matter.
const SMALL: usize = 512;

impl Ask {
    /// A public decryption of one fresh ciphertext per type.
    pub fn public(fhe_types: &[u8]) -> Self {
        Self::new(Kind::Public, fhe_types)
    }

    /// A user decryption of one fresh ciphertext per type, for a user with a fresh key: of handles of its
    /// own, by the legacy function.
    pub fn user(fhe_types: &[u8]) -> Self {
        Self::new(Kind::User, fhe_types)
    }

    /// `public` public and `user` user decryptions in turn, of one to three values each.
    pub fn mixed(public: usize, user: usize) -> Vec<Self> {
        let mut asks = Vec::with_capacity(public + user);
        for i in 0..public.max(user) {
            let types: Vec<u8> =
                (0..=i % 3).map(|n| fhe::COMMON[(i + n) % fhe::COMMON.len()]).collect();
            if i < public {
                asks.push(Self::public(&types));
            }
            if i < user {
                asks.push(Self::user(&types));
            }
        }
        asks
    }

    fn new(kind: Kind, fhe_types: &[u8]) -> Self {
        let mut public_key = vec![0; 800];
        fastrand::fill(&mut public_key);
        let user_request = kind == Kind::User;
        let access = Access::direct(fhe_types.len());
        Self {
            kind,
            ciphertexts: fhe_types.iter().map(|t| Ciphertext::random(*t, SMALL)).collect(),
            key_id: default_key_id(),
            user: if user_request { access.key.address() } else { Address::ZERO },
            public_key: if user_request { public_key.into() } else { Bytes::new() },
            extra_data: Bytes::new(),
            format: Some(UNCOMPRESSED),
            access,
        }
    }

    /// With ciphertexts of `size` bytes each.
    #[must_use]
    pub fn sized(mut self, size: usize) -> Self {
        for ciphertext in &mut self.ciphertexts {
            let handle = ciphertext.handle;
            *ciphertext = Ciphertext { handle, ..Ciphertext::random(handle[30], size) };
        }
        self
    }

    #[must_use]
    pub fn extra_data(mut self, extra_data: impl Into<Bytes>) -> Self {
        self.extra_data = extra_data.into();
        self
    }

    #[must_use]
    pub fn format(mut self, format: Option<&'static str>) -> Self {
        self.format = format;
        self
    }

    /// The materials as the event carries them.
    pub fn materials(&self, coprocessors: &[Address]) -> Vec<SnsCiphertextMaterial> {
        let material = |ciphertext: &Ciphertext| SnsCiphertextMaterial {
            ctHandle: ciphertext.handle,
            keyId: self.key_id,
            snsCiphertextDigest: ciphertext.digest,
            coprocessorTxSenderAddresses: coprocessors.to_vec(),
        };
        self.ciphertexts.iter().map(material).collect()
    }
}

/// A request that stands on chain, with all a check of its answer needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Issued {
    pub id: U256,
    pub kind: Kind,
    pub handles: Vec<B256>,
    pub digests: Vec<B256>,
    pub public_key: Bytes,
    pub extra_data: Bytes,
    pub block: u64,
    pub transaction: B256,
}

impl Issued {
    /// What the ciphertexts decrypt to; `None` if one has no plain integer.
    pub fn plaintexts(&self) -> Option<Vec<U256>> {
        let pairs = self.handles.iter().zip(&self.digests);
        pairs.map(|(handle, digest)| plaintext(*digest, handle[30])).collect()
    }

    /// Compares the recorded bytes of an answer with what the ciphertexts decrypt to. The contract
    /// has checked already that the registered signer signed them for these handles.
    ///
    /// `decryptedResult`: one word per value; Cores up to 0.11 append the offset of an empty
    /// array. `userDecryptedShare`: the bytes of the Core stub for this user's key, these handles
    /// and their values.
    pub fn check(&self, payload: &[u8]) -> Result<(), String> {
        match self.kind {
            Kind::Public => {
                let values = self.plaintexts().ok_or("a type without a plain integer")?;
                let mut words: Vec<u8> = values.iter().flat_map(U256::to_be_bytes::<32>).collect();
                if payload == words {
                    return Ok(());
                }
                words.extend(U256::from(32 * (values.len() + 2)).to_be_bytes::<32>());
                if payload == words {
                    return Ok(());
                }
                Err(format!("decryptedResult is {}", alloy::primitives::hex::encode(payload)))
            }
            Kind::User => {
                let types = self.handles.iter().map(|handle| handle[30]);
                let values: Vec<(u8, Vec<u8>)> = types
                    .zip(&self.digests)
                    .map(|(fhe_type, digest)| (fhe_type, plaintext_of_digest(fhe_type, *digest)))
                    .collect();
                let expected = user_decrypted_share(&self.public_key, &self.handles, &values);
                if payload == expected {
                    return Ok(());
                }
                Err(format!("userDecryptedShare is {}", alloy::primitives::hex::encode(payload)))
            }
        }
    }
}
