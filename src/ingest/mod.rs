//! The way in for clients that no relay serves: HTTP in, JetStream out.
//!
//! A browser can't publish to NATS, and must not: whoever may publish can write frames of anybody.
//! So this service takes a frame over HTTP, verifies by a token who speaks, validates the frame
//! with the exporter's decoder, and answers once the stream has it. Instances need nothing of each
//! other.
//!
//! Invariant: it stops in order: no request that was answered with 204 is lost.

mod body;
mod cors;
pub(crate) mod door;
mod intake;
mod limits;
mod readiness;
pub(crate) mod refusal;
mod routes;
mod series;
mod servers;
mod stream;
pub(crate) mod tokens;
mod words;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_nats::Client;
use callsight_fold::series::aggregates::Aggregates;
use callsight_frame::subject::{MeetingPartition, Region, publish_subject};
use callsight_publish::{PublishError, Publisher, PublisherConfig};
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub(crate) use cors::AllowedOrigin;
pub(crate) use limits::network;
pub(crate) use servers::ServerPattern;

use crate::http_server::{self, Gate, WebConfigError};
use crate::nats::Refusals;
use cors::Cors;
use door::Door;
use intake::Intake;
use readiness::Readiness;
use routes::{FRAMES, Page, State, routes};
use series::Series;
use tokens::{KeyError, KeyFiles, TokenRules, Tokens};

/// The service type in the subjects of frames that came this way.
pub(crate) const SERVICE_TYPE: &str = "ingest";

/// What needs no password of the web config: the probes, and the way in, which needs a token.
const FREE: &[&str] = &[FRAMES, "/livez", "/readyz"];

/// How long frames may take to the stream once the process stops. Their clients were told that they
/// are not stored yet, so this only saves them a repetition.
const FLUSH: Duration = Duration::from_secs(5);

/// The configuration of the way in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IngestConfig {
    pub(crate) region: Region,
    pub(crate) server_id: String,
    pub(crate) listen: SocketAddr,
    pub(crate) web_config: Option<PathBuf>,
    pub(crate) max_connections: usize,
    pub(crate) origins: Vec<AllowedOrigin>,
    /// The files of the keys; `None` if no tokens are asked for.
    pub(crate) keys: Option<KeyFiles>,
    pub(crate) rules: TokenRules,
    pub(crate) participant_rate: NonZeroU32,
    pub(crate) address_rate: NonZeroU32,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) servers: Vec<ServerPattern>,
    pub(crate) buffer: usize,
    pub(crate) ack_timeout: Duration,
}

/// The way in can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    #[error("cannot listen on {address}; choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    WebConfig(#[from] WebConfigError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// A running way in.
pub(crate) struct Ingest {
    state: Arc<State>,
    http: JoinHandle<()>,
    /// What keeps the gate, the keys and the readiness current; it ends with this.
    _background: JoinSet<()>,
    stop_http: watch::Sender<bool>,
}

impl Ingest {
    /// Listens. NATS may be unreachable: `/readyz` says so until it is back.
    ///
    /// # Errors
    /// [`IngestError`] for an address, a file or a name that can't be used.
    pub(crate) async fn start(
        client: Client,
        refusals: Refusals,
        config: IngestConfig,
    ) -> Result<Self, IngestError> {
        let mut background = JoinSet::new();
        let gate = Gate::new(config.web_config.as_deref(), FREE, &mut background)?;
        let keys = config.keys.as_ref();
        let tokens = keys.map(|files| Tokens::kept(files, config.rules, &mut background)).transpose()?;
        if tokens.is_none() {
            tracing::warn!("without tokens, anybody who reaches this port can write frames of anybody");
        }
        let listening = TcpListener::bind(config.listen).await;
        let cannot = |source| IngestError::Listen { address: config.listen, source };
        let listener = listening.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;

        let region = config.region;
        // Any partition: a stream that takes one takes all.
        let partition = MeetingPartition::all().next();
        let subject = publish_subject(&region, SERVICE_TYPE, &config.server_id, partition);
        let subject = subject.map_err(PublishError::Subject)?;
        let publisher = PublisherConfig {
            buffer: config.buffer,
            ..PublisherConfig::new(region.clone(), SERVICE_TYPE, config.server_id)
        };
        let publisher = Publisher::start(client.clone(), publisher).await?;
        let (found, problem) = watch::channel(Some("the stream was not asked yet".to_owned()));
        background.spawn(stream::watch_stream(client.clone(), refusals.clone(), subject, found));

        let aggregates = Aggregates::new();
        let door = Door::new(
            tokens.clone(),
            [config.participant_rate, config.address_rate],
            config.trusted_proxies,
            config.servers,
        );
        let intake = Intake {
            door,
            publisher,
            series: Series::register(&aggregates, &region),
            ack_timeout: config.ack_timeout,
            buffer: config.buffer,
        };
        let (gate_of_readiness, drains) = (Arc::clone(&gate), AtomicBool::new(false));
        let readiness = Readiness { client, refusals, problem, tokens, gate: gate_of_readiness, drains };
        let cors = Cors::new(config.origins);
        let state = Arc::new(State { intake, cors, readiness, page: Page::new(aggregates) });
        let (stop_http, stopping) = watch::channel(false);
        let routes = routes(Arc::clone(&state));
        let serving = http_server::serve(listener, config.max_connections, gate, routes, stopping);
        let http = tokio::spawn(serving);
        tracing::info!(%address, open_files = http_server::raise_limit(), "taking frames");
        Ok(Self { state, http, _background: background, stop_http })
    }

    /// Says that requests should go elsewhere, and goes on answering those that come.
    pub(crate) fn drain(&self) {
        self.state.readiness.drains.store(true, Relaxed);
    }

    /// Stops: takes no more requests, answers those that are open, and brings to the stream what it
    /// can of the frames that wait.
    pub(crate) async fn stop(self) {
        self.stop_http.send_replace(true);
        if let Err(error) = self.http.await {
            tracing::error!(%error, "the HTTP server had stopped");
        }
        if let Err(error) = self.state.intake.publisher.flush(FLUSH).await {
            tracing::warn!(%error, "frames that nobody was told are stored may be lost");
        }
    }
}
