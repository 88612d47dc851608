//! The Core's endpoint: connections, the pace of asks, reachability, metrics. Knows nothing of requests.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use super::{
    CoreError, Health, MESSAGE_LIMIT,
    line::Line,
    lines::{Lines, Place},
    pace::{Pace, Turn},
    proto::{
        grpc::health::v1 as health_v1,
        kms_service::v1::core_service_endpoint_client::CoreServiceEndpointClient,
    },
    status,
    transport::Transport,
};
use crate::{domain::OutsideText, metrics::Metrics, tls};

/// The Core's service name, used in health checks.
const SERVICE: &str = "kms_service.v1.CoreServiceEndpoint";

/// A Core that did not answer is not asked for its health again within this time.
const SILENT_FOR: Duration = Duration::from_secs(1);

pub(super) type Client = CoreServiceEndpointClient<Line>;

/// One endpoint of a KMS Core. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    lines: Lines,
    pace: Arc<Pace>,
    /// When an ask got no answer. `None` once the Core answers again.
    lost: watch::Sender<Option<Instant>>,
    heard: Arc<Mutex<Option<Heard>>>,
    /// Deadline of the health check.
    patience: Duration,
    metrics: Metrics,
}

/// Result of a health check: when it was sent and when it was answered.
#[derive(Debug)]
struct Heard {
    health: Result<Health, CoreError>,
    asked: Instant,
    told: Instant,
}

impl Endpoint {
    pub fn new(transport: Transport, patience: Duration, metrics: Metrics) -> Self {
        Self {
            lines: Lines::over(transport),
            pace: Arc::default(),
            lost: watch::channel(None).0,
            heard: Arc::default(),
            patience,
            metrics,
        }
    }

    /// Host and port of the endpoint, for messages.
    pub fn host(&self) -> &str {
        self.lines.host()
    }

    /// A client for asks.
    pub fn client(&self) -> Client {
        client(self.lines.for_asks())
    }

    /// A client for one poll, with its place on a connection.
    pub fn polling_client(&self) -> (Client, Place<'_>) {
        let (line, place) = self.lines.for_poll();
        (client(line), place)
    }

    /// One call, with its deadline and metrics.
    pub async fn call<T>(
        &self,
        method: &'static str,
        limit: Duration,
        asking: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, NoReply> {
        let replied = call(limit, asking).await;
        let code = match &replied {
            Ok(_) => status::code_name(Code::Ok),
            Err(NoReply::TooLate) => "no_reply",
            Err(NoReply::Status(status)) => status::code_name(status.code()),
        };
        self.metrics.core_call(method, code);
        replied
    }

    /// Waits for the turn to ask once: at once, unless the Core said that it is busy. If the last ask
    /// got no answer, the Core's health is checked first.
    pub async fn turn(&self) -> Result<Turn, CoreError> {
        let lost = *self.lost.borrow();
        if let Some(lost) = lost {
            self.news(lost).await?;
        }
        Ok(self.pace.turn().await)
    }

    /// Whether the Core answers now: then a failed call says something about one request only.
    pub async fn answers(&self) -> bool {
        self.news(Instant::now()).await.is_ok()
    }

    /// Updates reachability and pace from the result of an ask.
    pub fn ask_ended<T>(&self, turn: Turn, asked: &Result<T, CoreError>) {
        match asked {
            Err(CoreError::Unreachable { .. }) => {
                self.lost.send_replace(Some(Instant::now()));
            }
            Err(CoreError::Busy { .. }) => self.pace.busy(turn),
            Ok(_) | Err(CoreError::Held(_) | CoreError::Request(_) | CoreError::Ciphertexts(_)) => {
            }
        }
    }

    /// Asks the Core for its health. An answer of any kind makes it reachable.
    pub async fn health(&self) -> Result<Health, CoreError> {
        let health = self.ask_health().await?;
        self.lost.send_replace(None);
        Ok(health)
    }

    /// The Core's health, read after `since`; concurrent callers share one check.
    async fn news(&self, since: Instant) -> Result<Health, CoreError> {
        let mut last = self.heard.lock().await;
        if let Some(Heard { health, asked, told }) = &*last {
            let holds = match health {
                Ok(_) => *asked >= since,
                Err(_) => told.elapsed() < SILENT_FOR,
            };
            if holds {
                return health.clone();
            }
        }
        let asked = Instant::now();
        let health = self.health().await;
        *last = Some(Heard { health: health.clone(), asked, told: Instant::now() });
        health
    }

    async fn ask_health(&self) -> Result<Health, CoreError> {
        use health_v1::health_check_response::ServingStatus;
        let mut client = health_v1::health_client::HealthClient::new(self.lines.for_asks());
        let question = health_v1::HealthCheckRequest { service: SERVICE.to_owned() };
        match self.call("health", self.patience, client.check(question)).await {
            Ok(response) => Ok(match response.status() {
                ServingStatus::Serving => Health::Serving,
                ServingStatus::NotServing => Health::NotServing,
                ServingStatus::Unknown | ServingStatus::ServiceUnknown => Health::Unknown,
            }),
            Err(NoReply::TooLate) => Err(too_late(self.patience)),
            Err(NoReply::Status(status)) => {
                let says_nothing = matches!(status.code(), Code::Unimplemented | Code::NotFound);
                if says_nothing && !is_ours(&status) {
                    Ok(Health::Unknown)
                } else {
                    Err(unreachable(&status))
                }
            }
        }
    }
}

/// Why a call returned no message.
pub(super) enum NoReply {
    TooLate,
    Status(Box<Status>),
}

/// One call with its deadline. Dropping it resets the stream, so the Core stops as well.
async fn call<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, NoReply> {
    match timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(NoReply::Status(Box::new(status))),
        Err(_) => Err(NoReply::TooLate),
    }
}

fn client(line: Line) -> CoreServiceEndpointClient<Line> {
    CoreServiceEndpointClient::new(line)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

fn is_ours(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

pub(super) fn too_late(limit: Duration) -> CoreError {
    CoreError::Unreachable { cause: format!("no reply within {} s", limit.as_secs_f32()).into() }
}

pub(super) fn unreachable(status: &Status) -> CoreError {
    let mut cause = OutsideText::from(status.message()).to_string();
    if !is_ours(status) {
        cause = format!("{}: {cause}", status.code());
    }
    // The useful part ("connection refused") is the innermost cause.
    let mut error = std::error::Error::source(status);
    while let Some(source) = error {
        let text = OutsideText::of(source);
        // Each layer repeats the text of the one below.
        if !cause.contains(text.as_str()) {
            cause = format!("{cause}: {text}");
        }
        error = source.source();
    }
    cause.push_str(tls::advice(status));
    CoreError::Unreachable { cause: cause.into() }
}
