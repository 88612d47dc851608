//! Calls to one node, over HTTP or WebSocket, each with a bound on its answer.
//!
//! | | http | WebSocket |
//! |---|---|---|
//! | a call | one request | one message; answers are matched by id |
//! | several calls | a batch, if the node accepts that | separate messages: each may go to another machine |
//! | an answer above its bound | not read further | dropped; above the largest bound the connection ends |

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{sync::watch, time::timeout};

use super::{
    endpoint::{self, Endpoint},
    exchange_error::ExchangeError,
    head::RawHead,
    http::Http,
    message::{self, Message, NO_PARAMETERS, RpcResponse},
    response_limits,
    socket::{self, Socket, SocketHandle},
};
use crate::chain::{quirks, rpc_error::RpcError};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A connected node. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    endpoint: Arc<Endpoint>,
    transport: ClientTransport,
    ids: Arc<AtomicU64>,
}

#[derive(Clone)]
enum ClientTransport {
    Http(Http),
    Socket(SocketHandle),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.endpoint).finish()
    }
}

/// A batch failed.
#[derive(Debug)]
pub(super) struct BatchError {
    pub error: RpcError,
    /// The failure may be about batches: separate calls may succeed.
    pub may_call_separately: bool,
}

/// A new connection to a node.
pub(super) enum Connected {
    Http(Client),
    Socket { client: Client, heads: watch::Receiver<Option<RawHead>>, socket: Box<Socket> },
}

/// Connects to the node at this endpoint.
pub(super) async fn connect(endpoint: &Arc<Endpoint>) -> Result<Connected, RpcError> {
    let http = match endpoint.transport() {
        endpoint::EndpointTransport::Network { tls, .. } if endpoint.is_websocket() => {
            return connect_socket(endpoint, tls).await;
        }
        endpoint::EndpointTransport::Network { http, .. } => {
            let (url, room) = (endpoint.url().clone(), endpoint.budget().clone());
            Http::Network { client: http.clone(), url, room }
        }
        endpoint::EndpointTransport::Custom(carrier) => Http::Custom(carrier.clone()),
    };
    Ok(Connected::Http(Client::new(endpoint, ClientTransport::Http(http))))
}

