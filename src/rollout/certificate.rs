//! Reads when a certificate expires.
//!
//! rustls says whether a certificate is valid now, but not until when. A gate needs the date before
//! it is too late.
//!
//! Invariant: the connection that reads a server's certificate verifies nothing, so nothing is ever
//! sent over it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer as _;

use crate::tls;

/// The expiry of a certificate can't be read. Shown after the name of its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("it {0}")]
    Pem(#[from] tls::PemError),
    #[error("its value is not base64, as the API of Kubernetes has it: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error("it is not an X.509 certificate")]
    Structure(#[from] x509_parser::nom::Err<X509Error>),
    #[error("cannot connect to the server")]
    Connect(#[from] std::io::Error),
    #[error("the server presents no certificate")]
    None,
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("the host is not a valid name for a certificate")]
    Name,
}

/// The earliest end of validity in a PEM file, since a chain is as good as its weakest link.
pub(crate) fn end_of_pem(pem: &[u8]) -> Result<OffsetDateTime, CertificateError> {
    earliest(&tls::certificates(pem)?)
}

/// The same in the value of a secret, in base64 as the API has it.
pub(crate) fn end_of_secret(encoded: &str) -> Result<OffsetDateTime, CertificateError> {
    end_of_pem(&STANDARD.decode(encoded.trim())?)
}

/// The earliest end of validity that a server presents. `nats` servers greet before the handshake.
/// Trust is not verified, so that the date of an expired certificate is read too.
pub(crate) async fn end_of_server(
    host: &str,
    port: u16,
    nats: bool,
) -> Result<OffsetDateTime, CertificateError> {
    let mut stream = TcpStream::connect((host, port)).await?;
    if nats {
        let mut greeting = String::new();
        BufReader::with_capacity(1, &mut stream).read_line(&mut greeting).await?;
    }
    let provider = tls::provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| CertificateError::Name)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().ok_or(CertificateError::None)?;
    earliest(certificates)
}

/// Whole days from `now` to `end`; negative once it has passed.
pub(crate) fn days_left(end: OffsetDateTime, now: OffsetDateTime) -> i64 {
    (end - now).whole_seconds().div_euclid(24 * 60 * 60)
}

pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

/// The earliest end of validity among these.
fn earliest(certificates: &[CertificateDer<'_>]) -> Result<OffsetDateTime, CertificateError> {
    let end = |der: &CertificateDer<'_>| {
        X509Certificate::from_der(der).map(|(_, certificate)| certificate.validity().not_after.to_datetime())
    };
    let ends: Result<Vec<_>, _> = certificates.iter().map(end).collect();
    ends?.into_iter().min().ok_or(CertificateError::None)
}

/// Accepts any certificate, to read its date.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn at(text: &str) -> OffsetDateTime {
        OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339).unwrap()
    }

    fn until(end: OffsetDateTime) -> String {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = at("2000-01-01T00:00:00");
        params.not_after = end;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn the_end_is_read_in_both_notations_and_the_earliest_counts() {
        // Years up to 2049 are written with two digits, later ones with four.
        let (soon, late) = (at("2031-02-03T04:05:06"), at("2050-01-01T00:00:00"));
        assert_eq!(end_of_pem(until(soon).as_bytes()).unwrap(), soon);
        assert_eq!(end_of_pem(until(late).as_bytes()).unwrap(), late);
        assert_eq!(end_of_pem((until(late) + &until(soon)).as_bytes()).unwrap(), soon);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let error = end_of_pem(b"nothing").unwrap_err();
        assert!(error.to_string().contains("holds no certificate in PEM"), "{error}");
        let der = tls::certificates(until(at("2031-02-03T00:00:00")).as_bytes()).unwrap().remove(0);
        for length in 0..der.len() {
            assert!(earliest(&[CertificateDer::from(&der[..length])]).is_err());
        }
    }

    #[test]
    fn a_secret_that_is_not_base64_is_told_from_one_without_a_certificate() {
        let end = at("2031-02-03T04:05:06");
        assert_eq!(end_of_secret(&format!("{}\n", STANDARD.encode(until(end)))).unwrap(), end);
        let damaged = end_of_secret("-----BEGIN").unwrap_err().to_string();
        assert!(damaged.starts_with("its value is not base64"), "{damaged}");
        let empty = end_of_secret("").unwrap_err().to_string();
        assert!(empty.contains("holds no certificate in PEM"), "{empty}");
    }

    #[test]
    fn days_left_are_whole_and_negative_after_the_end() {
        let now = at("2031-01-01T12:00:00");
        assert_eq!(days_left(at("2031-01-15T12:00:00"), now), 14);
        assert_eq!(days_left(at("2031-01-15T11:59:00"), now), 13);
        assert_eq!(days_left(at("2031-01-01T11:59:00"), now), -1);
    }
}
