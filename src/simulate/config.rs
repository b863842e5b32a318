//! The settings of a simulation.
//!
//! Invariant: a configuration that passes [`SimulateConfig::check`] has a world with sessions in
//! it.

use std::time::Duration;

use super::scenario::{Rhythm, Scenario};
use callsight_frame::MAX_PEERS;
use callsight_frame::subject::Region;

/// The error of a value that can't be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot simulate {0}")]
pub struct SimulateConfigError(String);

/// Settings of a simulation.
#[derive(Clone, Debug)]
pub struct SimulateConfig {
    /// Regions of the sessions, with an equal share each.
    pub regions: Vec<Region>,
    /// Concurrent sessions in all regions together. Some scenarios exceed it for a while.
    pub sessions: usize,
    /// Average number of participants of a meeting; 1 to 128.
    pub meeting_size: usize,
    /// Time between two frames of a session.
    pub interval: Duration,
    /// Time after which the run stops; `None` to run until the shutdown.
    pub duration: Option<Duration>,
    /// Number of frames after which the run stops.
    pub frames: Option<u64>,
    /// Seed of all random numbers, session ids included.
    pub seed: u64,
    /// What happens to the network and to the number of sessions.
    pub scenario: Scenario,
    pub rhythm: Rhythm,
    /// Frames per second of all sessions together; replaces `interval`.
    pub rate: Option<f64>,
    /// Whether all sessions leave (`ended`) at the end. Otherwise they fall silent, and the
    /// exporter removes them after its idle timeout.
    pub leave_at_end: bool,
    /// Whether to omit the progress line.
    pub quiet: bool,
}

impl SimulateConfig {
    /// Returns the time between two frames of a session, from the rate if there is one.
    #[must_use]
    pub fn effective_interval(&self) -> Duration {
        let from_rate = |rate: f64| Duration::try_from_secs_f64(self.sessions as f64 / rate).ok();
        self.rate.and_then(from_rate).unwrap_or(self.interval).max(Duration::from_micros(100))
    }

    /// Checks that all values can be simulated.
    ///
    /// # Errors
    /// [`SimulateConfigError`], which names the value.
    pub fn check(&self) -> Result<(), SimulateConfigError> {
        let mut distinct = self.regions.clone();
        distinct.sort();
        distinct.dedup();
        let most = MAX_PEERS / 2;
        let problem = if self.regions.is_empty() {
            "without a region; name at least one".to_owned()
        } else if distinct.len() < self.regions.len() {
            "a region that is named twice".to_owned()
        } else if self.sessions == 0 {
            "0 sessions; simulate at least 1".to_owned()
        } else if !(1..=most).contains(&self.meeting_size) {
            format!("a meeting size of {}; write 1 to {most}", self.meeting_size)
        } else if self.interval.is_zero() {
            "an interval of 0; set a high rate to get as many frames as possible".to_owned()
        } else if self.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
            "a rate of 0 or less; write a number of frames per second above 0".to_owned()
        } else if !self.regions.iter().any(|region| self.scenario.affects(region)) {
            format!("scenario {} without region apac, which it affects; add that region", self.scenario)
        } else {
            return Ok(());
        };
        Err(SimulateConfigError(problem))
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
            duration: None,
            frames: None,
            seed,
            scenario,
            rhythm: Rhythm::default(),
            rate: None,
            leave_at_end: true,
            quiet: true,
        }
    }

    #[test]
    fn what_cannot_be_simulated_is_refused_by_name() {
        let good = small(1, Scenario::Steady);
        assert!(good.check().is_ok());
        let twice = vec!["us".parse().unwrap(), "us".parse().unwrap()];
        let us = vec!["us".parse().unwrap()];
        let bad = [
            ("region", SimulateConfig { regions: vec![], ..good.clone() }),
            ("twice", SimulateConfig { regions: twice, ..good.clone() }),
            ("sessions", SimulateConfig { sessions: 0, ..good.clone() }),
            ("meeting size", SimulateConfig { meeting_size: 0, ..good.clone() }),
            ("meeting size", SimulateConfig { meeting_size: 129, ..good.clone() }),
            ("interval", SimulateConfig { interval: Duration::ZERO, ..good.clone() }),
            ("rate", SimulateConfig { rate: Some(0.0), ..good.clone() }),
            ("rate", SimulateConfig { rate: Some(f64::NAN), ..good.clone() }),
            ("apac", SimulateConfig { regions: us, scenario: Scenario::ApacRttSpike, ..good }),
        ];
        for (name, config) in bad {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_rate_decides_the_interval() {
        let config = SimulateConfig { sessions: 1000, rate: Some(500.0), ..small(1, Scenario::Steady) };
        assert_eq!(config.effective_interval(), Duration::from_secs(2));
    }
}
