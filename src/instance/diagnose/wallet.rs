//! Probes the wallet: it signs a hash that means nothing.

use url::Url;

use super::{Finding, proxy_remedy};
use crate::{
    chain::wallet::{Wallet, WalletError},
    config::{self, Config},
    domain::B256,
    instance::{Unready, dependencies},
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
        Err(why) => {
            let remedy = match (&why, proxy_of(configured, config)) {
                (Unready::Wallet(WalletError::Unreachable { .. }), Some(proxy)) => {
                    proxy_remedy(&proxy)
                }
                _ => remedy.to_owned(),
            };
            return (Finding::fail(SUBJECT, why.to_string(), remedy), None);
        }
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

/// Host and port of the proxy on the way to AWS KMS.
fn proxy_of(configured: &config::Wallet, config: &Config) -> Option<String> {
    let config::Wallet::AwsKms { region, endpoint, .. } = configured else { return None };
    let region = region.as_deref().unwrap_or("us-east-1");
    let usual = || Url::parse(&format!("https://kms.{region}.amazonaws.com")).ok();
    let url = endpoint.as_ref().map(|url| url.expose().clone()).or_else(usual)?;
    // Calls over http, to emulators, go through no proxy.
    config.proxies.proxy_name_for(&url).filter(|_| url.scheme() == "https")
}

/// A hash that belongs to no transaction and no message.
fn meaningless_hash() -> B256 {
    alloy::primitives::keccak256("kms-connector check: this signature means nothing")
}
