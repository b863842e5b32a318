//! The exporter: a consumer for each region, and the HTTP server that shows what they folded.

mod glance;
mod http;
pub(crate) mod negotiate;
mod routes;
mod scrape;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures_util::future::join_all;
use metrics::Recorder;
use metrics_exporter_prometheus::BuildError;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

pub use glance::Glance;

use crate::consume::{Consumer, ConsumerConfig, RegionHealth};
use crate::fold::{Fold, FoldSettings};
use crate::series::aggregates::{Aggregates, RegionSeries};
use crate::series::detail::DetailStore;
use crate::subject::Region;
use crate::topology::Deployment;
use routes::{State, routes};
use scrape::Scraper;

/// How often observations are moved into their buckets.
const UPKEEP: Duration = Duration::from_secs(1);

/// What the exporter is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct ExporterConfig {
    /// Where to serve.
    pub listen: SocketAddr,
    /// The regions to consume, each once.
    pub regions: Vec<Region>,
    /// Which of several exporters side by side this is.
    pub deployment: Deployment,
    /// Makes streams and consumers that are missing, with this many replicas.
    pub create: Option<usize>,
    /// Not ready while a region is further behind than this.
    pub ready_max_lag: Duration,
    /// The most series of the detail planes.
    pub max_series: usize,
    /// How frames are folded.
    pub fold: FoldSettings,
}

/// Why the exporter can't start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("cannot listen on {address}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The recorder refuses the catalogue's buckets.
    #[error("cannot set up the metrics recorder")]
    Recorder(#[from] BuildError),
}

/// A running exporter.
pub struct Exporter {
    address: SocketAddr,
    regions: Vec<Arc<RegionHealth>>,
    detail: DetailStore,
    ready_max_lag: Duration,
    consumers: Vec<JoinHandle<()>>,
    http: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    stop_consumers: watch::Sender<bool>,
    stop_http: watch::Sender<bool>,
}

impl Exporter {
    /// Listens, and begins to consume. NATS may be away: that is said at `/readyz` until it is back.
    ///
    /// # Errors
    /// [`ServeError`] when the address can't be listened on.
    pub async fn start(client: Client, config: ExporterConfig) -> Result<Self, ServeError> {
        let listening = TcpListener::bind(config.listen).await;
        let cannot = |source| ServeError::Listen { address: config.listen, source };
        let listener = listening.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;

        let aggregates = Aggregates::new()?;
        let recorder: Arc<dyn Recorder + Send + Sync> = aggregates.shared_recorder();
        let detail = DetailStore::new(config.max_series);
        let (stop_consumers, stopping) = watch::channel(false);
        let mut consumers = Vec::new();
        let mut regions: Vec<Arc<RegionHealth>> = Vec::new();
        for region in &config.regions {
            let own = Arc::new(RegionSeries::register(&*recorder, region.as_str()));
            let fold =
                Fold::new(region, config.fold, Arc::clone(&recorder), detail.clone(), Arc::clone(&own));
            let consumer_config = ConsumerConfig {
                region: region.clone(),
                deployment: config.deployment.clone(),
                create: config.create,
                lookback: config.fold.idle_timeout,
            };
            let context = async_nats::jetstream::new(client.clone());
            let consumer = Consumer::new(context, consumer_config, fold, own);
            regions.push(consumer.health());
            consumers.push(tokio::spawn(consumer.run(stopping.clone())));
        }

        let scraper = Scraper::new(aggregates.clone(), detail.clone(), regions.clone());
        let (stop_http, stopping) = watch::channel(false);
        let ready_max_lag = config.ready_max_lag;
        let state = State { scraper, regions: regions.clone(), ready_max_lag };
        let http = tokio::spawn(http::serve(listener, routes(state), stopping));
        let upkeep = tokio::spawn(keep_up(aggregates));
        tracing::info!(%address, "serving");
        Ok(Self {
            address,
            regions,
            detail,
            ready_max_lag,
            consumers,
            http,
            upkeep,
            stop_consumers,
            stop_http,
        })
    }

    /// Where it serves: the port is known even where any was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Acknowledges what was folded, then closes. Scrapes are answered until the consumers have stopped.
    pub async fn stop(self) {
        self.stop_consumers.send_replace(true);
        for consumer in join_all(self.consumers).await {
            if let Err(error) = consumer {
                tracing::error!(%error, "a consumer had stopped");
            }
        }
        self.stop_http.send_replace(true);
        if let Err(error) = self.http.await {
            tracing::error!(%error, "the HTTP server had stopped");
        }
        self.upkeep.abort();
    }
}

/// Moves observations into their buckets, off the runtime's workers.
async fn keep_up(aggregates: Aggregates) {
    let mut every = interval(UPKEEP);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let aggregates = aggregates.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || aggregates.upkeep()).await {
            tracing::error!(%error, "upkeep of the histograms failed");
        }
    }
}
