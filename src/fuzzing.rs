//! Doors for the fuzz targets to what reads text from outside and is not public.
//!
//! The targets are `tests/fuzz/targets.rs`; libFuzzer under `fuzz/` and `cargo test` run the same ones. They live
//! outside of this crate, which therefore has to let them in. A cargo feature would do that too, but then either
//! the tests are a second build of the crate or a run without the feature skips them in silence.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::{cli, serve};
use callsight_fold::series::exposition::Format;

/// What the binary makes of a command line (with the program's name first), an environment and the file that
/// `--config` names: a summary of the settings, or the error that it would show.
///
/// # Errors
/// The line that the binary would end with.
pub fn settings(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<String, String> {
    cli::check(arguments, environment, read_file)
}

/// Whether `/metrics` answers an `Accept` header with OpenMetrics.
#[must_use]
pub fn takes_open_metrics(accept: &str) -> bool {
    serve::negotiate::format(Some(accept)) == Format::OpenMetrics
}

/// Whether `/metrics` answers an `Accept-Encoding` header with gzip.
#[must_use]
pub fn takes_gzip(accept_encoding: &str) -> bool {
    serve::negotiate::gzip(Some(accept_encoding))
}
