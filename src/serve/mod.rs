//! The exporter: a consumer for each region, and the HTTP server that shows what they folded.

mod basic_auth;
mod connections;
mod gate;
mod glance;
mod http;
pub(crate) mod negotiate;
pub(crate) mod open_files;
mod routes;
mod scrape;
mod triage;
mod web_config;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures_util::future::{join_all, select_all};
use metrics::Recorder;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

pub use glance::Glance;
pub use web_config::WebConfigError;

use crate::consume::{Consumer, ConsumerConfig, Reader, RegionHealth, Source};
use callsight_fold::series::aggregates::{Aggregates, RegionSeries, StreamSeries};
use callsight_fold::series::detail::DetailStore;
use callsight_fold::{Fold, FoldSettings};
use callsight_frame::subject::Region;
use gate::Gate;
use routes::{State, routes};
use scrape::Scraper;
use triage::{Fixed, Triage};

/// What the exporter is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct ExporterConfig {
    /// Where to serve.
    pub listen: SocketAddr,
    /// Who may look, and over what: a file in the shape of Prometheus's web config. Everybody
    /// without it.
    pub web_config: Option<PathBuf>,
    /// Which of several exporters side by side this is.
    pub reader: Reader,
    /// Makes streams and consumers that are missing, with this many replicas.
    pub create: Option<usize>,
    /// Not ready while a region is further behind than this.
    pub ready_max_lag: Duration,
    /// The most series of the detail planes.
    pub max_series: usize,
    /// How frames are folded.
    pub fold: FoldSettings,
}

/// A region to consume, and the connection that leads to it.
pub struct Feed {
    /// The region.
    pub source: Source,
    /// The connection, which may be the same for all.
    pub client: Client,
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
    /// A consumer ended though nobody told it to: a defect.
    #[error("the consumer of region {region} failed; start again, and report what the log says")]
    Consumer {
        /// The region.
        region: Region,
        /// The panic, if it was one.
        #[source]
        source: Option<JoinError>,
    },
    /// The web-config file can't be used.
    #[error(transparent)]
    WebConfig(#[from] WebConfigError),
}

/// A running exporter.
pub struct Exporter {
    address: SocketAddr,
    regions: Vec<Arc<RegionHealth>>,
    detail: DetailStore,
    ready_max_lag: Duration,
    consumers: Vec<(Region, JoinHandle<()>)>,
    http: JoinHandle<()>,
    triage: JoinHandle<()>,
    gatekeeper: Option<JoinHandle<()>>,
    stop_consumers: watch::Sender<bool>,
    stop_http: watch::Sender<bool>,
}

impl Exporter {
    /// Listens, and begins to consume the regions, each of which is there once. NATS may be away:
    /// that is said at `/readyz` until it is back.
    ///
    /// # Errors
    /// [`ServeError`] when the address can't be listened on, or the web config used.
    pub async fn start(feeds: Vec<Feed>, config: ExporterConfig) -> Result<Self, ServeError> {
        let (gate, kept) = match &config.web_config {
            None => (Arc::new(Gate::open()), None),
            Some(path) => {
                let (gate, sources) = Gate::kept_by(path)?;
                let gate = Arc::new(gate);
                let keep = Arc::clone(&gate).keep(sources, path.as_path().into());
                (gate, Some(keep))
            }
        };
        let listening = TcpListener::bind(config.listen).await;
        let cannot = |source| ServeError::Listen { address: config.listen, source };
        let listener = listening.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;

        let aggregates = Aggregates::new();
        let recorder: Arc<dyn Recorder + Send + Sync> = aggregates.shared_recorder();
        let detail = DetailStore::new(config.max_series);
        let (stop_consumers, stopping) = watch::channel(false);
        let mut consumers = Vec::new();
        let mut regions: Vec<Arc<RegionHealth>> = Vec::new();
        for Feed { source, client } in feeds {
            let region = &source.region;
            let own = Arc::new(RegionSeries::register(&*recorder, region.as_str()));
            let fold =
                Fold::new(region, config.fold, Arc::clone(&recorder), detail.clone(), Arc::clone(&own));
            let stream = StreamSeries::register(&*recorder, region.as_str(), source.is_mirror());
            let region = region.clone();
            let context = source.jetstream(client);
            let consumer_config = ConsumerConfig {
                source,
                reader: config.reader.clone(),
                create: config.create,
                lookback: config.fold.idle_timeout,
            };
            let consumer = Consumer::new(context, consumer_config, fold, own, stream);
            regions.push(consumer.health());
            consumers.push((region, tokio::spawn(consumer.run(stopping.clone()))));
        }

        let ready_max_lag = config.ready_max_lag;
        let scraper = Scraper::new(aggregates.clone(), detail.clone(), regions.clone(), ready_max_lag);
        let (stop_http, stopping) = watch::channel(false);
        let fixed = Fixed {
            deployment: config.reader.deployment.to_string(),
            regions: regions.iter().map(|region| region.report(ready_max_lag).region).collect(),
            detail: config.fold.detail,
            max_series: config.max_series,
            rtt_limit_ms: config.fold.thresholds.rtt.as_secs_f64() * 1e3,
            concealment_limit: config.fold.thresholds.concealment,
            started: OffsetDateTime::now_utc(),
        };
        let triage = Triage::new(aggregates, detail.clone(), regions.clone(), ready_max_lag, fixed);
        let deployment = config.reader.deployment.as_str().into();
        let state = State::new(scraper, regions.clone(), ready_max_lag, deployment, triage.clone());
        let http = tokio::spawn(http::serve(listener, gate, routes(state), stopping));
        let triage = tokio::spawn(triage.keep());
        tracing::info!(%address, "serving");
        Ok(Self {
            address,
            regions,
            detail,
            ready_max_lag,
            consumers,
            http,
            triage,
            gatekeeper: kept.map(tokio::spawn),
            stop_consumers,
            stop_http,
        })
    }

