//! What can be set about the fold.

use std::time::Duration;

/// How much detail has live series. The stream has all of it in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DetailLevel {
    /// Aggregates only.
    Off,
    /// A row for each session.
    Session,
    /// And a row for each pair of a session and a remote peer.
    Pair,
}

impl DetailLevel {
    /// The level as it stands in settings and in the API.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Session => "session",
            Self::Pair => "pair",
        }
    }
}

/// The budgets. What exceeds one is refused and counted; what exists stays right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions of one meeting that have detail.
    pub sessions_per_meeting: usize,
    /// Peers of one session that have detail.
    pub peers_per_session: usize,
    /// Distinct servers that are told apart; the rest is aggregated as `other`.
    pub server_urls: usize,
}

/// When a session counts as degraded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// A longer round trip is bad.
    pub rtt: Duration,
    /// A larger share of made-up, audible samples is bad.
    pub concealment: f64,
}

/// All settings of a fold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoldSettings {
    /// A session without a frame for so long is gone, and a frame that is so old is late.
    pub idle_timeout: Duration,
    /// How much detail has series.
    pub detail: DetailLevel,
    /// Pairs have series only in meetings of up to so many sessions: they grow with its square.
    pub pair_max_sessions: usize,
    /// The budgets.
    pub limits: Limits,
    /// When a session counts as degraded.
    pub thresholds: Thresholds,
}

impl Default for FoldSettings {
    /// Right for the smallest cluster.
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30),
            detail: DetailLevel::Pair,
            pair_max_sessions: 50,
            limits: Limits { sessions_per_meeting: 1000, peers_per_session: 256, server_urls: 256 },
            thresholds: Thresholds { rtt: Duration::from_millis(300), concealment: 0.05 },
        }
    }
}
