//! The health of a region's consumer, as `/readyz` and `/livez` report it.
//!
//! Numbers that were current once look the same when nothing arrives any more. So the consumer says
//! up to which moment everything that the region stored has been folded, the end of the view, and
//! every reader computes its age by himself: it grows whatever hangs.
//!
//! Invariant: a region is ready only while its view is complete and current.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::serde::rfc3339;

use super::clock::StreamClock;
use super::freshness::{Divergence, MirrorLag};
use super::source::SourceKind;
use crate::insight::words::clock;
use callsight_fold::StreamTime;
use callsight_frame::subject::Region;

/// The consumer's loop is stuck when its heartbeat, which beats several times a second, stops for
/// this long.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// A stream that does not answer for this long, or a mirror that hears nothing of its origin, is
/// cut off, however much lag is allowed: its readers must know within ten seconds.
const CUT_OFF_AFTER: Duration = Duration::from_secs(7);

/// A view that is older than this waits for more than the next poll.
const OVERDUE: Duration = Duration::from_secs(4);

/// Why a region's view is not current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewLoss {
    /// The stream has not been attached to yet.
    Starting,
    /// There is no connection to NATS; with what the last attempt failed at, if that is known.
    Disconnected(Option<String>),
    /// The connection is there, and the stream does not answer; with the error, if there is one.
    Unanswered(Option<String>),
    /// Reading the stream is not possible as things are. The text says why, and what to do.
    Problem(String),
    /// Frames are left that were waiting at attachment; their age is unknown.
    CatchingUp(u64),
    /// The fold is further behind its stream than is allowed.
    Behind,
    /// The mirror hears nothing of its origin, or does not follow it.
    MirrorUnheard,
    /// The origin was set back: the mirror holds other messages than its origin at their sequences.
    MirrorDiverged,
}

impl ViewLoss {
    /// The labels of all reasons.
    pub const LABELS: [&str; 8] = [
        "starting",
        "disconnected",
        "unanswered",
        "problem",
        "catching_up",
        "behind",
        "mirror_unheard",
        "mirror_diverged",
    ];

    /// The reason as a label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        Self::LABELS[match self {
            Self::Starting => 0,
            Self::Disconnected(_) => 1,
            Self::Unanswered(_) => 2,
            Self::Problem(_) => 3,
            Self::CatchingUp(_) => 4,
            Self::Behind => 5,
            Self::MirrorUnheard => 6,
            Self::MirrorDiverged => 7,
        }]
    }
}

/// The health of a region's consumer at its last heartbeat.
pub struct RegionHealth {
    region: Region,
    kind: SourceKind,
    state: Mutex<State>,
}

struct State {
    /// Why the view is not current, as far as the consumer's loop knows.
    loss: Option<ViewLoss>,
    /// What is wrong although the region may be ready.
    warning: Option<String>,
    /// What the budget for sessions refused.
    refused: Option<String>,
    pending: u64,
    lag: Duration,
    /// When the stream was asked for the last answer that it gave.
    answered: Option<Instant>,
    /// Until when the stream had everything when it gave that answer.
    complete: Option<Instant>,
    /// The same of the last answer whose every frame has been folded.
    caught_up: Option<Instant>,
    pulse: Pulse,
}

/// What a heartbeat finds.
#[derive(Clone, Copy)]
pub(super) struct Pulse {
    pub(super) at: Instant,
    pub(super) live_sessions: usize,
    pub(super) connected: bool,
    pub(super) clock: Option<StreamClock>,
    /// When the newest frame that was taken was stored.
    pub(super) newest: Option<Instant>,
    pub(super) mirror: Option<MirrorLag>,
    pub(super) standstill: Option<Standstill>,
}

/// A stream into which nobody has stored anything for a while, although sessions were live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standstill {
    /// When its newest frame was stored.
    pub(super) since: Instant,
    /// The sessions that were live then.
    pub(super) sessions: usize,
}

