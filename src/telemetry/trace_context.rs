//! What the rooms know of distributed traces: whose a span is, and what to tell others of it. Where
//! they go is `telemetry::traces`' matter; nothing here costs anything while they go nowhere.

use opentelemetry::trace::TraceContextExt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A trace is a request's: it says whose, because its instance's span, which has no end, is not in
/// it.
#[derive(Clone, Debug)]
pub struct Whose {
    pub instance: String,
    /// The name that its operator chose.
    pub service_name: Option<String>,
}

impl Whose {
    pub fn mark(&self, span: &Span) {
        span.set_attribute("instance", self.instance.clone());
        if let Some(name) = &self.service_name {
            span.set_attribute("service_name", name.clone());
        }
    }
}

/// The `traceparent` of the current span (W3C trace context, version 00), if there is a trace.
#[must_use]
pub fn traceparent() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    let flags = u8::from(span.is_sampled());
    span.is_valid().then(|| format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()))
}
