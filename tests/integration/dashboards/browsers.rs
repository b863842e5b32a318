//! Two calls in Chromium, one of them bad, and people who join and leave.
//!
//! Their frames have every field that the mapping of `docs/frame.md` finds in Chromium's
//! statistics, and none that no browser has: an operation of NetEQ, a queue before the decoder.

use callsight_frame::{
    App, Audio, CandidateType, Client, Frame, Join, JoinFailure, JoinState, MeetingId, Path, Peer, PeerId,
    Platform, Protocol, QualityLimitation, Sending, Seq, Server, ServerType, ServerUrl, SessionId, Video,
};

use crate::kit::stream::Health;

/// A call: who is in it, and what they use.
struct Call {
    meeting: &'static str,
    /// The first one shares a screen in a good call, and has a bad uplink in a bad one.
    people: [&'static str; 3],
    app: &'static str,
    candidate_type: CandidateType,
    protocol: Protocol,
    bad: bool,
}

const CALLS: [Call; 2] = [
    Call {
        meeting: "planning",
        people: ["ann", "ben", "cem"],
        app: "web-1",
        candidate_type: CandidateType::Host,
        protocol: Protocol::Udp,
        bad: false,
    },
    Call {
        meeting: "retro",
        people: ["dan", "eve", "fay"],
        app: "web-2",
        candidate_type: CandidateType::Relay,
        protocol: Protocol::Tcp,
        bad: true,
    },
];

/// The browsers, which report a second of their calls at a time.
pub(super) struct Browsers<'a> {
    health: &'a Health,
    seconds: u64,
}

impl<'a> Browsers<'a> {
    pub(super) fn new(health: &'a Health) -> Self {
        Self { health, seconds: 0 }
    }

    /// Publishes the next frame of each session, and those of two people who can't stay: one gets
    /// into a call, the other does not.
    pub(super) async fn report(&mut self) {
        self.seconds += 1;
        let seconds = self.seconds;
        for call in &CALLS {
            for me in call.people {
                self.health.publish(&call.frame(me, me, seconds)).await;
            }
        }
        for (who, state, reason) in
            [("guest", JoinState::Joined, None), ("barred", JoinState::Failed, Some(JoinFailure::Ice))]
        {
            let session = format!("{who}-{seconds}");
            let join = Some(Join { state, setup_ms: Some(1_200.0), reason });
            let alone = Frame {
                join,
                peers: Vec::new(),
                meeting_id: MeetingId::new("lobby").unwrap(),
                ..CALLS[0].frame(&session, who, 1)
            };
            self.health.publish(&alone).await;
            self.health.publish(&Frame { seq: seq(2), ended: Some(true), ..alone }).await;
        }
    }
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

impl Call {
    /// What a participant's browser reports after so many seconds, one frame each.
    fn frame<'a>(&self, session: &'a str, me: &'a str, seconds: u64) -> Frame<'a> {
        let server = Server::new(ServerUrl::new("https://sfu-1.example").unwrap(), ServerType::WebRtc);
        let others = self.people.into_iter().filter(|other| *other != me);
        Frame {
            server: Some(Server { rtt_ms: Some(if self.bad { 180.0 } else { 40.0 }), ..server }),
            audio_enabled: Some(true),
            video_enabled: Some(true),
            tab_visible: Some(true),
            peers: others.map(|other| self.peer(other, seconds)).collect(),
            client: Some(Client { app: Some(App::new(self.app).unwrap()), platform: Some(Platform::Chrome) }),
            path: Some(Path {
                candidate_type: Some(self.candidate_type),
                protocol: Some(self.protocol),
                available_outgoing_kbps: Some(2_400.0),
                ice_restarts: Some(seconds / 30),
            }),
            send: Some(self.sending(me, seconds)),
            join: Some(Join { state: JoinState::Joined, setup_ms: Some(800.0), reason: None }),
            ..Frame::new(
                MeetingId::new(self.meeting).unwrap(),
                SessionId::new(session).unwrap(),
                PeerId::new(me).unwrap(),
                seq(seconds),
                1_764_000_000_000 + 1_000 * seconds,
            )
        }
    }

    /// Packets of every hundred sent by a participant that are lost.
    fn loss(&self, sender: &str) -> u64 {
        if self.bad && sender == self.people[0] { 20 } else { 0 }
    }

    fn peer<'a>(&self, other: &'static str, seconds: u64) -> Peer<'a> {
        let loss = self.loss(other);
        let audio = Audio {
            buffer_ms: Some(60.0),
            target_ms: Some(50.0),
            jitter_ms: Some(4.0),
            packets_received: Some((100 - loss) * seconds / 2),
            packets_lost: Some(loss * seconds / 2),
            total_samples: Some(48_000 * seconds),
            concealed_samples: Some(480 * loss * seconds),
            silent_concealed_samples: Some(24 * loss * seconds),
            concealment_events: Some(loss / 4 * seconds),
            inserted_samples: Some(240 * seconds),
            removed_samples: Some(120 * seconds),
            packets_discarded: Some(seconds / 2),
            packets_awaiting_decode: None,
            neteq: None,
        };
        let video = Video {
            fps: Some(25.0),
            bitrate_kbps: Some(1_500.0),
            frames_decoded: Some(25 * seconds),
            frames_dropped: Some(seconds / 2),
            freeze_count: Some(loss / 10 * seconds),
            packets_received: Some((100 - loss) * seconds),
            packets_lost: Some(loss * seconds),
            freezes_ms: Some(10 * loss * seconds),
            frame_height: Some(720),
            nack_count: Some(loss * seconds),
            pli_count: Some(loss / 10 * seconds),
            frames_buffered: None,
        };
        let shares = !self.bad && other == self.people[0];
        Peer {
            can_listen: true,
            can_see: true,
            audio_enabled: true,
            video_enabled: true,
            audio: Some(audio),
            screen: shares.then(|| Video { fps: Some(5.0), frame_height: Some(1_080), ..video.clone() }),
            video: Some(video),
            ..Peer::new(PeerId::new(other).unwrap())
        }
    }

    fn sending(&self, me: &str, seconds: u64) -> Sending {
        let loss = self.loss(me);
        Sending {
            rtt_ms: Some(60.0),
            audio_packets_sent: Some(50 * seconds),
            audio_packets_lost: Some(loss * seconds / 2),
            video_packets_sent: Some(100 * seconds),
            video_packets_lost: Some(loss * seconds),
            fps: Some(25.0),
            frame_height: Some(if loss > 0 { 360 } else { 720 }),
            bitrate_kbps: Some(1_600.0),
            limited: Some(QualityLimitation {
                cpu_ms: Some(0),
                bandwidth_ms: Some(40 * loss * seconds),
                other_ms: Some(0),
            }),
            nack_count: Some(loss * seconds),
            pli_count: Some(loss / 10 * seconds),
        }
    }
}
