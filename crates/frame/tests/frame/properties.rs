//! What holds for every frame, and for every message.

use callsight_frame::{
    App, Audio, CandidateType, Client, Form, Frame, Join, JoinFailure, JoinState, MeetingId, NetEq, Path,
    Peer, PeerId, Platform, Protocol, QualityLimitation, Reason, Rejection, Sending, Seq, Server, ServerType,
    ServerUrl, SessionId, Version, Video,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::de::Deserialize;

use crate::message::Message;

/// The texts of a frame, which it borrows.
#[derive(Clone, Debug)]
struct Texts {
    ids: [String; 4],
    url: String,
    peers: Vec<String>,
}

const MAX_TEST_PEERS: usize = 12;

/// The highest value that every float, and every count, may have.
const MAX_FLOAT: f64 = 10_000.0;
const MAX_COUNT: u64 = 65_535;

/// Draws values from numbers, and absent ones when these are used up.
struct Draw<'a> {
    numbers: std::slice::Iter<'a, u64>,
    /// What floats and counts that are present are instead.
    number: Option<f64>,
}

impl Draw<'_> {
    fn next(&mut self) -> u64 {
        self.numbers.next().copied().unwrap_or_default()
    }

    fn some<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (!self.next().is_multiple_of(4)).then(|| value(self))
    }

    fn flag(&mut self) -> bool {
        !self.next().is_multiple_of(2)
    }

    fn float(&mut self) -> Option<f64> {
        let number = self.next();
        let drawn = match number % 6 {
            0 => return None,
            1 => 0.0,
            2 => MAX_FLOAT,
            3 => f64::MIN_POSITIVE,
            4 => (number % 10) as f64,
            _ => number as f64 / u64::MAX as f64 * MAX_FLOAT,
        };
        Some(self.number.unwrap_or(drawn))
    }

    fn count(&mut self) -> Option<u64> {
        let number = self.next();
        let drawn = match number % 5 {
            0 => return None,
            1 => 0,
            2 => MAX_COUNT,
            3 => number % 300,
            _ => number % MAX_COUNT,
        };
        Some(self.number.map_or(drawn, |number| number as u64))
    }

    fn word<T: Copy>(&mut self, words: &[T]) -> T {
        words[(self.next() % words.len() as u64) as usize]
    }

    fn audio(&mut self) -> Audio {
        Audio {
            buffer_ms: self.float(),
            target_ms: self.float(),
            packets_awaiting_decode: self.float(),
            jitter_ms: self.float(),
            packets_received: self.count(),
            packets_lost: self.count(),
            total_samples: self.count(),
            concealed_samples: self.count(),
            silent_concealed_samples: self.count(),
            neteq: self.some(|draw| NetEq {
                normal: draw.count(),
                merge: draw.count(),
                expand: draw.count(),
                accelerate: draw.count(),
                fast_accelerate: draw.count(),
                preemptive_expand: draw.count(),
                comfort_noise: draw.count(),
                dtmf: draw.count(),
                undefined: draw.count(),
            }),
            concealment_events: self.count(),
            inserted_samples: self.count(),
            removed_samples: self.count(),
            packets_discarded: self.count(),
        }
    }

    fn video(&mut self) -> Video {
        Video {
            fps: self.float(),
            frames_buffered: self.float(),
            bitrate_kbps: self.float(),
            frames_decoded: self.count(),
            frames_dropped: self.count(),
            freeze_count: self.count(),
            packets_received: self.count(),
            packets_lost: self.count(),
            freezes_ms: self.count(),
            frame_height: self.count(),
            nack_count: self.count(),
            pli_count: self.count(),
        }
    }

    fn peer<'a>(&mut self, peer_id: &'a str) -> Peer<'a> {
        Peer {
            peer_id: PeerId::new(peer_id).unwrap(),
            can_listen: self.flag(),
            can_see: self.flag(),
            audio_enabled: self.flag(),
            video_enabled: self.flag(),
            audio: self.some(Self::audio),
            video: self.some(Self::video),
            audio_wanted: self.some(Self::flag),
            video_wanted: self.some(Self::flag),
            screen: self.some(Self::video),
        }
    }

    fn sending(&mut self) -> Sending {
        Sending {
            rtt_ms: self.float(),
            audio_packets_sent: self.count(),
            audio_packets_lost: self.count(),
            video_packets_sent: self.count(),
            video_packets_lost: self.count(),
            fps: self.float(),
            frame_height: self.count(),
            bitrate_kbps: self.float(),
            limited: self.some(|draw| QualityLimitation {
                cpu_ms: draw.count(),
                bandwidth_ms: draw.count(),
                other_ms: draw.count(),
            }),
            nack_count: self.count(),
            pli_count: self.count(),
        }
    }

    fn frame<'a>(&mut self, texts: &'a Texts) -> Frame<'a> {
        let seq = [1, 1 << 53, self.next() % 100_000 + 1];
        Frame {
            version: Version,
            meeting_id: MeetingId::new(&texts.ids[0]).unwrap(),
            session_id: SessionId::new(&texts.ids[1]).unwrap(),
            peer_id: PeerId::new(&texts.ids[2]).unwrap(),
            seq: Seq::new(self.word(&seq)).unwrap(),
            sent_at_ms: self.number.map_or_else(|| self.next() % 253_402_300_800_000, |number| number as u64),
            ended: self.some(Self::flag),
            server: self.some(|draw| Server {
                url: ServerUrl::new(&texts.url).unwrap(),
                server_type: draw.word(ServerType::ALL),
                rtt_ms: draw.float(),
            }),
            audio_enabled: self.some(Self::flag),
            video_enabled: self.some(Self::flag),
            tab_visible: self.some(Self::flag),
            peers: texts.peers.iter().map(|peer_id| self.peer(peer_id)).collect(),
            rates: Vec::new(),
            client: self.some(|draw| Client {
                app: draw.some(|_| App::new(&texts.ids[3]).unwrap()),
                platform: draw.some(|draw| draw.word(Platform::ALL)),
            }),
            path: self.some(|draw| Path {
                candidate_type: draw.some(|draw| draw.word(CandidateType::ALL)),
                protocol: draw.some(|draw| draw.word(Protocol::ALL)),
                available_outgoing_kbps: draw.float(),
                ice_restarts: draw.count(),
            }),
            send: self.some(Self::sending),
            join: self.some(|draw| Join {
                state: draw.word(JoinState::ALL),
                setup_ms: draw.float(),
                reason: draw.some(|draw| draw.word(JoinFailure::ALL)),
            }),
        }
    }
}

