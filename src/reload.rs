//! Files of settings that change while the process runs.
//!
//! Certificates expire, passwords and keys change, and a restart for each would interrupt calls'
//! telemetry. So such files are read every few seconds and compared by content, since secret stores
//! replace files without changing their time stamps. What can't be used is refused and the former
//! content stays in force: a typo must neither stop a fleet nor open what was closed.
//!
//! Invariant: only content that was applied counts as the former one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How often the files are read.
const RELOAD: Duration = Duration::from_secs(3);

/// Files with their content.
pub(crate) trait Sources: PartialEq + Sized + Send + Sync + 'static {
    /// Why they can't be used.
    type Error: fmt::Display + Send;

    /// What they are, for the log, such as `web config`.
    const NAME: &'static str;

    /// Reads them again.
    ///
    /// # Errors
    /// One can't be read, or must not take the place of what is in force.
    fn read_again(&self) -> Result<Self, Self::Error>;
}

/// Applies the files whenever they change, until dropped. `refused` is true while they have changed
/// to what can't be used.
pub(crate) async fn keep<S: Sources>(
    sources: S,
    refused: &AtomicBool,
    apply: impl Fn(&S) -> Result<(), S::Error>,
) {
    let mut sources = Arc::new(sources);
    let mut every = interval(RELOAD);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut problem = None;
    loop {
        every.tick().await;
        let old = Arc::clone(&sources);
        let read = match tokio::task::spawn_blocking(move || old.read_again()).await {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "reloading the {} failed", S::NAME);
                continue;
            }
        };
        let now = match read {
            Ok(new) if new == *sources => None,
            read => match read.and_then(|new| apply(&new).map(|()| new)) {
                Ok(new) => {
                    sources = Arc::new(new);
                    tracing::info!("{} reloaded", S::NAME);
                    None
                }
                Err(error) => Some(error.to_string()),
            },
        };
        // Logged once per problem, not at each read.
        if let Some(error) = now.as_ref().filter(|_| now != problem) {
            tracing::warn!(error, "{} refused; the former one stays in force", S::NAME);
        }
        refused.store(now.is_some(), Ordering::Relaxed);
        problem = now;
    }
}
