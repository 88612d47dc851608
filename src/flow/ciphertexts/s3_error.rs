//! What a bucket returns instead of an object. Pure, except for reading a small body.
//!
//! S3 reports errors by a status, a code in an XML body, and the bucket's region if another one was
//! asked. Each code has its own remedy; the rest of the body is ignored. The error is one bucket's word
//! about one call: other buckets are asked all the same, and only what looks like a code or a region is
//! shown.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::Response;
use reqwest::header::{DATE, HeaderMap};
use tokio::time::timeout;

use crate::net::aws::{self, MissingCredentials};

/// Longer than any S3 error, in bytes.
const LONGEST_BODY: usize = 4096;
/// Deadline of the whole body; what arrives later is ignored.
const BODY_DEADLINE: Duration = Duration::from_secs(1);
/// A larger clock difference explains a refused signature: S3 allows 15 minutes.
const MOST_APART: Duration = Duration::from_mins(10);
/// Longer than any code or region, in characters.
const LONGEST_WORD: usize = 48;
const REGION_HEADER: &str = "x-amz-bucket-region";

macro_rules! codes {
    ($($variant:ident,)+) => {
        /// S3 error codes that influence the remedy, with S3's names.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Code {
            $($variant,)+
            /// Any other code.
            Other(Box<str>),
        }

        impl Code {
            fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                    Self::Other(name) => name,
                }
            }

            fn from_name(name: &str) -> Self {
                match name {
                    $(stringify!($variant) => Self::$variant,)+
                    _ => Self::Other(name.into()),
                }
            }
        }
    };
}

codes! {
    AccessDenied,
    AllAccessDisabled,
    AuthorizationHeaderMalformed,
    AuthorizationQueryParametersError,
    ExpiredToken,
    IllegalLocationConstraintException,
    InvalidAccessKeyId,
    InvalidToken,
    NoSuchBucket,
    NoSuchKey,
    PermanentRedirect,
    RequestExpired,
    RequestTimeTooSkewed,
    SignatureDoesNotMatch,
    TemporaryRedirect,
    TokenRefreshRequired,
}

/// A response that is no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Error {
    pub status: u16,
    /// `None`: the answer is not S3's, or contains no code.
    pub code: Option<Code>,
    /// The bucket's region, if another one was asked.
    region: Option<Box<str>>,
    /// Why the call was not signed although it could have been.
    unsigned: Option<MissingCredentials>,
    /// The call was signed, and by the bucket's clock the signature is not valid yet or any more. For a
    /// presigned call S3 then only reports "access denied".
    clocks_differ: bool,
}

/// Classification of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3ErrorKind {
    /// Also reported for a missing object where listing is not allowed.
    Denied,
    Missing,
    NoBucket,
    /// The bucket is in another region than the one asked.
    OtherRegion,
    Redirect,
    /// The credentials themselves are refused, not their permissions.
    Credentials,
    /// The clocks differ too much.
    Clock,
    /// Anything else; it may be temporary.
    Status,
}

