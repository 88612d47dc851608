//! The responses of the listener. Pure: a path and the published state make a response. No response
//! waits for anything that an instance depends on.
//!
//! A name in a path is an instance's name as in `/status`. `?since=` of `/history` and `/errors`
//! takes Unix milliseconds, so that a poller asks only for what is new.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::page;
use crate::{
    admin::{
        advice::what_to_do,
        build, exposition,
        history::{Columns, STEP_MS},
        readiness::Readiness,
        snapshot::ProcessSnapshot,
    },
    domain::SERVED_GENERATIONS,
    net::percent,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static(exposition::CONTENT_TYPE);

/// Liveness. Answered under any host name, since the caller decides on a restart.
pub(super) const LIVEZ: &str = "/livez";

/// Any response is enough: an outage of a dependency must not restart the process.
pub(super) fn livez(method: &Method) -> Response<Full<Bytes>> {
    if is_read_only(method) { text(StatusCode::OK, "alive\n") } else { method_not_allowed() }
}

/// For a browser that names another host.
pub(super) fn misdirected() -> Response<Full<Bytes>> {
    text(
        StatusCode::MISDIRECTED_REQUEST,
        "this host name is not allowed: use the listener's address, or allow the name with \
         --listen-name or KMS_CONNECTOR_LISTEN_NAMES\n",
    )
}

fn is_read_only(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn method_not_allowed() -> Response<Full<Bytes>> {
    let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "this listener is read-only\n");
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    refused
}

/// The response to a request for `path` with this query.
#[must_use]
pub fn route(
    method: &Method,
    path: &str,
    query: Option<&str>,
    shown: &ProcessSnapshot,
) -> Response<Full<Bytes>> {
    if !is_read_only(method) {
        return method_not_allowed();
    }
    match path {
        LIVEZ => livez(method),
        "/" => page::with_security_headers(respond(StatusCode::OK, page::HTML, page::content())),
        "/status" => as_json(StatusCode::OK, &status(shown)),
        "/history" => as_json(StatusCode::OK, &history(shown, since(query), None)),
        "/errors" => as_json(StatusCode::OK, &shown.errors.since(since(query))),
        "/readyz" => ready(&Readiness::of(&shown.status)),
        "/version" => version(shown),
        "/metrics" => metrics(shown),
        _ => {
            if let Some(name) = path.strip_prefix("/readyz/") {
                return ready_instance(name, shown);
            }
            let name = path.strip_prefix("/history/").and_then(decode_text);
            let Some(name) = name.filter(|name| shown.histories.iter().any(|(of, _)| of == name))
            else {
                return text(StatusCode::NOT_FOUND, "there is no such page\n");
            };
            as_json(StatusCode::OK, &history(shown, since(query), Some(&name)))
        }
    }
}

fn ready(readiness: &Readiness) -> Response<Full<Bytes>> {
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    as_json(status, readiness)
}

fn ready_instance(name: &str, shown: &ProcessSnapshot) -> Response<Full<Bytes>> {
    let found = decode_text(name).and_then(|name| Readiness::set_instance(&shown.status, &name));
    match found {
        Some(readiness) => ready(&readiness),
        None => text(StatusCode::NOT_FOUND, "there is no such instance\n"),
    }
}

fn version(shown: &ProcessSnapshot) -> Response<Full<Bytes>> {
    let version = json!({
        "version": shown.status.version,
        "commit": build::COMMIT,
        "rust_version": build::RUST_VERSION,
        "contract_generations": SERVED_GENERATIONS,
    });
    as_json(StatusCode::OK, &version)
}

/// Field failure T54: a scraper refuses a response without the format in its content type.
fn metrics(shown: &ProcessSnapshot) -> Response<Full<Bytes>> {
    match exposition::render(shown) {
        Ok(written) => respond(StatusCode::OK, METRICS, written.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

/// The status as the command line prints it, plus what to do and the time.
fn status(shown: &ProcessSnapshot) -> Value {
    let mut status = json!(shown.status);
    status["now_ms"] = json!(shown.at_ms);
    for (index, instance) in shown.status.instances.iter().enumerate() {
        status["instances"][index]["what_to_do"] = json!(what_to_do(instance));
    }
    status
}

/// The last hours of all instances, or of one.
#[derive(Serialize)]
struct HistoryResponse<'s> {
    step_ms: u64,
    instances: Vec<InstanceHistory<'s>>,
}

#[derive(Serialize)]
struct InstanceHistory<'s> {
    name: &'s str,
    steps: Columns,
}

fn history<'s>(
    shown: &'s ProcessSnapshot,
    since_ms: u64,
    only: Option<&str>,
) -> HistoryResponse<'s> {
    let wanted = shown.histories.iter().filter(|(name, _)| only.is_none_or(|only| only == name));
    let instances =
        wanted.map(|(name, hour)| InstanceHistory { name, steps: hour.since(since_ms) });
    HistoryResponse { step_ms: STEP_MS, instances: instances.collect() }
}

