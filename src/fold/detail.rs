//! The detail rows of a session and of its pairs: handles taken once, set from each frame.

use metrics::{Counter, Gauge, counter, gauge, with_local_recorder};

use super::degraded::{Degraded, is_hidden};
use super::time::StreamTime;
use crate::frame::{Audio, Frame, Operation, Peer, Video};
use crate::series::catalogue as c;
use crate::series::detail::{DetailPlane, DetailStore, Judgement, Row};

/// What an absent value is to a gauge and to a counter of the detail store.
const ABSENT_MEASURE: f64 = f64::NAN;
const ABSENT_COUNT: u64 = u64::MAX;

fn set_measure(gauge: &Gauge, value: Option<f64>) {
    gauge.set(value.unwrap_or(ABSENT_MEASURE));
}

fn set_state(gauge: &Gauge, value: Option<bool>) {
    set_measure(gauge, value.map(|state| f64::from(u8::from(state))));
}

fn set_count(counter: &Counter, value: Option<u64>) {
    counter.absolute(value.unwrap_or(ABSENT_COUNT));
}

fn seconds(milliseconds: Option<f64>) -> Option<f64> {
    milliseconds.map(|value| value / 1e3)
}

/// The row of a live session. Dropping it removes its series.
pub(super) struct SessionSeries {
    handles: SessionHandles,
    row: Row,
}

struct SessionHandles {
    rtt: Gauge,
    audio_enabled: Gauge,
    video_enabled: Gauge,
    last_seen: Gauge,
}

impl SessionSeries {
    /// Opens the row, unless the budget has no room for it.
    pub(super) fn open(
        store: &DetailStore,
        region: &str,
        frame: &Frame<'_>,
        (server_url, server_type): (&str, &str),
    ) -> Option<Box<Self>> {
        let labels = [
            ("region", region),
            ("meeting_id", frame.meeting_id.as_str()),
            ("session_id", frame.session_id.as_str()),
            ("peer_id", frame.peer_id.as_str()),
            ("server_url", server_url),
            ("server_type", server_type),
        ];
        let row = store.open(DetailPlane::Session, &labels)?;
        let handles = with_local_recorder(&row, || SessionHandles {
            rtt: gauge!(c::SESSION_RTT.name),
            audio_enabled: gauge!(c::SESSION_AUDIO_ENABLED.name),
            video_enabled: gauge!(c::SESSION_VIDEO_ENABLED.name),
            last_seen: gauge!(c::SESSION_LAST_SEEN_AGE.name),
        });
        Some(Box::new(Self { handles, row }))
    }

    /// Takes a frame's values, by which the session is so degraded; of its peers' audio the worst was concealed so much.
    pub(super) fn set(
        &self,
        frame: &Frame<'_>,
        at: StreamTime,
        degraded: Degraded,
        concealment: Option<f64>,
    ) {
        let handles = &self.handles;
        set_measure(&handles.rtt, seconds(frame.server.as_ref().and_then(|server| server.rtt_ms)));
        set_state(&handles.audio_enabled, frame.audio_enabled);
        set_state(&handles.video_enabled, frame.video_enabled);
        handles.last_seen.set(at.unix_seconds());
        self.row.judge(Judgement {
            hidden: is_hidden(frame),
            microphone: frame.audio_enabled == Some(true),
            camera: frame.video_enabled == Some(true),
            ..degraded.judgement().concealing(concealment)
        });
    }
}

/// The row of a pair. Dropping it removes its series.
pub(super) struct PairSeries {
    handles: PairHandles,
    row: Row,
}

struct PairHandles {
    can_listen: Gauge,
    can_see: Gauge,
    audio_buffer: Gauge,
    audio_target: Gauge,
    audio_awaiting_decode: Gauge,
    samples: Counter,
    concealed_samples: Counter,
    silent_concealed_samples: Counter,
    neteq: [Counter; Operation::ALL.len()],
    video_fps: Gauge,
    video_buffered: Gauge,
    video_byte_rate: Gauge,
    freezes: Counter,
}

