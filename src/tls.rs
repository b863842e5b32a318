//! PEM files and cryptography for TLS, shared by the connections to NATS, Kubernetes and
//! Prometheus.
//!
//! The PEM parser's errors quote what they can't read, which may be part of a key.
//!
//! Invariant: no error of this module quotes a file.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{Error, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, RootCertStore};

/// The error of a PEM file; its text follows the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemError {
    #[error("is damaged: its PEM sections are incomplete")]
    Damaged,
    #[error("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error("holds no private key in PEM (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    #[error("holds a certificate that cannot be used as an authority")]
    BadAuthority,
    #[error("holds a private key that is damaged or of an unsupported kind")]
    BadKey,
    #[error("holds a key that does not belong to the certificate")]
    OtherKey,
    #[error("holds a certificate that cannot be read")]
    BadCertificate,
}

/// Returns the provider of cryptography for every connection.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Reads all certificates of a PEM file, at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(PemError::NoCertificate),
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(PemError::Damaged),
    }
}

/// Reads the first private key of a PEM file.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        Error::NoItemsFound => PemError::NoKey,
        _ => PemError::Damaged,
    })
}

/// Reads the authorities of a PEM file, at least one.
pub(crate) fn authorities(pem: &[u8]) -> Result<RootCertStore, PemError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|_| PemError::BadAuthority)?;
    }
    Ok(store)
}

/// Translates the error with which TLS rejects a certificate and its key.
pub(crate) fn refused_key(error: &rustls::Error) -> PemError {
    match error {
        rustls::Error::InconsistentKeys(_) => PemError::OtherKey,
        rustls::Error::InvalidCertificate(_) => PemError::BadCertificate,
        _ => PemError::BadKey,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_said_without_quoting_it() {
        assert_eq!(certificates(b"nothing"), Err(PemError::NoCertificate));
        assert_eq!(private_key(b"nothing").unwrap_err(), PemError::NoKey);
        let cut = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n";
        assert_eq!(private_key(cut).unwrap_err(), PemError::Damaged);
        let foreign = b"-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
        assert_eq!(private_key(foreign).unwrap_err(), PemError::NoKey);
        assert_eq!(authorities(foreign).unwrap_err(), PemError::BadAuthority);
    }
}
