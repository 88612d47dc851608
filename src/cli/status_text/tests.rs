//! The report on realistic values.

use std::path::PathBuf;

use super::*;
use crate::admin::status::{ChainState, ChainStatus, OtherContracts, StoppedBy};

/// 2026-09-14 16:05:12 UTC
const NOW: u64 = 1_789_401_912_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

const PLAIN: Style = Style { now_ms: NOW, colours: false };

fn instance(name: &str, state: InstanceState) -> InstanceStatus {
    InstanceStatus {
        name: name.to_owned(),
        file: Some(format!("/etc/kms-connector/{name}.toml").into()),
        state,
        since_ms: NOW - 76 * HOUR,
        reason_since_ms: None,
        generation: 1,
        restarts: 0,
        last_error: None,
        last_warnings: Vec::new(),
        reload_failed: None,
        reload_waits: false,
        changing: false,
        config_hash: Some("9f86d081884c".to_owned()),
        chain_id: Some(261_131),
        decryption: Some("0x5fbdb2315678afecb367f032d93f642f64180aa3".to_owned()),
        gateway: Some("gateway.example".to_owned()),
        kms_core: Some("core-1.example:50052".to_owned()),
        gauges: Gauges {
            chains: Vec::new(),
            wallet: Some("0x2c7536E3605D9C16a7a3D7b1898e529396a65c23".to_owned()),
            contracts: Some("G14 (\"Decryption v0.6.0\")".to_owned()),
            head: Some(5_000_000),
            cursor: Some(4_999_999),
            beside: Vec::new(),
            in_hand: 2,
            held: 0,
            held_by: std::collections::BTreeMap::default(),
            waits: None,
            key_operations: Vec::new(),
            catching_up: None,
            observed: None,
            stale: Vec::new(),
            host_chains: Vec::new(),
            lack: None,
            still_tag: None,
            unproven: None,
            read_once: None,
            unsent: None,
            hidden: Vec::new(),
            unanswered: None,
            other_contracts: None,
        },
    }
}

fn status(instances: Vec<InstanceStatus>) -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 4711,
        started_at_ms: NOW - 76 * HOUR,
        listen: Some("127.0.0.1:9478".to_owned()),
        config_dir: Some("/etc/kms-connector".into()),
        state_dir: None,
        reload: ReloadStatus {
            at_ms: NOW - 2 * HOUR,
            succeeded_at_ms: Some(NOW - 2 * HOUR),
            problems: vec![],
        },
        instances,
    }
}

fn waiting() -> InstanceStatus {
    let on = "the KMS Core at core-2.example:50052".to_owned();
    let state = InstanceState::Waiting { on, why: "connection refused".to_owned() };
    InstanceStatus { since_ms: NOW - 5 * MINUTE, ..instance("config-2", state) }
}

fn backing_off() -> InstanceStatus {
    InstanceStatus {
        since_ms: NOW - 4 * SECOND,
        generation: 4,
        restarts: 3,
        last_error: Some(LastError { at_ms: NOW - 4 * SECOND, text: "lane panicked".to_owned() }),
        ..instance("config-3", InstanceState::BackingOff { until_ms: NOW + 12 * SECOND })
    }
}

fn parked() -> InstanceStatus {
    let why = "2 problems in the configuration:\n  config-4.toml:3: chain_id: found 0\n  \
               config-4.toml:9: nonsense: found a key";
    InstanceStatus {
        reload_failed: Some(why.to_owned()),
        since_ms: NOW - 3 * MINUTE,
        generation: 0,
        file: Some("/etc/kms-connector/config-4.toml".into()),
        gauges: Gauges::default(),
        ..instance("config-4", InstanceState::Parked { why: why.to_owned(), retry_at_ms: None })
    }
}

#[test]
fn all_is_well() {
    let status = status(vec![instance("config-1", InstanceState::Running)]);
    assert!(is_well(&status));
    let expected = "\
kms-connector 0.1.0, pid 4711
  up           3d 4h (since 2026-09-11 12:05:12 UTC)
  files        /etc/kms-connector
  last change  2h ago (2026-09-14 14:05:12 UTC), all in order
  page         http://127.0.0.1:9478/

NAME      STATE    SINCE      GEN  RESTARTS  LAG  IN-HAND  HELD  WALLET
config-1  running  3d 4h ago  1    0         1    2        0     0x2c7536E3605D9C16a7a3D7b1898e529396a65c23
";
    assert_eq!(overview(&status, PLAIN), expected);
}

