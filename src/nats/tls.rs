//! The check of the files of `--nats-ca`, `--nats-cert` and `--nats-key` at the start.
//!
//! The client reads them at each connection, so that renewed files take effect, and reports a wrong
//! one only as a failed connection.
//!
//! Invariant: a file that is wrong at the start is an error that names the flag and the file.

use std::path::Path;

use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error::NatsError;
use crate::config::{NatsTls, read_file};
use crate::tls::{authorities, certificates, private_key, provider, refused_key};

pub(super) fn check(tls: &NatsTls) -> Result<(), NatsError> {
    if let Some(file) = &tls.authorities {
        let flag = "--nats-ca";
        authorities(&read(flag, file)?).map_err(|error| NatsError::unusable(flag, file, error))?;
    }
    if let Some((certificate_file, key_file)) = &tls.client {
        let (certificate_flag, key_flag) = ("--nats-cert", "--nats-key");
        let chain = certificates(&read(certificate_flag, certificate_file)?)
            .map_err(|error| NatsError::unusable(certificate_flag, certificate_file, error))?;
        let key = private_key(&read(key_flag, key_file)?)
            .map_err(|error| NatsError::unusable(key_flag, key_file, error))?;
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_root_certificates(RootCertStore::empty()).with_client_auth_cert(chain, key)
            })
            .map_err(|error| NatsError::unusable(key_flag, key_file, refused_key(&error)))?;
    }
    Ok(())
}

fn read(flag: &'static str, file: &Path) -> Result<Vec<u8>, NatsError> {
    read_file(file).map_err(|source| NatsError::unreadable(flag, file, source))
}
