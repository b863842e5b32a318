//! The validated settings that more than one part of the program is built from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

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
