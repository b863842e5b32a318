//! What must hold for every input, whoever wrote it: one function a fuzz target.
//!
//! libFuzzer (`fuzz/`) and the bounded run of `cargo test` (`main.rs` beside this file) call the
//! same functions. They panic where something does not hold.

use std::ffi::OsString;

use callsight::fuzzing;
use callsight_frame::subject::{MeetingPartition, Partition, Region, Subject, publish_subject};
use callsight_frame::{
    Decoder, Form, Frame, MAX_FRAME_BYTES, MAX_IDENTIFIER_BYTES, MAX_PEERS, MeetingId, NetEq, Reason,
    Rejection, first_packet,
};
use serde::de::Deserialize;

/// The longest detail of a rejection, in bytes. It becomes a header of a dead letter and a part of
/// a log line.
const MAX_DETAIL_BYTES: usize = 1024;

/// A message: it is refused in a short line, or it is a frame that keeps every limit and survives
/// being written in each form and as JSON. The quick decoder changes nothing about it.
pub(crate) fn frame(input: &[u8]) {
    let decoded = Frame::decode(input);
    assert_eq!(decoded, Frame::decode_carefully(input));
    let frame = match decoded {
        Ok(frame) => frame,
        Err(rejection) => return refused(&rejection),
    };
    assert!(input.len() <= MAX_FRAME_BYTES, "{} bytes are no frame", input.len());
    keeps_the_limits(&frame);
    for form in [Form::Named, Form::Compact] {
        let message = frame.encode(form);
        match Frame::decode(&message) {
            Ok(again) => assert_eq!(again, frame, "{form:?}"),
            // The other form, or a float that was written as a short integer, can take the frame
            // over the limit.
            Err(rejection) => {
                assert_eq!(rejection.reason, Reason::TooLarge, "{form:?}: {rejection}");
                assert!(message.len() > MAX_FRAME_BYTES, "{form:?}: {rejection}");
            }
        }
    }
    let json = serde_json::to_value(&frame).expect("a frame is JSON");
    assert_eq!(Frame::deserialize(&json).expect("the JSON of a frame is a frame"), frame);
}

/// A packet of videocall.rs, as long as its first byte says so: it is refused in a short line, or
/// its frame keeps every limit, also when the decoder has read it before.
pub(crate) fn packet(input: &[u8]) {
    let mut decoder = Decoder::default();
    let mut read = || {
        decoder.with(input, Some("relay-1"), |frame| {
            keeps_the_limits(frame);
            let sound = |rate: &f64| (0.0..=10_000.0).contains(rate) && rate.is_sign_positive();
            for rates in frame.rates.iter().flatten() {
                assert!(sound(&rates.packets) && rates.operations.iter().all(sound), "{rates:?}");
            }
            let is_packet = first_packet(input).is_some();
            assert_eq!(frame.rates.len(), if is_packet { frame.peers.len() } else { 0 });
            let message = frame.encode(Form::Compact);
            let again = Frame::decode(&message).map(|again| Frame { rates: frame.rates.clone(), ..again });
            match again {
                Ok(again) => assert_eq!(again, *frame),
                Err(rejection) => assert_eq!(rejection.reason, Reason::TooLarge, "{rejection}"),
            }
            (message, frame.rates.clone())
        })
    };
    let first = read();
    assert_eq!(read(), first);
    if let Err(rejection) = first {
        refused(&rejection);
    }
    if let Some(length) = first_packet(input) {
        assert!((1..=input.len()).contains(&length));
    }
}

fn refused(rejection: &Rejection) {
    let Rejection { detail, .. } = rejection;
    assert!(detail.len() <= MAX_DETAIL_BYTES, "a detail of {} bytes", detail.len());
    is_one_line(detail);
}

