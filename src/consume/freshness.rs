//! Tells a silent region from a view that is cut off.
//!
//! When a region's frames stop arriving, either nobody sends any, or they are sent and do not get
//! here. The two concern different people, and the frames alone do not tell them apart. But the
//! server that keeps a mirror hears from its origin every second, frames or none, and the origin
//! can be asked. So three values are exported: the age of the newest frame in the stream, how long
//! ago the mirror was known to be in contact with its origin, and how many frames it lacks.
//!
//! An origin that was set back, by a power loss or a restored backup, assigns sequences again that
//! its mirror has. The mirror keeps what it has and waits for higher ones, so everything looks well
//! while nothing arrives. Comparing the ends of both shows it.
//!
//! Invariant: all of it is kept as moments of the server's clock, so it goes on ageing when nothing
//! answers.

use std::time::{Duration, Instant};

use super::clock::StreamClock;
use super::server_state::{LastMessage, StreamState};
use callsight_fold::StreamTime;
use callsight_fold::series::aggregates::StreamSeries;

/// How much later a moment has to be to count as another one: it is computed from the answer's own
/// time.
const NEWER_BY: Duration = Duration::from_millis(500);

/// How near two moments of contact are: a mirror hears every second, and is polled every two.
const NEAR: Duration = Duration::from_secs(4);

/// How fresh the stream is that is read.
pub(super) struct Freshness {
    series: StreamSeries,
    newest: Option<StreamTime>,
    /// Of a mirror.
    mirror: Option<Mirror>,
}

/// What is known of a mirror.
#[derive(Clone, Copy, Debug)]
struct Mirror {
    missing: u64,
    /// The last sequence of the origin when it last answered, and that moment.
    origin_end: Option<(u64, StreamTime)>,
    contact: Contact,
    diverged: Option<Divergence>,
}

impl Mirror {
    const NEW: Self = Self { missing: 0, origin_end: None, contact: Contact::NONE, diverged: None };

    /// What is known after an answer; nothing if the stream is no mirror.
    fn after(before: Option<Self>, stream: &StreamState, clock: Option<StreamClock>) -> Option<Self> {
        let (missing, heard) = stream.mirror()?;
        let steady = |time: StreamTime| clock.map_or(time, |clock| clock.steady(time));
        let now = steady(stream.server_time());
        let Self { mut contact, mut diverged, mut origin_end, .. } = before.unwrap_or(Self::NEW);
        // A server that has just begun to lead the mirror, or whose disk is full, lacks nothing by
        // its own account. What the origin had at the poll before has had the time to arrive.
        let arrived = origin_end.map(|(end, at)| (end.saturating_sub(stream.state.last_seq), at));
        let missing = missing.max(arrived.map_or(0, |(lacking, _)| lacking));
        let reported = heard.map_or(contact, |ago| contact.report(now - ago));
        let Some(origin) = &stream.origin else {
            return Some(Self { missing, origin_end, contact: reported, diverged });
        };
        diverged = Divergence::between(&stream.state, origin, diverged);
        contact = Contact { heard: contact.heard, ..reported };
        if let Some((0, at)) = arrived {
            contact = contact.confirmed(at);
        }
        if origin.last_seq == stream.state.last_seq && diverged.is_none_or(|diverged| diverged.over) {
            contact = contact.confirmed(now);
        }
        origin_end = Some((origin.last_seq, now));
        Some(Self { missing, origin_end, contact, diverged })
    }
}

/// When a mirror heard from its origin. The moment that the server reports also moves without
/// contact, some ten seconds after the origin was lost, when the mirror looks for it in vain. So a
/// moment counts only if it is near the one that was reported before, and only while the origin
/// does not answer: it knows what the mirror should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contact {
    heard: Option<StreamTime>,
    reported: Option<StreamTime>,
}

impl Contact {
    const NONE: Self = Self { heard: None, reported: None };

    fn report(self, moment: StreamTime) -> Self {
        // Of the first one nobody knows how the mirror came by it.
        let goes_on = self
            .reported
            .is_some_and(|reported| moment > reported + NEWER_BY && moment.since(reported) <= NEAR);
        let heard = if goes_on { self.heard.max(Some(moment)) } else { self.heard };
        Self { heard, reported: Some(moment) }
    }

    /// The origin itself said that the mirror has everything of this moment.
    fn confirmed(self, moment: StreamTime) -> Self {
        Self { heard: self.heard.max(Some(moment)), ..self }
    }
}

