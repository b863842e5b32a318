//! Telling a region that is silent from a bridge that is down.
//!
//! When a region's frames stop coming, either nobody sends any there, or they are sent and don't get here. The two
//! need other people, and by the frames alone they look alike. But the server that keeps a mirror hears from the
//! stream that it copies every second, frames or none. So three things are shown: how old the newest frame of the stream is
//! that is read, when its mirror last heard of its origin, and how many frames it is missing: by what it heard last, or by
//! what the origin itself says when it answers while the mirror has not found it again, which takes half a minute.
//!
//! All three are kept as moments of the server's clock and go on ageing when nobody answers any more: a bridge is not
//! well because nobody can say how it is.

use std::time::{Duration, Instant};

use super::answer::StreamState;
use super::clock::StreamClock;
use callsight_fold::StreamTime;
use callsight_fold::series::aggregates::StreamSeries;

/// How much later a moment has to be to be another one: it is reckoned from the answer's own time.
const NEWS: Duration = Duration::from_millis(500);

/// A mirror hears every second; one that has not for so long is worth a word at `/readyz`.
const SILENT: Duration = Duration::from_secs(30);

/// What the server last said of the stream that is read.
pub(super) struct Freshness {
    series: StreamSeries,
    newest: Option<StreamTime>,
    /// How many frames it is missing and when it heard of its origin, if it is a mirror.
    mirror: Option<(u64, Hearing)>,
}

/// When a mirror heard of its origin. It tells a moment, but not only what it hears moves that: so does an attempt to
/// find its origin again that leads nowhere, some ten seconds after it was lost. One that hears goes on hearing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hearing {
    heard: StreamTime,
    /// What it told last, and whether that was news.
    told: StreamTime,
    was_news: bool,
}

impl Hearing {
    const fn since(moment: StreamTime) -> Self {
        Self { heard: moment, told: moment, was_news: true }
    }

    /// It tells that it heard at this moment. That counts if the time before it had told some news too.
    fn told(self, moment: StreamTime) -> Self {
        let news = moment > self.told + NEWS;
        let heard = if news && self.was_news { moment } else { self.heard };
        Self { heard, told: moment, was_news: news }
    }
}

/// How a mirror stands to its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorLag {
    /// Frames that it has not got, as far as is known.
    pub frames: u64,
    /// How long ago it heard of it.
    pub silent: Duration,
}

impl Freshness {
    pub(super) const fn new(series: StreamSeries) -> Self {
        Self { series, newest: None, mirror: None }
    }

    /// The server told this of the stream.
    pub(super) fn told(&mut self, stream: &StreamState) {
        self.newest = stream.newest();
        let Some((missing, heard)) = stream.mirror() else {
            self.mirror = None;
            return;
        };
        let now = stream.server_time();
        let hearing = match (self.mirror, heard.map(|ago| now - ago)) {
            (Some((_, hearing)), Some(moment)) => hearing.told(moment),
            (Some((_, hearing)), None) => hearing,
            // One that has never heard of its origin has not for as long as it is looked at, at the least.
            (None, moment) => Hearing::since(moment.unwrap_or(now)),
        };
        self.mirror = Some((missing, hearing));
    }

    /// Shows it as it is now; a frame of this age was taken since. Tells how the mirror stands, if it is one.
    pub(super) fn show(&self, clock: Option<StreamClock>, taken: Option<Duration>) -> Option<MirrorLag> {
        let now = clock?.server_time(Instant::now());
        if let Some(age) = self.newest.map(|newest| now.since(newest)).into_iter().chain(taken).min() {
            self.series.last_frame_age.set(age.as_secs_f64());
        }
        let (frames, hearing) = self.mirror?;
        let lag = MirrorLag { frames, silent: now.since(hearing.heard) };
        if let Some(series) = &self.series.mirror {
            #[expect(clippy::cast_precision_loss, reason = "no stream holds 2^53 frames")]
            series.lag_frames.set(lag.frames as f64);
            series.lag.set(lag.silent.as_secs_f64());
        }
        Some(lag)
    }
}

impl MirrorLag {
    /// What is to be said of it, if anything.
    pub(super) fn problem(self) -> Option<String> {
        (self.silent > SILENT).then(|| {
            format!(
                "the mirror has not heard of its region for {} s: the bridge is down",
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
        let heard = |told: &[u64]| {
            let hearing = told
                .iter()
                .skip(1)
                .fold(Hearing::since(at(told[0])), |hearing, told| hearing.told(at(*told)));
            hearing.heard.unix_nanos() / 1_000_000_000
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
        assert_eq!(lag(30).problem(), None);
        assert!(lag(31).problem().unwrap().contains("has not heard of its region for 31 s"));
    }
}
