//! Each limit with exactly its reason, and what is taken generously.

use callsight_frame::{
    Client, Form, Frame, MAPS, MAX_FRAME_BYTES, MAX_NESTING, MAX_PEERS, Platform, Reason, Rejection, Seq,
    ServerType,
};
use serde_json::json;

use crate::message::Message;

/// A frame with a value in every place.
fn full() -> Message {
    let audio = json!({
        "buffer_ms": 62.5, "target_ms": 60.0, "packets_awaiting_decode": 3.0, "jitter_ms": 1.5,
        "packets_received": 150, "packets_lost": 0, "total_samples": 144_000, "concealed_samples": 480,
        "silent_concealed_samples": 0, "concealment_events": 2, "inserted_samples_for_deceleration": 96,
        "removed_samples_for_acceleration": 0, "packets_discarded": 1,
        "neteq": {
            "normal": 298, "merge": 0, "expand": 2, "accelerate": 0, "fast_accelerate": 0,
            "preemptive_expand": 0, "comfort_noise": 0, "dtmf": 0, "undefined": 0,
        },
    });
    let video = json!({
        "fps": 30.5, "frames_buffered": 0.0, "bitrate_kbps": 900.0, "frames_decoded": 1,
        "frames_dropped": 0, "freeze_count": 0, "packets_received": 90, "packets_lost": 1,
        "total_freezes_duration_ms": 0, "frame_height": 720, "nack_count": 1, "pli_count": 0,
    });
    Message::from_json(&json!({
        "v": 1, "meeting_id": "standup", "session_id": "s-1", "peer_id": "ana", "seq": 3,
        "sent_at_ms": 1_764_000_000_000_u64, "ended": false,
        "server": {"url": "https://relay-1.example:4433", "type": "webrtc", "rtt_ms": 48.5},
        "audio_enabled": true, "video_enabled": false, "tab_visible": true,
        "peers": [{
            "peer_id": "bo", "can_listen": true, "can_see": false, "audio_enabled": true,
            "video_enabled": false, "audio": audio,
            "video": video, "audio_wanted": true, "video_wanted": false, "screen": video,
        }],
        "client": {"app": "web-2.14.0", "platform": "firefox"},
        "path": {
            "candidate_type": "relay", "protocol": "tls", "available_outgoing_kbps": 2500.0,
            "ice_restarts": 1,
        },
        "send": {
            "rtt_ms": 51.5, "audio_packets_sent": 150, "audio_packets_lost": 1,
            "video_packets_sent": 400, "video_packets_lost": 2, "frames_per_second": 29.5,
            "frame_height": 720, "bitrate_kbps": 1400.0, "nack_count": 2, "pli_count": 1,
            "quality_limitation_durations": {"cpu": 0, "bandwidth": 1500, "other": 0},
        },
        "join": {"state": "failed", "setup_ms": 15000.5, "reason": "ice"},
    }))
}

/// The full frame with another value in one place.
fn with(path: &str, value: Message) -> Vec<u8> {
    let mut frame = full();
    *frame.at(path) = value;
    frame.bytes()
}

/// [`with`], and the same in the compact form.
fn in_both_forms(path: &str, value: Message) -> [Vec<u8>; 2] {
    let mut frame = full();
    *frame.at(path) = value;
    let named = frame.bytes();
    frame.each_map(&mut |map, fields| map.compact(fields));
    [named, frame.bytes()]
}

fn rejection(message: &[u8]) -> Rejection {
    Frame::decode(message).expect_err("a frame to reject")
}

#[track_caller]
fn rejected(message: &[u8], expected: &str) {
    assert_eq!(rejection(message).to_string(), expected);
}

