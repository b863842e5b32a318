//! Packets of videocall.rs, written by its own crate.

use std::collections::HashMap;

use callsight_frame::{
    AudioRates, Decoder, Form, Frame, MAX_FRAME_BYTES, MAX_PEERS, Operation, Reason, Rejection, ServerType,
    first_packet, hidden_identifier_of,
};
use proptest::prelude::*;
use protobuf::{Message, MessageField};
use videocall_types::protos::health_packet::{
    HealthPacket, NetEqNetwork, NetEqOperationCounters, NetEqStats, PeerStats, VideoStats,
};

const TIME: u64 = 1_767_225_600_000;

/// A packet of Ana, who observes Bo.
fn packet() -> HealthPacket {
    HealthPacket {
        session_id: "9219282349087361234".into(),
        meeting_id: "standup".into(),
        reporting_user_id: b"ana@example.com".to_vec(),
        timestamp_ms: TIME,
        reporting_audio_enabled: true,
        active_server_type: "webtransport".into(),
        active_server_rtt_ms: 48.5,
        peer_stats: HashMap::from([("bo@example.com".into(), bo())]),
        ..HealthPacket::default()
    }
}

fn bo() -> PeerStats {
    PeerStats {
        can_listen: true,
        audio_enabled: true,
        neteq_stats: MessageField::some(NetEqStats {
            current_buffer_size_ms: 62.0,
            packets_awaiting_decode: 3.0,
            packets_per_sec: 47.0,
            network: MessageField::some(NetEqNetwork {
                operation_counters: MessageField::some(NetEqOperationCounters {
                    normal_per_sec: 92.0,
                    expand_per_sec: 8.0,
                    ..NetEqOperationCounters::default()
                }),
                ..NetEqNetwork::default()
            }),
            ..NetEqStats::default()
        }),
        video_stats: MessageField::some(VideoStats {
            fps_received: 29.5,
            bitrate_kbps: 1200,
            ..VideoStats::default()
        }),
        ..PeerStats::default()
    }
}

fn written(packet: &HealthPacket) -> Vec<u8> {
    packet.write_to_bytes().unwrap()
}

