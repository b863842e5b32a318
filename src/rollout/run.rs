//! A deployment under way: what was asked for, what was found in each region, and the report so
//! far.
//!
//! Invariant: what is about to change is in the report on disk before it changes, so that a run
//! that is killed can be rolled back by the next.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::process::Child;
use tokio::sync::watch;

use super::certificate::CertificateError;
use super::cluster::{Cluster, CutShort, StepLimit, ToolError};
use super::colour::Colour;
use super::exporters::{ExporterError, Exporters};
use super::fleet::{Fleet, FleetAddress, FleetRegion, FleetService};
use super::plan::{DeploymentMode, DeploymentRequest, Step};
use super::report::{DeploymentReport, Outcome, ReleaseChange, StepLine, StepResult};
use super::retire::RetireError;
use crate::config::within_a_day;
use crate::http_client::{HttpClient, HttpError};
use crate::insight::words;

/// What to do, and how carefully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeploymentOrder {
    pub(crate) request: DeploymentRequest,
    /// The tag of the new colour's image; `None` for the chart's own version.
    pub(crate) version: Option<String>,
    pub(crate) care: DeploymentCare,
}

/// How carefully to deploy, and where to report.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "How")]
pub(crate) struct DeploymentCare {
    /// Show what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// In an emergency, skip all checks before and after; the report says so in capitals
    #[arg(long)]
    pub(crate) skip_gates: bool,

    /// Give up a step after this long, from 1s to 24h
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = within_a_day)]
    pub(crate) step_timeout: Duration,

    /// Give up the deployment after this long, from 1s to 24h; rolling back has time of its own
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = within_a_day)]
    pub(crate) timeout: Duration,

    /// Write the report to this file as JSON, after every step
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) report: Option<PathBuf>,

    /// Append the report to this file as Markdown, at the end, such as `$GITHUB_STEP_SUMMARY`
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) summary: Option<PathBuf>,
}

impl DeploymentOrder {
    /// The request in one line, for the report.
    pub(super) fn in_words(&self) -> String {
        let DeploymentRequest { strategy, mode, region, services } = &self.request;
        let mode = match mode {
            DeploymentMode::Replace => "",
            DeploymentMode::Restart => ", restart only",
            DeploymentMode::Promote => ", promote only",
        };
        let region = region.as_deref().unwrap_or("all");
        let services = if services.is_empty() { "all".to_owned() } else { words::list(services) };
        let version = self.version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
        format!("{strategy}{mode}, region {region}, services {services}{version}")
    }
}

/// What runs of a service in a region before the deployment; the default stands for nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct FoundRelease {
    /// The revision of the release; `None` if it is not installed.
    pub(super) revision: Option<String>,
    /// The active colour; `None` before the first installation.
    pub(super) old: Option<Colour>,
    /// The image of the old colour, which a new chart must not change.
    pub(super) old_image: Option<String>,
    /// The image of the new colour, if it is only to be promoted.
    pub(super) new_image: Option<String>,
}

impl FoundRelease {
    /// The colour that takes over.
    pub(super) fn new_colour(&self) -> Colour {
        self.old.map(Colour::other).unwrap_or_default()
    }
}

/// A deployment under way.
pub(super) struct Run<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) order: &'a DeploymentOrder,
    pub(super) http: HttpClient,
    /// Turns true when the process receives a signal.
    stop: watch::Receiver<bool>,
    start: Instant,
    report: Mutex<DeploymentReport>,
    /// By region and service.
    found: Mutex<BTreeMap<(String, String), FoundRelease>>,
}

