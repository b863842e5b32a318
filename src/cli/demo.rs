//! `callsight demo`: everything on this machine.

use std::fmt;

use super::CliError;
use super::args::{ProcessArgs, distinct, joined};
use super::simulate::CallArgs;
use crate::subject::Region;

/// Run everything on this machine: NATS, the exporter, simulated calls, and Prometheus if it is there
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// A region to place calls in.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', default_value = "us", help_heading = "Calls")]
    region: Vec<Region>,

    #[command(flatten)]
    calls: CallArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What to show.
#[derive(Clone, Debug)]
pub(crate) struct DemoConfig {
    /// At least one, each once.
    pub(crate) regions: Vec<Region>,
    pub(crate) calls: CallArgs,
}

impl DemoArgs {
    pub(super) fn validate(self) -> (ProcessArgs, DemoConfig) {
        (self.process, DemoConfig { regions: distinct(self.region), calls: self.calls })
    }
}

impl fmt::Display for DemoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CallArgs { sessions, seed, .. } = self.calls;
        write!(f, "regions {}; {sessions} sessions; seed {seed}", joined(&self.regions))
    }
}

/// Runs the demo until told to stop.
pub(crate) async fn run(config: DemoConfig) -> Result<(), CliError> {
    Err(CliError::failed(format!("demo is not built yet ({config})")))
}
