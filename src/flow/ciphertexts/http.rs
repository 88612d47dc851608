//! The one GET of this room. A test may answer it in the same process: without a socket, whose
//! readiness a simulated world could not repeat.

use reqwest::header::HeaderMap;
use url::Url;

/// Who answers instead of the network.
#[cfg(test)]
pub(crate) type Answers = std::sync::Arc<
    dyn Fn(Url) -> futures_util::future::BoxFuture<'static, reqwest::Result<reqwest::Response>>
        + Send
        + Sync,
>;

pub(super) struct Http {
    client: reqwest::Client,
    #[cfg(test)]
    pub(super) answers: Option<Answers>,
}

impl Http {
    pub(super) fn new(client: reqwest::Client) -> Self {
        Self {
            client,
            #[cfg(test)]
            answers: None,
        }
    }

    /// Until the headers of the response.
    pub(super) async fn get(
        &self,
        url: Url,
        headers: HeaderMap,
    ) -> reqwest::Result<reqwest::Response> {
        #[cfg(test)]
        if let Some(answers) = &self.answers {
            return answers(url).await;
        }
        self.client.get(url).headers(headers).send().await
    }
}

#[cfg(test)]
impl<B> super::Ciphertexts<B> {
    /// The same room with another network.
    pub(crate) fn answered_by(mut self, answers: Answers) -> Self {
        self.http.answers = Some(answers);
        self
    }
}
