//! Rules about the code as text: the import rule of `src/lib.rs` (imports point down only), that the
//! README quotes the log messages and reasons that the code really has, and that the table of field
//! failures in `tests/README.md` names tests that there are.
//!
//! supervisor -> instance -> flow -> rooms -> adapters -> provider; `domain` at the bottom. Rooms
//! never import each other, the journal or the config.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A part of the tree and the crate paths it may not use.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "src/domain",
        &[
            "supervisor",
            "instance",
            "flow",
            "gateway",
            "journal",
            "config",
            "observe",
            "cli",
            "tls",
            "backoff",
            "clock",
        ],
    ),
    (
        "src/clock.rs",
        &["supervisor", "instance", "flow", "gateway", "journal", "config", "observe", "cli"],
    ),
    (
        "src/backoff.rs",
        &["supervisor", "instance", "flow", "gateway", "journal", "config", "observe", "cli"],
    ),
    (
        "src/aws.rs",
        &["supervisor", "instance", "flow", "gateway", "journal", "config", "observe", "cli"],
    ),
    (
        "src/proxy",
        &["supervisor", "instance", "flow", "gateway", "journal", "config", "observe", "cli"],
    ),
    (
        "src/traces.rs",
        &["supervisor", "instance", "flow", "gateway", "journal", "config", "observe", "cli"],
    ),
    (
        "src/repeats.rs",
        &["supervisor", "instance", "flow", "gateway", "journal", "config", "observe", "cli"],
    ),
    (
        "src/crowd.rs",
        &["supervisor", "instance", "flow", "gateway", "journal", "config", "observe", "cli"],
    ),
    (
        "src/metrics",
        &["supervisor", "instance", "flow", "gateway", "journal", "config", "observe", "cli"],
    ),
    ("src/observe", &["supervisor", "instance", "flow", "gateway", "journal", "config", "cli"]),
    ("src/gateway", &["supervisor", "instance", "flow", "journal", "config", "observe", "cli"]),
    (
        "src/flow/arrivals",
        &[
            "supervisor",
            "instance",
            "journal",
            "config",
            "observe",
            "cli",
            "flow::ciphertexts",
            "flow::kms_core",
            "flow::submission",
        ],
    ),
    (
        "src/flow/ciphertexts",
        &[
            "supervisor",
            "instance",
            "journal",
            "config",
            "observe",
            "cli",
            "gateway",
            "flow::arrivals",
            "flow::kms_core",
            "flow::submission",
        ],
    ),
    (
        "src/flow/kms_core",
        &[
            "supervisor",
            "instance",
            "journal",
            "config",
            "observe",
            "cli",
            "gateway",
            "flow::arrivals",
            "flow::ciphertexts",
            "flow::submission",
        ],
    ),
    (
        "src/flow/submission",
        &[
            "supervisor",
            "instance",
            "journal",
            "config",
            "observe",
            "cli",
            "flow::arrivals",
            "flow::ciphertexts",
            "flow::kms_core",
        ],
    ),
    ("src/flow.rs", &["supervisor", "instance", "journal", "config", "observe", "cli"]),
    ("src/journal", &["supervisor", "instance", "config", "observe", "cli", "tls"]),
    ("src/config", &["supervisor", "instance", "flow", "gateway", "journal", "observe", "cli"]),
    ("src/instance", &["supervisor", "cli"]),
    ("src/supervisor", &["cli"]),
];

fn sources(of: &Path, found: &mut Vec<PathBuf>) {
    if of.is_file() {
        found.push(of.to_owned());
    } else if of.is_dir() {
        for entry in fs::read_dir(of).expect("a readable source tree") {
            sources(&entry.expect("a readable entry").path(), found);
        }
    }
}

/// Every `crate::…` path a file names, nested `use` groups flattened to their first two segments.
fn imports(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        flatten("", &code[start + "crate::".len()..], &mut paths);
    }
    paths
}

