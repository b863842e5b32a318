//! Where the real servers are.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The directory that `./dev tools` fills.
pub(crate) fn directory() -> PathBuf {
    env::var_os("CALLSIGHT_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from)
}

/// PATH as the product gets it from `./dev`: the fetched ones first.
pub(crate) fn path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(directory().join("bin")).chain(env::split_paths(&path))).unwrap()
}

/// The path of `program`. Fetched ones come first, as they do for `./dev`.
///
/// # Panics
///
/// If there is none, with the command that fetches it.
pub(crate) fn find(program: &str, fetch: &str) -> PathBuf {
    env::split_paths(&path())
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{program} is missing: run ./dev tools {fetch}"))
}