fn with<T>(message: &[u8], then: impl FnOnce(&Frame<'_>) -> T) -> Result<T, Rejection> {
    Decoder::default().with(message, Some("Relay_1"), then)
}

fn reject(message: &[u8]) -> Rejection {
    with(message, |_| ()).expect_err("a packet to reject")
}

#[test]
fn a_packet_is_a_frame() {
    let message = written(&packet());
    with(&message, |frame| {
        assert_eq!(frame.session_id.as_str(), "9219282349087361234");
        assert_eq!(frame.meeting_id.as_str(), "standup");
        assert_eq!(frame.peer_id.as_str(), hidden_identifier_of("ana@example.com"));
        assert_eq!((frame.seq.get(), frame.sent_at_ms), (TIME, TIME));
        assert_eq!((frame.audio_enabled, frame.video_enabled), (Some(true), Some(false)));
        assert_eq!((frame.ended, frame.tab_visible), (None, None));
        let server = frame.server.as_ref().unwrap();
        assert_eq!(server.url.as_str(), "relay://relay_1");
        assert_eq!((server.server_type, server.rtt_ms), (ServerType::WebTransport, Some(48.5)));
        let [peer] = &frame.peers[..] else { panic!("{frame:?}") };
        assert_eq!(peer.peer_id.as_str(), hidden_identifier_of("bo@example.com"));
        assert!(peer.can_listen && peer.audio_enabled && !peer.can_see && !peer.video_enabled);
        let audio = peer.audio.as_ref().unwrap();
        assert_eq!((audio.buffer_ms, audio.packets_awaiting_decode), (Some(62.0), Some(3.0)));
        assert_eq!((audio.packets_received, &audio.neteq, audio.target_ms), (None, &None, None));
        let video = peer.video.as_ref().unwrap();
        assert_eq!((video.fps, video.bitrate_kbps), (Some(29.5), Some(1200.0)));
        assert_eq!((video.frames_buffered, video.frames_decoded), (None, None));
        let rates = frame.rates[0].unwrap();
        assert_eq!(rates.packets, 47.0);
        assert_eq!(rates.operations[Operation::Normal as usize], 92.0);
        assert_eq!(rates.operations[Operation::Expand as usize], 8.0);
        assert_eq!(rates.operations.iter().sum::<f64>(), 100.0);
        // What has no place in a frame is not written.
        let again = frame.encode(Form::Compact);
        let rates = Vec::new();
        assert_eq!(Frame::decode(&again), Ok(Frame { rates, ..frame.clone() }));
    })
    .unwrap();
}

#[test]
fn a_frame_of_our_own_has_no_rates_even_after_a_packet() {
    let mut decoder = Decoder::default();
    let message = written(&packet());
    let frame = decoder.with(&message, None, |frame| frame.encode(Form::Named)).unwrap();
    decoder.with(&frame, None, |frame| assert_eq!((frame.peers.len(), frame.rates.len()), (1, 0))).unwrap();
    decoder.with(&message, None, |frame| assert_eq!((frame.peers.len(), frame.rates.len()), (1, 1))).unwrap();
}

#[test]
fn a_server_has_the_address_of_the_packet_or_else_of_its_relay() {
    let server = |url: &str, kind: &str, rtt_ms: f64, server_id: Option<&str>| {
        let packet = HealthPacket {
            active_server_url: url.into(),
            active_server_type: kind.into(),
            active_server_rtt_ms: rtt_ms,
            ..packet()
        };
        let shown = |frame: &Frame<'_>| {
            let server = frame.server.as_ref()?;
            Some((server.url.as_str().to_owned(), server.server_type.label(), server.rtt_ms))
        };
        Decoder::default().with(&written(&packet), server_id, shown).unwrap()
    };
    let expected = |url: &str, kind, rtt_ms| Some((url.to_owned(), kind, rtt_ms));
    let url = "https://relay-7.example:4433/lobby/ana@example.com/standup?token=secret";
    assert_eq!(
        server(url, "websocket", 12.0, Some("r1")),
        expected("https://relay-7.example:4433", "websocket", Some(12.0))
    );
    assert_eq!(server(url, "", 0.0, Some("r1")), expected("https://relay-7.example:4433", "other", None));
    assert_eq!(server("", "carrier", 0.0, Some("r1")), expected("relay://r1", "other", None));
    assert_eq!(server("", "", 12.0, Some("R-1")), expected("relay://r-1", "other", Some(12.0)));
    assert_eq!(server("", "", 12.0, None), expected("relay://unknown", "other", Some(12.0)));
    assert_eq!(server("", "", 0.0, Some("r1")), None);
    let bad = Decoder::default().with(&written(&packet()), Some("a\"b"), |_| ()).unwrap_err();
    assert_eq!(bad.reason, Reason::BadSubject);
}

