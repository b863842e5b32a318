//! Realistic clients, without clients: what a region full of calls sends, from a seed.
//!
//! An exporter, a dashboard or an alert can only be judged against calls that behave like calls: people join,
//! mute, hide the tab, leave and crash; a network turns bad in one region and not in the other; and the
//! counters of jitter buffer, concealment and freezes move together, as they do in libwebrtc. Constant or
//! random values hide the very mistakes that matter.
//!
//! [`World`] is the pure half: meetings of clients that evolve in a time of their own, in which every session
//! speaks once an interval. The same configuration gives the same frames at the same times, whatever the
//! machine does. [`run`] is the other half: it publishes a world's frames when their time has come, through one
//! [`Publisher`](callsight_publish::Publisher) for each of its relays, and tells what became of them.
//!
//! A seed also fixes the session ids. Run twice within the stream's duplicate window, the second run is
//! recognised as a repeat of the first and not stored: use another seed for other sessions.

mod client;
mod drive;
mod media;
mod meeting;
mod network;
mod scenario;
mod world;

use std::time::Duration;

pub use drive::{SimulateError, Summary, run};
pub use scenario::{Rhythm, Scenario, ScenarioError};
pub use world::{Event, Relay, World};

use callsight_frame::MAX_PEERS;
use callsight_frame::subject::Region;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimulateConfig {
    /// Where the sessions are, an equal share in each.
    pub regions: Vec<Region>,
    /// Sessions at any moment, over all regions. Some scenarios go beyond it for a while.
    pub sessions: usize,
    /// Participants of a meeting, on average; 1 to 128.
    pub meeting_size: usize,
    /// The time between two frames of a session.
    pub interval: Duration,
    /// When to stop, if not only when told to.
    pub duration: Option<Duration>,
    /// After how many frames to stop.
    pub frames: Option<u64>,
    /// What all chance comes from, session ids included.
    pub seed: u64,
    /// What happens to the network and the crowd.
    pub scenario: Scenario,
    /// And when.
    pub rhythm: Rhythm,
    /// Frames a second over all sessions; decides the interval instead of `interval`.
    pub rate: Option<f64>,
    /// Whether all sessions leave (`ended`) when the duration is over or the run is told to stop. If not, they
    /// just fall silent, and the exporter removes them when they have been idle for long enough.
    pub leave_at_end: bool,
    /// Whether to leave out the progress line.
    pub quiet: bool,
}

impl SimulateConfig {
    /// The time between two frames of a session, from the rate if there is one.
    #[must_use]
    pub fn effective_interval(&self) -> Duration {
        let from_rate = |rate: f64| Duration::try_from_secs_f64(self.sessions as f64 / rate).ok();
        self.rate.and_then(from_rate).unwrap_or(self.interval).max(Duration::from_micros(100))
    }

    /// Refuses what can't be simulated.
    ///
    /// # Errors
    /// [`SimulateError::Config`], which names the value.
    pub fn check(&self) -> Result<(), SimulateError> {
        let mut distinct = self.regions.clone();
        distinct.sort();
        distinct.dedup();
        let most = MAX_PEERS / 2;
        let problem = if self.regions.is_empty() {
            "no region; name at least one".to_owned()
        } else if distinct.len() < self.regions.len() {
            "a region is named twice".to_owned()
        } else if self.sessions == 0 {
            "0 sessions; simulate at least 1".to_owned()
        } else if !(1..=most).contains(&self.meeting_size) {
            format!("a meeting size of {}; it must be 1 to {most}", self.meeting_size)
        } else if self.interval.is_zero() {
            "an interval of 0; for as many frames as possible give a high rate".to_owned()
        } else if self.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
            "the rate must be more than 0 frames a second".to_owned()
        } else if !self.regions.iter().any(|region| self.scenario.affects(region)) {
            format!("scenario {} is about region apac; add that region", self.scenario)
        } else {
            return Ok(());
        };
        Err(SimulateError::Config(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 sessions in meetings of 4 in `us` and `apac`, a frame every 5 s.
    pub(super) fn small(seed: u64, scenario: Scenario) -> SimulateConfig {
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
