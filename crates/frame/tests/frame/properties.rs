//! What holds for every frame, and for every message.

use callsight_frame::{
    Audio, Form, Frame, MeetingId, NetEq, Peer, PeerId, Reason, Rejection, Seq, Server, ServerType,
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
    ids: [String; 3],
    url: String,
    peers: Vec<String>,
}

/// All else, by value: a function of the texts.
type Rest = (u64, u64, [Option<bool>; 4], Option<(usize, Option<f64>)>, Vec<PeerRest>);
type PeerRest =
    ([bool; 4], Option<([Option<f64>; 4], [Option<u64>; 5], Option<[Option<u64>; 9]>)>, Option<VideoRest>);
type VideoRest = ([Option<f64>; 3], [Option<u64>; 3]);

const MAX_TEST_PEERS: usize = 12;

/// Up to the highest value that every float may have.
fn float() -> impl Strategy<Value = Option<f64>> {
    option::of(prop_oneof![
        Just(0.0),
        Just(10_000.0),
        Just(f64::MIN_POSITIVE),
        0.0..1e4,
        (0_u32..9).prop_map(f64::from)
    ])
}

const MAX_COUNT: u64 = 10_000_000_000_000;

fn count() -> impl Strategy<Value = Option<u64>> {
    option::of(prop_oneof![Just(0), Just(MAX_COUNT), 0_u64..300, 0..MAX_COUNT])
}

fn texts() -> impl Strategy<Value = Texts> {
    let id = || prop_oneof!["[A-Za-z0-9._:@-]{1,20}", "[A-Za-z0-9._:@-]{128}"];
    let url = "(https|wss|webtransport)://[a-z][a-z0-9]{0,9}(\\.[a-z]{2,5}){0,2}(:[1-9][0-9]{3})?";
    ([id(), id(), id()], url, vec(id(), 0..MAX_TEST_PEERS)).prop_map(|(ids, url, peers)| Texts {
        ids,
        url,
        peers,
    })
}

fn rest() -> impl Strategy<Value = Rest> {
    let four = || [float(), float(), float(), float()];
    let audio = (four(), vec(count(), 5), option::of(vec(count(), 9))).prop_map(|(floats, counts, neteq)| {
        (floats, counts.try_into().unwrap(), neteq.map(|neteq| neteq.try_into().unwrap()))
    });
    let video = ([float(), float(), float()], [count(), count(), count()]);
    let peer = (any::<[bool; 4]>(), option::of(audio), option::of(video));
    let server = option::of((0_usize..4, float()));
    let flag = || option::of(any::<bool>());
    let seq = prop_oneof![Just(1), Just(1 << 53), 1_u64..100_000];
    (seq, 0..253_402_300_800_000_u64, [flag(), flag(), flag(), flag()], server, vec(peer, MAX_TEST_PEERS))
}

fn build<'a>(texts: &'a Texts, (seq, sent_at_ms, flags, server, peers): &Rest) -> Frame<'a> {
    let types = [ServerType::WebTransport, ServerType::WebSocket, ServerType::WebRtc, ServerType::Other];
    let peer = |(id, (flags, audio, video)): (&'a String, &PeerRest)| Peer {
        peer_id: PeerId::new(id).unwrap(),
        can_listen: flags[0],
        can_see: flags[1],
        audio_enabled: flags[2],
        video_enabled: flags[3],
        audio: audio.map(|(floats, counts, neteq)| Audio {
            buffer_ms: floats[0],
            target_ms: floats[1],
            packets_awaiting_decode: floats[2],
            jitter_ms: floats[3],
            packets_received: counts[0],
            packets_lost: counts[1],
            total_samples: counts[2],
            concealed_samples: counts[3],
            silent_concealed_samples: counts[4],
            neteq: neteq.map(|counts| NetEq {
                normal: counts[0],
                merge: counts[1],
                expand: counts[2],
                accelerate: counts[3],
                fast_accelerate: counts[4],
                preemptive_expand: counts[5],
                comfort_noise: counts[6],
                dtmf: counts[7],
                undefined: counts[8],
            }),
        }),
        video: video.map(|(floats, counts)| Video {
            fps: floats[0],
            frames_buffered: floats[1],
            bitrate_kbps: floats[2],
            frames_decoded: counts[0],
            frames_dropped: counts[1],
            freeze_count: counts[2],
        }),
    };
    Frame {
        version: Version,
        meeting_id: MeetingId::new(&texts.ids[0]).unwrap(),
        session_id: SessionId::new(&texts.ids[1]).unwrap(),
        peer_id: PeerId::new(&texts.ids[2]).unwrap(),
        seq: Seq::new(*seq).unwrap(),
        sent_at_ms: *sent_at_ms,
        ended: flags[0],
        server: server.map(|(kind, rtt_ms)| Server {
            url: ServerUrl::new(&texts.url).unwrap(),
            server_type: types[kind],
            rtt_ms,
        }),
        audio_enabled: flags[1],
        video_enabled: flags[2],
        tab_visible: flags[3],
        peers: texts.peers.iter().zip(peers).map(peer).collect(),
    }
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
        let (_, _, _, _, peers) = &rest;
        let mut peers = peers.clone();
        for (_, audio, video) in &mut peers {
            if let Some((floats, counts, _)) = audio {
                (floats[0], counts[2]) = (Some(number), Some(number as u64));
            }
            if let Some((floats, counts)) = video {
                (floats[0], counts[0]) = (Some(number), Some(number as u64));
            }
        }
        let server = Some((0, Some(number)));
        let message = build(&texts, &(rest.0, number as u64, rest.2, server, peers)).encode(form);
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