/// The limits, written out once more, independently of the code that enforces them.
fn keeps_the_limits(frame: &Frame<'_>) {
    let identifier = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte);
        let length = 1..=MAX_IDENTIFIER_BYTES;
        assert!(length.contains(&text.len()) && text.bytes().all(plain), "identifier {text:?}");
    };
    let measures = |max: f64, values: &[Option<f64>]| {
        // A negative zero is `>= 0.0`, and would show its sign in a metric.
        let sound = |value: f64| value <= max && value.is_sign_positive();
        assert!(values.iter().all(|value| value.is_none_or(sound)), "{values:?}");
    };
    let counts = |values: &[Option<u64>]| {
        let sound = |value: u64| value <= 10_000_000_000_000;
        assert!(values.iter().all(|value| value.is_none_or(sound)), "{values:?}");
    };
    let heights = |values: &[Option<u64>]| {
        assert!(values.iter().all(|value| value.is_none_or(|value| value <= 65_535)), "{values:?}");
    };
    assert!((1..=1 << 53).contains(&frame.seq.get()) && frame.peers.len() <= MAX_PEERS);
    assert!(frame.sent_at_ms <= 253_402_300_799_999, "{}", frame.sent_at_ms);
    for text in [frame.meeting_id.as_str(), frame.session_id.as_str(), frame.peer_id.as_str()] {
        identifier(text);
    }
    if let Some(server) = &frame.server {
        let url = server.url.as_str();
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-+_:[]".contains(&byte);
        let (scheme, authority) = url.split_once("://").expect("an origin has a scheme");
        assert!(!scheme.is_empty() && !authority.is_empty() && url.len() <= 256, "{url:?}");
        assert!(scheme.bytes().chain(authority.bytes()).all(plain), "{url:?}");
        measures(600_000.0, &[server.rtt_ms]);
    }
    if let Some(app) = frame.client.as_ref().and_then(|client| client.app.as_ref()) {
        identifier(app.as_str());
    }
    if let Some(path) = &frame.path {
        measures(1e7, &[path.available_outgoing_kbps]);
        counts(&[path.ice_restarts]);
    }
    if let Some(send) = &frame.send {
        measures(600_000.0, &[send.rtt_ms]);
        measures(10_000.0, &[send.fps]);
        measures(1e7, &[send.bitrate_kbps]);
        heights(&[send.frame_height]);
        counts(&[send.audio_packets_sent, send.audio_packets_lost, send.nack_count, send.pli_count]);
        counts(&[send.video_packets_sent, send.video_packets_lost]);
        if let Some(limited) = &send.limited {
            counts(&[limited.cpu_ms, limited.bandwidth_ms, limited.other_ms]);
        }
    }
    if let Some(join) = &frame.join {
        measures(600_000.0, &[join.setup_ms]);
    }
    for peer in &frame.peers {
        identifier(peer.peer_id.as_str());
        if let Some(audio) = &peer.audio {
            measures(600_000.0, &[audio.buffer_ms, audio.target_ms, audio.jitter_ms]);
            measures(1e6, &[audio.packets_awaiting_decode]);
            counts(&[audio.packets_received, audio.packets_lost, audio.total_samples]);
            counts(&[audio.concealed_samples, audio.silent_concealed_samples]);
            counts(&audio.neteq.as_ref().map(NetEq::counts).unwrap_or_default());
            counts(&[audio.concealment_events, audio.packets_discarded]);
            counts(&[audio.inserted_samples, audio.removed_samples]);
        }
        for video in [&peer.video, &peer.screen].into_iter().flatten() {
            measures(10_000.0, &[video.fps]);
            measures(1e6, &[video.frames_buffered]);
            measures(1e7, &[video.bitrate_kbps]);
            counts(&[video.frames_decoded, video.frames_dropped, video.freeze_count]);
            counts(&[video.packets_received, video.packets_lost, video.freezes_ms]);
            counts(&[video.nack_count, video.pli_count]);
            heights(&[video.frame_height]);
        }
    }
}

/// Settings: variables and flags in the first line, as in a shell, and a TOML file below it. The
/// binary's own parser says what they are, or what is wrong, in one line.
pub(crate) fn config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (line, file) = text.split_once('\n').unwrap_or((&text, ""));
    let mut environment = vec![("CALLSIGHT_CONFIG", "callsight.toml")];
    let mut arguments = vec![OsString::from("callsight")];
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some((name, value)) if name.starts_with("CALLSIGHT_") => environment.push((name, value)),
            _ => arguments.push(word.into()),
        }
    }
    // The last of two counts, as in a shell.
    let environment = |name: &str| {
        let found = environment.iter().rev().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    };
    match fuzzing::settings(&arguments, &environment, &|_| Ok(file.to_owned())) {
        Ok(line) | Err(line) => {
            assert!(!line.is_empty());
            is_one_line(&line);
        }
    }
}

