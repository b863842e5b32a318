//! `callsight rollout`: replaces an exporter by a new version.

mod compare;
mod deploy;
mod retire;

use std::path::PathBuf;

use super::CliError;
use super::process::{print, start};
use crate::config::ConfigError;
use crate::http_client::{HttpAccess, HttpClient};

/// Replace an exporter by a new version of it, without a gap
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

/// How to be let in by exporters that have a web config.
#[derive(Clone, Debug, clap::Args)]
struct HttpArgs {
    /// User for basic auth, if the exporters have a web config; with `--http-password-file`
    #[arg(long, value_name = "NAME", help_heading = "HTTP")]
    http_user: Option<String>,

    /// File whose first line is the password of `--http-user`
    #[arg(long, value_name = "FILE", help_heading = "HTTP")]
    http_password_file: Option<PathBuf>,

    /// PEM file of certificate authorities to trust for `https://` instead of the system's
    #[arg(long, value_name = "FILE", help_heading = "HTTP")]
    http_ca: Option<PathBuf>,
}

impl HttpArgs {
    fn validate(self) -> Result<HttpAccess, ConfigError> {
        let lacking =
            |flag: &str, other: &str| Err(ConfigError::Rejected(format!("`{flag}` needs `{other}` too")));
        match (&self.http_user, &self.http_password_file) {
            (Some(_), None) => return lacking("--http-user", "--http-password-file"),
            (None, Some(_)) => return lacking("--http-password-file", "--http-user"),
            _ => {}
        }
        Ok(HttpAccess { user: self.http_user, password_file: self.http_password_file, ca: self.http_ca })
    }
}

fn client(access: &HttpAccess) -> Result<HttpClient, CliError> {
    HttpClient::probing(access).map_err(|error| CliError::caused("cannot ask the exporters", error))
}

/// Runs the command chosen.
pub(super) fn execute(args: RolloutArgs) -> Result<(), CliError> {
    match args.command {
        RolloutCommand::Compare(args) => start(args.validate()?, compare::run),
        RolloutCommand::Retire(args) => start(args.validate()?, retire::run),
        RolloutCommand::Promote(args) => start(args.validate(), deploy::run),
        RolloutCommand::Deploy(args) => start(args.validate()?, deploy::run),
    }
}

/// The settings in one line, for `--check-config`.
pub(super) fn check(args: RolloutArgs) -> Result<String, ConfigError> {
    Ok(match args.command {
        RolloutCommand::Compare(args) => args.validate()?.1.to_string(),
        RolloutCommand::Retire(args) => args.validate()?.1.to_string(),
        RolloutCommand::Promote(args) => args.validate().1.to_string(),
        RolloutCommand::Deploy(args) => args.validate()?.1.to_string(),
    })
}
