//! `callsight rollout`: replaces an exporter by a new version.

mod compare;
mod deploy;
mod retire;

use super::CliError;
use super::args::pair;
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

/// Checks the flags of an [`HttpAccess`].
fn access(access: &HttpAccess) -> Result<(), ConfigError> {
    let HttpAccess { user, password_file, .. } = access;
    pair("--http-user", user.as_ref(), "--http-password-file", password_file.as_ref()).map(drop)
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
