//! The start and the end of a process, for every command.
//!
//! Invariant: signals are caught from the call of [`stop_signal`] on, so what is started after it
//! can be cleaned up.

use std::fmt;
use std::future::Future;
use std::io::{self, Write};

use tokio::signal::unix::{SignalKind, signal};

use super::args::ProcessArgs;
use super::error::CliError;
use super::log;

/// A command whose settings are valid.
pub(super) struct Prepared {
    /// The settings in one line.
    pub(super) settings: String,
    pub(super) run: Box<dyn FnOnce() -> Result<(), CliError>>,
}

/// Prepares a command that runs in a runtime with logging, or prints its settings for
/// `--check-config`.
pub(super) fn prepared<C: fmt::Display + 'static, R: Future<Output = Result<(), CliError>>>(
    (process, config): (ProcessArgs, C),
    run: impl FnOnce(C) -> R + 'static,
) -> Prepared {
    let settings = config.to_string();
    let run = move || {
        if process.check_config {
            return print(&format!("config is valid: {config}\n"));
        }
        log::init(&process.log);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::caused("cannot start the runtime", error))?;
        runtime.block_on(run(config))
    };
    Prepared { settings, run: Box::new(run) }
}

/// Writes to stdout at once, even a part of a line.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| CliError::caused("cannot write to stdout", error))
}

/// Returns a future that completes with the name of the signal that stops the process.
pub(crate) fn stop_signal() -> Result<impl Future<Output = &'static str>, CliError> {
    let cannot = |error| CliError::caused("cannot listen for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    // A closed terminal must not leave the demo's servers behind.
    let mut hang_up = signal(SignalKind::hangup()).map_err(cannot)?;
    Ok(async move {
        tokio::select! {
            _ = hang_up.recv() => "SIGHUP",
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