/// The value of `since=`; 0 if it is absent or not a number.
fn since(query: Option<&str>) -> u64 {
    let mut given = query.into_iter().flat_map(|query| query.split('&'));
    given.find_map(|pair| pair.strip_prefix("since=")?.parse().ok()).unwrap_or(0)
}

/// A percent-decoded name. `None`: it is not UTF-8.
fn decode_text(name: &str) -> Option<String> {
    String::from_utf8(percent::decode(name)?).ok()
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
    use crate::{
        admin::{
            history::LastHour,
            status::{Gauges, InstanceState, InstanceStatus, ReloadStatus, Status},
        },
        telemetry::{errors::LastErrors, metrics::Metrics},
    };

    const NOW: u64 = 1_789_401_912_345;

    fn instance(name: &str, state: InstanceState) -> InstanceStatus {
        InstanceStatus {
            name: name.to_owned(),
            file: None,
            state,
            since_ms: NOW - 1_000,
            reason_since_ms: None,
            generation: 1,
            restarts: 0,
            last_error: None,
            last_warnings: Vec::new(),
            reload_failed: None,
            reload_waits: false,
            changing: false,
            config_hash: None,
            chain_id: Some(1),
            decryption: None,
            gateway: None,
            kms_core: None,
            gauges: Gauges::default(),
        }
    }

    fn shown() -> ProcessSnapshot {
        let mut hour = LastHour::default();
        hour.record(NOW - 60_000, &Metrics::new(), None);
        hour.record(NOW, &Metrics::new(), None);
        let parked =
            InstanceState::Parked { why: "no such contract".to_owned(), retry_at_ms: Some(NOW) };
        ProcessSnapshot {
            at_ms: NOW,
            status: Status {
                version: "0.1.0".to_owned(),
                pid: 7,
                started_at_ms: NOW - 60_000,
                listen: None,
                config_dir: None,
                state_dir: None,
                reload: ReloadStatus::default(),
                instances: vec![instance("a b", parked), instance("c", InstanceState::Running)],
            },
            metrics: Vec::new(),
            histories: vec![("a b".to_owned(), hour.clone()), ("c".to_owned(), hour)],
            errors: LastErrors::default(),
        }
    }

    async fn get(path: &str) -> (StatusCode, String) {
        use http_body_util::BodyExt;
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let response = route(&Method::GET, path, query, &shown());
        let (status, body) = (response.status(), response.into_body());
        let bytes = body.collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn get_json(path: &str) -> Value {
        let (status, body) = get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        serde_json::from_str(&body).unwrap()
    }

    #[tokio::test]
    async fn the_status_says_what_to_do() {
        let status = get_json("/status").await;
        assert_eq!(status["now_ms"], NOW);
        assert_eq!(status["instances"][0]["state"], "parked");
        let to_do = status["instances"][0]["what_to_do"][0].as_str().unwrap();
        assert!(to_do.contains("kms-connector restart a b"), "{to_do}");
        assert_eq!(status["instances"][1]["what_to_do"], json!([]));
    }

    #[tokio::test]
    async fn the_history_is_that_of_all_or_of_one() {
        let all = get_json("/history").await;
        assert_eq!(all["instances"].as_array().unwrap().len(), 2);
        assert_eq!(all["instances"][1]["steps"]["at_ms"].as_array().unwrap().len(), 2);
        let one = get_json("/history/a%20b").await;
        assert_eq!(one["instances"][0]["name"], "a b");
        assert_eq!(one["instances"].as_array().unwrap().len(), 1);
        let young = get_json(&format!("/history?x=1&since={}", NOW - 30_000)).await;
        assert_eq!(young["instances"][0]["steps"]["at_ms"].as_array().unwrap().len(), 1);
        for path in ["/history/", "/history/d", "/history/a%2", "/history/%ff", "/historyc"] {
            assert_eq!(get(path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(get_json("/errors").await, json!({"process": [], "instances": {}}));
    }

    #[tokio::test]
    async fn nothing_can_be_changed_through_it() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            for path in ["/", "/status", "/history", "/errors"] {
                let refused = route(&method, path, None, &shown());
                assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
            }
        }
    }
}
