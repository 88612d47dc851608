//! Logs: to stderr, as text or as one JSON object per line.
//!
//! `RUST_LOG` chooses among our own targets. Other crates are silent whatever it says, because they
//! print URLs, and URLs hold API keys: the AWS client does so even in a warning. What fails in them
//! our own code tells, without the URL; `--log-dependencies` lets them speak and says so. Records of
//! crates that use `log` instead of `tracing` go nowhere, for the same reason. A panic becomes an
//! error event, so that it is found where the other errors are.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use super::{errors::LastErrors, traces};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// What to log, and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub format: Format,
    /// Let other crates speak.
    pub dependencies: bool,
    /// `RUST_LOG`; `info` if absent or unreadable.
    pub filter: Option<String>,
    /// Colours, in text only.
    pub colours: bool,
    /// Where traces go, if anywhere; or what is wrong with what was said of it.
    pub traces: Option<Result<traces::Settings, String>>,
}

/// What the process's log keeps beside what it writes.
#[derive(Debug, Default)]
pub struct Kept {
    pub errors: LastErrors,
    /// Sends the traces, once it runs.
    pub traces: Option<traces::Export>,
}

/// Whether colours are wanted: stderr is a terminal, and `NO_COLOR` has no value
/// (<https://no-color.org>).
#[must_use]
pub fn wants_colours(no_color_is_set: bool) -> bool {
    std::io::stderr().is_terminal() && !no_color_is_set
}

/// Sets the process's log and panic hook, once.
pub fn init(settings: &Settings) -> Result<Kept, SetGlobalDefaultError> {
    let (written, unreadable) = filter(settings.filter.as_deref());
    // What is not to be logged is not to be shown.
    let (shown, _) = filter(settings.filter.as_deref());
    let errors = LastErrors::default();
    let shown = shown.and(filter_fn(|metadata| is_ours(metadata.target())));
    let subscriber =
        subscriber(settings, written, std::io::stderr).with(errors.layer().with_filter(shown));
    let mut bad_traces = None;
    let traces = match settings.traces.clone() {
        None => {
            tracing::subscriber::set_global_default(subscriber)?;
            None
        }
        Some(Err(wrong)) => {
            tracing::subscriber::set_global_default(subscriber)?;
            bad_traces = Some(wrong);
            None
        }
        Some(Ok(traced)) => {
            let (layer, export) = traces::layer(traced);
            let layer = layer.with_filter(filter_fn(is_traced));
            tracing::subscriber::set_global_default(subscriber.with(layer))?;
            Some(export)
        }
    };
    log_panics();
    if let Some(error) = unreadable {
        tracing::warn!(error, "RUST_LOG cannot be read, logging at info");
    }
    if settings.dependencies {
        tracing::warn!("dependencies log too: what they log may show URLs with their API keys");
    }
    if let Some(wrong) = bad_traces {
        tracing::warn!(wrong, "no traces: mend this variable and start again");
    }
    Ok(Kept { errors, traces })
}

/// The filter of `RUST_LOG`, and what is wrong with it.
fn filter(text: Option<&str>) -> (EnvFilter, Option<String>) {
    let info = || EnvFilter::default().add_directive(LevelFilter::INFO.into());
    match text.map(str::trim).filter(|text| !text.is_empty()) {
        None => (info(), None),
        Some(text) => match EnvFilter::builder().parse(text) {
            Ok(filter) => (filter, None),
            Err(error) => (info(), Some(error.to_string())),
        },
    }
}

fn subscriber<W>(
    settings: &Settings,
    filter: EnvFilter,
    writer: W,
) -> impl Subscriber + for<'s> LookupSpan<'s> + use<W>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A failed write must not become a panic, which would want to be written too.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match settings.format {
        Format::Text => {
            Box::new(layer.with_ansi(settings.colours).fmt_fields(lines::text_fields()))
        }
        Format::Json => Box::new(
            layer.with_ansi(false).fmt_fields(lines::JsonFields).event_format(lines::JsonLine),
        ),
    };
    let dependencies = settings.dependencies;
    let ours = filter_fn(move |metadata| dependencies || is_ours(metadata.target()));
    Registry::default().with(layer.with_filter(filter.and(ours)))
}

/// An instance has no end: each of its requests is a trace of its own.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let wanted = if metadata.is_span() {
        metadata.name() != "instance"
    } else {
        *metadata.level() <= Level::INFO
    };
    wanted && is_ours(metadata.target())
}

fn is_ours(target: &str) -> bool {
    target
        .strip_prefix("kms_connector")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Makes panics error events. With no one listening at that level, they go the way they went.
fn log_panics() {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if tracing::enabled!(Level::ERROR) {
            log_panic(info);
        } else {
            earlier(info);
        }
    }));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload_as_str().unwrap_or("(not a text)");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let backtrace = Backtrace::capture(); // RUST_BACKTRACE decides
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(payload, place, thread, %backtrace, "panic");
    } else {
        tracing::error!(payload, place, thread, "panic");
    }
}

#[cfg(test)]
#[path = "../../tests/world/strict_json.rs"]
mod strict_json;
#[cfg(test)]
mod tests;
