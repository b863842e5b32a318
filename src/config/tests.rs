use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Off,
    Pair,
}

#[derive(Debug, clap::Parser)]
#[command(name = "callsight", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Watch calls
    Watch(Watch),
    /// Keep streams
    #[command(subcommand)]
    Streams(Streams),
}

#[derive(Debug, clap::Subcommand)]
enum Streams {
    /// Show what would change
    Plan(Watch),
    /// Change it
    Apply(Watch),
}

#[derive(Debug, clap::Args)]
struct Watch {
    /// Regions
    #[arg(long, required = true, value_delimiter = ',')]
    region: Vec<String>,
    /// How long to wait
    #[arg(long, value_parser = duration, default_value = "30s")]
    idle_timeout: Duration,
    /// A share
    #[arg(long, value_parser = ratio, default_value = "0.5")]
    share: f64,
    /// Make what is missing
    #[arg(long)]
    create: bool,
    /// Say goodbye
    #[arg(long, default_value = "true")]
    goodbye: bool,
    /// How much
    #[arg(long, default_value = "pair")]
    detail: Level,
    /// Where
    #[arg(long, hide_env_values = true)]
    nats_url: Option<NatsUrl>,
    /// Settings
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Layers to parse: a command line, variables and a file.
struct Given {
    arguments: Vec<OsString>,
    environment: BTreeMap<String, OsString>,
    directory: TempDir,
}

fn given(command_line: &str) -> Given {
    Given {
        arguments: format!("callsight {command_line}").split_whitespace().map(OsString::from).collect(),
        environment: BTreeMap::new(),
        directory: tempfile::tempdir().unwrap(),
    }
}

impl Given {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    fn file(self, text: &str) -> Self {
        let path = self.directory.path().join("callsight.toml");
        fs::write(&path, text).unwrap();
        self.env("CALLSIGHT_CONFIG", path.to_str().unwrap())
    }

    fn parse(&self) -> Result<Watch, ConfigError> {
        match parse::<Cli>(&self.arguments, &|name| self.environment.get(name).cloned())? {
            Parsed::Command(Cli {
                command: Command::Watch(args) | Command::Streams(Streams::Plan(args) | Streams::Apply(args)),
            }) => Ok(args),
            Parsed::Show(text) => panic!("unexpected help: {text}"),
        }
    }