impl S3Error {
    /// Reads a response that is no object, as far as needed.
    pub(super) async fn from_response(
        mut response: Response,
        unsigned: Option<MissingCredentials>,
        was_signed: bool,
    ) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        let reading = async {
            while body.len() < LONGEST_BODY
                && let Ok(Some(piece)) = response.chunk().await
            {
                let room = LONGEST_BODY - body.len();
                body.extend_from_slice(&piece[..piece.len().min(room)]);
            }
        };
        let _ = timeout(BODY_DEADLINE, reading).await;
        let clocks_differ = was_signed && clocks_differ(&headers, aws::now());
        Self { unsigned, clocks_differ, ..Self::parse(status, &headers, &body) }
    }

    fn parse(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        let code = element(&body, "Code").filter(|code| is_code(code)).map(Code::from_name);
        let header = headers.get(REGION_HEADER).and_then(|region| region.to_str().ok());
        let region = header.or_else(|| element(&body, "Region")).filter(|region| is_region(region));
        Self { status, code, region: region.map(Into::into), unsigned: None, clocks_differ: false }
    }

    #[must_use]
    pub fn kind(&self) -> S3ErrorKind {
        use Code as C;
        match (&self.code, self.status) {
            (Some(C::NoSuchBucket), _) => S3ErrorKind::NoBucket,
            (Some(C::RequestTimeTooSkewed | C::RequestExpired), _) => S3ErrorKind::Clock,
            (
                Some(
                    C::ExpiredToken
                    | C::InvalidToken
                    | C::TokenRefreshRequired
                    | C::InvalidAccessKeyId
                    | C::SignatureDoesNotMatch,
                ),
                _,
            ) => S3ErrorKind::Credentials,
            (
                Some(
                    C::PermanentRedirect
                    | C::TemporaryRedirect
                    | C::IllegalLocationConstraintException
                    | C::AuthorizationHeaderMalformed
                    | C::AuthorizationQueryParametersError,
                ),
                _,
            ) => S3ErrorKind::OtherRegion,
            (Some(C::AccessDenied), _) if self.clocks_differ => S3ErrorKind::Clock,
            (Some(C::AccessDenied | C::AllAccessDisabled), _) | (_, 401 | 403) => {
                S3ErrorKind::Denied
            }
            (Some(C::NoSuchKey), _) | (_, 404) => S3ErrorKind::Missing,
            (_, 300..=399) if self.region.is_some() => S3ErrorKind::OtherRegion,
            (_, 300..=399) => S3ErrorKind::Redirect,
            (Some(C::Other(_)) | None, _) => S3ErrorKind::Status,
        }
    }

    /// Stable, for counting and throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.kind() {
            S3ErrorKind::Denied => "access_denied",
            S3ErrorKind::Missing => "missing",
            S3ErrorKind::NoBucket => "no_bucket",
            S3ErrorKind::OtherRegion => "other_region",
            S3ErrorKind::Redirect => "redirect",
            S3ErrorKind::Credentials => "credentials",
            S3ErrorKind::Clock => "clock",
            S3ErrorKind::Status => "status",
        }
    }

    /// Whether somebody has to act before another call can succeed.
    #[must_use]
    pub fn needs_operator(&self) -> bool {
        match self.kind() {
            S3ErrorKind::Denied
            | S3ErrorKind::OtherRegion
            | S3ErrorKind::Credentials
            | S3ErrorKind::Clock => true,
            S3ErrorKind::Missing
            | S3ErrorKind::NoBucket
            | S3ErrorKind::Redirect
            | S3ErrorKind::Status => false,
        }
    }

    /// What to do. `own`: it is the bucket of `[s3_config]`; all others belong to their coprocessors.
    /// `None`: the error says it all, or nothing needs to be done yet.
    #[must_use]
    pub fn remedy(&self, own: bool) -> Option<String> {
        let coprocessors = |what: &str| Some(format!("tell its coprocessor: {what}"));
        let region = self.region.as_deref();
        if let (S3ErrorKind::Denied, Some(lack)) = (self.kind(), &self.unsigned) {
            return Some(format!(
                "{lack}; the call was not signed, which is in order only if the bucket is public and \
                 the object not there yet"
            ));
        }
        match (self.kind(), own) {
            (S3ErrorKind::Denied, true) => Some(
                "allow these credentials s3:GetObject in this bucket, unless the object is only not \
                 there yet, of which S3 says the same without s3:ListBucket"
                    .to_owned(),
            ),
            (S3ErrorKind::Denied, false) => coprocessors(
                "its policy, unless the object is only not there yet, of which S3 says the same",
            ),
            (S3ErrorKind::OtherRegion, true) => Some(match region {
                Some(region) => format!(
                    "set region = \"{region}\" in [s3_config], and the endpoint of that region if one \
                     is set"
                ),
                None => "correct region and endpoint in [s3_config]".to_owned(),
            }),
            (S3ErrorKind::OtherRegion, false) => Some(match region {
                Some(region) => format!(
                    "tell its coprocessor: the bucket's URL has to be that of the region {region}"
                ),
                None => "tell its coprocessor: the bucket's URL is that of another region".to_owned(),
            }),
            (S3ErrorKind::Redirect, false) => coprocessors("redirects are not followed"),
            (S3ErrorKind::NoBucket, false) => coprocessors("its URL names no bucket"),
            (S3ErrorKind::Redirect | S3ErrorKind::NoBucket, true) => {
                Some("correct bucket and endpoint in [s3_config]".to_owned())
            }
            (S3ErrorKind::Clock, _) => Some("correct the clock of this machine".to_owned()),
            (S3ErrorKind::Credentials, _) => Some(self.credentials_remedy().to_owned()),
            (S3ErrorKind::Missing | S3ErrorKind::Status, _) => None,
        }
    }

    fn credentials_remedy(&self) -> &'static str {
        match &self.code {
            Some(Code::InvalidAccessKeyId) => {
                "the access key is unknown there: use credentials of that account, or correct the \
                 endpoint in [s3_config]"
            }
            Some(Code::SignatureDoesNotMatch) => {
                "the secret key does not belong to the access key: correct it; if it is right, a \
                 proxy changes the calls"
            }
            Some(_) | None => {
                "the session has ended: renew the credentials of the process, which are looked for \
                 again every few seconds"
            }
        }
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status;
        let shown = match &self.code {
            Some(code) => format!("{status} {}", code.as_str()),
            None => status.to_string(),
        };
        match (self.kind(), &self.region) {
            (S3ErrorKind::Denied, _) => write!(f, "access denied ({shown})"),
            (S3ErrorKind::Missing, _) => write!(f, "not there ({shown})"),
            (S3ErrorKind::NoBucket, _) => write!(f, "there is no such bucket ({shown})"),
            (S3ErrorKind::OtherRegion, Some(region)) => {
                write!(f, "the bucket is in the region {region} ({shown})")
            }
            (S3ErrorKind::OtherRegion, None) => {
                write!(f, "the bucket is in another region ({shown})")
            }
            (S3ErrorKind::Redirect, _) => write!(f, "redirects ({shown}), which is not followed"),
            (S3ErrorKind::Credentials, _) => write!(f, "the credentials are refused ({shown})"),
            (S3ErrorKind::Clock, _) => {
                write!(f, "the clock of this machine and that of the bucket differ ({shown})")
            }
            (S3ErrorKind::Status, _) => write!(f, "status {shown}"),
        }
    }
}

