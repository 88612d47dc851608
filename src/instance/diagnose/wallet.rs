//! Probes the wallet: it signs a hash that means nothing.

use super::Finding;
use crate::{
    chain::wallet::Wallet,
    config::{self, Config},
    domain::B256,
    instance::dependencies,
};

/// Opens the wallet and signs. The signature counts only if it recovers to the wallet's address.
pub(super) async fn diagnose_wallet(
    configured: &config::Wallet,
    config: &Config,
) -> (Finding, Option<Wallet>) {
    const SUBJECT: &str = "wallet";
    let (kind, remedy) = match configured {
        config::Wallet::PrivateKey(_) => ("private key", "correct private_key"),
        config::Wallet::AwsKms { .. } => {
            ("key in AWS KMS", "correct [aws_kms_config], the credentials or the key's policy")
        }
    };
    let wallet = match dependencies::ask_wallet(configured, config).await {
        Ok(wallet) => wallet,
        Err(why) => return (Finding::fail(SUBJECT, why.to_string(), remedy), None),
    };
    let (address, hash) = (wallet.address(), meaningless_hash());
    let finding = match wallet.sign_hash(hash).await {
        Ok(signature) if signature.recover_address_from_prehash(&hash).ok() == Some(address) => {
            Finding::ok(SUBJECT, format!("{address}, {kind}; it signs"))
        }
        Ok(_) => Finding::fail(
            SUBJECT,
            format!("{address}, {kind}: its signature is of another key"),
            "check that the key's alias was not moved",
        ),
        Err(error) => Finding::fail(SUBJECT, format!("{address}, {kind}: {error}"), remedy),
    };
    (finding, Some(wallet))
}

/// A hash that belongs to no transaction and no message.
fn meaningless_hash() -> B256 {
    alloy::primitives::keccak256("kms-connector check: this signature means nothing")
}
