//! The limit of open files, raised at start.
//!
//! Connections, scrapers and NATS each take a file descriptor. Most systems start a process with a
//! soft limit of 1,024 for the sake of select(2), which this process does not use, and a far higher
//! hard limit. So the exporter takes what the hard limit allows, as servers do.
//!
//! Invariant: the soft limit is never lowered.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit. Returns the limit that holds from now on; `None` for no
/// limit.
pub(crate) fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(open_files = current, hard_limit = maximum, %error, "cannot raise the limit of open files");
            current
        }
    }
}
