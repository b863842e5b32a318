//! The options that every connection shares.
//!
//! Invariant: all files are checked before the first attempt to connect.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{AuthError, ConnectOptions};
use tokio_rustls::rustls::crypto::ring;

use super::error::NatsError;
use super::identity::Identity;
use super::tls;
use crate::config::NatsConfig;

/// Maximum number of messages that wait in the client per subscription: more than one pull request
/// asks for.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Time between two pings. A connection whose other end vanished is given up after two without an
/// answer; by default that takes minutes.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Builds the options of a connection from its settings.
pub(super) fn options(config: &NatsConfig, name: &str) -> Result<ConnectOptions, NatsError> {
    tls::check(&config.tls)?;
    // The client uses the process's default provider. One that is installed already is as good.
    let _ = ring::default_provider().install_default();

    let mut options = match Identity::new(&config.identity)? {
        None => ConnectOptions::new(),
        Some(identity) => {
            let identity = Arc::new(identity);
            ConnectOptions::with_auth_callback(move |nonce| {
                let identity = Arc::clone(&identity);
                let answer = tokio::task::spawn_blocking(move || identity.answer(&nonce));
                async move { answer.await.map_err(AuthError::new)? }
            })
        }
    };
    if let Some(file) = &config.tls.authorities {
        options = options.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &config.tls.client {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    if config.tls.first {
        options = options.tls_first();
    }
    Ok(options
        .name(name)
        .custom_inbox_prefix(&config.inbox_prefix)
        .ping_interval(PING_INTERVAL)
        .require_tls(config.tls.required())
        .subscription_capacity(SUBSCRIPTION_CAPACITY))
}
