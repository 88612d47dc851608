//! Probes the two contracts and this node's registration.

use tokio::time::timeout;

use super::{
    super::{
        host_chains::lack_for,
        key_requests::{key_lack, key_signing_domain},
    },
    DEADLINE, Finding, Severity, dependencies, within_deadline,
};
use crate::{
    chain::{reader::ChainReader, rpc_error::RpcError},
    config::{Config, KeyChain},
    contracts::{
        abi::CiphertextSource,
        decryption::{DeploymentSupport, RequestContract},
        gateway_config::GatewayConfigAdapter,
    },
    domain::Address,
};

const ASK_AGAIN: &str = "try again; another gateway_url if it stays so";

/// Where ciphertexts come from at the deployed contracts; by their digests as long as that is unknown.
pub(super) async fn ciphertext_source<P: ChainReader>(
    provider: &P,
    config: &Config,
) -> CiphertextSource {
    let decryption = RequestContract::new(provider.clone(), dependencies::addresses(config));
    match timeout(DEADLINE, decryption.support()).await {
        Ok(Ok(DeploymentSupport::Served(deployment))) => deployment.ciphertext_source(),
        Ok(Ok(_) | Err(_)) | Err(_) => CiphertextSource::Digest,
    }
}

/// Probes the Decryption contract: whether it exists, its version, its EIP-712 domain.
pub(super) async fn diagnose_decryption<P: ChainReader>(
    provider: &P,
    config: &Config,
) -> Vec<Finding> {
    const SUBJECT: &str = "Decryption";
    let decryption = RequestContract::new(provider.clone(), dependencies::addresses(config));
    let looking = async {
        let address = decryption.address();
        if !decryption.is_deployed().await? {
            let found = format!("there is no code at {address}");
            let remedy = "correct decryption_address, or wait until the contract is deployed";
            return Ok(vec![Finding::fail(SUBJECT, found, remedy)]);
        }
        let (support, domain) =
            tokio::try_join!(decryption.support(), decryption.signing_domain())?;
        let support = support.not_before(config.minimum_generation);
        let another = support.is_of_another_contract(SUBJECT);
        let version = match support.version() {
            "" => "a contract that reports no version",
            version => version,
        };
        let of_version = match &support {
            _ if another => Finding::fail(
                SUBJECT,
                format!("the contract at {address} names itself {version}"),
                if version.starts_with("GatewayConfig") {
                    "correct decryption_address and gateway_config_address: they seem to be swapped"
                } else {
                    "correct decryption_address"
                },
            ),
            DeploymentSupport::Served(deployment) => {
                let of = deployment.generation;
                Finding::ok(SUBJECT, format!("{version} at {address}, of {of}"))
            }
            DeploymentSupport::Upgraded { .. } => {
                Finding::ok(SUBJECT, format!("{version} at {address}"))
            }
            DeploymentSupport::WentBack { told, known } => Finding::fail(
                SUBJECT,
                format!(
                    "{told} at {address} is older than minimum_generation = \"{}\": its requests are held",
                    known.name()
                ),
                "ask another gateway node; if the contract was taken back, lower minimum_generation",
            ),
            DeploymentSupport::Newer { .. } => Finding::fail(
                SUBJECT,
                format!(
                    "{version} at {address} is newer than this version knows: its requests are held"
                ),
                "upgrade the connector to a version that serves it",
            ),
        };
        let lack = match &support {
            DeploymentSupport::Served(deployment) if !another => lack_for(config, deployment),
            DeploymentSupport::Served(_)
            | DeploymentSupport::Newer { .. }
            | DeploymentSupport::WentBack { .. }
            | DeploymentSupport::Upgraded { .. } => None,
        };
        let lack = lack.map(|lack| {
            Finding::fail(
                "host chain",
                lack,
                "see \"Host chains\" in config/README.md; config/networks (installed: \
                 share/kms-connector/networks) has the published chains",
            )
        });
        let configured = dependencies::configured_domain(config);
        let of_domain = match domain {
            Some(deployed) if deployed != configured => Finding::fail(
                "signing domain",
                format!("the contract says {deployed}; the configuration says {configured}"),
                "correct decryption_domain_name, decryption_domain_version, chain_id or \
                 decryption_address",
            ),
            Some(domain) => {
                let found = format!("{} {}, as configured", domain.name, domain.version);
                Finding::ok("signing domain", found)
            }
            None => Finding::warn(
                "signing domain",
                "the contract does not report its EIP-712 domain",
                "make sure that decryption_address is the Decryption contract",
            ),
        };
        Ok([of_version, of_domain].into_iter().chain(lack).collect())
    };
    match within_deadline(SUBJECT, looking).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => {
            let error: RpcError = error;
            vec![Finding::fail(SUBJECT, error.to_string(), ASK_AGAIN)]
        }
        Err(late) => vec![late],
    }
}

