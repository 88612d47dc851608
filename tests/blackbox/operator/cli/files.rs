//! Commands about configuration files: `list`, `validate`, `config`, and files that are bad or missing.

use std::{fs, path::Path};

use super::{ADDRESS, CONFIG, Ended, KEY_PART, World, whole};

#[test]
fn list_prints_sorted_names_and_nothing_else() {
    let files =
        ["b.toml", "a.toml", ".hidden.toml", "a.toml~", ".a.toml.swp", "c.swp", "readme.md"];
    let world = World::new(&files.map(|name| (name, "broken =")));
    fs::create_dir(world.configs().join("directory.toml")).unwrap();
    let ended = world.run(&["list"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "a.toml\nb.toml\n"), "{ended:?}");
    // Whoever mounted a file that is missing has a directory there, and wants to know.
    assert!(ended.stderr.contains("directory.toml"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");

    let path = |name: &str| world.configs().join(name).display().to_string();
    let expected = format!("{}\n{}\n", path("a.toml"), path("b.toml"));
    for flag in ["-f", "--full-path"] {
        assert_eq!(world.run(&["list", flag]).stdout, expected);
    }
}

#[test]
fn list_looks_below_the_working_directory_by_default() {
    let world = World::new(&[]);
    let directory = world.directory.path().join("config/environments");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("x.toml"), "").unwrap();
    let output = world.command(&["list"]).env_remove("KMS_CONNECTOR_CONFIG_DIR").output().unwrap();
    assert_eq!(Ended::from(output).stdout, "x.toml\n");
}

#[test]
fn list_can_tell_more() {
    let disabled = format!("enabled = false\n{CONFIG}");
    let world = World::new(&[("a.toml", CONFIG), ("b.toml", "x = 1"), ("c.toml", &disabled)]);
    let long = world.run(&["list", "--long"]);
    assert_eq!(long.code, Some(0));
    let lines: Vec<Vec<&str>> =
        long.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4, "{long:?}");
    assert_eq!(lines[1][..5], ["a.toml", "a", "ok", "4242", "wss://gateway.example"]);
    // As a supervisor sees it, for which the required keys are missing.
    assert_eq!(lines[2][..4], ["b.toml", "b", "7", "problems"]);
    assert_eq!(lines[3][..3], ["c.toml", "c", "disabled"]);

    let json = world.run(&["list", "--json"]);
    let entries: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(entries[0]["file"], "a.toml");
    assert_eq!(entries[0]["path"], world.configs().join("a.toml").display().to_string());
    assert_eq!(entries[0]["chain_id"], 4242);
    assert_eq!(entries[1]["status"], "bad");
    assert_eq!(entries[1]["problems"].as_array().unwrap().len(), 7);
    for output in [long.stdout, json.stdout] {
        assert!(!output.contains("CANARY") && !output.contains(KEY_PART), "{output}");
    }
}

#[test]
fn a_missing_config_directory_is_said_with_78() {
    let world = World::new(&[]);
    fs::remove_dir(world.configs()).unwrap();
    for arguments in [&["list"][..], &["validate", "--all"], &["supervise"]] {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stdout.is_empty());
        assert!(ended.stderr.contains(&world.configs().display().to_string()), "{ended:?}");
        assert!(ended.stderr.contains("KMS_CONNECTOR_CONFIG_DIR"), "{ended:?}");
    }
}

