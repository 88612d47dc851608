//! Real temporary directories, and settling as a pure function.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
};

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::config::Place;

/// A configuration that is valid under a supervisor.
pub fn text(channel_size: u32) -> String {
    format!(
        "gateway_url = 'ws://gateway'\nkms_core_endpoint = 'http://core'\nchain_id = 1\n\
         decryption_address = '0x5fbdb2315678afecb367f032d93f642f64180aa3'\n\
         gateway_config_address = '0x0000000000000000000000000000000000000001'\n\
         private_key = '4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318'\n\
         channel_size = {channel_size}\n"
    )
}

fn write(directory: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(directory.join(name), content).unwrap();
}

fn look(directory: &Path) -> ConfigSnapshot {
    look_with(directory, [])
}

fn look_with<const N: usize>(directory: &Path, variables: [(&str, &str); N]) -> ConfigSnapshot {
    snapshot_once(&ConfigFiles::Directory(directory.to_owned()), &variables.into_iter().collect())
}

/// Names, and whether each is valid.
fn summary(look: &ConfigSnapshot) -> Vec<(&str, bool)> {
    look.files.iter().map(|(name, wanted)| (name.as_str(), wanted.is_ok())).collect()
}

fn problem(look: &ConfigSnapshot, name: &str) -> String {
    look.files[name].as_ref().unwrap_err().to_string()
}

#[test]
fn files_that_are_no_configurations_do_not_count() {
    for name in ["a.toml", "a.b.toml", "ä.toml", "#a.toml", "a~.toml"] {
        assert!(is_configuration(OsStr::new(name)), "{name}");
    }
    let others = [".toml", ".a.toml", ".#a.toml", "a.toml~", "#a.toml#", ".a.toml.swp", "..data"];
    for name in others.into_iter().chain(["a.tom", "toml", "a.TOML", "a.toml.bak", ""]) {
        assert!(!is_configuration(OsStr::new(name)), "{name}");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("sub.toml")).unwrap();
    write(directory.path(), "a.toml", text(1));
    write(directory.path(), "a.toml~", text(1));
    assert_eq!(summary(&look(directory.path())), [("a", true)]);
}

#[test]
fn d8_a_directory_with_the_name_of_a_configuration_is_told() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["x.toml", ".y.toml", "notes"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    write(directory.path(), "a.toml", text(1));
    let told: Vec<String> =
        misnamed_entries(directory.path()).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("x.toml") && told[0].contains("Docker"), "{told:?}");
}

#[test]
fn d8_a_file_whose_name_nearly_fits_is_told() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["X.TOML", "y.Toml", "a.toml", ".b.TOML", "c.toml~", "notes.txt", "TOML"] {
        write(directory.path(), name, "");
    }
    let told: Vec<String> =
        misnamed_entries(directory.path()).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("X.TOML") && told[1].contains("y.Toml"), "{told:?}");
    assert!(misnamed_entries(&directory.path().join("none")).is_empty());
}

#[test]
fn a_file_is_an_instance_with_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "one.toml", text(7));
    write(directory.path(), "off.toml", format!("enabled = false\n{}", text(1)));
    write(directory.path(), "bad.toml", "chain_id = ");
    write(directory.path(), "empty.toml", "");
    write(directory.path(), "idle.toml", "enabled = false");
    let look = look(directory.path());
    let are = [("bad", false), ("empty", false), ("idle", false), ("off", true), ("one", true)];
    assert_eq!(summary(&look), are);
    let of_disabled = |name: &str| look.files[name].as_ref().unwrap_err().is_disabled();
    assert_eq!(["bad", "empty", "idle"].map(of_disabled), [false, false, true]);
    let one = look.files["one"].as_ref().unwrap();
    assert_eq!(one.name, "one");
    assert_eq!(one.config.channel_size, 7);
    assert_eq!(one.file.as_deref(), Some(directory.path().join("one.toml").as_path()));
    assert!(!look.files["off"].as_ref().unwrap().config.enabled);
    // Required keys have no defaults here.
    assert!(problem(&look, "empty").contains("gateway_url: found nothing"));
    assert!(look.problem.is_none() && look.reload_number == 0);
}

