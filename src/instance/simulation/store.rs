//! The coprocessors' buckets of a simulated world, under the real downloads.

use std::{sync::Arc, time::Duration};

use reqwest::{Body, Response};
use tokio::time::sleep;
use tonic::codegen::http;
use url::Url;

use super::world::Life;
use crate::{
    domain::{B256, Bytes},
    flow::ciphertexts::HttpCall,
};

fn response(status: u16, body: impl Into<Body>) -> Response {
    http::Response::builder().status(status).body(body.into()).unwrap().into()
}

/// An object, with a header that names its serialisation, if `label` is not empty.
fn object(body: Bytes, label: &'static str) -> Response {
    let mut response = http::Response::builder().status(200);
    if !label.is_empty() {
        response = response.header("x-amz-meta-ct-format", label);
    }
    response.body(Body::from(body.0)).unwrap().into()
}

/// A response that is cut off.
fn cut() -> reqwest::Result<Response> {
    response(500, "").error_for_status()
}

/// The network of this life.
pub(super) fn network(life: &Life) -> HttpCall {
    let life = life.clone();
    Arc::new(move |_, url: Url, _| {
        let life = life.clone();
        Box::pin(async move {
            life.takes(20).await;
            let (answer, note, pause) = answer(&life, &url);
            life.world.say(format_args!("store: {} {note}", url.host_str().unwrap_or("?")));
            sleep(pause).await;
            life.death_point().await;
            answer
        })
    })
}

fn answer(life: &Life, url: &Url) -> (reqwest::Result<Response>, &'static str, Duration) {
    let mut state = life.world.state();
    let name = url.path().rsplit('/').next().unwrap_or_default();
    let digest: B256 = name.parse().unwrap();
    let body = state.catalogue.ciphertexts.get(&digest).cloned();
    let Some(body) = body else { return (Ok(response(404, "")), "missing", Duration::ZERO) };
    let quick = state.millis(50);
    let rate = state.plan.faults.store;
    // The product must not rely on the header: objects of v0.7 have none, others are wrong.
    let label = *state.dice.choice(&["", "compressed_on_cpu", "uncompressed_on_gpu"]).unwrap();
    if !state.fault(rate) {
        return (Ok(object(body, label)), "there", quick);
    }
    match state.dice.u8(..7) {
        0 => (Ok(response(404, "")), "not yet there", quick),
        1 => (Ok(response(503, "slow down")), "busy", quick),
        2 => (Ok(response(403, "")), "denied", quick),
        3 => (Ok(response(200, body.0.slice(1..))), "other bytes", quick),
        4 => (cut(), "cut", quick),
        5 => (Ok(object(body, label)), "late", state.millis(8000)),
        _ => (Ok(object(body, label)), "silent", Duration::from_mins(10)),
    }
}