#[test]
fn the_configuration_directory_can_be_given() {
    let world = World::new(&[("a.toml", CONFIG)]);
    let other = world.directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("o.toml"), CONFIG).unwrap();
    for directory in [other.to_str().unwrap(), "other"] {
        assert_eq!(world.run(&["list", "--config-dir", directory]).stdout, "o.toml\n");
        let ended = world.run(&["validate", "--config-dir", directory, "-c", "o.toml"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn validate_says_ok_on_stdout_and_warnings_on_stderr() {
    let world = World::new(&[("one.toml", CONFIG)]);
    let path = world.configs().join("one.toml");
    for file in ["one.toml", "configs/one.toml", path.to_str().unwrap()] {
        let output = world
            .command(&["validate", "-c", file])
            .env("KMS_CONNECTOR_CHIAN_ID", "1")
            .output()
            .unwrap();
        let ended = Ended::from(output);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for words in ["ok", "one", "4242", "wss://gateway.example", "private key", ADDRESS] {
            assert!(ended.stdout.contains(words), "{words}: {ended:?}");
        }
        assert!(ended.stderr.contains("KMS_CONNECTOR_CHIAN_ID"), "{ended:?}");
        let all = ended.stdout + &ended.stderr;
        assert!(!all.contains("CANARY") && !all.contains(KEY_PART), "{all}");
    }
}

/// `start` has defaults for what `supervise` wants to be told.
#[test]
fn validate_of_one_file_notes_what_supervise_refuses() {
    let bare =
        "private_key = \"0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318\"\n";
    let world = World::new(&[("one.toml", CONFIG), ("bare.toml", bare)]);
    let bare = world.run(&["validate", "-c", "bare.toml"]);
    assert_eq!(bare.code, Some(0), "{bare:?}");
    for words in ["`supervise` refuses it", "gateway_url", "decryption_address"] {
        assert!(bare.stderr.contains(words), "{words}: {bare:?}");
    }
    let whole = world.run(&["validate", "-c", "one.toml"]);
    assert!(!whole.stderr.contains("supervise"), "{whole:?}");
    let nobody = world.run(&["config", "--instance", "nope"]);
    assert_eq!(nobody.code, Some(78), "{nobody:?}");
    assert!(nobody.stderr.contains("there are: bare, one"), "{nobody:?}");
}

#[test]
fn bad_configurations_end_with_78_and_every_problem() {
    let bad = format!("{CONFIG}gas_limit = 6000\nnonsense = 1\n");
    let world = World::new(&[("bad.toml", &bad), ("syntax.toml", "chain_id = \"CANARY")]);
    for arguments in [&["validate", "-c", "bad.toml"][..], &["start", "-c", "bad.toml"]] {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
        for words in ["bad.toml:8", "gas_limit", "bad.toml:9", "nonsense"] {
            assert!(ended.stderr.contains(words), "{words}: {ended:?}");
        }
    }
    let ended = world.run(&["validate", "-c", "syntax.toml"]);
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains("syntax.toml:1:"), "{ended:?}");
    assert!(!ended.stderr.contains("CANARY"), "{ended:?}");
}

#[test]
fn a_missing_file_names_both_places() {
    let world = World::new(&[]);
    for command in ["validate", "start"] {
        let ended = world.run(&[command, "-c", "none.toml"]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains("none.toml"), "{ended:?}");
        assert!(ended.stderr.contains(&world.configs().display().to_string()), "{ended:?}");
    }
}

#[test]
fn the_shipped_examples_are_valid() {
    let world = World::new(&[]);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/environments");
    for n in 1..=4 {
        let file = directory.join(format!("config-{n}.toml"));
        let ended = world.run(&["validate", "-c", file.to_str().unwrap()]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("PUBLICLY KNOWN"), "{ended:?}");
    }
    let base = directory.join("config-base.toml");
    let ended = world.run(&["validate", "-c", base.to_str().unwrap()]);
    assert_eq!(ended.code, Some(78), "without a wallet: {ended:?}");
}

#[test]
fn validate_all_judges_every_file() {
    let good = whole("2318", "core-1.example:1");
    let other = format!("enabled = false\n{}", whole("2319", "core-2.example:1"));
    let world = World::new(&[("a.toml", &good), ("b.toml", &other), (".c.toml", "x = 1")]);
    // As in a fresh checkout: what it lacks is told, and is no problem.
    let idle = world.configs().join("idle.toml");
    fs::write(&idle, "enabled = false").unwrap();
    let well = world.run(&["validate", "--all"]);
    assert_eq!(well.code, Some(0), "{well:?}");
    assert_eq!(well.stdout, "a: ok\nb: ok (disabled)\nidle: disabled (6 problems)\n");
    assert!(well.stderr.contains("warning") && well.stderr.contains("wallet"), "{well:?}");
    fs::remove_file(idle).unwrap();

    // One wallet cannot have two owners; a disabled one has none.
    fs::write(world.configs().join("c.toml"), whole("2318", "core-3.example:1")).unwrap();
    fs::write(world.configs().join("d.toml"), whole("2319", "core-4.example:1")).unwrap();
    let conflict = world.run(&["validate", "--all"]);
    assert_eq!(conflict.code, Some(78), "{conflict:?}");
    let lines: Vec<&str> = conflict.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[3]), (4, "a: ok", "d: ok"), "{conflict:?}");
    for words in ["c: conflict", "wallet", ADDRESS, "of instance a"] {
        assert!(lines[2].contains(words), "{words}: {conflict:?}");
    }
    fs::remove_file(world.configs().join("c.toml")).unwrap();
    fs::remove_file(world.configs().join("d.toml")).unwrap();

    // What all instances would share makes them one.
    let shared =
        world.command(&["validate", "--all"]).env("KMS_CONNECTOR_SERVICE_NAME", "x").output();
    let shared = Ended::from(shared.unwrap());
    assert_eq!(shared.code, Some(78), "{shared:?}");
    assert!(shared.stderr.contains("KMS_CONNECTOR_SERVICE_NAME"), "{shared:?}");

    // `start` would take defaults for it.
    fs::write(world.configs().join("empty.toml"), "").unwrap();
    fs::write(world.configs().join("syntax.toml"), "chain_id = \"CANARY").unwrap();
    let bad = world.run(&["validate", "--all"]);
    assert_eq!(bad.code, Some(78), "{bad:?}");
    let lines: Vec<&str> = bad.stdout.lines().collect();
    assert_eq!(lines[..2], ["a: ok", "b: ok (disabled)"]);
    assert!(lines[2].starts_with("empty: ") && lines[2].ends_with(" problems"), "{bad:?}");
    assert_eq!(lines[3], "syntax: 1 problem");
    for words in ["empty.toml", "decryption_address", "syntax.toml:1:"] {
        assert!((bad.stdout.clone() + &bad.stderr).contains(words), "{words}: {bad:?}");
    }
    let all = bad.stdout + &bad.stderr;
    assert!(!all.contains("CANARY") && !all.contains(KEY_PART), "{all}");
}

