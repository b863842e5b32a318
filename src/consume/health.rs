//! The health of a region's consumer, as `/readyz` and `/livez` report it.
//!
//! Invariant: a region is ready only while what it serves is complete and current.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::clock::StreamClock;
use super::freshness::MirrorLag;
use callsight_fold::StreamTime;
use callsight_frame::subject::Region;

/// The consumer's loop is stuck when its heartbeat, which beats several times a second, stops for
/// this long.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// The health of a region's consumer at its last heartbeat.
pub struct RegionHealth {
    region: Region,
    state: Mutex<State>,
}

struct State {
    /// Why the consumer is not attached, or not ready whatever the lag.
    problem: Option<String>,
    connected: bool,
    /// What is wrong although the region may be ready.
    warning: Option<String>,
    pending: u64,
    lag: Duration,
    live_sessions: usize,
    mirror: Option<MirrorLag>,
    clock: Option<StreamClock>,
    beat: Instant,
}

/// A region's health at one moment.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct HealthReport {
    pub region: String,
    /// Whether what it serves is complete and current.
    pub ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What is wrong although it may be ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Frames in the stream that have not been folded.
    pub pending_frames: u64,
    /// How far the fold is behind the stream, in seconds.
    pub lag_seconds: f64,
    pub live_sessions: usize,
    /// Frames that the mirror lacks, if a mirror is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_lag_frames: Option<u64>,
    /// How long ago the mirror heard from its origin, in seconds.
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

    pub(super) fn beat(
        &self,
        live_sessions: usize,
        clock: Option<StreamClock>,
        mirror: Option<MirrorLag>,
        connected: bool,
    ) {
        let mut state = self.state();
        state.connected = connected;
        state.beat = Instant::now();
        state.live_sessions = live_sessions;
        state.mirror = mirror;
        state.clock = clock;
    }

    pub(super) fn detached(&self, problem: String) {
        self.state().problem = Some(problem);
    }

    pub(super) fn warn(&self, warning: Option<String>) {
        self.state().warning = warning;
    }

    /// Sets how many of the frames are left that were waiting at attachment. Their age is unknown.
    pub(super) fn catching_up(&self, left: u64) {
        let mut state = self.state();
        state.problem = Some(format!("catching up: {left} frames that were waiting are left"));
        state.pending = left;
    }

    /// Sets how far an attached consumer is behind, which may make it ready.
    pub(super) fn lag(&self, pending: u64, lag: Duration) {
        let mut state = self.state();
        state.problem = None;
        state.pending = pending;
        state.lag = lag;
    }

    /// Stream time now; `None` before the consumer was attached for the first time.
    #[must_use]
    pub fn stream_now(&self) -> Option<StreamTime> {
        self.state().clock.map(|clock| clock.at(Instant::now()))
    }

    /// The region and how far its mirror is behind, if a mirror is read and its lag is known.
    #[must_use]
    pub fn mirror_lag(&self) -> Option<(String, MirrorLag)> {
        self.state().mirror.map(|lag| (self.region.to_string(), lag))
    }

    /// Why the process is to be restarted, if the consumer's loop is stuck.
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

    /// The region's health. It is ready if it is attached and no further behind than `max_lag`.
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
            warning: state.warning.clone().or_else(|| state.mirror.and_then(MirrorLag::warning)),
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
        health.beat(0, None, None, true);
        let beat = Instant::now();
        assert_eq!(health.stuck_at(beat), None);
        assert_eq!(health.stuck_at(beat + STUCK_AFTER / 2), None);
        let why = health.stuck_at(beat + STUCK_AFTER * 2).unwrap();
        assert!(why.contains("region us"), "{why}");
        assert!(!health.report(Duration::from_secs(10)).ready);
    }
}
