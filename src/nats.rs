//! Connecting to NATS, the same way for every command.

mod home;
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
use crate::log::RateLimit;

/// The longest pause between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(4);

/// How many messages may wait in the client for one subscription: more than a pull request ever asks for.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// The shortest time between two log lines about errors, of which there may be one a message.
const LOG_ERRORS_EVERY: Duration = Duration::from_secs(5);

/// What the client calls everything that goes wrong below its protocol.
const IO_ERROR: &str = "IO error";

/// What that may be, beside a server that is away.
const TLS_HINT: &str = "no server there, or TLS failed: do both sides speak it, is the server's certificate signed by \
    --nats-ca (or an authority of the system) for the host in --nats-url, and does it accept --nats-cert?";

/// Why there is no connection to try with.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A file can't be read.
    #[error("cannot read `{}` of {flag}", one_line(&path.display().to_string()))]
    Unreadable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what its flag says.
    #[error("`{}` of {flag} {problem}", one_line(&path.display().to_string()))]
    Unusable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, never quoting it.
        problem: String,
    },
    /// The client refuses the settings.
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

/// Connects under a name that `nats server report connections` shows. Where NATS is away the client comes
/// back at once and goes on trying, now and whenever the connection is lost.
///
/// # Errors
/// [`NatsError`] when the settings can't be used; never because NATS is away.
pub async fn connect(config: &NatsConfig, name: &str) -> Result<Client, NatsError> {
    let errors = Arc::new(Mutex::new(RateLimit::new(LOG_ERRORS_EVERY)));
    let servers = config.to_string();
    let connected_before = Arc::new(AtomicBool::new(false));
    let was_connected = Arc::clone(&connected_before);
    let mut options = options(config, name)?;
    if !config.fallback.is_empty() {
        // What a server further away knows of its neighbours must not come before the preferred ones.
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
            // A fleet that lost the same server must not come back to it in step.
            delay.mul_f64(rand::rng().random_range(0.5..1.0))
        })
        .event_callback(move |event| {
            connected_before.fetch_or(event == Event::Connected, Ordering::Relaxed);
            report(&event, &servers, &errors);
            async {}
        })
        .connect(config.server_addresses())
        .await
        .map_err(NatsError::Connect)?;
    if !config.fallback.is_empty() {
        tokio::spawn(home::keep(client.clone(), config.clone(), name.to_owned()));
    }
    Ok(client)
}

/// What every connection has in common.
fn options(config: &NatsConfig, name: &str) -> Result<ConnectOptions, NatsError> {
    tls::check(&config.tls)?;
    // The client takes the process's choice of cryptography; one that was made before is as good.
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

fn report(event: &Event, servers: &str, errors: &Mutex<RateLimit>) {
    match event {
        Event::Connected => tracing::info!("NATS connected"),
        Event::Disconnected => tracing::warn!("NATS disconnected"),
        Event::SlowConsumer(_) => tracing::error!("messages were dropped before they could be taken"),
        Event::Closed | Event::Draining => tracing::debug!(%event, "NATS"),
        other => {
            // A user without the right to publish is told so for each message.
            let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(suppressed) = errors.check(Instant::now()) else { return };
            match other {
                // The client keeps to itself what went wrong; the server's log has the other half.
                Event::ClientError(error) if error.to_string().contains(IO_ERROR) => {
                    tracing::warn!(servers, %error, suppressed, hint = TLS_HINT, "cannot reach NATS");
                }
                other => tracing::warn!(event = %other, suppressed, "NATS"),
            }
        }
    }
}