    /// Where it serves: the port is known even where any was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a consumer to fail, which none does unless there is a defect. Its region would
    /// stand still for ever while the others look well, so this is a reason to end.
    pub async fn failed(&mut self) -> ServeError {
        first_ended(&mut self.consumers).await
    }

    /// Acknowledges what was folded, then closes. Scrapes are answered until the consumers have
    /// stopped.
    pub async fn stop(self) {
        self.stop_consumers.send_replace(true);
        for consumer in join_all(self.consumers.into_iter().map(|(_, consumer)| consumer)).await {
            if let Err(error) = consumer {
                tracing::error!(%error, "a consumer had stopped");
            }
        }
        self.stop_http.send_replace(true);
        if let Err(error) = self.http.await {
            tracing::error!(%error, "the HTTP server had stopped");
        }
        self.triage.abort();
        if let Some(gatekeeper) = self.gatekeeper {
            gatekeeper.abort();
        }
    }
}

/// Waits for the first consumer to end, and takes it out.
async fn first_ended(consumers: &mut Vec<(Region, JoinHandle<()>)>) -> ServeError {
    if consumers.is_empty() {
        std::future::pending::<()>().await;
    }
    let (ended, index, _) = select_all(consumers.iter_mut().map(|(_, consumer)| consumer)).await;
    let (region, _) = consumers.swap_remove(index);
    ServeError::Consumer { region, source: ended.err() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_consumer_that_panics_is_named() {
        let region = |name: &str| name.parse::<Region>().unwrap();
        let mut consumers = vec![
            (region("us"), tokio::spawn(std::future::pending())),
            (region("apac"), tokio::spawn(async { panic!("a defect") })),
        ];
        let error = first_ended(&mut consumers).await;
        assert!(error.to_string().contains("region apac failed"), "{error}");
        let source = std::error::Error::source(&error).unwrap();
        assert!(source.to_string().contains("a defect"), "{source}");
        assert_eq!(consumers.len(), 1, "the others can still be stopped");
    }
}
