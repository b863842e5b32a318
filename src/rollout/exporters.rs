//! The exporters of one colour, read as one: shards share the frames, so what they say is summed.
//!
//! Invariant: a reading is of all shards or an error; no sum silently lacks a shard.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::page::MetricsPage;
use crate::config::one_line;
use crate::http_client::{Address, HttpClient, HttpError, json};
use crate::serve::readiness::ReadinessReport;

/// The longest answer of `/readyz`, in bytes: a line per region.
const READINESS_LIMIT: u64 = 1 << 20;

/// The longest page of metrics, in bytes: that of some millions of series.
const PAGE_LIMIT: u64 = 1 << 30;

/// How much of a text of an exporter is shown, in characters.
const SHOWN: usize = 300;

/// The exporters of one colour.
#[derive(Clone)]
pub(crate) struct Exporters {
    /// What messages call them, such as `green`.
    pub(crate) name: String,
    /// One address per shard.
    pub(crate) endpoints: Vec<Address>,
    pub(crate) http: HttpClient,
}

/// An exporter can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExporterError {
    #[error("{name} does not answer at {endpoint}")]
    Silent { name: String, endpoint: String, source: HttpError },
    #[error("{name} answers {status} to {path} at {endpoint}{}", hint(*.status))]
    Status { name: String, endpoint: String, path: &'static str, status: u16 },
    #[error("cannot read the answer of {name} at {endpoint}{path}; is it a callsight exporter?")]
    Content { name: String, endpoint: String, path: &'static str, source: Box<dyn Error + Send + Sync> },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => "; give the user and the password file of its web config",
        503 => "; it is busy with other scrapes",
        _ => "",
    }
}

/// A text of an exporter for the terminal: what answers at an address may be anything.
pub(super) fn shown(text: &str) -> String {
    one_line(&text.chars().take(SHOWN).collect::<String>())
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
    pub(crate) page: MetricsPage,
}

impl Exporters {
    /// Asks every shard whether it is ready. Not being ready is an answer.
    ///
    /// # Errors
    /// A shard does not answer, or not like an exporter.
    pub(crate) async fn readiness(&self) -> Result<SharedReadiness, ExporterError> {
        let reports = self.ask("/readyz", &[200, 503], READINESS_LIMIT, json::<ReadinessReport>).await?;
        let mut all = SharedReadiness::default();
        for report in reports {
            all.deployments.extend(report.deployment.as_deref().map(shown));
            for region in report.regions {
                let why = region.why.or_else(|| (!region.ready).then(|| "not ready".to_owned()));
                let name = shown(&region.region);
                all.why_not.extend(why.map(|why| format!("region {name}: {}", shown(&why))));
                let lag = region.lag_seconds.map_or(Ok(Duration::ZERO), Duration::try_from_secs_f64);
                let lag = lag.unwrap_or(Duration::MAX);
                all.lag = all.lag.max(lag);
                all.pending = all.pending.saturating_add(region.pending_frames);
                all.regions.insert(name);
            }
        }
        Ok(all)
    }

    /// Scrapes every shard at once.
    ///
    /// # Errors
    /// A shard does not answer, or not with metrics.
    pub(crate) async fn reading(&self) -> Result<MetricsReading, ExporterError> {
        self.reading_up_to(PAGE_LIMIT).await
    }

    /// Scrapes every shard at once, up to `limit` bytes of each.
    async fn reading_up_to(&self, limit: u64) -> Result<MetricsReading, ExporterError> {
        let at = Instant::now();
        let mut page = MetricsPage::default();
        let shards = self.ask("/metrics", &[200], limit, |body| MetricsPage::read(body)).await?;
        shards.into_iter().for_each(|shard| page.append(shard));
        Ok(MetricsReading { at, page })
    }

    /// Asks all shards at once, and reads their answers.
    async fn ask<T: Send + 'static, E: Error + Send + Sync + 'static>(
        &self,
        path: &'static str,
        expected: &[u16],
        limit: u64,
        read: fn(&mut dyn Read) -> io::Result<Result<T, E>>,
    ) -> Result<Vec<T>, ExporterError> {
        let ask = async |from: &Address| {
            let (name, endpoint) = (self.name.clone(), from.to_string());
            match self.http.get(from, path, limit, read).await {
                Ok((status, answer)) if expected.contains(&status) => answer
                    .map_err(|error| ExporterError::Content { name, endpoint, path, source: error.into() }),
                Ok((status, _)) => Err(ExporterError::Status { name, endpoint, path, status }),
                Err(source) => Err(ExporterError::Silent { name, endpoint, source }),
            }
        };
        try_join_all(self.endpoints.iter().map(ask)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_client::HttpAccess;
    use crate::http_client::tests::serve;

    #[tokio::test]
    async fn a_page_of_metrics_is_read_up_to_its_limit() {
        let body = "# HELP callsight_build_info The version.\n".repeat(100_000);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let read = async |limit| {
            let exporters = Exporters {
                name: "green".to_owned(),
                endpoints: vec![serve([head.as_bytes(), body.as_bytes()].concat())],
                http: HttpClient::probing(&HttpAccess::default()).unwrap(),
            };
            exporters.reading_up_to(limit).await
        };
        let length = body.len() as u64;
        assert!(read(length).await.is_ok());
        let error = read(length - 1).await.unwrap_err();
        let source = error.source().unwrap().to_string();
        assert_eq!(source, format!("the answer is longer than {} bytes; check the address", length - 1));
        assert!(error.to_string().starts_with("green does not answer at http://127.0.0.1:"), "{error}");
    }
}