/// How far a mirror is behind its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorLag {
    /// Frames that it lacks, as far as its origin was heard.
    pub frames: u64,
    /// How long ago it heard from its origin; `None` if it has not since it is read.
    pub silent: Option<Duration>,
    /// How it contradicts its origin.
    pub diverged: Option<Divergence>,
}

/// A mirror that has other frames than its origin, which was set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The last sequences of both when it was noticed.
    pub origin: u64,
    pub mirror: u64,
    /// How often it was noticed; once it is over, the origin has passed the mirror.
    seen: u32,
    over: bool,
}

impl Freshness {
    pub(super) const fn new(series: StreamSeries) -> Self {
        Self { series, newest: None, mirror: None }
    }

    /// Takes an answer about the stream. The clock has followed it.
    pub(super) fn update(&mut self, stream: &StreamState, clock: Option<StreamClock>) {
        self.newest = stream.newest();
        self.mirror = Mirror::after(self.mirror, stream, clock);
    }

    /// Exports the values as they are now. The newest frame that was folded may be younger
    /// (`taken`) than the stream's at the last poll. Returns the age of the newest, and how far the
    /// mirror is behind, if one is read.
    pub(super) fn export(
        &self,
        clock: Option<StreamClock>,
        taken: Option<Duration>,
    ) -> (Option<Duration>, Option<MirrorLag>) {
        let Some(clock) = clock else { return (None, None) };
        let now = Instant::now();
        let newest = self.newest.map(|newest| clock.server_time(now).since(newest));
        let newest = newest.into_iter().chain(taken).min();
        if let Some(age) = newest {
            self.series.last_frame_age.set(age.as_secs_f64());
        }
        let Some(Mirror { missing: frames, contact, diverged, .. }) = self.mirror else {
            return (newest, None);
        };
        let silent = contact.heard.map(|heard| clock.at(now).since(heard));
        if let Some(series) = &self.series.mirror {
            #[expect(clippy::cast_precision_loss, reason = "no stream holds 2^53 frames")]
            series.lag_frames.set(frames as f64);
            if let Some(silent) = silent {
                series.lag.set(silent.as_secs_f64());
            }
        }
        (newest, Some(MirrorLag { frames, silent, diverged }))
    }
}

impl MirrorLag {
    /// Whether it has everything that its origin had when it last heard from it.
    pub(super) const fn is_complete(self) -> bool {
        self.frames == 0 && !self.is_stuck()
    }

    /// Whether it takes nothing until its origin has passed it.
    pub(super) const fn is_stuck(self) -> bool {
        matches!(self.diverged, Some(Divergence { over: false, seen: Divergence::SURE.., .. }))
    }

    pub(super) fn warning(self) -> Option<String> {
        let sure = self.diverged.filter(|diverged| diverged.over && diverged.seen >= Divergence::SURE);
        sure.map(Divergence::text)
    }
}

impl Divergence {
    /// How often it has to be noticed: a new leader of the origin may answer before it has applied
    /// everything.
    const SURE: u32 = 2;

    /// Compares the end of a mirror with that of its origin, which was asked later and therefore
    /// can't be behind.
    fn between(mirror: &LastMessage, origin: &LastMessage, before: Option<Self>) -> Option<Self> {
        let behind = origin.last_seq < mirror.last_seq;
        // The last time of a stream that holds nothing any more says nothing.
        let other = origin.last_seq == mirror.last_seq
            && origin.last_ts != mirror.last_ts
            && origin.messages.min(mirror.messages) > 0;
        match before {
            _ if behind || other => {
                let seen = before.map_or(1, |before| before.seen.saturating_add(1));
                Some(Self { origin: origin.last_seq, mirror: mirror.last_seq, seen, over: false })
            }
            Some(before) if before.seen >= Self::SURE => Some(Self { over: true, ..before }),
            _ => None,
        }
    }

    pub(super) fn text(self) -> String {
        let Self { origin, mirror, over, .. } = self;
        if over {
            format!(
                "the mirror has other frames than its region up to sequence {mirror}; remake it, {RUNBOOK}"
            )
        } else {
            format!(
                "the region's stream was set back to sequence {origin}, and its mirror, at {mirror}, takes no new \
                 frames; remake it, {RUNBOOK}"
            )
        }
    }
}

