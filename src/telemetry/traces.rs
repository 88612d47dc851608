//! Exports traces to an OpenTelemetry collector, over HTTP as protobuf. Each request is one trace;
//! its stages are spans, and what is logged about it at INFO and above are events.
//!
//! Finished spans wait in a queue of [`QUEUE`]; one task sends them. A slow or unreachable
//! collector costs spans, which are counted, and nothing else: nothing waits for it, a batch is
//! sent once, and repeated failures are logged with increasing intervals.

use std::{
    error::Error as _,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, trace::TracerProvider as _};
use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{Subscriber, info, warn};
use tracing_subscriber::{Layer, registry::LookupSpan};
use url::Url;

use crate::{
    domain::UntrustedText,
    net::{
        percent,
        tls::{self, TlsRoots},
    },
    telemetry::log_throttle::LogThrottle,
};

/// The capacity of the queue, in spans.
const QUEUE: usize = 4_096;
/// The most spans in one batch.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const BATCH_DEADLINE: Duration = Duration::from_secs(5);
/// How long sending the rest may take when the process ends.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);
/// The most bytes read of a response.
const MAX_RESPONSE_BYTES: usize = 4_096;

/// Each also exists with `TRACES_` after `OTLP_`, which takes precedence.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SERVICE: &str = "OTEL_SERVICE_NAME";
/// Its values may have the prefix `parentbased_`.
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The usual port of collectors for gRPC, which is not supported here.
const GRPC_PORT: u16 = 4317;

/// The collector, and which requests are traced.
#[derive(Clone)]
pub struct Settings {
    /// May contain an API key.
    url: Url,
    /// Usually contain an API key.
    headers: HeaderMap,
    service: String,
    /// The share of requests that are traced, from 0 to 1.
    sample_ratio: f64,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, sample_ratio: share, .. } = self;
        f.debug_struct("Settings")
            .field("collector", &self.host())
            .field("service", service)
            .field("share", share)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the standard variables of OpenTelemetry. `None`: traces are not configured. The error
    /// names the variable and never shows its value. `name`: that of the one instance, which becomes
    /// the service name if no variable gives one.
    pub fn read(
        get: impl Fn(&str) -> Option<String>,
        name: impl FnOnce() -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let get = |name: &str| get(name).map(|text| text.trim().to_owned());
        let given = |name: &str| get(name).filter(|text| !text.is_empty());
        let wrong = |name: &str, allowed: &str| format!("{name}: allowed is {allowed}");
        let is = |text: &Option<String>, word: &str| {
            text.as_ref().is_some_and(|text| text.eq_ignore_ascii_case(word))
        };
        let disabled = given(DISABLED);
        if is(&disabled, "true") {
            return Ok(None);
        }
        // The variable for traces alone, else the one for all signals.
        let of_traces = |name: &str| {
            let own = name.replace("_OTLP_", "_OTLP_TRACES_");
            given(&own).map(|text| (own, text)).or_else(|| Some((name.to_owned(), given(name)?)))
        };
        let Some((endpoint, text)) = of_traces(ENDPOINT) else { return Ok(None) };
        // OpenTelemetry accepts only `true`. An operator who writes 1 means it, and learns why it
        // has no effect.
        if disabled.is_some() && !is(&disabled, "false") {
            return Err(wrong(DISABLED, "true or false"));
        }
        match given(EXPORTER).as_deref() {
            None => {}
            Some("none") => return Ok(None),
            Some(list) if list.split(',').any(|exporter| exporter.trim() == "otlp") => {}
            Some(_) => return Err(wrong(EXPORTER, "otlp or none")),
        }
        let mut url = Url::parse(&text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| wrong(&endpoint, "an http:// or https:// URL"))?;
        if endpoint == ENDPOINT {
            let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        if let Some((name, protocol)) = of_traces(PROTOCOL)
            && protocol != "http/protobuf"
        {
            return Err(wrong(&name, "http/protobuf (usually at port 4318)"));
        }
        let headers = match of_traces(HEADERS) {
            None => HeaderMap::new(),
            Some((name, text)) => {
                headers(&text).ok_or_else(|| wrong(&name, "name=value,name=value"))?
            }
        };
        let share = given(SAMPLER_ARG).map_or(Some(1.0), |text| text.parse().ok());
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        let share = share.ok_or_else(|| wrong(SAMPLER_ARG, "a share of all requests from 0 to 1"));
        // A trace begins with the request, so no sampler has a parent to follow.
        let share = match given(SAMPLER)
            .as_deref()
            .map(|name| name.strip_prefix("parentbased_").unwrap_or(name))
        {
            Some("always_off") => return Ok(None),
            Some("always_on") => 1.0,
            Some("traceidratio") | None => share?,
            Some(_) => return Err(wrong(SAMPLER, "always_on, always_off or traceidratio")),
        };
        let service = given(SERVICE).or_else(name).unwrap_or_else(|| "kms-connector".to_owned());
        Ok(Some(Self { url, headers, service, sample_ratio: share }))
    }

    fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

fn http_client() -> Result<reqwest::Client, String> {
    let roots = TlsRoots::load(None).map_err(|error| error.to_string())?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(roots.client_config())
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(BATCH_DEADLINE)
        .build()
        .map_err(|error| error.without_url().to_string())
}

/// `name=value,name=value`, values percent-encoded.
fn headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        let mut value = HeaderValue::from_bytes(&percent::decode(value.trim())?).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Some(headers)
}

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