#[test]
fn validate_all_of_nothing_warns_and_of_no_directory_fails() {
    let world = World::new(&[]);
    let empty = world.run(&["validate", "--all"]);
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(0), ""), "{empty:?}");
    assert!(empty.stderr.contains("warning") && empty.stderr.contains("configs"), "{empty:?}");
    let missing = world.run(&["validate", "--all", "--config-dir", "none"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(78), ""), "{missing:?}");
    assert!(missing.stderr.contains("none") && missing.stderr.contains("--config-dir"));
}

#[test]
fn config_tells_what_counts_and_where_from() {
    let world = World::new(&[("one.toml", CONFIG), ("bad.toml", "chain_id = \"CANARY\"\n")]);
    let run = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("KMS_CONNECTOR_INSTANCE_ONE__CHAIN_ID", "7");
        Ended::from(command.output().unwrap())
    };
    let path = world.configs().join("one.toml").display().to_string();
    for arguments in [&["config", "-c", "one.toml"][..], &["config", "--instance", "one"]] {
        let ended = run(arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let line = |key: &str| {
            let words = ended.stdout.lines().map(|line| line.split_whitespace());
            let mut words = words.filter(|words| words.clone().next() == Some(key));
            words.next().unwrap().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("gateway_url"), format!("wss://gateway.example/… {path}:2"));
        assert_eq!(line("chain_id"), "7 KMS_CONNECTOR_INSTANCE_ONE__CHAIN_ID");
        assert_eq!(line("channel_size"), "1000 default");
        assert!(line("private_key").contains(ADDRESS), "{ended:?}");
        let all = ended.stdout.clone() + &ended.stderr;
        assert!(!all.contains("CANARY") && !all.contains(KEY_PART), "{all}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&run(&["config", "-c", "one.toml", "--json"]).stdout).unwrap();
    let keys = json.as_array().unwrap();
    assert!(keys.iter().any(|one| one["key"] == "gas_limit" && one["value"].is_null()), "{json}");
    let bad = run(&["config", "-c", "bad.toml"]);
    assert_eq!((bad.code, bad.stdout.as_str()), (Some(78), ""), "{bad:?}");
}
