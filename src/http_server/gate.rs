//! The gate: TLS and passwords as the web-config file has them now.
//!
//! Certificates expire and passwords change while the process runs. So the file and the files that
//! it names are reloaded ([`reload`](crate::reload)). A configuration that is not valid, or
//! protects less, is refused and the former one stays in force.
//!
//! Invariant: once a gate is closed, no change of the file opens it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use headers::HeaderMapExt as _;
use hyper::Request;
use hyper::header::WWW_AUTHENTICATE;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};

use super::basic_auth::{PasswordVerdict, Verifier};
use super::web_config::{Sources, WebConfig, WebConfigError};
use crate::reload;

/// The probes of the kubelet, which has no password. They reveal the process's health, but no call.
pub(crate) const PROBES: &[&str] = &["/livez", "/readyz"];

/// Decides which requests get in, and over what transport.
pub(crate) struct Gate {
    current: RwLock<Arc<WebConfig>>,
    verifier: Verifier,
    /// Paths that need no password.
    free: &'static [&'static str],
    /// Whether the file has changed to what is refused.
    refused: AtomicBool,
}

impl Gate {
    /// Makes a gate from a web-config file, which is reloaded in the background, or one that is
    /// open to everybody. The paths in `free` need no password.
    pub(crate) fn new(
        web_config: Option<&Path>,
        free: &'static [&'static str],
        background: &mut JoinSet<()>,
    ) -> Result<Arc<Self>, WebConfigError> {
        let sources = web_config.map(Sources::read).transpose()?;
        let config = sources.as_ref().map(Sources::build).transpose()?.unwrap_or_default();
        let gate = Arc::new(Self {
            current: RwLock::new(Arc::new(config)),
            verifier: Verifier::new(),
            free,
            refused: AtomicBool::new(false),
        });
        if let Some(sources) = sources {
            if sources.in_the_clear() {
                tracing::warn!("basic auth without TLS sends passwords in clear text");
            }
            background.spawn(Arc::clone(&gate).keep(sources));
        }
        Ok(gate)
    }

    /// Shown by `/readyz`, which has no password, so it quotes nothing.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        self.refused.load(Ordering::Relaxed).then_some(
            "the changed file of --web-config is refused and the former configuration stays in force; the log \
             says why",
        )
    }

    /// The TLS acceptor for new connections; `None` for plain HTTP.
    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.config().tls.clone().map(TlsAcceptor::from)
    }

    /// Returns the response to a request that may not pass; `None` if it may.
    pub(crate) async fn refuse<B>(&self, request: &Request<B>) -> Option<Response> {
        let config = self.config();
        if self.free.contains(&request.uri().path()) {
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
    async fn keep(self: Arc<Self>, sources: Sources) {
        let apply = |new: &Sources| {
            let config = Arc::new(new.build()?);
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
            Ok(())
        };
        reload::keep(sources, &self.refused, apply).await;
    }
}
