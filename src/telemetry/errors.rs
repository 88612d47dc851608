//! The last warnings and errors of the process and of each instance, for the page and `/errors`, so
//! that operators need not search the log first.
//!
//! A tracing layer beside the one that writes the log. Like the log it keeps events of our own code
//! only (other crates print URLs with keys). Bounded: [`CAPACITY`] for the process and for each
//! instance, each of at most [`MAX_CHARS`] characters. A repeated event is counted, not stored again.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::{domain::excerpt, time::clock};

/// The target of warnings that are advice about a configuration which works: they are logged, and are no
/// trouble of the instance.
pub const ADVICE: &str = "kms_connector::advice";
/// The target of what keeps a changed file from being applied. The status of the instance shows that by
/// itself as long as it lasts, so it is not among its last warnings.
pub const UNAPPLIED: &str = "kms_connector::unapplied";
/// Entries kept for each instance, and for the process.
const CAPACITY: usize = 20;
/// The most instances. The supervisor removes those that are gone.
const MAX_INSTANCES: usize = 1_024;
/// Entries that the status shows of an instance.
const SHOWN_WITH_STATE: usize = 4;
/// The longest message, and the longest text of its fields, in characters.
const MAX_CHARS: usize = 600;

/// An error or a warning, and when it occurred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    pub at_ms: u64,
    pub text: String,
}

/// One warning or error, however often it was logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoggedError {
    /// `ERROR` or `WARN`.
    pub level: &'static str,
    pub message: String,
    /// Its fields: `key=value, …`.
    pub fields: String,
    /// The request of the last occurrence, if it belongs to one.
    pub request: Option<String>,
    pub first_ms: u64,
    pub last_ms: u64,
    pub count: u64,
    /// Of the target [`UNAPPLIED`].
    #[serde(skip)]
    is_unapplied: bool,
}

#[derive(Debug, Default)]
struct Rings {
    process: VecDeque<LoggedError>,
    instances: BTreeMap<String, VecDeque<LoggedError>>,
}

/// The recent warnings and errors. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LastErrors {
    rings: Arc<Mutex<Rings>>,
}

/// Warnings and errors by owner, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// Those that belong to no instance.
    pub process: Vec<LoggedError>,
    pub instances: BTreeMap<String, Vec<LoggedError>>,
}

impl LastErrors {
    /// The layer that records events, for the process's subscriber.
    pub fn layer<S: Subscriber + for<'s> LookupSpan<'s>>(&self) -> impl Layer<S> + use<S> {
        ErrorLayer { errors: self.clone() }
    }

    /// Entries whose last occurrence was at this time or later.
    #[must_use]
    pub fn since(&self, since_ms: u64) -> ErrorReport {
        let kept = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let young = |ring: &VecDeque<LoggedError>| {
            let young = ring.iter().rev().filter(|error| error.last_ms >= since_ms);
            young.cloned().collect::<Vec<_>>()
        };
        let instances = kept.instances.iter().map(|(name, ring)| (name.clone(), young(ring)));
        ErrorReport {
            process: young(&kept.process),
            instances: instances.filter(|(_, errors)| !errors.is_empty()).collect(),
        }
    }

    /// The last entries of an instance, at this time or later, without what its status shows besides: the
    /// newest of each message, newest first, at most [`SHOWN_WITH_STATE`].
    #[must_use]
    pub fn last_of(&self, instance: &str, since_ms: u64) -> Vec<LastError> {
        let kept = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last: Vec<&LoggedError> = Vec::new();
        let young = kept.instances.get(instance).into_iter().flat_map(|ring| ring.iter().rev());
        for error in young.take_while(|error| error.last_ms >= since_ms) {
            if last.len() < SHOWN_WITH_STATE
                && !error.is_unapplied
                && last.iter().all(|said| said.message != error.message)
            {
                last.push(error);
            }
        }
        let in_short = |LoggedError { message, fields, last_ms, .. }: &LoggedError| {
            let text =
                if fields.is_empty() { message.clone() } else { format!("{message}: {fields}") };
            LastError { at_ms: *last_ms, text }
        };
        last.into_iter().map(in_short).collect()
    }

    /// Removes the instances that no longer exist.
    pub fn retain(&self, is_instance: impl Fn(&str) -> bool) {
        let mut kept = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        kept.instances.retain(|name, _| is_instance(name));
    }

    fn record(&self, instance: Option<String>, mut error: LoggedError) {
        let mut kept = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        let ring = match instance {
            Some(name)
                if kept.instances.len() < MAX_INSTANCES || kept.instances.contains_key(&name) =>
            {
                kept.instances.entry(name).or_default()
            }
            Some(_) | None => &mut kept.process,
        };
        let is_same = |known: &LoggedError| {
            (known.level, &known.message, &known.fields)
                == (error.level, &error.message, &error.fields)
        };
        if let Some(known) = ring.iter().position(is_same).and_then(|index| ring.remove(index)) {
            error.first_ms = known.first_ms;
            error.count = known.count.saturating_add(1);
        } else if ring.len() >= CAPACITY {
            ring.pop_front();
        }
        ring.push_back(error);
    }
}

struct ErrorLayer {
    errors: LastErrors,
}