/// It is advice, and no trouble of the instance.
#[test]
fn requests_of_another_contract_are_told_as_long_as_there_are_any() {
    let mut one = instance("config-1", InstanceState::Running);
    one.gauges.other_contracts = Some(OtherContracts { requests: 2 });
    let status = status(vec![one]);
    assert!(is_well(&status));
    let text = overview(&status, PLAIN);
    assert!(text.contains("2 unfinished requests of another Decryption contract"), "{text}");
}

#[test]
fn a_bad_night() {
    let mut status = status(vec![
        InstanceStatus {
            reload_failed: Some("config-1.toml:3: gas_limit: found 6000".to_owned()),
            ..instance("config-1", InstanceState::Running)
        },
        waiting(),
        backing_off(),
        parked(),
    ]);
    status.reload.at_ms = NOW - 2 * MINUTE;
    let of_parked = parked().reload_failed.expect("it has one");
    status.reload.problems = vec![
        "/etc/kms-connector: permission denied".to_owned(),
        "config-1: config-1.toml:3: gas_limit: found 6000".to_owned(),
        format!("config-4: {of_parked}"),
    ];
    assert!(!is_well(&status));
    let expected = "\
kms-connector 0.1.0, pid 4711
  up           3d 4h (since 2026-09-11 12:05:12 UTC)
  files        /etc/kms-connector
  last change  2m ago (2026-09-14 16:03:12 UTC), 3 problems; all in order 2h ago (2026-09-14 14:05:12 UTC)
  page         http://127.0.0.1:9478/
  problem      /etc/kms-connector: permission denied

NAME      STATE        SINCE      GEN  RESTARTS  LAG  IN-HAND  HELD  WALLET
config-1  running      3d 4h ago  1    0         1    2        0     0x2c7536E3605D9C16a7a3D7b1898e529396a65c23
config-2  waiting      5m ago     1    0         1    2        0     0x2c7536E3605D9C16a7a3D7b1898e529396a65c23
config-3  backing-off  4s ago     4    3         -    -        -     0x2c7536E3605D9C16a7a3D7b1898e529396a65c23
config-4  parked       3m ago     0    0         -    -        -     -

config-1: running
  reload failed  config-1.toml:3: gas_limit: found 6000
  what to do     file: fix it; until then the instance keeps running as before

config-2: waiting
  for         the KMS Core at core-2.example:50052
  since       5m ago (2026-09-14 16:00:12 UTC)
  why         connection refused
  what to do  waiting: nothing if the cause is known, the instance continues by itself; else `kms-connector check --instance config-2` (under `start`: -c FILE) tests what it needs

config-3: backing-off
  next try    in 12s (2026-09-14 16:05:24 UTC)
  last error  lane panicked
              4s ago (2026-09-14 16:05:08 UTC)
  what to do  `kms-connector restart config-3` retries at once

config-4: parked
  since       3m ago (2026-09-14 16:02:12 UTC)
  why         2 problems in the configuration:
                config-4.toml:3: chain_id: found 0
                config-4.toml:9: nonsense: found a key
  next try    when its file changes
  what to do  fix the cause above; the file is watched and applied by itself
";
    assert_eq!(overview(&status, PLAIN), expected);
}

