//! How the consumer of a region is doing, for those who ask over HTTP.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::clock::StreamClock;
use super::freshness::MirrorLag;
use callsight_fold::StreamTime;
use callsight_frame::subject::Region;

/// Without a sign of life for so long the consumer's loop is stuck: it comes round several times a second.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// What the consumer's loop last said of itself.
pub struct RegionHealth {
    region: Region,
    state: Mutex<State>,
}

struct State {
    /// What keeps the consumer from being attached.
    problem: Option<String>,
    connected: bool,
    /// What is wrong without keeping anyone from relying on what is served.
    warning: Option<String>,
    pending: u64,
    lag: Duration,
    live_sessions: usize,
    mirror: Option<MirrorLag>,
    clock: Option<StreamClock>,
    beat: Instant,
}

/// A reading of a region's health.
#[derive(Clone, Debug, serde::Serialize)]
pub struct HealthReport {
    /// The region.
    pub region: String,
    /// Whether what it serves is complete and current.
    pub ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What is wrong all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Frames in the stream that have not been folded.
    pub pending_frames: u64,
    /// How far the fold is behind the stream, in seconds.
    pub lag_seconds: f64,
    /// Live sessions.
    pub live_sessions: usize,
    /// Frames that the mirror has not got, as far as is known, if a mirror is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_lag_frames: Option<u64>,
    /// How long ago the mirror heard of the region, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_lag_seconds: Option<f64>,
}

impl RegionHealth {
    pub(super) fn new(region: Region) -> Self {
        let state = State {
            problem: Some("connecting to NATS".to_owned()),
            connected: false,
            warning: None,
            pending: 0,
            lag: Duration::ZERO,
            live_sessions: 0,
            mirror: None,
            clock: None,
            beat: Instant::now(),
        };
        Self { region, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beat(&self, live_sessions: usize, clock: Option<StreamClock>, connected: bool) {
        let mut state = self.state();
        state.connected = connected;
        state.beat = Instant::now();
        state.live_sessions = live_sessions;
        state.clock = clock;
    }

    pub(super) fn mirror(&self, mirror: Option<MirrorLag>) {
        self.state().mirror = mirror;
    }

    pub(super) fn detached(&self, problem: String) {
        let mut state = self.state();
        state.problem = Some(problem);
    }

    pub(super) fn warn(&self, warning: Option<&str>) {
        self.state().warning = warning.map(ToOwned::to_owned);
    }

    /// It is attached, and this many frames that were waiting then are not folded: how old they are is not known.
    pub(super) fn catching_up(&self, left: u64) {
        let mut state = self.state();
        state.problem = Some(format!("catching up: {left} frames that were waiting are left"));
        state.pending = left;
    }

    /// It is attached, and this far behind.
    pub(super) fn lag(&self, pending: u64, lag: Duration) {
        let mut state = self.state();
        state.problem = None;
        state.pending = pending;
        state.lag = lag;
    }

    /// Stream time now, once it is known.
    #[must_use]
    pub fn stream_now(&self) -> Option<StreamTime> {
        self.state().clock.map(|clock| clock.at(Instant::now()))
    }

    /// How far the mirror that is read is behind the region, if one is and that is known.
    #[must_use]
    pub fn mirror_lag(&self) -> Option<(String, MirrorLag)> {
        self.state().mirror.map(|lag| (self.region.to_string(), lag))
    }

    /// Why the consumer's loop is stuck, if it is.
    #[must_use]
    pub fn stuck(&self) -> Option<String> {
        self.stuck_at(Instant::now())
    }

    fn stuck_at(&self, now: Instant) -> Option<String> {
        let silent = now.saturating_duration_since(self.state().beat);
        (silent > STUCK_AFTER).then(|| {
            format!("the consumer of region {} has not moved for {} s", self.region, silent.as_secs())
        })
    }

    /// How the region is doing; ready if it is attached and no further behind than `max_lag`.
    #[must_use]
    pub fn report(&self, max_lag: Duration) -> HealthReport {
        let state = self.state();
        let why = match &state.problem {
            Some(problem) => Some(problem.clone()),
            None if !state.connected => Some("NATS does not answer: the connection is lost".to_owned()),
            None if state.lag > max_lag => Some(format!(
                "catching up: {:.1} s and {} frames behind, ready at {:.1} s",
                state.lag.as_secs_f64(),
                state.pending,
                max_lag.as_secs_f64()
            )),
            None => None,
        };
        HealthReport {
            region: self.region.to_string(),
            ready: why.is_none(),
            why,
            warning: state.warning.clone(),
            pending_frames: state.pending,
            lag_seconds: state.lag.as_secs_f64(),
            live_sessions: state.live_sessions,
            mirror_lag_frames: state.mirror.map(|mirror| mirror.frames),
            mirror_lag_seconds: state.mirror.map(|mirror| mirror.silent.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loop_that_stopped_beating_is_stuck() {
        let health = RegionHealth::new("us".parse().unwrap());
        health.detached("NATS is away, and has been for days".to_owned());
        health.beat(0, None, true);
        let beat = Instant::now();
        assert_eq!(health.stuck_at(beat), None);
        assert_eq!(health.stuck_at(beat + STUCK_AFTER / 2), None);
        let why = health.stuck_at(beat + STUCK_AFTER * 2).unwrap();
        assert!(why.contains("region us"), "{why}");
        assert!(!health.report(Duration::from_secs(10)).ready);
    }
}
