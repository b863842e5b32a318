//! `callsight rollout compare`: decides whether green may take over from blue.

use std::fmt;
use std::time::Duration;

use super::{CliError, HttpArgs, client, print};
use crate::cli::args::{HOUR, ProcessArgs, SECOND, distinct, joined};
use crate::config::{ConfigError, duration_between, ratio, whole};
use crate::http_client::{Endpoint, HttpAccess};
use crate::rollout::compare::{ComparisonTerms, compare};
use crate::rollout::exporters::Exporters;
use crate::rollout::judge::Tolerances;
use crate::rollout::table;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Wait until a new exporter agrees with the old one; exit with 1 if it does not
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// URL of the old exporter, `http://host:port`.
    ///
    /// With shards, give the URL of each, separated by commas or by repeating the flag: their
    /// metrics are summed.
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true, help_heading = "Exporters")]
    blue: Vec<Endpoint>,

    /// URL of the new exporter, in the same way
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true, help_heading = "Exporters")]
    green: Vec<Endpoint>,

    #[command(flatten)]
    terms: TermArgs,

    #[command(flatten)]
    http: HttpArgs,

    /// Print the result as JSON
    #[arg(long, help_heading = "Output")]
    json: bool,

    #[command(flatten)]
    process: ProcessArgs,
}

/// How long to compare, and how exactly.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TermArgs {
    /// Give up after this long, from 1s to 24h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5m",
        value_parser = duration_between(SECOND..=DAY),
        help_heading = "Terms"
    )]
    timeout: Duration,

    /// Watch both for this long before judging, from 1s to 1h.
    ///
    /// Choose a multiple of the interval at which clients send frames.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "Terms"
    )]
    window: Duration,

    /// Wait while green is further behind the stream than this, from 1s to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = duration_between(SECOND..=HOUR),
        help_heading = "Terms"
    )]
    max_lag: Duration,

    /// Share by which populations and live series may differ
    #[arg(long, value_name = "SHARE", default_value = "0.05", value_parser = ratio, help_heading = "Terms")]
    tolerance: f64,

    /// Share by which rates may differ: at the edges of the window, one has folded frames that the
    /// other has not
    #[arg(long, value_name = "SHARE", default_value = "0.1", value_parser = ratio, help_heading = "Terms")]
    rate_tolerance: f64,

    /// Share by which the 95th percentile of the round-trip time may differ
    #[arg(long, value_name = "SHARE", default_value = "0.1", value_parser = ratio, help_heading = "Terms")]
    rtt_tolerance: f64,

    /// Number of sessions, with what they send, by which small populations may differ
    #[arg(
        long,
        value_name = "N",
        default_value = "2",
        value_parser = whole(0..=1_000_000_u32),
        help_heading = "Terms"
    )]
    floor: u32,

    /// Milliseconds by which the 95th percentile of the round-trip time may always differ
    #[arg(
        long,
        value_name = "MS",
        default_value = "5",
        value_parser = whole(0..=60_000_u32),
        help_heading = "Terms"
    )]
    rtt_floor: u32,

    /// Live sessions that each region must have: without calls there is nothing to compare
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = whole(0..=1_000_000_000_u32),
        help_heading = "Terms"
    )]
    min_sessions: u32,

    /// Allow green to have an older version than blue
    #[arg(long, help_heading = "Terms")]
    allow_older: bool,
}

impl TermArgs {
    pub(super) fn validate(self) -> Result<ComparisonTerms, ConfigError> {
        if self.window >= self.timeout {
            let message =
                "`--window` must be shorter than `--timeout`, otherwise no window is watched to its end";
            return Err(ConfigError::Rejected(message.to_owned()));
        }
        let tolerances = Tolerances {
            tolerance: self.tolerance,
            rate_tolerance: self.rate_tolerance,
            rtt_tolerance: self.rtt_tolerance,
            floor: f64::from(self.floor),
            rtt_floor_ms: f64::from(self.rtt_floor),
            min_sessions: f64::from(self.min_sessions),
            allow_older: self.allow_older,
        };
        Ok(ComparisonTerms { timeout: self.timeout, window: self.window, max_lag: self.max_lag, tolerances })
    }
}

/// What to compare.
#[derive(Clone, Debug)]
pub(crate) struct CompareConfig {
    blue: Vec<Endpoint>,
    green: Vec<Endpoint>,
    terms: ComparisonTerms,
    access: HttpAccess,
    json: bool,
}

impl CompareArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, CompareConfig), ConfigError> {
        let (blue, green) = (distinct(self.blue), distinct(self.green));
        if let Some(both) = blue.iter().find(|endpoint| green.contains(endpoint)) {
            return Err(ConfigError::Rejected(format!("`--blue` and `--green` both name {both}")));
        }
        let terms = self.terms.validate()?;
        let config = CompareConfig { blue, green, terms, access: self.http.validate()?, json: self.json };
        Ok((self.process, config))
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
    let exporters = |name: &str, endpoints: &[Endpoint]| Exporters {
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
