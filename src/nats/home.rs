//! Going back to the servers that are preferred, when they are there again.
//!
//! Whoever lost the servers next to him is connected to ones further away, and stays: a connection that works is
//! never given up by the client library. Everything would then go twice through the gateway for as long as the
//! process lives, and die with it. So it is looked, every few seconds while the connection leads elsewhere,
//! whether a preferred server takes us in again, over a connection of its own that is closed at once; if so, the
//! connection is made anew, which tries the preferred ones first.
//!
//! Servers that come and go would have the connection swing with them: after each return the next one is longer
//! in coming, until the connection has stayed for a while.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ServerInfo};
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::{NatsError, options};
use crate::config::NatsConfig;

/// How often it is looked, and the longest that a look may be put off.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(300));

/// How long it may take a preferred server to take us in.
const WITHIN: Duration = Duration::from_secs(2);

/// A connection that stays for so long has come home for good.
const SETTLED: Duration = Duration::from_secs(60);

/// Looks after a connection for as long as it is open.
pub(super) async fn keep(client: Client, config: NatsConfig, name: String) {
    let mut homes = BTreeSet::new();
    let mut pause = BOUNDS.0;
    let mut returned = Instant::now();
    loop {
        // A fleet must not come back in step.
        let share = rand::rng().random_range(0.75..1.0);
        sleep(pause.mul_f64(share)).await;
        if client.connection_state() != State::Connected {
            continue;
        }
        let here = place(&client.server_info());
        if homes.contains(&here) {
            if returned.elapsed() > SETTLED {
                pause = BOUNDS.0;
            }
            continue;
        }
        let Ok(Some(home)) = look(&config, &name).await else { continue };
        let elsewhere = home != here;
        homes.insert(home);
        if elsewhere && client.force_reconnect().await.is_ok() {
            tracing::info!(from = here, "a preferred NATS server is there again: going back to it");
            returned = Instant::now();
            pause = (pause * 2).min(BOUNDS.1);
        }
    }
}

/// Where a preferred server is that takes us in now.
async fn look(config: &NatsConfig, name: &str) -> Result<Option<String>, NatsError> {
    let addresses = config.servers.iter().map(|url| url.address().clone()).collect::<Vec<_>>();
    let connecting =
        options(config, &format!("{name}, looking"))?.connection_timeout(WITHIN).connect(addresses);
    let connected = timeout(WITHIN, connecting).await;
    let info = connected.ok().and_then(Result::ok).map(|client| client.server_info());
    Ok(info.filter(|info| !info.lame_duck_mode).map(|info| place(&info)))
}

/// Servers of a cluster are in one place; one that is in no cluster is a place of its own.
fn place(info: &ServerInfo) -> String {
    info.cluster.clone().unwrap_or_else(|| info.server_id.clone())
}
