//! The validated settings that more than one part of the program is built from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;
use rand::seq::SliceRandom;

/// How to reach NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// Servers of one cluster or super-cluster, at least one; any of them will do.
    pub servers: Vec<NatsUrl>,
    /// Servers further away, for while none of the others is there.
    pub fallback: Vec<NatsUrl>,
    /// As whom.
    pub identity: NatsIdentity,
    /// How the connection is protected.
    pub tls: NatsTls,
    /// What answers come back under, such as `_INBOX.exporter`: a user that may subscribe to nothing else reads
    /// nobody's answers but its own.
    pub inbox_prefix: String,
}

/// As whom to connect. Files are named, not held: they are read at each connection, so that what a secret store
/// renews is taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsIdentity {
    /// As the server's `no_auth_user`, or by a client certificate alone.
    Anonymous,
    /// As a URL says.
    Login(Login),
    /// By a user's JWT and its key, in a file as `nsc` writes it.
    Credentials(PathBuf),
    /// By a key pair, its seed in a file.
    Nkey(PathBuf),
    /// By name and a password in a file.
    Password {
        /// The name.
        user: String,
        /// The file that holds the password.
        file: PathBuf,
    },
}

/// How the connection to NATS is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Trust what these authorities signed, instead of what the system trusts.
    pub authorities: Option<PathBuf>,
    /// The files of this client's own certificate and of its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Begin with TLS, before the server says a word.
    pub first: bool,
}

impl NatsTls {
    /// Whether to refuse a connection without TLS. Who sets any of it up does not mean it to be optional: whoever
    /// sits in between could otherwise talk the client out of it.
    #[must_use]
    pub const fn required(&self) -> bool {
        self.first || self.authorities.is_some() || self.client.is_some()
    }
}

impl NatsConfig {
    /// The servers in the form that [`async_nats::ConnectOptions::connect`] takes, without secrets: the preferred
    /// ones first, and either in an order of chance, so that not everybody goes to the first.
    pub fn server_addresses(&self) -> Vec<ServerAddr> {
        let shuffled = |urls: &[NatsUrl]| {
            let mut addresses: Vec<_> = urls.iter().map(|url| url.address.clone()).collect();
            addresses.shuffle(&mut rand::rng());
            addresses
        };
        [shuffled(&self.servers), shuffled(&self.fallback)].concat()
    }

    /// The same connection, but that prefers other servers to all of these.
    #[must_use]
    pub fn preferring(&self, servers: Vec<NatsUrl>) -> Self {
        Self { servers, fallback: [&*self.servers, &*self.fallback].concat(), ..self.clone() }
    }
}

/// Names the servers, never the secrets.
impl fmt::Display for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if index == 0 { "" } else { ", " })?;
        }
        for (index, server) in self.fallback.iter().enumerate() {
            write!(f, "{}{server}", if index == 0 { ", else " } else { ", " })?;
        }
        Ok(())
    }
}

/// A user and a password, or a token, out of a URL.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// Both.
    User {
        /// The name.
        user: String,
        /// The secret.
        password: String,
    },
    /// A name alone is a token.
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(***)")
    }
}

/// The address of one NATS server, which may carry a user and a password or a token.
///
/// The address is kept without those, and `Debug` and `Display` leave them out, so that no log line or error, of
/// whatever library, can tell them.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl {
    address: ServerAddr,
    login: Option<Login>,
}

impl NatsUrl {
    /// Where it is, without secrets.
    #[must_use]
    pub const fn address(&self) -> &ServerAddr {
        &self.address
    }

    /// Who it says to connect as.
    #[must_use]
    pub const fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }
}

impl FromStr for NatsUrl {
    type Err = InvalidNatsUrl;

    fn from_str(text: &str) -> Result<Self, InvalidNatsUrl> {
        // The error of the library may hold the text, and with it a password.
        let address: ServerAddr = text.parse().map_err(|_| InvalidNatsUrl)?;
        if !matches!(address.scheme(), "nats" | "tls") || address.host().is_empty() {
            return Err(InvalidNatsUrl);
        }
        let decoded = |text| {
            let text = percent_decode_str(text).decode_utf8().map_err(|_| InvalidNatsUrl)?;
            Ok(text.into_owned())
        };
        let login = match (address.username(), address.password()) {
            (None, None) => None,
            (Some(token), None) => Some(Login::Token(decoded(token)?)),
            (user, Some(password)) => {
                Some(Login::User { user: decoded(user.unwrap_or_default())?, password: decoded(password)? })
            }
        };
        let mut url = address.into_inner();
        url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| InvalidNatsUrl)?;
        let address = ServerAddr::from_url(url).map_err(|_| InvalidNatsUrl)?;
        Ok(Self { address, login })
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = (self.address.scheme(), self.address.host(), self.address.port());
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
            fallback: vec!["nats://alice:hunter2@c".parse().unwrap()],
            identity: NatsIdentity::Login(Login::Token("s3cr3t".to_owned())),
            tls: NatsTls::default(),
            inbox_prefix: "_INBOX".to_owned(),
        };
        assert_eq!(config.to_string(), "nats://a:4222, nats://b:1, else nats://c:4222");
        let further = config.preferring(vec!["d".parse().unwrap()]);
        assert_eq!(further.to_string(), "nats://d:4222, else nats://a:4222, nats://b:1, nats://c:4222");
        let last = |config: &NatsConfig| config.server_addresses().last().unwrap().host().to_owned();
        assert_eq!(last(&config), "c", "however the others are shuffled");
        let shown = format!("{config:?} {:?}", config.server_addresses());
        for secret in ["alice", "hunter2", "s3cr3t"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn user_password_and_token_of_an_address_are_decoded() {
        let login = |text: &str| text.parse::<NatsUrl>().unwrap().login().cloned();
        let user = |user: &str, password: &str| Login::User { user: user.into(), password: password.into() };
        assert_eq!(login("nats://nats.example"), None);
        assert_eq!(login("nats://alice:p%40ss%2F@nats.example"), Some(user("alice", "p@ss/")));
        assert_eq!(login("tls://alice:@nats.example"), Some(Login::Token("alice".to_owned())));
        assert_eq!(login("s3cr3t-token@nats.example"), Some(Login::Token("s3cr3t-token".to_owned())));
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