const KEY_GENERATION: &str = "KMSGeneration";

/// Probes whether the gateway's contract that asks for key operations exists and is one, and whether what goes
/// with the deployed contracts is served.
pub(super) async fn diagnose_key_generation<P: ChainReader>(
    provider: &P,
    config: &Config,
) -> Option<Finding> {
    let decryption = RequestContract::new(provider.clone(), dependencies::addresses(config));
    let of_contract = async {
        let Some(KeyChain::Gateway { contract, .. }) = config.key_chain() else { return None };
        let contract = decryption.key_generation(contract);
        diagnose_key_contract(&contract, config.chain_id).await
    };
    let of_lack = async {
        let support = timeout(DEADLINE, decryption.support()).await.ok()?.ok()?;
        let lack = key_lack(config, support.answered()?)?;
        let found = format!("key operations are not served: {lack}");
        Some(Finding::warn(
            KEY_GENERATION,
            found,
            "nothing, unless this node takes part in key and CRS generation",
        ))
    };
    let (of_contract, of_lack) = tokio::join!(of_contract, of_lack);
    match of_contract {
        Some(finding) if finding.verdict == Severity::Fail => Some(finding),
        of_contract => of_lack.or(of_contract),
    }
}

/// Probes a contract that asks for key operations: whether it exists, and is one.
pub(super) async fn diagnose_key_contract<P: ChainReader>(
    contract: &RequestContract<P>,
    chain_id: u64,
) -> Option<Finding> {
    const SUBJECT: &str = KEY_GENERATION;
    let address = contract.address();
    let looking = async {
        if !contract.is_deployed().await? {
            let found = format!("there is no code at {address}");
            let remedy = "correct kms_generation_address, or wait until the contract is deployed";
            return Ok(Some(Finding::fail(SUBJECT, found, remedy)));
        }
        let domain = contract.signing_domain().await?;
        let expected = key_signing_domain(chain_id, address);
        Ok(Some(match domain {
            Some(domain) if domain == expected => {
                Finding::ok(SUBJECT, format!("{} {} at {address}", domain.name, domain.version))
            }
            Some(domain) => Finding::fail(
                SUBJECT,
                format!("the contract says {domain}; its requests are signed for {expected}"),
                "correct kms_generation_address",
            ),
            None => Finding::warn(
                SUBJECT,
                format!("the contract at {address} does not report its EIP-712 domain"),
                "make sure that kms_generation_address is the KMSGeneration contract",
            ),
        }))
    };
    match within_deadline(SUBJECT, looking).await {
        Ok(Ok(finding)) => finding,
        Ok(Err(error)) => {
            let error: RpcError = error;
            Some(Finding::fail(SUBJECT, error.to_string(), ASK_AGAIN))
        }
        Err(late) => Some(late),
    }
}

/// Probes the GatewayConfig contract and the registration of this wallet.
pub(super) async fn diagnose_registry<P: ChainReader>(
    registry: &GatewayConfigAdapter<P>,
    config: &Config,
    wallet: Option<Address>,
) -> (Finding, Option<Finding>) {
    const SUBJECT: &str = "GatewayConfig";
    let address = config.gateway_config_address;
    if !registry.is_deployed() {
        let found = format!("there is no code at {address}");
        let remedy = if config.s3.is_some() {
            "correct gateway_config_address: until then nobody knows whether this wallet and its Core are \
             registered, and ciphertexts come from [s3_config] alone"
        } else {
            "correct gateway_config_address, or set [s3_config]: until then no ciphertext can be found"
        };
        return (Finding::fail(SUBJECT, found, remedy), None);
    }
    let finding = Finding::ok(SUBJECT, format!("at {address}"));
    let Some(wallet) = wallet else { return (finding, None) };
    let asked = within_deadline("registration", registry.registration()).await;
    let registration = match asked.map(|asked| asked.map(|found| (found.signer, found.place()))) {
        // The Core has no call for its public key; its first answer shows the signer.
        Ok(Ok((Some(signer), place))) => Finding::ok(
            "registration",
            format!(
                "{wallet} is a KMS transaction sender{place}; its Core has to sign as {signer}"
            ),
        ),
        Ok(Ok((None, place))) => Finding::fail(
            "registration",
            format!("{wallet} is not registered as a KMS transaction sender{place}"),
            "have the owner of GatewayConfig register the wallet, or use the one that is: answers \
             are held until then",
        ),
        Ok(Err(error)) => {
            let found = error.to_string();
            let remedy = "try again; if it stays so, correct gateway_config_address, or name another \
                          gateway_url";
            Finding::fail("registration", found, remedy)
        }
        Err(late) => late,
    };
    (finding, Some(registration))
}
