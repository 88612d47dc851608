//! The coprocessors' bucket: objects in memory, over HTTP with connections that stay.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy::primitives::B256;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};
use world::{
    Error, Result,
    ministack::{Bucket, UNCOMPRESSED},
    request::Ciphertext,
};

/// Different objects. Requests share them: ten thousand of their own would fill the memory.
const OBJECTS: usize = 16;

/// The server. Dropping it closes it.
#[derive(Debug)]
pub struct Store {
    port: u16,
    digests: Vec<B256>,
    gets: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl Store {
    /// With objects of `size` bytes.
    pub async fn start(size: usize) -> Result<Self> {
        let failed = |e| Error::Io("store".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let object = || Ciphertext::random(0, size);
        let objects: Vec<Ciphertext> = std::iter::repeat_with(object).take(OBJECTS).collect();
        let digests = objects.iter().map(|object| object.digest).collect();
        let by_path =
            |object: Ciphertext| (format!("/ct128/{:x}", object.digest), Bytes::from(object.bytes));
        let by_path: Arc<HashMap<String, Bytes>> =
            Arc::new(objects.into_iter().map(by_path).collect());
        let gets = Arc::new(AtomicU64::new(0));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, by_path, Arc::clone(&gets)));
        Ok(Self { port, digests, gets, _serving: serving })
    }

    pub fn bucket(&self) -> Result<Bucket> {
        Bucket::new(format!("http://127.0.0.1:{}/ct128", self.port))
    }

    /// Of what it has.
    pub fn digests(&self) -> &[B256] {
        &self.digests
    }

    /// How many were fetched.
    pub fn gets(&self) -> u64 {
        self.gets.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, objects: Arc<HashMap<String, Bytes>>, gets: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                // Small answers must not wait for each other.
                let _slower = stream.set_nodelay(true);
                let (objects, gets) = (Arc::clone(&objects), Arc::clone(&gets));
                let answer = service_fn(move |request: Request<Incoming>| {
                    let object = objects.get(request.uri().path()).cloned();
                    gets.fetch_add(1, Ordering::Relaxed);
                    async move { Ok::<_, Infallible>(answer(object)) }
                });
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    let serving = http.serve_connection(TokioIo::new(stream), answer);
                    // The client may leave at any moment.
                    let _left = serving.await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

fn answer(object: Option<Bytes>) -> Response<Full<Bytes>> {
    let status = if object.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let mut response = Response::new(Full::new(object.unwrap_or_default()));
    *response.status_mut() = status;
    let format = hyper::header::HeaderValue::from_static(UNCOMPRESSED);
    response.headers_mut().insert("x-amz-meta-ct-format", format);
    response
}
