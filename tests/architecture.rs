//! Rules about the code as text: which module imports which, that the documents say what the code has,
//! and that the tables of `tests/README.md` name tests that there are.

#[path = "architecture/documents.rs"]
mod documents;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms, from the ground up, and those that each may take from: all of them stand above it here. A
/// file is of the room with the longest name that its path begins with; within a room there is no rule.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("time", &[]),
    ("dice", &[]),
    ("machine", &["time", "dice"]),
    ("net", &["domain", "time"]),
    ("telemetry", &["domain", "time", "net"]),
    ("config", &["domain", "net"]),
    ("admin", &["domain", "time", "net", "telemetry"]),
    ("contracts::abi", &["domain"]),
    ("chain", &["domain"]),
    ("chain::provider", &["domain", "time", "dice", "net", "telemetry", "chain"]),
    ("chain::wallet", &["domain", "time", "dice", "net", "telemetry"]),
    ("chain::lane", &["domain", "time", "dice", "telemetry", "chain", "chain::wallet"]),
    ("contracts::decryption", &["domain", "time", "contracts::abi", "chain"]),
    ("contracts::gateway_config", &["domain", "contracts::abi", "chain", "contracts::decryption"]),
    ("contracts::pinned_reads", &["domain", "time", "contracts::abi", "chain"]),
    ("contracts::acl", &["domain", "contracts::abi", "chain", "contracts::pinned_reads"]),
    (
        "contracts::protocol_config",
        &["domain", "contracts::abi", "chain", "contracts::pinned_reads"],
    ),
    ("contracts::kms_lifecycle", &["domain", "contracts::abi", "chain"]),
    ("contracts", &[]),
    ("flow::finality::rule", &["domain", "time", "chain"]),
    ("flow::finality", &["time", "telemetry", "chain", "flow::finality::rule"]),
    ("flow::walk_queue", &["domain"]),
    ("flow::ledger", &["domain", "contracts::abi"]),
    (
        "flow::arrivals",
        &[
            "domain",
            "time",
            "dice",
            "telemetry",
            "contracts::abi",
            "chain",
            "contracts::decryption",
            "flow::walk_queue",
            "flow::ledger",
        ],
    ),
    (
        "flow::access",
        &[
            "domain",
            "time",
            "telemetry",
            "contracts::abi",
            "chain",
            "contracts::decryption",
            "contracts::gateway_config",
            "contracts::pinned_reads",
            "contracts::acl",
            "contracts::protocol_config",
        ],
    ),
    ("flow::ciphertexts", &["domain", "net", "telemetry", "contracts::abi"]),
    ("flow::kms_core", &["domain", "time", "dice", "net", "telemetry", "contracts::abi"]),
    (
        "flow::submission",
        &[
            "domain",
            "time",
            "telemetry",
            "contracts::abi",
            "chain",
            "chain::lane",
            "contracts::decryption",
        ],
    ),
    (
        "flow",
        &[
            "domain",
            "time",
            "dice",
            "telemetry",
            "contracts::abi",
            "chain",
            "contracts::decryption",
            "contracts::gateway_config",
            "contracts::protocol_config",
            "contracts::kms_lifecycle",
            "flow::finality::rule",
            "flow::walk_queue",
            "flow::ledger",
            "flow::arrivals",
            "flow::access",
            "flow::ciphertexts",
            "flow::kms_core",
            "flow::submission",
        ],
    ),
    (
        "journal",
        &[
            "domain",
            "time",
            "machine",
            "telemetry",
            "contracts::abi",
            "chain::lane",
            "flow::ledger",
        ],
    ),
    (
        "instance",
        &[
            "domain",
            "time",
            "dice",
            "machine",
            "net",
            "telemetry",
            "config",
            "admin",
            "contracts::abi",
            "chain",
            "chain::provider",
            "chain::wallet",
            "chain::lane",
            "contracts::decryption",
            "contracts::gateway_config",
            "contracts::pinned_reads",
            "contracts::acl",
            "contracts::protocol_config",
            "contracts::kms_lifecycle",
            "flow::finality::rule",
            "flow::finality",
            "flow::arrivals",
            "flow::access",
            "flow::ciphertexts",
            "flow::kms_core",
            "flow::submission",
            "flow",
            "journal",
        ],
    ),
    (
        "supervisor",
        &["domain", "time", "dice", "net", "telemetry", "config", "admin", "journal", "instance"],
    ),
    (
        "cli",
        &["domain", "time", "config", "admin", "journal", "instance", "supervisor", "telemetry"],
    ),
    ("lib", &[]),
    ("main", &["config", "cli", "telemetry"]),
];