fn texts() -> impl Strategy<Value = Texts> {
    let id = || prop_oneof!["[A-Za-z0-9._:@-]{1,20}", "[A-Za-z0-9._:@-]{128}"];
    let url = "(https|wss|webtransport)://[a-z][a-z0-9]{0,9}(\\.[a-z]{2,5}){0,2}(:[1-9][0-9]{3})?";
    ([id(), id(), id(), id()], url, vec(id(), 0..MAX_TEST_PEERS)).prop_map(|(ids, url, peers)| Texts {
        ids,
        url,
        peers,
    })
}

/// All else, as numbers for [`Draw`]: mostly enough for every value.
fn rest() -> impl Strategy<Value = Vec<u64>> {
    vec(any::<u64>(), 0..800)
}

fn build<'a>(texts: &'a Texts, rest: &[u64]) -> Frame<'a> {
    Draw { numbers: rest.iter(), number: None }.frame(texts)
}

/// A value of any type, as a newer client may add.
fn anything() -> impl Strategy<Value = Message> {
    let leaf = prop_oneof![
        Just(Message::Nil),
        any::<bool>().prop_map(Message::Bool),
        any::<u64>().prop_map(Message::Uint),
        any::<i64>().prop_map(Message::Int),
        any::<f32>().prop_map(Message::Float32),
        any::<f64>().prop_map(Message::Float),
        "\\PC{0,8}".prop_map(Message::Str),
        vec(any::<u8>(), 0..8).prop_map(Message::Bin),
        (any::<i8>(), vec(any::<u8>(), 0..20)).prop_map(|(kind, bytes)| Message::Ext(kind, bytes)),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Message::Array),
            vec((inner.clone(), inner), 0..3).prop_map(Message::Map),
        ]
    })
}

