//! `callsight streams`: compares JetStream with the declarations, applies them, and computes how
//! large streams have to be.
//!
//! Invariant: only `apply` changes anything, and no command deletes anything.

mod report;
mod size;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use self::report::{StepReport, StreamsReport};
use self::size::{SizeArgs, SizeConfig};
use super::CliError;
use super::args::{NatsArgs, ProcessArgs, distinct, joined};
use super::process::print;
use crate::config::{ConfigError, NatsConfig, one_line, whole, within_an_hour};
use crate::nats;
use crate::topology::{self, Bond, Declared, Name, Readers, Reconciler};
use callsight_frame::subject::Region;

/// Replicas in production: any one server of a region may be lost.
const REPLICAS: usize = 3;

/// Compare streams and consumers in NATS with their declarations, apply these, compute sizes
#[derive(Debug, clap::Args)]
pub(crate) struct StreamsArgs {
    #[command(subcommand)]
    command: StreamsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StreamsCommand {
    /// Show what `apply` would do without changing anything; exit with 1 if it would refuse
    /// something
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Plan(Box<ChangeArgs>),
    /// Create what is missing and change what differs; exit with 1 if something is refused or
    /// fails.
    ///
    /// Changes that lose frames, or that the server can't make, are refused with the reason.
    /// Nothing is ever deleted.
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Apply(Box<ChangeArgs>),
    /// Show the differences, and exit with 1 if there are any.
    ///
    /// Also warns of streams that reach `max_bytes` before `max_age` at the rate of the last 10
    /// minutes, with the limit to set.
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Verify(Box<DeclaredArgs>),
    /// Compute rate, disk space and limits of a region's stream from its number of sessions.
    ///
    /// Prints a row for each combination of `--sessions` and `--parties`. The bytes per frame are
    /// those of simulated frames, encoded as clients do.
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Size(Box<SizeArgs>),
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Streams")]
struct ChangeArgs {
    /// Also make changes that lose or relocate frames: lower limits, fewer copies or subjects,
    /// another cluster
    #[arg(long)]
    allow_destructive: bool,

    #[command(flatten)]
    declared: DeclaredArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Streams")]
struct DeclaredArgs {
    /// Folder of declarations, with `streams/*.json` and `consumers/STREAM/*.json`.
    ///
    /// Without it, they are generated from `--region`, `--hub` and `--deployment`, as in
    /// `jetstream/` for us and apac.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Regions to declare streams for, without `--dir`.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', default_value = "us,apac")]
    region: Vec<Region>,

    /// Region with mirrors of the others, without `--dir`; by default the first of `--region`
    #[arg(long, value_name = "REGION")]
    hub: Option<Region>,

    /// Deployments to declare durables for in each region, without `--dir`; `green/3` has three
    /// shards.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "main")]
    deployment: Vec<Readers>,

    /// Only what is stored in this region, without `--dir`: its streams and durables, and the
    /// mirrors if it is the hub.
    ///
    /// For regions that are deployed separately.
    #[arg(long, value_name = "REGION")]
    within: Option<Region>,

    /// Replicas of all streams, 1 to 5, instead of the declared number; 1 if regions have one
    /// server
    #[arg(long, value_name = "N", value_parser = whole(1..=5_usize))]
    replicas: Option<usize>,

    /// Time to wait for JetStream's answer, from 1s to 1h.
    ///
    /// For a while after a start there is no leader.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = within_an_hour)]
    wait: Duration,

    /// Print JSON instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    nats: NatsArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Plan,
    Apply,
    Verify,
}

/// The validated settings.
#[derive(Debug)]
pub(crate) enum StreamsConfig {
    Compare(Box<CompareConfig>),
    Size(SizeConfig),
}

/// The validated settings of a comparison.
#[derive(Debug)]
pub(crate) struct CompareConfig {
    task: Task,
    declared: Vec<Declared>,
    /// Origin of the declarations, for people.
    origin: String,
    allow_destructive: bool,
    wait: Duration,
    json: bool,
    nats: NatsConfig,
}

impl StreamsArgs {
    pub(super) fn validate(self) -> Result<(ProcessArgs, StreamsConfig), ConfigError> {
        let (task, allow_destructive, args) = match self.command {
            StreamsCommand::Plan(args) => (Task::Plan, args.allow_destructive, args.declared),
            StreamsCommand::Apply(args) => (Task::Apply, args.allow_destructive, args.declared),
            StreamsCommand::Verify(args) => (Task::Verify, false, *args),
            StreamsCommand::Size(args) => return Ok((args.process, StreamsConfig::Size(args.config))),
        };
        let (origin, declared) = declarations(&args)?;
        let DeclaredArgs { wait, json, nats, process, .. } = args;
        let nats = nats.validate("operator")?;
        let config = CompareConfig { task, declared, origin, allow_destructive, wait, json, nats };
        Ok((process, StreamsConfig::Compare(Box::new(config))))
    }
}

fn declarations(args: &DeclaredArgs) -> Result<(String, Vec<Declared>), ConfigError> {
    let (origin, declared) = match &args.dir {
        Some(folder) => {
            let declared = topology::read_files(folder).map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                ConfigError::Rejected(format!("{error}{}", cause.unwrap_or_default()))
            })?;
            (one_line(&folder.display().to_string()), declared)
        }
        None => {
            let mut regions = distinct(args.region.clone());
            if let Some(hub) = &args.hub {
                let place = place("--hub", hub, &regions)?;
                regions[..=place].rotate_right(1);
            }
            let deployments = distinct(args.deployment.clone());
            let replicas = args.replicas.unwrap_or(REPLICAS);
            let declared = Declared::builtin(&regions, &deployments, replicas, Bond::Gateways);
            match &args.within {
                Some(region) => {
                    place("--within", region, &regions)?;
                    let origin = format!("region {region} of {}", joined(&regions));
                    (origin, Declared::within(&declared, region, &regions[0]))
                }
                None => (format!("regions {}", joined(&regions)), declared),
            }
        }
    };
    let declared = match args.replicas {
        Some(replicas) => declared.into_iter().map(|one| one.with_replicas(replicas)).collect(),
        None => declared,
    };
    Ok((origin, declared))
}

/// Returns where a region is among those declared.
fn place(flag: &str, wanted: &Region, regions: &[Region]) -> Result<usize, ConfigError> {
    let place = regions.iter().position(|region| region == wanted);
    let unknown = || format!("`{flag} {wanted}` is not one of `--region {}`", joined(regions));
    place.ok_or_else(|| ConfigError::Rejected(unknown()))
}

impl fmt::Display for StreamsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare(config) => config.fmt(f),
            Self::Size(config) => config.fmt(f),
        }
    }
}

