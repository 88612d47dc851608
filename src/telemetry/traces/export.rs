//! Sends batches of spans to the collector, and says what it rejects.

use std::{
    error::Error as _,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::trace::SpanData;
use prost::Message as _;
use reqwest::header::CONTENT_TYPE;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::settings::Settings;
use crate::{
    domain::UntrustedText,
    net::tls::{self, TlsRoots},
    telemetry::log_throttle::LogThrottle,
};

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

/// The usual port of collectors for gRPC, which is not supported here.
const GRPC_PORT: u16 = 4317;

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

/// Sends the spans in the queue.
pub struct Exporter {
    pub(super) settings: Settings,
    pub(super) resource: ResourceAttributesWithSchema,
    pub(super) spans: mpsc::Receiver<SpanData>,
    pub(super) lost: Arc<AtomicU64>,
    /// The spans of the next batch.
    pub(super) batch: Vec<SpanData>,
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
                warn!(error, "no traces: the collector cannot be used");
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
    #[error("the collector answers {status}{}", status_advice(status.as_u16()))]
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
pub(super) fn parse_rejection(answer: &[u8]) -> Option<(u64, UntrustedText)> {
    let partial = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
    let spans = u64::try_from(partial.rejected_spans).ok().filter(|spans| *spans > 0)?;
    Some((spans, partial.error_message.into()))
}

/// What to do about an HTTP status, where it suggests something.
pub(super) fn status_advice(status: u16) -> &'static str {
    match status {
        300..=399 => "; redirects are not followed: use the URL that it leads to",
        401 | 403 => "; it requires other credentials: OTEL_EXPORTER_OTLP_HEADERS",
        404 | 405 | 415 => {
            "; it does not accept OTLP over HTTP there: /v1/traces is appended to \
             OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is used unchanged"
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