/// Sends the spans in the queue.
pub struct Exporter {
    settings: Settings,
    resource: ResourceAttributesWithSchema,
    spans: mpsc::Receiver<SpanData>,
    lost: Arc<AtomicU64>,
    /// The spans of the next batch.
    batch: Vec<SpanData>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Exporter {
    /// Sends until `stop`, then sends the rest within [`FLUSH_DEADLINE`].
    pub async fn run(mut self, stop: CancellationToken) {
        let collector = self.settings.host();
        let client = match http_client() {
            Ok(client) => client,
            Err(error) => {
                warn!(error, "no traces: the collector cannot be talked to");
                return;
            }
        };
        info!(collector, share = self.settings.sample_ratio, "traces are sent to a collector");
        if self.settings.url.port() == Some(GRPC_PORT) {
            warn!(
                collector,
                "traces go over HTTP to a port that is usually the collector's for gRPC: \
                 OTLP over HTTP is usually at port 4318"
            );
        }
        let mut repeats = LogThrottle::default();
        while stop.run_until_cancelled(self.collect_batch()).await.is_some() {
            let sent = self.send(&client).await;
            self.log_failure(sent, &mut repeats);
        }
        let ending = async {
            while let Ok(span) = self.spans.try_recv() {
                self.batch.push(span);
                if self.batch.len() >= BATCH {
                    self.send(&client).await?;
                }
            }
            self.send(&client).await
        };
        let sent = timeout(FLUSH_DEADLINE, ending).await;
        self.log_failure(sent.unwrap_or_else(|_| Err(DeliveryError::TimedOut)), &mut repeats);
    }

    /// Waits until a batch is full, or its first span has waited [`BATCH_DELAY`]. Cancel-safe.
    async fn collect_batch(&mut self) {
        while self.batch.is_empty() {
            if self.spans.recv_many(&mut self.batch, BATCH).await == 0 {
                // No span will come any more.
                std::future::pending::<()>().await;
            }
        }
        let until = Instant::now() + BATCH_DELAY;
        while self.batch.len() < BATCH {
            let room = BATCH - self.batch.len();
            match timeout_at(until, self.spans.recv_many(&mut self.batch, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    async fn send(&mut self, client: &reqwest::Client) -> Result<(), DeliveryError> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let spans = batch.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let request = client
            .post(self.settings.url.clone())
            .headers(self.settings.headers.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(body);
        let result = match request.send().await {
            Ok(answer) if answer.status().is_success() => match read_rejection(answer).await {
                None => return Ok(()),
                Some((spans, why)) => {
                    self.lost.fetch_add(spans, Ordering::Relaxed);
                    return Err(DeliveryError::Rejected { spans, why });
                }
            },
            Ok(answer) => Err(DeliveryError::Status { status: answer.status() }),
            Err(error) => Err(DeliveryError::Unreached { source: error.without_url() }),
        };
        self.lost.fetch_add(spans, Ordering::Relaxed);
        result
    }

    fn log_failure(&self, sent: Result<(), DeliveryError>, repeats: &mut LogThrottle) {
        let Err(error) = sent else { return };
        if let Some(times) = repeats.should_log(error.code(), Instant::now()) {
            let spans_lost = self.lost.load(Ordering::Relaxed);
            let collector = self.settings.host();
            warn!(%error, collector, spans_lost, times, "traces cannot be delivered");
        }
    }
}

/// Why spans were not delivered.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error("the collector rejects {spans} spans: {why}")]
    Rejected { spans: u64, why: UntrustedText },
    #[error("the collector answers {status}{}", of_status(status.as_u16()))]
    Status { status: reqwest::StatusCode },
    #[error("{}", causes(source))]
    Unreached { source: reqwest::Error },
    #[error("no answer in time")]
    TimedOut,
}

impl DeliveryError {
    fn code(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "rejected",
            Self::Status { .. } => "status",
            Self::Unreached { .. } => "unreached",
            Self::TimedOut => "late",
        }
    }
}

/// The number of spans rejected in a successful response, and the reason (OTLP partial success).
async fn read_rejection(mut answer: reqwest::Response) -> Option<(u64, UntrustedText)> {
    let mut body = Vec::new();
    while body.len() <= MAX_RESPONSE_BYTES
        && let Ok(Some(piece)) = answer.chunk().await
    {
        body.extend_from_slice(&piece);
    }
    parse_rejection(&body)
}

/// `None` for a response that was cut off or is no valid message.
fn parse_rejection(answer: &[u8]) -> Option<(u64, UntrustedText)> {
    let partial = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
    let spans = u64::try_from(partial.rejected_spans).ok().filter(|spans| *spans > 0)?;
    Some((spans, partial.error_message.into()))
}

/// What to do about an HTTP status, where it suggests something.
fn of_status(status: u16) -> &'static str {
    match status {
        300..=399 => "; redirects are not followed: put down where it leads to",
        401 | 403 => "; it wants other credentials: OTEL_EXPORTER_OTLP_HEADERS",
        404 | 405 | 415 => {
            "; it does not take OTLP over HTTP there: /v1/traces is added to \
             OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is taken as it stands"
        }
        _ => "",
    }
}

/// The error with its sources: the outermost error only says that sending failed.
fn causes(error: &reqwest::Error) -> UntrustedText {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.push_str(tls::advice(error));
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(of_status(401).contains(HEADERS) && of_status(404).contains(ENDPOINT));
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
