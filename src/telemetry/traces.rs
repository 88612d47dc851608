//! Exports traces to an OpenTelemetry collector, over HTTP as protobuf. Each request is one trace;
//! its stages are spans, and what is logged about it at INFO and above are events.
//!
//! Finished spans wait in a queue of [`QUEUE`]; one task sends them. A slow or unreachable
//! collector costs spans, which are counted, and nothing else: nothing waits for it, a batch is
//! sent once, and repeated failures are logged with increasing intervals.

mod settings;
mod export;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, trace::TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use tokio::sync::mpsc;
use tracing::Subscriber;
use tracing_subscriber::{Layer, registry::LookupSpan};

pub use self::{export::Exporter, settings::Settings};

/// The capacity of the queue, in spans.
const QUEUE: usize = 4_096;

/// The layer that creates the spans, and the task that sends them.
pub fn layer<S>(settings: Settings) -> (impl Layer<S> + use<S>, Exporter)
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let (queue, spans) = mpsc::channel(QUEUE);
    let lost = Arc::<AtomicU64>::default();
    let resource = Resource::builder_empty().with_service_name(settings.service.clone()).build();
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            settings.sample_ratio,
        ))))
        .with_resource(resource.clone())
        .with_span_processor(QueueProcessor { queue, lost: lost.clone() })
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("kms-connector"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    (layer, Exporter { settings, resource: (&resource).into(), spans, lost, batch: Vec::new() })
}

/// Puts finished spans into the queue, if there is room.
#[derive(Debug)]
struct QueueProcessor {
    queue: mpsc::Sender<SpanData>,
    lost: Arc<AtomicU64>,
}

impl SpanProcessor for QueueProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.queue.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
    use prost::Message as _;
    use reqwest::header::HeaderValue;

    use super::{
        export::{parse_rejection, status_advice},
        settings::{
            DISABLED, ENDPOINT, EXPORTER, HEADERS, PROTOCOL, SAMPLER, SAMPLER_ARG, SERVICE,
        },
        *,
    };

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(get, || Some("node-1".to_owned()))
    }

    /// A collector that answers 200 and rejects spans.
    #[test]
    fn c4_what_a_collector_rejects_is_told() {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
        let answer = |rejected_spans| {
            let error_message = "the quota\n is used up".to_owned();
            let partial = ExportTracePartialSuccess { rejected_spans, error_message };
            ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        };
        let (spans, why) = parse_rejection(&answer(7)).unwrap();
        assert_eq!(spans, 7);
        assert!(why.contains("quota\\n is"), "{why}");
        for nothing in [answer(0), answer(-1), Vec::new(), b"{}".to_vec()] {
            assert_eq!(parse_rejection(&nothing), None);
        }
        assert!(status_advice(401).contains(HEADERS) && status_advice(404).contains(ENDPOINT));
    }

    #[test]
    fn without_an_endpoint_nothing_is_wanted() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[(ENDPOINT, " "), (SAMPLER_ARG, "nonsense")]).unwrap().is_none());
    }

    #[test]
    fn the_usual_variables_are_read() {
        let settings = read(&[
            (ENDPOINT, "https://collector.example:4318/base/?key=CANARY"),
            (HEADERS, "authorization=Bearer%20CANARY, x-team = kms"),
            (PROTOCOL, "http/protobuf"),
            (SERVICE, "kms-node-7"),
            (SAMPLER_ARG, "0.25"),
        ]);
        let settings = settings.unwrap().unwrap();
        let Settings { url, headers, service, sample_ratio: share } = &settings;
        assert_eq!(url.as_str(), "https://collector.example:4318/base/v1/traces?key=CANARY");
        assert_eq!(headers["authorization"], "Bearer CANARY");
        assert_eq!(headers["x-team"], "kms");
        assert_eq!(service, "kms-node-7");
        assert!((share - 0.25).abs() < f64::EPSILON);
        let told = format!("{settings:?}");
        assert!(told.contains("collector.example:4318") && !told.contains("CANARY"), "{told}");
        let plain = read(&[(ENDPOINT, "http://127.0.0.1:4318")]).unwrap().unwrap();
        assert_eq!((plain.url.path(), plain.service.as_str()), ("/v1/traces", "node-1"));
    }

    #[test]
    fn c7_the_variables_that_switch_traces_off_or_name_them_alone_are_read() {
        let all = (ENDPOINT, "http://collector.example:4318");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces.example/in");
        for off in [(DISABLED, "true"), (DISABLED, "TRUE"), (EXPORTER, "none")] {
            assert!(read(&[all, off]).unwrap().is_none(), "{off:?}");
        }
        for on in [(DISABLED, "false"), (EXPORTER, "console, otlp")] {
            assert!(read(&[all, on]).unwrap().is_some(), "{on:?}");
        }
        // OpenTelemetry accepts only `true`; any other value is reported.
        assert!(read(&[all, (DISABLED, "1")]).unwrap_err().starts_with(DISABLED));
        assert!(read(&[all, (EXPORTER, "zipkin")]).unwrap_err().starts_with(EXPORTER));
        let url = |variables: &[(&str, &str)]| read(variables).unwrap().unwrap().url.to_string();
        assert_eq!(url(&[all, own]), "http://traces.example/in", "as it stands");
        assert_eq!(url(&[own]), "http://traces.example/in");
        let headers = [
            (HEADERS, "a=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "b=2"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            (PROTOCOL, "grpc"),
        ];
        let settings = read(&[&[all][..], &headers[..]].concat()).unwrap().unwrap();
        assert_eq!(
            (settings.headers.len(), &settings.headers["b"]),
            (1, &HeaderValue::from_static("2"))
        );
    }

    #[test]
    fn c7_the_sampler_is_the_one_that_is_named() {
        let all = (ENDPOINT, "http://collector.example:4318");
        let share = |sampler, argument: &str| {
            let read = read(&[all, (SAMPLER, sampler), (SAMPLER_ARG, argument)]).unwrap();
            read.map(|settings| settings.sample_ratio.to_string())
        };
        for (sampler, argument, expected) in [
            ("always_off", "1", None),
            ("parentbased_always_off", "", None),
            ("always_on", "0.5", Some("1")),
            ("parentbased_always_on", "", Some("1")),
            ("traceidratio", "0.5", Some("0.5")),
            ("parentbased_traceidratio", "", Some("1")),
            ("", "0.25", Some("0.25")),
        ] {
            assert_eq!(share(sampler, argument).as_deref(), expected, "{sampler} {argument}");
        }
        let other = read(&[all, (SAMPLER, "jaeger_remote")]).unwrap_err();
        assert!(other.starts_with(SAMPLER), "{other}");
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        for (name, value) in [
            (ENDPOINT, "collector CANARY"),
            (ENDPOINT, "grpc://CANARY.example"),
            (HEADERS, "CANARY"),
            (HEADERS, "a b=CANARY"),
            (HEADERS, "a=CANARY%0"),
            (HEADERS, "a=CANARY%0a"),
            (PROTOCOL, "CANARY"),
            (SAMPLER_ARG, "CANARY"),
            (SAMPLER_ARG, "1.01"),
            (SAMPLER_ARG, "NaN"),
        ] {
            let good = (ENDPOINT, "http://collector.example");
            let error = read(&[(name, value), good]).unwrap_err();
            assert!(error.starts_with(name) && !error.contains("CANARY"), "{error}");
        }
    }
}
