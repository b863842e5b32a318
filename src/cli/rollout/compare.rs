//! `callsight rollout compare`: decides whether green may take over from blue.

use std::fmt;

use super::{CliError, access, client, print};
use crate::cli::args::{ProcessArgs, distinct, joined, rejected};
use crate::config::ConfigError;
use crate::http_client::{Address, HttpAccess};
use crate::rollout::compare::{ComparisonTerms, compare};
use crate::rollout::exporters::Exporters;
use crate::rollout::table;

/// Wait until a new exporter agrees with the old one; exit with 1 if it does not
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    config: CompareConfig,

    #[command(flatten)]
    process: ProcessArgs,
}

/// What to compare.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompareConfig {
    /// URL of the old exporter, `http://host:port`.
    ///
    /// With shards, give the URL of each, separated by commas or by repeating the flag: their
    /// metrics are summed.
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true, help_heading = "Exporters")]
    blue: Vec<Address>,

    /// URL of the new exporter, in the same way
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true, help_heading = "Exporters")]
    green: Vec<Address>,

    #[command(flatten)]
    terms: ComparisonTerms,

    #[command(flatten)]
    access: HttpAccess,

    /// Print the result as JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl CompareArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, CompareConfig), ConfigError> {
        let Self { mut config, process } = self;
        config.blue = distinct(config.blue);
        config.green = distinct(config.green);
        if let Some(both) = config.blue.iter().find(|endpoint| config.green.contains(endpoint)) {
            return rejected(format!("`--blue` and `--green` both name {both}"));
        }
        if config.terms.window >= config.terms.timeout {
            return rejected(
                "`--window` must be shorter than `--timeout`, otherwise no window is watched to its end",
            );
        }
        access(&config.access)?;
        Ok((process, config))
    }
}

impl fmt::Display for CompareConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blue, green, terms, .. } = self;
        let [window, timeout] = [terms.window, terms.timeout].map(humantime::format_duration);
        write!(f, "blue {}; green {}; window {window}; timeout {timeout}", joined(blue), joined(green))
    }
}

/// Compares, prints the result, and fails if green must not take over.
pub(crate) async fn run(config: CompareConfig) -> Result<(), CliError> {
    let http = client(&config.access)?;
    let exporters = |name: &str, endpoints: &[Address]| Exporters {
        name: name.to_owned(),
        endpoints: endpoints.to_vec(),
        http: http.clone(),
    };
    let (blue, green) = (exporters("blue", &config.blue), exporters("green", &config.green));
    let comparison = compare(&blue, &green, &config.terms).await;
    if config.json {
        let json = serde_json::to_string_pretty(&comparison);
        let json = json.map_err(|error| CliError::caused("cannot write the result", error))?;
        print(&format!("{json}\n"))?;
    } else {
        print(&table::comparison(&comparison, "blue", "green"))?;
    }
    if comparison.go {
        return Ok(());
    }
    Err(CliError::failed(format!("green must not take over: {}", comparison.reasons.join("; "))))
}