/// The owner of the events in a span.
#[derive(Debug, Default)]
struct SpanOwner {
    instance: Option<String>,
    request: Option<String>,
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for ErrorLayer {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let mut whose = SpanOwner::default();
        let mut fields = Fields::default();
        match attributes.metadata().name() {
            "instance" => {
                attributes.record(&mut fields);
                whose.instance = fields.take("instance");
            }
            "request" => {
                attributes.record(&mut fields);
                whose.request = fields.take("id");
            }
            _ => return,
        }
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(whose);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        if event.metadata().target() == ADVICE {
            return;
        }
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO | Level::DEBUG | Level::TRACE => return,
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut whose =
            SpanOwner { instance: fields.take("instance"), request: fields.take("request") };
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(of_span) = span.extensions().get::<SpanOwner>() {
                whose.instance = whose.instance.or_else(|| of_span.instance.clone());
                whose.request = whose.request.or_else(|| of_span.request.clone());
            }
        }
        let now_ms = clock::unix_millis();
        let message = fields.take("message").unwrap_or_default();
        let error = LoggedError {
            level,
            message,
            fields: fields.text(),
            request: whose.request,
            first_ms: now_ms,
            last_ms: now_ms,
            count: 1,
            is_unapplied: event.metadata().target() == UNAPPLIED,
        };
        self.errors.record(whose.instance, error);
    }
}

/// The fields of a span or event as short texts.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(key, _)| *key == name)?;
        Some(self.0.remove(index).1)
    }

    fn text(&self) -> String {
        let fields: Vec<String> =
            self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        excerpt(MAX_CHARS, fields.join(", "))
    }

    fn push(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.0.push((field.name(), excerpt(MAX_CHARS, value)));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing::{error, error_span, info, subscriber::with_default, warn};
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    use super::*;

    fn recorded(saying: impl FnOnce()) -> LastErrors {
        let errors = LastErrors::default();
        with_default(Registry::default().with(errors.layer()), saying);
        errors
    }

    #[test]
    fn an_error_is_told_with_its_instance_and_request() {
        let errors = recorded(|| {
            let _instance = error_span!("instance", instance = "one", generation = 1).entered();
            warn!(host = "node.example", "gateway node not reachable");
            let _request = error_span!("request", id = %"0x7", kind = "public").entered();
            info!("nothing to see");
            error!(count = 3, why = "no \u{1b}[2J\nbytes\u{202e}", "request held");
        });
        let told = errors.since(0);
        assert_eq!(told.process, []);
        let of_one = &told.instances["one"];
        assert_eq!(of_one.len(), 2, "{of_one:?}");
        assert_eq!((of_one[0].level, of_one[0].message.as_str()), ("ERROR", "request held"));
        assert_eq!(of_one[0].fields, "count=3, why=no \\u{1b}[2J\\nbytes\\u{202e}");
        assert_eq!(of_one[0].request.as_deref(), Some("0x7"));
        assert_eq!((of_one[1].request.as_deref(), of_one[1].count), (None, 1));
        assert_eq!(of_one[1].fields, "host=node.example");
    }

    #[test]
    fn what_the_supervisor_says_of_an_instance_is_told_there() {
        let errors = recorded(|| {
            error!(instance = "two", exit = %"lane panicked", "instance ended");
            warn!(target: ADVICE, instance = "two", "no [s3_config]");
            warn!("there is no configuration");
        });
        let told = errors.since(0);
        assert_eq!(told.instances["two"].len(), 1, "advice is no trouble");
        assert_eq!(told.instances["two"][0].message, "instance ended");
        assert_eq!(told.process[0].message, "there is no configuration");
        errors.retain(|name| name != "two");
        assert_eq!(errors.since(0).instances.len(), 0);
        assert_eq!(errors.since(u64::MAX), ErrorReport::default());
    }

    #[test]
    fn what_is_said_again_is_counted_and_what_is_old_goes() {
        let errors = recorded(|| {
            for number in 0..1_000 {
                warn!("the same");
                warn!(number, "another");
            }
        });
        let told = errors.since(0).process;
        assert_eq!(told.len(), CAPACITY);
        let same: Vec<_> = told.iter().filter(|error| error.message == "the same").collect();
        assert_eq!((same.len(), same[0].count), (1, 1_000));
        assert_eq!(told[0].fields, "number=999", "the newest comes first");
    }

    /// For example: not registered, and no funds.
    #[test]
    fn every_standing_condition_is_told_once_newest_first() {
        let errors = recorded(|| {
            warn!(instance = "a", wallet = 1, "not registered");
            warn!(instance = "a", "no funds");
            warn!(instance = "a", wallet = 2, "not registered");
            warn!(instance = "b", "another's");
            error!(target: UNAPPLIED, instance = "a", "reload failed");
        });
        assert_eq!(errors.since(0).instances["a"][0].message, "reload failed");
        let last = errors.last_of("a", 0);
        let told: Vec<&str> = last.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(told, ["not registered: wallet=2", "no funds"]);
        assert!(errors.last_of("a", u64::MAX).is_empty() && errors.last_of("c", 0).is_empty());
    }

    #[test]
    fn a_long_text_is_cut() {
        let errors =
            recorded(|| error!(why = "é".repeat(100_000), more = "x".repeat(9_999), "long"));
        let error = &errors.since(0).process[0];
        assert_eq!(error.fields.chars().count(), MAX_CHARS + 1);
        assert!(error.fields.ends_with('…'));
    }
}
