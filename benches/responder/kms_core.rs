//! The KMS Core: asked once, then a long poll; the answer is believed as it comes.

use std::time::Duration;

use kms_connector::{
    domain::{Address, Answer, Ciphertext, Operation, Request, SignedResult, SigningDomain},
    flow::kms_core::{
        MESSAGE_LIMIT,
        proto::{
            kms::v1, kms_service::v1::core_service_endpoint_client::CoreServiceEndpointClient,
        },
        wire::{self, ExtraDataMeaning, ResultEncoding},
    },
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::sleep,
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use url::Url;

use crate::Result;

/// A held poll takes one of a connection's streams, of which servers give 100 or more.
const POLLS_PER_CONNECTION: usize = 100;
const POLL_CONNECTIONS: usize = 16;
/// After a poll that the Core did not hold to the end.
const PAUSE: Duration = Duration::from_millis(20);

type Client = CoreServiceEndpointClient<Channel>;

/// The client of one Core. Asks have a connection of their own, so that no poll keeps them waiting.
#[derive(Debug)]
pub struct KmsCore {
    asks: Client,
    polls: Vec<(Client, Semaphore)>,
    domain: SigningDomain,
}

impl KmsCore {
    /// Connects at the first call. The signing domain is the one that every deployment has.
    pub fn new(endpoint: &Url, chain_id: u64, decryption: Address) -> Result<Self> {
        let endpoint = Endpoint::from_shared(endpoint.to_string())?
            .tcp_nodelay(true)
            .http2_adaptive_window(true);
        let client = || {
            CoreServiceEndpointClient::new(endpoint.connect_lazy())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT)
        };
        let domain = SigningDomain {
            name: "Decryption".to_owned(),
            version: "1".to_owned(),
            chain_id,
            verifying_contract: decryption,
        };
        let poll = || (client(), Semaphore::new(POLLS_PER_CONNECTION));
        let polls = std::iter::repeat_with(poll).take(POLL_CONNECTIONS).collect();
        Ok(Self { asks: client(), polls, domain })
    }

    /// Hands the request and its ciphertexts over.
    pub async fn ask(&self, request: &Request, ciphertexts: Vec<Ciphertext>) -> Result<()> {
        let materials = request.materials().ok_or("the event names no ciphertexts")?;
        let key_id = materials.first().ok_or("the event names no ciphertexts")?.key_id;
        let ciphertexts = wire::typed_ciphertexts(request.handles(), ciphertexts)?;
        let (id, domain, meaning) = (request.key.id, &self.domain, ExtraDataMeaning::Opaque);
        let mut client = self.asks.clone();
        let asked = match &request.operation {
            Operation::PublicDecryption(public) => {
                let message =
                    wire::public_request(id, key_id, public, ciphertexts, domain, meaning);
                client.public_decrypt(message).await
            }
            Operation::UserDecryption(user) => {
                let message = wire::user_request(id, key_id, user, ciphertexts, domain, meaning);
                client.user_decrypt(message).await
            }
            Operation::Key(_) => return Err("a key operation is answered by nobody here".into()),
        };
        match asked {
            Ok(_) => Ok(()),
            // It knows the request from an earlier run, or the poll will say that it does not.
            Err(status) if matches!(status.code(), Code::AlreadyExists | Code::Aborted) => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    /// The Core's answer in the form the contract takes it: of the two encodings of a public result
    /// the likelier one, untried.
    pub async fn answer(&self, request: &Request) -> Result<Answer> {
        let (client, _place) = self.place().await?;
        let id = wire::request_id(request.key.id);
        match &request.operation {
            Operation::PublicDecryption(_) => {
                let response = held(|| {
                    let (mut client, id) = (client.clone(), id.clone());
                    async move { client.get_public_decryption_result(id).await }
                });
                public_answer(request, response.await?)
            }
            Operation::UserDecryption(_) => {
                let response = held(|| {
                    let (mut client, id) = (client.clone(), id.clone());
                    async move { client.get_user_decryption_result(id).await }
                });
                user_answer(request, response.await?)
            }
            Operation::Key(_) => Err("a key operation is answered by nobody here".into()),
        }
    }

    /// A place on the first connection that has one.
    async fn place(&self) -> Result<(&Client, SemaphorePermit<'_>)> {
        for (client, places) in &self.polls {
            if let Ok(place) = places.try_acquire() {
                return Ok((client, place));
            }
        }
        let (client, places) = &self.polls[0];
        Ok((client, places.acquire().await?))
    }
}

/// Polls until there is a result.
async fn held<T, F>(poll: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    loop {
        match poll().await {
            Ok(response) => return Ok(response.into_inner()),
            // The Core says "not yet" like this; a connection that failed has a cause.
            Err(status)
                if status.code() == Code::Unavailable
                    && std::error::Error::source(&status).is_none() => {}
            Err(status) => return Err(status.into()),
        }
        sleep(PAUSE).await;
    }
}

fn public_answer(request: &Request, response: v1::PublicDecryptionResponse) -> Result<Answer> {
    let reply = wire::public_reply(request, response)?;
    let [encoding, _] = ResultEncoding::by_likelihood(request.key.id);
    Ok(Answer::PublicDecryption(SignedResult {
        payload: wire::decrypted_result(encoding, &reply.plaintexts)?.into(),
        signature: reply.signature.into(),
        extra_data: reply.extra_data.unwrap_or_default().into(),
    }))
}

fn user_answer(request: &Request, response: v1::UserDecryptionResponse) -> Result<Answer> {
    let payload = wire::user_payload(request, response.payload)?;
    Ok(Answer::UserDecryption(SignedResult {
        payload: wire::user_decrypted_share(&payload).into(),
        signature: response.external_signature.into(),
        extra_data: response.extra_data.into(),
    }))
}
