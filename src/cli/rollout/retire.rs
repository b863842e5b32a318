//! `callsight rollout retire`: deletes the durables of a stopped exporter.

use std::fmt;
use std::time::Duration;

use super::{CliError, HttpArgs, client, print};
use crate::cli::args::{HOUR, NatsArgs, ProcessArgs, SECOND, distinct, joined};
use crate::config::{ConfigError, NatsConfig, duration_between};
use crate::http_client::{Endpoint, HttpAccess};
use crate::nats;
use crate::rollout::exporters::Exporters;
use crate::rollout::retire::{ACTIVE, Retirement, check_active, delete_durables};
use crate::topology::Deployment;
use callsight_frame::subject::Region;

/// Delete the durables of an old exporter that has stopped, once another one is active and ready
#[derive(Debug, clap::Args)]
pub(crate) struct RetireArgs {
    /// Deployment whose durables to delete, such as `blue`
    #[arg(long, value_name = "NAME", required = true, help_heading = "What")]
    deployment: Deployment,

    /// Region whose stream has the durables.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', required = true, help_heading = "What")]
    region: Vec<Region>,

    /// URL of the service that everybody uses: the other deployment must answer there and be ready
    #[arg(long, value_name = "URL", required = true, help_heading = "What")]
    active: Endpoint,

    /// Wait this long for the old exporter's last pull requests to expire, which takes up to 10s;
    /// from 1s to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "What"
    )]
    timeout: Duration,

    #[command(flatten)]
    nats: NatsArgs,

    #[command(flatten)]
    http: HttpArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What to retire, and what must be active before.
#[derive(Clone, Debug)]
pub(crate) struct RetireConfig {
    retirement: Retirement,
    active: Endpoint,
    nats: NatsConfig,
    access: HttpAccess,
}

impl RetireArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, RetireConfig), ConfigError> {
        let retirement =
            Retirement { deployment: self.deployment, regions: distinct(self.region), timeout: self.timeout };
        let (nats, access) = (self.nats.validate("operator")?, self.http.validate()?);
        Ok((self.process, RetireConfig { retirement, active: self.active, nats, access }))
    }
}

impl fmt::Display for RetireConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { retirement, active, nats, .. } = self;
        let Retirement { deployment, regions, .. } = retirement;
        write!(f, "deployment {deployment}; regions {}; active {active}; NATS {nats}", joined(regions))
    }
}

/// Retires, and prints a line for each durable that was deleted.
pub(crate) async fn run(config: RetireConfig) -> Result<(), CliError> {
    let RetireConfig { retirement, active, nats, access } = config;
    let active = Exporters { name: ACTIVE.to_owned(), endpoints: vec![active], http: client(&access)? };
    check_active(&active, &retirement.deployment).await.map_err(CliError::other)?;
    let client = nats::connect(&nats, "callsight rollout").await.map_err(CliError::other)?;
    let context = async_nats::jetstream::new(client);
    let deleted = delete_durables(&context, &retirement).await.map_err(CliError::other)?;
    let mut text: String =
        deleted.iter().map(|gone| format!("deleted {} of stream {}\n", gone.durable, gone.stream)).collect();
    if text.is_empty() {
        text = format!("no durable of deployment {} is left\n", retirement.deployment);
    }
    print(&text)
}
