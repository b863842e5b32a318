//! The HTTP client, for everything that Callsight asks or sends over HTTP.
//!
//! A rollout asks exporters and NATS servers, a replay asks Prometheus and writes to receivers of
//! remote write. Both need the same TLS, passwords, time limits and errors, so both use this
//! module. ureq blocks the calling thread, which suits a replay; async code uses
//! [`HttpClient::get`], which has a thread of its own for each request.
//!
//! Invariant: no error and no `Debug` output shows a password, a token or the value of a header,
//! and no answer is waited for longer than the client's time limit.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use headers::Authorization;
use headers::authorization::Credentials;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use ureq::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use url::Url;

use crate::config::{one_line, read_file};
use crate::tls;

/// Time limit of requests to Prometheus and to receivers of remote write, which may have much to
/// do.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Time limit of requests to exporters and NATS servers. An exporter writes half a million series
/// in under two seconds.
pub(crate) const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// The most that is read of an answer to a POST, in bytes.
const ANSWER_BYTES: u64 = 256 << 20;

/// The URL of a server, with what it takes to be let in. A user and password in it are sent as
/// basic auth and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    url: Url,
    authorization: Option<Header>,
}

/// The text is not an [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write http://host:port/path or https://…; percent-encode special characters of a password")]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        // The parser would drop some of them, and with them a typing error.
        if text.trim().contains(char::is_control) {
            return Err(AddressError);
        }
        let mut url = Url::parse(text).map_err(|_| AddressError)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.fragment().is_some() {
            return Err(AddressError);
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let user = decoded(url.username()).map_err(|_| AddressError)?;
        let password = decoded(url.password().unwrap_or_default()).map_err(|_| AddressError)?;
        let login = !user.is_empty() || !password.is_empty();
        let authorization = login.then(|| basic_auth(&user, &password));
        url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| AddressError)?;
        Ok(Self { url, authorization })
    }
}

impl Address {
    /// An address below this one, such as `api/v1/query`.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        let mut below = self.clone();
        let path = [below.url.path().trim_end_matches('/'), path.trim_start_matches('/')].join("/");
        below.url.set_path(&path);
        below
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold a token.
        let mut shown = self.url.clone();
        shown.set_query(None);
        f.write_str(shown.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// A header that a server requires, such as `X-Scope-OrgID: team`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    name: HeaderName,
    /// Marked as sensitive, so that `Debug` hides it.
    value: HeaderValue,
}

impl Header {
    fn new(name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self { name, value }
    }
}

/// The text is not a [`Header`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a header as `Name: value`")]
pub struct HeaderError;

impl FromStr for Header {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let (name, value) = text.split_once(':').ok_or(HeaderError)?;
        let name = name.trim().parse().map_err(|_| HeaderError)?;
        Ok(Self::new(name, value.trim().parse().map_err(|_| HeaderError)?))
    }
}

/// How to be let in by exporters that have a web config, and which authorities to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, serde::Deserialize)]
#[command(next_help_heading = "HTTP")]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct HttpAccess {
    /// User for basic auth, if the exporters have a web config; with `--http-password-file`
    #[arg(long = "http-user", value_name = "NAME")]
    pub(crate) user: Option<String>,

    /// File whose first line is the password of `--http-user`
    #[arg(long = "http-password-file", value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,

    /// PEM file of certificate authorities to trust for `https://` instead of the system's
    #[arg(long = "http-ca", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// The settings of an [`HttpAccess`] can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("cannot read `{}`", one_line(&path.display().to_string()))]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("`{}` {problem}", one_line(&path.display().to_string()))]
    Unusable { path: PathBuf, problem: String },
    #[error("a user needs a password file, and a password file a user")]
    HalfAUser,
}

/// A request has no usable answer. Any status is an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The answer was not complete within the time limit.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Slow(Duration),
    #[error("the answer is longer than {0} bytes; check the address")]
    TooLong(u64),
    /// The connection can't be made, breaks, or does not carry HTTP.
    #[error(transparent)]
    Exchange(ureq::Error),
    /// The system has no thread left for the request.
    #[error("cannot start a thread for the request")]
    Thread(#[source] io::Error),
}

/// What a server answered, whatever its status.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// How long to wait before asking again, if it says so.
    pub(crate) retry_after: Option<Duration>,
    /// The body, as text.
    pub(crate) body: String,
}

impl Answer {
    /// Status and first line, short enough to be shown.
    #[must_use]
    pub(crate) fn excerpt(&self) -> String {
        let line = self.body.lines().next().unwrap_or_default();
        let excerpt: String = line.chars().filter(|character| !character.is_control()).take(300).collect();
        if excerpt.is_empty() {
            format!("status {}", self.status)
        } else {
            format!("status {}: {excerpt}", self.status)
        }
    }
}