/// What only tests are made of.
const OF_TESTS: &[&str] =
    &["tests", "simulation", "fake_chain", "fake_core", "fake_ledger", "scripted"];

fn sources(of: &Path, found: &mut Vec<PathBuf>) {
    if of.is_file() {
        found.push(of.to_owned());
    } else {
        for entry in fs::read_dir(of).expect("a readable source tree") {
            sources(&entry.expect("a readable entry").path(), found);
        }
    }
}

/// The room of a path of modules.
fn room(path: &[String]) -> Option<&'static str> {
    let path = path.join("::");
    let holds = |room: &&str| path == **room || path.starts_with(&format!("{room}::"));
    ROOMS.iter().map(|(room, _)| *room).filter(holds).max_by_key(|room| room.len())
}

/// All paths that a file of this module takes from `crate`, `self` or `super`, from the crate's root on.
fn imports(module: &[String], text: &str) -> Vec<Vec<String>> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines: Vec<&str> =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = lines.join("\n");
    let mut paths = Vec::new();
    // The program takes from its library by name.
    for root in ["crate::", "use kms_connector::"] {
        for (at, _) in code.match_indices(root) {
            flatten(&[], &code[at + root.len()..], &mut paths);
        }
    }
    for (at, _) in code.match_indices("self::") {
        flatten(module, &code[at + "self::".len()..], &mut paths);
    }
    for (at, _) in code.match_indices("super::").filter(|(at, _)| !code[..*at].ends_with("super::"))
    {
        let (mut rest, mut above) = (&code[at..], module);
        while let Some(deeper) = rest.strip_prefix("super::") {
            (rest, above) = (deeper, &above[..above.len().saturating_sub(1)]);
        }
        flatten(above, rest, &mut paths);
    }
    paths
}

/// Reads one path or `{a, b::{c}}` group at the start of `rest`. What is left of it.
fn flatten<'a>(above: &[String], rest: &'a str, paths: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = rest.trim_start();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(after) = inner.strip_prefix('}') {
                return after;
            }
            let left = flatten(above, inner, paths);
            if left.len() == inner.len() {
                return left;
            }
            inner = left;
        }
    }
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*'));
    let (name, behind) = rest.split_at(end.unwrap_or(rest.len()));
    let mut path = above.to_vec();
    if name != "self" {
        path.push(name.to_owned());
    }
    rest = behind;
    if let Some(deeper) = rest.strip_prefix("::") {
        return flatten(&path, deeper, paths);
    }
    paths.push(path);
    match rest.trim_start().strip_prefix("as ") {
        Some(renamed) => {
            renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ' ')
        }
        None => rest,
    }
}

/// The rooms that a file of this room takes from, and what it takes.
fn taken(own: &str, module: &[String], text: &str) -> Vec<(&'static str, Vec<String>)> {
    let all = imports(module, text).into_iter();
    // A name of the crate's root is no module.
    let of_rooms = all.filter_map(|path| Some((room(&path)?, path)));
    of_rooms.filter(|(room, _)| *room != own).collect()
}

/// What a file of this module takes and may not.
fn breaches(module: &[String], text: &str) -> Vec<String> {
    let shown = module.join("::");
    let Some(own) = room(module) else { return vec![format!("{shown} is of no room")] };
    let may = |from: &str| ROOMS.iter().any(|(name, below)| *name == own && below.contains(&from));
    let taken = taken(own, module, text).into_iter().filter(|(from, _)| !may(from));
    taken.map(|(_, path)| format!("{shown} takes {}", path.join("::"))).collect()
}

fn module(path: &str) -> Vec<String> {
    path.split("::").map(ToOwned::to_owned).collect()
}

/// The files of the product and their modules.
fn product() -> Vec<(Vec<String>, String)> {
    let of_tests = |module: &[String]| module.iter().any(|part| OF_TESTS.contains(&part.as_str()));
    all_files().into_iter().filter(|(module, _)| !of_tests(module)).collect()
}

/// Those, and what only tests are made of.
fn all_files() -> Vec<(Vec<String>, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let read = |file: PathBuf| {
        let path = file.strip_prefix(&root).expect("below the root").with_extension("");
        let module: Vec<String> =
            path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        (module, fs::read_to_string(&file).expect("a readable source file"))
    };
    files.into_iter().map(read).collect()
}