#[test]
fn the_hash_is_what_sha256sum_says() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("abc.toml");
    fs::write(&file, "# abc").unwrap();
    let files = ConfigFiles::One { file: Some(file), name: None };
    let environment = [("KMS_CONNECTOR_PRIVATE_KEY", "1".repeat(64))].into_iter().collect();
    let look = snapshot_once(&files, &environment);
    assert_eq!(
        look.files["abc"].as_ref().unwrap().hash.as_deref(),
        Some("ed88ccf8ca7ecff67c780a0dd5a06c8342cd8de02ba5d99d63a48c8ffc83f0ae")
    );
}

#[test]
fn each_instance_has_variables_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.toml", "b-1.toml"] {
        write(directory.path(), name, text(1));
    }
    let variables = [
        ("KMS_CONNECTOR_INSTANCE_B_1__CHANNEL_SIZE", "9"),
        ("KMS_CONNECTOR_INSTANCE_C__CHANNEL_SIZE", "9"),
    ];
    let sizes = |look: &ConfigSnapshot| -> Vec<usize> {
        look.files.values().map(|wanted| wanted.as_ref().unwrap().config.channel_size).collect()
    };
    assert_eq!(sizes(&look_with(directory.path(), variables)), [1, 9]);

    let environment = variables.into_iter().collect();
    let files = ConfigFiles::Directory(directory.path().to_owned());
    let (_, settled) = first_snapshot(&files, &environment, &[]);
    let odd = settled.unused_variables(&environment);
    assert_eq!(odd.len(), 1, "{odd:?}");
    assert_eq!(odd[0].place, Place::Variable("KMS_CONNECTOR_INSTANCE_C__CHANNEL_SIZE".to_owned()));
}

#[test]
fn two_names_with_the_same_variables_are_a_problem_of_the_later() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a-1.toml", "a.1.toml", "A_1.toml", "b.toml"] {
        write(directory.path(), name, text(1));
    }
    let look = look(directory.path());
    assert_eq!(summary(&look), [("A_1", true), ("a-1", false), ("a.1", false), ("b", true)]);
    assert!(problem(&look, "a-1").contains("those of A_1.toml"), "{}", problem(&look, "a-1"));
}

#[test]
fn d3_who_has_a_name_keeps_it_also_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (files, environment) =
        (ConfigFiles::Directory(directory.path().to_owned()), Environment::default());
    write(directory.path(), "a.toml", text(1));
    let (_, settled) = first_snapshot(&files, &environment, &[]);
    // A new file that sorts first.
    write(directory.path(), "A.toml", text(2));
    let patience = BoundedIo::default();
    let listing = read(&files, &patience);
    let settled = settle(&settled, &listing, &listing).settled;
    let look = settled.snapshot(&files, &environment, &patience);
    assert_eq!(summary(&look), [("A", false), ("a", true)]);
    assert!(problem(&look, "A").contains("those of a.toml"), "{}", problem(&look, "A"));
    // At startup nothing else is known.
    let keeper = |name: &str| Keeper {
        name: name.to_owned(),
        chain_id: 1,
        wallet: crate::domain::Address::ZERO,
    };
    let (look, settled) = first_snapshot(&files, &environment, &[keeper("b"), keeper("a")]);
    assert_eq!(summary(&look), [("A", false), ("a", true)]);
    // It gives way when its file is removed.
    std::fs::remove_file(directory.path().join("a.toml")).unwrap();
    let listing = read(&files, &patience);
    let settled = settle(&settled, &listing, &listing).settled;
    assert_eq!(summary(&settled.snapshot(&files, &environment, &patience)), [("A", true)]);
}

#[test]
fn a_name_that_fits_no_line_is_a_problem() {
    let directory = tempfile::tempdir().unwrap();
    let long = "x".repeat(129);
    for name in ["a\nb", " a", &long] {
        write(directory.path(), &format!("{name}.toml"), text(1));
    }
    let not_text = OsStr::from_bytes(b"\xff.toml");
    fs::write(directory.path().join(not_text), text(1)).unwrap();
    let look = look(directory.path());
    assert_eq!(
        summary(&look),
        [(" a", false), ("a\\nb", false), (long.as_str(), false), ("\u{fffd}", false)]
    );
    assert!(!problem(&look, "a\\nb").contains("a\nb"));
}

