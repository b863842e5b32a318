//! `callsight rollout deploy` and `promote`: region by region, with gates and roll-back.

use std::fmt;
use std::path::PathBuf;

use tokio::sync::watch;

use super::{CliError, print};
use crate::cli::args::{ProcessArgs, distinct, rejected};
use crate::cli::stop_signal;
use crate::config::ConfigError;
use crate::http_client::HttpClient;
use crate::rollout::deploy::{deploy, undo};
use crate::rollout::fleet::Fleet;
use crate::rollout::plan::{DeploymentMode, DeploymentRequest, Strategy, plan};
use crate::rollout::report::{DeploymentReport, Outcome};
use crate::rollout::run::{DeploymentCare, DeploymentOrder};

/// The value of `--region` for every region.
const ALL: &str = "all";

/// Deploy a version to the fleet, region by region, with gates and roll-back
#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// How regions follow one another
    #[arg(long, value_name = "STRATEGY", default_value = "blue-green", help_heading = "What")]
    strategy: Strategy,

    /// Services of the fleet to deploy; all of them by default.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "What")]
    services: Vec<String>,

    /// Tag of the new image; by default the tag in the chart
    #[arg(long, value_name = "TAG", help_heading = "What")]
    image_tag: Option<String>,

    /// Restart the active exporters, and change nothing else
    #[arg(long, help_heading = "What")]
    restart_only: bool,

    /// Roll back what a killed run left changed, as the file of its `--report` says
    #[arg(long, value_name = "FILE", help_heading = "What")]
    undo: Option<PathBuf>,

    #[command(flatten)]
    fleet: FleetArgs,
}

/// Switch traffic to the standby colour, if it agrees with the active one
#[derive(Debug, clap::Args)]
pub(crate) struct PromoteArgs {
    #[command(flatten)]
    fleet: FleetArgs,
}

#[derive(Clone, Debug, clap::Args)]
struct FleetArgs {
    /// File that describes what runs where, see docs/deploy.md
    #[arg(long, value_name = "FILE", default_value = "helm/fleet.yaml", help_heading = "Where")]
    fleet: PathBuf,

    /// Region of the fleet, or `all`
    #[arg(long, value_name = "NAME", default_value = ALL, help_heading = "Where")]
    region: String,

    #[command(flatten)]
    care: DeploymentCare,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What to deploy, and where.
#[derive(Clone, Debug)]
pub(crate) struct DeployConfig {
    fleet: PathBuf,
    order: DeploymentOrder,
    undo: Option<PathBuf>,
}

impl FleetArgs {
    fn config(
        self,
        strategy: Strategy,
        mode: DeploymentMode,
        services: Vec<String>,
    ) -> (ProcessArgs, DeployConfig) {
        let region = Some(self.region).filter(|region| region != ALL);
        let request = DeploymentRequest { strategy, mode, region, services };
        let order = DeploymentOrder { request, version: None, care: self.care };
        (self.process, DeployConfig { fleet: self.fleet, order, undo: None })
    }
}

impl DeployArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, DeployConfig), ConfigError> {
        if self.restart_only && self.image_tag.is_some() {
            return rejected(
                "`--restart-only` cannot be used with `--image-tag`: a restart changes no version",
            );
        }
        if self.undo.is_some() && self.fleet.care.dry_run {
            return rejected(
                "`--undo` cannot be used with `--dry-run`: the report that it reads lists what it would roll back",
            );
        }
        let mode = if self.restart_only { DeploymentMode::Restart } else { DeploymentMode::Replace };
        let (process, mut config) = self.fleet.config(self.strategy, mode, distinct(self.services));
        config.order.version = self.image_tag;
        config.undo = self.undo;
        Ok((process, config))
    }
}

impl PromoteArgs {
    pub(super) fn validate(self) -> (ProcessArgs, DeployConfig) {
        self.fleet.config(Strategy::BlueGreen, DeploymentMode::Promote, Vec::new())
    }
}

impl fmt::Display for DeployConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fleet, order, .. } = self;
        let region = order.request.region.as_deref().unwrap_or(ALL);
        write!(f, "fleet {}; strategy {:?}; region {region}", fleet.display(), order.request.strategy)
    }
}

/// Deploys, or rolls an earlier deployment back; prints the report, and fails unless all went well.
pub(crate) async fn run(config: DeployConfig) -> Result<(), CliError> {
    let DeployConfig { fleet, order, undo: left } = config;
    let fleet = Fleet::read(&fleet).map_err(CliError::other)?;
    let plan = plan(&fleet, &order.request).map_err(CliError::other)?;
    let http = HttpClient::probing(&fleet.gates.http)
        .map_err(|error| CliError::caused("cannot use `gates.http` of the fleet", error))?;
    let (stop, stopping) = watch::channel(false);
    let signal = stop_signal()?;
    let signals = tokio::spawn(async move {
        let signal = signal.await;
        tracing::warn!(signal, "stopping: changes are rolled back");
        stop.send_replace(true);
        // Keeps the sender alive: its end is not a signal.
        std::future::pending::<()>().await;
    });
    let undoing = left.is_some();
    let report = match left {
        Some(path) => {
            let left = DeploymentReport::load(&path).map_err(|error| {
                CliError::caused(format!("cannot read the report {}", path.display()), error)
            })?;
            undo(&fleet, &order, left, http, stopping).await
        }
        None => deploy(&fleet, &order, &plan, http, stopping).await,
    };
    signals.abort();
    print(&report.markdown())?;
    match report.result {
        Outcome::Done => Ok(()),
        _ if undoing && report.changes.is_empty() => Ok(()),
        _ => Err(CliError::failed(format!("the deployment failed: {}", report.why.join("; ")))),
    }
}
