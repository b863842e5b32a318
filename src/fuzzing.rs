//! Access for the fuzz targets to parsers of external text that are not public.
//!
//! The targets in `tests/fuzz/targets.rs` run under libFuzzer (`fuzz/`) and `cargo test`, and so
//! outside of this crate. A cargo feature would either build the crate twice for tests or let a run
//! without it skip them silently.
//!
//! Invariant: the functions behave exactly as the program does.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::serve::negotiate::Encoding;
use crate::{cli, serve};
use callsight_fold::series::exposition::Format;

/// Parses a command line (the program's name first), an environment and the file of `--config`, and
/// returns a summary of the settings.
///
/// # Errors
/// The line that the program would end with.
pub fn settings(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<String, String> {
    cli::check(arguments, environment, read_file)
}

/// Returns whether `/metrics` answers an `Accept` header with OpenMetrics.
#[must_use]
pub fn takes_open_metrics(accept: &str) -> bool {
    serve::negotiate::format(Some(accept)) == Format::OpenMetrics
}

/// Returns whether `/metrics` answers an `Accept-Encoding` header with gzip.
#[must_use]
pub fn takes_gzip(accept_encoding: &str) -> bool {
    serve::negotiate::encoding(Some(accept_encoding)) == Some(Encoding::Gzip)
}