#[test]
fn what_cannot_be_read_is_a_problem_of_its_name() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "large.toml", vec![b'#'; (1 << 20) + 1]);
    write(directory.path(), "bytes.toml", b"\n\xff");
    write(directory.path(), "good.toml", text(1));
    symlink("nowhere/x", directory.path().join("link.toml")).unwrap();
    symlink("good.toml", directory.path().join("other.toml")).unwrap();
    let look = look(directory.path());
    assert_eq!(
        summary(&look),
        [("bytes", false), ("good", true), ("large", false), ("link", false), ("other", true)]
    );
    assert!(problem(&look, "bytes").contains("bytes.toml:2"), "{}", problem(&look, "bytes"));
    assert!(problem(&look, "link").contains("a broken link"));
    assert!(problem(&look, "large").contains("1048577 bytes"));
}

/// Reading the kernel log blocks until there is more: like a file on a hung network mount.
#[test]
fn d1_a_file_that_is_never_read_to_its_end_is_its_own_problem() {
    let directory = tempfile::tempdir().unwrap();
    let kernel_log = Path::new("/proc/kmsg");
    symlink(kernel_log, directory.path().join("b.toml")).unwrap();
    let hangs = format!("{}private_key_file = '/proc/kmsg'\n", text(1).replace("private_key", "#"));
    write(directory.path(), "c.toml", hangs);
    write(directory.path(), "a.toml", text(1));
    write(directory.path(), "d.toml", text(1));
    let look = look(directory.path());
    assert_eq!(summary(&look), [("a", true), ("b", false), ("c", false), ("d", true)]);
    // Where it may not be opened at all, that is another problem.
    if fs::File::open(kernel_log).is_ok() {
        assert!(
            problem(&look, "b").contains("cannot be read to its end"),
            "{}",
            problem(&look, "b")
        );
        assert!(problem(&look, "c").contains("private_key_file"), "{}", problem(&look, "c"));
    }
}

/// A hung mount does not even list names. Once known to hang, it costs no time.
#[test]
fn d1_a_directory_that_does_not_answer_is_a_problem_and_no_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a.toml", text(1));
    let files = ConfigFiles::Directory(directory.path().to_owned());
    let patience = BoundedIo::default();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let listing = patience.run_one(FileTask::List, directory.path(), move |_| {
        // Ends with the test.
        let _ = held.lock().unwrap().recv();
    });
    assert_eq!(listing, Err(IoStall::Hangs));
    let problem = read(&files, &patience).unwrap_err();
    assert!(matches!(problem, Unlisted::Late { .. }), "{problem}");
    drop(release);
    while read(&files, &patience).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_missing_directory_is_a_problem_and_no_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let seen = look(&missing);
    assert!(seen.files.is_empty());
    assert!(seen.problem.unwrap().to_string().starts_with(&missing.display().to_string()));
    write(directory.path(), "file", "");
    assert!(look(&directory.path().join("file")).problem.is_some());
    assert!(look(directory.path()).problem.is_none());
}

/// Another directory is advised only where there is none at this path.
#[test]
fn a_directory_that_cannot_be_read_is_not_called_the_wrong_one() {
    let directory = Path::new("/configs");
    let told = |kind: std::io::ErrorKind| {
        let cause = Arc::new(kind.into());
        let problem = Unlisted::Unreadable { directory: directory.to_owned(), cause };
        let problems = problem.to_problems(directory).to_string();
        assert_eq!(problems.matches("/configs").count(), 1, "{problems}");
        problems
    };
    let other = "KMS_CONNECTOR_CONFIG_DIR";
    assert!(told(std::io::ErrorKind::NotFound).contains(other));
    assert!(told(std::io::ErrorKind::NotADirectory).contains(other));
    let forbidden = told(std::io::ErrorKind::PermissionDenied);
    assert!(forbidden.contains("may not read") && !forbidden.contains(other), "{forbidden}");
    assert!(!told(std::io::ErrorKind::TimedOut).contains(other));
}

