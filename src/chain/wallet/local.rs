//! A private key in memory.

use std::fmt;
use std::sync::Arc;

use alloy::primitives::Signature;
use secp256k1::{Message, Secp256k1, SecretKey, SignOnly};

use crate::domain::{Address, B256};

/// A private key in memory, wiped when the last clone is dropped.
#[derive(Clone)]
pub struct LocalWallet(pub(super) Arc<LocalKey>);

impl fmt::Debug for LocalWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalWallet").field("address", &self.0.address).finish_non_exhaustive()
    }
}

/// Signs with libsecp256k1, which takes half the time of the pure Rust implementation.
pub(super) struct LocalKey {
    curve: Secp256k1<SignOnly>,
    secret: SecretKey,
    pub(super) address: Address,
}

impl LocalKey {
    pub(super) fn new(secret: SecretKey) -> Self {
        let curve = Secp256k1::signing_only();
        // The first byte only marks the encoding as uncompressed.
        let public = secret.public_key(&curve).serialize_uncompressed();
        Self { curve, secret, address: Address::from_raw_public_key(&public[1..]) }
    }

    /// Low-s and deterministic (RFC 6979).
    pub(super) fn sign(&self, hash: B256) -> Signature {
        let message = Message::from_digest(hash.0);
        let signature = self.curve.sign_ecdsa_recoverable(message, &self.secret);
        let (id, bytes) = signature.serialize_compact();
        Signature::from_bytes_and_parity(&bytes, i32::from(id) & 1 == 1)
    }
}

impl Drop for LocalKey {
    fn drop(&mut self) {
        self.secret.non_secure_erase();
    }
}
