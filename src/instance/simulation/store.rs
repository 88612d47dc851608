//! The coprocessors' buckets of a simulated world, under the real downloads; and what they attest.

use std::{sync::Arc, time::Duration};

use alloy::{primitives::keccak256, signers::SignerSync as _};
use reqwest::{Body, Method, Response};
use serde_json::json;
use tokio::time::sleep;
use tonic::codegen::http;
use url::Url;

use super::{
    asks::KEY_ID,
    deployment::{COPROCESSORS, Coprocessor},
    requests::COMPRESSED,
    world::{Life, WorldState},
};
use crate::{
    contracts::abi::Generation,
    domain::{B256, Bytes, U256},
    flow::ciphertexts::HttpCall,
};

/// An object as a bucket shows it.
struct Object {
    body: Bytes,
    /// A header that names its serialisation; empty: none.
    label: &'static str,
    attestation: Option<String>,
}

impl Object {
    fn response(self) -> Response {
        let Self { body, label, attestation } = self;
        let mut response = http::Response::builder().status(200);
        if !label.is_empty() {
            response = response.header("x-amz-meta-ct-format", label);
        }
        if let Some(attestation) = attestation {
            response = response.header("x-amz-meta-ct-attestation", attestation);
        }
        response.body(Body::from(body.0)).unwrap().into()
    }
}

fn response(status: u16, body: impl Into<Body>) -> Response {
    http::Response::builder().status(status).body(body.into()).unwrap().into()
}

/// A response that is cut off.
fn cut() -> reqwest::Result<Response> {
    response(500, "").error_for_status()
}

/// The network of this life.
pub(super) fn network(life: &Life) -> HttpCall {
    let life = life.clone();
    Arc::new(move |method: Method, url: Url, _| {
        let life = life.clone();
        Box::pin(async move {
            life.takes(20).await;
            let (answer, note, pause) = answer(&life, &url);
            life.world
                .say(format_args!("store: {method} {} {note}", url.host_str().unwrap_or("?")));
            sleep(pause).await;
            life.death_point().await;
            answer
        })
    })
}

fn answer(life: &Life, url: &Url) -> (reqwest::Result<Response>, &'static str, Duration) {
    let mut state = life.world.state();
    let Some(found) = state.object(url) else {
        return (Ok(response(404, "")), "missing", Duration::ZERO);
    };
    let quick = state.millis(50);
    let rate = state.plan.faults.store;
    if !state.fault(rate) {
        return (Ok(found.response()), "there", quick);
    }
    match state.dice.u8(..7) {
        0 => (Ok(response(404, "")), "not yet there", quick),
        1 => (Ok(response(503, "slow down")), "busy", quick),
        2 => (Ok(response(403, "")), "denied", quick),
        3 => (Ok(response(200, found.body.0.slice(1..))), "other bytes", quick),
        4 => (cut(), "cut", quick),
        5 => (Ok(found.response()), "late", state.millis(8000)),
        _ => (Ok(found.response()), "silent", Duration::from_mins(10)),
    }
}

impl WorldState {
    /// The object at this address. Objects are named by the digest, from G14 on by the handle too.
    fn object(&mut self, url: &Url) -> Option<Object> {
        let coprocessor = COPROCESSORS.into_iter().find(|one| {
            Url::parse(one.bucket()).is_ok_and(|bucket| bucket.host_str() == url.host_str())
        })?;
        let generation = self.chain.generation(self.chain.height());
        let names: Vec<&str> = url.path_segments()?.skip(1).collect();
        let is_prefixed = generation >= Generation::Head || coprocessor != COPROCESSORS[1];
        let name = match (&names[..], is_prefixed) {
            ([name], _) | (["ct128", name, "1"], true) | ([name, "1"], false) => *name,
            _ => return None,
        };
        let name: B256 = name.parse().ok()?;
        let by_handle = names.len() > 1 && generation >= Generation::G14;
        let (handle, digest) = self.catalogue.digests.iter().find(|(handle, digest)| {
            if by_handle { **handle == name } else { names.len() == 1 && **digest == name }
        })?;
        let (handle, digest) = (*handle, *digest);
        let body = self.catalogue.ciphertexts.get(&digest)?.clone();
        // The product must not rely on the header: objects of v0.7 have none, others are wrong.
        let label = *self.dice.choice(&["", "compressed_on_cpu", "uncompressed_on_gpu"]).unwrap();
        let attested = if self.plan.attests_falsely && coprocessor == COPROCESSORS[2] {
            self.record_fault("attestation");
            keccak256(digest)
        } else {
            digest
        };
        let attestation = (generation >= Generation::G14)
            .then(|| attestation(coprocessor, handle, attested, is_compressed(&body)));
        Some(Object { body, label, attestation })
    }
}

/// Whether a ciphertext says that it is compressed.
pub(super) fn is_compressed(body: &[u8]) -> bool {
    body.windows(COMPRESSED.len()).any(|is| is == COMPRESSED.as_bytes())
}

/// What a coprocessor attests about a ciphertext.
fn attestation(of: Coprocessor, handle: B256, digest: B256, is_compressed: bool) -> String {
    let regular = keccak256(handle);
    let (number, name) =
        if is_compressed { (11, "compressed_on_cpu") } else { (10, "uncompressed_on_cpu") };
    let context = U256::ONE.to_be_bytes::<32>();
    let parts: [&[u8]; 8] = [
        b"FHEVMCTA",
        &[1],
        &handle[..],
        &KEY_ID.to_be_bytes::<32>(),
        &context,
        &regular[..],
        &digest[..],
        &[number],
    ];
    let key = of.key();
    let signature = key.sign_hash_sync(&keccak256(parts.concat())).unwrap();
    json!({
        "version": 1, "key_id": KEY_ID, "ciphertext_digest": regular,
        "sns_ciphertext_digest": digest, "format": name, "signer": key.address(),
        "signature": alloy::hex::encode(signature.as_bytes()),
    })
    .to_string()
}
