//! `callsight rollout retire`: deletes the durables of a stopped exporter.

use std::fmt;

use super::{CliError, access, client, print};
use crate::cli::args::{NatsArgs, ProcessArgs, distinct, joined};
use crate::config::{ConfigError, NatsConfig};
use crate::http_client::{Address, HttpAccess};
use crate::rollout::exporters::Exporters;
use crate::rollout::retire::{ACTIVE, Retirement, retire};

/// Delete the durables of an old exporter that has stopped, once another one is active and ready
#[derive(Debug, clap::Args)]
pub(crate) struct RetireArgs {
    #[command(flatten)]
    retirement: Retirement,

    /// URL of the service that everybody uses: the other deployment must answer there and be ready
    #[arg(long, value_name = "URL", required = true, help_heading = "What")]
    active: Address,

    #[command(flatten)]
    nats: NatsArgs,

    #[command(flatten)]
    access: HttpAccess,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What to retire, and what must be active before.
#[derive(Clone, Debug)]
pub(crate) struct RetireConfig {
    retirement: Retirement,
    active: Address,
    nats: NatsConfig,
    access: HttpAccess,
}

impl RetireArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, RetireConfig), ConfigError> {
        let Self { mut retirement, active, nats, access: http, process } = self;
        retirement.regions = distinct(retirement.regions);
        access(&http)?;
        Ok((process, RetireConfig { retirement, active, nats: nats.validate("operator")?, access: http }))
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
    let deleted = retire(&active, &nats, &retirement).await.map_err(CliError::other)?;
    let mut text: String =
        deleted.iter().map(|gone| format!("deleted {} of stream {}\n", gone.durable, gone.stream)).collect();
    if text.is_empty() {
        text = format!("no durable of deployment {} is left\n", retirement.deployment);
    }
    print(&text)
}
