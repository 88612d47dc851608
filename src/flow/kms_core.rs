//! Asks the KMS Core once, polls it for the answer, and accepts only answers whose signature it
//! checked.
//!
//! ```text
//!            ask (ciphertexts)                 poll, poll, …
//! request ──────────────────────> the Core ──────────────────> answer, signature checked
//!              AlreadyExists: fine     │ NotFound
//!              Aborted: a poll tells   └────────> forgotten: ask again
//! ```
//!
//! The Core keeps its requests in memory and knows them by id alone. So asking twice is harmless, and a
//! restart of the Core forgets everything. Only the caller can ask again, because only it can fetch the
//! ciphertexts again: their bytes are dropped as soon as they are encoded.
//!
//! A poll is a long poll: the Core holds it up to 60 s. Held polls must not keep asks waiting for one of
//! a connection's streams (a proxy in front of the Core allows 100 or 128). So asks have a connection of
//! their own, and polls are spread over several, opened as needed.
//!
//! A Core that says it is busy is asked at a slower pace for a while ([`rate_limiter`]). A Core that cannot be
//! reached costs one health check a second, and not all ciphertexts of every request again.
//!
//! Every call has a deadline, and dropping any future here is safe: if asked again, the Core says that
//! it knows the request. This module logs nothing; the caller that decides on an error logs it.

mod results;
mod key_operations;
mod answer_error;
pub mod codec;
mod endpoint;
mod channel;
mod timely_body;
mod channel_pool;
pub mod rate_limiter;
pub mod proto;
mod bounded_reply;
pub mod eip712;
pub mod signature;
pub mod status;
mod transport;
pub mod wire;
#[cfg(test)]
pub(crate) mod fake_core;

use std::{sync::Arc, time::Duration};

use prost::Message;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

pub use self::{
    answer_error::{AnswerError, WrongSigner, WrongSignerCause},
    key_operations::{CoreAge, KeyAsk, LifecycleEnd, Supplement, Telling},
    results::{AskResult, CoreError, CoreHealth, PollResult, PollingEnd},
    timely_body::SendBefore,
    transport::{EndpointError, GrpcService, Transport},
};
use self::{
    bounded_reply::ReplyLimit,
    endpoint::{CoreEndpoint, NoReply, timeout_error, unreachable_error},
    proto::kms::v1,
    rate_limiter::AskPermit,
    status::{CallKind, StatusMeaning},
    wire::{ExtraDataMeaning, NamedContext},
};
use crate::{
    dice::Dice,
    domain::{
        Address, Answer, Ciphertext, CoreAddress, Hold, HoldReason, Operation, Request,
        SignedResult, SigningDomain, U256, UntrustedText,
    },
    telemetry::{metrics::Metrics, trace_context},
    time::backoff::Backoff,
};

/// The largest message sent. Cores accept 100 MiB by default, more if configured; the largest legal
/// request has about 64 MiB of ciphertexts.
pub const MESSAGE_LIMIT: usize = 256 * 1024 * 1024;

/// The first pause between two polls; doubled up to the caller's ceiling.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Deadlines. The defaults are meant to be used.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Deadline of an ask: the time to send up to 64 MiB.
    pub ask: Duration,
    /// Deadline of a poll: longer than the 60 s for which the Core holds it.
    pub poll: Duration,
    /// Deadline of a poll for a key operation: longer than the 300 s for which some Cores hold it.
    pub key_poll: Duration,
    /// Deadline of the poll that resolves an `Aborted`. A Core that does not know the id says so at
    /// once; one that holds the poll knows it.
    pub probe: Duration,
    /// Deadline of the health check.
    pub health: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ask: Duration::from_mins(1),
            poll: Duration::from_secs(65),
            key_poll: Duration::from_secs(310),
            probe: Duration::from_secs(2),
            health: Duration::from_secs(5),
        }
    }
}

/// What an answer must be signed over, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub extra_data: ExtraDataMeaning,
    /// The signers registered for this node in the request's context. If there are none, the signature
    /// only has to recover to some address.
    pub signers: &'a [Address],
    /// Not set: only whether there is an answer is of interest, and it is not looked at. It is empty then.
    pub is_checked: bool,
}