/// Reads one path or `{a, b::{c}}` group at the start of `rest`.
fn flatten<'a>(prefix: &str, mut rest: &'a str, paths: &mut Vec<String>) -> &'a str {
    rest = rest.trim_start();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start();
            if let Some(after) = inner.strip_prefix('}') {
                return after;
            }
            if inner.is_empty() {
                return inner;
            }
            let before = inner.len();
            inner = flatten(prefix, inner, paths);
            inner = inner.trim_start().trim_start_matches(',');
            if inner.len() == before {
                return "";
            }
        }
    }
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let name = &rest[..end];
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    paths.push(path.clone());
    let rest = &rest[end..];
    match rest.strip_prefix("::") {
        Some(deeper) if path.matches("::").count() < 2 => flatten(&path, deeper, paths),
        _ => rest.find([',', '}', ';', '\n']).map_or("", |end| &rest[end..]),
    }
}

#[test]
fn imports_point_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for (part, forbidden) in FORBIDDEN {
        let mut files = Vec::new();
        sources(&root.join(part), &mut files);
        if root.join(part).is_dir() {
            sources(&root.join(format!("{part}.rs")), &mut files);
        }
        assert!(!files.is_empty(), "{part} is gone: mend this table");
        for file in files {
            let text = fs::read_to_string(&file).expect("a readable source file");
            for import in imports(&text) {
                for path in *forbidden {
                    if import == *path || import.starts_with(&format!("{path}::")) {
                        let file = file.strip_prefix(root).expect("below the root").display();
                        broken.push(format!("{file} imports crate::{import}"));
                    }
                }
            }
        }
    }
    broken.sort();
    broken.dedup();
    assert!(broken.is_empty(), "imports point down only:\n{}", broken.join("\n"));
}

#[test]
fn the_table_can_fail() {
    let text = "use crate::{domain::B256, flow::{kms_core::KmsCore, Batch}};\nfn f() { crate::journal::open() }";
    let found = imports(text);
    for path in ["domain::B256", "flow::kms_core", "flow::Batch", "journal::open"] {
        assert!(
            found.iter().any(|import| import == path || import.starts_with(path)),
            "{path} in {found:?}"
        );
    }
}

/// The rows of the README's table with this header, as cells.
fn readme_table(header: &str) -> Vec<Vec<String>> {
    let readme = include_str!("../README.md");
    let rows = readme.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    let rows: Vec<Vec<String>> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "the README has no table {header}");
    rows
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_readme_quotes_real_log_messages() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let text: String =
        files.iter().map(|file| fs::read_to_string(file).expect("readable")).collect();
    // A literal may go on in the next line.
    let text = text.replace("\\\n", "");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for row in readme_table("| what the log says |") {
        for message in quoted(&row[0]) {
            for part in message.split('…') {
                // Values stand in the code by name.
                let known = text.contains(part.trim());
                assert!(known, "no log message has {part:?} of the README's {message:?}");
            }
        }
    }
}

#[test]
fn the_readme_explains_every_reason_to_hold() {
    let rows = readme_table("| held, `reason` |");
    let mut explained: Vec<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    explained.sort_unstable();
    let reasons = kms_connector::domain::HoldReason::ALL;
    let mut reasons: Vec<&str> = reasons.iter().map(|reason| reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(explained, reasons);
}

#[test]
fn the_readme_explains_every_alert() {
    let rows = readme_table("| alert |");
    let mut explained: Vec<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    explained.sort_unstable();
    let rules = include_str!("../scripts/observability/kms-connector.rules.yml");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut alerts: Vec<&str> = alerts.collect();
    alerts.sort_unstable();
    assert_eq!(explained, alerts);
    let tests = include_str!("../scripts/observability/kms-connector.rules.test.yml");
    for alert in alerts {
        let tried = tests
            .split("alertname: ")
            .skip(1)
            .filter(|test| test.lines().next() == Some(alert) && test.lines().nth(2).is_some());
        let (silent, loud): (Vec<&str>, Vec<&str>) =
            tried.partition(|test| test.lines().nth(2).is_some_and(|line| line.ends_with("[]")));
        assert!(!silent.is_empty() && !loud.is_empty(), "{alert} is tried to fire and not to fire");
    }
}

/// Every test, as `cargo test` filters it but without `tests::`, and the comment above it.
fn all_tests() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    for part in ["src", "tests/blackbox", "tests/architecture.rs"] {
        let mut files = Vec::new();
        sources(&root.join(part), &mut files);
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
            let below = if file.ends_with("architecture.rs") { "tests" } else { part };
            let module = file.strip_prefix(root.join(below)).expect("below it").with_extension("");
            let module: Vec<_> = module
                .iter()
                .map(|name| name.to_str().expect("UTF-8"))
                .take_while(|name| *name != "tests")
                .collect();
            let text = fs::read_to_string(file).expect("a readable source file");
            for (name, comment) in tests_of(&text) {
                found.insert(format!("{}::{name}", module.join("::")), comment);
            }
        }
    }
    found
}