/// Decodes as the exporter does, which tries a quick decoder first, and holds it against the
/// careful one.
fn decode(message: &[u8]) -> Result<Frame<'_>, Rejection> {
    let decoded = Frame::decode(message);
    assert_eq!(decoded, Frame::decode_carefully(message));
    decoded
}

proptest! {
    #[test]
    fn a_frame_comes_back_in_both_forms_and_from_json((texts, rest) in (texts(), rest())) {
        let frame = build(&texts, &rest);
        for form in [Form::Named, Form::Compact] {
            let message = frame.encode(form);
            prop_assert_eq!(decode(&message), Ok(frame.clone()));
        }
        // As a value: from text, serde_json reads floats to within a bit.
        let json = serde_json::to_value(&frame).unwrap();
        prop_assert_eq!(Frame::deserialize(&json).unwrap(), frame);
    }

    #[test]
    fn forms_mix_and_grow_and_the_frame_stays_the_same(
        (texts, rest) in (texts(), rest()),
        choices in vec((any::<bool>(), any::<bool>(), any::<proptest::sample::Index>()), 64),
        additions in vec(anything(), 8),
    ) {
        let frame = build(&texts, &rest);
        let mut message = Message::read(&frame.encode(Form::Named));
        let (mut choices, mut additions) = (choices.iter().cycle(), additions.iter().cycle());
        message.each_map(&mut |map, fields| {
            let (compact, grown, place) = choices.next().unwrap();
            let addition = additions.next().unwrap().clone();
            if *compact {
                map.compact(fields);
                let Message::Array(values) = map else { unreachable!() };
                if *grown {
                    values.push(addition);
                } else {
                    // An array may end anywhere after its last present value.
                    let present = values.iter().rposition(|value| *value != Message::Nil).map_or(0, |last| last + 1);
                    values.truncate(present + place.index(values.len() + 1 - present));
                }
                return;
            }
            let Message::Map(entries) = map else { unreachable!() };
            for field in fields {
                if *grown && !entries.iter().any(|(key, _)| *key == Message::text(field.key)) {
                    entries.push((Message::text(field.key), Message::Nil));
                }
            }
            entries.push((Message::text("unknown to this version"), addition));
            // Keys come in any order.
            let middle = place.index(entries.len());
            entries.rotate_left(middle);
        });
        let message = message.bytes();
        prop_assert_eq!(decode(&message), Ok(frame));
    }

    #[test]
    fn numbers_of_any_size_are_judged_alike(
        (texts, rest) in (texts(), rest()),
        form in prop_oneof![Just(Form::Named), Just(Form::Compact)],
        (exponent, factor) in (0_u32..64, 0.5..2.0),
    ) {
        let number = f64::from(exponent).exp2() * factor;
        let server = Server {
            rtt_ms: Some(number),
            ..Server::new(ServerUrl::new(&texts.url).unwrap(), ServerType::WebRtc)
        };
        let frame = Draw { numbers: rest.iter(), number: Some(number) }.frame(&texts);
        let message = Frame { server: Some(server), ..frame }.encode(form);
        match decode(&message) {
            Ok(_) => prop_assert!(number <= 600_000.0),
            Err(rejection) => {
                prop_assert_eq!(rejection.reason, Reason::OutOfRange);
                prop_assert!(number > 10_000.0, "{}", rejection);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..512)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn any_value_is_refused(value in anything()) {
        prop_assert!(decode(&value.bytes()).is_err());
    }

    #[test]
    fn a_damaged_frame_is_read_or_refused(
        (texts, rest) in (texts(), rest()),
        form in prop_oneof![Just(Form::Named), Just(Form::Compact)],
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in option::of(any::<proptest::sample::Index>()),
    ) {
        let mut message = build(&texts, &rest).encode(form);
        for (place, byte) in damage {
            let place = place.index(message.len());
            message[place] = byte;
        }
        if let Some(cut) = cut {
            message.truncate(cut.index(message.len()));
        }
        match decode(&message) {
            // Whatever is taken is a frame that can be written and read again.
            Ok(frame) => {
                let again = frame.encode(Form::Named);
                prop_assert_eq!(decode(&again), Ok(frame));
            }
            Err(rejection) => prop_assert!(rejection.detail.len() < 1_000, "{}", rejection),
        }
    }
}
