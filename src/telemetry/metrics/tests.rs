use super::*;
use crate::domain::{B256, BlockRef};

fn value(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let name = format!("kms_connector_{name}");
    let family = metrics.gather().into_iter().find(|family| family.name() == name)?;
    let metric = family.get_metric().iter().find(|metric| {
        labels.iter().all(|(label, value)| {
            metric.get_label().iter().any(|pair| pair.name() == *label && pair.value() == *value)
        })
    })?;
    let counted = metric.get_counter().get_value() + metric.get_gauge().get_value();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    Some(counted + metric.get_histogram().get_sample_count() as f64)
}

#[test]
fn nothing_is_taken_for_zero_before_it_is_known() {
    let metrics = Metrics::new();
    for name in ["wallet_balance_ether", "journal_disk_free_bytes", "lag_seconds"] {
        assert_eq!(value(&metrics, name, &[]), None, "{name}");
    }
    assert_eq!(value(&metrics, "oldest_request_age_seconds", &[]), None);
    metrics.balance(U256::from(1_500_000_000_000_000_000_u64));
    assert_eq!(value(&metrics, "wallet_balance_ether", &[]), Some(1.5));
    metrics.behind_since(None);
    assert_eq!(value(&metrics, "lag_seconds", &[]), Some(0.0));
}

/// An alert that watches for an increase misses a series that begins with 1.
#[test]
fn what_alerts_look_at_is_there_from_the_beginning() {
    let metrics = Metrics::new();
    for name in ["digest_mismatches_total", "signer_mismatches_total", "foreign_nonces_total"] {
        assert_eq!(value(&metrics, name, &[]), Some(0.0), "{name}");
    }
    let settled = [("kind", "user_decryption"), ("outcome", "accepted")];
    assert_eq!(value(&metrics, "requests_settled_total", &settled), Some(0.0));
}

#[test]
fn standings_replace_those_before() {
    let metrics = Metrics::new();
    let now = clock::unix_millis();
    let standing = |stage, held, requests, seconds: u64| RequestGauges {
        kind: Kind::UserDecryption,
        stage,
        held,
        requests,
        oldest_ms: now - seconds * 1000,
    };
    metrics.set_requests(&[
        standing("asked", None, 2, 10),
        standing("asked", Some(HoldReason::NoFunds), 3, 500),
        standing("arrived", None, 1, 100),
    ]);
    let of = |stage| {
        value(&metrics, "requests", &[("kind", "user_decryption"), ("stage", stage)]).unwrap()
    };
    assert_eq!((of("asked"), of("arrived"), of("submitted")), (5.0, 1.0, 0.0));
    let held = || value(&metrics, "requests_held", &[("reason", "no_funds")]);
    assert_eq!(held(), Some(3.0));
    let age = |held| value(&metrics, "oldest_request_age_seconds", &[("held", held)]).unwrap();
    assert!(age("false") >= 100.0 && age("false") < 500.0 && age("true") >= 500.0);
    metrics.set_requests(&[]);
    assert_eq!((held(), age("false"), of("asked")), (Some(0.0), 0.0, 0.0));
}

#[test]
fn hosts_beyond_the_bound_are_counted_together() {
    let metrics = Metrics::new();
    for index in 0..100 {
        metrics.fetched(&format!("bucket-{index}:9000"), "ok");
    }
    let family =
        metrics.gather().into_iter().find(|one| one.name().ends_with("bucket_fetches_total"));
    assert_eq!(family.unwrap().get_metric().len(), 33);
    assert_eq!(value(&metrics, "bucket_fetches_total", &[("bucket_host", "other")]), Some(68.0));
}

#[test]
fn a_mined_transaction_costs_gas_times_its_price() {
    let metrics = Metrics::new();
    metrics.mined(Mined { success: true, gas_used: 100_000, gas_price: 10_000_000_000 });
    metrics.mined(Mined { success: false, gas_used: 100_000, gas_price: 0 });
    assert_eq!(value(&metrics, "fees_ether_total", &[]), Some(0.001));
    assert_eq!(value(&metrics, "gas_used_total", &[]), Some(200_000.0));
    assert_eq!(value(&metrics, "transactions_total", &[("result", "reverted")]), Some(1.0));
    let block = BlockRef { number: 1, hash: B256::ZERO };
    let outcome = Outcome::Accepted { transaction: B256::ZERO, block };
    metrics.settled(Kind::PublicDecryption, &outcome, Duration::from_secs(2));
    let kind = [("kind", "public_decryption")];
    assert_eq!(value(&metrics, "request_duration_seconds", &kind), Some(1.0));
}

/// Two nodes may have one host, and nodes of an earlier configuration are no longer shown.
#[test]
fn endpoints_are_told_by_host() {
    let metrics = Metrics::new();
    let node = |host, up, head| NodeGauges { host, up, head, ..NodeGauges::default() };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let first = NodeGauges { behind: seconds(9), ..node("a", false, Some(3)) };
    let second = NodeGauges { behind: seconds(4), still: seconds(1), ..node("a", true, Some(2)) };
    metrics.endpoints([first, node("b", true, None), second]);
    let of = |name, host| value(&metrics, name, &[("endpoint_host", host)]);
    assert_eq!(of("rpc_endpoint_behind_seconds", "a"), Some(4.0));
    assert_eq!(of("rpc_endpoint_still_seconds", "a"), Some(1.0));
    assert_eq!(of("rpc_endpoint_still_seconds", "b"), None);
    let up = |host| value(&metrics, "rpc_endpoint_up", &[("endpoint_host", host)]);
    assert_eq!((up("a"), up("b")), (Some(1.0), Some(1.0)));
    let head = value(&metrics, "rpc_endpoint_head_block", &[("endpoint_host", "a")]);
    assert_eq!(head, Some(3.0));
    // A node that is not connected has no position.
    metrics.endpoints([node("a", false, Some(3))]);
    assert_eq!(of("rpc_endpoint_behind_seconds", "a"), None);
    metrics.new_generation();
    assert_eq!(up("a"), None);
}
