//! AWS credentials, for signing calls to the bucket of `[s3_config]` and to a wallet in AWS KMS. Found
//! in the default order: environment, profile, web identity, container, instance.
//!
//! A provider may be slow (a container's agent, an assumed role). No call waits for it longer than
//! [`PATIENCE`]; the lookup continues, and a later result is used. "No credentials" differs from a
//! lookup that failed or is not finished, which is repeated within seconds; valid credentials are kept
//! meanwhile.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_kms::config::SharedHttpClient;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout};

use crate::domain::UntrustedText;

/// How long one call waits for credentials.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Credentials are renewed this long before they expire.
const RENEWED_BEFORE_EXPIRY: Duration = Duration::from_mins(1);
/// Credentials without expiry, and missing ones, are looked up again after this.
const REFRESHED_AFTER: Duration = Duration::from_mins(5);
/// The same after a failed or unfinished lookup.
const RETRIED_AFTER: Duration = Duration::from_secs(5);

/// Why there are no credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingCredentials {
    #[error(
        "no AWS credentials found: set them in the environment, a profile or the machine's role"
    )]
    None,
    /// The SDK's support for it is not compiled in.
    #[error(
        "the AWS profile signs in by {0}, which is not supported here: use access keys or a role, or \
         give the profile a credential_process (`aws configure export-credentials --profile NAME \
         --format process`)"
    )]
    Unsupported(&'static str),
    #[error("the AWS credentials are not there yet: no answer within {} s", PATIENCE.as_secs())]
    Late,
    /// The provider's message.
    #[error("the AWS credentials are not there yet: {0}")]
    Failed(UntrustedText),
}

impl MissingCredentials {
    fn of(error: &CredentialsError) -> Self {
        if let CredentialsError::CredentialsNotLoaded(_) = error {
            return Self::None;
        }
        // With its causes: the outermost message says only that there was an error.
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        match unsupported_sign_in(&text) {
            Some(way) => Self::Unsupported(way),
            None => Self::Failed(text.into()),
        }
    }

    /// Whether somebody has to act; otherwise time may fix it.
    #[must_use]
    pub fn needs_operator(&self) -> bool {
        match self {
            Self::None | Self::Unsupported(_) => true,
            Self::Late | Self::Failed(_) => false,
        }
    }

    /// Finds it among the causes of an SDK error.
    #[must_use]
    pub fn find_in(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(lack) = error.downcast_ref::<Self>() {
                return Some(lack.clone());
            }
            next = error.source();
        }
        None
    }
}

/// The sign-in method that a profile uses and that is not compiled in. The SDK has no public type for
/// this, so its message is read, here and nowhere else.
fn unsupported_sign_in(error: &str) -> Option<&'static str> {
    let (_, feature) = error.split_once("following cargo feature(s) enabled: ")?;
    Some(match feature.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).next()? {
        "sso" => "SSO (IAM Identity Center)",
        "credentials-login" => "aws login",
        _ => "a way",
    })
}

/// The credentials of one consumer.
pub struct AwsCredentials {
    region: Option<Region>,
    /// HTTP client for lookups; without it the SDK's own.
    http: OnceLock<SharedHttpClient>,
    /// Used instead of the default chain.
    given: Option<SharedCredentialsProvider>,
    state: Mutex<State>,
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials").field("region", &self.region).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// The default chain once it has found credentials. Until then it is built again for each lookup,
    /// because it caches the files it read.
    provider: Option<SharedCredentialsProvider>,
    /// A lookup under way; every caller that waits for it polls it.
    lookup: Option<Shared<BoxFuture<'static, LookupResult>>>,
    cached: Option<CachedCredentials>,
}

/// Result of a lookup.
#[derive(Clone)]
struct LookupResult {
    provider: SharedCredentialsProvider,
    credentials: Result<Credentials, MissingCredentials>,
}

struct CachedCredentials {
    credentials: Result<Credentials, MissingCredentials>,
    since: Instant,
    good_until: Instant,
}

/// Unix time from the one clock.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(crate::time::clock::unix_millis())
}

