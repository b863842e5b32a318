//! `callsight rollout`: from one version of the exporter to the next.

mod compare;
mod deploy;
mod retire;

use std::io::{self, Write};
use std::path::PathBuf;

use super::CliError;
use super::process::start;
use crate::config::ConfigError;
use crate::http_client::{Access, HttpClient};

/// Put a new exporter in the place of the old one
#[derive(Debug, clap::Args)]
pub(crate) struct RolloutArgs {
    #[command(subcommand)]
    command: RolloutCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RolloutCommand {
    Compare(Box<compare::CompareArgs>),
    Promote(Box<deploy::PromoteArgs>),
    Retire(Box<retire::RetireArgs>),
    Deploy(Box<deploy::DeployArgs>),
}

/// How to ask exporters that have a web config.
#[derive(Clone, Debug, clap::Args)]
struct HttpArgs {
    /// User of basic auth, where the exporters have a web config; with `--http-password-file`
    #[arg(long, value_name = "NAME", help_heading = "HTTP")]
    http_user: Option<String>,

    /// Password of `--http-user`, the first line of a file
    #[arg(long, value_name = "FILE", help_heading = "HTTP")]
    http_password_file: Option<PathBuf>,

    /// Certificate authorities to trust for `https://` instead of the system's, a file in PEM
    #[arg(long, value_name = "FILE", help_heading = "HTTP")]
    http_ca: Option<PathBuf>,
}

impl HttpArgs {
    fn validate(self) -> Result<Access, ConfigError> {
        let lacking =
            |flag: &str, other: &str| Err(ConfigError::Rejected(format!("`{flag}` needs `{other}` too")));
        match (&self.http_user, &self.http_password_file) {
            (Some(_), None) => return lacking("--http-user", "--http-password-file"),
            (None, Some(_)) => return lacking("--http-password-file", "--http-user"),
            _ => {}
        }
        Ok(Access { user: self.http_user, password_file: self.http_password_file, ca: self.http_ca })
    }
}

fn client(access: &Access) -> Result<HttpClient, CliError> {
    HttpClient::new(access).map_err(|error| CliError::caused("cannot ask the exporters", error))
}

/// Runs the command chosen.
pub(super) fn execute(args: RolloutArgs) -> Result<(), CliError> {
    match args.command {
        RolloutCommand::Compare(args) => {
            let (process, config) = args.validate()?;
            start(&process, config, compare::run)
        }
        RolloutCommand::Retire(args) => {
            let (process, config) = args.validate()?;
            start(&process, config, retire::run)
        }
        RolloutCommand::Promote(args) => {
            let (process, config) = args.validate();
            start(&process, config, deploy::run)
        }
        RolloutCommand::Deploy(args) => {
            let (process, config) = args.validate()?;
            start(&process, config, deploy::run)
        }
    }
}

/// What the settings are, in one line.
pub(super) fn check(args: RolloutArgs) -> Result<String, ConfigError> {
    Ok(match args.command {
        RolloutCommand::Compare(args) => args.validate()?.1.to_string(),
        RolloutCommand::Retire(args) => args.validate()?.1.to_string(),
        RolloutCommand::Promote(args) => args.validate().1.to_string(),
        RolloutCommand::Deploy(args) => args.validate()?.1.to_string(),
    })
}

fn print(text: &str) -> Result<(), CliError> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| CliError::caused("cannot write to stdout", error))
}
