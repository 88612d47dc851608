//! What all calls to buckets share: the client, what is known of the buckets' health, and what is told of
//! their results.

use std::fmt;

use tokio::time::Instant;

use super::{
    bucket::Bucket, bucket_error::BucketError, bucket_health::BucketHealth, error::BucketFailure,
    format::Format, http::BucketClient,
};
use crate::{
    domain::{B256, Bytes},
    telemetry::metrics::Metrics,
};

/// The calls to buckets of one instance.
pub(super) struct BucketCalls {
    pub http: BucketClient,
    pub health: BucketHealth,
    pub metrics: Metrics,
}

impl fmt::Debug for BucketCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketCalls").field("http", &self.http).finish_non_exhaustive()
    }
}

impl BucketCalls {
    pub fn new(http: BucketClient, metrics: Metrics) -> Self {
        Self { http, health: BucketHealth::default(), metrics }
    }

    /// Counts one GET.
    pub fn count(&self, bucket: &Bucket, result: &Result<(Format, Bytes), BucketError>) {
        let code = result.as_ref().map_or_else(BucketError::code, |_| "ok");
        self.metrics.fetched(bucket.host(), code);
        match result {
            Ok((_, body)) => self.metrics.ciphertext_bytes(body.len() as u64),
            Err(BucketError::WrongBytes { .. }) => self.metrics.digest_mismatch(),
            Err(_) => {}
        }
    }

    /// The bytes are right but their declared format is wrong: the format is detected from the bytes.
    pub fn record_wrong_format(&self, bucket: &Bucket, handle: B256, format: Format) {
        self.metrics.wrong_format_header(bucket.host());
        let (shown, is) = (&bucket.display_name, format.actual);
        let times_to_log = self.health.should_log(bucket, "wrong_format_header", Instant::now());
        if let Some(times) = times_to_log {
            tracing::warn!(bucket = %shown, %handle, ?is, times, "bucket misstates the format of a ciphertext");
        } else {
            tracing::debug!(bucket = %shown, %handle, ?is, "wrong format header");
        }
    }

    /// Records a bucket's error. Log throttle per bucket and error, not per ciphertext.
    pub fn record_failure(&self, bucket: &Bucket, handle: B256, trouble: &BucketError) {
        let now = Instant::now();
        let times = if trouble.is_bucket_fault() {
            self.health.record_failure(bucket, now);
            self.health.should_log(bucket, trouble.code(), now)
        } else {
            None
        };
        if let Some(times) = times {
            let proxy = self.http.proxy_for(bucket);
            let to_do = trouble.remedy(bucket.is_fallback(), proxy.as_deref());
            tracing::warn!(bucket = %bucket.display_name, proxy, %trouble, to_do, times, "bucket in trouble");
        } else {
            tracing::debug!(bucket = %bucket.display_name, %handle, %trouble, "not brought");
        }
    }

    /// A failure as it is listed in an error.
    pub fn failure(&self, bucket: &Bucket, error: BucketError) -> BucketFailure {
        BucketFailure {
            bucket: bucket.display_name.clone(),
            is_fallback: bucket.is_fallback(),
            proxy: self.http.proxy_for(bucket),
            error,
        }
    }
}