impl std::error::Error for S3Error {}

/// Whether the bucket's clock (header `date`) differs so much that no signature is valid.
fn clocks_differ(headers: &HeaderMap, now: SystemTime) -> bool {
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return false;
    };
    // The absolute difference.
    let apart = date.duration_since(now).unwrap_or_else(|earlier| earlier.duration());
    apart > MOST_APART
}

/// Text of the first element of this name in an XML document that begins like S3's errors.
fn element<'b>(body: &'b str, name: &str) -> Option<&'b str> {
    let start = body.trim_start_matches('\u{feff}').trim_start();
    if !start.starts_with("<?xml") && !start.starts_with("<Error") {
        return None;
    }
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    Some(text.trim())
}

/// Codes consist of letters; a secret that is repeated to us does not.
fn is_code(text: &str) -> bool {
    (1..=LONGEST_WORD).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

fn is_region(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_WORD).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    /// An error body as AWS writes it.
    pub(in crate::flow::ciphertexts) fn body(code: &str, more: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>Words.\
             </Message>{more}<RequestId>4442587FB7D0A2F9</RequestId></Error>"
        )
    }

    fn error(status: u16, region: &'static str, body: &str) -> S3Error {
        let mut headers = HeaderMap::new();
        if !region.is_empty() {
            headers.insert(REGION_HEADER, HeaderValue::from_static(region));
        }
        S3Error::parse(status, &headers, body.as_bytes())
    }

    #[test]
    fn c4_a_301_names_the_region() {
        let moved = body("PermanentRedirect", "<Endpoint>b.s3.amazonaws.com</Endpoint>");
        for error in [error(301, "eu-central-1", &moved), error(301, "eu-central-1", "")] {
            assert_eq!(error.kind(), S3ErrorKind::OtherRegion);
            assert!(error.to_string().contains("eu-central-1"), "{error}");
            let own = error.remedy(true).unwrap();
            assert!(own.contains("region = \"eu-central-1\""), "{own}");
            assert!(error.remedy(false).unwrap().contains("coprocessor"));
        }
        let other = error(301, "", &moved);
        assert_eq!((other.kind(), other.region.as_deref()), (S3ErrorKind::OtherRegion, None));
        // A redirect that is not S3's.
        assert_eq!(error(301, "", "<html>moved</html>").kind(), S3ErrorKind::Redirect);
    }

    #[test]
    fn c4_every_code_has_its_own_remedy() {
        let region = "<Region>us-west-2</Region>";
        let malformed = error(400, "", &body("AuthorizationHeaderMalformed", region));
        assert!(malformed.remedy(true).unwrap().contains("us-west-2"));
        assert!(malformed.to_string().contains("AuthorizationHeaderMalformed"), "{malformed}");
        let mut remedies = Vec::new();
        for (status, code, meaning) in [
            (403, "AccessDenied", S3ErrorKind::Denied),
            (403, "RequestTimeTooSkewed", S3ErrorKind::Clock),
            (400, "ExpiredToken", S3ErrorKind::Credentials),
            (403, "SignatureDoesNotMatch", S3ErrorKind::Credentials),
            (403, "InvalidAccessKeyId", S3ErrorKind::Credentials),
            (400, "AuthorizationHeaderMalformed", S3ErrorKind::OtherRegion),
            (404, "NoSuchBucket", S3ErrorKind::NoBucket),
        ] {
            let error = error(status, "", &body(code, ""));
            assert_eq!(error.kind(), meaning, "{code}");
            assert!(error.to_string().contains(&format!("{status} {code}")), "{error}");
            remedies.push(error.remedy(true).unwrap());
        }
        remedies.sort_unstable();
        remedies.dedup();
        assert_eq!(remedies.len(), 7);
        let lack = Some(MissingCredentials::None);
        let unsigned = S3Error { unsigned: lack, ..error(403, "", &body("AccessDenied", "")) };
        assert!(unsigned.remedy(true).unwrap().contains("no AWS credentials"));
        // Errors that may be temporary, and missing objects.
        for (status, code) in
            [(503, "SlowDown"), (500, "InternalError"), (404, "NoSuchKey"), (400, "Novel")]
        {
            let error = error(status, "", &body(code, ""));
            assert_eq!((error.remedy(true), error.needs_operator()), (None, false), "{error}");
        }
    }

    #[test]
    fn without_a_code_the_status_counts() {
        for (status, meaning) in [
            (401, S3ErrorKind::Denied),
            (403, S3ErrorKind::Denied),
            (404, S3ErrorKind::Missing),
            (307, S3ErrorKind::Redirect),
            (206, S3ErrorKind::Status),
            (400, S3ErrorKind::Status),
            (429, S3ErrorKind::Status),
            (500, S3ErrorKind::Status),
        ] {
            for body in ["", "no", "<html><Code>AccessDenied</Code></html>"] {
                let error = error(status, "", body);
                assert_eq!((error.kind(), error.code.clone()), (meaning, None), "{error}");
            }
        }
    }

    /// For an expired presigned call S3 reports the same as for a forbidden one.
    #[test]
    fn c4_a_clock_that_differs_is_named_where_a_signature_is_refused() {
        let now = aws::now();
        for (apart, differ) in [(0, false), (300, false), (1200, true)] {
            for date in [now + Duration::from_secs(apart), now - Duration::from_secs(apart)] {
                let mut headers = HeaderMap::new();
                let date = HeaderValue::from_str(&httpdate::fmt_http_date(date)).unwrap();
                headers.insert(DATE, date);
                assert_eq!(clocks_differ(&headers, now), differ, "{apart}");
            }
        }
        let denied = error(403, "", &body("AccessDenied", ""));
        let late = S3Error { clocks_differ: true, ..denied.clone() };
        assert_eq!((denied.kind(), late.kind()), (S3ErrorKind::Denied, S3ErrorKind::Clock));
        assert!(late.remedy(true).unwrap().contains("clock"));
    }

    proptest! {
        /// Whatever a bucket returns: what is shown is short, in plain words, and contains no secret.
        #[test]
        fn c4_no_body_is_shown_but_for_codes_and_regions(
            status in 200_u16..600,
            code in "\\PC{0,60}",
            region in "\\PC{0,60}",
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            const SECRET: &str = "cAnArY7351";
            let texts = [
                body(&code, &format!("<Region>{region}</Region>")).into_bytes(),
                body(SECRET, &format!("<Region>{SECRET}</Region>")).into_bytes(),
                bytes,
            ];
            for text in texts {
                let error = S3Error::parse(status, &HeaderMap::new(), &text);
                let shown = format!("{error} {:?} {:?}", error.remedy(true), error.remedy(false));
                prop_assert!(!shown.contains(SECRET), "{shown}");
                prop_assert!(shown.len() < 700 && shown.is_ascii(), "{shown}");
            }
        }
    }
}
