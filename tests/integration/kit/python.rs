//! Python, with the packages that clients in the field use.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use super::{process, tool};

/// The interpreter of the virtual environment.
///
/// # Panics
///
/// If there is none, with the command that makes it.
pub(crate) fn python() -> PathBuf {
    let python = tool::directory().join("python/bin/python");
    assert!(python.is_file(), "{} is missing: run ./dev tools python", python.display());
    python
}

/// Runs Python to its end.
pub(crate) fn run(args: &[&str], input: &str) -> Output {
    process::run(Command::new(python()).args(args), input, Duration::from_secs(60))
}
