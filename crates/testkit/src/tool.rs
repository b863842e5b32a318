//! The programs that tests start, fetched on demand.
//!
//! A test of real servers must run on a fresh clone, and a test of none must not wait for
//! downloads. So the first use of a tool in a process runs `./dev tools` for it, which uses what is
//! on PATH if it is new enough, fetches it otherwise, and keeps two processes from fetching at
//! once.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What `./dev tools` answered, by tool; the error is the end of its output.
static ENSURED: Mutex<BTreeMap<&'static str, Result<(), String>>> = Mutex::new(BTreeMap::new());

/// The repository.
pub fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own)
}

/// The folder that `./dev tools` fills.
pub fn directory() -> PathBuf {
    env::var_os("CALLSIGHT_TOOLS").map_or_else(|| root().join("target/tools"), PathBuf::from)
}

/// PATH as `./dev` sets it: fetched programs first.
pub fn path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(directory().join("bin")).chain(env::split_paths(&path))).unwrap()
}

/// Fetches a tool of `./dev tools` unless it is there.
///
/// # Panics
///
/// If it can't be fetched, with the reason.
pub fn ensure(tool: &'static str) {
    let ensured = {
        let mut ensured = ENSURED.lock().unwrap_or_else(PoisonError::into_inner);
        ensured.entry(tool).or_insert_with(|| fetch(tool)).clone()
    };
    ensured.unwrap_or_else(|reason| panic!("no {tool}: {reason}"));
}

fn fetch(tool: &str) -> Result<(), String> {
    match Command::new(root().join("dev")).args(["tools", tool]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        // `./dev bench --compare` removes the tree of what it built; PATH has all tools then.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The path of a program that a tool brings.
///
/// # Panics
///
/// If there is none and it can't be fetched.
pub fn find(program: &str, tool: &'static str) -> PathBuf {
    ensure(tool);
    env::split_paths(&path())
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{program} is missing: run ./dev tools {tool}"))
}