/// Remaining lifetime of the credentials.
fn remaining_lifetime(credentials: &Credentials) -> Option<Duration> {
    credentials.expiry().map(|end| end.duration_since(now()).unwrap_or_default())
}

impl AwsCredentials {
    /// `region`: of the token service, for roles that need one. `given`: used instead of the default
    /// chain.
    #[must_use]
    pub fn new(region: Option<Region>, given: Option<SharedCredentialsProvider>) -> Self {
        Self { region, http: OnceLock::new(), given, state: Mutex::default() }
    }

    /// Sets the HTTP client for lookups. Only the first call has an effect.
    pub fn set_http_client(&self, http: SharedHttpClient) {
        let _ = self.http.set(http);
    }

    /// A poisoned state is still consistent: each field is written whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cached credentials, or the result of a lookup within [`PATIENCE`].
    pub async fn get(&self) -> Result<Credentials, MissingCredentials> {
        let looking = {
            let mut state = self.state();
            let fresh = |found: &&CachedCredentials| found.good_until > Instant::now();
            if let Some(found) = state.cached.as_ref().filter(fresh) {
                return found.credentials.clone();
            }
            let provider = self.given.clone().or_else(|| state.provider.clone());
            state.lookup.get_or_insert_with(|| self.start_lookup(provider).boxed().shared()).clone()
        };
        let result = timeout(PATIENCE, looking).await;
        let mut state = self.state();
        let mut credentials = match result {
            Ok(looked) => {
                state.lookup = None;
                state.provider = looked.credentials.is_ok().then_some(looked.provider);
                looked.credentials
            }
            Err(_) => Err(MissingCredentials::Late),
        };
        let mut lifetime = match &credentials {
            Ok(credentials) => remaining_lifetime(credentials)
                .map_or(REFRESHED_AFTER, |left| left.saturating_sub(RENEWED_BEFORE_EXPIRY)),
            Err(MissingCredentials::None) => REFRESHED_AFTER,
            Err(
                MissingCredentials::Unsupported(_)
                | MissingCredentials::Late
                | MissingCredentials::Failed(_),
            ) => RETRIED_AFTER,
        };
        if let Err(MissingCredentials::Late | MissingCredentials::Failed(_)) = credentials
            && let Some(CachedCredentials { credentials: Ok(before), .. }) = &state.cached
            && remaining_lifetime(before).is_none_or(|left| !left.is_zero())
        {
            lifetime = RETRIED_AFTER;
            credentials = Ok(before.clone());
        }
        let since = Instant::now();
        let good_until = since + lifetime;
        state.cached =
            Some(CachedCredentials { credentials: credentials.clone(), since, good_until });
        credentials
    }

    /// The service refused these credentials: look for others. Calls in flight with the same ones report
    /// it together, so it has an effect only once in a while.
    pub fn invalidate(&self) {
        let mut state = self.state();
        let State { provider, cached: found, .. } = &mut *state;
        if let Some(found) = found
            && found.since.elapsed() >= RETRIED_AFTER
        {
            found.good_until = found.since;
            *provider = None;
        }
    }

    fn start_lookup(
        &self,
        provider: Option<SharedCredentialsProvider>,
    ) -> impl Future<Output = LookupResult> + Send + 'static {
        let region = self.region.clone();
        let http = self.http.get().cloned();
        async move {
            let provider = match provider {
                Some(provider) => provider,
                None => SharedCredentialsProvider::new(chain(region, http).await),
            };
            let credentials = provider.provide_credentials().await;
            LookupResult {
                provider,
                credentials: credentials.map_err(|error| MissingCredentials::of(&error)),
            }
        }
    }
}

async fn chain(region: Option<Region>, http: Option<SharedHttpClient>) -> DefaultCredentialsChain {
    let mut chain = DefaultCredentialsChain::builder();
    if let Some(http) = http {
        chain = chain.configure(ProviderConfig::without_region().with_http_client(http));
    }
    if let Some(region) = region {
        chain = chain.region(region);
    }
    chain.build().await
}

/// For an AWS client that must not cache: its cache would start again with each call that does not wait.
#[derive(Clone, Debug)]
pub struct CredentialsProvider(pub Arc<AwsCredentials>);

