//! Types for values that must never be printed: no `Display`, and a `Debug` that shows nothing.
//!
//! URLs belong here too: hosted RPC endpoints and buckets carry API keys in their path, query or user
//! part. A [`SecretUrl`] shows scheme, host and port; the rest needs [`SecretUrl::expose`], a word to
//! grep for.

use std::fmt;

use alloy::primitives::{Address, U256, uint};
use url::Url;
use zeroize::Zeroizing;

/// Text that may be a secret. Wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself. Never log it, put it into an error, or keep it in another type.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(hidden)")
    }
}

/// A valid secp256k1 private key: 32 bytes, not zero, below the curve's order. Wiped from memory when
/// dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

/// Why a text is not a private key. Describes the text's shape, never a part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrivateKey {
    #[error("no text")]
    Empty,
    #[error("the placeholder of the documentation")]
    Placeholder,
    #[error("{0} characters, not all of them hex digits")]
    NotHex(usize),
    #[error("{0} hex digits")]
    Length(usize),
    #[error("64 hex digits, all zero")]
    Zero,
    #[error("64 hex digits, not below the order of the curve secp256k1")]
    NotBelowOrder,
}

/// n, the number of points of secp256k1 (SEC 2, 2.4.1).
const CURVE_ORDER: U256 =
    uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

