//! The limit of open files, raised at start.
//!
//! Connections, scrapers and NATS each take a file descriptor. Most systems start a process with a
//! soft limit of 1,024 for the sake of select(2), which this process does not use, and a far higher
//! hard limit. So the exporter takes what the hard limit allows, as servers do.
//!
//! Invariant: the soft limit is never lowered.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit, and logs the limit that holds from now on.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // No number means no limit.
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    match raised {
        Ok(()) => {
            tracing::info!(open_files = shown(maximum), before = shown(current), "limit of open files");
        }
        Err(error) => {
            let open_files = shown(current);
            tracing::warn!(open_files, %error, "cannot raise the limit of open files to {}", shown(maximum));
        }
    }
}
