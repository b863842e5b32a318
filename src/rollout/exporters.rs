//! The exporters of one colour, read as one: shards share the frames, so what they say is summed.
//!
//! Invariant: a reading is of all shards or an error; no sum silently lacks a shard.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use callsight_fold::series::catalogue::{BUILD_INFO, Metric};
use futures_util::future::try_join_all;

use super::page::{MetricsPage, PageError, PageReader};
use crate::http_client::{Endpoint, HttpClient, HttpError};
use crate::insight::quantile::Buckets;
use crate::serve::readiness::ReadinessReport;

/// The longest answer of `/readyz`, in bytes: a line per region.
const READINESS_LIMIT: u64 = 1 << 20;

/// The exporters of one colour.
#[derive(Clone)]
pub(crate) struct Exporters {
    /// What messages call them, such as `green`.
    pub(crate) name: String,
    /// One address per shard.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) http: HttpClient,
}

/// An exporter can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExporterError {
    #[error("{name} does not answer at {endpoint}")]
    Silent { name: String, endpoint: String, source: HttpError },
    #[error("{name} answers {status} to {path} at {endpoint}{}", hint(*.status))]
    Status { name: String, endpoint: String, path: &'static str, status: u16 },
    #[error("{name} serves no metrics at {endpoint}")]
    Page { name: String, endpoint: String, source: PageError },
    #[error("cannot read the answer of {name} at {endpoint}/readyz; is it a callsight exporter?")]
    Readiness { name: String, endpoint: String, source: serde_json::Error },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => "; give the user and the password file of its web config",
        503 => "; it is busy with other scrapes",
        _ => "",
    }
}

/// The readiness of all shards together.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedReadiness {
    /// The deployments that answered: one, unless addresses are mixed up.
    pub(crate) deployments: BTreeSet<String>,
    pub(crate) regions: BTreeSet<String>,
    /// Why it is not ready, a line per region and shard. Empty while ready.
    pub(crate) why_not: Vec<String>,
    /// How far the slowest shard is behind the stream.
    pub(crate) lag: Duration,
    /// Frames that no shard has folded yet.
    pub(crate) pending: u64,
}

/// The metrics of all shards at one moment.
#[derive(Clone, Debug)]
pub(crate) struct MetricsReading {
    /// When the pages were requested.
    pub(crate) at: Instant,
    pages: Vec<MetricsPage>,
}

impl MetricsReading {
    #[cfg(test)]
    pub(super) fn of(at: Instant, pages: Vec<MetricsPage>) -> Self {
        Self { at, pages }
    }

    /// The sum over all shards; `None` if no shard has such a series.
    pub(crate) fn sum(&self, metric: &Metric, labels: &[(&str, &str)]) -> Option<f64> {
        self.pages.iter().filter_map(|page| page.sum(metric, labels)).reduce(|sum, value| sum + value)
    }

    /// A histogram, summed over all shards.
    pub(crate) fn buckets(&self, metric: &Metric, labels: &[(&str, &str)]) -> Buckets {
        let mut buckets = Buckets::default();
        self.pages.iter().for_each(|page| page.add_buckets(metric, labels, &mut buckets));
        buckets
    }

    /// The versions of the program that runs.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &str> {
        self.pages.iter().flat_map(|page| page.label_values(&BUILD_INFO, "version"))
    }
}

impl Exporters {
    /// Asks every shard whether it is ready. Not being ready is an answer.
    ///
    /// # Errors
    /// A shard does not answer, or not like an exporter.
    pub(crate) async fn readiness(&self) -> Result<SharedReadiness, ExporterError> {
        let reports =
            try_join_all(self.endpoints.iter().map(|endpoint| self.shard_readiness(endpoint))).await?;
        let mut all = SharedReadiness::default();
        for report in reports {
            all.deployments.extend(report.deployment);
            for region in report.regions {
                let why = region.why.or_else(|| (!region.ready).then(|| "not ready".to_owned()));
                all.why_not.extend(why.map(|why| format!("region {}: {why}", region.region)));
                let lag = region.lag_seconds.map_or(Ok(Duration::ZERO), Duration::try_from_secs_f64);
                let lag = lag.unwrap_or(Duration::MAX);
                all.lag = all.lag.max(lag);
                all.pending += region.pending_frames;
                all.regions.insert(region.region);
            }
        }
        Ok(all)
    }

    /// Scrapes every shard at once.
    ///
    /// # Errors
    /// A shard does not answer, or not with metrics.
    pub(crate) async fn reading(&self) -> Result<MetricsReading, ExporterError> {
        let at = Instant::now();
        let pages = try_join_all(self.endpoints.iter().map(|endpoint| self.scrape(endpoint))).await?;
        Ok(MetricsReading { at, pages })
    }

    async fn shard_readiness(&self, endpoint: &Endpoint) -> Result<ReadinessReport, ExporterError> {
        let body = self.get(endpoint, "/readyz", &[200, 503], READINESS_LIMIT, Vec::new()).await?;
        let (name, endpoint) = (self.name.clone(), endpoint.to_string());
        serde_json::from_slice(&body).map_err(|source| ExporterError::Readiness { name, endpoint, source })
    }

    async fn scrape(&self, endpoint: &Endpoint) -> Result<MetricsPage, ExporterError> {
        let reader = self.get(endpoint, "/metrics", &[200], u64::MAX, PageReader::default()).await?;
        let (name, endpoint) = (self.name.clone(), endpoint.to_string());
        reader.finish().map_err(|source| ExporterError::Page { name, endpoint, source })
    }

    async fn get<S: std::io::Write + Send + 'static>(
        &self,
        from: &Endpoint,
        path: &'static str,
        expected: &[u16],
        limit: u64,
        sink: S,
    ) -> Result<S, ExporterError> {
        let (name, endpoint) = (self.name.clone(), from.to_string());
        match self.http.get(from, path, limit, sink).await {
            Ok((status, sink)) if expected.contains(&status) => Ok(sink),
            Ok((status, _)) => Err(ExporterError::Status { name, endpoint, path, status }),
            Err(source) => Err(ExporterError::Silent { name, endpoint, source }),
        }
    }
}
