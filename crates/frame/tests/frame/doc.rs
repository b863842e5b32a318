//! Holds `docs/frame.md` to the code.

use std::collections::BTreeMap;

use callsight_frame::{
    App, Audio, CandidateType, Client, Form, Frame, Join, JoinState, MAPS, MAX_FRAME_BYTES,
    MAX_IDENTIFIER_BYTES, MAX_NESTING, MAX_PEERS, MeetingId, NetEq, Path, Peer, PeerId, Platform, Protocol,
    QualityLimitation, Reason, Sending, Seq, Server, ServerType, ServerUrl, SessionId, Version, Video,
};

const DOC: &str = include_str!("../../../../docs/frame.md");

/// The text of the code block that begins with this line.
fn block(fence: &str) -> &'static str {
    let (_, after) = DOC.split_once(&format!("\n```{fence}\n")).unwrap_or_else(|| panic!("no block {fence}"));
    after.split_once("\n```").expect("a block has an end").0
}

fn hex(fence: &str) -> Vec<u8> {
    let digits = block(fence).lines().flat_map(|line| line.split('#').next().unwrap().split_whitespace());
    digits.map(|byte| u8::from_str_radix(byte, 16).expect("two hex digits")).collect()
}

/// The cells of the table under the heading, without the table's head.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, after) = DOC.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rows =
        after.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_field_tables_are_those_of_the_code() {
    // The shared screen has the fields of a video.
    for (map, fields) in MAPS.iter().filter(|(map, _)| *map != "screen") {
        let heading = match *map {
            "" => "### Frame",
            "server" => "### Server",
            "peers" => "### Peer",
            "audio" => "### Audio",
            "neteq" => "### NetEQ",
            "video" => "### Video",
            "client" => "### Client",
            "path" => "### Path",
            "send" => "### Send",
            "quality_limitation_durations" => "### Quality limitation",
            "join" => "### Join",
            other => panic!("no heading for {other}"),
        };
        let expected: Vec<Vec<String>> = fields
            .iter()
            .enumerate()
            .map(|(index, field)| {
                let required = if field.required { "yes" } else { "no" };
                [&(index + 1).to_string(), &format!("`{}`", field.key), field.kind, required, field.meaning]
                    .map(str::to_owned)
                    .to_vec()
            })
            .collect();
        assert_eq!(table(heading), expected, "{heading}");
    }
}

#[test]
fn the_reasons_are_those_of_the_code() {
    let expected: Vec<[String; 2]> = Reason::ALL
        .iter()
        .map(|reason| [format!("`{}`", reason.label()), reason.meaning().to_owned()])
        .collect();
    assert_eq!(table("## Rejection"), expected);
}

#[test]
fn the_limits_are_those_of_the_code() {
    let documented: Vec<usize> =
        table("## Limits").iter().map(|row| row[1].replace(',', "").parse().expect("a number")).collect();
    assert_eq!(documented, [MAX_FRAME_BYTES, MAX_PEERS, MAX_IDENTIFIER_BYTES, 256, MAX_NESTING]);
}

#[test]
fn the_ranges_are_those_of_the_code() {
    let tables = MAPS.iter().flat_map(|(_, fields)| *fields);
    // The version is no measurement.
    let numbers = tables.filter(|field| matches!(field.kind, "uint" | "float") && field.key != "v");
    let expected: BTreeMap<_, _> = numbers.map(|field| (field.key, field.max.expect("a range"))).collect();
    let mut documented = BTreeMap::new();
    for row in table("## Ranges") {
        let max = row[1].replace(',', "").parse().expect("a number");
        for key in row[0].split(", ") {
            let key = key.trim_matches('`');
            match key {
                "neteq.*" => documented.extend(NetEq::FIELDS.iter().map(|field| (field.key, max))),
                "quality_limitation_durations.*" => {
                    documented.extend(QualityLimitation::FIELDS.iter().map(|field| (field.key, max)));
                }
                _ => drop(documented.insert(key, max)),
            }
        }
    }
    assert_eq!(documented, expected);
}

#[test]
fn the_example_is_one_frame_in_both_forms_and_json() {
    let (named, compact) = (hex("hex named"), hex("hex compact"));
    let frame = Frame::decode(&named).expect("the named example");
    assert_eq!(Frame::decode(&compact).expect("the compact example"), frame);
    assert_eq!(frame.encode(Form::Named), named);
    assert_eq!(frame.encode(Form::Compact), compact);

    assert_eq!(serde_json::to_string_pretty(&frame).unwrap(), block("json"));
    let json: Frame<'_> = serde_json::from_str(block("json")).expect("the example as JSON");
    assert_eq!(json, frame);

    assert_eq!((frame.ended, frame.peers[0].video.as_ref()), (None, None));
    assert_eq!(frame.peers[0].audio.as_ref().unwrap().packets_lost, Some(0));
}