/// The paths of all values of a type, by the tables of the code.
fn paths(kind: &str) -> Vec<String> {
    fn walk(prefix: &str, map: &str, kind: &str, paths: &mut Vec<String>) {
        let (_, fields) = MAPS.iter().find(|(key, _)| *key == map).unwrap();
        for field in *fields {
            let path = match field.kind {
                "array of maps" => format!("{prefix}{}.0", field.key),
                _ => format!("{prefix}{}", field.key),
            };
            if MAPS.iter().any(|(key, _)| *key == field.key) {
                walk(&format!("{path}."), field.key, kind, paths);
            }
            if field.kind == kind || (kind == "map" && field.kind == "array of maps") {
                paths.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk("", "", kind, &mut paths);
    assert!(!paths.is_empty(), "no {kind}");
    paths
}

/// The path as a rejection shows it.
fn shown(path: &str) -> String {
    path.replace("peers.0", "peers[0]")
}

#[test]
fn the_longest_frame_has_64_kib() {
    let mut frame = full();
    let Message::Map(entries) = &mut frame else { unreachable!() };
    entries.push((Message::text("later"), Message::Bin(Vec::new())));
    let room = MAX_FRAME_BYTES - frame.bytes().len();
    *frame.at("later") = Message::Bin(vec![0; room]);
    assert_eq!(frame.bytes().len(), 65_536);
    assert!(Frame::decode(&frame.bytes()).is_ok());
    *frame.at("later") = Message::Bin(vec![0; room + 1]);
    rejected(&frame.bytes(), "too_large: 65537 bytes, a frame has at most 65536");
}

#[test]
fn there_are_at_most_256_peers() {
    let mut frame = full();
    let mut peer = frame.at("peers.0").clone();
    for map in ["audio", "video", "screen"] {
        peer.remove(map);
    }
    let mut peers = |count| {
        *frame.at("peers") = Message::Array(vec![peer.clone(); count]);
        frame.bytes()
    };
    assert_eq!(Frame::decode(&peers(MAX_PEERS)).unwrap().peers.len(), 256);
    assert_eq!(Frame::decode(&peers(0)).unwrap().peers.len(), 0);
    rejected(&peers(257), "too_many_peers: peers: 257 peers, a frame has at most 256");
}

#[test]
fn a_claimed_length_reserves_nothing() {
    let claim = with("peers", Message::Claim(u32::MAX));
    rejected(&claim, "too_many_peers: peers: 4294967295 peers, a frame has at most 256");
    for (claim, expected) in [
        (Message::Claim(u32::MAX).bytes(), "malformed: v: the message is cut short"),
        (vec![0xdf, 0xff, 0xff, 0xff, 0xff], "malformed: the message is cut short"),
        (vec![0xdb, 0xff, 0xff, 0xff, 0xff], "malformed: the message is cut short"),
        // {"peers": an array of 256, and nothing more}
        (b"\x81\xa5peers\xdc\x01\x00".to_vec(), "malformed: peers[0]: the message is cut short"),
        // {"later": an array, a map, a bin or an ext of u32::MAX}
        (b"\x81\xa5later\xdd\xff\xff\xff\xff".to_vec(), "malformed: the message is cut short"),
        (b"\x81\xa5later\xdf\xff\xff\xff\xff".to_vec(), "malformed: the message is cut short"),
        (b"\x81\xa5later\xc6\xff\xff\xff\xff".to_vec(), "malformed: the message is cut short"),
        (b"\x81\xa5later\xc9\xff\xff\xff\xff\x01".to_vec(), "malformed: the message is cut short"),
    ] {
        rejected(&claim, expected);
    }
}

#[test]
fn numbers_are_finite_and_not_negative() {
    for path in &paths("float") {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            rejected(&with(path, Message::Float(value)), &format!("not_finite: {}: {value}", shown(path)));
        }
        rejected(&with(path, Message::Float32(f32::NAN)), &format!("not_finite: {}: NaN", shown(path)));
        rejected(
            &with(path, Message::Float(-0.5)),
            &format!("out_of_range: {}: -0.5 is negative", shown(path)),
        );
        rejected(&with(path, Message::Int(-1)), &format!("out_of_range: {}: -1 is negative", shown(path)));
    }
    for path in &paths("uint") {
        let shown = shown(path);
        rejected(&with(path, Message::Float(f64::NAN)), &format!("not_finite: {shown}: NaN"));
        rejected(&with(path, Message::Int(-1)), &format!("out_of_range: {shown}: -1 is negative"));
        for value in [0.5, -1.0, 9_007_199_254_740_994.0] {
            let expected = format!("out_of_range: {shown}: {value} is not a whole number from 0 to 2^53");
            rejected(&with(path, Message::Float(value)), &expected);
        }
    }
}

#[test]
fn counts_may_be_whole_floats_and_floats_may_be_whole() {
    let plain = full().bytes();
    let expected = Frame::decode(&plain).unwrap();
    let mut floats = full();
    for path in &paths("uint") {
        let Message::Uint(value) = *floats.at(path) else { panic!("{path}") };
        *floats.at(path) = Message::Float(value as f64);
    }
    assert_eq!(Frame::decode(&floats.bytes()).unwrap(), expected);

    let mut whole = full();
    for path in &paths("float") {
        *whole.at(path) = Message::Uint(60);
    }
    let whole = whole.bytes();
    let read = Frame::decode(&whole).unwrap();
    assert_eq!(read.server.unwrap().rtt_ms, Some(60.0));
    assert_eq!(read.peers[0].audio.as_ref().unwrap().jitter_ms, Some(60.0));

    let single = with("server.rtt_ms", Message::Float32(0.25));
    assert_eq!(Frame::decode(&single).unwrap().server.unwrap().rtt_ms, Some(0.25));
    let signed = with("seq", Message::Int(7));
    assert_eq!(Frame::decode(&signed).unwrap().seq.get(), 7);
}

/// The highest value of each number, written out once more.
const MAXIMA: [(&str, u64); 65] = [
    ("seq", 9_007_199_254_740_992),
    ("sent_at_ms", 253_402_300_799_999),
    ("server.rtt_ms", 600_000),
    ("peers.0.audio.buffer_ms", 600_000),
    ("peers.0.audio.target_ms", 600_000),
    ("peers.0.audio.packets_awaiting_decode", 1_000_000),
    ("peers.0.audio.jitter_ms", 600_000),
    ("peers.0.audio.packets_received", 10_000_000_000_000),
    ("peers.0.audio.packets_lost", 10_000_000_000_000),
    ("peers.0.audio.total_samples", 10_000_000_000_000),
    ("peers.0.audio.concealed_samples", 10_000_000_000_000),
    ("peers.0.audio.silent_concealed_samples", 10_000_000_000_000),
    ("peers.0.audio.neteq.normal", 10_000_000_000_000),
    ("peers.0.audio.neteq.merge", 10_000_000_000_000),
    ("peers.0.audio.neteq.expand", 10_000_000_000_000),
    ("peers.0.audio.neteq.accelerate", 10_000_000_000_000),
    ("peers.0.audio.neteq.fast_accelerate", 10_000_000_000_000),
    ("peers.0.audio.neteq.preemptive_expand", 10_000_000_000_000),
    ("peers.0.audio.neteq.comfort_noise", 10_000_000_000_000),
    ("peers.0.audio.neteq.dtmf", 10_000_000_000_000),
    ("peers.0.audio.neteq.undefined", 10_000_000_000_000),
    ("peers.0.audio.concealment_events", 10_000_000_000_000),
    ("peers.0.audio.inserted_samples_for_deceleration", 10_000_000_000_000),
    ("peers.0.audio.removed_samples_for_acceleration", 10_000_000_000_000),
    ("peers.0.audio.packets_discarded", 10_000_000_000_000),
    ("peers.0.video.fps", 10_000),
    ("peers.0.video.frames_buffered", 1_000_000),
    ("peers.0.video.bitrate_kbps", 10_000_000),
    ("peers.0.video.frames_decoded", 10_000_000_000_000),
    ("peers.0.video.frames_dropped", 10_000_000_000_000),
    ("peers.0.video.freeze_count", 10_000_000_000_000),
    ("peers.0.video.packets_received", 10_000_000_000_000),
    ("peers.0.video.packets_lost", 10_000_000_000_000),
    ("peers.0.video.total_freezes_duration_ms", 10_000_000_000_000),
    ("peers.0.video.nack_count", 10_000_000_000_000),
    ("peers.0.video.pli_count", 10_000_000_000_000),
    ("peers.0.video.frame_height", 65_535),
    ("peers.0.screen.fps", 10_000),
    ("peers.0.screen.frames_buffered", 1_000_000),
    ("peers.0.screen.bitrate_kbps", 10_000_000),
    ("peers.0.screen.frames_decoded", 10_000_000_000_000),
    ("peers.0.screen.frames_dropped", 10_000_000_000_000),
    ("peers.0.screen.freeze_count", 10_000_000_000_000),
    ("peers.0.screen.packets_received", 10_000_000_000_000),
    ("peers.0.screen.packets_lost", 10_000_000_000_000),
    ("peers.0.screen.total_freezes_duration_ms", 10_000_000_000_000),
    ("peers.0.screen.nack_count", 10_000_000_000_000),
    ("peers.0.screen.pli_count", 10_000_000_000_000),
    ("peers.0.screen.frame_height", 65_535),
    ("path.available_outgoing_kbps", 10_000_000),
    ("path.ice_restarts", 10_000_000_000_000),
    ("send.rtt_ms", 600_000),
    ("send.audio_packets_sent", 10_000_000_000_000),
    ("send.audio_packets_lost", 10_000_000_000_000),
    ("send.video_packets_sent", 10_000_000_000_000),
    ("send.video_packets_lost", 10_000_000_000_000),
    ("send.nack_count", 10_000_000_000_000),
    ("send.pli_count", 10_000_000_000_000),
    ("send.frames_per_second", 10_000),
    ("send.frame_height", 65_535),
    ("send.bitrate_kbps", 10_000_000),
    ("send.quality_limitation_durations.cpu", 10_000_000_000_000),
    ("send.quality_limitation_durations.bandwidth", 10_000_000_000_000),
    ("send.quality_limitation_durations.other", 10_000_000_000_000),
    ("join.setup_ms", 600_000),
];

#[test]
fn numbers_end_where_no_client_gets() {
    // All but the version, which has one value.
    let (uints, floats) = (paths("uint"), paths("float"));
    assert_eq!(MAXIMA.len(), uints.len() + floats.len() - 1);
    for (path, max) in MAXIMA {
        let float = max as f64;
        for number in [Message::Uint(max), Message::Int(max as i64), Message::Float(float)] {
            for bytes in in_both_forms(path, number) {
                let decoded = Frame::decode(&bytes);
                assert!(decoded.is_ok(), "{path} {max}: {decoded:?}");
                assert_eq!(decoded, Frame::decode_carefully(&bytes));
            }
        }
        let beyond = [u64::MAX, max + 1].map(Message::Uint).into_iter();
        let mut beyond: Vec<_> =
            beyond.chain([Message::Int(max as i64 + 1), Message::Float(1e300)]).collect();
        if floats.iter().any(|float| float == path) {
            beyond.extend([Message::Float(float * (1.0 + f64::EPSILON)), Message::Float32(f32::MAX)]);
        }
        for bytes in beyond.into_iter().flat_map(|number| in_both_forms(path, number)) {
            let rejection = rejection(&bytes);
            assert_eq!(rejection.reason, Reason::OutOfRange, "{path}: {rejection}");
            assert!(rejection.detail.starts_with(&format!("{}: ", shown(path))), "{rejection}");
            assert_eq!(Frame::decode_carefully(&bytes), Err(rejection));
        }
    }
    rejected(
        &with("server.rtt_ms", Message::Float(1e300)),
        "out_of_range: server.rtt_ms: 1e300 is more than 600000",
    );
    rejected(
        &with("peers.0.audio.total_samples", Message::Uint(u64::MAX)),
        "out_of_range: peers[0].audio.total_samples: 18446744073709551615 is more than 10000000000000",
    );
}

#[test]
fn zero_is_zero_without_a_sign() {
    let message = with("server.rtt_ms", Message::Float(-0.0));
    let rtt_ms = Frame::decode(&message).unwrap().server.unwrap().rtt_ms.unwrap();
    assert!(rtt_ms == 0.0 && rtt_ms.is_sign_positive());
}

#[test]
fn the_version_is_1_and_frames_count_from_1() {
    rejected(&with("v", Message::Uint(2)), "unsupported_version: v: version 2, this decoder reads 1");
    rejected(&with("v", Message::Uint(0)), "unsupported_version: v: version 0, this decoder reads 1");
    rejected(&with("seq", Message::Uint(0)), "out_of_range: seq: 0, the first frame of a session has 1");
    rejected(
        &with("seq", Message::Uint(u64::MAX)),
        "out_of_range: seq: 18446744073709551615 is more than 9007199254740992",
    );
    let largest = with("seq", Message::Uint(1 << 53));
    assert_eq!(Frame::decode(&largest).unwrap().seq.get(), 1 << 53);
    assert_eq!((Seq::new(0), Seq::new((1 << 53) + 1), Seq::new(u64::MAX)), (None, None, None));
}

#[test]
fn identifiers_are_short_and_plain() {
    for path in ["meeting_id", "session_id", "peer_id", "peers.0.peer_id"] {
        for bad in ["", &"x".repeat(129), "a b", "a\"b", "ü", "a\nb", "a\t", "\u{0}a", "a\u{7f}"] {
            let rejection = rejection(&with(path, Message::text(bad)));
            assert_eq!(rejection.reason, Reason::BadIdentifier, "{path} {bad:?}");
            assert!(rejection.detail.starts_with(&format!("{}: ", shown(path))), "{rejection}");
        }
        assert!(Frame::decode(&with(path, Message::text(&"x".repeat(128)))).is_ok());
    }
}

#[test]
fn the_server_is_an_origin_of_some_type() {
    let secret = with("server.url", Message::text("no address but secret"));
    let refused = rejection(&secret);
    assert_eq!(refused.reason, Reason::BadUrl);
    assert!(refused.detail.starts_with("server.url: ") && !refused.detail.contains("secret"), "{refused}");

    let split = with("server.url", Message::text("http://a\nb"));
    rejected(&split, "bad_url: server.url: a control character, write scheme://host[:port]");

    let long = with("server.url", Message::text("HTTPS://ana:secret@Relay.example:443/room?token=secret#x"));
    assert_eq!(Frame::decode(&long).unwrap().server.unwrap().url.as_str(), "https://relay.example");
    let carrier = with("server.type", Message::text("pigeon"));
    assert_eq!(Frame::decode(&carrier).unwrap().server.unwrap().server_type, ServerType::Other);
}

#[test]
fn every_required_value_is_required_in_both_forms() {
    let paths: Vec<String> = MAPS
        .iter()
        .flat_map(|(map, fields)| {
            let prefix = match *map {
                "" => String::new(),
                "peers" => "peers.0.".to_owned(),
                map => format!("{map}."),
            };
            fields.iter().filter(|field| field.required).map(move |field| format!("{prefix}{}", field.key))
        })
        .collect();
    assert_eq!(paths.len(), 7 + 2 + 5 + 1);
    for path in paths {
        let expected = format!("missing_field: {}: absent or nil", shown(&path));
        let mut removed = full();
        removed.remove(&path);
        rejected(&removed.bytes(), &expected);
        let mut nil = full();
        *nil.at(&path) = Message::Nil;
        rejected(&nil.bytes(), &expected);
        for mut frame in [removed, nil] {
            frame.each_map(&mut |map, fields| map.compact(fields));
            rejected(&frame.bytes(), &expected);
        }
    }
    rejected(&with("peers", Message::Array(vec![Message::Nil])), "missing_field: peers[0]: absent or nil");
    rejected(&[0x80], "missing_field: v: absent or nil");
    rejected(&[0x90], "missing_field: v: absent or nil");
}

#[test]
fn a_value_of_the_wrong_type_is_named_and_not_repeated() {
    let secret = "https://relay.example/?token=secret".repeat(100);
    let wrong = [
        ("bool", Message::Bool(true)),
        ("number", Message::Uint(1)),
        ("number", Message::Float(0.0)),
        ("str", Message::text(&secret)),
        ("bin", Message::Bin(vec![0xff])),
        ("bin", Message::Bin(Vec::new())),
        ("ext", Message::Ext(-1, vec![0; 4])),
        ("array", Message::Array(vec![Message::Bool(true)])),
        ("map", Message::Map(vec![(Message::text("x"), Message::Nil)])),
    ];
    let check = |paths: &[String], kind: &str, takes: &[&str]| {
        for path in paths {
            for (family, value) in wrong.iter().filter(|(family, _)| !takes.contains(family)) {
                let rejection = rejection(&with(path, value.clone()));
                assert_eq!(rejection.reason, Reason::Malformed, "{path} {family}: {rejection}");
                let path = shown(path);
                assert!(
                    rejection.detail.starts_with(&format!("{path}: found ")),
                    "{path} {family}: {rejection}"
                );
                assert!(
                    rejection.detail.ends_with(&format!(", expected {kind}")),
                    "{path} {family}: {rejection}"
                );
                assert!(!rejection.detail.contains("secret"), "{rejection}");
            }
        }
    };
    check(&paths("uint"), "uint", &["number"]);
    check(&paths("float"), "float", &["number"]);
    check(&paths("bool"), "bool", &["bool"]);
    // A bin is how some encoders of old write text.
    check(&paths("str"), "str", &["str", "bin"]);
    check(&paths("map"), "map", &["map", "array"]);
    check(&["peers".to_owned()], "array of maps", &["array"]);
    rejected(
        &with("server", Message::Array(vec![Message::Uint(4)])),
        "malformed: server.url: found integer `4`, expected str",
    );
    rejected(&with("seq", Message::Bool(true)), "malformed: seq: found boolean `true`, expected uint");
    rejected(&with("ended", Message::Uint(1)), "malformed: ended: found integer `1`, expected bool");
    for (bytes, found) in [(&[0x01][..], "integer `1`"), (&[0xc0], "unit value"), (&[0xa1, b'x'], "str")] {
        rejected(bytes, &format!("malformed: found {found}, expected the frame as a map or an array"));
    }
}

#[test]
fn text_is_utf8() {
    let mut message = full().bytes();
    let place = message.windows(7).position(|text| text == b"standup").unwrap();
    message[place] = 0xff;
    let rejection = rejection(&message);
    assert_eq!(rejection.reason, Reason::Malformed);
    assert!(rejection.detail.starts_with("meeting_id: "), "{rejection}");
}

#[test]
fn a_message_is_one_whole_frame() {
    for form in [Form::Named, Form::Compact] {
        let named = full().bytes();
        let message = Frame::decode(&named).unwrap().encode(form);
        for length in 0..message.len() {
            let rejection = rejection(&message[..length]);
            assert_eq!(rejection.reason, Reason::Malformed, "{length} bytes: {rejection}");
            assert!(rejection.detail.ends_with("the message is cut short"), "{length} bytes: {rejection}");
        }
        for byte in 0..=u8::MAX {
            let more = [&message[..], &[byte]].concat();
            rejected(&more, "malformed: more bytes follow the frame");
        }
        rejected(&[&message[..], &message].concat(), "malformed: more bytes follow the frame");
    }
}

#[test]
fn nesting_ends_at_32_levels() {
    let nested = |levels: usize| {
        let mut frame = full();
        let Message::Map(entries) = &mut frame else { unreachable!() };
        // The frame's map is the first level.
        let value = (1..levels).fold(Message::Nil, |inner, level| match level % 2 {
            0 => Message::Array(vec![inner]),
            _ => Message::Map(vec![(Message::text("x"), inner)]),
        });
        entries.push((Message::text("later"), value));
        frame.bytes()
    };
    assert!(Frame::decode(&nested(MAX_NESTING)).is_ok());
    for levels in [MAX_NESTING + 1, 1_000] {
        rejected(&nested(levels), "malformed: depth limit exceeded");
    }
    rejected(&[0x91; 60_000], "malformed: v: found array, expected uint");
    rejected(&[&[0x81, 0xa1, b'x'], &[0x91; 60_000][..]].concat(), "malformed: depth limit exceeded");
}

#[test]
fn keys_are_strings_and_the_last_of_two_counts() {
    let mut twice = full();
    let Message::Map(entries) = &mut twice else { unreachable!() };
    entries.push((Message::text("seq"), Message::Uint(9)));
    entries.push((Message::text("ended"), Message::Nil));
    let ios = (Message::text("platform"), Message::text("ios"));
    entries.push((Message::text("client"), Message::Map(vec![ios])));
    let twice = twice.bytes();
    let frame = Frame::decode(&twice).unwrap();
    assert_eq!((frame.seq.get(), frame.ended), (9, None));
    // The last whole map counts, and nothing of the first.
    assert_eq!(frame.client, Some(Client { app: None, platform: Some(Platform::Ios) }));
    assert_eq!(Frame::decode_carefully(&twice), Ok(frame));

    let mut number = full();
    let Message::Map(entries) = &mut number else { unreachable!() };
    entries.push((Message::Uint(4), Message::Uint(9)));
    assert_eq!(rejection(&number.bytes()).reason, Reason::Malformed);
}
