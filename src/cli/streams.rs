//! `callsight streams`: compares JetStream with the declarations, and applies them.
//!
//! Invariant: `plan` and `verify` change nothing, and no command deletes anything.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::CliError;
use super::args::{NatsArgs, ProcessArgs, distinct, joined, rejected};
use super::process::print;
use crate::config::{ConfigError, NatsConfig, one_line, whole, within_an_hour};
use crate::nats;
use crate::topology::{
    self, Action, Bond, Change, Declared, Name, Readers, ReconcileError, Reconciler, Step, is_duration,
};
use callsight_frame::subject::Region;

/// Replicas in production: any one server of a region may be lost.
const REPLICAS: usize = 3;

/// Compare the streams and consumers in NATS with their declarations, and apply these
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
    /// Show the differences, and exit with 1 if there are any
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Verify(Box<DeclaredArgs>),
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

/// The validated settings of a comparison.
#[derive(Debug)]
pub(crate) struct StreamsConfig {
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
        };
        let (origin, declared) = declarations(&args)?;
        let DeclaredArgs { wait, json, nats, process, .. } = args;
        let nats = nats.validate("operator")?;
        Ok((process, StreamsConfig { task, declared, origin, allow_destructive, wait, json, nats }))
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
                let Some(place) = regions.iter().position(|region| region == hub) else {
                    return rejected(format!("`--hub {hub}` is not one of `--region {}`", joined(&regions)));
                };
                regions[..=place].rotate_right(1);
            }
            let deployments = distinct(args.deployment.clone());
            let replicas = args.replicas.unwrap_or(REPLICAS);
            let declared = Declared::builtin(&regions, &deployments, replicas, Bond::Gateways);
            match (&args.within, regions.first()) {
                (Some(region), Some(hub)) if regions.contains(region) => (
                    format!("region {region} of {}", joined(&regions)),
                    Declared::within(&declared, region, hub),
                ),
                (Some(region), _) => {
                    return rejected(format!(
                        "`--within {region}` is not one of `--region {}`",
                        joined(&regions)
                    ));
                }
                (None, _) => (format!("regions {}", joined(&regions)), declared),
            }
        }
    };
    let declared = match args.replicas {
        Some(replicas) => declared.into_iter().map(|one| one.with_replicas(replicas)).collect(),
        None => declared,
    };
    Ok((origin, declared))
}

impl fmt::Display for StreamsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.declared.iter().filter(|one| matches!(one.name, Name::Stream(_))).count();
        let consumers = self.declared.len() - streams;
        write!(f, "{}: {streams} streams, {consumers} consumers; NATS {}", self.origin, self.nats)
    }
}

/// Compares, applies if asked to, and fails if something differs, is refused or fails.
pub(crate) async fn run(config: StreamsConfig) -> Result<(), CliError> {
    let client = nats::connect(&config.nats, "callsight streams").await.map_err(CliError::other)?;
    let reconciler = Reconciler::new(async_nats::jetstream::new(client), config.wait);
    let steps = reconciler.plan(&config.declared, config.allow_destructive).await.map_err(CliError::other)?;
    let mut report = StreamsReport { task: config.task, done: Vec::with_capacity(steps.len()) };
    for step in steps {
        let failed = match config.task {
            Task::Apply => reconciler.apply(&step).await.err(),
            Task::Plan | Task::Verify => None,
        };
        report.done.push((step, failed));
    }
    let text = if config.json { format!("{:#}\n", report.json()) } else { report.to_string() };
    print(&text)?;
    report.outcome()
}

/// All steps and their errors.
struct StreamsReport {
    task: Task,
    done: Vec<(Step, Option<ReconcileError>)>,
}

impl StreamsReport {
    fn count(&self, action: &Action) -> usize {
        self.done.iter().filter(|(step, _)| step.action == *action).count()
    }

    fn failed(&self) -> usize {
        self.done.iter().filter(|(_, failed)| failed.is_some()).count()
    }

    fn outcome(&self) -> Result<(), CliError> {
        let (refused, failed) = (self.count(&Action::Refused), self.failed());
        let differing = self.done.len() - self.count(&Action::Same);
        match self.task {
            Task::Verify if differing > 0 => Err(CliError::failed(format!(
                "{differing} of {} differ from their declarations; see `callsight streams plan`",
                self.done.len()
            ))),
            Task::Plan if refused > 0 => {
                Err(CliError::failed(format!("`callsight streams apply` would refuse {refused}")))
            }
            Task::Apply if refused + failed > 0 => {
                Err(CliError::failed(format!("{refused} refused and not changed, {failed} failed")))
            }
            _ => Ok(()),
        }
    }

