//! Frames whose values a test can predict.

use callsight_frame::{
    App, Audio, CandidateType, Client, Frame, Join, JoinState, MeetingId, NetEq, Path, Peer, PeerId,
    Platform, Protocol, QualityLimitation, Sending, Seq, Server, ServerType, ServerUrl, SessionId, Video,
};

/// The server of every frame.
pub(crate) const SERVER_URL: &str = "https://relay-1.example:4433";

/// Frame `seq` of a session, with the peers that it observes. Every value follows from `seq`: a
/// round trip of `40 + seq` ms, 48,000 samples per frame of which 480 are concealed, and so on.
pub(crate) fn frame<'a>(session_id: &'a str, seq: u64, peers: &[&'a str]) -> Frame<'a> {
    let server = Server::new(ServerUrl::new(SERVER_URL).unwrap(), ServerType::WebTransport);
    Frame {
        server: Some(Server { rtt_ms: Some(rtt_ms(seq)), ..server }),
        audio_enabled: Some(true),
        video_enabled: Some(false),
        tab_visible: Some(true),
        peers: peers.iter().map(|peer_id| peer(peer_id, seq)).collect(),
        ..Frame::new(
            MeetingId::new("standup").unwrap(),
            SessionId::new(session_id).unwrap(),
            // One participant per session, so that a failure names the session.
            PeerId::new(session_id).unwrap(),
            Seq::new(seq).unwrap(),
            1_764_000_000_000 + 1_000 * seq,
        )
    }
}

/// The same with all that a client can tell: something in every metric.
pub(crate) fn full_frame<'a>(session_id: &'a str, seq: u64, peers: &[&'a str]) -> Frame<'a> {
    let send = Sending {
        rtt_ms: Some(51.0),
        audio_packets_sent: Some(50 * seq),
        audio_packets_lost: Some(0),
        video_packets_sent: Some(200 * seq),
        video_packets_lost: Some(seq),
        fps: Some(30.0),
        frame_height: Some(720),
        bitrate_kbps: Some(1_400.0),
        limited: Some(QualityLimitation { cpu_ms: Some(10 * seq), ..QualityLimitation::default() }),
        nack_count: Some(seq),
        pli_count: Some(1),
    };
    let path = Path {
        candidate_type: Some(CandidateType::Host),
        protocol: Some(Protocol::Udp),
        available_outgoing_kbps: Some(2_500.0),
        ice_restarts: Some(1),
    };
    let mut frame = Frame {
        client: Some(Client { app: App::new("web-2.14.0").ok(), platform: Some(Platform::Chrome) }),
        path: Some(path),
        send: Some(send),
        join: Some(Join { state: JoinState::Joined, setup_ms: Some(812.0), reason: None }),
        ..frame(session_id, seq, peers)
    };
    for peer in &mut frame.peers {
        let audio = peer.audio.get_or_insert_default();
        audio.jitter_ms = Some(4.0);
        audio.silent_concealed_samples = Some(0);
        audio.concealment_events = Some(seq);
        audio.inserted_samples = Some(480 * seq);
        audio.removed_samples = Some(240 * seq);
        audio.packets_discarded = Some(0);
        let video = peer.video.get_or_insert_default();
        video.frames_buffered = Some(1.5);
        video.packets_received = Some(200 * seq);
        video.packets_lost = Some(0);
        video.freezes_ms = Some(0);
        video.frame_height = Some(360);
        video.nack_count = Some(0);
        video.pli_count = Some(0);
        peer.screen = Some(Video { fps: Some(5.0), frame_height: Some(1080), ..Video::default() });
    }
    frame
}

/// The round trip in frame `seq`, in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "tests number their frames far below 2^53")]
pub(crate) fn rtt_ms(seq: u64) -> f64 {
    40.0 + seq as f64
}

fn peer(peer_id: &str, seq: u64) -> Peer<'_> {
    let neteq =
        NetEq { normal: Some(98 * seq), expand: Some(2 * seq), accelerate: Some(0), ..NetEq::default() };
    Peer {
        can_listen: true,
        audio_enabled: true,
        audio: Some(Audio {
            buffer_ms: Some(62.0),
            target_ms: Some(80.0),
            packets_awaiting_decode: Some(3.0),
            packets_received: Some(50 * seq),
            packets_lost: Some(0),
            total_samples: Some(48_000 * seq),
            concealed_samples: Some(480 * seq),
            neteq: Some(neteq),
            ..Audio::default()
        }),
        video: Some(Video {
            fps: Some(0.0),
            bitrate_kbps: Some(1_500.0),
            frames_decoded: Some(0),
            freeze_count: Some(seq),
            ..Video::default()
        }),
        ..Peer::new(PeerId::new(peer_id).unwrap())
    }
}
