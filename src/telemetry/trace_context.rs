//! Distributed traces inside the rooms: the owner of a span, and the context passed to other services.
//! `telemetry::traces` exports them; without an exporter nothing here has a cost.

use opentelemetry::trace::TraceContextExt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The owner of a trace. Each request is a trace of its own, so its root span names the instance: the
/// instance's span never ends and is not part of it.
#[derive(Clone, Debug)]
pub struct Whose {
    pub instance: String,
    /// The service name, if the operator gave one.
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