    fn json(&self) -> Value {
        let steps = self.done.iter().map(|(step, failed)| {
            let mut value = json!({
                "kind": step.name.kind(),
                "name": step.name.to_string(),
                "action": step.action,
                "changes": step.changes,
            });
            if self.task == Task::Apply {
                let due = matches!(step.action, Action::Create | Action::Change);
                value["done"] = (due && failed.is_none()).into();
                value["error"] = failed.as_ref().map(ToString::to_string).into();
            }
            value
        });
        json!({
            "ok": self.outcome().is_ok(),
            "create": self.count(&Action::Create),
            "change": self.count(&Action::Change),
            "refused": self.count(&Action::Refused),
            "same": self.count(&Action::Same),
            "failed": self.failed(),
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for StreamsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, failed) in &self.done {
            let (sign, note) = match step.action {
                Action::Same => ("=", String::new()),
                Action::Create => ("+", made_of(step)),
                Action::Change => ("~", String::new()),
                Action::Refused => ("!", "refused".to_owned()),
            };
            let line = format!("{sign} {:<8} {:<40} {note}", step.name.kind(), step.name.to_string());
            writeln!(f, "{}", line.trim_end())?;
            for change in &step.changes {
                writeln!(f, "    {}", shown(change))?;
                if let Some(reason) = &change.refused {
                    writeln!(f, "      refused: {reason}")?;
                }
            }
            if let Some(error) = failed {
                writeln!(f, "    failed: {error}")?;
            }
        }
        let [created, changed] = match self.task {
            Task::Apply => ["created", "changed"],
            Task::Plan | Task::Verify => ["to create", "to change"],
        };
        let failed = |action: Action| {
            self.done.iter().filter(|(step, failed)| step.action == action && failed.is_some()).count()
        };
        write!(
            f,
            "{} {created}, {} {changed}, {} refused, {} unchanged",
            self.count(&Action::Create) - failed(Action::Create),
            self.count(&Action::Change) - failed(Action::Change),
            self.count(&Action::Refused),
            self.count(&Action::Same),
        )?;
        match self.failed() {
            0 => writeln!(f),
            failed => writeln!(f, ", {failed} failed"),
        }
    }
}

/// Summarises what a step creates.
fn made_of(step: &Step) -> String {
    let mut words = Vec::new();
    if let Some(cluster) = step.config.get("placement").and_then(|placement| placement["cluster"].as_str()) {
        words.push(format!("in {cluster}"));
    }
    if let Some(origin) = step.config.get("mirror").and_then(|mirror| mirror["name"].as_str()) {
        words.push(format!("mirror of {origin}"));
    }
    match step.config.get("num_replicas").and_then(Value::as_u64) {
        Some(1) => words.push("1 replica".to_owned()),
        Some(replicas) => words.push(format!("{replicas} replicas")),
        None => {}
    }
    words.join(", ")
}

/// Renders a change as `max_age: 3days → 1day`.
fn shown(Change { key, old, new, .. }: &Change) -> String {
    let value = |value: &Value| match value.as_i64() {
        _ if value.is_null() => "unset".to_owned(),
        Some(-1) => "unlimited".to_owned(),
        Some(number) if is_duration(key) => {
            humantime::format_duration(Duration::from_nanos(number.unsigned_abs())).to_string()
        }
        Some(number) if key == "max_bytes" => bytes(number.unsigned_abs()),
        _ => value.to_string(),
    };
    format!("{key}: {} → {}", value(old), value(new))
}

/// Renders a number of bytes in the largest unit that divides it.
fn bytes(number: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| number > 0 && number.is_multiple_of(1 << shift));
    match unit {
        Some((unit, shift)) => format!("{} {unit}", number >> shift),
        None => format!("{number} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_say_them() {
        let change = |key: &str, old: Value, new: Value| {
            shown(&Change { key: key.to_owned(), old, new, refused: None })
        };
        let age = change("max_age", json!(259_200_000_000_000_u64), json!(3_600_000_000_000_u64));
        assert_eq!(age, "max_age: 3days → 1h");
        assert_eq!(change("max_bytes", json!(-1), json!(4_u64 << 30)), "max_bytes: unlimited → 4 GiB");
        assert_eq!(change("max_bytes", json!(100), json!(2048)), "max_bytes: 100 bytes → 2 KiB");
        let placed = change("placement", Value::Null, json!({"cluster": "us"}));
        assert_eq!(placed, "placement: unset → {\"cluster\":\"us\"}");
    }
}