#[test]
fn nobody_can_be_read_from_an_identifier() {
    for (session_id, user, key, expected) in [
        // A relay of today gives numbers, which are at least nearly always this long.
        ("12", "ana@example.com", "9219282349087361234", ("12", "id-*", "9219282349087361234")),
        (
            "9219282349087361234",
            "9219282349087361234",
            "Bo",
            ("9219282349087361234", "9219282349087361234", "id-*"),
        ),
        // A telephone number.
        ("7", "491511234567890", "491511234567890", ("7", "id-*", "id-*")),
        // The client's own name of the session, which others may have too.
        ("session_1767225600", "ana", "ana", ("session_1767225600:id-*", "id-*", "id-*")),
        (
            "session_1",
            "9219282349087361234",
            "b",
            ("session_1:9219282349087361234", "9219282349087361234", "id-*"),
        ),
        ("ana@example.com", "ana", "", ("id-*", "id-*", "id-*")),
        ("session_", "ana", "ana", ("id-*", "id-*", "id-*")),
    ] {
        let packet = HealthPacket {
            session_id: session_id.into(),
            reporting_user_id: user.into(),
            peer_stats: HashMap::from([(key.into(), bo())]),
            ..packet()
        };
        with(&written(&packet), |frame| {
            let hide = |pattern: &str, text: &str| pattern.replace("id-*", &hidden_identifier_of(text));
            let (peer, observed) = (hide(expected.1, user), hide(expected.2, key));
            let session =
                if expected.0 == "id-*" { hidden_identifier_of(session_id) } else { hide(expected.0, user) };
            assert_eq!(frame.session_id.as_str(), session);
            assert_eq!(frame.peer_id.as_str(), peer);
            assert_eq!(frame.peers[0].peer_id.as_str(), observed);
        })
        .unwrap();
    }
    // A meeting stays as it is if it can.
    for (meeting, expected) in [("stand up", hidden_identifier_of("stand up")), ("m-1", "m-1".into())] {
        let packet = HealthPacket { meeting_id: meeting.into(), ..packet() };
        with(&written(&packet), |frame| assert_eq!(frame.meeting_id.as_str(), expected)).unwrap();
    }
}

#[test]
fn identifiers_stay_the_same_however_many_there_are() {
    let mut decoder = Decoder::default();
    for round in 0..120 {
        let keys = (0..250).map(|number| format!("user-{}@example.com", (round * 250 + number) % 20_000));
        let always = "always@example.com".to_owned();
        let peer_stats =
            keys.chain([always, "x".repeat(500)]).map(|key| (key, PeerStats::default())).collect();
        let packet = HealthPacket { peer_stats, ..packet() };
        decoder
            .with(&written(&packet), None, |frame| {
                let mut expected: Vec<_> = packet.peer_stats.keys().collect();
                expected.sort();
                assert_eq!(frame.peers.len(), expected.len());
                for (peer, key) in frame.peers.iter().zip(expected) {
                    assert_eq!(peer.peer_id.as_str(), hidden_identifier_of(key));
                }
            })
            .unwrap();
    }
}