/// Sends requests, with the same headers in each.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    agent: ureq::Agent,
    headers: Vec<Header>,
    within: Duration,
}

impl HttpClient {
    /// A client that trusts the system's authorities and waits for an answer no longer than
    /// `within`.
    #[must_use]
    pub(crate) fn new(headers: Vec<Header>, within: Duration) -> Self {
        let system = rustls_native_certs::load_native_certs().certs;
        let agent = ureq::Agent::new_with_config(config(&system, within).build());
        Self { agent, headers, within }
    }

    /// A client for [`Self::get`].
    ///
    /// Each request has a connection of its own and goes through no proxy: behind the same address
    /// another exporter may answer next time.
    ///
    /// # Errors
    /// Files that can't be read or used.
    pub(crate) fn probing(access: &HttpAccess) -> Result<Self, AccessError> {
        let headers = match (&access.user, &access.password_file) {
            (None, None) => Vec::new(),
            (Some(user), Some(path)) => {
                vec![basic_auth(user, &password(path)?)]
            }
            _ => return Err(AccessError::HalfAUser),
        };
        let roots = match &access.ca {
            Some(path) => {
                let pem = read(path)?;
                let roots = tls::authorities(&pem).and_then(|_| tls::certificates(&pem));
                roots.map_err(|problem| unusable(path, &problem.to_string()))?
            }
            None => rustls_native_certs::load_native_certs().certs,
        };
        let config = config(&roots, PROBE_WITHIN)
            .accept("text/plain; version=0.0.4, application/json")
            .max_idle_connections(0)
            .max_redirects(0)
            .proxy(None);
        Ok(Self { agent: config.build().new_agent(), headers, within: PROBE_WITHIN })
    }

    /// Sends a body with the headers of its format, and blocks until the answer is there.
    ///
    /// # Errors
    /// [`HttpError`].
    pub(crate) fn post(
        &self,
        to: &Address,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, HttpError> {
        let mut request = self.agent.post(to.url.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        for Header { name, value } in self.headers_for(to) {
            request = request.header(name, value);
        }
        let mut response = request.send(body).map_err(|error| self.failed(error))?;
        let retry_after =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.body_mut().with_config().limit(ANSWER_BYTES).lossy_utf8(true).read_to_string();
        Ok(Answer {
            status: response.status().as_u16(),
            retry_after: retry_after.map(Duration::from_secs),
            body: body.map_err(|error| self.failed(error))?,
        })
    }

    /// The status of a GET of `path` below `from`, and what `read` makes of the body, which it
    /// reads piece by piece: a page of metrics may have hundreds of megabytes.
    ///
    /// A caller that gives up leaves the thread behind for the rest of the time limit; it does not
    /// delay the end of the process, as tokio's blocking threads would.
    ///
    /// # Errors
    /// [`HttpError`]; [`HttpError::TooLong`] for a body of more than `limit` bytes.
    pub(crate) async fn get<T: Send + 'static>(
        &self,
        from: &Address,
        path: &str,
        limit: u64,
        read: fn(&mut dyn Read) -> io::Result<T>,
    ) -> Result<(u16, T), HttpError> {
        let (client, from) = (self.clone(), from.below(path));
        let (sender, receiver) = oneshot::channel();
        let exchange = move || {
            // Nobody receives the answer if the caller has given up.
            let _ = sender.send(client.get_blocking(&from, limit, read));
        };
        thread::Builder::new().name("http".to_owned()).spawn(exchange).map_err(HttpError::Thread)?;
        receiver.await.unwrap_or_else(|ended| Err(HttpError::Thread(io::Error::other(ended))))
    }

    fn get_blocking<T>(
        &self,
        from: &Address,
        limit: u64,
        read: fn(&mut dyn Read) -> io::Result<T>,
    ) -> Result<(u16, T), HttpError> {
        let mut request = self.agent.get(from.url.as_str());
        for Header { name, value } in self.headers_for(from) {
            request = request.header(name, value);
        }
        let mut response = request.call().map_err(|error| self.failed(error))?;
        let mut body = response.body_mut().with_config().limit(limit).reader();
        let read = read(&mut body).map_err(|error| self.failed(error.into()))?;
        Ok((response.status().as_u16(), read))
    }

    fn headers_for<'a>(&'a self, address: &'a Address) -> impl Iterator<Item = &'a Header> {
        address.authorization.iter().chain(&self.headers)
    }

    fn failed(&self, error: ureq::Error) -> HttpError {
        match error {
            ureq::Error::Timeout(_) => HttpError::Slow(self.within),
            ureq::Error::BodyExceedsLimit(limit) => HttpError::TooLong(limit),
            error => HttpError::Exchange(error),
        }
    }
}

fn config(
    roots: &[impl AsRef<[u8]>],
    within: Duration,
) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    // Without any the handshake fails with an unknown issuer, which is what there is to say.
    let roots: Vec<_> = roots.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(tls::provider())
        .build();
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(within))
        .user_agent(concat!("callsight/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
}

/// Reads a body of JSON.
pub(crate) fn json<T: DeserializeOwned>(body: &mut dyn Read) -> io::Result<serde_json::Result<T>> {
    let mut text = Vec::new();
    body.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text))
}

