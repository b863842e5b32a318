//! The command line: one file a command, each with its flags, its validated configuration and what it runs.

mod args;
mod dead_letters;
mod demo;
mod frame;
mod log;
mod monitoring;
mod replay;
mod rollout;
mod serve;
mod simulate;
mod sources;
mod streams;
mod tool;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::iter;
use std::process::ExitCode;

use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};

use self::args::ProcessArgs;
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
    Simulate(Box<simulate::SimulateArgs>),
    // Its lines would tear the progress bar.
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Replay(Box<replay::ReplayArgs>),
    // The live line is what one wants to see there.
    #[command(mut_arg("log_level", |level| level.default_value("warn")))]
    Demo(Box<demo::DemoArgs>),
    Streams(streams::StreamsArgs),
    Frame(frame::FrameArgs),
    Rollout(rollout::RolloutArgs),
}

/// Why a command stopped short.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The settings cannot be used: exit code 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Anything later: exit code 1.
    #[error("{doing}")]
    Failed {
        /// What could not be done.
        doing: String,
        /// Why not, if there is more to say.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// Nothing of what was asked for is there: exit code 3.
    #[error(transparent)]
    Nothing(Box<dyn Error + Send + Sync>),
    /// A signal ended it before it was done: exit code 130, as a shell has it.
    #[error("stopped by {signal}: {left}")]
    Stopped {
        /// Which.
        signal: &'static str,
        /// What is there of what was begun.
        left: &'static str,
    },
    /// The same as [`Self::Failed`], in the words of another part of the program.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

impl CliError {
    /// A failure that says all there is to say.
    pub(crate) fn failed(doing: impl Into<String>) -> Self {
        Self::Failed { doing: doing.into(), source: None }
    }

    /// A failure with its cause.
    pub(crate) fn caused(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { doing: doing.into(), source: Some(source.into()) }
    }

    /// A failure that another part of the program has put into words.
    pub(crate) fn other(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Failed { .. } | Self::Other(_) => 1,
            Self::Nothing(_) => 3,
            Self::Stopped { .. } => 130,
        }
    }

    /// The error and its causes in one line.
    fn line(&self) -> String {
        let chain = iter::successors(Some(self as &dyn Error), |&error| error.source());
        one_line(&chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }
}

/// Runs the command that the process was started for, to its end.
pub fn main() -> ExitCode {
    match execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone there is nobody left to tell.
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
            // Into `head`, say, which has seen enough.
            let _ = text.print();
            return Ok(());
        }
    };
    match cli.command {
        Command::Serve(args) => {
            let (process, config) = args.validate()?;
            start(&process, config, serve::run)
        }
        Command::Simulate(args) => {
            let (process, config) = args.validate()?;
            start(&process, config, simulate::run)
        }
        Command::Replay(args) => {
            let (process, config) = args.validate(OffsetDateTime::now_utc())?;
            start(&process, config, replay::run)
        }
        Command::Demo(args) => {
            let (process, config) = args.validate()?;
            start(&process, config, demo::run)
        }
        Command::Streams(args) => {
            let (process, config) = args.validate()?;
            start(&process, config, streams::run)
        }
        Command::Frame(args) => frame::run(args, io::stdin(), io::stdout()).map_err(CliError::other),
        Command::Rollout(args) => rollout::execute(args),
    }
}

/// What `--check-config` would say of these settings, or the error that would be shown, without running anything.
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
    Ok(match cli.command {
        Command::Serve(args) => args.validate().map_err(error)?.1.to_string(),
        Command::Simulate(args) => args.validate().map_err(error)?.1.to_string(),
        Command::Replay(args) => args.validate(OffsetDateTime::UNIX_EPOCH).map_err(error)?.1.to_string(),
        Command::Demo(args) => args.validate().map_err(error)?.1.to_string(),
        Command::Streams(args) => args.validate().map_err(error)?.1.to_string(),
        Command::Frame(args) => format!("{args:?}"),
        Command::Rollout(args) => rollout::check(args).map_err(error)?,
    })
}

/// What all commands have in common between their configuration and their end.
fn start<C, R>(process: &ProcessArgs, config: C, run: impl FnOnce(C) -> R) -> Result<(), CliError>
where
    C: fmt::Display,
    R: Future<Output = Result<(), CliError>>,
{
    if process.check_config {
        return writeln!(io::stdout(), "config is valid: {config}")
            .map_err(|error| CliError::caused("cannot write to stdout", error));
    }
    log::init(&process.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::caused("cannot start the runtime", error))?;
    runtime.block_on(run(config))
}

/// Waits until somebody asks the process to stop, and tells how. From the call on, not only once it is waited for: whatever
/// is begun after it can be cleaned up.
pub(crate) fn stop_signal() -> Result<impl Future<Output = &'static str>, CliError> {
    let cannot = |error| CliError::caused("cannot listen for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    // A terminal that is closed must not leave the demo's servers behind.
    let mut hang_up = signal(SignalKind::hangup()).map_err(cannot)?;
    Ok(async move {
        tokio::select! {
            _ = hang_up.recv() => "SIGHUP",
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

#[cfg(test)]
mod tests;