#[test]
fn one_file_is_one_instance_under_starts_rules() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("one.toml");
    let key = ("KMS_CONNECTOR_PRIVATE_KEY", "1".repeat(64));
    let environment: Environment =
        [key, ("KMS_CONNECTOR_SERVICE_NAME", "service".to_owned())].into_iter().collect();
    let look = |file: Option<&Path>, name: Option<&str>| {
        let files =
            ConfigFiles::One { file: file.map(Path::to_owned), name: name.map(str::to_owned) };
        snapshot_once(&files, &environment)
    };
    fs::write(&file, "channel_size = 7").unwrap();
    let of_file = look(Some(&file), None);
    assert_eq!(of_file.files["service"].as_ref().unwrap().config.channel_size, 7);
    let named = look(Some(&file), Some("mine"));
    assert_eq!(summary(&named), [("mine", true)]);
    let of_environment = look(None, None);
    let alone = of_environment.files["service"].as_ref().unwrap();
    assert_eq!((alone.file.as_ref(), alone.hash.as_ref()), (None, None));

    fs::write(&file, "channel_size = 0").unwrap();
    assert_eq!(summary(&look(Some(&file), None)), [("one", false)]);
    fs::remove_file(&file).unwrap();
    // Removing its only file is not a removal.
    assert_eq!(summary(&look(Some(&file), Some("mine"))), [("mine", false)]);
    // A file that never settled does not run on the defaults.
    let files = ConfigFiles::One { file: Some(file.clone()), name: None };
    let nothing = SettledFiles::default().snapshot(&files, &environment, &BoundedIo::default());
    assert!(problem(&nothing, "one").contains("changes while it is read"));
}

#[test]
fn no_key_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a.toml", text(1));
    let files = ConfigFiles::Directory(directory.path().to_owned());
    let (look, settled) = first_snapshot(&files, &Environment::default(), &[]);
    let printed = format!("{look:?}{settled:?}{:?}", read(&files, &BoundedIo::default()));
    assert!(printed.contains("a.toml") && !printed.contains("4c0883a6"), "{printed}");
}

// ---- settling

/// Few names and few contents, so that readings often agree.
fn any_listing() -> impl Strategy<Value = FileListing> {
    let file = ("[abc]", "[xyz]?").prop_map(|(name, content)| {
        let content = if content == "z" {
            FileContent::Unreadable(invalid_name(Path::new("d"), OsStr::new("z")))
        } else {
            FileContent::Bytes(Arc::new(Zeroizing::new(content.into_bytes())))
        };
        (OsString::from(name), content)
    });
    prop_oneof![
        4 => prop::collection::vec(file, 0..4).prop_map(|files| Ok(files.into_iter().collect())),
        1 => Just(Err(Unlisted::Vanished)),
    ]
}

proptest! {
    #[test]
    fn nothing_is_believed_that_two_readings_do_not_say(
        readings in prop::collection::vec(any_listing(), 2..12),
    ) {
        let mut settled = SettledFiles::default();
        for pair in readings.windows(2) {
            let after = settle(&settled, &pair[0], &pair[1]);
            let (Ok(first), Ok(second)) = (&pair[0], &pair[1]) else {
                prop_assert_eq!(&after.settled, &settled);
                prop_assert!(after.problem.is_some());
                prop_assert_eq!(after.is_unsettled, pair[0].is_ok() || pair[1].is_ok());
                continue;
            };
            prop_assert!(after.problem.is_none());
            prop_assert_eq!(after.is_unsettled, first != second);
            for name in ["a", "b", "c"].map(OsStr::new) {
                let (before, now) = (settled.contents.get(name), after.settled.contents.get(name));
                let (one, other) = (first.get(name), second.get(name));
                prop_assert_eq!(now, if one == other { one } else { before });
            }
            prop_assert!(after.settled.contents.len() <= 3);
            settled = after.settled;
        }
        // Whatever came before: two equal readings settle everything.
        let last = any_two_equal(&readings);
        let after = settle(&settled, &last, &last);
        prop_assert!(!after.is_unsettled);
        prop_assert_eq!(after.settled.contents, last.unwrap_or_default());
    }
}

fn any_two_equal(readings: &[FileListing]) -> FileListing {
    readings.iter().find(|reading| reading.is_ok()).cloned().unwrap_or(Ok(BTreeMap::new()))
}
