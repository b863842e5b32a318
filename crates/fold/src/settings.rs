//! The settings of the fold.
//!
//! Invariant: a fold never changes its settings; other settings need another fold.

use std::time::Duration;

use crate::series::labels::vocabulary;

vocabulary! {
    /// How much detail has live series. The stream keeps all of it in any case.
    pub DetailLevel {
        /// No rows: the aggregates are all there is.
        Off = "off",
        /// A row for each session.
        Session = "session",
        /// A row for each session, and for each pair of a session and a remote peer.
        Pair = "pair",
    }
}

/// The budgets. What exceeds one is refused and counted; existing rows stay correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions with detail per meeting.
    pub sessions_per_meeting: usize,
    /// Peers with detail per session.
    pub peers_per_session: usize,
    /// Servers with series of their own per region; further ones are aggregated as `other`.
    pub server_urls: usize,
    /// Releases with series of their own per region; further ones are aggregated as `other`.
    pub apps: usize,
}

/// When a session counts as degraded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// A longer round trip degrades the session.
    pub rtt: Duration,
    /// A higher ratio of concealed, audible samples degrades it, 0 to 1.
    pub concealment: f64,
    /// A higher ratio of lost packets among those that it sends degrades it, 0 to 1. Of received
    /// ones it only tells the reason.
    pub loss: f64,
    /// A longer attempt to join degrades it.
    pub join: Duration,
}

/// All settings of a fold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoldSettings {
    /// A session without a frame for this long is removed, and a frame this old is late.
    pub idle_timeout: Duration,
    /// The series of a server, a release or a path that nobody has used for this long are removed.
    pub server_idle: Duration,
    /// How much detail has series.
    pub detail: DetailLevel,
    /// Pairs have series only in meetings of up to this many sessions, since their number grows
    /// with its square.
    pub pair_max_sessions: usize,
    /// How many may have detail or series of their own.
    pub limits: Limits,
    /// When a session counts as degraded.
    pub thresholds: Thresholds,
}

impl Default for FoldSettings {
    /// The defaults of `callsight serve`, for a small cluster.
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30),
            server_idle: Duration::from_secs(15 * 60),
            detail: DetailLevel::Pair,
            pair_max_sessions: 50,
            limits: Limits { sessions_per_meeting: 1000, peers_per_session: 256, server_urls: 256, apps: 64 },
            thresholds: Thresholds {
                rtt: Duration::from_millis(300),
                concealment: 0.05,
                loss: 0.05,
                join: Duration::from_secs(10),
            },
        }
    }
}