/// A subject, or one of the words that a relay makes one of.
pub(crate) fn subject(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match Subject::parse(&text) {
        Err(rejection) => {
            assert_eq!(rejection.reason, Reason::BadSubject);
            refused(&rejection);
        }
        Ok(subject) => {
            let Subject { region, service_type, server_id, partition } = subject;
            for token in [region, service_type, server_id] {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                assert!((1..=64).contains(&token.len()) && token.bytes().all(plain), "token {token:?}");
            }
            let mut again = format!("health.diagnostics.{region}.{service_type}.{server_id}");
            if let Ok(region) = region.parse::<Region>() {
                let meeting = match partition {
                    Some(Partition::Meeting(meeting)) => Some(meeting),
                    Some(Partition::Server(_)) | None => None,
                };
                let published = publish_subject(&region, service_type, server_id, meeting);
                let expected = Subject { partition: meeting.map(Partition::Meeting), ..subject };
                assert_eq!(Subject::parse(&published.expect("what was read")), Ok(expected));
            }
            if let Some(partition) = partition {
                again.push_str(&format!(".{partition}"));
            }
            assert_eq!(Subject::parse(&again), Ok(subject));
        }
    }
    if let Ok(region) = text.parse::<Region>() {
        assert_eq!(region.as_str(), text);
        let subject = publish_subject(&region, "relay", "r1", None).expect("a region makes a subject");
        assert_eq!(Subject::parse(&subject).expect("that can be read").region, text);
    }
    let region: Region = "us".parse().expect("a region");
    let meeting = MeetingPartition::of(&text);
    match publish_subject(&region, &text, &text, Some(meeting)) {
        Ok(subject) => {
            let read = Subject::parse(&subject).expect("what is published");
            assert_eq!((read.server_id, read.partition), (&*text, Some(Partition::Meeting(meeting))));
        }
        Err(rejection) => refused(&rejection),
    }
}

/// The headers of a scrape: `Accept` in the first line, `Accept-Encoding` in the second.
pub(crate) fn negotiate(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (accept, encoding) = text.split_once('\n').unwrap_or((&text, ""));
    let [open_metrics, gzip] = [fuzzing::takes_open_metrics(accept), fuzzing::takes_gzip(encoding)];

    // Nobody gets what they did not name.
    assert!(!open_metrics || accept.to_ascii_lowercase().contains("application/openmetrics-text"));
    assert!(!gzip || encoding.to_ascii_lowercase().contains("gzip") || encoding.contains('*'));

    // A list has no order beyond its weights, and its words have no case.
    let reversed = |list: &str| list.rsplit(',').collect::<Vec<_>>().join(",");
    assert_eq!(fuzzing::takes_open_metrics(&reversed(accept)), open_metrics);
    assert_eq!(fuzzing::takes_gzip(&reversed(encoding)), gzip);
    assert_eq!(fuzzing::takes_open_metrics(&accept.to_ascii_uppercase()), open_metrics);
    assert_eq!(fuzzing::takes_gzip(&encoding.to_ascii_uppercase()), gzip);
}

/// A token: nothing that was changed after it was signed is good.
pub(crate) fn token(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match fuzzing::token(&text) {
        Err(word) => assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}"),
        Ok(meeting) => {
            assert!(MeetingId::new(&meeting).is_ok(), "{meeting:?}");
            for place in [0, text.len() / 3, text.len() / 2, text.len() - 1] {
                let mut changed = text.clone().into_owned().into_bytes();
                changed[place] = if changed[place] == b'A' { b'Q' } else { b'A' };
                let changed = String::from_utf8(changed).expect("a token is ASCII");
                assert!(fuzzing::token(&changed).is_err(), "{changed} with another character at {place}");
            }
        }
    }
}

/// What a client sends over a connection: heads and bodies, whole or cut short.
pub(crate) fn request(input: &[u8]) {
    let answers = fuzzing::answers(input);
    if answers.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(&answers);
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    // 431 and some 400 are the protocol's own.
    let known = ["100", "204", "400", "401", "403", "405", "413", "415", "431", "501", "505"];
    assert!(status.is_some_and(|status| known.contains(&status)), "{text:?}");
    for line in text.lines().filter(|line| line.starts_with('{')) {
        // Several answers may follow each other on a line.
        let mut values = serde_json::Deserializer::from_str(line).into_iter::<serde_json::Value>();
        let answer = values.next().expect("an answer").expect("JSON");
        assert!(answer["error"].is_string(), "{line}");
        is_one_line(answer["detail"].as_str().expect("an answer says what to do"));
    }
}

/// What is logged, or becomes a header, neither ends its line nor steers a terminal.
fn is_one_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
}
