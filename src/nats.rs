//! The connection to NATS, the same for every command.
//!
//! NATS may be away at the start and go away at any time, secrets are renewed while the process
//! runs, and a server further away may have to stand in for the nearest. [`connect`] handles all
//! three, so that its callers see a client that reconnects by itself.
//!
//! Invariant: wrong settings fail at the start and name the flag and the file; an absent server
//! never does.

mod failback;
mod identity;
mod tls;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{AuthError, Client, ConnectError, ConnectOptions, Event};
use rand::RngExt;
use tokio_rustls::rustls::crypto::ring;

use self::identity::Identity;
use crate::config::{NatsConfig, one_line};
use crate::log::Bounded;

/// Maximum pause between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(4);

/// Maximum number of messages that wait in the client per subscription: more than one pull request
/// asks for.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Minimum time between two log lines about errors, since every message may cause one.
const LOG_ERRORS_EVERY: Duration = Duration::from_secs(5);

/// The client's text for every failure below its protocol.
const IO_ERROR: &str = "IO error";

const IO_ERROR_HINT: &str = "no server at this address, or TLS failed: check that both sides use TLS, that --nats-ca (or the \
    system) trusts the server's certificate for the host in --nats-url, and that the server accepts --nats-cert";

/// The error of settings that no connection can be made with.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A file can't be read.
    #[error("cannot read `{}` of {flag}", one_line(&path.display().to_string()))]
    Unreadable {
        /// Flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file's content does not fit its flag.
    #[error("`{}` of {flag} {problem}", one_line(&path.display().to_string()))]
    Unusable {
        /// Flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, without quoting the file.
        problem: String,
    },
    /// The client rejects the settings.
    #[error("cannot set up the NATS connection")]
    Connect(#[source] ConnectError),
}

impl NatsError {
    fn unreadable(flag: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Unreadable { flag, path: path.to_owned(), source }
    }

    fn unusable(flag: &'static str, path: &Path, problem: impl ToString) -> Self {
        Self::Unusable { flag, path: path.to_owned(), problem: problem.to_string() }
    }
}

/// Connects under a name that `nats server report connections` shows. Returns at once if no server
/// is available; the client keeps trying, then and whenever the connection is lost.
///
/// # Errors
/// [`NatsError`] when the settings can't be used, never because no server is available.
pub async fn connect(config: &NatsConfig, name: &str) -> Result<Client, NatsError> {
    let errors = Arc::new(Mutex::new(Bounded::every(LOG_ERRORS_EVERY)));
    let connected_before = Arc::new(AtomicBool::new(false));
    let was_connected = Arc::clone(&connected_before);
    let mut options = options(config, name)?;
    if !config.fallback.is_empty() {
        // Servers discovered through a fallback server must not come before the preferred ones.
        options = options.retain_servers_order().ignore_discovered_servers();
    }
    let client = options
        .retry_on_initial_connect()
        .reconnect_delay_callback(move |attempts| {
            if attempts <= 1 && !was_connected.load(Ordering::Relaxed) {
                return Duration::ZERO;
            }
            let exponent = u32::try_from(attempts.min(6)).unwrap_or(6);
            let delay = Duration::from_millis(100).saturating_mul(1 << exponent).min(MAX_RECONNECT_DELAY);
            // A fleet that lost the same server must not reconnect in lockstep.
            delay.mul_f64(rand::rng().random_range(0.5..1.0))
        })
        .event_callback(move |event| {
            connected_before.fetch_or(event == Event::Connected, Ordering::Relaxed);
            report(&event, &errors);
            async {}
        })
        .connect(config.server_addresses())
        .await
        .map_err(NatsError::Connect)?;
    if !config.fallback.is_empty() {
        tokio::spawn(failback::keep(client.clone(), config.clone(), name.to_owned()));
    }
    Ok(client)
}

/// Returns the options that every connection shares.
fn options(config: &NatsConfig, name: &str) -> Result<ConnectOptions, NatsError> {
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
        .require_tls(config.tls.required())
        .subscription_capacity(SUBSCRIPTION_CAPACITY))
}

fn report(event: &Event, errors: &Mutex<Bounded>) {
    match event {
        Event::Connected => tracing::info!("NATS connected"),
        Event::Disconnected => tracing::warn!("NATS disconnected"),
        Event::SlowConsumer(_) => tracing::error!("messages were dropped: a subscription is full"),
        Event::Closed | Event::Draining => tracing::debug!(%event, "NATS"),
        other => {
            // A missing permission to publish causes an event per message.
            let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(held_back) = errors.allow(Instant::now()) else { return };
            match other {
                // The client hides the cause; the server's log has the rest.
                Event::ClientError(error) if error.to_string().contains(IO_ERROR) => {
                    tracing::warn!(event = %other, held_back, hint = IO_ERROR_HINT, "NATS");
                }
                other => tracing::warn!(event = %other, held_back, "NATS"),
            }
        }
    }
}
