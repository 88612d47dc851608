//! The trusted certificate authorities: one set of roots per instance, for HTTPS, WSS and gRPC
//! alike.
//!
//! The roots are those of the system plus, if configured, a `ca_file` with private authorities. The
//! file is read at once, so that a mistake in it is reported at startup. The system's store is read
//! when the first TLS connection is prepared, because many instances use plain HTTP to neighbours
//! and need none. A system without a store is no error: the `ca_file` alone may be intended.

mod handshake_advice;

pub use handshake_advice::advice;

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::Instant;

/// No certificate bundle is near this size; a larger file was named by mistake.
const LARGEST_CA_FILE: u64 = 16 * 1024 * 1024;

/// How long instances share one reading of the system's store.
const SYSTEM_ROOTS_LIFETIME: Duration = Duration::from_mins(1);

/// Makes aws-lc-rs the process's TLS provider. Called once at startup; later calls change nothing.
pub fn install_provider() {
    // The error means that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The installed provider, or aws-lc-rs: tests need not install one.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// Why a `ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    #[error("ca_file {}: cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("ca_file {}: larger than {LARGEST_CA_FILE} bytes, so not a list of certificates", path.display())]
    TooLarge { path: PathBuf },
    #[error("ca_file {}: not valid PEM: {source}", path.display())]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("ca_file {}: holds no certificate (expected -----BEGIN CERTIFICATE-----)", path.display())]
    Empty { path: PathBuf },
    #[error("ca_file {}: certificate {number} cannot be a root: {source}", path.display())]
    Unusable {
        path: PathBuf,
        /// Counted from 1, in the file's order.
        number: usize,
        source: rustls::Error,
    },
}

/// The certificate authorities of one instance. Cheap to clone.
#[derive(Clone)]
pub struct TlsRoots {
    inner: Arc<Roots>,
}

struct Roots {
    /// From `ca_file`, checked.
    private: RootCertStore,
    /// `private` plus the system's, read at first use.
    all: OnceLock<Arc<RootCertStore>>,
}

impl TlsRoots {
    /// Loads the system's roots and those of `ca_file` (PEM, one or more certificates).
    pub fn load(ca_file: Option<&Path>) -> Result<Self, CaFileError> {
        let mut private = RootCertStore::empty();
        if let Some(path) = ca_file {
            for (index, certificate) in read_certificates(path)?.into_iter().enumerate() {
                private.add(certificate).map_err(|source| CaFileError::Unusable {
                    path: path.to_owned(),
                    number: index + 1,
                    source,
                })?;
            }
        }
        Ok(Self { inner: Arc::new(Roots { private, all: OnceLock::new() }) })
    }

    /// The configuration for HTTPS and WSS. Sets no ALPN: a caller that uses HTTP/2 adds `h2` to
    /// `alpn_protocols`.
    #[must_use]
    pub fn client_config(&self) -> rustls::ClientConfig {
        rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs supports the default protocol versions")
            .with_root_certificates(Arc::clone(self.store()))
            .with_no_client_auth()
    }

    /// The configuration for gRPC.
    #[must_use]
    pub fn grpc_config(&self) -> tonic::transport::ClientTlsConfig {
        tonic::transport::ClientTlsConfig::new().trust_anchors(self.store().roots.iter().cloned())
    }

    /// The number of trusted authorities. With zero every TLS connection fails, and the error
    /// should say why.
    #[must_use]
    pub fn count(&self) -> usize {
        self.store().len()
    }

    fn store(&self) -> &Arc<RootCertStore> {
        self.inner.all.get_or_init(|| {
            let system = system_roots();
            let all = if self.inner.private.is_empty() {
                system
            } else {
                let mut all = self.inner.private.clone();
                all.extend(system.roots.iter().cloned());
                Arc::new(all)
            };
            if all.is_empty() {
                tracing::warn!(
                    "no trusted certificate authorities: the system has none and no ca_file is set"
                );
            }
            all
        })
    }
}