#[test]
fn video_that_is_not_seen_may_not_be_wanted() {
    for (can_see, video_enabled, wanted) in
        [(true, true, None), (false, true, Some(false)), (false, false, None), (true, false, None)]
    {
        let stats = PeerStats { can_see, video_enabled, ..bo() };
        let packet = HealthPacket { peer_stats: HashMap::from([("bo".into(), stats)]), ..packet() };
        with(&written(&packet), |frame| assert_eq!(frame.peers[0].video_wanted, wanted)).unwrap();
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field with a varint.
fn whole(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

/// A field with bytes.
fn bytes(number: u64, value: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// A field with a double.
fn double(number: u64, value: f64) -> Vec<u8> {
    [varint(number << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

/// An entry of `peer_stats`, whose stats have these fields.
fn entry(key: &str, stats: &[u8]) -> Vec<u8> {
    bytes(7, &[bytes(1, key.as_bytes()), bytes(2, stats)].concat())
}

/// A whole packet with further fields.
fn with_fields(more: &[u8]) -> Vec<u8> {
    [bytes(1, b"7"), bytes(2, b"m"), bytes(3, b"ana"), whole(4, TIME), more.to_vec()].concat()
}

#[test]
fn newer_versions_and_other_encoders_are_read() {
    let group = |number: u64, inner: &[u8]| {
        [varint(number << 3 | 3), inner.to_vec(), varint(number << 3 | 4)].concat()
    };
    let unknown = [
        whole(900, u64::MAX),
        double(90, f64::NAN),
        bytes(91, &[0xff; 300]),
        [varint(92 << 3 | 5), vec![0xff; 4]].concat(),
        group(93, &[group(94, &whole(1, 7)), bytes(95, b"x"), group(96, b"")].concat()),
    ]
    .concat();
    let stats = [
        unknown.clone(),
        whole(4, 1),
        bytes(5, &[double(5, 80.0), unknown.clone()].concat()),
        bytes(14, &double(1, 5.0)),
        whole(1, 7),
    ];
    let more = [unknown.clone(), entry("bo", &stats.concat()), whole(15, 1), whole(300, 1)].concat();
    with(&with_fields(&more), |frame| {
        assert_eq!(frame.tab_visible, Some(false));
        let [peer] = &frame.peers[..] else { panic!("{frame:?}") };
        assert!(peer.can_listen && peer.video_enabled && !peer.can_see);
        assert_eq!(peer.audio.as_ref().unwrap().target_ms, Some(80.0));
        assert_eq!(peer.screen.as_ref().unwrap().fps, Some(5.0));
    })
    .unwrap();
    with(&with_fields(&whole(11, 1)), |frame| assert_eq!(frame.tab_visible, Some(true))).unwrap();
    // In any other order, and a field twice, of which the last one counts.
    let any_order =
        [bytes(1, b"8"), whole(4, 3), whole(4, 4), bytes(3, b"ana"), bytes(2, b"m"), bytes(1, b"9")].concat();
    with(&any_order, |frame| {
        assert_eq!((frame.session_id.as_str(), frame.seq.get()), ("9", 4));
    })
    .unwrap();
    // A map that has a key twice.
    let twice = [entry("bo", &whole(1, 1)), entry("al", b""), entry("bo", &whole(2, 1))].concat();
    with(&with_fields(&twice), |frame| {
        let seen: Vec<_> = frame.peers.iter().map(|peer| (peer.can_listen, peer.can_see)).collect();
        assert_eq!(seen, [(false, false), (false, true)]);
    })
    .unwrap();
}

#[test]
fn whatever_breaks_a_rule_is_rejected_with_its_path() {
    let double_at = |path: &[u64], value: f64| {
        let (last, outer) = path.split_last().unwrap();
        outer.iter().rev().fold(double(*last, value), |inner, number| bytes(*number, &inner))
    };
    let audio = |path: &[u64], value| with_fields(&entry("bo", &double_at(path, value)));
    let neteq = "peer_stats[0].neteq_stats.";
    let cases: Vec<(Vec<u8>, Reason, String)> = vec![
        (vec![0x0a], Reason::Malformed, "the packet is cut short".into()),
        (with_fields(&[0xff; 11]), Reason::Malformed, "a number has more than 64 bits".into()),
        (with_fields(&[0x0f]), Reason::Malformed, "a field has no valid wire type".into()),
        (with_fields(&[0x00]), Reason::Malformed, "a field has no valid number".into()),
        (with_fields(&[0x0c]), Reason::Malformed, "a group ends that has not begun".into()),
        (with_fields(&[0x0b; 400]), Reason::Malformed, "groups are nested too deep".into()),
        (
            with_fields(&bytes(4, b"x")),
            Reason::Malformed,
            "timestamp_ms: found bytes, expected a varint".into(),
        ),
        (
            with_fields(&bytes(8, b"\xff")),
            Reason::Malformed,
            "active_server_url: the text is not UTF-8".into(),
        ),
        (
            with_fields(&whole(10, 5)),
            Reason::Malformed,
            "active_server_rtt_ms: found a varint, expected a double".into(),
        ),
        (
            with_fields(&whole(4, 0)),
            Reason::OutOfRange,
            "timestamp_ms: 0, a packet needs the time of its client's clock".into(),
        ),
        (
            with_fields(&whole(4, 1 << 50)),
            Reason::OutOfRange,
            "timestamp_ms: 1125899906842624 is more than 253402300799999".into(),
        ),
        (with_fields(&double(10, f64::NAN)), Reason::NotFinite, "active_server_rtt_ms: NaN".into()),
        (
            with_fields(&double(10, 600_001.0)),
            Reason::OutOfRange,
            "active_server_rtt_ms: 600001 is more than 600000".into(),
        ),
        (with_fields(&bytes(1, b"")), Reason::MissingField, "session_id: empty, which is absent".into()),
        (with_fields(&bytes(2, b"")), Reason::MissingField, "meeting_id: empty, which is absent".into()),
        (
            with_fields(&bytes(3, b"")),
            Reason::MissingField,
            "reporting_user_id: empty, which is absent".into(),
        ),
        (
            with_fields(&bytes(8, b"token")),
            Reason::BadUrl,
            "active_server_url: relative URL without a base, write scheme://host[:port]".into(),
        ),
        (audio(&[5, 1], -1.0), Reason::OutOfRange, format!("{neteq}current_buffer_size_ms: -1 is negative")),
        (
            audio(&[5, 2], 1e7),
            Reason::OutOfRange,
            format!("{neteq}packets_awaiting_decode: 10000000 is more than 1000000"),
        ),
        (
            audio(&[5, 4], 10_001.0),
            Reason::OutOfRange,
            format!("{neteq}packets_per_sec: 10001 is more than 10000"),
        ),
        (audio(&[5, 5], f64::INFINITY), Reason::NotFinite, format!("{neteq}target_delay_ms: inf")),
        (
            audio(&[5, 3, 1, 2], -1.0),
            Reason::OutOfRange,
            format!("{neteq}network.operation_counters.expand_per_sec: -1 is negative"),
        ),
        (
            audio(&[6, 1], 10_001.0),
            Reason::OutOfRange,
            "peer_stats[0].video_stats.fps_received: 10001 is more than 10000".into(),
        ),
        (
            audio(&[6, 2], -0.5),
            Reason::OutOfRange,
            "peer_stats[0].video_stats.frames_buffered: -0.5 is negative".into(),
        ),
        (
            with_fields(&[entry("al", b""), entry("bo", &bytes(14, &whole(4, 10_000_001)))].concat()),
            Reason::OutOfRange,
            "peer_stats[1].screen_video_stats.bitrate_kbps: 10000001 is more than 10000000".into(),
        ),
        (
            with_fields(&bytes(7, &bytes(1, b"\xff"))),
            Reason::Malformed,
            "peer_stats[0].key: the text is not UTF-8".into(),
        ),
        (
            with_fields(&bytes(7, b"\x12\x05")),
            Reason::Malformed,
            "peer_stats[0]: the packet is cut short".into(),
        ),
        (
            with_fields(&bytes(8, &[b'x'; MAX_FRAME_BYTES])),
            Reason::TooLarge,
            "65558 bytes, a packet has at most 65536".into(),
        ),
    ];
    for (message, reason, detail) in cases {
        assert_eq!(reject(&message), Rejection::new(reason, detail));
    }
    let entries = |count: usize| {
        with_fields(&(0..count).flat_map(|key| entry(&key.to_string(), b"")).collect::<Vec<_>>())
    };
    assert_eq!(with(&entries(MAX_PEERS), |frame| frame.peers.len()), Ok(256));
    let rejection = reject(&entries(MAX_PEERS + 1));
    assert_eq!(
        rejection.to_string(),
        "too_many_peers: peer_stats: more than 256, which is the most of a packet"
    );
    // Where a message was meant as a packet, the detail tells.
    let other_first = [bytes(2, b"m"), bytes(1, b"7")].concat();
    assert_eq!(
        reject(&other_first).to_string(),
        "malformed: found integer `18`, expected the frame as a map or an array; \
         a packet of videocall.rs must begin with its session_id"
    );
    assert_eq!(
        Frame::decode(&with_fields(b"")).unwrap_err().to_string(),
        "malformed: found integer `10`, expected the frame as a map or an array; \
         this is a packet of videocall.rs, which a Decoder reads"
    );
    assert!(!reject(b"{}").detail.contains("videocall"));
}

#[test]
fn packets_that_follow_each_other_are_told_apart() {
    let messages = [written(&packet()), with_fields(&entry("bo", b"\x0a\x01x")), with_fields(b"\x0c")];
    let all = messages.concat();
    let mut rest = &all[..];
    for message in &messages {
        let length = first_packet(rest).unwrap();
        assert_eq!(&rest[..length], message);
        rest = &rest[length..];
    }
    assert_eq!(first_packet(rest), None);
}

fn rate() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 0.0..10_000.0, 0.0..100.0]
}

prop_compose! {
    fn any_neteq()(
        current_buffer_size_ms in 0.0..600_000.0,
        packets_awaiting_decode in 0.0..1_000_000.0,
        packets_per_sec in rate(),
        counters in proptest::option::of(proptest::array::uniform9(rate())),
    ) -> NetEqStats {
        let counters = counters.map(|rates| NetEqOperationCounters {
            normal_per_sec: rates[0],
            expand_per_sec: rates[1],
            accelerate_per_sec: rates[2],
            fast_accelerate_per_sec: rates[3],
            preemptive_expand_per_sec: rates[4],
            merge_per_sec: rates[5],
            comfort_noise_per_sec: rates[6],
            dtmf_per_sec: rates[7],
            undefined_per_sec: rates[8],
            ..NetEqOperationCounters::default()
        });
        let network = counters.map(|counters| NetEqNetwork {
            operation_counters: MessageField::some(counters),
            ..NetEqNetwork::default()
        });
        NetEqStats {
            current_buffer_size_ms,
            packets_awaiting_decode,
            packets_per_sec,
            network: network.into(),
            ..NetEqStats::default()
        }
    }
}

prop_compose! {
    fn any_video()(
        fps_received in 0.0..10_000.0,
        frames_buffered in prop_oneof![Just(0.0), 0.0..1_000_000.0],
        frames_decoded in any::<u64>(),
        bitrate_kbps in 0..10_000_000_u64,
    ) -> VideoStats {
        VideoStats { fps_received, frames_buffered, frames_decoded, bitrate_kbps, ..VideoStats::default() }
    }
}

prop_compose! {
    fn any_peer()(
        flags in any::<[bool; 4]>(),
        neteq in proptest::option::of(any_neteq()),
        video in proptest::option::of(any_video()),
    ) -> PeerStats {
        let [can_listen, can_see, audio_enabled, video_enabled] = flags;
        PeerStats {
            can_listen,
            can_see,
            audio_enabled,
            video_enabled,
            neteq_stats: neteq.into(),
            video_stats: video.into(),
            ..PeerStats::default()
        }
    }
}

prop_compose! {
    fn any_packet()(
        (session_id, meeting_id) in ("[0-9]{1,20}|session_[0-9]{10}|\\PC{1,20}", "\\PC{1,150}"),
        reporting_user_id in proptest::collection::vec(any::<u8>(), 1..40),
        timestamp_ms in 1..253_402_300_799_999_u64,
        (reporting_audio_enabled, reporting_video_enabled) in any::<(bool, bool)>(),
        peer_stats in proptest::collection::hash_map("[0-9]{16,20}|[a-z]{1,8}@example.com|\\PC{0,8}", any_peer(), 0..12),
        active_server_url in prop_oneof![Just(""), Just("https://r.example:4433/x?token=y")],
        active_server_type in "webtransport|websocket|[a-z]{0,4}",
        active_server_rtt_ms in prop_oneof![Just(0.0), 0.0..600_000.0],
    ) -> HealthPacket {
        HealthPacket {
            session_id,
            meeting_id,
            reporting_user_id,
            timestamp_ms,
            reporting_audio_enabled,
            reporting_video_enabled,
            peer_stats,
            active_server_url: active_server_url.into(),
            active_server_type,
            active_server_rtt_ms,
            ..HealthPacket::default()
        }
    }
}

/// What a frame must say of a peer.
fn assert_peer(frame: &Frame<'_>, index: usize, stats: &PeerStats) {
    let known = |value: f64| (value > 0.0).then_some(value);
    let peer = &frame.peers[index];
    assert_eq!(
        [peer.can_listen, peer.can_see, peer.audio_enabled, peer.video_enabled],
        [stats.can_listen, stats.can_see, stats.audio_enabled, stats.video_enabled]
    );
    let neteq = stats.neteq_stats.as_ref();
    let audio = peer.audio.as_ref();
    assert_eq!(audio.map(|audio| audio.buffer_ms), neteq.map(|neteq| Some(neteq.current_buffer_size_ms)));
    assert_eq!(
        audio.map(|audio| audio.packets_awaiting_decode),
        neteq.map(|neteq| Some(neteq.packets_awaiting_decode))
    );
    let rates = neteq.map(|neteq| {
        let none = NetEqOperationCounters::default();
        let counters = neteq.network.as_ref().and_then(|network| network.operation_counters.as_ref());
        let counters = counters.unwrap_or(&none);
        let operations = Operation::ALL.iter().map(|operation| match operation {
            Operation::Normal => counters.normal_per_sec,
            Operation::Merge => counters.merge_per_sec,
            Operation::Expand => counters.expand_per_sec,
            Operation::Accelerate => counters.accelerate_per_sec,
            Operation::FastAccelerate => counters.fast_accelerate_per_sec,
            Operation::PreemptiveExpand => counters.preemptive_expand_per_sec,
            Operation::ComfortNoise => counters.comfort_noise_per_sec,
            Operation::Dtmf => counters.dtmf_per_sec,
            Operation::Undefined => counters.undefined_per_sec,
        });
        let operations = operations.collect::<Vec<_>>().try_into().unwrap();
        AudioRates { packets: neteq.packets_per_sec, operations }
    });
    assert_eq!(frame.rates[index], rates);
    let video = stats.video_stats.as_ref();
    assert_eq!(
        peer.video.as_ref().map(|video| (video.fps, video.frames_buffered, video.bitrate_kbps)),
        video.map(|video| (
            Some(video.fps_received),
            known(video.frames_buffered),
            known(video.bitrate_kbps as f64)
        ))
    );
}

proptest! {
    #[test]
    fn any_packet_says_the_same_as_a_frame(packets in proptest::collection::vec(any_packet(), 1..4)) {
        let mut decoder = Decoder::default();
        for packet in &packets {
            let check = |frame: &Frame<'_>| {
                assert_eq!((frame.seq.get(), frame.sent_at_ms), (packet.timestamp_ms, packet.timestamp_ms));
                assert_eq!(frame.audio_enabled, Some(packet.reporting_audio_enabled));
                assert_eq!(frame.video_enabled, Some(packet.reporting_video_enabled));
                let rtt_ms = frame.server.as_ref().and_then(|server| server.rtt_ms);
                assert_eq!(rtt_ms.unwrap_or_default(), packet.active_server_rtt_ms);
                let is_known = !packet.active_server_url.is_empty()
                    || !packet.active_server_type.is_empty()
                    || packet.active_server_rtt_ms > 0.0;
                assert_eq!(frame.server.is_some(), is_known);
                let mut expected: Vec<_> = packet.peer_stats.iter().collect();
                expected.sort_by_key(|(key, _)| *key);
                assert_eq!((frame.peers.len(), frame.rates.len()), (expected.len(), expected.len()));
                for (index, (_, stats)) in expected.iter().enumerate() {
                    assert_peer(frame, index, stats);
                }
            };
            decoder.with(&written(packet), Some("r1"), check).unwrap();
        }
    }

    #[test]
    fn a_packet_that_is_damaged_is_a_frame_or_rejected(
        packet in any_packet(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut message = written(&packet);
        for (place, byte) in damage {
            let place = place.index(message.len());
            message[place] = byte;
        }
        message[0] = 0x0a;
        message.truncate(1 + cut.index(message.len()));
        if let Ok(again) = with(&message, |frame| frame.encode(Form::Compact)) {
            prop_assert!(Frame::decode(&again).is_ok());
        }
    }
}
