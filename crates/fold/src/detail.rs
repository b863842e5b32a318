//! The detail rows of a session and of its pairs: opened once, set from each frame.
//!
//! Invariant: the values are in the order of the plane's columns in the catalogue.

use super::time::StreamTime;
use crate::series::aggregates::{Limit, RegionSeries};
use crate::series::detail::{Bits, DetailPlane, DetailStore, Row};
use crate::series::judgement::Judgement;
use callsight_frame::{Audio, Frame, Peer, Video};

/// The row of a live session or of a pair. Closing it removes its series.
#[derive(Default)]
pub(super) enum DetailRow {
    #[default]
    Closed,
    /// A budget had no room for it, which was counted.
    Refused,
    Open(Row),
}

impl DetailRow {
    pub(super) const fn row(&self) -> Option<&Row> {
        match self {
            Self::Open(row) => Some(row),
            Self::Closed | Self::Refused => None,
        }
    }

    /// Opens a row with these labels. Without `room`, or beyond the budget for series, it is
    /// refused; the first refusal is counted, under `limit` if there was no `room`. Returns whether
    /// it is open.
    pub(super) fn open(
        &mut self,
        store: &DetailStore,
        (plane, labels): (DetailPlane, &[&str]),
        (room, limit): (bool, Limit),
        own: &RegionSeries,
    ) -> bool {
        let fits = room && store.has_room(plane);
        if let Some(row) = fits.then(|| store.open(plane, labels)).flatten() {
            *self = Self::Open(row);
        } else if matches!(self, Self::Closed) {
            *self = Self::Refused;
            own.refused(if room { Limit::Series } else { limit }).increment(1);
        }
        self.row().is_some()
    }
}

fn seconds(milliseconds: Option<f64>) -> Bits {
    Bits::measure(milliseconds.map(|value| value / 1e3))
}

/// Bytes per second of kilobits per second.
fn byte_rate(kilobits: Option<f64>) -> Bits {
    Bits::measure(kilobits.map(|kilobits| kilobits * 1e3 / 8.0))
}

/// A number of pixels, of which no frame has more than a float holds.
#[expect(clippy::cast_precision_loss, reason = "a frame has at most some thousand")]
fn pixels(height: Option<u64>) -> Bits {
    Bits::measure(height.map(|height| height as f64))
}

/// Sets the row of a session from its frame, and from the share of what it sent that was lost.
pub(super) fn set_session(
    row: &Row,
    frame: &Frame<'_>,
    at: StreamTime,
    lost: Option<f64>,
    judgement: Judgement,
) {
    row.judge(judgement);
    let send = frame.send.as_ref();
    row.set(&[
        seconds(frame.server.as_ref().and_then(|server| server.rtt_ms)),
        Bits::state(frame.audio_enabled),
        Bits::state(frame.video_enabled),
        seconds(send.and_then(|send| send.rtt_ms)),
        Bits::measure(lost),
        Bits::measure(send.and_then(|send| send.fps)),
        pixels(send.and_then(|send| send.frame_height)),
        byte_rate(send.and_then(|send| send.bitrate_kbps)),
        byte_rate(frame.path.as_ref().and_then(|path| path.available_outgoing_kbps)),
        Bits::measure(Some(at.unix_seconds())),
    ]);
}

/// Sets the row of a pair from what the session's frame says of the peer.
pub(super) fn set_pair(row: &Row, peer: &Peer<'_>, judgement: Judgement) {
    row.judge(judgement);
    let measure = |value: fn(&Audio) -> Option<f64>| peer.audio.as_ref().and_then(value);
    let count = |value: fn(&Audio) -> Option<u64>| Bits::count(peer.audio.as_ref().and_then(value));
    let video = |value: fn(&Video) -> Option<f64>| peer.video.as_ref().and_then(value);
    let neteq = peer.audio.as_ref().and_then(|audio| audio.neteq.as_ref());
    let [
        normal,
        merge,
        expand,
        accelerate,
        fast_accelerate,
        preemptive_expand,
        comfort_noise,
        dtmf,
        undefined,
    ] = neteq.map_or([None; _], |neteq| neteq.counts()).map(Bits::count);
    row.set(&[
        Bits::state(Some(peer.can_listen)),
        Bits::state(Some(peer.can_see)),
        seconds(measure(|audio| audio.buffer_ms)),
        seconds(measure(|audio| audio.target_ms)),
        seconds(measure(|audio| audio.jitter_ms)),
        Bits::measure(measure(|audio| audio.packets_awaiting_decode)),
        count(|audio| audio.total_samples),
        count(|audio| audio.concealed_samples),
        count(|audio| audio.silent_concealed_samples),
        count(|audio| audio.packets_received),
        count(|audio| audio.packets_lost),
        normal,
        merge,
        expand,
        accelerate,
        fast_accelerate,
        preemptive_expand,
        comfort_noise,
        dtmf,
        undefined,
        Bits::measure(video(|video| video.fps)),
        pixels(peer.video.as_ref().and_then(|video| video.frame_height)),
        Bits::measure(video(|video| video.frames_buffered)),
        byte_rate(video(|video| video.bitrate_kbps)),
        Bits::count(peer.video.as_ref().and_then(|video| video.freeze_count)),
        Bits::measure(peer.screen.as_ref().and_then(|screen| screen.fps)),
    ]);
}