/// Which other files each file takes from. A file and those in its folder are one thing: what they take
/// from each other does not count.
fn taken_files(files: &[(Vec<String>, String)]) -> BTreeMap<&[String], BTreeSet<&[String]>> {
    let all: BTreeSet<&[String]> = files.iter().map(|(module, _)| module.as_slice()).collect();
    // What a file names as its own and has from a file in its folder.
    let mut passed_on: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (module, text) in files {
        for (at, _) in text.match_indices("use self::") {
            let mut paths = Vec::new();
            flatten(module, &text[at + "use self::".len()..], &mut paths);
            for path in paths {
                let name = path.last().into_iter().cloned();
                passed_on.insert(module.iter().cloned().chain(name).collect(), path);
            }
        }
    }
    let file_of = |path: &[String]| {
        let path = passed_on.get(path).map_or(path, Vec::as_slice);
        (1..=path.len()).rev().find_map(|length| all.get(&path[..length]).copied())
    };
    let one = |a: &[String], b: &[String]| a.starts_with(b) || b.starts_with(a);
    let taken = files.iter().map(|(module, text)| {
        let paths = imports(module, text);
        let from = paths.iter().filter_map(|path| file_of(path)).filter(|from| !one(from, module));
        (module.as_slice(), from.collect())
    });
    taken.collect()
}

/// Files that take from each other, directly or by way of others: what each takes that leads back to it.
fn circles(files: &[(Vec<String>, String)]) -> Vec<String> {
    let taken = taken_files(files);
    let leads_to = |from: &[String], to: &[String]| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            if reached.insert(file) {
                next.extend(&taken[file]);
            }
        }
        reached.contains(to)
    };
    let edges = taken.iter().flat_map(|(file, from)| from.iter().map(move |from| (*file, *from)));
    let back = edges.filter(|(file, from)| leads_to(from, file));
    back.map(|(file, from)| format!("{} takes {}", file.join("::"), from.join("::"))).collect()
}

/// Within a room, too: who reads one of two files needs not have read the other one before.
#[test]
fn no_files_take_from_each_other_in_a_circle() {
    let files =
        all_files().into_iter().filter(|(module, _)| !module.iter().any(|of| of == "tests"));
    let told = circles(&files.collect::<Vec<_>>());
    assert!(told.is_empty(), "in a circle:\n{}", told.join("\n"));
}

#[test]
fn a_circle_of_files_is_seen() {
    let told = |files: &[(&str, &str)]| {
        let file = |(of, text): &(&str, &str)| (module(of), (*text).to_owned());
        circles(&files.iter().map(file).collect::<Vec<_>>()).len()
    };
    let (from_a, from_b) = ("use super::a::A;", "use crate::flow::b::B;");
    assert_eq!(told(&[("flow::a", from_b), ("flow::b", from_a)]), 2);
    assert_eq!(
        told(&[
            ("flow::a", from_b),
            ("flow::b", "use super::c; use super::d;"),
            ("flow::c", from_a),
            ("flow::d", "")
        ]),
        3,
        "by way of a third one"
    );
    assert_eq!(
        told(&[
            ("flow", "pub use self::{a::A, b::B};"),
            ("flow::a", "use super::{B, b::C};"),
            ("flow::b", "use super::A;")
        ]),
        2,
        "by the name that their folder's file gives it"
    );
    assert_eq!(told(&[("flow::a", from_b), ("flow::b::deeper", from_a), ("flow::b", "")]), 0);
    assert_eq!(told(&[("flow", "use self::a::A;"), ("flow::a", "use super::Flow;")]), 0);
}

#[test]
fn every_room_takes_from_those_below_it_only() {
    let told = product().into_iter().flat_map(|(module, text)| breaches(&module, &text));
    let broken: BTreeSet<String> = told.collect();
    let broken: Vec<String> = broken.into_iter().collect();
    assert!(broken.is_empty(), "from above or beside:\n{}", broken.join("\n"));
}

/// What a room does not need any more it may not take again.
#[test]
fn the_rooms_may_take_no_more_than_they_do() {
    let files = product();
    for (name, below) in ROOMS {
        let own = files.iter().filter(|(module, _)| room(module) == Some(name));
        let taken: BTreeSet<&str> = own
            .flat_map(|(module, text)| taken(name, module, text))
            .map(|(from, _)| from)
            .collect();
        for other in *below {
            assert!(taken.contains(other), "{name} does not take from {other}");
        }
    }
}

