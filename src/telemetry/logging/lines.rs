//! The format of a log line. Whatever a field contains, a line stays one line and cannot control a
//! terminal: values go through [`EscapingWriter`]. Only our own backtraces contain line breaks, in text
//! format.
//!
//! ```text
//! 2026-09-14T16:05:12.123456Z  WARN instance{instance="one" generation=1}: kms_connector::flow: message key=value
//! {"timestamp":"…","level":"WARN","message":"…","key":"value","target":"kms_connector::flow",
//!  "spans":[{"generation":1,"instance":"one","name":"instance"}]}
//! ```
//!
//! No JSON object repeats a key: readers differ in which value they take. A field whose name is
//! taken gets a trailing `_`.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_subscriber::{
    field::{MakeExt, RecordFields},
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{Writer, debug_fn},
        time::{FormatTime, SystemTime},
    },
    registry::{LookupSpan, Scope},
};

use crate::domain::EscapingWriter;

/// The field with line breaks: the stack of a panic.
const BACKTRACE: &str = "backtrace";

/// The fields of a text line: `key=value key=value`.
pub(super) fn text_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(|writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        match field.name() {
            "message" => {}
            name if writer.has_ansi_escapes() => {
                write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
            }
            name => write!(writer, "{name}=")?,
        }
        if field.name() == BACKTRACE {
            write!(writer, "{value:?}")
        } else {
            write!(EscapingWriter(writer), "{value:?}")
        }
    })
    .delimited(" ")
}

/// The fields of a span as one JSON object.
pub(super) struct JsonFields;

impl<'w> FormatFields<'w> for JsonFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut values = Values::reserving(SPAN_KEYS);
        fields.record(&mut values);
        write!(writer, "{}", Value::Object(values.map))
    }

    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let mut values = Values::reserving(SPAN_KEYS);
        values.map = serde_json::from_str(&current.fields).unwrap_or_default();
        fields.record(&mut values);
        current.fields = Value::Object(values.map).to_string();
        Ok(())
    }
}

/// Keys that every line has.
const LINE_KEYS: &[&str] = &["timestamp", "level", "target", "spans"];
const SPAN_KEYS: &[&str] = &["name"];

/// A line as one JSON object.
pub(super) struct JsonLine;

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        write!(writer, r#"{{"timestamp":"{timestamp}","level":"{}""#, metadata.level())?;
        let mut values = Values::reserving(LINE_KEYS);
        event.record(&mut values);
        // The message comes first, for human readers.
        let message = values.map.remove("message").map(|message| ("message".to_owned(), message));
        for (key, value) in message.into_iter().chain(values.map) {
            write!(writer, ",{}:{value}", Value::from(key))?;
        }
        write!(writer, r#","target":{}"#, Value::from(metadata.target()))?;
        let mut between = r#","spans":["#;
        for span in ctx.event_scope().into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            let fields = fields.and_then(|fields| fields.strip_prefix('{')?.strip_suffix('}'));
            let fields = fields.filter(|fields| !fields.is_empty());
            let comma = if fields.is_some() { "," } else { "" };
            let name = Value::from(span.metadata().name());
            write!(writer, "{between}{{{}{comma}\"name\":{name}}}", fields.unwrap_or_default())?;
            between = ",";
        }
        writer.write_str(if between == "," { "]}\n" } else { "}\n" })
    }
}

/// Fields as JSON, each key once.
struct Values {
    map: Map<String, Value>,
    reserved: &'static [&'static str],
}

impl Values {
    fn reserving(reserved: &'static [&'static str]) -> Self {
        Self { map: Map::new(), reserved }
    }

    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let mut key = field.name().trim_start_matches("r#").to_owned();
        while self.reserved.contains(&key.as_str()) || self.map.contains_key(&key) {
            key.push('_');
        }
        self.map.insert(key, value.into());
    }

    fn put_text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let mut plain = String::new();
        let written = if field.name() == BACKTRACE {
            plain.write_fmt(text)
        } else {
            EscapingWriter(&mut plain).write_fmt(text)
        };
        // Writing to a string cannot fail; a `Debug` implementation can, and leaves what it has
        // written.
        let _ = written;
        self.put(field, plain);
    }
}

impl Visit for Values {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, format_args!("{value:?}"));
    }
}
