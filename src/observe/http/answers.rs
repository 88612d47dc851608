//! What the listener answers. Pure: a path and what is shown make a response.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use serde_json::json;

use crate::observe::board::Shown;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The answer to a request for `path`.
#[must_use]
pub fn answer(method: &Method, path: &str, shown: &Shown) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "this listener only shows\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        // That this is answered is all it says: what is outside must not have the process restarted.
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/status" => as_json(StatusCode::OK, &shown.status),
        "/version" => as_json(StatusCode::OK, &json!({ "version": shown.status.version })),
        _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

fn text(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    respond(status, TEXT, Bytes::from_static(words.as_bytes()))
}

fn as_json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => respond(status, JSON, body.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "this cannot be written as JSON\n"),
    }
}

fn respond(status: StatusCode, kind: HeaderValue, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
