//! `callsight rollout`: replaces an exporter by a new version.

mod compare;
mod deploy;
mod retire;

use super::CliError;
use super::args::pair;
use super::process::{Prepared, prepared, print};
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

impl RolloutArgs {
    pub(super) fn prepare(self) -> Result<Prepared, ConfigError> {
        Ok(match self.command {
            RolloutCommand::Compare(args) => prepared(args.validate()?, compare::run),
            RolloutCommand::Retire(args) => prepared(args.validate()?, retire::run),
            RolloutCommand::Promote(args) => prepared(args.validate(), deploy::run),
            RolloutCommand::Deploy(args) => prepared(args.validate()?, deploy::run),
        })
    }
}
