//! The exporter: a consumer for each region, and the HTTP server that shows what they folded.
//!
//! Invariant: an exporter stops in order: consumers acknowledge what they folded before HTTP ends.

mod glance;
pub(crate) mod readiness;
mod routes;
mod scrape;
mod triage;
pub(crate) mod trim;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures_util::future::{join_all, select_all};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};

pub use glance::Glance;

use crate::consume::{Consumer, ConsumerConfig, Reader, RegionHealth, Source};
pub use crate::http_server::WebConfigError;
use crate::http_server::{self, Gate, PROBES};
use crate::insight::state::Threshold;
use crate::nats::Refusals;
pub use crate::triage::PageConfig;
use crate::triage::{Document, Fixed, View};
use callsight_fold::series::aggregates::{Aggregates, RegionSeries, StreamSeries};
use callsight_fold::series::detail::DetailStore;
use callsight_fold::{Fold, FoldSettings, SessionBudget};
use callsight_frame::subject::Region;
use routes::{State, routes};
use scrape::Scraper;
use triage::Triage;

/// How many connections are open at a time.
const MAX_CONNECTIONS: usize = 256;

/// The configuration of an exporter.
#[derive(Clone, Debug, PartialEq)]
pub struct ExporterConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The path of a web-config file in Prometheus's format, for TLS and basic auth. Without it,
    /// everybody may read over plain HTTP.
    pub web_config: Option<PathBuf>,
    /// Which of several exporters on the same streams this is.
    pub reader: Reader,
    /// Creates missing streams and consumers, with this many replicas.
    pub create: Option<usize>,
    /// The maximum lag of a region that is ready.
    pub ready_max_lag: Duration,
    /// The budget for series of the detail planes.
    pub max_series: usize,
    /// The budget for live sessions.
    pub max_sessions: usize,
    /// The settings of each region's fold.
    pub fold: FoldSettings,
    pub page: PageConfig,
}

/// A region to consume, with its connection.
pub struct Feed {
    pub source: Source,
    /// The connection; regions may share one.
    pub client: Client,
    /// What the connection's server refuses.
    pub refusals: Refusals,
}

/// The exporter can't start, or can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}; choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    /// A consumer ended without being stopped, which is a defect.
    #[error("the consumer of region {region} failed; start again, and report what the log says")]
    Consumer {
        region: Region,
        /// The panic, if it was one.
        #[source]
        source: Option<JoinError>,
    },
    #[error(transparent)]
    WebConfig(#[from] WebConfigError),
}

pub struct Exporter {
    address: SocketAddr,
    regions: Vec<Arc<RegionHealth>>,
    detail: DetailStore,
    ready_max_lag: Duration,
    consumers: Vec<(Region, JoinHandle<()>)>,
    http: JoinHandle<()>,
    /// What keeps the gate and the triage page current; it ends with the exporter.
    _background: JoinSet<()>,
    stop_consumers: watch::Sender<bool>,
    stop_http: watch::Sender<bool>,
}

impl Exporter {
    /// Listens, and begins to consume the regions, which must be distinct. NATS may be unreachable:
    /// `/readyz` says so until it is back.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if the address can't be listened on, [`ServeError::WebConfig`] if the
    /// file is not valid.
    pub async fn start(feeds: Vec<Feed>, config: ExporterConfig) -> Result<Self, ServeError> {
        let mut background = JoinSet::new();
        let gate = Gate::new(config.web_config.as_deref(), PROBES, &mut background)?;
        let listening = TcpListener::bind(config.listen).await;
        let cannot = |source| ServeError::Listen { address: config.listen, source };
        let listener = listening.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;

        let aggregates = Aggregates::new();
        let recorder = aggregates.recorder();
        let detail = DetailStore::new(config.max_series);
        let budget = SessionBudget::new(config.max_sessions);
        let (stop_consumers, stopping) = watch::channel(false);
        let mut consumers = Vec::new();
        let mut regions: Vec<Arc<RegionHealth>> = Vec::new();
        for Feed { source, client, refusals } in feeds {
            let region = &source.region;
            let own = Arc::new(RegionSeries::register(&**recorder, region.as_str()));
            let shared = (Arc::clone(recorder), detail.clone(), budget.clone());
            let fold = Fold::new(region, config.fold, shared, Arc::clone(&own));
            let stream = StreamSeries::register(&**recorder, region.as_str(), source.is_mirror());
            let region = region.clone();
            let context = source.jetstream(client);
            let consumer_config = ConsumerConfig {
                source,
                reader: config.reader.clone(),
                create: config.create,
                lookback: config.fold.idle_timeout,
                max_lag: config.ready_max_lag,
                max_sessions: config.max_sessions,
            };
            let consumer = Consumer::new(context, refusals, consumer_config, fold, own, stream);
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
            loss_limit: config.fold.thresholds.loss,
            bad: Threshold { sessions: config.page.bad_sessions, ..Threshold::BAD },
            started: OffsetDateTime::now_utc(),
        };
        let view = View { aggregates, detail: detail.clone(), fixed };
        let triage = Triage::new(view, regions.clone(), ready_max_lag);
        let deployment = config.reader.deployment.as_str().into();
        let state = State::new(
            scraper,
            regions.clone(),
            ready_max_lag,
            deployment,
            triage.clone(),
            Document::live(&config.page),
            Arc::clone(&gate),
        );
        let http = tokio::spawn(http_server::serve(listener, MAX_CONNECTIONS, gate, routes(state), stopping));
        background.spawn(triage.keep());
        background.spawn(trim::keep_trimmed());
        tracing::info!(%address, open_files = http_server::raise_limit(), "serving");
        Ok(Self {
            address,
            regions,
            detail,
            ready_max_lag,
            consumers,
            http,
            _background: background,
            stop_consumers,
            stop_http,
        })
    }

    /// The address that it listens on, with the actual port if port 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a consumer to fail, which only a defect causes. Its region would stall forever
    /// while the others look healthy, so the process should end.
    pub async fn failed(&mut self) -> ServeError {
        first_ended(&mut self.consumers).await
    }

    /// Stops the consumers, which acknowledge what they folded, then the HTTP server.
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
    }
}

/// Waits for the first consumer to end, and removes it from the list.
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
