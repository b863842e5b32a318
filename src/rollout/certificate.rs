//! When a certificate runs out.
//!
//! rustls says whether a certificate is good now, and not until when. That is one field of a structure that has not
//! changed since 1988, so it is walked to here, instead of taking a parser for all of X.509 into the program.

use std::net::IpAddr;
use std::sync::Arc;

use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::tls;

/// Why nobody knows when it runs out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// No PEM.
    #[error("it {0}")]
    Pem(#[from] tls::PemError),
    /// Not a certificate within.
    #[error("it holds what is no X.509 certificate")]
    Structure,
    /// The server can't be reached.
    #[error("the server cannot be asked")]
    Connect(#[from] std::io::Error),
    /// It shows none.
    #[error("the server shows no certificate")]
    None,
    /// TLS can't be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The host is no name.
    #[error("the host is no name that a certificate can have")]
    Name,
}

/// The earliest end of those in a PEM file: a chain is as good as its weakest link.
pub(crate) fn end_of_pem(pem: &[u8]) -> Result<OffsetDateTime, CertificateError> {
    earliest(&tls::certificates(pem)?)
}

/// The earliest end of those that a server shows. Whether they are to be trusted is not asked: one that has run out
/// must be told, too.
pub(crate) async fn end_of_server(
    host: &str,
    port: u16,
    nats: bool,
) -> Result<OffsetDateTime, CertificateError> {
    let mut stream = TcpStream::connect((host, port)).await?;
    if nats {
        // It greets in the clear, and then waits for the handshake.
        let mut greeting = String::new();
        BufReader::with_capacity(1, &mut stream).read_line(&mut greeting).await?;
    }
    let provider = tls::provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Onlooker(provider)))
        .with_no_client_auth();
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::IpAddress(address.into()),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(|_| CertificateError::Name)?,
    };
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().ok_or(CertificateError::None)?;
    earliest(certificates)
}

/// Whole days from `now` to `end`, negative once it is over.
pub(crate) fn days_left(end: OffsetDateTime, now: OffsetDateTime) -> i64 {
    (end - now).whole_seconds().div_euclid(24 * 60 * 60)
}

/// A moment as it is told.
pub(crate) fn shown(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

fn earliest(certificates: &[CertificateDer<'_>]) -> Result<OffsetDateTime, CertificateError> {
    let ends: Option<Vec<_>> = certificates.iter().map(|certificate| not_after(certificate)).collect();
    ends.and_then(|ends| ends.into_iter().min()).ok_or(CertificateError::Structure)
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `Certificate → tbsCertificate → validity → notAfter`, RFC 5280, 4.1.
fn not_after(der: &[u8]) -> Option<OffsetDateTime> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (to_be_signed, _) = expect(certificate, SEQUENCE)?;
    // [0] version, unless it is the first; serialNumber; signature; issuer; validity.
    let mut rest = to_be_signed;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (_, _, rest) = element(validity)?;
    let (tag, value, _) = element(rest)?;
    moment(tag, std::str::from_utf8(value).ok()?)
}

fn moment(tag: u8, text: &str) -> Option<OffsetDateTime> {
    let text = match tag {
        GENERALIZED_TIME => text.to_owned(),
        // Two digits of a year, of which 50 and more are of the last century.
        UTC_TIME => {
            let year: u8 = text.get(..2)?.parse().ok()?;
            format!("{}{text}", if year < 50 { "20" } else { "19" })
        }
        _ => return None,
    };
    let digits = text.strip_suffix('Z').filter(|digits| digits.len() == 14 && digits.is_ascii())?;
    let two = |at: usize| digits[at..at + 2].parse::<u8>().ok();
    let date =
        Date::from_calendar_date(digits[..4].parse().ok()?, Month::try_from(two(4)?).ok()?, two(6)?).ok()?;
    let time = Time::from_hms(two(8)?, two(10)?, two(12)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc())
}

fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, value, rest) = element(der)?;
    (found == tag).then_some((value, rest))
}

/// Tag, value and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let bytes = usize::from(first & 0x7f);
        if bytes == 0 || bytes > 4 {
            return None;
        }
        let (digits, after) = rest.split_at_checked(bytes)?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = after;
    }
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

/// Takes whatever is shown: nothing is sent over such a connection.
#[derive(Debug)]
struct Onlooker(Arc<CryptoProvider>);

impl ServerCertVerifier for Onlooker {
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
        // Up to 2049 two digits of the year are written, four from then on.
        let (soon, late) = (at("2031-02-03T04:05:06"), at("2050-01-01T00:00:00"));
        assert_eq!(end_of_pem(until(soon).as_bytes()).unwrap(), soon);
        assert_eq!(end_of_pem(until(late).as_bytes()).unwrap(), late);
        assert_eq!(end_of_pem((until(late) + &until(soon)).as_bytes()).unwrap(), soon);
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        let error = end_of_pem(b"nothing").unwrap_err();
        assert!(error.to_string().contains("holds no certificate in PEM"), "{error}");
        let der = tls::certificates(until(at("2031-02-03T00:00:00")).as_bytes()).unwrap().remove(0);
        for length in 0..120 {
            assert_eq!(not_after(&der[..length]), None);
        }
        assert_eq!(not_after(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn days_left_are_whole_and_negative_once_it_is_over() {
        let now = at("2031-01-01T12:00:00");
        assert_eq!(days_left(at("2031-01-15T12:00:00"), now), 14);
        assert_eq!(days_left(at("2031-01-15T11:59:00"), now), 13);
        assert_eq!(days_left(at("2031-01-01T11:59:00"), now), -1);
    }
}
