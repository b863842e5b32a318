//! Python, with the packages that clients in the field use.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::{process, tool};

/// The path of a program of the virtual environment, `python` for instance.
pub fn program(name: &str) -> PathBuf {
    tool::ensure("python");
    tool::directory().join("python/bin").join(name)
}

/// Runs Python to its end.
pub fn run(args: &[&str], input: &str) -> Output {
    process::run(Command::new(program("python")).args(args), input, Duration::from_secs(60))
}
