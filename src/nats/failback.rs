//! The return to preferred servers once they are available again.
//!
//! A client that lost its nearest servers connects to a fallback and stays, since the client
//! library never gives up a working connection. All frames would then pass the gateway twice, until
//! the process restarts. So while the connection leads to a fallback, a probe connects to the
//! preferred servers every few seconds. If one accepts, the client reconnects, which tries the
//! preferred servers first.
//!
//! Invariant: servers that come and go do not make the connection flap. Each return doubles the
//! pause before the next probe, until the connection has stayed for a while.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ServerInfo};
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::error::NatsError;
use super::options::options;
use crate::config::NatsConfig;

/// First pause between two probes.
const FIRST_PAUSE: Duration = Duration::from_secs(3);

/// Maximum pause between two probes.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Time within which a preferred server must accept the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which a return counts as stable, which resets the pause.
const SETTLED: Duration = Duration::from_secs(60);

/// Keeps a connection at the preferred servers, for as long as the client lives.
pub(super) async fn keep(client: Client, config: NatsConfig, name: String) {
    let mut preferred = BTreeSet::new();
    let mut pause = FIRST_PAUSE;
    let mut returned = Instant::now();
    loop {
        // A fleet must not return in lockstep.
        let share = rand::rng().random_range(0.75..1.0);
        sleep(pause.mul_f64(share)).await;
        if client.connection_state() != State::Connected {
            continue;
        }
        let here = place(&client.server_info());
        if preferred.contains(&here) {
            if returned.elapsed() > SETTLED {
                pause = FIRST_PAUSE;
            }
            continue;
        }
        let Ok(Some(there)) = probe(&config, &name).await else { continue };
        let elsewhere = there != here;
        preferred.insert(there);
        if elsewhere && client.force_reconnect().await.is_ok() {
            tracing::info!(from = here, "a preferred NATS server is available again: reconnecting");
            returned = Instant::now();
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

/// Connects to a preferred server and returns its place; `None` if none accepts.
async fn probe(config: &NatsConfig, name: &str) -> Result<Option<String>, NatsError> {
    let addresses = config.servers.iter().map(|url| url.address().clone()).collect::<Vec<_>>();
    let options = options(config, &format!("{name}, probe"))?.connection_timeout(PROBE_TIMEOUT);
    let connected = timeout(PROBE_TIMEOUT, options.connect(addresses)).await;
    let info = connected.ok().and_then(Result::ok).map(|client| client.server_info());
    Ok(info.filter(|info| !info.lame_duck_mode).map(|info| place(&info)))
}

/// Returns the cluster of a server, or the server itself outside of clusters.
fn place(info: &ServerInfo) -> String {
    info.cluster.clone().unwrap_or_else(|| info.server_id.clone())
}
