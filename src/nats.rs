//! Connecting to NATS, the same way for every command.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectOptions, Event};
use rand::RngExt;

use crate::config::NatsConfig;

/// The longest pause between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(4);

/// How many messages may wait in the client for one subscription: more than a pull request ever asks for.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// Why there is no connection to try with.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The credentials file can't be read.
    #[error("cannot read the credentials `{}` of --nats-creds", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The client refuses the settings.
    #[error("cannot set up the NATS connection")]
    Connect(#[source] ConnectError),
}

/// Connects under a name that `nats server report connections` shows. Where NATS is away the client comes
/// back at once and goes on trying, now and whenever the connection is lost.
///
/// # Errors
/// [`NatsError`] when the settings can't be used; never because NATS is away.
pub async fn connect(config: &NatsConfig, name: &str) -> Result<Client, NatsError> {
    let options = match &config.credentials {
        None => ConnectOptions::new(),
        Some(path) => {
            let unreadable = |source| NatsError::Credentials { path: path.clone(), source };
            let text = std::fs::read_to_string(path).map_err(unreadable)?;
            ConnectOptions::with_credentials(&text).map_err(unreadable)?
        }
    };
    options
        .name(name)
        .retry_on_initial_connect()
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts.min(6)).unwrap_or(6);
            let delay = Duration::from_millis(100).saturating_mul(1 << exponent).min(MAX_RECONNECT_DELAY);
            // A fleet that lost the same server must not come back to it in step.
            delay.mul_f64(rand::rng().random_range(0.5..1.0))
        })
        .event_callback(|event| async move {
            match event {
                Event::Connected => tracing::info!("NATS connected"),
                Event::Disconnected => tracing::warn!("NATS disconnected"),
                Event::SlowConsumer(_) => tracing::error!("messages were dropped before they could be taken"),
                Event::Closed | Event::Draining => tracing::debug!(%event, "NATS"),
                other => tracing::warn!(event = %other, "NATS"),
            }
        })
        .connect(config.server_addresses())
        .await
        .map_err(NatsError::Connect)
}