impl PrivateKey {
    /// Parses 64 hex digits, with or without 0x; ignores white space around them.
    pub fn parse(text: &str) -> Result<Self, InvalidPrivateKey> {
        let text = text.trim();
        let digits = strip_0x(text);
        if text.is_empty() {
            return Err(InvalidPrivateKey::Empty);
        }
        if text.contains("...") {
            return Err(InvalidPrivateKey::Placeholder);
        }
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidPrivateKey::NotHex(text.chars().count()));
        }
        if digits.len() != 64 {
            return Err(InvalidPrivateKey::Length(digits.len()));
        }
        let mut key = Self(Zeroizing::new([0; 32]));
        alloy::hex::decode_to_slice(digits, key.0.as_mut_slice())
            .map_err(|_| InvalidPrivateKey::NotHex(text.chars().count()))?;
        let scalar = U256::from_be_bytes(*key.0);
        if scalar.is_zero() {
            return Err(InvalidPrivateKey::Zero);
        }
        if scalar >= CURVE_ORDER {
            return Err(InvalidPrivateKey::NotBelowOrder);
        }
        Ok(key)
    }

    /// The 32 bytes, for the signer. Never log them, put them into an error, or keep them elsewhere.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The wallet's address.
    #[must_use]
    pub fn address(&self) -> Address {
        let key = k256::ecdsa::SigningKey::from_slice(self.0.as_slice())
            .expect("parse admits only scalars from 1 to the curve order - 1");
        Address::from_private_key(&key)
    }

    /// Returns whether this key is public knowledge: the accounts of development nodes, the key in the
    /// product's documentation, and very small numbers.
    #[must_use]
    pub fn is_publicly_known(&self) -> bool {
        self.0[..28].iter().all(|byte| *byte == 0)
            || PUBLICLY_KNOWN.contains(&self.address().into_array())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

/// Addresses whose private keys are printed in manuals: accounts 0 to 9 of anvil and hardhat
/// ("test test … junk"), then the key in this product's documentation.
const PUBLICLY_KNOWN: [[u8; 20]; 11] = [
    alloy::hex!("f39fd6e51aad88f6f4ce6ab8827279cfffb92266"),
    alloy::hex!("70997970c51812dc3a010c7d01b50e0d17dc79c8"),
    alloy::hex!("3c44cdddb6a900fa2b585dd299e03d12fa4293bc"),
    alloy::hex!("90f79bf6eb2c4f870365e785982e1f101e93b906"),
    alloy::hex!("15d34aaf54267db7d7c367839aaf71a00a2c6a65"),
    alloy::hex!("9965507d1a55bcc2695c58ba16fb37d819b0a4dc"),
    alloy::hex!("976ea74026e726554db657fa54763abd0c3a0aa9"),
    alloy::hex!("14dc79964da2c08b23698b3d3cc7ca32193d9955"),
    alloy::hex!("23618e81e3f5cdf7f54c3d65f7fbc0abf5b21e8f"),
    alloy::hex!("a0ee7a142d267c1f36714e4a8f75612f20a79720"),
    alloy::hex!("63fac9201494f0bd17b9892b9fae4d52fe3bd377"),
];

/// A URL that shows only scheme, host and port.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SecretUrl(Url);

impl SecretUrl {
    #[must_use]
    pub fn new(url: Url) -> Self {
        Self(url)
    }

    /// The whole URL, for the connection. Never log it or put it into an error.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        match self.0.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// `text` without a leading 0x or 0X.
pub(super) fn strip_0x(text: &str) -> &str {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV_KEY_0: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn reads_keys_with_and_without_prefix() {
        let plain = PrivateKey::parse(DEV_KEY_0).unwrap();
        for text in [format!("0x{DEV_KEY_0}"), format!(" 0X{}\r\n", DEV_KEY_0.to_uppercase())] {
            assert_eq!(PrivateKey::parse(&text).unwrap(), plain);
        }
        assert_eq!(
            plain.address(),
            alloy::primitives::address!("f39fd6e51aad88f6f4ce6ab8827279cfffb92266")
        );
    }

    #[test]
    fn refuses_what_is_no_key() {
        let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        let last = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140";
        let zero = "0".repeat(64);
        for (text, error) in [
            ("", InvalidPrivateKey::Empty),
            ("0x...", InvalidPrivateKey::Placeholder),
            (order, InvalidPrivateKey::NotBelowOrder),
            (&"f".repeat(64), InvalidPrivateKey::NotBelowOrder),
            (&zero, InvalidPrivateKey::Zero),
            (&DEV_KEY_0[1..], InvalidPrivateKey::Length(63)),
            (&format!("0x{DEV_KEY_0}0"), InvalidPrivateKey::Length(65)),
            ("0x", InvalidPrivateKey::Length(0)),
            ("éé", InvalidPrivateKey::NotHex(2)),
        ] {
            assert_eq!(PrivateKey::parse(text), Err(error));
        }
        assert!(PrivateKey::parse(last).is_ok());
    }

    #[test]
    fn knows_the_keys_everybody_knows() {
        let one = format!("{:064x}", 1);
        let documented = "8da4ef21b864d2cc526dbdb2a120bd2874c36c9d0a1fb7f8c63d7f7a8b41de8f";
        let known = [
            DEV_KEY_0,
            "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
            "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
            "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
            "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
            "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
            "92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
            "4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
            "dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
            "2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
            &one,
            documented,
        ];
        for key in known {
            let key = PrivateKey::parse(key).unwrap();
            assert!(key.is_publicly_known(), "{}", key.address());
        }
        assert!(!PrivateKey::parse(&"ab".repeat(32)).unwrap().is_publicly_known());
    }

    #[test]
    fn nothing_prints_a_secret() {
        let url = Url::parse("wss://CANARY:CANARY@host.example:99/CANARY?k=CANARY#CANARY").unwrap();
        let url = SecretUrl::new(url);
        assert_eq!(url.to_string(), "wss://host.example:99");
        let key = PrivateKey::parse(DEV_KEY_0).unwrap();
        let printed = format!("{url:?} {:?} {key:?}", SecretString::new("CANARY".to_owned()));
        assert!(!printed.contains("CANARY"), "{printed}");
        assert!(!printed.contains(&DEV_KEY_0[..8]), "{printed}");
        let ipv6 = SecretUrl::new(Url::parse("http://[::1]:50052/x").unwrap());
        assert_eq!(ipv6.to_string(), "http://[::1]:50052");
    }
}
