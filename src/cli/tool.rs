//! Programs of others that commands start.

use std::env;
use std::path::PathBuf;

/// A tool on the PATH, or among those that `./dev` brought.
pub(super) fn find_tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let brought = [PathBuf::from("target/tools/bin")];
    env::split_paths(&path).chain(brought).map(|folder| folder.join(name)).find(|tool| tool.is_file())
}
