//! Frames whose values a test can predict.

use callsight_frame::{
    Audio, Frame, MeetingId, NetEq, Peer, PeerId, Seq, Server, ServerType, ServerUrl, SessionId, Version,
    Video,
};

/// The server of every frame.
pub(crate) const SERVER_URL: &str = "https://relay-1.example:4433";

/// Frame `seq` of a session, with the peers that it observes. Every value follows from `seq`: a
/// round trip of `40 + seq` ms, 48,000 samples per frame of which 480 are concealed, and so on.
pub(crate) fn frame<'a>(session_id: &'a str, seq: u64, peers: &[&'a str]) -> Frame<'a> {
    Frame {
        version: Version,
        meeting_id: MeetingId::new("standup").unwrap(),
        session_id: SessionId::new(session_id).unwrap(),
        // One participant per session, so that a failure names the session.
        peer_id: PeerId::new(session_id).unwrap(),
        seq: Seq::new(seq).unwrap(),
        sent_at_ms: 1_764_000_000_000 + 1_000 * seq,
        ended: None,
        server: Some(Server {
            url: ServerUrl::new(SERVER_URL).unwrap(),
            server_type: ServerType::WebTransport,
            rtt_ms: Some(rtt_ms(seq)),
        }),
        audio_enabled: Some(true),
        video_enabled: Some(false),
        tab_visible: Some(true),
        peers: peers.iter().map(|peer_id| peer(peer_id, seq)).collect(),
    }
}

/// The round trip in frame `seq`, in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "tests number their frames far below 2^53")]
pub(crate) fn rtt_ms(seq: u64) -> f64 {
    40.0 + seq as f64
}

fn peer(peer_id: &str, seq: u64) -> Peer<'_> {
    let neteq = NetEq {
        normal: Some(98 * seq),
        merge: None,
        expand: Some(2 * seq),
        accelerate: Some(0),
        fast_accelerate: None,
        preemptive_expand: None,
        comfort_noise: None,
        dtmf: None,
        undefined: None,
    };
    Peer {
        peer_id: PeerId::new(peer_id).unwrap(),
        can_listen: true,
        can_see: false,
        audio_enabled: true,
        video_enabled: false,
        audio: Some(Audio {
            buffer_ms: Some(62.0),
            target_ms: Some(80.0),
            packets_awaiting_decode: Some(3.0),
            jitter_ms: None,
            packets_received: Some(50 * seq),
            packets_lost: Some(0),
            total_samples: Some(48_000 * seq),
            concealed_samples: Some(480 * seq),
            silent_concealed_samples: None,
            neteq: Some(neteq),
        }),
        video: Some(Video {
            fps: Some(0.0),
            frames_buffered: None,
            bitrate_kbps: Some(1_500.0),
            frames_decoded: Some(0),
            frames_dropped: None,
            freeze_count: Some(seq),
        }),
    }
}
