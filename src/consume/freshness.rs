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

use super::attach::StreamState;
use super::clock::StreamClock;
use crate::fold::StreamTime;
use crate::series::aggregates::StreamSeries;

/// A mirror hears every second; one that has not for so long is worth a word at `/readyz`.
const SILENT: Duration = Duration::from_secs(30);

/// What the server last said of the stream that is read.
pub(super) struct Freshness {
    series: StreamSeries,
    newest: Option<StreamTime>,
    mirror: Option<Mirror>,
}

/// What it said of the stream as a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mirror {
    missing: u64,
    heard: StreamTime,
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
        // One that has never heard of its origin has not for as long as it is looked at, at the least.
        let heard = heard.map(|ago| now - ago).or(self.mirror.map(|mirror| mirror.heard)).unwrap_or(now);
        self.mirror = Some(Mirror { missing, heard });
    }

    /// Shows it as it is now; a frame of this age was taken since. Tells how the mirror stands, if it is one.
    pub(super) fn show(&self, clock: Option<StreamClock>, taken: Option<Duration>) -> Option<MirrorLag> {
        let now = clock?.server_time(Instant::now());
        if let Some(age) = self.newest.map(|newest| now.since(newest)).into_iter().chain(taken).min() {
            self.series.last_frame_age.set(age.as_secs_f64());
        }
        let mirror = self.mirror?;
        let lag = MirrorLag { frames: mirror.missing, silent: now.since(mirror.heard) };
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