/// One service in one region, for the steps that are about it.
pub(super) struct ServiceJob<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) cluster: Cluster<'a>,
    pub(super) service: &'a FleetService,
    pub(super) found: FoundRelease,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        fleet: &'a Fleet,
        order: &'a DeploymentOrder,
        http: HttpClient,
        stop: watch::Receiver<bool>,
        report: DeploymentReport,
    ) -> Self {
        let (report, found) = (Mutex::new(report), Mutex::default());
        Self { fleet, order, http, stop, start: Instant::now(), report, found }
    }

    pub(super) fn report(&self) -> MutexGuard<'_, DeploymentReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster of a region, until the step or the run times out or the process receives a
    /// signal.
    pub(super) fn cluster(&self, region: &'a FleetRegion) -> Cluster<'a> {
        let now = Instant::now();
        let deadline = (self.start + self.order.care.timeout).min(now + self.order.care.step_timeout);
        Cluster { region, limit: StepLimit { deadline: deadline.into(), stop: self.stop.clone() } }
    }

    pub(super) fn job(&'a self, cluster: Cluster<'a>, service: &'a FleetService) -> ServiceJob<'a> {
        let key = (cluster.region.name.to_string(), service.name.clone());
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.get(&key).cloned().unwrap_or_default();
        ServiceJob { run: self, cluster, service, found }
    }

    pub(super) fn save(&self) {
        if let Some(path) = &self.order.care.report
            && let Err(error) = self.report().save(path)
        {
            tracing::error!(%error, path = %path.display(), "cannot write the report");
        }
    }

    /// Logs and reports the result of a step.
    pub(super) fn record(&self, line: StepLine) {
        let StepLine { region, service, step, result, seconds, detail } = &line;
        let service = service.as_deref().unwrap_or_default();
        match result {
            StepResult::Failed => tracing::error!(region, service, step, seconds, "failed: {detail}"),
            StepResult::Skipped => tracing::warn!(region, service, step, "skipped: {detail}"),
            _ => tracing::info!(region, service, step, ?result, seconds, "{detail}"),
        }
        self.report().steps.push(line);
        self.save();
    }

    /// Reports steps that a failure kept from running.
    pub(super) fn not_run<'s>(&self, steps: impl IntoIterator<Item = &'s Step<'s>>) {
        let lines = steps.into_iter().map(|step| StepLine::of(step, StepResult::NotRun, None, String::new()));
        self.report().steps.extend(lines);
        self.save();
    }

    pub(super) fn finish(self, outcome: Outcome) -> DeploymentReport {
        {
            let mut report = self.report();
            report.result = outcome;
            report.seconds += self.start.elapsed().as_secs_f64();
        }
        self.save();
        let report = self.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.order.care.summary
            && let Err(error) = report.append_markdown(path)
        {
            tracing::error!(%error, path = %path.display(), "cannot write the summary");
        }
        report
    }
}

impl ServiceJob<'_> {
    /// Keeps what was found for the steps that follow.
    pub(super) fn remember(&self, found: FoundRelease) {
        let key = (self.cluster.region.name.to_string(), self.service.name.clone());
        self.run.found.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found);
    }

    /// Writes down how to roll back, before the first change of a service. `staged` is the colour
    /// that starts now, whose durable a roll-back deletes.
    pub(super) fn will_change(&self, staged: Option<Colour>) {
        let change = ReleaseChange {
            region: self.cluster.region.name.to_string(),
            service: self.service.name.clone(),
            revision: self.found.revision.clone(),
            colour: staged,
        };
        let mut report = self.run.report();
        let is_same =
            |known: &ReleaseChange| known.region == change.region && known.service == change.service;
        if !report.changes.iter().any(is_same) {
            report.changes.push(change);
        }
        drop(report);
        self.run.save();
    }

    /// The exporters at these addresses, and the processes that forward their ports.
    pub(super) async fn exporters(
        &self,
        name: &str,
        addresses: &[FleetAddress],
    ) -> Result<(Exporters, Vec<Child>), StepError> {
        let (mut endpoints, mut ports) = (Vec::new(), Vec::new());
        for address in addresses {
            let (endpoint, port) = self.cluster.reach(address, &self.service.namespace).await?;
            endpoints.push(endpoint);
            ports.extend(port);
        }
        Ok((Exporters { name: name.to_owned(), endpoints, http: self.run.http.clone() }, ports))
    }
}

/// Why a step of a deployment fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Cut(#[from] CutShort),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Exporter(#[from] ExporterError),
    #[error(transparent)]
    Retire(#[from] RetireError),
    #[error("no answer from the NATS server at {at}")]
    Monitor { at: String, source: HttpError },
    #[error("cannot read the manifests that helm shows")]
    Manifests(#[from] yaml_serde::Error),
    #[error("certificate {which}")]
    Certificate { which: String, source: CertificateError },
    #[error("{0}")]
    Gate(String),
}

/// Fails a step for this reason.
pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T, StepError> {
    Err(StepError::Gate(why.into()))
}
