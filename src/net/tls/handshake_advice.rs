//! What to do about a failed TLS handshake. Every client wraps the error in its own layers; at the
//! bottom is an error of rustls, whose type tells what is wrong. Pure.

use std::error::Error;
use std::io;

use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as Tls};

/// What to do about a handshake error, to be appended to its text; empty for any other error.
#[must_use]
pub fn advice(error: &(dyn Error + 'static)) -> &'static str {
    find_tls_error(error).map_or("", remedy)
}

/// The rustls error among the sources of this one.
fn find_tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Tls> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Tls>() {
            return Some(found);
        }
        // `io::Error::source` skips the wrapped error itself and returns the source of that.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most say nothing of what is to be done")]
fn remedy(error: &Tls) -> &'static str {
    match error {
        Tls::InvalidCertificate(Certificate::UnknownIssuer) => {
            "; trust its authority: ca_file, or the system's store"
        }
        Tls::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        )
        | Tls::AlertReceived(Alert::UnrecognisedName) => {
            "; the certificate is for another name: correct the host in the URL"
        }
        Tls::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "; have its certificate renewed, unless the clock of this machine is wrong"
        }
        Tls::InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        ) => "; is the clock of this machine right?",
        Tls::InvalidMessage(_) => {
            "; the server does not speak TLS: correct scheme or port of the URL"
        }
        Tls::PeerIncompatible(_)
        | Tls::AlertReceived(Alert::ProtocolVersion | Alert::HandshakeFailure) => {
            "; it offers no safe version or cipher: TLS 1.2 or 1.3 is needed"
        }
        Tls::AlertReceived(
            Alert::CertificateRequired | Alert::BadCertificate | Alert::UnknownCA,
        ) => "; it requires a client certificate, which is not supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Layer(#[source] io::Error);

    #[test]
    fn c4_what_is_wrong_with_a_handshake_is_found_under_any_layers() {
        for (error, word) in [
            (Tls::InvalidCertificate(Certificate::UnknownIssuer), "ca_file"),
            (Tls::InvalidCertificate(Certificate::NotValidForName), "another name"),
            (Tls::InvalidCertificate(Certificate::Expired), "renewed"),
            (Tls::InvalidCertificate(Certificate::NotValidYet), "clock"),
            (Tls::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "scheme or port"),
            (Tls::AlertReceived(Alert::CertificateRequired), "not supported"),
            (Tls::AlertReceived(Alert::ProtocolVersion), "1.2"),
        ] {
            let said = advice(&Layer(io::Error::other(io::Error::other(error.clone()))));
            assert!(said.contains(word), "{error}: {said}");
            assert_eq!(advice(&error), said);
        }
        assert_eq!(advice(&Layer(io::ErrorKind::ConnectionRefused.into())), "");
    }
}
