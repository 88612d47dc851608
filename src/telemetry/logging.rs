//! The log: to stderr, as text or as one JSON object per line.
//!
//! `RUST_LOG` selects among our own targets. Other crates are silent whatever it says, because they
//! print URLs, and URLs hold API keys: the AWS client does so even in a warning. Our own code logs
//! their errors without the URL. `--log-dependencies` enables them and logs a warning. Records of
//! crates that use `log` instead of `tracing` are dropped for the same reason. A panic becomes an
//! error event, so that it appears where the other errors are.

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

/// The format of log lines.
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
    /// Log events of other crates, too.
    pub dependencies: bool,
    /// `RUST_LOG`; `info` if absent or invalid.
    pub filter: Option<String>,
    /// Colours, in text format only.
    pub colours: bool,
    /// The trace export, if configured; or what is wrong with its variables.
    pub traces: Option<Result<traces::Settings, String>>,
}

/// What the log provides besides its output.
#[derive(Debug, Default)]
pub struct LogHandles {
    pub errors: LastErrors,
    /// Sends the traces while it runs.
    pub traces: Option<traces::Exporter>,
}

/// Returns whether to use colours: stderr is a terminal, and `NO_COLOR` has no value
/// (<https://no-color.org>).
#[must_use]
pub fn wants_colours(no_color_is_set: bool) -> bool {
    std::io::stderr().is_terminal() && !no_color_is_set
}

/// Installs the process's log and panic hook. May be called once.
pub fn init(settings: &Settings) -> Result<LogHandles, SetGlobalDefaultError> {
    let (written, unreadable) = filter(settings.filter.as_deref());
    // The recent errors must not show what the log hides.
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
            let layer = layer.with_filter(filter_fn(is_exported));
            tracing::subscriber::set_global_default(subscriber.with(layer))?;
            Some(export)
        }
    };
    log_panics();
    if let Some(error) = unreadable {
        tracing::warn!(error, "RUST_LOG cannot be read, logging at info");
    }
    if settings.dependencies {
        tracing::warn!("dependencies log too: their logs may show URLs with API keys");
    }
    if let Some(wrong) = bad_traces {
        tracing::warn!(wrong, "no traces: fix this variable and restart");
    }
    Ok(LogHandles { errors, traces })
}

/// The filter of `RUST_LOG`, and the error if it is invalid.
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
    // Reporting a failed write would panic, and the panic would be written, too.
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

/// Returns whether it belongs to a trace. The span of an instance never ends, so each request is a
/// trace of its own.
fn is_exported(metadata: &Metadata<'_>) -> bool {
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

/// Turns panics into error events. If that level is disabled, the previous hook handles them.
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
mod tests;
