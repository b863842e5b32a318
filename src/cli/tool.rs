//! Other programs that commands start.

use std::env;
use std::path::PathBuf;

/// Finds a program on the PATH, or among those that `./dev` downloaded.
pub(super) fn find_tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let downloaded = [PathBuf::from("target/tools/bin")];
    env::split_paths(&path).chain(downloaded).map(|folder| folder.join(name)).find(|tool| tool.is_file())
}
