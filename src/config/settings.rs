//! Validated settings of the connection to NATS, which every command shares.
//!
//! Invariant: neither `Debug` nor `Display` of these types shows a secret.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;
use rand::seq::SliceRandom;

/// Settings of a connection to NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// Servers of one cluster or super-cluster; at least one.
    pub servers: Vec<NatsUrl>,
    /// Servers further away, used while none of the others is available.
    pub fallback: Vec<NatsUrl>,
    /// The user to connect as.
    pub identity: NatsIdentity,
    /// TLS settings.
    pub tls: NatsTls,
    /// Prefix of the subjects of replies, such as `_INBOX.exporter`. A user that may subscribe to
    /// nothing else can't read replies to others.
    pub inbox_prefix: String,
}

/// The user to connect as. Files are read at each connection, so that renewed secrets take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsIdentity {
    /// The server's `no_auth_user`, or the user of the client certificate.
    Anonymous,
    /// The user and password, or the token, of a URL.
    Login(Login),
    /// A user's JWT and key, in a file as `nsc` writes it.
    Credentials(PathBuf),
    /// A key pair, its seed in a file.
    Nkey(PathBuf),
    /// A name, and a password in a file.
    Password {
        /// Name of the user.
        user: String,
        /// File with the password in its first line.
        file: PathBuf,
    },
}

/// TLS settings of the connection to NATS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// File of authorities to trust instead of the system's.
    pub authorities: Option<PathBuf>,
    /// Files of the client's certificate and of its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Begin with TLS, before the server sends its greeting.
    pub first: bool,
}

impl NatsTls {
    /// Returns whether to refuse a connection without TLS. Any TLS setting requires it, otherwise
    /// an attacker in between could downgrade the connection.
    #[must_use]
    pub const fn required(&self) -> bool {
        self.first || self.authorities.is_some() || self.client.is_some()
    }
}

impl NatsConfig {
    /// Returns the servers for [`async_nats::ConnectOptions::connect`], without secrets: preferred
    /// ones first, each group shuffled so that load spreads.
    pub fn server_addresses(&self) -> Vec<ServerAddr> {
        let shuffled = |urls: &[NatsUrl]| {
            let mut addresses: Vec<_> = urls.iter().map(|url| url.address.clone()).collect();
            addresses.shuffle(&mut rand::rng());
            addresses
        };
        [shuffled(&self.servers), shuffled(&self.fallback)].concat()
    }

    /// Returns the same settings with other servers preferred to all of these.
    #[must_use]
    pub fn preferring(&self, servers: Vec<NatsUrl>) -> Self {
        Self { servers, fallback: [&*self.servers, &*self.fallback].concat(), ..self.clone() }
    }
}

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

/// A user and a password, or a token, from a URL.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user and a password.
    User {
        /// Name of the user.
        user: String,
        /// The secret.
        password: String,
    },
    /// A token: a URL with a name only.
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(***)")
    }
}

/// The address of one NATS server, with the login that its URL may have.
///
/// The address is stored without the login, so that no log line or error of any library can show
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsUrl {
    address: ServerAddr,
    login: Option<Login>,
}

impl NatsUrl {
    /// Returns the address, without secrets.
    #[must_use]
    pub const fn address(&self) -> &ServerAddr {
        &self.address
    }

    /// Returns the URL's login.
    #[must_use]
    pub const fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }
}

impl FromStr for NatsUrl {
    type Err = InvalidNatsUrl;

    fn from_str(text: &str) -> Result<Self, InvalidNatsUrl> {
        // The library would drop some of them, and with them a typing error.
        if text.trim().contains(char::is_control) {
            return Err(InvalidNatsUrl);
        }
        // The library's error may quote the text, and with it a password.
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

/// The error for a text that is not the address of a NATS server.
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
            let debug = format!("{url:?}");
            assert!(!["alice", "hunter2", "s3cr3t"].iter().any(|secret| debug.contains(secret)), "{debug}");
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
        for text in [
            "",
            "http://nats.example",
            "ws://nats.example",
            "nats://",
            "nats://host:99999",
            "nats://a b",
            "nats://a\nb",
            "nats://\ta",
        ] {
            assert_eq!(text.parse::<NatsUrl>(), Err(InvalidNatsUrl), "{text:?}");
        }
    }
}
