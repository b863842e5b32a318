//! Flags that more than one command has.

use std::path::PathBuf;

use super::log::LogArgs;
use crate::config::{NatsConfig, NatsUrl};

/// How the process itself behaves.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// Read settings from this TOML file.
    ///
    /// Flags and environment variables win over it.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub(crate) config: Option<PathBuf>,

    /// Check the settings, say what they are in one line, and exit
    #[arg(long, help_heading = "Configuration")]
    pub(crate) check_config: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// How to reach NATS.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NatsArgs {
    /// NATS servers to connect to, any of them will do.
    ///
    /// `nats://host:port`, or `tls://` to insist on TLS. Separate several with commas or repeat the flag. A
    /// user and a password in the URL are never logged.
    // Hiding the value of the variable marks it as one that may hold a secret: errors do not show it.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222",
        help_heading = "NATS"
    )]
    pub(crate) nats_url: Vec<NatsUrl>,

    /// Credentials to connect with, a file as `nsc` writes it
    #[arg(long, value_name = "FILE", help_heading = "NATS")]
    pub(crate) nats_creds: Option<PathBuf>,
}

impl From<NatsArgs> for NatsConfig {
    fn from(args: NatsArgs) -> Self {
        Self { servers: args.nats_url, credentials: args.nats_creds }
    }
}

/// Each value once, in the order given.
pub(crate) fn distinct<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut once = Vec::with_capacity(values.len());
    for value in values {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

/// `a, b, c`.
pub(crate) fn joined(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
