//! All keys: their names in files and in variables, and their defaults as an operator would write them.

use std::fmt;

macro_rules! keys {
    ($(#[$doc:meta])+ $set:ident { $($variant:ident = $name:literal $(or $default:literal)?,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) enum $set { $($variant,)+ }

        impl $set {
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Name in a file, with its table.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The value if none is given.
            pub(super) fn default(self) -> Option<&'static str> {
                let default: &[&str] = match self { $(Self::$variant => &[$($default)?],)+ };
                default.first().copied()
            }

            pub(super) fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|key| key.name() == name)
            }
        }

        impl fmt::Display for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

keys! {
    /// A configuration key.
    Key {
        Enabled = "enabled" or "true",
        Mode = "mode" or "answer",
        ServiceName = "service_name" or "kms-connector",
        GatewayUrl = "gateway_url" or "ws://localhost:8545",
        GatewayFallbackUrls = "gateway_fallback_urls",
        KmsCoreEndpoint = "kms_core_endpoint" or "http://[::1]:50052",
        ChainId = "chain_id" or "31337",
        DecryptionAddress = "decryption_address" or "0x5fbdb2315678afecb367f032d93f642f64180aa3",
        GatewayConfigAddress = "gateway_config_address" or "0x0000000000000000000000000000000000000001",
        KmsGenerationAddress = "kms_generation_address",
        ModeOfKeyManagement = "key_management" or "answer",
        RepresentationOfKeys = "key_representation" or "auto",
        HostChains = "host_chains",
        HostChainMaxConcurrentCalls = "host_chain_max_concurrent_calls" or "128",
        HostChainCallTimeoutSecs = "host_chain_call_timeout_secs" or "10",
        Erc1271GasLimit = "erc1271_gas_limit" or "100000",
        EthereumUrl = "ethereum_url",
        EthereumFallbackUrls = "ethereum_fallback_urls",
        EthereumChainId = "ethereum_chain_id",
        ProtocolConfigAddress = "protocol_config_address",
        EthereumStartingBlock = "ethereum_starting_block" or "latest",
        EthereumFinality = "ethereum_finality" or "finalized",
        EthereumConfirmations = "ethereum_confirmations" or "64",
        // Far above what is usual there.
        EthereumMaxFeePerGasGwei = "ethereum_max_fee_per_gas_gwei" or "500",
        PrivateKeyText = "private_key",
        PrivateKeyFile = "private_key_file",
        AwsKeyId = "aws_kms_config.key_id",
        AwsRegion = "aws_kms_config.region",
        AwsEndpoint = "aws_kms_config.endpoint",
        S3Region = "s3_config.region",
        S3Bucket = "s3_config.bucket",
        S3Endpoint = "s3_config.endpoint",
        CaFile = "ca_file",
        ChannelSize = "channel_size" or "1000",
        PublicDecryptionTimeoutSecs = "public_decryption_timeout_secs" or "300",
        UserDecryptionTimeoutSecs = "user_decryption_timeout_secs" or "300",
        RetryIntervalSecs = "retry_interval_secs" or "5",
        DecryptionDomainName = "decryption_domain_name" or "Decryption",
        DecryptionDomainVersion = "decryption_domain_version" or "1",
        GatewayConfigDomainName = "gateway_config_domain_name" or "GatewayConfig",
        GatewayConfigDomainVersion = "gateway_config_domain_version" or "1",
        VerifyCoprocessors = "verify_coprocessors" or "false",
        GasLimit = "gas_limit",
        // Far above any fee on chains like the Gateway's.
        MaxFeePerGasGwei = "max_fee_per_gas_gwei" or "1000",
        StartingBlock = "starting_block" or "latest",
        MinimumGeneration = "minimum_generation",
        Finality = "finality" or "latest",
        Confirmations = "confirmations" or "0",
        PublicDecryptionConfirmations = "public_decryption_confirmations",
        UserDecryptionConfirmations = "user_decryption_confirmations",
        RequestExpirySecs = "request_expiry_secs" or "86400",
        HeldRetrySecs = "held_retry_secs" or "300",
        JournalRetentionDays = "journal_retention_days" or "7",
        CiphertextMemoryMib = "ciphertext_memory_mib" or "512",
        MaxRequestsInFlight = "max_requests_in_flight" or "1000",
        MaxTransactionsInFlight = "max_transactions_in_flight" or "512",
    }
}

keys! {
    /// A key of one `[[host_chains]]` entry.
    HostChainKey {
        ChainId = "chain_id",
        Url = "url",
        FallbackUrls = "fallback_urls",
        AclAddress = "acl_address",
        Agreement = "agreement" or "1",
        MaxAgeSecs = "max_age_secs" or "120",
    }
}

/// The tables that a file may have.
pub(super) const TABLES: [&str; 2] = ["aws_kms_config", "s3_config"];

impl Key {
    /// Whether its value is a list of tables: `[[name]]` in a file, JSON in a variable.
    pub(super) fn is_list_of_tables(self) -> bool {
        self == Self::HostChains
    }

    /// The part after `KMS_CONNECTOR_`: upper case, `__` between table and key.
    pub(super) fn variable(self) -> String {
        self.name().replace('.', "__").to_uppercase()
    }

    pub(super) fn from_variable(rest: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.variable() == rest)
    }

    /// Returns whether a variable shared by all instances must not set this key, because it would give
    /// them the same identity.
    pub(super) fn is_one_instance_only(self) -> bool {
        matches!(
            self,
            Self::PrivateKeyText
                | Self::PrivateKeyFile
                | Self::AwsKeyId
                | Self::KmsCoreEndpoint
                | Self::ServiceName
        )
    }
}

/// The candidate most similar to `name`, if any is similar. Ignores case, dashes and the table:
/// `region` is similar to `s3_config.region`.
pub(super) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace("__", "_").replace(['-', '.'], "_");
    let last = |text: &str| plain(text.rsplit('.').next().unwrap_or(text));
    if name.len() > 200 {
        return None; // no key is similar, and the distance is quadratic
    }
    candidates
        .map(|candidate| {
            let whole = strsim::damerau_levenshtein(&plain(name), &plain(&candidate));
            let part = strsim::damerau_levenshtein(&last(name), &last(&candidate)) + 1;
            (whole.min(part), candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + last(candidate).len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let find = |name| nearest(name, Key::ALL.iter().map(|key| key.name().to_owned()));
        assert_eq!(find("gateway-url").as_deref(), Some("gateway_url"));
        assert_eq!(find("kms_core_endpoints").as_deref(), Some("kms_core_endpoint"));
        assert_eq!(find("chainid").as_deref(), Some("chain_id"));
        assert_eq!(find("bucket").as_deref(), Some("s3_config.bucket"));
        assert_eq!(find("s3_config_bucket").as_deref(), Some("s3_config.bucket"));
        assert_eq!(find("colour"), None);
    }
}
