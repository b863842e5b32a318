//! The start and the end of a process, for every command.
//!
//! Invariant: signals are caught from the call of [`stop_signal`] on, so what is started after it
//! can be cleaned up.

use std::fmt;
use std::fs;
use std::future::{Future, pending};
use std::io::{self, IsTerminal as _, Write};

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
        let done = runtime.block_on(run(config));
        // What still blocks, such as a query that nobody waits for, must not delay the end.
        runtime.shutdown_background();
        done
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
///
/// A closed terminal stops it too, and must not leave the demo's servers behind. But a SIGHUP that
/// was ignored when the process began, as under nohup, stays ignored.
pub(crate) fn stop_signal() -> Result<impl Future<Output = &'static str>, CliError> {
    stop_signals(true)
}

/// [`stop_signal`] of a service. Without a terminal, SIGHUP does not stop it: those who send one
/// ask a service to reload, which it does by itself.
pub(super) fn service_stop_signal() -> Result<impl Future<Output = &'static str>, CliError> {
    stop_signals(io::stdin().is_terminal())
}

fn stop_signals(with_hang_up: bool) -> Result<impl Future<Output = &'static str>, CliError> {
    let cannot = |error| CliError::caused("cannot listen for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    // To listen for a signal is to ignore it no longer.
    let listens = !is_ignored(SignalKind::hangup());
    let mut hang_up = listens.then(|| signal(SignalKind::hangup())).transpose().map_err(cannot)?;
    let hung_up = async move {
        while let Some(hang_up) = &mut hang_up {
            hang_up.recv().await;
            if with_hang_up {
                return;
            }
            tracing::info!("SIGHUP has no effect: files that change are reloaded by themselves");
        }
        pending().await
    };
    Ok(async move {
        tokio::select! {
            () = hung_up => "SIGHUP",
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Whether this process ignores a signal, as /proc shows it: asking the kernel is unsafe code.
fn is_ignored(signal: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}
