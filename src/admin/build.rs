//! Facts about this program from its build.

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = match option_env!("KMS_CONNECTOR_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// The compiler's version, or `unknown`.
pub const RUST_VERSION: &str = match option_env!("KMS_CONNECTOR_RUST_VERSION") {
    Some(version) => version,
    None => "unknown",
};
