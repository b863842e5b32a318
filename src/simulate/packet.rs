//! A packet of videocall.rs, which its relays publish instead of a frame.
//!
//! A client of videocall.rs sends a protobuf `HealthPacket` over its connection; the relay removes
//! the server's address, for it holds a token, and publishes the rest. It is known from the crate
//! `videocall-types`, which reads these bytes in the tests. There is no number of the frame, no
//! count of an operation and no goodbye in it, only rates of the last second.
//!
//! Invariant: equal reports are equal bytes, so peers are in the order of their names.

use std::collections::BTreeMap;

use super::audio::Rates;
use callsight_frame::{Frame, Peer};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthPacket {
    #[prost(string, tag = "1")]
    session_id: String,
    #[prost(string, tag = "2")]
    meeting_id: String,
    #[prost(bytes = "vec", tag = "3")]
    reporting_user_id: Vec<u8>,
    #[prost(uint64, tag = "4")]
    timestamp_ms: u64,
    #[prost(bool, tag = "5")]
    reporting_audio_enabled: bool,
    #[prost(bool, tag = "6")]
    reporting_video_enabled: bool,
    #[prost(btree_map = "string, message", tag = "7")]
    peer_stats: BTreeMap<String, PeerStats>,
    #[prost(string, tag = "9")]
    active_server_type: String,
    #[prost(double, tag = "10")]
    active_server_rtt_ms: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PeerStats {
    #[prost(bool, tag = "1")]
    can_listen: bool,
    #[prost(bool, tag = "2")]
    can_see: bool,
    #[prost(bool, tag = "3")]
    audio_enabled: bool,
    #[prost(bool, tag = "4")]
    video_enabled: bool,
    #[prost(message, optional, tag = "5")]
    neteq_stats: Option<NetEqStats>,
    #[prost(message, optional, tag = "6")]
    video_stats: Option<VideoStats>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct NetEqStats {
    #[prost(double, tag = "1")]
    current_buffer_size_ms: f64,
    #[prost(double, tag = "2")]
    packets_awaiting_decode: f64,
    #[prost(message, optional, tag = "3")]
    network: Option<NetEqNetwork>,
    #[prost(double, tag = "4")]
    packets_per_sec: f64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct NetEqNetwork {
    #[prost(message, optional, tag = "1")]
    operation_counters: Option<OperationCounters>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct OperationCounters {
    #[prost(double, tag = "1")]
    normal_per_sec: f64,
    #[prost(double, tag = "2")]
    expand_per_sec: f64,
    #[prost(double, tag = "3")]
    accelerate_per_sec: f64,
    #[prost(double, tag = "4")]
    fast_accelerate_per_sec: f64,
    #[prost(double, tag = "5")]
    preemptive_expand_per_sec: f64,
    #[prost(double, tag = "6")]
    merge_per_sec: f64,
    #[prost(double, tag = "7")]
    comfort_noise_per_sec: f64,
    #[prost(double, tag = "8")]
    dtmf_per_sec: f64,
    #[prost(double, tag = "9")]
    undefined_per_sec: f64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct VideoStats {
    #[prost(double, tag = "1")]
    fps_received: f64,
    #[prost(double, tag = "2")]
    frames_buffered: f64,
    #[prost(uint64, tag = "3")]
    frames_decoded: u64,
    #[prost(uint64, tag = "4")]
    bitrate_kbps: u64,
}

impl HealthPacket {
    /// Returns what of a frame a packet can say, with the rates of each peer in the frame's order.
    pub(super) fn of<'a>(frame: &Frame<'_>, rates: impl Iterator<Item = &'a Rates>) -> Self {
        let server = frame.server.as_ref();
        let peers = frame.peers.iter().zip(rates);
        Self {
            session_id: frame.session_id.to_string(),
            meeting_id: frame.meeting_id.to_string(),
            reporting_user_id: frame.peer_id.to_string().into_bytes(),
            timestamp_ms: frame.sent_at_ms,
            reporting_audio_enabled: frame.audio_enabled == Some(true),
            reporting_video_enabled: frame.video_enabled == Some(true),
            peer_stats: peers
                .map(|(peer, rates)| (peer.peer_id.to_string(), peer_stats(peer, rates)))
                .collect(),
            active_server_type: server
                .map(|server| server.server_type.label().to_owned())
                .unwrap_or_default(),
            active_server_rtt_ms: server.and_then(|server| server.rtt_ms).unwrap_or_default(),
        }
    }
}

fn peer_stats(peer: &Peer<'_>, rates: &Rates) -> PeerStats {
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
    ] = rates.operations;
    let operations = OperationCounters {
        normal_per_sec: normal,
        expand_per_sec: expand,
        accelerate_per_sec: accelerate,
        fast_accelerate_per_sec: fast_accelerate,
        preemptive_expand_per_sec: preemptive_expand,
        merge_per_sec: merge,
        comfort_noise_per_sec: comfort_noise,
        dtmf_per_sec: dtmf,
        undefined_per_sec: undefined,
    };
    PeerStats {
        can_listen: peer.can_listen,
        can_see: peer.can_see,
        audio_enabled: peer.audio_enabled,
        video_enabled: peer.video_enabled,
        neteq_stats: peer.audio.as_ref().map(|audio| NetEqStats {
            current_buffer_size_ms: audio.buffer_ms.unwrap_or_default(),
            packets_awaiting_decode: audio.packets_awaiting_decode.unwrap_or_default(),
            network: Some(NetEqNetwork { operation_counters: Some(operations) }),
            packets_per_sec: rates.packets,
        }),
        video_stats: peer.video.as_ref().map(|video| VideoStats {
            fps_received: video.fps.unwrap_or_default(),
            frames_buffered: video.frames_buffered.unwrap_or_default(),
            frames_decoded: video.frames_decoded.unwrap_or_default(),
            bitrate_kbps: video.bitrate_kbps.unwrap_or_default().round() as u64,
        }),
    }
}
