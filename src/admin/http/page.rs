//! The status page: one file with its style and script inside. It requests JSON from this listener
//! and nothing from anywhere else.

use std::sync::LazyLock;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response,
    header::{
        CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        X_FRAME_OPTIONS,
    },
};
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("../page.html");
pub(super) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Allows the page's own style and script, by their hashes, and requests to this listener.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("style"),
        hash("script"),
    );
    HeaderValue::from_str(&policy).expect("ASCII")
});

pub(super) fn content() -> Bytes {
    Bytes::from_static(PAGE.as_bytes())
}

/// Adds the headers that keep a browser from running anything else.
pub(super) fn with_security_headers(mut page: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = page.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    page
}

/// The source expression `'sha256-…'` of the element's content.
fn hash(element: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(element_text(element))))
}

fn element_text(element: &str) -> &'static str {
    let begin = PAGE.split_once(&format!("<{element}>")).map_or("", |(_, rest)| rest);
    begin.split_once(&format!("</{element}>")).map_or("", |(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Gauges;

    #[test]
    fn the_page_is_in_itself() {
        for element in ["style", "script"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "one hash, one {element}");
            assert!(element_text(element).len() > 1_000);
        }
        let elsewhere = ["src=", "@import", "url(", "//cdn", "https://", " style=", " onclick="];
        for words in elsewhere {
            assert!(!PAGE.contains(words), "{words}");
        }
        // What comes from the process is inserted as text.
        for sink in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("] {
            assert!(!PAGE.contains(sink), "{sink}");
        }
    }

    /// Everything that an instance reports is on the page: by itself, or in what to do.
    #[test]
    fn the_page_shows_what_an_instance_reports() {
        let gauges = serde_json::to_value(Gauges::default()).unwrap();
        let in_what_to_do = [
            "stale",
            "lack",
            "still_tag",
            "unproven",
            "read_once",
            "unsent",
            "hidden",
            "unanswered",
            "other_contracts",
        ];
        for name in gauges.as_object().unwrap().keys() {
            let is_shown = PAGE.contains(&format!("gauges.{name}"));
            assert_ne!(is_shown, in_what_to_do.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn a_browser_runs_nothing_else() {
        let page = with_security_headers(Response::default());
        let policy = page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let length = "'sha256-'".len() + 44;
        assert_eq!(hash("script").len(), length);
        assert_ne!(hash("script"), hash("style"));
    }
}