#[test]
fn the_sizes_are_those_of_a_frame_with_every_field() {
    let ids: Vec<String> = (0..9).map(|number| format!("peer-{number}@example")).collect();
    let peer_id = |number: usize| PeerId::new(&ids[number]).unwrap();
    let video = |kbps| Video {
        fps: Some(29.97),
        frames_buffered: Some(2.0),
        bitrate_kbps: Some(kbps),
        frames_decoded: Some(18_000),
        frames_dropped: Some(21),
        freeze_count: Some(2),
        packets_received: Some(74_000),
        packets_lost: Some(80),
        freezes_ms: Some(900),
        frame_height: Some(720),
        nack_count: Some(61),
        pli_count: Some(4),
    };
    let peer = |number| Peer {
        peer_id: peer_id(number),
        can_listen: true,
        can_see: true,
        audio_enabled: true,
        video_enabled: true,
        audio: Some(Audio {
            buffer_ms: Some(80.5),
            target_ms: Some(60.0),
            packets_awaiting_decode: Some(3.0),
            jitter_ms: Some(4.2),
            packets_received: Some(31_000),
            packets_lost: Some(12),
            total_samples: Some(29_760_000),
            concealed_samples: Some(48_000),
            silent_concealed_samples: Some(9_600),
            neteq: Some(NetEq {
                normal: Some(60_000),
                merge: Some(120),
                expand: Some(310),
                accelerate: Some(87),
                fast_accelerate: Some(4),
                preemptive_expand: Some(96),
                comfort_noise: Some(0),
                dtmf: Some(0),
                undefined: Some(0),
            }),
            concealment_events: Some(35),
            inserted_samples: Some(24_000),
            removed_samples: Some(21_000),
            packets_discarded: Some(3),
        }),
        video: Some(video(1250.5)),
        audio_wanted: Some(true),
        video_wanted: Some(true),
        screen: (number == 1).then(|| video(2050.5)),
    };
    let frame = Frame {
        peers: (1..9).map(peer).collect(),
        rates: Vec::new(),

        version: Version,
        meeting_id: MeetingId::new("weekly-planning").unwrap(),
        session_id: SessionId::new("s-7f3a9c21e5").unwrap(),
        peer_id: peer_id(0),
        seq: Seq::new(1042).unwrap(),
        sent_at_ms: 1_764_000_000_123,
        ended: Some(false),
        server: Some(Server {
            url: ServerUrl::new("https://relay-1.apac.example:4433").unwrap(),
            server_type: ServerType::WebTransport,
            rtt_ms: Some(182.5),
        }),
        audio_enabled: Some(true),
        video_enabled: Some(true),
        tab_visible: Some(true),
        client: Some(Client { app: Some(App::new("web-2.14.0").unwrap()), platform: Some(Platform::Chrome) }),
        path: Some(Path {
            candidate_type: Some(CandidateType::Relay),
            protocol: Some(Protocol::Udp),
            available_outgoing_kbps: Some(2450.5),
            ice_restarts: Some(1),
        }),
        send: Some(Sending {
            rtt_ms: Some(184.5),
            audio_packets_sent: Some(31_000),
            audio_packets_lost: Some(40),
            video_packets_sent: Some(90_000),
            video_packets_lost: Some(110),
            fps: Some(29.97),
            frame_height: Some(720),
            bitrate_kbps: Some(1450.5),
            limited: Some(QualityLimitation { cpu_ms: Some(0), bandwidth_ms: Some(1500), other_ms: Some(0) }),
            nack_count: Some(70),
            pli_count: Some(6),
        }),
        join: Some(Join { state: JoinState::Joined, setup_ms: Some(840.5), reason: None }),
    };
    let grouped = |bytes: usize| format!("{},{:03}", bytes / 1000, bytes % 1000);
    let [compact, named] = [Form::Compact, Form::Named].map(|form| grouped(frame.encode(form).len()));
    let expected = format!("{compact} bytes compact and {named} bytes named");
    assert!(DOC.contains(&expected), "docs/frame.md does not say: {expected}");
}