    fn watch(&self) -> Watch {
        self.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error as it is shown, the directory of the file left out.
    fn error(&self) -> String {
        let error = self.parse().unwrap_err();
        let mut line = error.to_string();
        if let Some(source) = error.source() {
            line.push_str(&format!(": {source}"));
        }
        assert!(!line.chars().any(char::is_control), "more than a line: {line:?}");
        line.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

#[test]
fn each_layer_wins_over_those_below() {
    let seconds = |given: Given| given.watch().idle_timeout.as_secs();
    let from_file = || given("watch --region us").file("idle-timeout = '2s'");
    let from_environment = || from_file().env("CALLSIGHT_IDLE_TIMEOUT", "3s");

    assert_eq!(seconds(given("watch --region us")), 30);
    assert_eq!(seconds(from_file()), 2);
    assert_eq!(seconds(from_environment()), 3);
    let mut all = from_environment();
    all.arguments.push("--idle-timeout=4s".into());
    assert_eq!(seconds(all), 4);
}

#[test]
fn a_layer_replaces_a_list_as_a_whole() {
    let file = "region = ['a', 'b']";
    assert_eq!(given("watch").file(file).watch().region, ["a", "b"]);
    assert_eq!(given("watch").file(file).env("CALLSIGHT_REGION", "c,d").watch().region, ["c", "d"]);
    assert_eq!(given("watch --region e --region f").file(file).watch().region, ["e", "f"]);
    assert_eq!(given("watch").file("region = 'a'").watch().region, ["a"]);
}

#[test]
fn a_switch_can_be_turned_off_again() {
    assert!(given("watch --create --region us").watch().create);
    assert!(given("watch --region us").file("create = true").watch().create);
    assert!(
        !given("watch --region us").file("create = true").env("CALLSIGHT_CREATE", "false").watch().create
    );
    assert!(!given("watch --region us --create=false").env("CALLSIGHT_CREATE", "true").watch().create);
}

#[test]
fn a_switch_can_be_on_by_default() {
    assert!(given("watch --region us").watch().goodbye);
    assert!(!given("watch --region us --goodbye=false").watch().goodbye);
    assert!(given("watch --region us --goodbye").file("goodbye = false").watch().goodbye);
}

#[test]
fn a_broken_value_that_is_overridden_does_no_harm() {
    let given = given("watch --region us --idle-timeout 1s").env("CALLSIGHT_IDLE_TIMEOUT", "x");
    assert_eq!(given.file("idle-timeout = 'y'").watch().idle_timeout, Duration::from_secs(1));
}

#[test]
fn an_empty_variable_is_unset() {
    let watch =
        given("watch --region us").env("CALLSIGHT_IDLE_TIMEOUT", "").env("CALLSIGHT_REGION", "").watch();
    assert_eq!((watch.idle_timeout.as_secs(), watch.region), (30, vec!["us".to_owned()]));
}

#[test]
fn the_table_nearest_to_the_command_wins() {
    let file = "
        region = 'top'
        share = 0.1
        [watch]
        region = 'watch'
        [streams]
        region = 'streams'
        share = 0.2
        [streams.apply]
        share = 0.3
    ";
    let read = |command: &str| {
        let watch = given(command).file(file).watch();
        (watch.region.concat(), watch.share)
    };
    assert_eq!(read("watch"), ("watch".to_owned(), 0.1));
    assert_eq!(read("streams plan"), ("streams".to_owned(), 0.2));
    assert_eq!(read("streams apply"), ("streams".to_owned(), 0.3));
}

#[test]
fn values_are_taken_in_the_types_of_toml() {
    let watch = given("watch").file("region = 'us'\nshare = 1\nidle_timeout = '1m'\ndetail = 'off'").watch();
    assert_eq!((watch.share, watch.idle_timeout.as_secs(), watch.detail), (1.0, 60, Level::Off));
    let watch = given("watch").file("region = [1_000, 0x10, true, 2024-05-01T10:00:00Z]").watch();
    assert_eq!(watch.region, ["1000", "16", "true", "2024-05-01T10:00:00Z"]);
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line() {
    for (file, error) in [
        ("\nidle-timout = '3s'", "callsight.toml:2: unknown key `idle-timout`; did you mean `idle-timeout`?"),
        (
            "[watch]\nidle_timout = '3s'",
            "callsight.toml:2: unknown key `idle_timout`; did you mean `idle-timeout`?",
        ),
        (
            "zzz = 1",
            "callsight.toml:1: unknown key `zzz`; keys are named after flags, which `callsight <command> --help` lists",
        ),
        ("[wach]", "callsight.toml:1: unknown table `[wach]`; did you mean `[watch]`?"),
        ("[streams.aply]", "callsight.toml:1: unknown table `[aply]`; did you mean `[apply]`?"),
        (
            "[zzz]",
            "callsight.toml:1: unknown table `[zzz]`; a table is named after a command, `watch` or `streams`",
        ),
        ("watch = 1", "callsight.toml:1: `watch` is a command, so its settings go in a table `[watch]`"),
        ("share = [1, 2]", "callsight.toml:1: `share` takes a single value"),
        ("share = { a = 1 }", "callsight.toml:1: `share` takes a single value"),
        ("region = [['us']]", "callsight.toml:1: `region` takes a single value or a list of them"),
        (
            "share = 1\n[watch]\nshare = 2",
            "callsight.toml:3: invalid value `2` for `share`: write a share from 0 to 1, such as 0.05 for 5 %",
        ),
        (
            "share = 'much'",
            "callsight.toml:1: invalid value `much` for `share`: write a share from 0 to 1, such as 0.05 for 5 %",
        ),
        (
            "idle-timeout = '3x'",
            "callsight.toml:1: invalid value `3x` for `idle-timeout`: unknown time unit \"x\"; write a duration such as 30s, 5m or 1h30m",
        ),
        ("idle-timeout = ''", "callsight.toml:1: `idle-timeout` needs a value"),
        (
            "detail = 'pear'",
            "callsight.toml:1: invalid value `pear` for `detail`: it takes `off` or `pair`; did you mean `pair`?",
        ),
        ("create = 1", "callsight.toml:1: invalid value `1` for `create`: it takes `true` or `false`"),
        ("share = 1\n\nshare = 2", "callsight.toml:3: not valid TOML: duplicate key"),
        (
            "idle-timeout = '1s'\nidle_timeout = '2s'",
            "callsight.toml:2: `idle-timeout` is given twice, first in line 1",
        ),
        (
            "config = 'other.toml'",
            "callsight.toml:1: `config` cannot be set in the file that it names; use `--config` or `CALLSIGHT_CONFIG`",
        ),
        (
            "\"two\\nlines\" = 1",
            "callsight.toml:1: unknown key `two\\nlines`; keys are named after flags, which `callsight <command> --help` lists",
        ),
    ] {
        assert_eq!(given("watch --region us").file(file).error(), error, "{file}");
    }
}

#[test]
fn what_is_wrong_in_a_table_of_another_command_is_said_too() {
    let error = given("watch --region us").file("[streams.plan]\nregoin = 'us'").error();
    assert_eq!(error, "callsight.toml:2: unknown key `regoin`; did you mean `region`?");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = given("watch --region us --config /nowhere/callsight.toml");
    let error = missing.error();
    assert!(
        error.starts_with("cannot read `/nowhere/callsight.toml`, the file that `--config` names: "),
        "{error}"
    );
    let directory = given("watch --region us").env("CALLSIGHT_CONFIG", "/");
    assert!(directory.error().starts_with("cannot read `/`, "));
}

#[test]
fn what_is_wrong_on_the_command_line_is_said_in_its_terms() {
    for (line, error) in [
        ("", "no command given; use `watch` or `streams`"),
        ("wacth", "unknown command `wacth`; did you mean `watch`?"),
        ("zzz", "unknown command `zzz`; `--help` lists them"),
        ("streams", "no command given; use `plan` or `apply`"),
        ("watch --reigon us", "unknown flag `--reigon`; did you mean `--region`?"),
        ("watch --zzz=1", "unknown flag `--zzz`; `--help` lists them"),
        ("watch -z", "unknown flag `-z`; `--help` lists them"),
        (
            "--region us watch",
            "unknown flag `--region`; it goes after `watch`, `streams plan` or `streams apply`",
        ),
        ("watch us", "unexpected argument `us`"),
        (
            "watch",
            "`--region` is required; give the flag, set `CALLSIGHT_REGION`, or set `region` in the file of `--config`",
        ),
        ("watch --region", "`--region` needs a value"),
        ("watch --share 1 --share 1", "`--share` is given twice"),
        ("watch --create=perhaps", "invalid value `perhaps` for `--create`: it takes `true` or `false`"),
        (
            "watch --idle-timeout 3",
            "invalid value `3` for `--idle-timeout`: a time unit is missing; write a duration such as 30s, 5m or 1h30m",
        ),
    ] {
        assert_eq!(given(line).error(), error, "{line}");
    }
}

#[test]
fn what_is_wrong_in_the_environment_names_the_variable() {
    let error = given("watch --region us").env("CALLSIGHT_SHARE", "50%").error();
    assert_eq!(
        error,
        "invalid value `50%` for `CALLSIGHT_SHARE`: write a share from 0 to 1, such as 0.05 for 5 %"
    );
}

#[test]
fn no_error_shows_a_secret() {
    let url = "nats://alice:hunter2@host:bad";
    let lines = [
        given(&format!("watch --region us --nats-url {url}")).error(),
        given("watch --region us --nats-url=nats://host:hunter2").error(),
        given("watch --region us").env("CALLSIGHT_NATS_URL", url).error(),
        given("watch --region us").file(&format!("nats-url = '{url}'")).error(),
        given("watch --region us").file(&format!("nats-url = {url}")).error(),
        given("watch --region us").file(&format!("nats-ulr = '{url}'")).error(),
        given(&format!("watch --region us --nats-ulr={url}")).error(),
        given(&format!("watch --share {url}")).error(),
        given(&format!("watch {url}")).error(),
        given(url).error(),
    ];
    for line in lines {
        assert!(!line.contains("hunter2") && !line.contains("alice"), "{line}");
    }
}

#[test]
fn help_names_the_variables_and_reads_none() {
    let given = given("watch --help").env("CALLSIGHT_SHARE", "broken");
    let Ok(Parsed::Show(help)) = parse::<Cli>(&given.arguments, &|name| given.environment.get(name).cloned())
    else {
        panic!("no help");
    };
    assert!(help.to_string().contains("[env: CALLSIGHT_IDLE_TIMEOUT]"), "{help}");
}
