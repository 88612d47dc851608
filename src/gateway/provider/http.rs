//! JSON-RPC over HTTP: one message out, one in, read no further than to its bound.

use reqwest::{Response, header::CONTENT_TYPE};
use url::Url;

use super::{
    bounds::{Place, Room, SMALL},
    client::Unanswered,
    message::{self, Message},
};

/// The way to one node.
#[derive(Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    url: Url,
    room: Room,
}

/// An answer, and its place among those that are being read.
#[derive(Debug)]
pub(super) struct Body {
    bytes: bytes::Bytes,
    _place: Option<Place>,
}

impl Body {
    pub(super) fn new(bytes: impl Into<bytes::Bytes>, place: Option<Place>) -> Self {
        Self { bytes: bytes.into(), _place: place }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Http {
    pub(super) fn new(client: reqwest::Client, url: Url, room: Room) -> Self {
        Self { client, url, room }
    }

    /// `bound`: the largest answer that is read, in bytes.
    pub(super) async fn exchange(
        &self,
        question: String,
        bound: usize,
    ) -> Result<Body, Unanswered> {
        let asking = self.client.post(self.url.clone());
        let asking = asking.header(CONTENT_TYPE, "application/json").body(question);
        let answer = asking.send().await.map_err(|error| lost(&error))?;
        let status = answer.status();
        let body = self.read(answer, bound).await;
        if status.is_success() {
            return body;
        }
        // Words with it are the node's; a page in HTML is what stands before it.
        match body {
            Ok(body) if is_error(body.bytes()) => Ok(body),
            Ok(_) | Err(_) => Err(Unanswered::Status(status.as_u16())),
        }
    }

    async fn read(&self, mut answer: Response, bound: usize) -> Result<Body, Unanswered> {
        let bound = if answer.status().is_success() { bound } else { bound.min(SMALL) };
        let told = answer.content_length().map(|told| usize::try_from(told).unwrap_or(usize::MAX));
        if told.is_some_and(|told| told > bound) {
            return Err(Unanswered::TooLarge(bound));
        }
        let (mut read, mut place) = (Vec::with_capacity(told.unwrap_or(0).min(SMALL)), None);
        while let Some(more) = answer.chunk().await.map_err(|error| lost(&error))? {
            let length = read.len() + more.len();
            if length > bound {
                return Err(Unanswered::TooLarge(bound));
            }
            if length > SMALL && place.is_none() {
                place = Some(self.room.place(told.unwrap_or(bound)).await);
                read.reserve_exact(told.unwrap_or(length).saturating_sub(read.len()));
            }
            read.extend_from_slice(&more);
        }
        Ok(Body::new(read, place))
    }
}

fn is_error(body: &[u8]) -> bool {
    matches!(message::read(body), Ok(Message::One(answer)) if answer.said.is_err())
}

/// The causes of a client's error without its first line, which holds the URL.
fn lost(error: &reqwest::Error) -> Unanswered {
    let mut text = if error.is_timeout() { "timed out" } else { "request failed" }.to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Unanswered::Lost(text)
}