/// The tests of a file with their comments.
fn tests_of(text: &str) -> Vec<(String, String)> {
    let (mut found, mut comment, mut is_test) = (Vec::new(), String::new(), false);
    for line in text.lines().map(str::trim) {
        let name = line.trim_start_matches("async ").strip_prefix("fn ");
        if let Some(more) = line.strip_prefix("///") {
            comment.push_str(more);
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let (true, Some(name)) = (is_test, name) {
            let end = name.find(['(', '<']).unwrap_or(name.len());
            found.push((name[..end].to_owned(), std::mem::take(&mut comment)));
            is_test = false;
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

/// The rows of a table below this heading of `tests/README.md`: what stands first and third in each.
fn rows_below(heading: &str) -> Vec<(&'static str, &'static str)> {
    let readme = include_str!("README.md");
    let below = readme.lines().skip_while(|line| *line != heading).skip(1);
    let rows = below.take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1], cells[3])
        })
        .collect()
}

/// What is told: a test that was renamed, a number without a row, and a row without a test that does
/// not say why.
#[test]
fn every_failure_has_a_test_that_names_it_or_a_reason() {
    let tests = all_tests();
    assert!(tests.len() > 400, "{} tests found: mend this one", tests.len());
    let field = rows_below("## Failures of the field");
    let numbers: Vec<&str> = field.iter().map(|(number, _)| *number).collect();
    let all: Vec<String> = (1..=65).map(|number| format!("T{number:02}")).collect();
    assert_eq!(numbers, all);
    let hostile = rows_below("## HARDEN");
    assert_eq!(hostile.len(), 29, "{hostile:?}");
    let nights = rows_below("## FIELD");
    assert_eq!(nights.len(), 19, "{nights:?}");
    let mut wrong = Vec::new();
    for (number, cell) in field.iter().chain(&hostile).chain(&nights) {
        let named: Vec<&str> =
            quoted(cell).into_iter().filter(|name| name.contains("::")).collect();
        let reason = cell.contains("Cannot happen: ") || cell.contains("Open: ");
        if named.is_empty() && !reason {
            wrong.push(format!("{number} has neither a test nor a reason"));
        }
        for name in named {
            let lower = format!("{}_", number.to_lowercase());
            match tests.get(name) {
                None => wrong.push(format!("{number}: there is no test {name}")),
                Some(comment) if comment.contains(number) || name.contains(&lower) => {}
                Some(_) => wrong.push(format!("{number}: {name} does not say so")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// T52: log pipelines cut lines at characters of several code points.
#[test]
fn t52_no_text_of_ours_has_pictures() {
    let picture = |c: char| matches!(c, '\u{200d}' | '\u{2600}'..='\u{27bf}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f000}'..);
    assert!(picture('\u{1f680}') && picture('\u{2705}') && !picture('\u{2026}'));
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let found = text.lines().find(|line| line.contains(picture));
        assert_eq!(found, None, "{}", file.display());
    }
}
