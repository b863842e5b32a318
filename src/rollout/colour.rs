//! One colour of the exporter as a rollout sees it: one address, or one a shard, read together.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::page::{Buckets, Page, PageError, Reader};
use crate::http_client::{Endpoint, HttpClient, HttpError};

/// The longest answer of `/readyz`: a line a region.
const READINESS_LIMIT: u64 = 1 << 20;

/// Where the exporters of one colour answer. Shards share the frames out, so their pages are summed.
#[derive(Clone)]
pub(crate) struct Colour {
    /// `blue`, `green`, or whatever the report calls it.
    pub(crate) name: String,
    /// One, or one for each shard.
    pub(crate) endpoints: Vec<Endpoint>,
    /// How to ask them.
    pub(crate) http: HttpClient,
}

/// Why a colour can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ColourError {
    /// It does not answer.
    #[error("{name} does not answer at {endpoint}")]
    Silent {
        /// The colour.
        name: String,
        /// Where.
        endpoint: String,
        /// Why.
        source: Box<HttpError>,
    },
    /// It answers with another status than expected.
    #[error("{name} answers {status} to {path} at {endpoint}{}", hint(*.status))]
    Status {
        /// The colour.
        name: String,
        /// Where.
        endpoint: String,
        /// What was asked.
        path: &'static str,
        /// The answer.
        status: u16,
    },
    /// What it serves is no page of metrics.
    #[error("{name} serves no metrics at {endpoint}")]
    Page {
        /// The colour.
        name: String,
        /// Where.
        endpoint: String,
        /// Why.
        source: PageError,
    },
    /// What it says of its readiness can't be read.
    #[error("{name} says nothing readable at {endpoint}/readyz; is it a callsight exporter?")]
    Readiness {
        /// The colour.
        name: String,
        /// Where.
        endpoint: String,
        /// Why.
        source: serde_json::Error,
    },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => "; give the user and the password file of its web config",
        503 => "; it is busy with other scrapes",
        _ => "",
    }
}

/// What `/readyz` says, of all shards together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness {
    /// Which deployments answered: one, unless addresses are mixed up.
    pub(crate) deployments: BTreeSet<String>,
    /// The regions that are served.
    pub(crate) regions: BTreeSet<String>,
    /// Why it is not ready, a line a region and shard.
    pub(crate) why_not: Vec<String>,
    /// How far the one that is furthest behind is behind the stream.
    pub(crate) lag: Duration,
    /// Frames that wait, in all.
    pub(crate) pending: u64,
}

#[derive(serde::Deserialize)]
struct ReadyAnswer {
    ready: bool,
    #[serde(default)]
    deployment: Option<String>,
    regions: Vec<RegionAnswer>,
}

#[derive(serde::Deserialize)]
struct RegionAnswer {
    region: String,
    #[serde(default)]
    why: Option<String>,
    pending_frames: u64,
    lag_seconds: f64,
}

/// The metrics of all shards at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// When the pages had been asked for.
    pub(crate) at: Instant,
    pages: Vec<Page>,
}

impl Reading {
    #[cfg(test)]
    pub(super) fn of(at: Instant, pages: Vec<Page>) -> Self {
        Self { at, pages }
    }

    /// The sum over all shards; `None` if there is no such series.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.pages.iter().filter_map(|page| page.sum(name, labels)).reduce(|sum, value| sum + value)
    }

    /// A histogram, summed over all shards.
    pub(crate) fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Buckets {
        let mut buckets = Buckets::default();
        self.pages.iter().for_each(|page| page.add_buckets(name, labels, &mut buckets));
        buckets
    }

    /// The versions that run.
    pub(crate) fn versions(&self) -> BTreeSet<String> {
        let of = |page: &Page| {
            page.label_values("callsight_build_info", "version").map(str::to_owned).collect::<Vec<_>>()
        };
        self.pages.iter().flat_map(of).collect()
    }
}

impl Colour {
    /// Asks every shard how it is doing. Not being ready is an answer.
    ///
    /// # Errors
    /// A shard that does not answer, or not like an exporter.
    pub(crate) async fn readiness(&self) -> Result<Readiness, ColourError> {
        let answers =
            try_join_all(self.endpoints.iter().map(|endpoint| self.ask_readiness(endpoint))).await?;
        let mut all = Readiness::default();
        for answer in answers {
            all.deployments.extend(answer.deployment);
            for region in answer.regions {
                let why = region.why.or_else(|| (!answer.ready).then(|| "not ready".to_owned()));
                all.why_not.extend(why.map(|why| format!("region {}: {why}", region.region)));
                let lag = Duration::try_from_secs_f64(region.lag_seconds).unwrap_or(Duration::MAX);
                all.lag = all.lag.max(lag);
                all.pending += region.pending_frames;
                all.regions.insert(region.region);
            }
        }
        Ok(all)
    }

    async fn ask_readiness(&self, endpoint: &Endpoint) -> Result<ReadyAnswer, ColourError> {
        let path = "/readyz";
        let answer = self.http.get(endpoint, path, READINESS_LIMIT, Vec::new()).await;
        let (status, body) = answer.map_err(|source| self.silent(endpoint, source))?;
        if !matches!(status, 200 | 503) {
            return Err(self.status(endpoint, path, status));
        }
        serde_json::from_slice(&body).map_err(|source| ColourError::Readiness {
            name: self.name.clone(),
            endpoint: endpoint.to_string(),
            source,
        })
    }

    /// Scrapes every shard at once.
    ///
    /// # Errors
    /// A shard that does not answer, or not with metrics.
    pub(crate) async fn reading(&self) -> Result<Reading, ColourError> {
        let at = Instant::now();
        let pages = try_join_all(self.endpoints.iter().map(|endpoint| self.scrape(endpoint))).await?;
        Ok(Reading { at, pages })
    }

    async fn scrape(&self, endpoint: &Endpoint) -> Result<Page, ColourError> {
        let path = "/metrics";
        let answer = self.http.get(endpoint, path, u64::MAX, Reader::default()).await;
        let (status, reader) = answer.map_err(|source| self.silent(endpoint, source))?;
        if status != 200 {
            return Err(self.status(endpoint, path, status));
        }
        reader.finish().map_err(|source| ColourError::Page {
            name: self.name.clone(),
            endpoint: endpoint.to_string(),
            source,
        })
    }

    fn silent(&self, endpoint: &Endpoint, source: HttpError) -> ColourError {
        ColourError::Silent {
            name: self.name.clone(),
            endpoint: endpoint.to_string(),
            source: Box::new(source),
        }
    }

    fn status(&self, endpoint: &Endpoint, path: &'static str, status: u16) -> ColourError {
        ColourError::Status { name: self.name.clone(), endpoint: endpoint.to_string(), path, status }
    }
}