impl PairSeries {
    /// Opens the row, unless the budget has no room for it.
    pub(super) fn open(
        store: &DetailStore,
        region: &str,
        frame: &Frame<'_>,
        peer: &Peer<'_>,
    ) -> Option<Box<Self>> {
        let labels = [
            ("region", region),
            ("meeting_id", frame.meeting_id.as_str()),
            ("session_id", frame.session_id.as_str()),
            ("peer_id", peer.peer_id.as_str()),
        ];
        let row = store.open(DetailPlane::Pair, &labels)?;
        let handles = with_local_recorder(&row, || PairHandles {
            can_listen: gauge!(c::PAIR_CAN_LISTEN.name),
            can_see: gauge!(c::PAIR_CAN_SEE.name),
            audio_buffer: gauge!(c::PAIR_AUDIO_BUFFER.name),
            audio_target: gauge!(c::PAIR_AUDIO_TARGET.name),
            audio_awaiting_decode: gauge!(c::PAIR_AUDIO_AWAITING_DECODE.name),
            samples: counter!(c::PAIR_SAMPLES.name),
            concealed_samples: counter!(c::PAIR_CONCEALED_SAMPLES.name),
            silent_concealed_samples: counter!(c::PAIR_SILENT_CONCEALED_SAMPLES.name),
            neteq: std::array::from_fn(
                |index| counter!(c::PAIR_NETEQ_OPERATIONS.name, "operation" => Operation::ALL[index].label()),
            ),
            video_fps: gauge!(c::PAIR_VIDEO_FPS.name),
            video_buffered: gauge!(c::PAIR_VIDEO_BUFFERED.name),
            video_byte_rate: gauge!(c::PAIR_VIDEO_BYTE_RATE.name),
            freezes: counter!(c::PAIR_FREEZES.name),
        });
        Some(Box::new(Self { handles, row }))
    }

    /// Takes a peer's values, by which its session is so degraded, and the share of its audio that was concealed.
    pub(super) fn set(&self, peer: &Peer<'_>, degraded: Degraded, concealment: Option<f64>) {
        self.row.judge(Judgement {
            microphone: peer.audio_enabled,
            camera: peer.video_enabled,
            ..degraded.judgement().concealing(concealment)
        });
        let handles = &self.handles;
        set_state(&handles.can_listen, Some(peer.can_listen));
        set_state(&handles.can_see, Some(peer.can_see));
        let audio = |value: fn(&Audio) -> Option<f64>| peer.audio.as_ref().and_then(value);
        set_measure(&handles.audio_buffer, seconds(audio(|audio| audio.buffer_ms)));
        set_measure(&handles.audio_target, seconds(audio(|audio| audio.target_ms)));
        set_measure(&handles.audio_awaiting_decode, audio(|audio| audio.packets_awaiting_decode));
        let audio = |value: fn(&Audio) -> Option<u64>| peer.audio.as_ref().and_then(value);
        set_count(&handles.samples, audio(|audio| audio.total_samples));
        set_count(&handles.concealed_samples, audio(|audio| audio.concealed_samples));
        set_count(&handles.silent_concealed_samples, audio(|audio| audio.silent_concealed_samples));
        let neteq = peer.audio.as_ref().and_then(|audio| audio.neteq.as_ref());
        let counts = neteq.map_or([None; Operation::ALL.len()], |neteq| neteq.counts());
        for (counter, count) in handles.neteq.iter().zip(counts) {
            set_count(counter, count);
        }
        let video = |value: fn(&Video) -> Option<f64>| peer.video.as_ref().and_then(value);
        set_measure(&handles.video_fps, video(|video| video.fps));
        set_measure(&handles.video_buffered, video(|video| video.frames_buffered));
        set_measure(
            &handles.video_byte_rate,
            video(|video| video.bitrate_kbps.map(|kilobits| kilobits * 1e3 / 8.0)),
        );
        set_count(&handles.freezes, peer.video.as_ref().and_then(|video| video.freeze_count));
    }
}