const RUNBOOK: &str = "see \"A mirror that differs\" in docs/topology.md";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mirror_that_only_looks_for_its_origin_does_not_hear_of_it() {
        let at = |seconds: u64| StreamTime::default() + Duration::from_secs(seconds);
        let heard = |reports: &[u64]| {
            let contact = reports.iter().fold(Contact::NONE, |contact, moment| contact.report(at(*moment)));
            contact.heard.map(|heard| heard.unix_nanos() / 1_000_000_000)
        };
        assert_eq!(heard(&[10]), None, "it may have looked for it");
        assert_eq!(heard(&[10, 20]), None, "twice");
        assert_eq!(heard(&[10, 12]), Some(12));
        assert_eq!(heard(&[10, 10, 10, 11, 11, 11, 12]), Some(12), "polled often");
        assert_eq!(heard(&[8, 10, 12, 12, 12]), Some(12));
        assert_eq!(heard(&[8, 10, 12, 12, 12, 22, 22, 22]), Some(12), "an attempt");
        assert_eq!(heard(&[8, 10, 12, 12, 22, 22, 32]), Some(12), "and another one");
        assert_eq!(heard(&[8, 10, 12, 12, 22, 24]), Some(24), "it goes on");
    }

    #[test]
    fn a_mirror_lacks_what_its_origin_had_before_whatever_it_says() {
        let state = |second: u64, last_seq: u64| -> StreamState {
            let state = json!({
                "ts": format!("2026-11-29T00:00:{second:02}Z"),
                "created": "2026-11-29T00:00:00Z",
                "state": {"messages": 1, "first_seq": 1, "last_seq": last_seq, "last_ts": "2026-11-29T00:00:00Z"},
                "mirror": {"name": "HEALTH_APAC", "lag": 0, "active": 1_000_000_000},
            });
            serde_json::from_value(state).unwrap()
        };
        let begin = state(0, 1).server_time();
        let mut mirror = None;
        let mut after = |second: u64, mirrored: u64, origin: Option<u64>| {
            let mut answer = state(second, mirrored);
            answer.origin = origin.map(|origin| state(second, origin).state);
            mirror = Mirror::after(mirror, &answer, None);
            let Mirror { missing, contact, .. } = mirror.unwrap();
            (missing, contact.heard.map(|heard| heard.since(begin).as_secs()))
        };
        assert_eq!(after(1, 100, Some(150)), (0, None), "they may be on their way");
        assert_eq!(after(3, 140, Some(160)), (10, None));
        assert_eq!(after(5, 160, Some(200)), (0, Some(3)), "it has what the origin had then");
        assert_eq!(after(7, 200, Some(200)), (0, Some(7)));
        assert_eq!(after(9, 190, Some(200)), (10, Some(7)), "its new leader is behind");
        assert_eq!(after(11, 200, Some(90)), (0, Some(9)));
        assert_eq!(after(13, 200, None), (0, Some(12)), "nobody knows better than the mirror");
    }

    #[test]
    fn an_origin_that_was_set_back_is_noticed_until_it_has_passed_the_mirror_and_after() {
        let end = |last_seq: u64, second: i64| LastMessage {
            messages: 1,
            first_seq: 1,
            last_seq,
            last_ts: time::OffsetDateTime::from_unix_timestamp(second).unwrap(),
        };
        let mirror = end(100, 50);
        let lag = |origins: &[LastMessage]| {
            let diverged =
                origins.iter().fold(None, |before, origin| Divergence::between(&mirror, origin, before));
            MirrorLag { frames: 0, silent: None, diverged }
        };
        for fine in [end(100, 50), end(101, 51)] {
            let lag = lag(&[fine.clone(), fine]);
            assert!(lag.is_complete() && lag.warning().is_none());
        }
        let behind = lag(&[end(90, 60)]);
        assert!(!behind.is_stuck(), "a new leader may not have applied everything yet");
        assert!(!lag(&[end(90, 60), end(100, 50)]).is_stuck() && lag(&[end(90, 60)]).warning().is_none());
        for other in [end(91, 61), end(100, 61)] {
            let stuck = lag(&[end(90, 60), other]);
            assert!(stuck.is_stuck() && !stuck.is_complete());
        }
        let passed = lag(&[end(90, 60), end(91, 61), end(101, 71)]);
        assert!(passed.is_complete());
        assert!(passed.warning().unwrap().contains("other frames than its region up to sequence 100"));
    }
}
