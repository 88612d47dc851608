//! What the listener answers. Pure: a path and what is shown make a response. Nothing outside is asked,
//! so that no answer waits for anything that an instance depends on.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    domain::SERVED_GENERATIONS,
    observe::{board::Shown, build, exposition, readiness::Readiness},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static(exposition::CONTENT_TYPE);

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
        "/readyz" => ready(&Readiness::of(&shown.status)),
        "/status" => as_json(StatusCode::OK, &shown.status),
        "/version" => version(shown),
        "/metrics" => metrics(shown),
        _ => match path.strip_prefix("/readyz/") {
            Some(name) => ready_instance(name, shown),
            None => text(StatusCode::NOT_FOUND, "there is no such page\n"),
        },
    }
}

fn ready(readiness: &Readiness) -> Response<Full<Bytes>> {
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    as_json(status, readiness)
}

fn ready_instance(name: &str, shown: &Shown) -> Response<Full<Bytes>> {
    let found = decoded(name).and_then(|name| Readiness::of_instance(&shown.status, &name));
    match found {
        Some(readiness) => ready(&readiness),
        None => text(StatusCode::NOT_FOUND, "there is no such instance\n"),
    }
}

fn version(shown: &Shown) -> Response<Full<Bytes>> {
    let version = json!({
        "version": shown.status.version,
        "commit": build::COMMIT,
        "rust_version": build::RUST_VERSION,
        "contract_generations": SERVED_GENERATIONS,
    });
    as_json(StatusCode::OK, &version)
}

/// Field failure T54: a scraper refuses what does not say its format.
fn metrics(shown: &Shown) -> Response<Full<Bytes>> {
    match exposition::write(shown) {
        Ok(written) => respond(StatusCode::OK, METRICS, written.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

/// A part of a path: `%` and two digits are a byte. `None`: that makes no text.
fn decoded(part: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(part.len()), part.as_bytes());
    while let Some((byte, more)) = rest.split_first() {
        let digits = (*byte == b'%').then(|| more.split_at_checked(2)).flatten();
        let coded = digits.and_then(|(digits, more)| {
            let digits = str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
            Some((u8::from_str_radix(digits, 16).ok()?, more))
        });
        let (byte, more) = coded.unwrap_or((*byte, more));
        bytes.push(byte);
        rest = more;
    }
    String::from_utf8(bytes).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_are_decoded() {
        for (part, name) in [
            ("node-1", Some("node-1")),
            ("node%201", Some("node 1")),
            ("n%C3%B6rd", Some("nörd")),
            ("a%2Fb%", Some("a/b%")),
            ("%+1", Some("%+1")),
            ("%zz", Some("%zz")),
            ("%ff", None),
        ] {
            assert_eq!(decoded(part).as_deref(), name, "{part}");
        }
    }
}
