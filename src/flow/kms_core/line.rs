//! What the client's calls go over. The product has one kind, tonic's `Channel`; the tests have a
//! second, a function in the same process: no socket and no HTTP/2, whose tasks and clocks a
//! simulated world could not repeat. Everything above is the real client: messages and their bytes,
//! deadlines, the table of statuses, the check of signatures.

use tonic::transport::{Channel, Endpoint};

#[cfg(not(test))]
pub(super) type Line = Channel;
#[cfg(test)]
pub(crate) use in_process::{InProcess, Line};

/// Connects at the first call.
#[cfg(not(test))]
pub(super) fn to(endpoint: &Endpoint) -> Line {
    endpoint.connect_lazy()
}

/// Connects at the first call.
#[cfg(test)]
pub(super) fn to(endpoint: &Endpoint) -> Line {
    Line::Channel(endpoint.connect_lazy())
}

#[cfg(test)]
mod in_process {
    use std::{
        fmt,
        sync::Arc,
        task::{Context, Poll},
    };

    use tonic::{
        body::Body,
        codegen::{BoxFuture, Service, StdError, http},
    };

    use super::{
        super::{KmsCore, Options},
        Channel,
    };
    use crate::domain::SigningDomain;

    /// A call in the same process. An error is a line that was cut: nobody knows what the Core did.
    pub(crate) type InProcess =
        Arc<dyn Fn(http::Request<Body>) -> BoxFuture<http::Response<Body>, StdError> + Send + Sync>;

    #[derive(Clone)]
    pub(crate) enum Line {
        Channel(Channel),
        InProcess(InProcess),
    }

    impl fmt::Debug for Line {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Line")
        }
    }

    impl Service<http::Request<Body>> for Line {
        type Response = http::Response<Body>;
        type Error = StdError;
        type Future = BoxFuture<Self::Response, StdError>;

        fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
            match self {
                Self::Channel(channel) => channel.poll_ready(context).map_err(Into::into),
                Self::InProcess(_) => Poll::Ready(Ok(())),
            }
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            match self {
                Self::Channel(channel) => {
                    let answer = channel.call(request);
                    Box::pin(async move { Ok(answer.await?) })
                }
                Self::InProcess(call) => call(request),
            }
        }
    }

    impl KmsCore {
        /// The client of a Core in the same process.
        pub(crate) fn in_process(
            call: &InProcess,
            domain: SigningDomain,
            options: Options,
        ) -> Self {
            let call = call.clone();
            Self::over(move || Line::InProcess(call.clone()), "core", domain, options)
        }
    }
}
