//! Calls of one node, over http or over a WebSocket, each with a bound on its answer.
//!
//! | | http | WebSocket |
//! |---|---|---|
//! | a call | one request | one message; answers find their call by its id |
//! | several calls in one message | an array, where the node takes that | never: some nodes answer each message by another machine, and arrays are rarer there |
//! | an answer over its bound | not read further | dropped; over the largest bound the connection ends |

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

use super::{
    RpcError, bounds,
    endpoint::Endpoint,
    http::Http,
    message::{self, Answer, Message, NO_PARAMETERS},
    quirks,
    socket::Line,
};

/// A node that calls can be made of. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    endpoint: Arc<Endpoint>,
    way: Way,
    ids: Arc<AtomicU64>,
}

#[derive(Clone)]
enum Way {
    Http(Http),
    Socket(Line),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.endpoint).finish()
    }
}

/// Why a message was not answered in a way that can be read. No secret is taken out of it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// No connection, or no answer on it.
    Lost(String),
    /// An HTTP status, and nothing to go with it.
    Status(u16),
    /// An HTTP status that says to come back later, when, and the node's words with it.
    Later { status: u16, back_in: Option<Duration>, said: Option<String> },
    /// More than so many bytes.
    TooLarge(usize),
}

/// Several calls in one message came to nothing.
#[derive(Debug)]
pub(super) struct NotTogether {
    pub error: RpcError,
    /// It may be about the message, and each call by itself may be answered.
    pub maybe_apart: bool,
}

impl Client {
    pub(super) fn over_http(endpoint: Arc<Endpoint>, http: Http) -> Self {
        Self { endpoint, way: Way::Http(http), ids: Arc::default() }
    }

    pub(super) fn over_socket(endpoint: Arc<Endpoint>, line: Line) -> Self {
        Self { endpoint, way: Way::Socket(line), ids: Arc::default() }
    }

    /// Whether several calls can go in one message, as far as the way goes.
    pub(super) fn has_arrays(&self) -> bool {
        matches!(self.way, Way::Http(_))
    }

    /// One call without parameters.
    pub(super) async fn ask_plainly<A: DeserializeOwned>(
        &self,
        method: &str,
    ) -> Result<A, RpcError> {
        self.ask(method, &NO_PARAMETERS).await
    }

    /// One call. `null` is read as an absent value, where the answer may be one.
    pub(super) async fn ask<A: DeserializeOwned>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<A, RpcError> {
        let (id, question) = self.question(method, params)?;
        let bound = bounds::of(method);
        let exchanged = match &self.way {
            Way::Http(http) => http.exchange(question, bound).await,
            Way::Socket(line) => line.exchange(id, question, bound).await,
        };
        let body = exchanged.map_err(|error| self.endpoint.explain(error))?;
        let mut answers = match message::read(body.bytes()) {
            Ok(Message::One(answer)) => vec![answer],
            Ok(Message::Many(answers)) => answers,
            Ok(Message::Notice(_)) => Vec::new(),
            Err(what) => return Err(self.endpoint.unreadable(&what)),
        };
        // An error may have no id: the node could not read the question that far.
        answers.retain(|answer| {
            answer.id == Some(id) || (answer.id.is_none() && answer.said.is_err())
        });
        match answers.pop() {
            Some(Answer { said: Ok(result), .. }) => self.endpoint.parse(result),
            Some(Answer { said: Err(refused), .. }) => Err(self.endpoint.refused(refused)),
            None => Err(self.endpoint.unreadable("the answer is to another question")),
        }
    }

    /// Several calls in one message, over http: what each came to, in their order. Each may fail by
    /// itself.
    pub(super) async fn ask_together<P: Serialize>(
        &self,
        calls: &[(&str, P)],
    ) -> Result<Vec<Result<Box<RawValue>, RpcError>>, NotTogether> {
        let failed = |error| NotTogether { error, maybe_apart: false };
        let Way::Http(http) = &self.way else {
            let what = "a WebSocket takes no arrays of calls";
            return Err(NotTogether { error: self.endpoint.unreadable(what), maybe_apart: true });
        };
        let (mut ids, mut questions) = (Vec::new(), Vec::new());
        for (method, params) in calls {
            let (id, question) = self.question(method, params).map_err(failed)?;
            ids.push(id);
            questions.push(question);
        }
        let bound = bounds::of_all(calls.iter().map(|(method, _)| *method));
        let body = match http.exchange(message::together(&questions), bound).await {
            Ok(body) => body,
            Err(unanswered) => {
                let maybe_apart = match &unanswered {
                    Unanswered::Status(status) => quirks::may_dislike_arrays(*status),
                    Unanswered::Lost(_) | Unanswered::TooLarge(_) | Unanswered::Later { .. } => {
                        false
                    }
                };
                return Err(NotTogether { error: self.endpoint.explain(unanswered), maybe_apart });
            }
        };
        let answers = match message::read(body.bytes()) {
            Ok(Message::Many(answers)) => answers,
            Ok(Message::One(answer)) => vec![answer],
            Ok(Message::Notice(_)) => Vec::new(),
            Err(what) => {
                let error = self.endpoint.unreadable(&what);
                return Err(NotTogether { error, maybe_apart: true });
            }
        };
        let mut said: Vec<Option<Result<Box<RawValue>, RpcError>>> =
            ids.iter().map(|_| None).collect();
        let mut nameless = None;
        for Answer { id, said: one } in answers {
            let one = one.map(ToOwned::to_owned).map_err(|refused| self.endpoint.refused(refused));
            match id.and_then(|id| ids.iter().position(|own| *own == id)) {
                Some(place) => said[place] = Some(one),
                None => nameless = nameless.or(one.err()),
            }
        }
        let whole: Option<Vec<_>> = said.into_iter().collect();
        whole.ok_or_else(|| {
            let error = nameless
                .unwrap_or_else(|| self.endpoint.unreadable("a batch was answered in part"));
            NotTogether { maybe_apart: !error.is_busy(), error }
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn question(&self, method: &str, params: &impl Serialize) -> Result<(u64, String), RpcError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let question = message::question(id, method, params);
        Ok((id, question.map_err(|error| self.endpoint.unreadable(&error.to_string()))?))
    }
}