/// The client of one KMS Core for one contract. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct KmsCore {
    endpoint: CoreEndpoint,
    domain: Arc<SigningDomain>,
    options: Options,
    dice: Dice,
    metrics: Metrics,
}

impl KmsCore {
    /// Creates the client; it connects at its first call. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(
        transport: Transport,
        domain: SigningDomain,
        options: Options,
        metrics: Metrics,
    ) -> Self {
        let endpoint = CoreEndpoint::new(transport, options.health, metrics.clone());
        let dice = Dice::default();
        Self { endpoint, domain: Arc::new(domain), options, dice, metrics }
    }

    /// Its pauses are by these dice.
    #[must_use]
    pub fn rolling(self, dice: Dice) -> Self {
        Self { dice, ..self }
    }

    /// The same Core, for requests of a contract with this domain. The connections are shared.
    #[must_use]
    pub fn under(&self, domain: SigningDomain) -> Self {
        Self { domain: Arc::new(domain), ..self.clone() }
    }

    /// Names the endpoint, in messages and in the journal.
    #[must_use]
    pub fn address(&self) -> &CoreAddress {
        self.endpoint.address()
    }

    /// Waits for the turn to ask once: at once, unless the Core said that it is busy. If the last ask
    /// got no answer, the Core's health is checked first.
    pub async fn acquire_ask_permit(&self) -> Result<AskPermit, CoreError> {
        self.endpoint.acquire_ask_permit().await
    }

    /// Whether the Core answers now: then a failed call says something about one request only.
    pub async fn is_answering(&self) -> bool {
        self.endpoint.is_answering().await
    }

    /// Asks the Core for its health. An answer of any kind makes it reachable.
    pub async fn health(&self) -> Result<CoreHealth, CoreError> {
        self.endpoint.health().await
    }

    /// Whether the server has the calls of a KMS Core. Asks for the result of a request that nobody made; a
    /// Core that knows no such request says so.
    pub async fn knows_decryptions(&self) -> Result<bool, CoreError> {
        let (mut client, _place) = self.endpoint.poll_client();
        let asking = client.get_public_decryption_result(traced(wire::request_id(U256::MAX)));
        match self.endpoint.call("get_public_decryption_result", self.options.probe, asking).await {
            // Cores hold a poll of a request that they know.
            Ok(_) | Err(NoReply::TimedOut) => Ok(true),
            Err(NoReply::Status(status)) if status.code() == Code::Unimplemented => Ok(false),
            Err(NoReply::Status(status)) => match status::meaning(CallKind::Poll, &status) {
                StatusMeaning::Unreachable => Err(unreachable_error(&status)),
                StatusMeaning::AlreadyKnown
                | StatusMeaning::Ambiguous
                | StatusMeaning::Pending
                | StatusMeaning::Forgotten
                | StatusMeaning::Lacking
                | StatusMeaning::Busy
                | StatusMeaning::Hold(..) => Ok(true),
            },
        }
    }

    /// Sends the request with all its ciphertexts, in the order of its handles, and the id of the key that
    /// encrypted them, to the Core.
    pub async fn ask(
        &self,
        turn: AskPermit,
        request: &Request,
        extra_data: ExtraDataMeaning,
        (key_id, ciphertexts): (U256, Vec<Ciphertext>),
        before: &SendBefore,
    ) -> Result<AskResult, CoreError> {
        let asked = self.ask_once(request, extra_data, (key_id, ciphertexts), before).await;
        self.endpoint.record_ask(turn, &asked);
        asked
    }

    async fn ask_once(
        &self,
        request: &Request,
        extra_data: ExtraDataMeaning,
        (key_id, ciphertexts): (U256, Vec<Ciphertext>),
        before: &SendBefore,
    ) -> Result<AskResult, CoreError> {
        wire::check(request)?;
        let ciphertexts = wire::typed_ciphertexts(request.handles(), ciphertexts)?;
        let (id, domain) = (request.key.id, &self.domain);
        let mut client = self.endpoint.ask_client();
        let outcome = match &request.operation {
            Operation::PublicDecryption(public) => {
                let message =
                    wire::public_request(id, key_id, public, ciphertexts, domain, extra_data);
                within_limit(&message)?;
                let asking = client.public_decrypt(in_time(message, before));
                self.endpoint.call("public_decrypt", self.options.ask, asking).await
            }
            Operation::UserDecryption(user) => {
                let message = wire::user_request(id, key_id, user, ciphertexts, domain, extra_data);
                within_limit(&message)?;
                let asking = client.user_decrypt(in_time(message, before));
                self.endpoint.call("user_decrypt", self.options.ask, asking).await
            }
            // The caller has ciphertexts, which a key operation does not need.
            Operation::Key(operation) => {
                let ask = KeyAsk { operation, supplement: Supplement::Nothing };
                self.send_key_operation(id, ask).await?
            }
        };
        self.conclude_ask(CallKind::Ask, request, outcome, || {
            let named = extra_data.named_context(request.extra_data());
            lacking(key_id, named, extra_data)
        })
        .await
    }

    /// What the reply to an ask comes to. `lacking`: what the Core may lack of the request.
    async fn conclude_ask(
        &self,
        call: CallKind,
        request: &Request,
        outcome: Result<v1::Empty, NoReply>,
        lacking: impl FnOnce() -> (HoldReason, String),
    ) -> Result<AskResult, CoreError> {
        let status = match outcome {
            Ok(v1::Empty {}) => return Ok(AskResult::Accepted),
            Err(NoReply::TimedOut) => return Err(timeout_error(self.options.ask)),
            Err(NoReply::Status(status)) => status,
        };
        match status::meaning(call, &status) {
            StatusMeaning::AlreadyKnown => Ok(AskResult::AlreadyKnown),
            StatusMeaning::Ambiguous => self.resolve_aborted(request, &status).await,
            StatusMeaning::Lacking => {
                let (reason, what) = lacking();
                Err(CoreError::Held(hold(reason, &what, &status, request)))
            }
            StatusMeaning::Busy => Err(busy_error(&status)),
            StatusMeaning::Hold(reason, what) => {
                Err(CoreError::Held(hold(reason, what, &status, request)))
            }
            StatusMeaning::Unreachable | StatusMeaning::Pending | StatusMeaning::Forgotten => {
                Err(unreachable_error(&status))
            }
        }
    }

    /// Resolves an `Aborted`: does the Core know the request, or refuse it?
    async fn resolve_aborted(
        &self,
        request: &Request,
        aborted: &Status,
    ) -> Result<AskResult, CoreError> {
        let known = match self.fetch_result(request, self.options.probe).await {
            Ok(_) | Err(NoReply::TimedOut) => true,
            Err(NoReply::Status(status)) => match status::meaning(CallKind::Poll, &status) {
                StatusMeaning::Forgotten => false,
                StatusMeaning::Unreachable => return Err(unreachable_error(&status)),
                // "Busy" tells nothing: the next regular poll decides.
                StatusMeaning::AlreadyKnown
                | StatusMeaning::Ambiguous
                | StatusMeaning::Pending
                | StatusMeaning::Lacking
                | StatusMeaning::Busy
                | StatusMeaning::Hold(..) => true,
            },
        };
        if known {
            return Ok(AskResult::AlreadyKnown);
        }
        Err(CoreError::Held(hold(
            HoldReason::CoreRefused,
            "the KMS Core refuses the request, or has no room for it",
            aborted,
            request,
        )))
    }

    /// Polls once. The Core may hold the call for a minute; reaching our own deadline counts as pending.
    pub async fn poll(
        &self,
        request: &Request,
        expected: Expected<'_>,
    ) -> Result<PollResult, CoreError> {
        self.poll_within(self.poll_deadline(request), request, expected).await
    }

    fn poll_deadline(&self, request: &Request) -> Duration {
        let Options { poll, key_poll, .. } = self.options;
        if request.kind().is_key_operation() { key_poll } else { poll }
    }

    /// Polls until there is an answer, the Core turns out not to know the request, or `deadline` has
    /// passed. Pauses grow from 20 ms to `retry_ceiling`. They start again after a poll that the Core
    /// held for longer than the ceiling: such a Core needs no pauses.
    ///
    /// Polling continues while the Core is busy. If it is unreachable, this returns at once: the caller
    /// decides how long that may last.
    pub async fn poll_until_answered(
        &self,
        request: &Request,
        expected: Expected<'_>,
        deadline: Duration,
        retry_ceiling: Duration,
    ) -> Result<PollingEnd, CoreError> {
        let end = Instant::now() + deadline;
        let mut backoff = Backoff::new(FIRST_PAUSE, retry_ceiling.max(FIRST_PAUSE));
        let mut polls = 0_u32;
        loop {
            let begin = Instant::now();
            let Some(left) = end.checked_duration_since(begin).filter(|left| !left.is_zero())
            else {
                return Ok(PollingEnd::TimedOut);
            };
            let limit = self.poll_deadline(request).min(left);
            polls = polls.saturating_add(1);
            match self.poll_within(limit, request, expected).await {
                Ok(PollResult::Answer(answer)) => {
                    self.metrics.polls(polls);
                    return Ok(PollingEnd::Answer(answer));
                }
                Ok(PollResult::Forgotten) => return Ok(PollingEnd::Forgotten),
                Ok(PollResult::Pending) | Err(CoreError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
            if begin.elapsed() > retry_ceiling.max(FIRST_PAUSE) {
                backoff.reset();
            }
            let left = end.saturating_duration_since(Instant::now());
            sleep(backoff.next_delay(self.dice.roll()).min(left)).await;
        }
    }

    async fn poll_within(
        &self,
        limit: Duration,
        request: &Request,
        expected: Expected<'_>,
    ) -> Result<PollResult, CoreError> {
        let status = match self.fetch_result(request, limit).await {
            Ok(result) => return Ok(PollResult::Answer(self.verify(request, result, expected)?)),
            Err(NoReply::TimedOut) => return Ok(PollResult::Pending),
            Err(NoReply::Status(status)) => status,
        };
        let call =
            if request.kind().is_key_operation() { CallKind::PollKey } else { CallKind::Poll };
        match status::meaning(call, &status) {
            StatusMeaning::Pending => Ok(PollResult::Pending),
            StatusMeaning::Forgotten => Ok(PollResult::Forgotten),
            StatusMeaning::Busy => Err(busy_error(&status)),
            StatusMeaning::Hold(reason, what) => {
                Err(CoreError::Held(hold(reason, what, &status, request)))
            }
            StatusMeaning::Unreachable
            | StatusMeaning::AlreadyKnown
            | StatusMeaning::Ambiguous
            | StatusMeaning::Lacking => Err(unreachable_error(&status)),
        }
    }

    /// The gRPC call behind a poll, for any kind.
    async fn fetch_result<'a>(
        &self,
        request: &'a Request,
        limit: Duration,
    ) -> Result<CoreResponse<'a>, NoReply> {
        let (mut client, _place) = self.endpoint.poll_client();
        let question = || {
            let mut question = traced(wire::request_id(request.key.id));
            question.extensions_mut().insert(ReplyLimit::of(request));
            question
        };
        match &request.operation {
            Operation::PublicDecryption(public) => {
                let polling = client.get_public_decryption_result(question());
                self.endpoint
                    .call("get_public_decryption_result", limit, polling)
                    .await
                    .map(|response| CoreResponse::Public(public, response))
            }
            Operation::UserDecryption(user) => {
                let polling = client.get_user_decryption_result(question());
                self.endpoint
                    .call("get_user_decryption_result", limit, polling)
                    .await
                    .map(|response| CoreResponse::User(user, response))
            }
            Operation::Key(operation) => {
                let reply = self.fetch_key_result(client, operation, question(), limit).await?;
                Ok(CoreResponse::Key(operation, reply))
            }
        }
    }

    fn verify(
        &self,
        request: &Request,
        reply: CoreResponse<'_>,
        expected: Expected<'_>,
    ) -> Result<Answer, AnswerError> {
        let Expected { extra_data, signers, is_checked } = expected;
        if !is_checked {
            return Ok(Answer::new(request.kind(), SignedResult::default()));
        }
        let domain = &self.domain;
        match reply {
            CoreResponse::Public(operation, response) => signature::decode_public_answer(
                domain, request, operation, extra_data, response, signers,
            )
            .map(Answer::PublicDecryption),
            CoreResponse::User(operation, response) => {
                signature::user_answer(domain, request, operation, extra_data, response, signers)
                    .map(Answer::UserDecryption)
            }
            CoreResponse::Key(operation, reply) => {
                let of = (request.key.id, operation);
                signature::key_answer(domain, of, reply, signers).map(Answer::Key)
            }
        }
    }

    /// The signer of this answer to this request's content. `None`: the signature is invalid.
    #[must_use]
    pub fn signer_of(&self, request: &Request, answer: &Answer) -> Option<Address> {
        signature::signer_of(&self.domain, request, answer).ok()
    }
}