/// The system's authorities. Instances that start together read them once and share one copy; one
/// that starts later reads the current store.
fn system_roots() -> Arc<RootCertStore> {
    static READ: Mutex<Option<(Instant, Arc<RootCertStore>)>> = Mutex::new(None);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, roots)) = &*read
        && at.elapsed() < SYSTEM_ROOTS_LIFETIME
    {
        return Arc::clone(roots);
    }
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    if !native.errors.is_empty() {
        tracing::debug!(problems = ?native.errors, "not all of the system's certificates can be read");
    }
    // Real stores contain a few certificates that no parser accepts: not worth a message.
    roots.add_parsable_certificates(native.certs);
    let roots = Arc::new(roots);
    *read = Some((Instant::now(), Arc::clone(&roots)));
    roots
}

impl fmt::Debug for TlsRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsRoots")
            .field("private", &self.inner.private.len())
            .field("all", &self.inner.all.get().map(|all| all.len()))
            .finish()
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaFileError> {
    let unreadable = |source| CaFileError::Unreadable { path: path.to_owned(), source };
    let mut text = Vec::new();
    // Reads at most one byte past the limit: the path may be an endless device.
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LARGEST_CA_FILE + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST_CA_FILE {
        return Err(CaFileError::TooLarge { path: path.to_owned() });
    }
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CaFileError::Pem { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(CaFileError::Empty { path: path.to_owned() });
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A self-signed authority made for these tests; its private key was deleted.
    const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBpTCCAUugAwIBAgIUCDPw2GL4Zwxlr7BrYqr4LGILq4wwCgYIKoZIzj0EAwIw
JzElMCMGA1UEAwwca21zLWNvbm5lY3RvciB0ZXN0IGF1dGhvcml0eTAgFw0yNjEx
MjIxMzIxNDJaGA8yMTI2MTAyOTEzMjE0MlowJzElMCMGA1UEAwwca21zLWNvbm5l
Y3RvciB0ZXN0IGF1dGhvcml0eTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABLJc
yPxb+xjcdkPcgjAlQR32a35MVslloEKP26wTpLg6CMCIUd+9gGxrh0nU5xLK2n9N
oH3wP3/1fH256t5vLC2jUzBRMB0GA1UdDgQWBBRjhraV9xsuX7EaunGwuEgQ3XFU
1TAfBgNVHSMEGDAWgBRjhraV9xsuX7EaunGwuEgQ3XFU1TAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIQCfUyXiLQPyx8YEd/vtKXTpOpIsG3kRB5zG
bc8xnRvjfwIgbwI4/SgS5BBq/z8MJtTBVcQUFfKCy7hd9+BKFXgLKVo=
-----END CERTIFICATE-----
";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn refusal(path: &Path) -> String {
        TlsRoots::load(Some(path)).unwrap_err().to_string()
    }

    /// Field failure T56.
    #[test]
    fn a_private_authority_joins_the_systems() {
        let system = TlsRoots::load(None).unwrap().count();
        let file = file(&format!("Bundle of one.\n\n{AUTHORITY}"));
        let roots = TlsRoots::load(Some(file.path())).unwrap();
        assert_eq!(roots.count(), system + 1);
        assert!(roots.client_config().alpn_protocols.is_empty());
    }

    #[test]
    fn every_mistake_names_the_file_and_itself() {
        let missing = Path::new("no/such/authority.pem");
        assert!(refusal(missing).starts_with("ca_file no/such/authority.pem: cannot be read"));

        let empty = file("# nothing here\n");
        assert!(refusal(empty.path()).contains("holds no certificate"));
        assert!(refusal(empty.path()).contains(&empty.path().display().to_string()));

        let cut = file(&AUTHORITY[..AUTHORITY.len() / 2]);
        assert!(refusal(cut.path()).contains("not valid PEM"));

        let second =
            format!("{AUTHORITY}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(refusal(file(&second).path()).contains("certificate 2 cannot be a root"));

        let huge = tempfile::NamedTempFile::new().unwrap();
        huge.as_file().set_len(LARGEST_CA_FILE + 1).unwrap();
        assert!(refusal(huge.path()).contains("larger than"));
    }
}
