//! The command line: one file per command, with its flags, its validated configuration and what it
//! runs.
//!
//! Invariant: every command ends with one line on stderr and the exit code of its error, or with 0.

mod args;
mod dead_letters;
mod demo;
mod error;
mod frame;
mod ingest;
mod log;
mod monitoring;
mod process;
mod replay;
mod rewind;
mod rollout;
mod serve;
mod simulate;
mod sources;
mod streams;
mod token;
mod tool;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use time::OffsetDateTime;

pub(crate) use self::error::CliError;
pub(crate) use self::process::stop_signal;
use self::process::{Prepared, prepared, service_stop_signal};
use crate::config::{self, ConfigError, Parsed, ReadFile, one_line};

/// See what video calls feel like: health frames from JetStream, as live Prometheus series.
#[derive(Debug, clap::Parser)]
#[command(name = "callsight", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Ingest(Box<ingest::IngestArgs>),
    Simulate(Box<simulate::SimulateArgs>),
    // Log lines would break the progress bar.
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Replay(Box<replay::ReplayArgs>),
    Rewind(Box<rewind::RewindArgs>),
    // Log lines would break the live line.
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Demo(Box<demo::DemoArgs>),
    Streams(streams::StreamsArgs),
    Frame(frame::FrameArgs),
    Token(token::TokenCommandArgs),
    Rollout(rollout::RolloutArgs),
}

/// Runs the command of the process's arguments to its end.
pub fn main() -> ExitCode {
    match execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves nowhere to report this.
            let _ = writeln!(io::stderr(), "error: {}", error.line());
            ExitCode::from(error.exit_code())
        }
    }
}

fn execute() -> Result<(), CliError> {
    let arguments: Vec<_> = env::args_os().collect();
    let cli: Cli = match config::parse(&arguments, &|name| env::var_os(name))? {
        Parsed::Command(cli) => cli,
        Parsed::Show(text) => {
            // A closed pipe, such as of `head`, is no error.
            let _ = text.print();
            return Ok(());
        }
    };
    (cli.command.prepare(OffsetDateTime::now_utc())?.run)()
}

impl Command {
    /// Validates the settings, of which some count from a present moment.
    fn prepare(self, now: OffsetDateTime) -> Result<Prepared, ConfigError> {
        Ok(match self {
            Self::Serve(args) => serve::prepare(*args)?,
            Self::Ingest(args) => ingest::prepare(*args)?,
            Self::Simulate(args) => prepared(args.validate()?, simulate::run),
            Self::Replay(args) => prepared(args.validate(now)?, replay::run),
            Self::Rewind(args) => rewind::prepare(*args)?,
            Self::Demo(args) => prepared(args.validate()?, demo::run),
            Self::Streams(args) => prepared(args.validate()?, streams::run),
            Self::Frame(args) => Prepared {
                settings: format!("{args:?}"),
                run: Box::new(|| frame::run(args, io::stdin(), io::stdout())),
            },
            Self::Token(args) => Prepared {
                settings: format!("{args:?}"),
                run: Box::new(|| token::run(args, io::stdin(), io::stdout())),
            },
            Self::Rollout(args) => args.prepare()?,
        })
    }
}

/// Returns what `--check-config` prints for these settings, or the error line.
pub(crate) fn check(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    read_file: ReadFile<'_>,
) -> Result<String, String> {
    let error = |error: ConfigError| CliError::from(error).line();
    let cli: Cli = match config::parse_with(arguments, environment, read_file).map_err(error)? {
        Parsed::Command(cli) => cli,
        Parsed::Show(text) => return Ok(one_line(&text.to_string())),
    };
    Ok(cli.command.prepare(OffsetDateTime::UNIX_EPOCH).map_err(error)?.settings)
}

#[cfg(test)]
mod tests;
