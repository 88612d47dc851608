//! Which collector, and which requests: the standard variables of OpenTelemetry.

use std::fmt;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::net::percent;

/// Each also exists with `TRACES_` after `OTLP_`, which takes precedence.
pub(super) const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
pub(super) const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
pub(super) const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
pub(super) const DISABLED: &str = "OTEL_SDK_DISABLED";
pub(super) const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
pub(super) const SERVICE: &str = "OTEL_SERVICE_NAME";
/// Its values may have the prefix `parentbased_`.
pub(super) const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
pub(super) const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The collector, and which requests are traced.
#[derive(Clone)]
pub struct Settings {
    /// May contain an API key.
    pub(super) url: Url,
    /// Usually contain an API key.
    pub(super) headers: HeaderMap,
    pub(super) service: String,
    /// The share of requests that are traced, from 0 to 1.
    pub(super) sample_ratio: f64,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, sample_ratio: share, .. } = self;
        f.debug_struct("Settings")
            .field("collector", &self.host())
            .field("service", service)
            .field("share", share)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the standard variables of OpenTelemetry. `None`: traces are not configured. The error
    /// names the variable and never shows its value. `name`: that of the one instance, which becomes
    /// the service name if no variable gives one.
    pub fn read(
        get: impl Fn(&str) -> Option<String>,
        name: impl FnOnce() -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let get = |name: &str| get(name).map(|text| text.trim().to_owned());
        let given = |name: &str| get(name).filter(|text| !text.is_empty());
        let wrong = |name: &str, allowed: &str| format!("{name}: allowed is {allowed}");
        let is = |text: &Option<String>, word: &str| {
            text.as_ref().is_some_and(|text| text.eq_ignore_ascii_case(word))
        };
        let disabled = given(DISABLED);
        if is(&disabled, "true") {
            return Ok(None);
        }
        // The variable for traces alone, else the one for all signals.
        let of_traces = |name: &str| {
            let own = name.replace("_OTLP_", "_OTLP_TRACES_");
            given(&own).map(|text| (own, text)).or_else(|| Some((name.to_owned(), given(name)?)))
        };
        let Some((endpoint, text)) = of_traces(ENDPOINT) else { return Ok(None) };
        // OpenTelemetry accepts only `true`. An operator who writes 1 means it, and learns why it
        // has no effect.
        if disabled.is_some() && !is(&disabled, "false") {
            return Err(wrong(DISABLED, "true or false"));
        }
        match given(EXPORTER).as_deref() {
            None => {}
            Some("none") => return Ok(None),
            Some(list) if list.split(',').any(|exporter| exporter.trim() == "otlp") => {}
            Some(_) => return Err(wrong(EXPORTER, "otlp or none")),
        }
        let mut url = Url::parse(&text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| wrong(&endpoint, "an http:// or https:// URL"))?;
        if endpoint == ENDPOINT {
            let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        if let Some((name, protocol)) = of_traces(PROTOCOL)
            && protocol != "http/protobuf"
        {
            return Err(wrong(&name, "http/protobuf (usually at port 4318)"));
        }
        let headers = match of_traces(HEADERS) {
            None => HeaderMap::new(),
            Some((name, text)) => {
                headers(&text).ok_or_else(|| wrong(&name, "name=value,name=value"))?
            }
        };
        let share = given(SAMPLER_ARG).map_or(Some(1.0), |text| text.parse().ok());
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        let share = share.ok_or_else(|| wrong(SAMPLER_ARG, "a share of all requests from 0 to 1"));
        // A trace begins with the request, so no sampler has a parent to follow.
        let share = match given(SAMPLER)
            .as_deref()
            .map(|name| name.strip_prefix("parentbased_").unwrap_or(name))
        {
            Some("always_off") => return Ok(None),
            Some("always_on") => 1.0,
            Some("traceidratio") | None => share?,
            Some(_) => return Err(wrong(SAMPLER, "always_on, always_off or traceidratio")),
        };
        let service = given(SERVICE).or_else(name).unwrap_or_else(|| "kms-connector".to_owned());
        Ok(Some(Self { url, headers, service, sample_ratio: share }))
    }

    pub(super) fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// `name=value,name=value`, values percent-encoded.
fn headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        let mut value = HeaderValue::from_bytes(&percent::decode(value.trim())?).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Some(headers)
}
