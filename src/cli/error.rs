//! The error of a command, and its exit code.
//!
//! Invariant: an error with its causes is one line.

use std::error::Error;

use crate::config::{ConfigError, chain};

/// The error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The settings cannot be used: exit code 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The command failed: exit code 1.
    #[error("{doing}")]
    Failed {
        /// What failed, such as `cannot write to stdout`.
        doing: String,
        /// The cause.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// Nothing that was asked for exists: exit code 3.
    #[error(transparent)]
    Nothing(Box<dyn Error + Send + Sync>),
    /// A signal ended the command early: exit code 130, as in shells.
    #[error("stopped by {signal}: {left}")]
    Stopped {
        /// Name of the signal.
        signal: &'static str,
        /// What remains of the work.
        left: &'static str,
    },
    /// The command failed with an error of another module: exit code 1.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

impl CliError {
    /// Creates a failure without a cause.
    pub(crate) fn failed(doing: impl Into<String>) -> Self {
        Self::Failed { doing: doing.into(), source: None }
    }

    /// Creates a failure with its cause.
    pub(crate) fn caused(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { doing: doing.into(), source: Some(source.into()) }
    }

    /// Wraps an error of another module.
    pub(crate) fn other(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Failed { .. } | Self::Other(_) => 1,
            Self::Nothing(_) => 3,
            Self::Stopped { .. } => 130,
        }
    }

    /// Returns the error and its causes in one line.
    pub(super) fn line(&self) -> String {
        chain(self)
    }
}
