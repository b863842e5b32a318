//! Asking Prometheus, and writing to what takes its remote write: plain requests, one after the other.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use url::Url;

/// How long a request may take, unless there is a reason for less.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The most that is read of an answer.
const ANSWER_BYTES: u64 = 256 << 20;

/// The address of a server that speaks HTTP. A user and password in it are sent as basic auth, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: Url,
    authorization: Option<String>,
}

/// Text that is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write http://host:port/path or https://…; percent-encode special characters of a password")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        // The error of the library is short, but says nothing that helps.
        let mut url: Url = text.parse().map_err(|_| AddressError)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.fragment().is_some() {
            return Err(AddressError);
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let user = decoded(url.username()).map_err(|_| AddressError)?;
        let password = decoded(url.password().unwrap_or_default()).map_err(|_| AddressError)?;
        let login = !user.is_empty() || !password.is_empty();
        let authorization = login.then(|| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| AddressError)?;
        Ok(Self { url, authorization })
    }
}

impl Address {
    /// An address below this one, such as `api/v1/query`.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        let mut below = self.clone();
        let base = below.url.path().trim_end_matches('/').to_owned();
        below.url.set_path(&format!("{base}/{path}"));
        below
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold a token.
        let mut shown = self.url.clone();
        shown.set_query(None);
        write!(f, "{shown}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// A header that a server wants, such as `X-Scope-OrgID: team`. Its value is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    name: String,
    value: String,
}

/// Text that is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a header as `Name: value`")]
pub struct HeaderError;

impl FromStr for Header {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let (name, value) = text.split_once(':').ok_or(HeaderError)?;
        let (name, value) = (name.trim(), value.trim());
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let text = |byte: u8| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic();
        if name.is_empty() || !name.bytes().all(token) || !value.bytes().all(text) {
            return Err(HeaderError);
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({}: ***)", self.name)
    }
}

/// What a server answered, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// How long to wait before asking again, if it says so.
    pub retry_after: Option<Duration>,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// Its first line, short enough to be shown.
    #[must_use]
    pub fn excerpt(&self) -> String {
        let line = self.body.lines().next().unwrap_or_default();
        let excerpt: String = line.chars().filter(|character| !character.is_control()).take(300).collect();
        if excerpt.is_empty() {
            format!("status {}", self.status)
        } else {
            format!("status {}: {excerpt}", self.status)
        }
    }
}

/// Sends requests to servers, with the same headers to each.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    headers: Vec<Header>,
}

impl Client {
    /// A client that trusts whom the system trusts, and waits for an answer no longer than this.
    #[must_use]
    pub fn new(headers: Vec<Header>, within: Duration) -> Self {
        let system = rustls_native_certs::load_native_certs().certs;
        let roots: Vec<_> = system.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(within))
            .user_agent(concat!("callsight/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Self { agent: config.new_agent(), headers }
    }

    /// POST of a body in a format, with the format's own headers.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn post(&self, to: &Address, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
        let mut request = self.agent.post(to.url.as_str());
        for (name, value) in headers.iter().copied().chain(self.own(to)) {
            request = request.header(name, value);
        }
        answer(request.send(body))
    }

    fn own<'a>(&'a self, to: &'a Address) -> impl Iterator<Item = (&'a str, &'a str)> {
        let headers = self.headers.iter().map(|header| (header.name.as_str(), header.value.as_str()));
        to.authorization.as_deref().map(|value| ("Authorization", value)).into_iter().chain(headers)
    }
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, String> {
    let mut response = response.map_err(|error| error.to_string())?;
    let retry_after =
        response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let body = response.body_mut().with_config().limit(ANSWER_BYTES).lossy_utf8(true).read_to_string();
    Ok(Answer {
        status: response.status().as_u16(),
        retry_after: retry_after.map(Duration::from_secs),
        body: body.map_err(|error| error.to_string())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_secret() {
        let address: Address = "https://me:hunter2%21@prometheus.example/base/?token=s3cr3t".parse().unwrap();
        assert_eq!(address.to_string(), "https://prometheus.example/base/");
        assert_eq!(address.authorization.as_deref(), Some("Basic bWU6aHVudGVyMiE="));
        assert_eq!(address.below("api/v1/query").to_string(), "https://prometheus.example/base/api/v1/query");
        let header: Header = "X-Scope-OrgID: team".parse().unwrap();
        assert_eq!((&*header.name, &*header.value), ("X-Scope-OrgID", "team"));
        for shown in [format!("{address:?}"), format!("{header:?}")] {
            assert!(!["hunter2", "s3cr3t", "team"].iter().any(|secret| shown.contains(secret)), "{shown}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in ["", "prometheus:9090", "ftp://host/", "http://", "/api/v1/write"] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError), "{bad}");
        }
        for bad in ["", "name", ": value", "na me: value", "name: line\nbreak"] {
            assert_eq!(bad.parse::<Header>(), Err(HeaderError), "{bad}");
        }
    }
}
