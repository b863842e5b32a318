//! The detail rows of a session and of its pairs: opened once, set from each frame.
//!
//! Invariant: the values are in the order of the plane's columns in the catalogue.

use super::degraded::{Degraded, is_hidden};
use super::time::StreamTime;
use crate::series::detail::{Bits, DetailPlane, DetailStore, Row};
use crate::series::judgement::Judgement;
use callsight_frame::{Audio, Frame, Peer, Video};

fn seconds(milliseconds: Option<f64>) -> Bits {
    Bits::measure(milliseconds.map(|value| value / 1e3))
}

/// The row of a live session. Dropping it removes its series.
pub(super) struct SessionSeries(Row);

impl SessionSeries {
    /// Opens the row. `None` if the budget has no room for it.
    pub(super) fn open(
        store: &DetailStore,
        region: &str,
        frame: &Frame<'_>,
        (server_url, server_type): (&str, &str),
    ) -> Option<Self> {
        let labels = [
            region,
            frame.meeting_id.as_str(),
            frame.session_id.as_str(),
            frame.peer_id.as_str(),
            server_url,
            server_type,
        ];
        store.open(DetailPlane::Session, &labels).map(Self)
    }

    /// Sets the values of a frame, the signals that degrade the session, and the highest
    /// concealment ratio among its peers.
    pub(super) fn set(
        &self,
        frame: &Frame<'_>,
        at: StreamTime,
        degraded: Degraded,
        concealment: Option<f64>,
    ) {
        self.0.judge(Judgement {
            hidden: is_hidden(frame),
            microphone: frame.audio_enabled == Some(true),
            camera: frame.video_enabled == Some(true),
            ..degraded.judgement().concealing(concealment)
        });
        self.0.set(&[
            seconds(frame.server.as_ref().and_then(|server| server.rtt_ms)),
            Bits::state(frame.audio_enabled),
            Bits::state(frame.video_enabled),
            Bits::measure(Some(at.unix_seconds())),
        ]);
    }
}

/// The row of a pair. Dropping it removes its series.
pub(super) struct PairSeries(Row);

impl PairSeries {
    /// Opens the row. `None` if the budget has no room for it.
    pub(super) fn open(
        store: &DetailStore,
        region: &str,
        frame: &Frame<'_>,
        peer: &Peer<'_>,
    ) -> Option<Self> {
        let labels = [region, frame.meeting_id.as_str(), frame.session_id.as_str(), peer.peer_id.as_str()];
        store.open(DetailPlane::Pair, &labels).map(Self)
    }

    /// Fetches the row into the cache; see [`Row::fetch`].
    pub(super) fn fetch(&self) -> u64 {
        self.0.fetch()
    }

    /// Sets the values of a peer, the signals by which it degrades the session, and its concealment
    /// ratio.
    pub(super) fn set(&self, peer: &Peer<'_>, degraded: Degraded, concealment: Option<f64>) {
        self.0.judge(Judgement {
            microphone: peer.audio_enabled,
            camera: peer.video_enabled,
            ..degraded.judgement().concealing(concealment)
        });
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
        self.0.set(&[
            Bits::state(Some(peer.can_listen)),
            Bits::state(Some(peer.can_see)),
            seconds(measure(|audio| audio.buffer_ms)),
            seconds(measure(|audio| audio.target_ms)),
            Bits::measure(measure(|audio| audio.packets_awaiting_decode)),
            count(|audio| audio.total_samples),
            count(|audio| audio.concealed_samples),
            count(|audio| audio.silent_concealed_samples),
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
            Bits::measure(video(|video| video.frames_buffered)),
            Bits::measure(video(|video| video.bitrate_kbps.map(|kilobits| kilobits * 1e3 / 8.0))),
            Bits::count(peer.video.as_ref().and_then(|video| video.freeze_count)),
        ]);
    }
}
