//! JSON-RPC over HTTP: one message out, one in, read up to its bound.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use reqwest::{
    Response,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};
use url::Url;

use super::{
    exchange_error::ExchangeError,
    message::{self, Message},
    response_limits::{BudgetPermit, ResponseBudget, SMALL},
};
use crate::{net::tls, time::clock};

/// Carries a message to a node and returns its answer. `None`: no answer, and whether the node acted is
/// unknown.
pub type RpcTransport = Arc<dyn Fn(String) -> BoxFuture<'static, Option<Vec<u8>>> + Send + Sync>;

/// The connection to one node.
#[derive(Clone)]
pub(super) enum Http {
    Network {
        client: reqwest::Client,
        url: Url,
        room: ResponseBudget,
    },
    /// A carrier instead of the network.
    Custom(RpcTransport),
}

/// An answer, with its share of the budget.
#[derive(Debug)]
pub(super) struct ResponseBody {
    bytes: bytes::Bytes,
    _place: Option<BudgetPermit>,
}

impl ResponseBody {
    pub(super) fn new(bytes: impl Into<bytes::Bytes>, place: Option<BudgetPermit>) -> Self {
        Self { bytes: bytes.into(), _place: place }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Http {
    /// `bound`: the largest answer that is read, in bytes.
    pub(super) async fn exchange(
        &self,
        question: String,
        bound: usize,
    ) -> Result<ResponseBody, ExchangeError> {
        let (client, url, room) = match self {
            Self::Network { client, url, room } => (client, url, room),
            Self::Custom(carrier) => {
                let answer = carrier(question).await;
                let answer =
                    answer.ok_or_else(|| ExchangeError::NoAnswer("no answer".to_owned()))?;
                return Ok(ResponseBody::new(answer, None));
            }
        };
        let asking = client.post(url.clone());
        let asking = asking.header(CONTENT_TYPE, "application/json").body(question);
        let answer = asking.send().await.map_err(|error| transport_error(&error))?;
        let status = answer.status();
        let later = retry_hint(status.as_u16(), answer.headers());
        let body = read(room, answer, bound).await;
        if status.is_success() {
            return body;
        }
        if let Some(RetryLater { retry_after: back_in }) = later {
            let message = body.ok().and_then(|body| error_message_in(body.bytes()));
            return Err(ExchangeError::RetryLater {
                status: status.as_u16(),
                retry_after: back_in,
                message,
            });
        }
        // A JSON-RPC error in the body comes from the node; other bodies come from a proxy or load
        // balancer.
        match body {
            Ok(body) if error_message_in(body.bytes()).is_some() => Ok(body),
            Ok(_) | Err(_) => Err(ExchangeError::Status(status.as_u16())),
        }
    }
}

async fn read(
    room: &ResponseBudget,
    mut answer: Response,
    bound: usize,
) -> Result<ResponseBody, ExchangeError> {
    let bound = if answer.status().is_success() { bound } else { bound.min(SMALL) };
    let announced = answer.content_length().map(|told| usize::try_from(told).unwrap_or(usize::MAX));
    if announced.is_some_and(|told| told > bound) {
        return Err(ExchangeError::TooLarge(bound));
    }
    let (mut read, mut place) = (Vec::with_capacity(announced.unwrap_or(0).min(SMALL)), None);
    while let Some(more) = answer.chunk().await.map_err(|error| transport_error(&error))? {
        let length = read.len() + more.len();
        if length > bound {
            return Err(ExchangeError::TooLarge(bound));
        }
        if length > SMALL && place.is_none() {
            place = Some(room.reserve(announced.unwrap_or(bound)).await);
            read.reserve_exact(announced.unwrap_or(length).saturating_sub(read.len()));
        }
        read.extend_from_slice(&more);
    }
    Ok(ResponseBody::new(read, place))
}

/// The message of an error object.
fn error_message_in(body: &[u8]) -> Option<String> {
    match message::read(body) {
        Ok(Message::Single(answer)) => answer.result.err().map(|refused| refused.message),
        Ok(Message::Batch(_) | Message::Notification(_)) | Err(_) => None,
    }
}

/// The same call may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RetryLater {
    /// When, if the node says so.
    pub retry_after: Option<Duration>,
}

/// Whether a status says "later": 429, or 503 with `Retry-After`.
pub(super) fn retry_hint(status: u16, headers: &HeaderMap) -> Option<RetryLater> {
    let header = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let back_in = header.and_then(|told| retry_after(told, clock::unix_millis()));
    (status == 429 || (status == 503 && back_in.is_some()))
        .then_some(RetryLater { retry_after: back_in })
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(told: &str, now_ms: u64) -> Option<Duration> {
    let told = told.trim();
    if let Ok(seconds) = told.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(told).ok()?;
    let now = UNIX_EPOCH + Duration::from_millis(now_ms);
    Some(at.duration_since(now).unwrap_or_default())
}

/// The causes of a client error, without its first line, which contains the URL; with advice for TLS
/// errors.
fn transport_error(error: &reqwest::Error) -> ExchangeError {
    let mut text = if error.is_timeout() { "timed out" } else { "request failed" }.to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.push_str(tls::advice(error));
    ExchangeError::NoAnswer(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_retry_after_is_seconds_or_a_date() {
        let now_ms = 1_000_000_000_000;
        for (told, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 09 Sep 2001 01:46:50 GMT", Some(10)),
            ("Sun, 09 Sep 2001 01:46:30 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(retry_after(told, now_ms), expected.map(Duration::from_secs), "{told:?}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(retry_hint(429, &headers), Some(RetryLater { retry_after: None }));
        assert_eq!(retry_hint(503, &headers), None);
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        let later = RetryLater { retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(retry_hint(503, &headers), Some(later));
        assert_eq!(retry_hint(500, &headers), None);
    }
}
