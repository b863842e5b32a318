//! The connection to NATS, the same for every command.
//!
//! NATS may be away at the start and go away at any time, secrets are renewed while the process
//! runs, and a server further away may have to stand in for the nearest. [`connect`] handles all
//! three, so that its callers see a client that reconnects by itself.
//!
//! Invariant: wrong settings fail at the start and name the flag and the file; an absent server
//! never does.

mod error;
mod failback;
mod identity;
mod options;
mod refusals;
mod tls;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, Event};
use rand::RngExt;

pub use self::error::NatsError;
use self::options::options;
pub use self::refusals::Refusals;
use crate::config::NatsConfig;
use crate::log::RateLimit;

/// Maximum pause between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Minimum time between two log lines about errors, since every message may cause one.
const LOG_ERRORS_EVERY: Duration = Duration::from_secs(5);

/// The client's text for every failure below its protocol.
const IO_ERROR: &str = "IO error";

const IO_ERROR_HINT: &str = "no server at this address, or TLS failed: check that both sides use TLS, that --nats-ca (or the \
    system) trusts the server's certificate for the host in --nats-url, and that the server accepts --nats-cert";

/// Connects under a name that `nats server report connections` shows. Returns at once if no server
/// is available; the client keeps trying, then and whenever the connection is lost.
///
/// # Errors
/// [`NatsError`] when the settings can't be used, never because no server is available.
pub async fn connect(config: &NatsConfig, name: &str) -> Result<Client, NatsError> {
    connect_noting(config, name, Refusals::default()).await
}

/// [`connect`], with what the server refuses noted in `refusals`.
///
/// # Errors
/// As [`connect`].
pub async fn connect_noting(
    config: &NatsConfig,
    name: &str,
    refusals: Refusals,
) -> Result<Client, NatsError> {
    let errors = Arc::new(Mutex::new(RateLimit::new(LOG_ERRORS_EVERY)));
    let servers = config.to_string();
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
            refusals.note(&event, Instant::now());
            report(&event, &servers, &errors);
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

fn report(event: &Event, servers: &str, errors: &Mutex<RateLimit>) {
    match event {
        Event::Connected => tracing::info!("NATS connected"),
        Event::Disconnected => tracing::warn!("NATS disconnected"),
        Event::SlowConsumer(_) => tracing::error!("messages were dropped: a subscription is full"),
        Event::Closed | Event::Draining => tracing::debug!(%event, "NATS"),
        other => {
            // A missing permission to publish causes an event per message.
            let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(suppressed) = errors.check(Instant::now()) else { return };
            match other {
                // The client hides the cause; the server's log has the rest.
                Event::ClientError(error) if error.to_string().contains(IO_ERROR) => {
                    tracing::warn!(servers, %error, suppressed, hint = IO_ERROR_HINT, "cannot reach NATS");
                }
                other => tracing::warn!(event = %other, suppressed, "NATS"),
            }
        }
    }
}
