//! What is printed, and that everything an operator may read is explained.

use std::{fs, path::Path};

use super::*;
use crate::domain::SERVED_GENERATIONS;

fn names(asked: &str) -> Vec<String> {
    find(&all_entries(), asked).iter().map(|entry| entry.names[0].clone()).collect()
}

#[test]
fn a_name_is_found_as_it_is_shown_and_a_message_by_its_words() {
    assert_eq!(names("no_funds"), ["no_funds"]);
    assert_eq!(names("No-Funds"), ["no_funds"]);
    assert_eq!(names("backing_off"), ["backing-off"]);
    // `access_denied` is both a reason and a code.
    assert_eq!(names("access_denied").len(), 2);
    assert_eq!(names("gateway node not reachable"), ["gateway node not reachable"]);
    let line = "node.example serves chain id 1, the configuration says chain_id = 2";
    assert_eq!(names(line), ["serves chain id …, the configuration says chain_id = …"]);
    assert!(names("no-such-thing").is_empty() && names("a").is_empty());
    assert_eq!(nearest(&all_entries(), "nofund")[0], "no_funds");
}

#[test]
fn what_is_printed_says_what_it_means_what_is_lost_and_what_to_do() {
    let entries = all_entries();
    let text = told(find(&entries, "no_funds")[0]);
    let begins = |start: &str| text.lines().any(|line| line.starts_with(start));
    assert!(text.starts_with("no_funds (held requests)\n  The wallet cannot pay"), "{text}");
    assert!(begins("  lost   nothing") && begins("  to do  fund the wallet"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    // The words that a refusal is given by are part of its explanation, and entries of their own.
    let text = told(find(&entries, "refused")[0]);
    let row = text.lines().find(|line| line.trim_start().starts_with("context_destroyed "));
    assert!(row.is_some_and(|row| row.contains("the KMS context")), "{text}");
    assert!(text.find("Its words follow") < text.find("foreign_call "), "{text}");
    let all = list(&entries);
    for name in ["no_funds", "refused", "parked", "submitted"] {
        let lines = all.lines().filter(|line| line.trim().split(' ').next() == Some(name));
        assert_eq!(lines.count(), 1, "{name}: {all}");
    }
}

/// Words that operators read and nobody else explains.
const WORDS: [&str; 35] = [
    "ACL",
    "age",
    "agreement",
    "attempts",
    "backfill",
    "conflict",
    "cursor",
    "disabled",
    "drain",
    "epoch",
    "fallback",
    "finality",
    "foreign nonce",
    "GEN",
    "generation",
    "hold",
    "held",
    "host chain",
    "IN-HAND",
    "instance",
    "journal",
    "keeper",
    "KMS context",
    "lag",
    "lane",
    "outcome",
    "park",
    "restarts",
    "since",
    "stage",
    "tenure",
    "wallet",
    "walk",
    "why",
    "witness",
];

#[test]
fn every_alert_and_every_word_is_explained() {
    let rules = include_str!("../../../scripts/observability/kms-connector.rules.yml");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for name in alerts.chain(WORDS).chain(SERVED_GENERATIONS) {
        assert_eq!(names(name).len(), 1, "{name}: {:?}", names(name));
    }
}

/// Every literal in a `fn code`, and every message at WARN or ERROR.
#[test]
fn every_code_and_every_warning_of_the_sources_is_explained() {
    let mut texts = Vec::new();
    production_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let all: Vec<_> =
        texts.iter().map(|(path, text)| (path, codes(text), warnings(text))).collect();
    let (codes, warnings): (usize, usize) = all
        .iter()
        .fold((0, 0), |(codes, warnings), found| (codes + found.1.len(), warnings + found.2.len()));
    assert!(codes > 150 && warnings > 100, "the sources have {codes} codes, {warnings} warnings");
    let entries = all_entries();
    let mut missing = Vec::new();
    for (path, codes, warnings) in all {
        let is_explained = |code: &String| entries.iter().any(|entry| entry.names.contains(code));
        let codes = codes.into_iter().filter(|code| !is_explained(code));
        let warnings = warnings.into_iter().filter(|message| find(&entries, message).is_empty());
        missing.extend(codes.chain(warnings).map(|one| format!("{path}: {one}")));
    }
    assert!(
        missing.is_empty(),
        "config/troubleshooting.md does not explain:\n{}",
        missing.join("\n")
    );
}

/// Path and text of every source that is not a test's, without its tests.
fn production_sources(of: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(of).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_of_tests =
            ["tests", "simulation", "fake_", "scripted"].iter().any(|of| name.starts_with(of));
        if path.is_dir() && !is_of_tests {
            production_sources(&path, found);
        } else if path.extension().is_some_and(|of| of == "rs") && !is_of_tests {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            found.push((path.display().to_string(), text));
        }
    }
}

fn codes(text: &str) -> Vec<String> {
    let functions =
        ["fn code(", "fn code_name("].into_iter().flat_map(|start| text.match_indices(start));
    let bodies =
        functions.filter_map(|(at, _)| text[at..].find('{').map(|body| &text[at + body..]));
    bodies.flat_map(|body| literals(body, ('{', '}'))).map(|(_, code)| code).collect()
}

/// The messages, with a letter in the place of each value. Lines about a chain's nodes name its role.
fn warnings(text: &str) -> Vec<String> {
    let roles = ["gateway", "host chain"].into_iter();
    roles.flat_map(|role| messages(&text.replace("{role}", role))).collect()
}

fn messages(text: &str) -> Vec<String> {
    let starts = ["warn!(", "error!(", "warn_rarely!("];
    let calls = starts.into_iter().flat_map(|start| {
        text.match_indices(start).map(move |(at, _)| &text[at + start.len() - 1..])
    });
    let message = |call| {
        let texts = literals(call, ('(', ')')).into_iter().filter(|(before, _)| *before != '=');
        let texts: Vec<String> = texts.map(|(_, text)| with_values(&text)).collect();
        // Before the message may stand the name of a repeated event.
        texts.iter().rfind(|text| text.contains(' ')).or(texts.first()).cloned()
    };
    // A text that is a value as a whole is explained where it is made.
    calls.filter_map(message).filter(|message| message.len() > 1).collect()
}

fn with_values(text: &str) -> String {
    let mut parts = text.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| whole + "X" + part.split_once('}').map_or("", |(_, rest)| rest))
}

/// The string literals between the bracket that `text` begins with and its partner, each with the
/// character before it.
fn literals(text: &str, (open, close): (char, char)) -> Vec<(char, String)> {
    let (mut found, mut depth, mut before) = (Vec::new(), 0, ' ');
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == '"' {
            let mut literal = String::new();
            while let Some(c) = characters.next().filter(|c| *c != '"') {
                match (c, characters.peek()) {
                    ('\\', Some('\n')) => {
                        while characters.next_if(|c| c.is_whitespace()).is_some() {}
                    }
                    ('\\', Some(_)) => literal.extend(characters.next()),
                    _ => literal.push(c),
                }
            }
            found.push((before, literal));
        } else if c == '/' && characters.peek() == Some(&'/') {
            while characters.next_if(|c| *c != '\n').is_some() {}
        } else if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                break;
            }
        }
        if !c.is_whitespace() {
            before = c;
        }
    }
    found
}