#[test]
fn what_else_an_instance_may_be() {
    let text = |instance: InstanceStatus| overview(&status(vec![instance]), PLAIN);
    let block = |instance: InstanceStatus| {
        let text = text(instance);
        text.split_once("23\n\n").expect("a block below the table").1.to_owned()
    };
    let stopped = instance("config-1", InstanceState::Stopped { by: StoppedBy::Operator });
    let expected = "\
config-1: stopped
  by          operator
  since       3d 4h ago (2026-09-11 12:05:12 UTC)
  what to do  if it should run: `kms-connector restart config-1`
";
    assert_eq!(block(stopped), expected);

    let parked = InstanceState::Parked {
        why: "5 ends without a minute of health".to_owned(),
        retry_at_ms: Some(NOW + 3 * MINUTE),
    };
    let parked = InstanceStatus { generation: 5, restarts: 4, ..instance("config-1", parked) };
    let expected = "\
config-1: parked
  since       3d 4h ago (2026-09-11 12:05:12 UTC)
  why         5 ends without a minute of health
  next try    in 3m (2026-09-14 16:08:12 UTC), or when its file changes
  what to do  fix the cause above; `kms-connector restart config-1` retries at once
";
    assert_eq!(block(parked), expected);

    let mut busy = instance("config-1", InstanceState::Running);
    busy.gauges.held = 3;
    busy.gauges.catching_up = Some(CatchUp {
        done: 1_200,
        to_do: 3_800,
        blocks_per_second: 35.24,
        seconds_left: Some(108),
    });
    busy.changing = true;
    let expected = "\
config-1: running
  changing     its new configuration is being checked or started
  catching up  1200 blocks done, 3800 to do, 35.2 per second, about 1m 48s left
  held         3; `kms-connector requests --held --instance config-1` shows each
";
    assert_eq!(block(busy), expected);

    let draining = instance("config-1", InstanceState::Draining);
    assert!(block(draining.clone()).contains("finishing  2 requests in hand\n"));
    // A transaction on the other chain uses the same time.
    let mut of_two = draining;
    of_two.gauges.chains.push(ChainStatus {
        chain_id: 9,
        hosts: "e:8545".to_owned(),
        contract: "0x77".to_owned(),
        state: ChainState::Running,
        gauges: Gauges { in_hand: 3, ..Gauges::default() },
    });
    let told = block(of_two);
    assert!(
        told.contains("2 requests in hand, 3 on chain 9: all chains share one time limit"),
        "{told}"
    );
    let starting = instance("config-1", InstanceState::Starting);
    assert!(block(starting).contains("since  3d 4h ago"));
}

#[test]
fn one_instance_in_full() {
    let mut one = backing_off();
    one.gauges = Gauges::default();
    let expected = "\
config-3: backing-off
  state since    4s ago (2026-09-14 16:05:08 UTC)
  file           /etc/kms-connector/config-3.toml
  config hash    9f86d081884c
  generation     4
  restarts       3
  chain id       261131
  decryption     0x5fbdb2315678afecb367f032d93f642f64180aa3
  contracts      -
  gateway        gateway.example
  kms core       core-1.example:50052
  wallet         -
  head block     -
  read up to     -
  blocks behind  -
  in hand        0
  next try       in 12s (2026-09-14 16:05:24 UTC)
  last error     lane panicked
                 4s ago (2026-09-14 16:05:08 UTC)
  what to do     `kms-connector restart config-3` retries at once
";
    assert_eq!(detail(&one, PLAIN), expected);

    // Over for long, and still shown.
    let recovered = InstanceStatus { state: InstanceState::Running, ..backing_off() };
    assert!(!overview(&status(vec![recovered.clone()]), PLAIN).contains("lane panicked"));
    assert_eq!(detail(&recovered, PLAIN).matches("lane panicked").count(), 1);
}

#[test]
fn who_needs_looking_at() {
    for (instance, well) in [
        (instance("a", InstanceState::Running), true),
        (instance("a", InstanceState::Starting), true),
        (instance("a", InstanceState::Draining), true),
        (instance("a", InstanceState::Stopped { by: StoppedBy::File }), true),
        (waiting(), true),
        (backing_off(), false),
        (parked(), false),
        (
            InstanceStatus {
                reload_failed: Some("bad".to_owned()),
                ..instance("a", InstanceState::Running)
            },
            false,
        ),
    ] {
        assert_eq!(instance_is_well(&instance), well, "{instance:?}");
        assert_eq!(is_well(&status(vec![instance])), well);
    }
    let mut unreadable = status(vec![]);
    assert!(is_well(&unreadable));
    unreadable.reload.problems = vec!["/etc/kms-connector: no such directory".to_owned()];
    assert!(!is_well(&unreadable));
}

