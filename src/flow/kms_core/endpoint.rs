//! The Core's endpoint: connections, the pace of asks, reachability, metrics. Knows nothing of requests.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use super::{
    CoreError, CoreHealth, MESSAGE_LIMIT,
    channel::BoundedChannel,
    channel_pool::{ChannelPool, PollGuard},
    proto::{
        grpc::health::v1 as health_v1,
        kms_service::v1::core_service_endpoint_client::CoreServiceEndpointClient,
    },
    rate_limiter::{AskPermit, RateLimiter},
    status,
    transport::Transport,
};
use crate::{
    domain::{CoreAddress, UntrustedText},
    net::tls,
    telemetry::metrics::Metrics,
};

/// The Core's service name, used in health checks.
const SERVICE: &str = "kms_service.v1.CoreServiceEndpoint";

/// A Core that did not answer is not asked for its health again within this time.
const UNREACHABLE_FOR: Duration = Duration::from_secs(1);

pub(super) type Client = CoreServiceEndpointClient<BoundedChannel>;

/// One endpoint of a KMS Core. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct CoreEndpoint {
    channels: ChannelPool,
    rate_limiter: Arc<RateLimiter>,
    /// When an ask got no answer. `None` once the Core answers again.
    unreachable_since: watch::Sender<Option<Instant>>,
    last_health: Arc<Mutex<Option<HealthReading>>>,
    /// Deadline of the health check.
    health_deadline: Duration,
    metrics: Metrics,
}

/// Result of a health check: when it was sent and when it was answered.
#[derive(Debug)]
struct HealthReading {
    health: Result<CoreHealth, CoreError>,
    asked: Instant,
    told: Instant,
}

impl CoreEndpoint {
    pub fn new(transport: Transport, health_deadline: Duration, metrics: Metrics) -> Self {
        Self {
            channels: ChannelPool::new(transport),
            rate_limiter: Arc::default(),
            unreachable_since: watch::channel(None).0,
            last_health: Arc::default(),
            health_deadline,
            metrics,
        }
    }

    pub fn address(&self) -> &CoreAddress {
        self.channels.address()
    }

    /// A client for asks.
    pub fn ask_client(&self) -> Client {
        client(self.channels.ask_channel())
    }

    /// A client for one poll, with its place on a connection.
    pub fn poll_client(&self) -> (Client, PollGuard<'_>) {
        let (line, place) = self.channels.poll_channel();
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
            Err(NoReply::TimedOut) => "no_reply",
            Err(NoReply::Status(status)) => status::code_name(status.code()),
        };
        self.metrics.core_call(method, code);
        replied
    }

    /// Waits for the turn to ask once: at once, unless the Core said that it is busy. If the last ask
    /// got no answer, the Core's health is checked first.
    pub async fn acquire_ask_permit(&self) -> Result<AskPermit, CoreError> {
        let lost = *self.unreachable_since.borrow();
        if let Some(lost) = lost {
            self.health_since(lost).await?;
        }
        Ok(self.rate_limiter.acquire().await)
    }

    /// Whether the Core answers now: then a failed call says something about one request only.
    pub async fn is_answering(&self) -> bool {
        self.health_since(Instant::now()).await.is_ok()
    }

    /// Updates reachability and pace from the result of an ask.
    pub fn record_ask<T>(&self, turn: AskPermit, asked: &Result<T, CoreError>) {
        match asked {
            Err(CoreError::Unreachable { .. }) => {
                self.unreachable_since.send_replace(Some(Instant::now()));
            }
            Err(CoreError::Busy { .. }) => self.rate_limiter.record_busy(turn),
            Ok(_)
            | Err(
                CoreError::Held(_)
                | CoreError::Answer(_)
                | CoreError::Request(_)
                | CoreError::Ciphertexts(_),
            ) => {}
        }
    }

    /// Asks the Core for its health. An answer of any kind makes it reachable.
    pub async fn health(&self) -> Result<CoreHealth, CoreError> {
        let health = self.ask_health().await?;
        self.unreachable_since.send_replace(None);
        Ok(health)
    }

    /// The Core's health, read after `since`; concurrent callers share one check.
    async fn health_since(&self, since: Instant) -> Result<CoreHealth, CoreError> {
        let mut last = self.last_health.lock().await;
        if let Some(HealthReading { health, asked, told }) = &*last {
            let holds = match health {
                Ok(_) => *asked >= since,
                Err(_) => told.elapsed() < UNREACHABLE_FOR,
            };
            if holds {
                return health.clone();
            }
        }
        let asked = Instant::now();
        let health = self.health().await;
        *last = Some(HealthReading { health: health.clone(), asked, told: Instant::now() });
        health
    }

    async fn ask_health(&self) -> Result<CoreHealth, CoreError> {
        use health_v1::health_check_response::ServingStatus;
        let mut client = health_v1::health_client::HealthClient::new(self.channels.ask_channel());
        let question = health_v1::HealthCheckRequest { service: SERVICE.to_owned() };
        match self.call("health", self.health_deadline, client.check(question)).await {
            Ok(response) => Ok(match response.status() {
                ServingStatus::Serving => CoreHealth::Serving,
                ServingStatus::NotServing => CoreHealth::NotServing,
                ServingStatus::Unknown | ServingStatus::ServiceUnknown => CoreHealth::Unknown,
            }),
            Err(NoReply::TimedOut) => Err(timeout_error(self.health_deadline)),
            Err(NoReply::Status(status)) => {
                let says_nothing = matches!(status.code(), Code::Unimplemented | Code::NotFound);
                if says_nothing && !is_local_error(&status) {
                    Ok(CoreHealth::Unknown)
                } else {
                    Err(unreachable_error(&status))
                }
            }
        }
    }
}

/// Why a call returned no message.
pub(super) enum NoReply {
    TimedOut,
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
        Err(_) => Err(NoReply::TimedOut),
    }
}

fn client(line: BoundedChannel) -> CoreServiceEndpointClient<BoundedChannel> {
    CoreServiceEndpointClient::new(line)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

fn is_local_error(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

pub(super) fn timeout_error(limit: Duration) -> CoreError {
    CoreError::Unreachable { cause: format!("no reply within {} s", limit.as_secs_f32()).into() }
}

pub(super) fn unreachable_error(status: &Status) -> CoreError {
    let mut cause = UntrustedText::from(status.message()).to_string();
    if !is_local_error(status) {
        cause = format!("{}: {cause}", status.code());
    }
    // The useful part ("connection refused") is the innermost cause.
    let mut error = std::error::Error::source(status);
    while let Some(source) = error {
        let text = UntrustedText::of(source);
        // Each layer repeats the text of the one below.
        if !cause.contains(text.as_str()) {
            cause = format!("{cause}: {text}");
        }
        error = source.source();
    }
    cause.push_str(tls::advice(status));
    CoreError::Unreachable { cause: cause.into() }
}
