//! What is logged for our events and for those of other crates.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::{error_span, info_span, warn};
use world::strict_json;

use super::*;
use crate::domain::is_printable;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of the events that `saying` emits.
fn log_of(settings: &Settings, saying: impl FnOnce()) -> String {
    let memory = Memory::default();
    let writer = memory.clone();
    let (filter, _) = filter(settings.filter.as_deref());
    let subscriber = subscriber(settings, filter, move || writer.clone());
    tracing::subscriber::with_default(subscriber, saying);
    let bytes = memory.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// The log of a fixed set of events, ours and others'.
fn written(settings: &Settings) -> String {
    log_of(settings, || {
        let _ours = tracing::info_span!(target: "kms_connector::flow", "ours", id = 7).entered();
        let _others = tracing::info_span!(target: "hyper", "others", url = "CANARY").entered();
        tracing::trace!(target: "kms_connector::flow", "our trace");
        tracing::info!(target: "kms_connector", answer = 42, "our info");
        tracing::info!(target: "hyper::client", "their info CANARY");
        tracing::debug!(target: "kms_connectors", "their debug CANARY");
        tracing::error!(target: "hyper", url = "CANARY", "their error");
    })
}

#[test]
fn other_crates_are_silent_whatever_rust_log_says() {
    for filter in ["trace", "hyper=trace,kms_connector=trace,warn", "[{url}]=trace,trace"] {
        let settings = Settings { filter: Some(filter.to_owned()), ..Settings::default() };
        let text = written(&settings);
        assert!(!text.contains("CANARY"), "{filter}: {text}");
        for words in ["our trace", "our info", "id=7"] {
            assert!(text.contains(words), "{filter}: {words}: {text}");
        }
        let lifted = written(&Settings { dependencies: true, ..settings });
        assert!(lifted.contains("their info CANARY"), "{filter}: {lifted}");
    }
}

#[test]
fn info_is_the_default_also_for_an_unreadable_filter() {
    for text in [None, Some(" "), Some("a=b=c")] {
        let settings = Settings { filter: text.map(str::to_owned), ..Settings::default() };
        let text = written(&settings);
        assert!(text.contains("our info") && !text.contains("our trace"), "{text}");
    }
    assert!(filter(Some("a=b=c")).1.is_some());
}

/// Field failure T52.
#[test]
fn json_is_one_object_per_line() {
    let text = written(&Settings { format: Format::Json, ..Settings::default() });
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| strict_json::parse(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert_eq!(lines[0]["message"], "our info");
    assert_eq!(lines[0]["answer"], 42);
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["spans"][0]["id"], 7);
}

#[test]
fn a_panic_is_an_error_event_with_its_place() {
    let text = log_of(&Settings::default(), || {
        log_panics();
        std::panic::catch_unwind(|| panic!("boom {}", 7)).unwrap_err();
        drop(std::panic::take_hook());
    });
    for words in ["ERROR", "boom 7", "logging/tests.rs:", "a_panic_is_an_error_event"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn text_has_colours_only_if_asked() {
    assert!(!written(&Settings::default()).contains('\u{1b}'));
    assert!(written(&Settings { colours: true, ..Settings::default() }).contains('\u{1b}'));
}

/// Text of a node, unchanged: in a field, in the message, and in a foreign `Debug`.
fn say_what_a_node_says() {
    const SAID: &str = "no\u{1b}[2J\r\n2026-09-14T16:05:12Z ERROR forged\0\u{202e}\u{9b}";
    struct Raw;
    impl std::fmt::Debug for Raw {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(SAID)
        }
    }
    let _span = error_span!("instance", instance = %SAID, generation = 1).entered();
    warn!(error = %SAID, said = SAID, raw = ?Raw, "broadcast not accepted {SAID}");
}

#[test]
fn b9_a_line_of_the_log_is_one_line_and_steers_no_terminal() {
    for format in [Format::Text, Format::Json] {
        let text = log_of(&Settings { format, ..Settings::default() }, say_what_a_node_says);
        let line = text.strip_suffix('\n').unwrap();
        assert!(line.chars().all(is_printable), "{text:?}");
        assert!(line.contains("forged"), "{text:?}");
    }
    let json =
        log_of(&Settings { format: Format::Json, ..Settings::default() }, say_what_a_node_says);
    let json = strict_json::parse(&json).unwrap();
    for said in [&json["error"], &json["said"], &json["raw"], &json["spans"][0]["instance"]] {
        assert!(said.as_str().unwrap().chars().all(is_printable), "{json}");
    }
    let coloured = Settings { colours: true, ..Settings::default() };
    let text = log_of(&coloured, say_what_a_node_says);
    assert!(text.contains("\u{1b}[3merror\u{1b}[0m") && !text.contains("\u{1b}[2J"), "{text:?}");
}

#[test]
fn b10_no_object_has_a_key_twice() {
    let text = log_of(&Settings { format: Format::Json, ..Settings::default() }, || {
        let _instance = error_span!("instance", instance = "one", generation = 7_u64).entered();
        let request =
            error_span!("request", id = %"0x5", kind = "user", late = tracing::field::Empty);
        request.record("late", true);
        let _request = request.entered();
        let _odd = info_span!("odd", name = "field", name_ = 1).entered();
        warn!(
            level = 9,
            target_ = 1,
            spans = "none",
            timestamp = -1,
            times = 2_u64,
            share = 0.5,
            "one"
        );
        warn!(message = "said", times = 1, times = 2);
    });
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| strict_json::parse(line).unwrap()).collect();
    let spans = &lines[0]["spans"];
    assert_eq!((&spans[0]["name"], &spans[0]["instance"]), (&"instance".into(), &"one".into()));
    assert_eq!((&spans[1]["name"], &spans[1]["id"]), (&"request".into(), &"0x5".into()));
    assert_eq!(spans[1]["late"], true);
    assert_eq!((&spans[2]["name"], &spans[2]["name_"]), (&"odd".into(), &"field".into()));
    assert_eq!((&lines[0]["level"], &lines[0]["level_"]), (&"WARN".into(), &9.into()));
    assert_eq!((&lines[0]["message"], &lines[0]["share"]), (&"one".into(), &0.5.into()));
    assert_eq!((&lines[1]["message"], &lines[1]["times_"]), (&"said".into(), &2.into()));
    assert_eq!(strict_json::parse(r#"{"a":{"b":1,"b":1}}"#).map_err(|_| ()), Err(()));
}