fn basic_auth(user: &str, password: &str) -> Header {
    Header::new(AUTHORIZATION, Authorization::basic(user, password).0.encode())
}

/// The first line of a file.
fn password(path: &Path) -> Result<String, AccessError> {
    let text = String::from_utf8(read(path)?).map_err(|_| unusable(path, "is not UTF-8"))?;
    let line = text.lines().next().filter(|line| !line.is_empty());
    line.map(str::to_owned).ok_or_else(|| unusable(path, "holds no password in its first line"))
}

fn unusable(path: &Path, problem: &str) -> AccessError {
    AccessError::Unusable { path: path.to_owned(), problem: problem.to_owned() }
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    read_file(path).map_err(|source| AccessError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_user_needs_a_password_and_the_file_is_never_quoted() {
        let half = HttpAccess { user: Some("prometheus".to_owned()), ..HttpAccess::default() };
        assert!(matches!(HttpClient::probing(&half), Err(AccessError::HalfAUser)));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        fs::write(&file, b"\nhunter2\n").unwrap();
        let access = HttpAccess { password_file: Some(file.clone()), ..half };
        let error = HttpClient::probing(&access).err().unwrap().to_string();
        assert!(error.contains("no password in its first line") && !error.contains("hunter2"), "{error}");
        fs::write(&file, b"hunter2\n").unwrap();
        let client = HttpClient::probing(&access).ok().unwrap();
        assert_eq!(client.headers[0].value, "Basic cHJvbWV0aGV1czpodW50ZXIy");
        assert!(!format!("{client:?}").contains("Basic"), "{client:?}");
    }

    #[test]
    fn an_address_shows_no_secret() {
        let address: Address = "https://me:hunter2%21@prometheus.example/base/?token=s3cr3t".parse().unwrap();
        assert_eq!(address.to_string(), "https://prometheus.example/base");
        assert_eq!(address.authorization.as_ref().unwrap().value, "Basic bWU6aHVudGVyMiE=");
        assert_eq!(address.below("api/v1/query").to_string(), "https://prometheus.example/base/api/v1/query");
        let header: Header = "X-Scope-OrgID: team".parse().unwrap();
        assert_eq!((header.name.as_str(), header.value.to_str().unwrap()), ("x-scope-orgid", "team"));
        for shown in [format!("{address:?}"), format!("{header:?}")] {
            assert!(!["hunter2", "s3cr3t", "team"].iter().any(|secret| shown.contains(secret)), "{shown}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in
            ["", "prometheus:9090", "ftp://host/", "http://", "/api/v1/write", "http://a\nb", "http://a/\tb"]
        {
            assert_eq!(bad.parse::<Address>(), Err(AddressError), "{bad}");
        }
        for bad in ["", "name", ": value", "na me: value", "name: line\nbreak"] {
            assert_eq!(bad.parse::<Header>(), Err(HeaderError), "{bad}");
        }
    }

    /// Serves one connection with this text and ends.
    pub(crate) fn serve(answer: Vec<u8>) -> Address {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let _ = io::Read::read(&mut connection, &mut [0; 4096]);
            io::Write::write_all(&mut connection, &answer)
        });
        endpoint
    }

    /// The longest piece in which a body arrives, and the sum of all.
    fn pieces(body: &mut dyn Read) -> io::Result<(usize, usize)> {
        let (mut buffer, mut longest, mut sum) = (vec![0; 1 << 20], 0, 0);
        loop {
            match body.read(&mut buffer)? {
                0 => return Ok((longest, sum)),
                piece => (longest, sum) = (longest.max(piece), sum + piece),
            }
        }
    }

    #[tokio::test]
    async fn a_long_body_is_handed_on_in_pieces_unless_it_is_too_long() {
        const LENGTH: usize = 4 << 20;
        let mut answer = format!("HTTP/1.1 503 x\r\ncontent-length: {LENGTH}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + LENGTH, b'x');
        let client = HttpClient::probing(&HttpAccess::default()).unwrap();
        let endpoint = serve(answer.clone());
        let (status, (longest, sum)) = client.get(&endpoint, "/metrics", u64::MAX, pieces).await.unwrap();
        assert_eq!((status, sum), (503, LENGTH));
        assert!(longest <= 256 * 1024, "{longest}");
        let long = client.get(&serve(answer), "/readyz", 1000, pieces).await.err().unwrap();
        assert_eq!(long.to_string(), "the answer is longer than 1000 bytes; check the address");
    }
}