enum CoreResponse<'a> {
    Public(&'a crate::domain::PublicDecryption, v1::PublicDecryptionResponse),
    User(&'a crate::domain::UserDecryption, v1::UserDecryptionResponse),
    Key(&'a crate::domain::KeyOperation, signature::KeyReply),
}

/// Adds the current trace context, if any.
fn traced<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    // Hexadecimal digits and dashes are valid in metadata.
    if let Some(Ok(parent)) = trace_context::traceparent().map(|parent| parent.parse()) {
        request.metadata_mut().insert("traceparent", parent);
    }
    request
}

/// The same, if it is begun before this.
fn in_time<T>(message: T, before: &SendBefore) -> tonic::Request<T> {
    let mut request = traced(message);
    request.extensions_mut().insert(before.clone());
    request
}

/// Checked before sending, because above the limit tonic breaks the stream without a reason.
fn within_limit(message: &impl Message) -> Result<(), CoreError> {
    let size = message.encoded_len();
    if size <= MESSAGE_LIMIT {
        return Ok(());
    }
    Err(CoreError::Held(Hold::new(
        HoldReason::MessageTooLarge,
        format!("the request to the KMS Core has {size} bytes, at most {MESSAGE_LIMIT} are sent"),
    )))
}

/// What the Core lacks of what it was asked with. Its words do not say it: a Core that was never told of a
/// context speaks as of an unknown key. Keys are there for years, contexts come and go; so it is the
/// context, if one was named.
fn lacking(
    key_id: U256,
    named: NamedContext,
    extra_data: ExtraDataMeaning,
) -> (HoldReason, String) {
    let key = format!("key {key_id:#066x}");
    match (named, extra_data) {
        (NamedContext { context: Some(context), epoch }, _) => {
            let epoch = epoch.map(|epoch| format!(", or not its epoch {epoch:#066x}"));
            let epoch = epoch.unwrap_or_default();
            let what = format!(
                "the KMS Core does not know the KMS context {context:#066x} of this request{epoch} \
                 (or, less likely, its {key}): was the Core told of the context?"
            );
            (HoldReason::CoreLacksContext, what)
        }
        (NamedContext { context: None, .. }, ExtraDataMeaning::Context { .. }) => (
            HoldReason::UnknownKey,
            format!(
                "the KMS Core does not know the {key} of this request (or it was never told of its \
                 default KMS context: the request names none)"
            ),
        ),
        (NamedContext { context: None, .. }, ExtraDataMeaning::Opaque) => (
            HoldReason::UnknownKey,
            format!("the KMS Core does not know the {key} of this request"),
        ),
    }
}

fn busy_error(status: &Status) -> CoreError {
    CoreError::Busy { message: status.message().into() }
}

fn hold(reason: HoldReason, what: &str, status: &Status, request: &Request) -> Hold {
    let message = UntrustedText::from(status.message());
    let detail = format!("{what} (it says {:?}: {message})", status.code());
    // The id in the Core's message may be another request's, so ours is added.
    let ours = if mentions_an_id(message.as_str()) {
        format!("; the id of this request is {}", request.key)
    } else {
        String::new()
    };
    Hold::new(reason, detail + &ours)
}

/// Whether a text contains an id: the Core writes 64 hex digits.
fn mentions_an_id(text: &str) -> bool {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    words
        .map(|word| word.strip_prefix("0x").unwrap_or(word))
        .any(|word| word.len() == 64 && word.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests;
