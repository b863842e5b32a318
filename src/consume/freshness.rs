//! Tells a silent region from a bridge that is down.
//!
//! When a region's frames stop arriving, either nobody sends any, or they are sent and do not get
//! here. The two concern different people, and the frames alone do not tell them apart. But the
//! server that keeps a mirror hears from its origin every second, frames or none. So three values
//! are exported: the age of the newest frame in the stream, how long ago the mirror heard from its
//! origin, and how many frames the mirror lacks. The last is what the origin itself says, if it
//! answers while the mirror has not found it again, which takes half a minute.
//!
//! Invariant: all three are kept as moments of the server's clock, so they go on ageing when
//! nothing answers.

use std::time::{Duration, Instant};

use super::clock::StreamClock;
use super::server_state::StreamState;
use callsight_fold::StreamTime;
use callsight_fold::series::aggregates::StreamSeries;

/// How much later a moment has to be to count as another one: it is computed from the answer's own
/// time.
const NEWER_BY: Duration = Duration::from_millis(500);

/// A mirror hears every second; one that has not for this long is a warning at `/readyz`.
const SILENT: Duration = Duration::from_secs(30);

/// How fresh the stream is that is read.
pub(super) struct Freshness {
    series: StreamSeries,
    newest: Option<StreamTime>,
    /// Of a mirror: how many frames it lacks, and its contact with its origin.
    mirror: Option<(u64, Contact)>,
}

/// When a mirror heard from its origin. The moment that the server reports also moves once without
/// contact, some ten seconds after the origin was lost, when the mirror looks for it in vain. So a
/// moment counts only if the report before it moved as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contact {
    heard: StreamTime,
    reported: StreamTime,
    had_moved: bool,
}

impl Contact {
    const fn since(moment: StreamTime) -> Self {
        Self { heard: moment, reported: moment, had_moved: true }
    }

    fn report(self, moment: StreamTime) -> Self {
        let moved = moment > self.reported + NEWER_BY;
        let heard = if moved && self.had_moved { moment } else { self.heard };
        Self { heard, reported: moment, had_moved: moved }
    }
}

/// How far a mirror is behind its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorLag {
    /// Frames that it lacks, as far as its origin was heard.
    pub frames: u64,
    /// How long ago it heard from its origin.
    pub silent: Duration,
}

impl Freshness {
    pub(super) const fn new(series: StreamSeries) -> Self {
        Self { series, newest: None, mirror: None }
    }

    pub(super) fn update(&mut self, stream: &StreamState) {
        self.newest = stream.newest();
        let Some((missing, heard)) = stream.mirror() else {
            self.mirror = None;
            return;
        };
        let now = stream.server_time();
        let contact = match (self.mirror, heard.map(|ago| now - ago)) {
            (Some((_, contact)), Some(moment)) => contact.report(moment),
            (Some((_, contact)), None) => contact,
            // A mirror without any contact has had none at least since it is read.
            (None, moment) => Contact::since(moment.unwrap_or(now)),
        };
        self.mirror = Some((missing, contact));
    }

    /// Exports the values as they are now. The newest frame that was folded may be younger
    /// (`taken`) than the stream's at the last poll. Returns how far the mirror is behind, if one
    /// is read.
    pub(super) fn export(&self, clock: Option<StreamClock>, taken: Option<Duration>) -> Option<MirrorLag> {
        let now = clock?.server_time(Instant::now());
        if let Some(age) = self.newest.map(|newest| now.since(newest)).into_iter().chain(taken).min() {
            self.series.last_frame_age.set(age.as_secs_f64());
        }
        let (frames, contact) = self.mirror?;
        let lag = MirrorLag { frames, silent: now.since(contact.heard) };
        if let Some(series) = &self.series.mirror {
            #[expect(clippy::cast_precision_loss, reason = "no stream holds 2^53 frames")]
            series.lag_frames.set(lag.frames as f64);
            series.lag.set(lag.silent.as_secs_f64());
        }
        Some(lag)
    }
}

impl MirrorLag {
    pub(super) fn warning(self) -> Option<String> {
        (self.silent > SILENT).then(|| {
            format!(
                "the mirror has not heard from its region for {} s: the bridge is down",
                self.silent.as_secs()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_only_looks_for_its_origin_does_not_hear_of_it() {
        let at = |seconds: u64| StreamTime::default() + Duration::from_secs(seconds);
        let heard = |reports: &[u64]| {
            let contact = reports
                .iter()
                .skip(1)
                .fold(Contact::since(at(reports[0])), |contact, moment| contact.report(at(*moment)));
            contact.heard.unix_nanos() / 1_000_000_000
        };
        assert_eq!(heard(&[10, 12, 14]), 14);
        assert_eq!(heard(&[10, 12, 12, 12]), 12);
        assert_eq!(heard(&[10, 12, 12, 12, 22, 22, 22]), 12, "an attempt");
        assert_eq!(heard(&[10, 12, 12, 22, 22, 32]), 12, "and another one");
        assert_eq!(heard(&[10, 12, 12, 22, 24]), 24, "it goes on");
    }

    #[test]
    fn a_long_silence_is_worth_a_word() {
        let lag = |seconds| MirrorLag { frames: 0, silent: Duration::from_secs(seconds) };
        assert_eq!(lag(30).warning(), None);
        assert!(lag(31).warning().unwrap().contains("has not heard from its region for 31 s"));
    }
}
