//! The gate: what the web-config file says right now.
//!
//! Certificates expire and passwords change while the exporter runs. The file and those that it
//! names are read again every few seconds, by content, as a secret store replaces them in ways that
//! a time stamp does not tell. What can't be used leaves in force what was there before: a typing
//! mistake must not end the scraping of a whole fleet, nor open what was closed.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::Request;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};

use super::basic_auth::{Verdict, Verifier};
use super::web_config::{Sources, WebConfig, WebConfigError};

/// How often the files are read again.
const RELOAD: Duration = Duration::from_secs(3);

/// What the kubelet asks, which has no password. They tell how the exporter is doing, and nothing
/// of any call.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

/// Who gets in.
pub(super) struct Gate {
    current: RwLock<Arc<WebConfig>>,
    verifier: Verifier,
}

impl Gate {
    /// One that is open to everybody.
    pub(super) fn open() -> Self {
        Self { current: RwLock::default(), verifier: Verifier::new() }
    }

    /// One that the file keeps, and what it was read from.
    pub(super) fn kept_by(path: &Path) -> Result<(Self, Sources), WebConfigError> {
        let sources = Sources::read(path)?;
        let config = Arc::new(sources.build()?);
        if sources.in_the_clear() {
            tracing::warn!("basic auth without TLS: passwords cross the network as they are");
        }
        Ok((Self { current: RwLock::new(config), verifier: Verifier::new() }, sources))
    }

    /// What a new connection begins with; plain HTTP without.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.config().tls.clone().map(TlsAcceptor::from)
    }

    /// The answer to a request that may not pass.
    pub(super) async fn refuse<B>(&self, request: &Request<B>) -> Option<Response> {
        let config = self.config();
        if config.users.is_empty() || OPEN.contains(&request.uri().path()) {
            return None;
        }
        let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        match self.verifier.judge(&config.users, authorization).await {
            Verdict::Welcome => None,
            Verdict::Busy => {
                let text = "too many passwords are being checked; try again later\n";
                Some(warp::reply::with_status(text, StatusCode::SERVICE_UNAVAILABLE).into_response())
            }
            Verdict::Refused => {
                let text = warp::reply::with_status("unauthorized\n", StatusCode::UNAUTHORIZED);
                let realm = "Basic realm=\"callsight\", charset=\"UTF-8\"";
                Some(warp::reply::with_header(text, WWW_AUTHENTICATE, realm).into_response())
            }
        }
    }

    fn config(&self) -> Arc<WebConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up changes of the file for ever.
    pub(super) async fn keep(self: Arc<Self>, mut sources: Sources, path: Arc<Path>) {
        let mut every = interval(RELOAD);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut problem = None;
        loop {
            every.tick().await;
            let path = Arc::clone(&path);
            let read = match tokio::task::spawn_blocking(move || Sources::read(&path)).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "reading the web config again failed");
                    continue;
                }
            };
            let built = match read {
                Ok(new) if new == sources => {
                    problem = None;
                    continue;
                }
                Ok(new) => new.build().map(|config| (new, config)),
                Err(error) => Err(error),
            };
            match built {
                Ok((new, config)) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    sources = new;
                    problem = None;
                    tracing::info!("web config taken up again");
                }
                Err(error) => {
                    // Once for each mistake, not at each look.
                    let error = error.to_string();
                    if problem.as_ref() != Some(&error) {
                        tracing::error!(error, "web config not taken up; what was in force stays");
                    }
                    problem = Some(error);
                }
            }
        }
    }
}
