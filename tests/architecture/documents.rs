//! The documents against the code and against each other: what they quote exists, what must be explained
//! is explained, and every link leads somewhere.

use std::{collections::BTreeSet, fs, path::Path};

use super::{quoted, sources};

/// All that an operator reads, from the checkout's root.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "config/README.md",
    "config/operation.md",
    "config/troubleshooting.md",
    "scripts/observability/README.md",
    "systemd/README.md",
    "benches/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).expect("a document that can be read")
}

/// The rows of all tables of a document with this header, as cells.
fn rows(document: &str, header: &str) -> Vec<Vec<String>> {
    let text = read(document);
    let (mut rows, mut is_open) = (Vec::new(), false);
    for line in text.lines() {
        is_open = line.starts_with(header) || is_open && line.starts_with('|');
        if is_open && !line.starts_with(header) && !line.starts_with("|--") {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            rows.push(cells.collect());
        }
    }
    assert!(!rows.is_empty(), "{document} has no table {header}");
    rows
}

/// All of the program's text, on one line.
fn code() -> String {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let text: String =
        files.iter().map(|file| fs::read_to_string(file).expect("readable")).collect();
    // A literal may go on in the next line.
    let text = text.replace("\\\n", "");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Lines about a chain's nodes name its role.
    ["gateway", "host chain"].map(|role| text.replace("{role}", role)).concat()
}

#[test]
fn the_documents_quote_real_log_messages_and_codes() {
    let text = code();
    for row in rows("config/troubleshooting.md", "| what the log says |") {
        for message in quoted(&row[0]) {
            for part in message.split('…') {
                // Values stand in the code by name.
                let known = text.contains(part.trim());
                assert!(known, "no log message has {part:?} of the documented {message:?}");
            }
        }
    }
    for row in rows("config/troubleshooting.md", "| code |") {
        for code in quoted(&row[0]) {
            assert!(text.contains(&format!("\"{code}\"")), "no code is called {code:?}");
        }
    }
}

#[test]
fn the_documents_explain_every_alert() {
    let rows = rows("scripts/observability/README.md", "| alert |");
    let mut explained: Vec<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    explained.sort_unstable();
    let rules = include_str!("../../scripts/observability/kms-connector.rules.yml");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut alerts: Vec<&str> = alerts.collect();
    alerts.sort_unstable();
    assert_eq!(explained, alerts);
    let tests = include_str!("../../scripts/observability/kms-connector.rules.test.yml");
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

/// The lines of a document outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The headings of a document, without the marks.
fn headings(text: &str) -> BTreeSet<&str> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim())
        .collect()
}

/// What a page of a repository calls a heading in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let prose: Vec<&str> = prose(&text).collect();
        let prose = prose.join("\n");
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            let below = Path::new(document).parent().expect("a file has a folder");
            let target =
                if file.is_empty() { root().join(document) } else { root().join(below).join(file) };
            let found = match fs::read_to_string(&target) {
                Ok(text) => {
                    heading.is_empty() || headings(&text).iter().any(|it| anchor(it) == heading)
                }
                Err(_) => target.is_dir() && heading.is_empty(),
            };
            if !found {
                wrong.push(format!("{document}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The headings of the document that the product was ordered with. Each leads to where its text stands.
const ORDERED: &[&str] = &[
    "Introduction",
    "Main features",
    "Table of Contents",
    "Get Started",
    "Start a Connector Instance",
    "List Available Configurations",
    "Validate Configuration",
    "Environment Variables",
    "Configuration Structure",
    "Configuration",
    "Configuration Methods",
    "Configuration Precedence",
    "Default Values",
    "List Of Environment Variables",
    "Best Practices",
    "S3 Configuration",
    "Configuration Options",
    "S3 URL Processing",
    "Optional Configuration",
    "Wallet Configuration",
    "1. Private Key String",
    "2. AWS KMS Wallet",
    "Wallet Initialization Priority",
    "Security Considerations",
    "Architecture: Adapter-Provider Pattern",
    "1. Provider (Infrastructure Layer)",
    "2. Adapters (Domain Layer)",
    "Key Points",
    "Current Status",
    "Development",
    "Prerequisites",
    "Building",
    "Testing",
    "Support",
];

#[test]
fn the_readme_is_short_and_keeps_the_ordered_headings() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= 250, "{lines} lines: move what is long beside what it describes");
    let headings = headings(&readme);
    let missing: Vec<&&str> = ORDERED.iter().filter(|it| !headings.contains(**it)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
