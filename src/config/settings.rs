//! The validated settings that more than one part of the program is built from.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use async_nats::ServerAddr;

/// How to reach NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// Servers of one cluster or super-cluster, at least one; any of them will do.
    pub servers: Vec<NatsUrl>,
    /// A credentials file, as `nsc` writes it.
    pub credentials: Option<PathBuf>,
}

impl NatsConfig {
    /// The servers in the form that [`async_nats::ConnectOptions::connect`] takes.
    pub fn server_addresses(&self) -> Vec<ServerAddr> {
        self.servers.iter().map(|url| url.0.clone()).collect()
    }
}

/// Names the servers, never the secrets.
impl fmt::Display for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The address of one NATS server, which may carry a user and a password or a token.
///
/// `Debug` and `Display` leave those out, so that no log line or error can tell them.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl(ServerAddr);

impl FromStr for NatsUrl {
    type Err = InvalidNatsUrl;

    fn from_str(text: &str) -> Result<Self, InvalidNatsUrl> {
        // The error of the library may hold the text, and with it a password.
        let address: ServerAddr = text.parse().map_err(|_| InvalidNatsUrl)?;
        if matches!(address.scheme(), "nats" | "tls") && !address.host().is_empty() {
            Ok(Self(address))
        } else {
            Err(InvalidNatsUrl)
        }
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = (self.0.scheme(), self.0.host(), self.0.port());
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsUrl({self})")
    }
}

/// The text is no address of a NATS server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write nats://host:port, or tls:// to insist on TLS; percent-encode special characters of a password"
)]
pub struct InvalidNatsUrl;

/// The longest name of a deployment, in bytes.
const MAX_DEPLOYMENT_BYTES: usize = 32;

/// Which of several exporters side by side this one is: `main`, `blue`, `green`. It names the durable consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Deployment(String);

impl Deployment {
    /// The name as it stands in the consumer's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Deployment {
    type Err = InvalidDeployment;

    fn from_str(name: &str) -> Result<Self, InvalidDeployment> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=MAX_DEPLOYMENT_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidDeployment)
        }
    }
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no name of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a deployment is 1 to {MAX_DEPLOYMENT_BYTES} of the characters a-z, 0-9 and -, such as main or blue")]
pub struct InvalidDeployment;

/// How much of a call becomes series of its own. Whatever is left out still counts in the aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum DetailLevel {
    /// Aggregates alone.
    Off,
    /// Aggregates, and series of each session.
    Session,
    /// All that, and series of each pair of a session and a peer that it observes.
    Pair,
}

/// What detail is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// The finest level kept at all.
    pub level: DetailLevel,
    /// Pairs are kept only for meetings of up to this many sessions, because they grow with its square. `None` is
    /// for meetings of any size.
    pub pair_max_sessions: Option<NonZeroU32>,
}

/// Hard budgets. Beyond one, what is new is refused and counted; what exists stays right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live series of sessions and pairs, all meetings together.
    pub series: usize,
    /// Sessions of one meeting.
    pub sessions_per_meeting: usize,
    /// Peers that one session observes.
    pub peers_per_session: usize,
    /// Distinct values of the label `server_url`.
    pub server_urls: usize,
}

/// From where on a session counts as degraded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Round-trip time to the elected server.
    pub rtt: Duration,
    /// Concealed samples as a share of all samples played since the frame before, 0 to 1.
    pub concealment: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_neither_user_nor_password() {
        for (text, shown) in [
            ("nats://alice:hunter2@nats.example:4333", "nats://nats.example:4333"),
            ("s3cr3t-token@nats.example", "nats://nats.example:4222"),
            ("tls://alice:hunter2@[::1]:4222", "tls://[::1]:4222"),
        ] {
            let url: NatsUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("NatsUrl({shown})"));
        }
        let config = NatsConfig {
            servers: vec!["nats://alice:hunter2@a".parse().unwrap(), "b:1".parse().unwrap()],
            credentials: None,
        };
        assert_eq!(config.to_string(), "nats://a:4222, nats://b:1");
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.server_addresses()[0].password(), Some("hunter2"));
    }

    #[test]
    fn an_address_of_something_else_is_refused() {
        for text in
            ["", "http://nats.example", "ws://nats.example", "nats://", "nats://host:99999", "nats://a b"]
        {
            assert_eq!(text.parse::<NatsUrl>(), Err(InvalidNatsUrl), "{text:?}");
        }
    }
}