impl ProvideCredentials for CredentialsProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.0.get().await.map_err(|lack| match lack {
                MissingCredentials::None => CredentialsError::not_loaded(lack),
                MissingCredentials::Unsupported(_) => CredentialsError::invalid_configuration(lack),
                MissingCredentials::Late | MissingCredentials::Failed(_) => {
                    CredentialsError::provider_error(lack)
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Credentials that expire this long after each lookup; without `life` it never answers.
    #[derive(Debug, Default)]
    struct Provided {
        slow: Duration,
        life: Option<Duration>,
        /// These lookups fail, counted from 0.
        failing: std::ops::Range<usize>,
        asked: std::sync::atomic::AtomicUsize,
    }

    impl Provided {
        async fn answer(&self) -> Result<Credentials, CredentialsError> {
            let nth = self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::time::sleep(self.slow).await;
            if self.failing.contains(&nth) {
                return Err(CredentialsError::provider_error("the agent is not up"));
            }
            let end = self.life.map(|life| now() + life);
            Ok(Credentials::new(format!("AKID{nth}"), "s", None, end, "test"))
        }
    }

    #[derive(Clone, Debug)]
    struct Shared(Arc<Provided>);

    impl ProvideCredentials for Shared {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(self.0.answer())
        }
    }

    fn of(provided: Provided) -> (AwsCredentials, Arc<Provided>) {
        let provided = Arc::new(provided);
        let given = SharedCredentialsProvider::new(Shared(Arc::clone(&provided)));
        (AwsCredentials::new(None, Some(given)), provided)
    }

    /// The agent is away when credentials have to be renewed: valid ones stay in use.
    #[tokio::test(start_paused = true)]
    async fn c4_credentials_are_not_thrown_away_because_new_ones_are_late() {
        let (credentials, _) = of(Provided {
            life: Some(RENEWED_BEFORE_EXPIRY),
            failing: 1..3,
            ..Provided::default()
        });
        let key = async || credentials.get().await.map(|it| it.access_key_id().to_owned());
        assert_eq!(key().await.unwrap(), "AKID0");
        // They have to be renewed at once, which fails.
        assert_eq!(key().await.unwrap(), "AKID0");
        tokio::time::advance(RETRIED_AFTER).await;
        assert_eq!(key().await.unwrap(), "AKID0");
        tokio::time::advance(RETRIED_AFTER).await;
        assert_eq!(key().await.unwrap(), "AKID3");
    }

    #[test]
    fn c4_a_profile_with_sso_is_named() {
        let text = "ProfileFile provider could not be built: This behavior requires following cargo \
                    feature(s) enabled: sso. ";
        let lack = MissingCredentials::of(&CredentialsError::invalid_configuration(text));
        assert_eq!(lack, MissingCredentials::Unsupported("SSO (IAM Identity Center)"));
        assert!(lack.to_string().contains("credential_process"), "{lack}");
        let other =
            MissingCredentials::of(&CredentialsError::invalid_configuration("a loop of profiles"));
        assert!(other.to_string().contains("a loop of profiles"), "{other}");
    }

    /// The SDK's own message, from a real profile.
    #[tokio::test]
    #[expect(
        deprecated,
        reason = "the new names are those of a crate that is no dependency of ours"
    )]
    async fn c4_a_real_profile_with_sso_is_named() {
        let profile = "[default]\nsso_start_url = https://x.awsapps.com/start\nsso_region = us-east-1\n\
                       sso_account_id = 1\nsso_role_name = r\n";
        let files = aws_config::profile::profile_file::ProfileFiles::builder();
        let kind = aws_config::profile::profile_file::ProfileFileKind::Config;
        let provider = aws_config::profile::ProfileFileCredentialsProvider::builder();
        let provider = provider
            .profile_files(files.with_contents(kind, profile).build())
            .profile_name("default");
        let given = SharedCredentialsProvider::new(provider.build());
        let credentials = AwsCredentials::new(None, Some(given));
        assert_eq!(
            credentials.get().await.unwrap_err(),
            MissingCredentials::Unsupported("SSO (IAM Identity Center)")
        );
    }
}