impl fmt::Display for CompareConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.declared.iter().filter(|one| matches!(one.name, Name::Stream(_))).count();
        let consumers = self.declared.len() - streams;
        write!(f, "{}: {streams} streams, {consumers} consumers; NATS {}", self.origin, self.nats)
    }
}

/// Compares or computes, and fails if something differs, is refused or fails.
pub(crate) async fn run(config: StreamsConfig) -> Result<(), CliError> {
    match config {
        StreamsConfig::Compare(config) => compare(*config).await,
        StreamsConfig::Size(config) => config.run(),
    }
}

async fn compare(config: CompareConfig) -> Result<(), CliError> {
    let client = nats::connect(&config.nats, "callsight streams").await.map_err(CliError::other)?;
    let reconciler = Reconciler::new(client, config.wait);
    let steps = reconciler.plan(&config.declared, config.allow_destructive).await.map_err(CliError::other)?;
    let mut report = StreamsReport { task: config.task, steps: Vec::with_capacity(steps.len()) };
    for step in steps {
        let mut done = StepReport { step, failed: None, shortage: None };
        match config.task {
            Task::Apply => done.failed = reconciler.apply(&done.step).await.err(),
            Task::Verify => {
                let traffic = reconciler.traffic(&done.step.name).await.map_err(CliError::other)?;
                done.shortage =
                    traffic.and_then(|traffic| Some((traffic, traffic.shortage(&done.step.config)?)));
            }
            Task::Plan => {}
        }
        report.steps.push(done);
    }
    let text = if config.json { format!("{:#}\n", report.json()) } else { report.to_string() };
    print(&text)?;
    report.outcome()
}
