//! Rewind: the triage page of any moment of the past.
//!
//! After an incident people ask what the page showed at 9:42, and a minute before. So a window of
//! the stream is folded once, by the engine of [`crate::replay`], and the page of each step is kept
//! on disk, as [`crate::triage`] makes it for the present.
//!
//! [`windows`] has the windows, [`recorder`] makes a [`tape`] of one, [`routes`] answers.
//!
//! Invariant: it reads streams and writes nothing but its tapes; no exporter notices it.

mod recorder;
mod routes;
mod tape;
mod windows;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_nats::jetstream::Context;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::http_server::{self, Gate, PROBES, WebConfigError};
use crate::insight::state::Threshold;
use crate::replay::engine::{EngineConfig, Filter};
use crate::replay::window::{Moment, Window};
use crate::triage::{Document, Fixed};
use callsight_fold::FoldSettings;
use callsight_frame::subject::Region;
use routes::{State, routes};
pub(crate) use windows::WindowLimits;
use windows::{AskError, Asked, Folding, Windows, now};

/// How many connections are open at a time.
const MAX_CONNECTIONS: usize = 256;

/// The configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RewindConfig {
    pub(crate) listen: SocketAddr,
    /// As of the exporter.
    pub(crate) web_config: Option<PathBuf>,
    pub(crate) regions: Vec<Region>,
    pub(crate) mirror: bool,
    pub(crate) fold: FoldSettings,
    /// The window to begin with.
    pub(crate) first: Option<(Moment, Moment)>,
    /// The page of the present.
    pub(crate) live_url: Option<String>,
    /// Where tapes are.
    pub(crate) folder: PathBuf,
    pub(crate) limits: WindowLimits,
}

/// It can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewindError {
    #[error("cannot listen on {address}; choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    WebConfig(#[from] WebConfigError),
    #[error("--from and --to: {0}")]
    First(#[source] AskError),
}

pub(crate) struct Rewind {
    http: JoinHandle<()>,
    _background: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Rewind {
    /// Listens, and begins to fold the first window. NATS may be unreachable; the page says so.
    ///
    /// # Errors
    /// [`RewindError`] if the address can't be listened on, or the settings can't be used.
    pub(crate) async fn start(context: Context, config: RewindConfig) -> Result<Self, RewindError> {
        let mut background = JoinSet::new();
        let gate = Gate::new(config.web_config.as_deref(), PROBES, &mut background)?;
        let cannot = |source| RewindError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let windows = Windows::new(config.folding(context));
        let first = match config.first {
            None => None,
            Some((from, to)) => {
                let asked =
                    Asked::new(from, to, None, now(), windows.limits()).map_err(RewindError::First)?;
                windows.open(&asked).map_err(RewindError::First)?;
                Some(asked)
            }
        };
        let state = State {
            windows,
            first,
            live_url: config.live_url.as_deref().map(Arc::from),
            document: Arc::new(Document::rewind()),
            gate: Arc::clone(&gate),
        };
        let (stop, stopping) = watch::channel(false);
        let http = tokio::spawn(http_server::serve(listener, MAX_CONNECTIONS, gate, routes(state), stopping));
        tracing::info!(%address, open_files = http_server::raise_limit(), "serving the past");
        Ok(Self { http, _background: background, stop })
    }

    /// Stops the HTTP server.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.http.await {
            tracing::error!(%error, "the HTTP server had stopped");
        }
    }
}

impl RewindConfig {
    fn folding(&self, context: Context) -> Folding {
        let fixed = Fixed {
            deployment: "rewind".to_owned(),
            regions: self.regions.iter().map(ToString::to_string).collect(),
            detail: self.fold.detail,
            max_series: usize::MAX,
            rtt_limit_ms: self.fold.thresholds.rtt.as_secs_f64() * 1e3,
            concealment_limit: self.fold.thresholds.concealment,
            loss_limit: self.fold.thresholds.loss,
            bad: Threshold::BAD,
            started: OffsetDateTime::now_utc(),
        };
        // Each window has its own.
        let never = Window::aligned(now(), now(), self.limits.step);
        let engine = EngineConfig {
            regions: self.regions.clone(),
            window: never,
            filter: Filter::default(),
            fold: self.fold,
            mirror: self.mirror,
        };
        Folding { context, engine, fixed, folder: self.folder.clone(), limits: self.limits }
    }
}