/// A region's health at one moment.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct HealthReport {
    pub region: String,
    /// Whether what it serves is complete and current.
    pub ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The same, as one of [`ViewLoss::LABELS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The end of its view, if it is not ready: all that was stored until then is folded.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub since: Option<OffsetDateTime>,
    /// What is wrong although it may be ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Since when nothing was stored, and how many sessions were live then, if they were many.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub still_since: Option<OffsetDateTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub still_sessions: Option<u64>,
    /// Frames in the stream that have not been folded.
    pub pending_frames: u64,
    /// How far the fold is behind the stream, in seconds, or the age of the view if that is not
    /// known; `None` before there is one.
    pub lag_seconds: Option<f64>,
    /// The age of the view.
    #[serde(skip)]
    pub view_age_seconds: Option<f64>,
    pub live_sessions: usize,
    /// Frames that the mirror lacks, if a mirror is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_lag_frames: Option<u64>,
    /// How long ago the mirror heard from its origin, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_lag_seconds: Option<f64>,
}

impl RegionHealth {
    pub(super) fn new(region: Region, kind: SourceKind) -> Self {
        let pulse = Pulse {
            at: Instant::now(),
            live_sessions: 0,
            connected: false,
            clock: None,
            newest: None,
            mirror: None,
            standstill: None,
        };
        let state = State {
            loss: Some(ViewLoss::Starting),
            warning: None,
            refused: None,
            pending: 0,
            lag: Duration::ZERO,
            answered: None,
            complete: None,
            caught_up: None,
            pulse,
        };
        Self { region, kind, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beat(&self, pulse: Pulse) {
        self.state().pulse = pulse;
    }

    /// The stream is not read, for this reason.
    pub(super) fn detached(&self, loss: ViewLoss) {
        self.state().loss = Some(loss);
    }

    pub(super) fn warn(&self, warning: Option<String>) {
        self.state().warning = warning;
    }

    pub(super) fn warn_of_refused(&self, refused: Option<String>) {
        self.state().refused = refused;
    }

    /// The stream answered what it was asked at this moment.
    pub(super) fn answered(&self, asked: Instant) {
        let mut state = self.state();
        state.answered = Some(asked);
        state.complete = match self.kind {
            // What the mirror had heard before it was asked: it may have got frames since.
            SourceKind::Mirror => state.heard_all().map(|heard| heard.min(asked)),
            SourceKind::Own | SourceKind::Remote => Some(asked),
        };
    }

    /// Sets how many of the frames are left that were waiting at attachment. Their age is unknown.
    pub(super) fn catching_up(&self, left: u64) {
        let mut state = self.state();
        state.loss = Some(ViewLoss::CatchingUp(left));
        state.pending = left;
    }

    /// Sets how far an attached consumer is behind the stream's last answer, which may make it
    /// ready.
    pub(super) fn lag(&self, pending: u64, lag: Duration) {
        let mut state = self.state();
        state.loss = None;
        state.pending = pending;
        state.lag = lag;
        if pending == 0 {
            state.caught_up = state.caught_up.max(state.complete);
        }
    }

    /// Stream time now; `None` before the consumer was attached for the first time.
    #[must_use]
    pub fn stream_now(&self) -> Option<StreamTime> {
        self.state().pulse.clock.map(|clock| clock.at(Instant::now()))
    }

    /// The region and how far its mirror is behind, if a mirror is read and its lag is known.
    #[must_use]
    pub fn mirror_lag(&self) -> Option<(String, MirrorLag)> {
        let lag = self.state().pulse.mirror?;
        Some((self.region.to_string(), lag))
    }

    /// Why the process is to be restarted, if the consumer's loop is stuck.
    #[must_use]
    pub fn stuck(&self) -> Option<String> {
        self.stuck_at(Instant::now())
    }

    fn stuck_at(&self, now: Instant) -> Option<String> {
        let silent = now.saturating_duration_since(self.state().pulse.at);
        (silent > STUCK_AFTER).then(|| {
            format!("the consumer of region {} has not moved for {} s", self.region, silent.as_secs())
        })
    }

    /// The region's health. It is ready if it is attached and its view no older than `max_lag`.
    #[must_use]
    pub fn report(&self, max_lag: Duration) -> HealthReport {
        self.report_at(Instant::now(), max_lag)
    }

    fn report_at(&self, now: Instant, max_lag: Duration) -> HealthReport {
        let state = self.state();
        let Pulse { live_sessions, mirror, .. } = state.pulse;
        let loss = state.loss_at(now, max_lag);
        // Whoever sees nothing can't tell that nothing is there.
        let standstill = state.pulse.standstill.filter(|_| loss.is_none());
        let age = state.end().map(|end| now.saturating_duration_since(end));
        let lag = match age {
            Some(age) if loss.is_none() && age < OVERDUE => Some(state.lag),
            age => age.map(|age| age.max(state.lag)),
        };
        let warnings = [
            state.warning.clone(),
            state.refused.clone(),
            mirror.and_then(MirrorLag::warning),
            standstill.map(|still| state.standstill_warning(still, now)),
        ];
        let warnings: Vec<_> = warnings.into_iter().flatten().collect();
        HealthReport {
            region: self.region.to_string(),
            ready: loss.is_none(),
            why: loss.as_ref().map(|loss| self.why(loss, &state, lag.unwrap_or_default(), max_lag)),
            reason: loss.as_ref().map(|loss| loss.label().to_owned()),
            since: loss.and(state.end()).and_then(|end| state.wall(end, now)),
            warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
            still_since: standstill.and_then(|still| state.wall(still.since, now)),
            still_sessions: standstill.map(|still| still.sessions as u64),
            pending_frames: state.pending,
            lag_seconds: lag.map(|lag| lag.as_secs_f64()),
            view_age_seconds: age.map(|age| age.as_secs_f64()),
            live_sessions,
            mirror_lag_frames: mirror.map(|mirror| mirror.frames),
            mirror_lag_seconds: mirror.and_then(|mirror| mirror.silent).map(|silent| silent.as_secs_f64()),
        }
    }

    /// Says no more than what is known.
    fn why(&self, loss: &ViewLoss, state: &State, lag: Duration, max_lag: Duration) -> String {
        match loss {
            ViewLoss::Starting => "connecting to NATS".to_owned(),
            ViewLoss::Disconnected(Some(error)) => format!(
                "NATS does not answer: cannot connect: {error}; check --nats-url, TLS and the user's secret"
            ),
            ViewLoss::Disconnected(None) if state.answered.is_none() => {
                "NATS does not answer: there is no connection; check --nats-url".to_owned()
            }
            ViewLoss::Disconnected(None) => "NATS does not answer: the connection is lost".to_owned(),
            ViewLoss::Unanswered(error) => {
                let who = match self.kind {
                    SourceKind::Own | SourceKind::Mirror => "NATS does not answer",
                    SourceKind::Remote => "the region's NATS does not answer from here",
                };
                error.as_ref().map_or_else(|| who.to_owned(), |error| format!("{who}: {error}"))
            }
            ViewLoss::Problem(problem) => problem.clone(),
            ViewLoss::CatchingUp(left) => {
                format!("catching up: {left} frames that were waiting are left")
            }
            ViewLoss::Behind => format!(
                "catching up: {:.1} s and {} frames behind, ready at {:.1} s",
                lag.as_secs_f64(),
                state.pending,
                max_lag.as_secs_f64()
            ),
            ViewLoss::MirrorUnheard => match state.pulse.mirror {
                Some(MirrorLag { frames, .. }) if frames > 0 => {
                    format!("the mirror does not follow its region and lacks {frames} frames")
                }
                _ => "the mirror does not hear from its region".to_owned(),
            },
            ViewLoss::MirrorDiverged => state
                .pulse
                .mirror
                .and_then(|mirror| mirror.diverged)
                .map(Divergence::text)
                .unwrap_or_default(),
        }
    }
}

impl State {
    /// The end of the view: everything that the region stored until then has been folded. A frame
    /// proves it for all before it; that all is folded which the stream has, for the moment until
    /// which the stream was complete.
    fn end(&self) -> Option<Instant> {
        self.pulse.newest.max(self.caught_up)
    }

    /// When the mirror heard from its origin, if it lacks nothing since.
    fn heard_all(&self) -> Option<Instant> {
        self.heard().filter(|_| self.pulse.mirror.is_some_and(MirrorLag::is_complete))
    }

    /// When the mirror heard from its origin.
    fn heard(&self) -> Option<Instant> {
        self.pulse.at.checked_sub(self.pulse.mirror?.silent?)
    }

    fn loss_at(&self, now: Instant, max_lag: Duration) -> Option<ViewLoss> {
        if !self.pulse.connected && self.loss != Some(ViewLoss::Starting) {
            let is_known = matches!(self.loss, Some(ViewLoss::Disconnected(_)));
            return if is_known { self.loss.clone() } else { Some(ViewLoss::Disconnected(None)) };
        }
        if self.loss.is_some() {
            return self.loss.clone();
        }
        let mirror = self.pulse.mirror;
        if mirror.is_some_and(MirrorLag::is_stuck) {
            return Some(ViewLoss::MirrorDiverged);
        }
        let older = |moment: Option<Instant>, than: Duration| {
            moment.is_none_or(|moment| now.saturating_duration_since(moment) > than)
        };
        let cut_off = max_lag.min(CUT_OFF_AFTER);
        if older(Some(self.pulse.at), cut_off) {
            return Some(ViewLoss::Problem("the exporter's consumer does not move".to_owned()));
        }
        if older(self.pulse.newest.max(self.answered), cut_off) {
            return Some(ViewLoss::Unanswered(None));
        }
        if mirror.is_some() && older(self.pulse.newest.max(self.heard()), cut_off) {
            return Some(ViewLoss::MirrorUnheard);
        }
        older(self.end(), max_lag).then(|| match mirror {
            Some(mirror) if !mirror.is_complete() && self.pending == 0 => ViewLoss::MirrorUnheard,
            _ => ViewLoss::Behind,
        })
    }

    /// The time of day by the clock of the stream's server, to the millisecond.
    fn wall(&self, moment: Instant, now: Instant) -> Option<OffsetDateTime> {
        let time = self.pulse.clock?.server_time(now) - now.saturating_duration_since(moment);
        let moment = OffsetDateTime::from_unix_timestamp_nanos(time.unix_nanos()).ok()?;
        moment.replace_millisecond(moment.millisecond()).ok()
    }

    fn standstill_warning(&self, still: Standstill, now: Instant) -> String {
        let since = self.wall(still.since, now).map(|since| format!(" since {} UTC", clock(since)));
        format!(
            "no frame{}, when {} sessions were live: calls ended all at once, or nothing is stored",
            since.unwrap_or_default(),
            still.sessions
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Reading;
    use super::*;

    const MAX_LAG: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn health(kind: SourceKind) -> RegionHealth {
        RegionHealth::new("us".parse().unwrap(), kind)
    }

    /// A connected consumer's pulse; the stream's clock said 14:03:10 when it began.
    fn pulse(begin: Instant, at: Instant) -> Pulse {
        let server_time = StreamTime::from_unix_nanos(1_795_615_390_000_000_000);
        let clock = StreamClock::new(Reading { server_time, asked: begin, took: Duration::ZERO });
        Pulse { at, connected: true, clock: Some(clock), ..health(SourceKind::Own).state().pulse }
    }

    fn reason(report: &HealthReport) -> Option<&str> {
        report.reason.as_deref()
    }

    #[test]
    fn only_a_loop_that_stopped_beating_is_stuck() {
        let health = health(SourceKind::Own);
        health.detached(ViewLoss::Problem("NATS is away, and has been for days".to_owned()));
        let beat = Instant::now();
        health.beat(pulse(beat, beat));
        assert_eq!(health.stuck_at(beat), None);
        assert_eq!(health.stuck_at(beat + STUCK_AFTER / 2), None);
        let why = health.stuck_at(beat + STUCK_AFTER * 2).unwrap();
        assert!(why.contains("region us"), "{why}");
        assert!(!health.report(MAX_LAG).ready);
    }

    #[test]
    fn a_view_is_as_old_as_the_last_proof_that_it_is_complete() {
        let health = health(SourceKind::Own);
        let begin = Instant::now();
        let starting = health.report_at(begin, MAX_LAG);
        assert_eq!((reason(&starting), starting.lag_seconds, starting.since), (Some("starting"), None, None));

        health.answered(begin);
        health.lag(0, Duration::ZERO);
        let report = |after: Duration, max_lag| {
            health.beat(pulse(begin, begin + after));
            health.report_at(begin + after, max_lag)
        };
        let current = report(2 * SECOND, MAX_LAG);
        assert!(current.ready && current.lag_seconds == Some(0.0) && current.since.is_none());
        let overdue = report(5 * SECOND, MAX_LAG);
        assert!(overdue.ready && overdue.lag_seconds == Some(5.0), "it does not claim what it can't know");
        let cut_off = report(8 * SECOND, Duration::from_secs(3600));
        assert_eq!((reason(&cut_off), cut_off.lag_seconds), (Some("unanswered"), Some(8.0)));
        let began = OffsetDateTime::from_unix_timestamp(1_795_615_390).ok();
        assert_eq!(cut_off.since, began);
        assert_eq!(reason(&report(3 * SECOND, 2 * SECOND)), Some("unanswered"));

        // Frames that are on their way are another matter.
        health.answered(begin + 20 * SECOND);
        health.lag(7, 5 * SECOND);
        assert_eq!(reason(&report(21 * SECOND, MAX_LAG)), Some("behind"));
        assert!(report(21 * SECOND, 30 * SECOND).ready);
        let newest = begin.checked_add(15 * SECOND);
        health.beat(Pulse { newest, ..pulse(begin, begin + 21 * SECOND) });
        assert!(health.report_at(begin + 21 * SECOND, MAX_LAG).ready, "what came before it is folded");

        health.beat(Pulse { connected: false, ..pulse(begin, begin + 21 * SECOND) });
        let lost = health.report_at(begin + 21 * SECOND, MAX_LAG);
        assert_eq!((reason(&lost), lost.since), (Some("disconnected"), began));
    }

    #[test]
    fn a_mirror_proves_no_more_than_it_has_heard() {
        let begin = Instant::now();
        let report = |mirror: MirrorLag, newest: Option<Duration>| {
            let health = health(SourceKind::Mirror);
            let at = begin + 60 * SECOND;
            let newest = newest.map(|age| at - age);
            health.beat(Pulse { newest, mirror: Some(mirror), ..pulse(begin, at) });
            health.answered(at);
            health.lag(0, Duration::ZERO);
            health.report_at(at, MAX_LAG)
        };
        let lag = |frames, silent: Option<u64>| MirrorLag {
            frames,
            silent: silent.map(Duration::from_secs),
            diverged: None,
        };
        assert!(report(lag(0, Some(2)), None).ready);
        assert_eq!(reason(&report(lag(0, None), None)), Some("mirror_unheard"));
        let unheard = report(lag(0, Some(8)), None);
        assert_eq!((reason(&unheard), unheard.lag_seconds), (Some("mirror_unheard"), Some(8.0)));
        assert_eq!(unheard.why.as_deref(), Some("the mirror does not hear from its region"));
        assert!(report(lag(0, Some(8)), Some(SECOND)).ready, "a frame is contact");
        assert!(report(lag(40, Some(1)), Some(9 * SECOND)).ready, "it is on its way");
        let unfollowed = report(lag(40, Some(1)), Some(11 * SECOND));
        assert_eq!(reason(&unfollowed), Some("mirror_unheard"));
        assert!(unfollowed.why.unwrap().ends_with("lacks 40 frames"));
    }

    #[test]
    fn a_mirror_that_hears_again_has_frames_that_are_not_folded_yet() {
        let health = health(SourceKind::Mirror);
        let begin = Instant::now();
        let report = |second: u32, silent: u32, answered: bool| {
            let at = begin + second * SECOND;
            if answered {
                health.answered(at);
                health.lag(0, Duration::ZERO);
            }
            let silent = Some(silent * SECOND);
            let mirror = Some(MirrorLag { frames: 0, silent, diverged: None });
            health.beat(Pulse { mirror, ..pulse(begin, at) });
            health.report_at(at, MAX_LAG)
        };
        report(0, 0, true);
        assert!(report(2, 0, true).ready);
        let cut_off = report(30, 28, true);
        assert_eq!(reason(&cut_off), Some("mirror_unheard"));
        // Its server has everything again, and this answer was given before it had.
        assert!(!report(32, 0, true).ready);
        assert!(!report(33, 0, false).ready);
        assert!(report(34, 0, true).ready);
    }
}
