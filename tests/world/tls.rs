//! A private certificate authority, and TLS in front of a server that speaks none.

use std::{net::SocketAddr, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Error, Result};

/// An authority nobody knows unless told.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    pub fn new() -> Result<Self> {
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let mut parameters = rcgen::CertificateParams::new(vec![]).map_err(failed)?;
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        Ok(Self { certificate, issuer: rcgen::Issuer::new(parameters, key) })
    }

    /// Writes the certificate to a file in PEM: what `ca_file` names.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.certificate.pem()).map_err(|e| Error::Io("ca_file".into(), e))
    }

    /// A certificate for 127.0.0.1 and its key, in PEM.
    pub fn issue(&self) -> Result<(String, String)> {
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let names = vec!["127.0.0.1".to_owned()];
        let leaf = rcgen::CertificateParams::new(names).map_err(failed)?;
        let leaf = leaf.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((leaf.pem(), key.serialize_pem()))
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::other(format!("certificates: {error}"))
}

/// Takes TLS connections and relays what is in them. Dropping it closes its port and all
/// connections.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl TlsFront {
    /// TLS on a free local port for `127.0.0.1:upstream`.
    pub async fn start(authority: &Authority, upstream: u16) -> Result<Self> {
        let (certificate, key) = authority.issue()?;
        let certificate = rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(failed)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.map_err(failed)?], key)
            .map_err(failed)?;
        let io = |e| Error::Io("TLS front".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, acceptor, upstream));
        Ok(Self { address, _accepting: accepting })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, upstream: u16) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let handshake = acceptor.accept(client);
                relays.spawn(async move {
                    // A client that does not believe us leaves here.
                    let Ok(mut client) = handshake.await else { return };
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else {
                        return;
                    };
                    let _ended = copy_bidirectional(&mut client, &mut server).await;
                });
            }
            Some(_) = relays.join_next() => {}
        }
    }
}
