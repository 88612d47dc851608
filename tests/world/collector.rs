//! An OpenTelemetry collector that keeps what it gets: HTTP, protobuf.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode, body::Incoming, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinSet};

use super::{Error, Result};

/// A span with the service that sent it.
#[derive(Clone, Debug)]
pub struct Collected {
    pub service: String,
    pub span: Span,
}

impl Collected {
    /// An attribute's text.
    pub fn text(&self, key: &str) -> Option<&str> {
        let found = self.span.attributes.iter().find(|attribute| attribute.key == key)?;
        let value = found.value.as_ref()?.value.as_ref()?;
        if let Value::StringValue(text) = value { Some(text) } else { None }
    }
}

#[derive(Debug, Default)]
struct Kept {
    spans: Vec<Collected>,
    headers: Vec<HeaderMap>,
}

/// The collector. Dropping it closes it.
#[derive(Debug)]
pub struct Collector {
    port: u16,
    kept: Arc<Mutex<Kept>>,
    _serving: JoinSet<()>,
}

impl Collector {
    pub async fn start() -> Result<Self> {
        let failed = |error| Error::Io("a collector".into(), error);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let kept = Arc::<Mutex<Kept>>::default();
        let (mut serving, keeping) = (JoinSet::new(), kept.clone());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let kept = keeping.clone();
                let answering = service_fn(move |request| take(request, kept.clone()));
                let talking =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), answering);
                connections.spawn(async move { drop(talking.await) });
            }
        });
        Ok(Self { port, kept, _serving: serving })
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Collected> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).spans.clone()
    }

    /// The headers of each batch.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).headers.clone()
    }
}

async fn take(
    request: Request<Incoming>,
    kept: Arc<Mutex<Kept>>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let told = ExportTraceServiceRequest::decode(bytes).ok();
    let mut answer = Response::new(Full::default());
    match told.filter(|_| head.uri.path() == "/v1/traces") {
        Some(told) => {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.headers.push(head.headers);
            for of_resource in told.resource_spans {
                let resource = of_resource.resource.unwrap_or_default();
                let name = resource.attributes.iter().find(|known| known.key == "service.name");
                let name = name.and_then(|name| name.value.clone()?.value);
                let Some(Value::StringValue(service)) = name else { continue };
                for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans)
                {
                    kept.spans.push(Collected { service: service.clone(), span });
                }
            }
        }
        None => *answer.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(answer)
}
