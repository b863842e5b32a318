//! Asking an exporter or a NATS server over HTTP: one GET, one answer, within a time.
//!
//! The gates of a rollout ask exporters that may have hundreds of megabytes to say, behind the same TLS and passwords
//! as they have for Prometheus. hyper and rustls are here already, to serve them; a client beside them is this file. A
//! body is handed on in the pieces in which it comes, so nobody has to hold a page whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use url::Url;

use crate::config::one_line;
use crate::tls;

/// How long an answer may take. An exporter writes half a million series in less than two seconds.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// An address to ask, `http://` or `https://`, without a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Endpoint(Url);

/// The text is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write http://host:port or https://host:port, without user and query")]
pub(crate) struct InvalidEndpoint;

impl std::str::FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(text).map_err(|_| InvalidEndpoint)?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if plain && matches!(url.scheme(), "http" | "https") && url.has_host() {
            Ok(Self(url))
        } else {
            Err(InvalidEndpoint)
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl<'de> serde::Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Who asks, and whom it trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Access {
    /// The user of basic auth.
    pub(crate) user: Option<String>,
    /// Its password, the first line of a file.
    pub(crate) password_file: Option<PathBuf>,
    /// Certificate authorities to trust instead of the system's, a file in PEM.
    pub(crate) ca: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// A file can't be read.
    #[error("cannot read `{}`", one_line(&path.display().to_string()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("`{}` {problem}", one_line(&path.display().to_string()))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, never quoting it.
        problem: String,
    },
    /// A setting lacks its other half.
    #[error("a user needs a password file, and a password file a user")]
    HalfAUser,
    /// Nobody listens there.
    #[error("cannot connect to {to}")]
    Connect {
        /// Host and port.
        to: String,
        /// Why not.
        source: io::Error,
    },
    /// The TLS settings can't be used.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The host can't stand in a certificate.
    #[error("the host is no name that a certificate can have")]
    Name(#[from] InvalidDnsNameError),
    /// The connection broke, or does not speak HTTP.
    #[error("no HTTP answer")]
    Http(#[from] hyper::Error),
    /// The answer took too long.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Slow(Duration),
    /// The body is longer than anybody expects.
    #[error("the answer is longer than {0} bytes")]
    Long(usize),
}

/// Who asks, with its secrets read and ready.
#[derive(Clone)]
pub(crate) struct HttpClient {
    authorization: Option<HeaderValue>,
    tls: TlsConnector,
}

impl HttpClient {
    /// Reads the files that `access` names.
    ///
    /// # Errors
    /// Files that can't be read or used.
    pub(crate) fn new(access: &Access) -> Result<Self, HttpError> {
        let authorization = match (&access.user, &access.password_file) {
            (None, None) => None,
            (Some(user), Some(path)) => Some(basic_auth(user, path)?),
            _ => return Err(HttpError::HalfAUser),
        };
        let roots = match &access.ca {
            Some(path) => tls::authorities(&read(path)?).map_err(|problem| HttpError::Unusable {
                path: path.clone(),
                problem: problem.to_string(),
            })?,
            None => {
                // Without any the handshake says that the issuer is unknown, which is what there is to say.
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { authorization, tls: Arc::new(config).into() })
    }

    /// The status of a GET of `path` under `endpoint`; `take` gets the body piece by piece.
    ///
    /// # Errors
    /// No answer, or none within `within`. Any status is an answer.
    pub(crate) async fn get(
        &self,
        endpoint: &Endpoint,
        path: &str,
        within: Duration,
        mut take: impl FnMut(&[u8]),
    ) -> Result<u16, HttpError> {
        let asked = self.ask(endpoint, path, &mut take);
        tokio::time::timeout(within, asked).await.unwrap_or(Err(HttpError::Slow(within)))
    }

    /// [`Self::get`] with the body as it is, of at most `limit` bytes.
    ///
    /// # Errors
    /// Those of [`Self::get`], and a longer body.
    pub(crate) async fn get_whole(
        &self,
        endpoint: &Endpoint,
        path: &str,
        within: Duration,
        limit: usize,
    ) -> Result<(u16, Vec<u8>), HttpError> {
        let mut body = Vec::new();
        let mut long = false;
        let answered = self.get(endpoint, path, within, |piece| {
            long |= body.len() + piece.len() > limit;
            if !long {
                body.extend_from_slice(piece);
            }
        });
        let status = answered.await?;
        if long { Err(HttpError::Long(limit)) } else { Ok((status, body)) }
    }

    async fn ask(
        &self,
        Endpoint(url): &Endpoint,
        path: &str,
        take: &mut impl FnMut(&[u8]),
    ) -> Result<u16, HttpError> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|source| HttpError::Connect { to: format!("{host}:{port}"), source })?;
        let target = format!("{}{path}", url.path().trim_end_matches('/'));
        if url.scheme() == "https" {
            let name = ServerName::try_from(host.to_owned())?;
            let stream = self
                .tls
                .connect(name, stream)
                .await
                .map_err(|source| HttpError::Connect { to: format!("{host}:{port} over TLS"), source })?;
            self.request(stream, url, &target, take).await
        } else {
            self.request(stream, url, &target, take).await
        }
    }

    async fn request(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        url: &Url,
        target: &str,
        take: &mut impl FnMut(&[u8]),
    ) -> Result<u16, HttpError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = hyper::Request::new(String::new());
        if let Ok(uri) = target.parse() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        let authority = url.authority();
        if let Ok(host) = HeaderValue::from_str(authority) {
            headers.insert(HOST, host);
        }
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("callsight/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT, HeaderValue::from_static("text/plain; version=0.0.4, application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        // The connection only moves while it is driven, and ends with this set.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let mut body = pin!(response.into_body());
        while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
            if let Some(data) = frame?.data_ref() {
                take(data);
            }
        }
        Ok(status)
    }
}

fn basic_auth(user: &str, path: &Path) -> Result<HeaderValue, HttpError> {
    let file = read(path)?;
    let unusable = |problem: &str| HttpError::Unusable { path: path.to_owned(), problem: problem.to_owned() };
    let text = std::str::from_utf8(&file).map_err(|_| unusable("is not UTF-8"))?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        return Err(unusable("holds no password in its first line"));
    }
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {encoded}"))
        .map_err(|_| unusable("holds what cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path) -> Result<Vec<u8>, HttpError> {
    fs::read(path).map_err(|source| HttpError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_neither_user_nor_query() {
        for (text, shown) in [
            ("http://127.0.0.1:9464", "http://127.0.0.1:9464"),
            ("https://callsight.example/blue/", "https://callsight.example/blue"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for text in ["", "127.0.0.1:9464", "nats://a:4222", "http://u:p@a", "http://a/?x=1"] {
            assert_eq!(text.parse::<Endpoint>(), Err(InvalidEndpoint), "{text}");
        }
    }

    #[test]
    fn a_user_needs_a_password_and_the_file_is_never_quoted() {
        let half = Access { user: Some("prometheus".to_owned()), ..Access::default() };
        assert!(matches!(HttpClient::new(&half), Err(HttpError::HalfAUser)));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        fs::write(&file, b"\nhunter2\n").unwrap();
        let access = Access { password_file: Some(file.clone()), ..half };
        let error = HttpClient::new(&access).err().unwrap().to_string();
        assert!(error.contains("no password in its first line") && !error.contains("hunter2"), "{error}");
        fs::write(&file, b"hunter2\n").unwrap();
        let client = HttpClient::new(&access).ok().unwrap();
        assert_eq!(client.authorization.unwrap(), "Basic cHJvbWV0aGV1czpodW50ZXIy");
    }
}