#[test]
fn little_is_known_at_first() {
    let mut first = status(vec![]);
    first.config_dir = None;
    first.reload = ReloadStatus::default();
    let text = overview(&first, PLAIN);
    assert!(text.contains("files        one configuration"), "{text}");
    assert!(
        text.contains(
            "last change  none yet\n  page         http://127.0.0.1:9478/\n\nno instances\n"
        ),
        "{text}"
    );
    first.reload =
        ReloadStatus { at_ms: NOW, succeeded_at_ms: None, problems: vec!["x".to_owned()] };
    assert!(overview(&first, PLAIN).contains("1 problem; never all in order"));
}

#[test]
fn what_an_instance_waits_or_is_parked_for_is_told_once_and_all_else_too() {
    let told = |text: &str| LastError { at_ms: NOW, text: text.to_owned() };
    let mut one = waiting();
    let repeated = "waiting for the KMS Core: why=connection refused";
    one.last_warnings = vec![told(repeated), told("no funds"), told("not registered")];
    let text = overview(&status(vec![one]), PLAIN);
    assert!(!text.contains(repeated), "{text}");
    assert!(text.contains("no funds") && text.contains("not registered"), "{text}");

    let why = "the journal is damaged".to_owned();
    let mut parked =
        instance("config-1", InstanceState::Parked { why: why.clone(), retry_at_ms: Some(NOW) });
    parked.last_error = Some(told(&why));
    let text = overview(&status(vec![parked.clone()]), PLAIN) + &detail(&parked, PLAIN);
    assert_eq!(text.matches(&why).count(), 2, "once in each: {text}");
}

#[test]
fn colours_are_for_states_only_if_wanted() {
    let status = status(vec![instance("config-1", InstanceState::Running), waiting(), parked()]);
    let plain = overview(&status, PLAIN);
    let coloured = overview(&status, Style { colours: true, ..PLAIN });
    assert!(!plain.contains('\u{1b}'));
    for painted in ["\u{1b}[32mrunning\u{1b}[0m", "\u{1b}[33mwaiting\u{1b}[0m", "\u{1b}[31mparked"]
    {
        assert!(coloured.contains(painted), "{coloured}");
    }
    let mut stripped = coloured;
    for code in ["\u{1b}[32m", "\u{1b}[33m", "\u{1b}[31m", "\u{1b}[0m"] {
        stripped = stripped.replace(code, "");
    }
    assert_eq!(stripped, plain);
}

#[test]
fn what_others_say_steers_no_terminal() {
    let mut bad = backing_off();
    bad.last_error = Some(LastError { at_ms: NOW, text: "said \u{1b}[2Jnothing\u{7}".to_owned() });
    let mut status = status(vec![bad.clone()]);
    status.reload.problems = vec!["\u{1b}]0;title\u{7}".to_owned()];
    for text in [overview(&status, PLAIN), detail(&bad, PLAIN)] {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
    }
}

#[test]
fn a_status_survives_its_json() {
    let mut all =
        vec![instance("config-1", InstanceState::Running), waiting(), backing_off(), parked()];
    all[0].gauges.catching_up =
        Some(CatchUp { done: 1, to_do: 2, blocks_per_second: 0.5, seconds_left: None });
    all[0].file = None::<PathBuf>;
    let status = status(all);
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    assert!(text.contains(r#""state":"waiting","on":"#), "{text}");
}

#[test]
fn each_host_chain_is_a_line_of_the_details() {
    let mut one = instance("config-1", InstanceState::Running);
    let chain = |chain_id, is_reachable: bool| HostChainStatus {
        chain_id,
        hosts: "node.example".to_owned(),
        contract: "0xca2e".to_owned(),
        version: is_reachable.then(|| "ACL v0.5.0".to_owned()),
        is_reachable,
        head: is_reachable.then_some(77),
        head_age_secs: is_reachable.then_some(12),
        problem: (!is_reachable)
            .then(|| "chain 2: no answer from node.example: refused".to_owned()),
    };
    one.gauges.host_chains = vec![chain(1, true), chain(2, false)];
    let text = detail(&one, PLAIN);
    for line in [
        "1: block 77, 12s old; ACL v0.5.0 at 0xca2e, by node.example",
        "2: no block seen, no answer; the contract at 0xca2e, by node.example",
        "refused; requests that need chain 2 are held meanwhile",
    ] {
        assert!(text.contains(line), "{text}");
    }
}
