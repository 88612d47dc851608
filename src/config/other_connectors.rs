//! Keys of other connectors (the three services, and the single programs before them). An operator who
//! brings their files or variables gets the name used here, instead of the nearest spelling.

/// A key as it stands in their files, and its name here. Empty: no counterpart.
const KEYS: &[(&str, &str)] = &[
    ("gateway_chain_id", "chain_id"),
    (
        "decryption_contract",
        "decryption_address, decryption_domain_name, decryption_domain_version",
    ),
    ("decryption_contract.address", "decryption_address"),
    ("decryption_contract.domain_name", "decryption_domain_name"),
    ("decryption_contract.domain_version", "decryption_domain_version"),
    ("gateway_config_contract", "gateway_config_address"),
    ("gateway_config_contract.address", "gateway_config_address"),
    ("gateway_config_contract.domain_name", "gateway_config_domain_name"),
    ("gateway_config_contract.domain_version", "gateway_config_domain_version"),
    ("kms_core_endpoints", "kms_core_endpoint"),
    ("task_limit", "max_requests_in_flight"),
    ("max_concurrent_tasks", "max_requests_in_flight"),
    ("max_parallel_transactions", "max_transactions_in_flight"),
    ("monitoring_endpoint", "--listen or KMS_CONNECTOR_LISTEN"),
    ("decryption_from_block_number", "starting_block"),
    ("from_block_number", "starting_block"),
    ("starting_block_number", "starting_block"),
    ("decryption_expiry", "request_expiry_secs"),
    ("gc_decryption_expiry", "request_expiry_secs"),
    ("grpc_poll_interval", "retry_interval_secs"),
    ("grpc_poll_interval_secs", "retry_interval_secs"),
    ("tls_config", "ca_file"),
    ("tls_config.ca_cert_path", "ca_file"),
    ("database_url", ""),
    ("database_pool_size", ""),
    ("database_polling_timeout", ""),
    ("healthcheck_timeout", ""),
    ("decryption_polling", ""),
    ("key_management_polling", ""),
    ("db_fast_event_polling", ""),
    ("db_long_event_polling", ""),
    ("get_logs_batch_size", ""),
    ("events_batch_size", ""),
    ("responses_batch_size", ""),
    ("max_consecutive_polling_errors", ""),
    ("grpc_request_retries", ""),
    ("max_decryption_attempts", ""),
    ("s3_ciphertext_retrieval_attempts", ""),
    ("s3_ciphertext_retrieval_retries", ""),
    ("s3_connect_timeout", ""),
    ("s3_head_timeout", ""),
    ("s3_get_timeout", ""),
    ("s3_max_concurrent_heads_per_bucket", ""),
    ("s3_max_concurrent_gets", ""),
    ("s3_max_ciphertext_size", ""),
    ("copro_registry_refresh", ""),
    ("tx_retries", ""),
    ("tx_retry_interval", ""),
    ("gas_multiplier_percent", ""),
    ("gas_boost_percent", ""),
    ("trace_reverted_tx", ""),
    ("operation_recovery_run_interval", ""),
    ("operation_under_process_timeout", ""),
    ("gauge_update_interval", ""),
    ("pending_events_max", ""),
    ("pending_events_queue_slowdown_threshold", ""),
    ("max_retries", ""),
    ("use_polling_mode", ""),
    ("base_poll_interval_ms", ""),
    ("base_poll_interval_secs", ""),
    ("max_blocks_per_batch", ""),
    ("enable_coordinated_sending", ""),
    ("message_send_delta_ms", ""),
    ("message_spacing_ms", ""),
    ("kms_operation_from_block_number", "ethereum_starting_block"),
    ("kms_management_contract", ""),
    ("kms_generation_contract", "kms_generation_address"),
    ("kms_generation_contract.address", "kms_generation_address"),
    ("protocol_config_contract", "protocol_config_address"),
    ("protocol_config_contract.address", "protocol_config_address"),
    ("kms_verifier_address", ""),
    ("host_rpc_max_concurrent_calls", "host_chain_max_concurrent_calls"),
    ("host_rpc_call_timeout", "host_chain_call_timeout_secs"),
    ("ethereum_tx_required_confirmations", ""),
    ("ethereum_tx_get_receipt_timeout", ""),
    ("ct_attestation", ""),
];

/// A sentence about the counterpart of another connector's key. `name` is written as in a file, in any
/// case; its table may be omitted if only that connector has it.
pub(super) fn hint_for(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    let whole = KEYS.iter().find(|(key, _)| *key == name);
    let table =
        || name.split_once('.').and_then(|(table, _)| KEYS.iter().find(|(key, _)| *key == table));
    let (_, here) = whole.or_else(table)?;
    let here = if here.is_empty() { "there is none".to_owned() } else { format!("it is {here}") };
    Some(format!(
        "A key of another connector: here {here}. See \"Moving from the three-service connector\" in \
         config/README.md"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c6_keys_of_other_connectors_are_known_in_every_spelling() {
        for (name, here) in [
            ("gateway_chain_id", "chain_id"),
            ("DECRYPTION_CONTRACT.ADDRESS", "decryption_address"),
            ("task_limit", "max_requests_in_flight"),
            ("tls_config.anything", "ca_file"),
            ("database_url", "there is none"),
            ("host_rpc_call_timeout", "host_chain_call_timeout_secs"),
            ("protocol_config_contract.address", "protocol_config_address"),
        ] {
            let told = hint_for(name).unwrap();
            assert!(told.contains(here), "{name}: {told}");
        }
        assert_eq!(hint_for("gateway_urll"), None);
        assert_eq!(hint_for("chain_id"), None);
    }
}
