//! The settings of a simulation.
//!
//! Invariant: whoever builds a configuration keeps the bounds in the docs of its fields, as the
//! flags of `callsight simulate` do.

use std::time::Duration;

use super::device::Clients;
use super::http::IngestTarget;
use super::scenario::{Rhythm, Scenario};
use callsight_frame::subject::Region;

/// Settings of a simulation. The default has neither regions nor sessions.
#[derive(Clone, Debug, Default)]
pub struct SimulateConfig {
    /// Regions of the sessions, with an equal share each; at least one, each once.
    pub regions: Vec<Region>,
    /// Concurrent sessions in all regions together, at least 1. Some scenarios exceed it for a
    /// while.
    pub sessions: usize,
    /// Average number of participants of a meeting; 1 to 128.
    pub meeting_size: usize,
    /// Time between two frames of a session, more than 0.
    pub interval: Duration,
    /// Time after which the run stops; `None` to run until the shutdown.
    pub duration: Option<Duration>,
    /// Number of frames after which the run stops.
    pub frames: Option<u64>,
    /// Seed of all random numbers, session ids included.
    pub seed: u64,
    /// How the clients come to know what they report.
    pub clients: Clients,
    /// What happens to networks, clients and the number of sessions.
    pub scenario: Scenario,
    pub rhythm: Rhythm,
    /// Frames per second of all sessions together, more than 0; replaces `interval`.
    pub rate: Option<f64>,
    /// Whether all sessions leave (`ended`) at the end. Otherwise they fall silent, and the
    /// exporter removes them after its idle timeout.
    pub leave_at_end: bool,
    /// Whether to omit the progress line.
    pub quiet: bool,
    /// Where a part of the clients sends its frames over HTTP, at most one per region. Packets of
    /// videocall.rs never go there.
    pub ingest: Vec<IngestTarget>,
}

impl SimulateConfig {
    /// Returns the time between two frames of a session, from the rate if there is one.
    #[must_use]
    pub fn effective_interval(&self) -> Duration {
        let from_rate = |rate: f64| Duration::try_from_secs_f64(self.sessions as f64 / rate).ok();
        self.rate.and_then(from_rate).unwrap_or(self.interval).max(Duration::from_micros(100))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// 200 sessions in meetings of 4 in `us` and `apac`, a frame every 5 s.
    pub(in crate::simulate) fn small(seed: u64, scenario: Scenario) -> SimulateConfig {
        SimulateConfig {
            regions: ["us", "apac"].map(|name| name.parse().unwrap()).to_vec(),
            sessions: 200,
            meeting_size: 4,
            interval: Duration::from_secs(5),
            seed,
            scenario,
            leave_at_end: true,
            quiet: true,
            ..SimulateConfig::default()
        }
    }

    #[test]
    fn a_rate_decides_the_interval() {
        let config = SimulateConfig { sessions: 1000, rate: Some(500.0), ..small(1, Scenario::Steady) };
        assert_eq!(config.effective_interval(), Duration::from_secs(2));
    }
}