async fn connect_socket(
    endpoint: &Arc<Endpoint>,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Connected, RpcError> {
    let Ok(opened) = timeout(CONNECT_DEADLINE, socket::open(endpoint, tls)).await else {
        let what = format!("no connection within {CONNECT_DEADLINE:?}");
        return Err(endpoint.rpc_error(ExchangeError::NoAnswer(what)));
    };
    let (line, heads, socket) =
        opened.map_err(|error| endpoint.rpc_error(error.exchange_error()))?;
    let client = Client::new(endpoint, ClientTransport::Socket(line));
    Ok(Connected::Socket { client, heads, socket: Box::new(socket) })
}

impl Client {
    fn new(endpoint: &Arc<Endpoint>, transport: ClientTransport) -> Self {
        Self { endpoint: endpoint.clone(), transport, ids: Arc::default() }
    }

    /// Whether this transport supports batches.
    pub(super) fn supports_batches(&self) -> bool {
        matches!(self.transport, ClientTransport::Http(_))
    }

    pub(super) async fn call_without_params<A: DeserializeOwned>(
        &self,
        method: &str,
    ) -> Result<A, RpcError> {
        self.call(method, &NO_PARAMETERS).await
    }

    /// One call. A result of `null` decodes as `None` where the type allows it.
    pub(super) async fn call<A: DeserializeOwned>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<A, RpcError> {
        let (id, question) = self.encode_call(method, params)?;
        let bound = response_limits::largest_response(method);
        let exchanged = match &self.transport {
            ClientTransport::Http(http) => http.exchange(question, bound).await,
            ClientTransport::Socket(line) => line.exchange(id, question, bound).await,
        };
        let body = exchanged.map_err(|error| self.endpoint.rpc_error(error))?;
        let mut answers = match message::read(body.bytes()) {
            Ok(Message::Single(answer)) => vec![answer],
            Ok(Message::Batch(answers)) => answers,
            Ok(Message::Notification(_)) => Vec::new(),
            Err(what) => return Err(self.endpoint.unreadable(&what)),
        };
        // An error object may have no id: the node could not read that far.
        answers.retain(|answer| {
            answer.id == Some(id) || (answer.id.is_none() && answer.result.is_err())
        });
        match answers.pop() {
            Some(RpcResponse { result: Ok(result), .. }) => self.endpoint.parse(result),
            Some(RpcResponse { result: Err(refused), .. }) => {
                Err(self.endpoint.error_from_object(refused))
            }
            None => Err(self.endpoint.unreadable("the answer is to another question")),
        }
    }

    /// A batch of calls over HTTP; the results in order. Each may fail separately. Nothing but the message is
    /// kept while the node is waited for.
    pub(super) async fn call_batch<P: Serialize>(
        &self,
        calls: &[(&str, P)],
    ) -> Result<Vec<Result<Box<RawValue>, RpcError>>, BatchError> {
        let failed = |error| BatchError { error, may_call_separately: false };
        let ClientTransport::Http(http) = &self.transport else {
            let what = "a WebSocket takes no arrays of calls";
            return Err(BatchError {
                error: self.endpoint.unreadable(what),
                may_call_separately: true,
            });
        };
        let mut ids = Vec::with_capacity(calls.len());
        let mut questions = message::BatchText::default();
        for (method, params) in calls {
            let (id, question) = self.encode_call(method, params).map_err(failed)?;
            ids.push(id);
            questions.push(&question);
        }
        let bound =
            response_limits::largest_batch_response(calls.iter().map(|(method, _)| *method));
        let body = match http.exchange(questions.into_text(), bound).await {
            Ok(body) => body,
            Err(unanswered) => {
                let maybe_apart = match &unanswered {
                    ExchangeError::Status(status) => quirks::may_reject_batches(*status),
                    ExchangeError::NoAnswer(_)
                    | ExchangeError::TooLarge(_)
                    | ExchangeError::RetryLater { .. } => false,
                };
                return Err(BatchError {
                    error: self.endpoint.rpc_error(unanswered),
                    may_call_separately: maybe_apart,
                });
            }
        };
        let answers = match message::read(body.bytes()) {
            Ok(Message::Batch(answers)) => answers,
            Ok(Message::Single(answer)) => vec![answer],
            Ok(Message::Notification(_)) => Vec::new(),
            Err(what) => {
                let error = self.endpoint.unreadable(&what);
                return Err(BatchError { error, may_call_separately: true });
            }
        };
        let mut results: Vec<Option<Result<Box<RawValue>, RpcError>>> =
            ids.iter().map(|_| None).collect();
        let mut nameless = None;
        for RpcResponse { id, result: one } in answers {
            let one = one
                .map(ToOwned::to_owned)
                .map_err(|refused| self.endpoint.error_from_object(refused));
            match id.and_then(|id| ids.iter().position(|own| *own == id)) {
                Some(place) => results[place] = Some(one),
                None => nameless = nameless.or(one.err()),
            }
        }
        let whole: Option<Vec<_>> = results.into_iter().collect();
        whole.ok_or_else(|| {
            let error = nameless
                .unwrap_or_else(|| self.endpoint.unreadable("a batch was answered in part"));
            BatchError { may_call_separately: !error.is_busy(), error }
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn encode_call(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<(u64, String), RpcError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let question = message::encode_call(id, method, params);
        Ok((id, question.map_err(|error| self.endpoint.unreadable(&error.to_string()))?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinSet,
    };

    use super::*;
    use crate::net::{
        proxy::{self, Proxies},
        tls::TlsRoots,
    };

    /// A connected node in place of the network.
    pub(in crate::chain::provider) async fn client_of(endpoint: Endpoint) -> Client {
        match connect(&Arc::new(endpoint)).await {
            Ok(Connected::Http(client)) => client,
            Ok(Connected::Socket { .. }) | Err(_) => panic!("it is no network"),
        }
    }

    /// Calls a node at this URL through this proxy.
    async fn ask(url: &str, proxy: &str) -> RpcError {
        let way = proxy::parse(proxy).ok();
        let proxies = Proxies::new(way.clone(), way, "127.0.0.1");
        let tls = TlsRoots::load(None).unwrap().client_config();
        let http = proxies.apply_to(reqwest::Client::builder());
        let http = http.tls_backend_preconfigured(tls.clone()).build().unwrap();
        let endpoint =
            Endpoint::new(url.parse().unwrap(), Arc::new(tls), http).with_proxies(proxies);
        match connect(&Arc::new(endpoint)).await {
            Ok(Connected::Http(client)) => {
                client.call_without_params::<String>("eth_chainId").await.unwrap_err()
            }
            Ok(Connected::Socket { .. }) => panic!("there is no such host"),
            Err(error) => error,
        }
    }

    /// A server without TLS, as behind a wrong port.
    #[tokio::test]
    async fn c4_a_node_that_speaks_no_tls_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        for url in [format!("https://{there}"), format!("wss://{there}")] {
            let said = ask(&url, "127.0.0.1:1").await.to_string();
            assert!(said.contains("does not speak TLS"), "{said}");
        }
    }

    /// A failure of the proxy is not reported as the node's, whether it is down, refuses, or answers
    /// something of its own.
    #[tokio::test]
    async fn c5_over_http_the_proxy_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let away = listener.local_addr().unwrap().to_string();
        drop(listener);
        for url in ["http://node.example", "https://node.example", "ws://node.example"] {
            let said = ask(url, &away).await.to_string();
            assert!(said.contains(&away) && said.contains("proxy"), "{said}");
        }
        for (status, word) in [("407 Who", "user name"), ("502 Bad", "502"), ("403 No", "403")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let there = listener.local_addr().unwrap().to_string();
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut seen = [0; 4096];
                    let _ = stream.read(&mut seen).await;
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
            let said = ask("http://node.example", &there).await.to_string();
            assert!(said.contains(&format!("proxy {there}")) && said.contains(word), "{said}");
            let said = ask("https://node.example", &there).await.to_string();
            assert!(said.contains(&format!("proxy {there}")), "{said}");
        }
    }
}