/// So no two rooms can take from each other.
#[test]
fn the_rooms_stand_in_order() {
    for (place, (name, below)) in ROOMS.iter().enumerate() {
        for other in *below {
            let stands = ROOMS.iter().position(|(room, _)| room == other);
            assert!(stands.is_some_and(|stands| stands < place), "{name} on {other}");
        }
    }
}

/// Each kind of breach is seen.
#[test]
fn the_table_can_fail() {
    for (of, text) in [
        // From above, from a room beside, and from one that is not in the list.
        ("contracts::abi", "use crate::chain::rpc_error::RpcError;"),
        ("flow::arrivals", "use crate::flow::kms_core::KmsCore;"),
        ("admin", "use crate::config::Config;"),
        // In a group, and in a group of a group.
        ("domain", "use crate::{time::clock, domain::B256};"),
        ("flow::ledger", "use crate::{domain::B256, flow::{walk_queue::{QueuedRequest}}};"),
        // Behind a renamed one.
        ("domain", "use crate::{domain::B256 as Word, net::tls};"),
        // By climbing.
        ("flow::arrivals::pages", "use super::super::kms_core::KmsCore;"),
        ("flow::ciphertexts", "use super::{walk::WalkDoor};"),
        // In the midst of code, and in a comment's shadow.
        ("domain::id", "fn f() { crate::journal::open() } // crate::domain"),
        ("domain::id", "// one\nfn f() { super::super::time::clock::now() }"),
        // Behind the line that names the file's tests.
        ("admin", "#[cfg(test)]\nmod tests;\nuse crate::config::Config;"),
        // A file that no room has.
        ("utils", ""),
    ] {
        assert_eq!(breaches(&module(of), text).len(), 1, "{of}: {text}");
    }
    for (of, text) in [
        ("flow::arrivals::pages", "use super::{gap, Arrivals}; use crate::domain::B256;"),
        (
            "domain",
            "// use crate::time::clock;\n#[cfg(test)]\nmod tests { use crate::time::clock; }",
        ),
        ("cli::run", "use crate::{config::Config, instance::{self, Exit}};"),
    ] {
        assert_eq!(breaches(&module(of), text), [""; 0], "{of}: {text}");
    }
}

/// What stands behind a port or an edge, and the module that is it: nobody else names it.
const BEHIND_PORTS: &[(&str, &str)] = &[("rusqlite", "journal::sqlite"), ("fastrand", "dice")];

/// What a file of this module names of what stands behind a port it is not part of.
fn named(module: &[String], text: &str) -> Vec<&'static str> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let words: BTreeSet<&str> =
        code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).collect();
    let path = module.join("::");
    let is_in = |home: &str| path == home || path.starts_with(&format!("{home}::"));
    let foreign = BEHIND_PORTS.iter().filter(|(word, home)| words.contains(word) && !is_in(home));
    foreign.map(|(word, _)| *word).collect()
}

#[test]
fn what_stands_behind_a_port_is_named_by_nobody_else() {
    for (module, text) in product() {
        assert_eq!(named(&module, &text), [""; 0], "{}", module.join("::"));
    }
    // It can fail.
    for (of, text, seen) in [
        ("journal::writer", "use rusqlite::Connection;", true),
        ("instance::operator_requests", "fn f() -> Result<(), rusqlite::Error> { Ok(()) }", true),
        ("journal::sqlite_more", "use rusqlite::Connection;", true),
        ("flow::capacity", "if fastrand::bool() {}", true),
        ("journal::sqlite::files", "use rusqlite::Connection;", false),
        ("journal::sqlite", "use rusqlite::Connection;", false),
        (
            "journal::writer",
            "// as rusqlite does\n#[cfg(test)]\nmod tests { use rusqlite; }",
            false,
        ),
    ] {
        assert_eq!(!named(&module(of), text).is_empty(), seen, "{of}: {text}");
    }
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
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
        } else if ["#[test]", "#[tokio::test", "#[world::test]"].iter().any(|a| line.starts_with(a))
        {
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
    assert_eq!(hostile.len(), 36, "{hostile:?}");
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

/// What is tested is what ships: a test changes the world around the program, or gives an edge in.
#[test]
fn no_behaviour_is_of_debug_builds_alone() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let found = text.lines().find(|line| line.contains("debug_assertions"));
        assert_eq!(found, None, "{}", file.display());
    }
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
