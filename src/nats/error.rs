//! The error of a connection's settings.
//!
//! Invariant: it never quotes a file that may hold a secret.

use std::io;
use std::path::{Path, PathBuf};

use async_nats::ConnectError;

use crate::config::one_line;

/// The error of settings that no connection can be made with.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    #[error("cannot read `{}` of {flag}", one_line(&path.display().to_string()))]
    Unreadable {
        /// Flag that names the file.
        flag: &'static str,
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    #[error("`{}` of {flag} {problem}", one_line(&path.display().to_string()))]
    Unusable {
        /// Flag that names the file.
        flag: &'static str,
        path: PathBuf,
        /// What is wrong, without quoting the file.
        problem: String,
    },
    #[error("cannot set up the NATS connection")]
    Connect(#[source] ConnectError),
}

impl NatsError {
    pub(super) fn unreadable(flag: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Unreadable { flag, path: path.to_owned(), source }
    }

    pub(super) fn unusable(flag: &'static str, path: &Path, problem: impl ToString) -> Self {
        Self::Unusable { flag, path: path.to_owned(), problem: problem.to_string() }
    }
}
