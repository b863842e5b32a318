//! The gate: TLS and passwords as the web-config file has them now.
//!
//! Certificates expire and passwords change while the exporter runs. So the file and the files that
//! it names are read every few seconds and compared by content, since secret stores replace files
//! without changing their time stamps. A configuration that is not valid, or protects less, is
//! refused and the former one stays in force: a typo must neither stop the scraping of a whole
//! fleet nor open what was closed.
//!
//! Invariant: once a gate is closed, no change of the file opens it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use headers::HeaderMapExt as _;
use hyper::Request;
use hyper::header::WWW_AUTHENTICATE;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};

use super::basic_auth::{PasswordVerdict, Verifier};
use super::web_config::{Sources, WebConfig, WebConfigError};

/// How often the files are read.
const RELOAD: Duration = Duration::from_secs(3);

/// The probes of the kubelet, which has no password. They reveal the exporter's health, but no
/// call.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

/// Decides which requests get in, and over what transport.
pub(super) struct Gate {
    current: RwLock<Arc<WebConfig>>,
    verifier: Verifier,
    /// Whether the file has changed to what is refused.
    refused: AtomicBool,
}

impl Gate {
    /// Makes a gate that is open to everybody.
    pub(super) fn open() -> Self {
        Self::with(Arc::default())
    }

    /// Makes a gate from a web-config file, which is reloaded in the background.
    pub(super) fn kept_by(path: &Path, background: &mut JoinSet<()>) -> Result<Arc<Self>, WebConfigError> {
        let sources = Sources::read(path)?;
        let config = Arc::new(sources.build()?);
        if sources.in_the_clear() {
            tracing::warn!("basic auth without TLS sends passwords in clear text");
        }
        let gate = Arc::new(Self::with(config));
        background.spawn(Arc::clone(&gate).keep(Arc::new(sources)));
        Ok(gate)
    }

    fn with(config: Arc<WebConfig>) -> Self {
        Self { current: RwLock::new(config), verifier: Verifier::new(), refused: AtomicBool::new(false) }
    }

    /// Shown by `/readyz`, which has no password, so it quotes nothing.
    pub(super) fn warning(&self) -> Option<&'static str> {
        self.refused.load(Ordering::Relaxed).then_some(
            "the changed file of --web-config is refused and the former configuration stays in force; the log \
             says why",
        )
    }

    /// The TLS acceptor for new connections; `None` for plain HTTP.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.config().tls.clone().map(TlsAcceptor::from)
    }

    /// Returns the response to a request that may not pass; `None` if it may.
    pub(super) async fn refuse<B>(&self, request: &Request<B>) -> Option<Response> {
        let config = self.config();
        if OPEN.contains(&request.uri().path()) {
            return None;
        }
        match self.verifier.judge(&config.users, request.headers().typed_get()).await {
            PasswordVerdict::Welcome => None,
            PasswordVerdict::Busy => {
                let text = "too many passwords are being checked; try again later\n";
                Some(warp::reply::with_status(text, StatusCode::SERVICE_UNAVAILABLE).into_response())
            }
            PasswordVerdict::Refused => {
                let text = warp::reply::with_status("unauthorized\n", StatusCode::UNAUTHORIZED);
                let realm = "Basic realm=\"callsight\", charset=\"UTF-8\"";
                Some(warp::reply::with_header(text, WWW_AUTHENTICATE, realm).into_response())
            }
        }
    }

    fn config(&self) -> Arc<WebConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reloads the file whenever it changes, until dropped.
    async fn keep(self: Arc<Self>, mut sources: Arc<Sources>) {
        let mut every = interval(RELOAD);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut problem = None;
        loop {
            every.tick().await;
            let old = Arc::clone(&sources);
            let read = match tokio::task::spawn_blocking(move || old.read_again()).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "reloading the web config failed");
                    continue;
                }
            };
            let now = match read {
                Ok(new) if new == *sources => None,
                read => match read.and_then(|new| Ok((new.build()?, new))) {
                    Ok((config, new)) => {
                        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                        sources = Arc::new(new);
                        tracing::info!("web config reloaded");
                        None
                    }
                    Err(error) => Some(error.to_string()),
                },
            };
            // Logged once per problem, not at each read.
            if let Some(error) = now.as_ref().filter(|_| now != problem) {
                tracing::warn!(error, "web config refused; the former one stays in force");
            }
            self.refused.store(now.is_some(), Ordering::Relaxed);
            problem = now;
        }
    }
}
