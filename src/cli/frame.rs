//! `callsight frame`: health frames for people and scripts.
//!
//! Frames are binary, and authors of clients need to see what they wrote. JSON has the shape of the
//! named form, so `encode` and `decode` convert between the two. All commands read several frames
//! in sequence, since that is what a capture of a subject has.
//!
//! Invariant: `check` accepts exactly the frames that the exporter accepts.

use std::io::{self, BufWriter, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, IgnoredAny};
use serde_json::{Value, json};

use super::CliError;
use super::dead_letters::{self, DeadLetterArgs};
use crate::config::{named, open, read_bounded};
use crate::insight::words::plural;
use callsight_frame::{
    AudioRates, Decoder, Form, Frame, MAPS, MAX_IDENTIFIER_BYTES, MAX_PEERS, Rejection, Version, first_packet,
};

/// Encode, decode and check health frames
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FrameArgs {
    #[command(subcommand)]
    command: FrameCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum FrameCommand {
    /// Encode JSON frames as MessagePack.
    ///
    /// Takes one frame, or several in sequence, such as JSON lines.
    Encode(EncodeArgs),
    /// Print MessagePack frames as JSON
    Decode(MessageArgs),
    /// Print the JSON Schema (2020-12) of a frame's JSON, for editors, validators and generators.
    ///
    /// What it can't express, such as the host of a URL, only `check` finds.
    Schema,
    /// Print whether the exporter accepts each frame, or why not; exit with 1 if it rejects one.
    ///
    /// With `--dlq`, show frames that an exporter has rejected, from the dead-letter streams.
    Check(Box<CheckArgs>),
}

#[derive(Clone, Debug, clap::Args)]
struct EncodeArgs {
    /// File to read instead of standard input
    file: Option<PathBuf>,

    /// Form of the encoded frames
    #[arg(long, default_value = "compact", value_parser = named(&FORMS))]
    form: Form,

    /// Write a hex dump, as `decode --hex` reads it
    #[arg(long)]
    hex: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct MessageArgs {
    /// File to read instead of standard input
    file: Option<PathBuf>,

    /// Read hex digits instead of bytes; white space, and text after a #, is ignored
    #[arg(long)]
    hex: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    message: MessageArgs,

    #[command(flatten)]
    dead_letters: DeadLetterArgs,
}

/// The longest capture that is read, in MiB.
const LONGEST: u64 = 256;

/// The forms on the command line, with their help.
const FORMS: [(&str, &str, Form); 2] = [
    ("compact", "Arrays in the documented order, the smallest form", Form::Compact),
    ("named", "Maps with string keys", Form::Named),
];

/// Runs the command on its file, or else on `input`.
pub(super) fn run(args: FrameArgs, input: impl Read, output: impl Write) -> Result<(), CliError> {
    let mut written = BufWriter::new(output);
    let done = match args.command {
        FrameCommand::Encode(args) => encode(&read(args.file.as_deref(), input)?, &args, &mut written),
        FrameCommand::Decode(args) => decode(&bytes(&args, input)?, &mut written),
        FrameCommand::Schema => writeln!(written, "{:#}", schema("")).map_err(unwritten),
        FrameCommand::Check(args) if args.dead_letters.dlq => {
            return dead_letters::show(args.dead_letters, written);
        }
        FrameCommand::Check(args) => check(&bytes(&args.message, input)?, &mut written),
    };
    // An error concerns one frame; those before it were read.
    written.flush().map_err(unwritten)?;
    done
}

fn encode(input: &[u8], args: &EncodeArgs, output: &mut impl Write) -> Result<(), CliError> {
    let values = serde_json::Deserializer::from_slice(input).into_iter::<serde_json::Value>();
    for (index, value) in values.enumerate() {
        let value = value.map_err(|error| CliError::caused("the input is not JSON", error))?;
        let refused = |rejection| rejected(index, rejection);
        let frame = Frame::deserialize(&value).map_err(|error| refused(Rejection::from_decoder(&error)))?;
        let message = frame.encode(args.form);
        // Some limits, such as the length, apply only to the encoded frame.
        Frame::decode(&message).map_err(refused)?;
        let written = if args.hex {
            let blank = if index > 0 { "\n" } else { "" };
            write!(output, "{blank}{}", to_hex(&message))
        } else {
            output.write_all(&message)
        };
        written.map_err(unwritten)?;
    }
    Ok(())
}

fn decode(input: &[u8], output: &mut impl Write) -> Result<(), CliError> {
    /// The frame, with what a packet has beside it.
    #[derive(serde::Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        frame: &'a Frame<'a>,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        rates: &'a [Option<AudioRates>],
    }
    let mut decoder = Decoder::default();
    for (index, message) in messages(input).enumerate() {
        let shown = decoder
            .with(message, None, |frame| serde_json::to_string_pretty(&Shown { frame, rates: &frame.rates }))
            .map_err(|rejection| rejected(index, rejection))?
            .map_err(CliError::other)?;
        writeln!(output, "{shown}").map_err(unwritten)?;
    }
    Ok(())
}

fn check(input: &[u8], output: &mut impl Write) -> Result<(), CliError> {
    let (mut frames, mut rejected) = (0, 0);
    let mut decoder = Decoder::default();
    for message in messages(input) {
        frames += 1;
        let written = match decoder.with(message, None, |frame| summary(message, frame)) {
            Ok(summary) => writeln!(output, "ok: {summary}"),
            Err(rejection) => {
                rejected += 1;
                writeln!(output, "{rejection}")
            }
        };
        written.map_err(unwritten)?;
    }
    if rejected == 0 {
        return Ok(());
    }
    Err(CliError::failed(format!("{rejected} of {frames} frames rejected")))
}

/// The JSON Schema of a map, by its name in [`MAPS`]; the frame's is empty.
fn schema(map: &str) -> Value {
    let (_, fields) = MAPS.iter().find(|(name, _)| *name == map).unwrap_or(&("", &[]));
    let properties: serde_json::Map<_, _> = fields
        .iter()
        .map(|field| {
            let mut value = match field.kind {
                "map" => schema(field.key),
                "array of maps" => {
                    json!({ "type": "array", "items": schema(field.key), "maxItems": MAX_PEERS })
                }
                "bool" => json!({ "type": "boolean" }),
                "uint" => json!({ "type": "integer", "minimum": 0 }),
                "float" => json!({ "type": "number", "minimum": 0 }),
                _ => json!({ "type": "string" }),
            };
            match field.key {
                "v" => value = json!({ "const": Version }),
                "seq" => value["minimum"] = 1.into(),
                "meeting_id" | "session_id" | "peer_id" | "app" => {
                    let pattern = format!("^[A-Za-z0-9._:@-]{{1,{MAX_IDENTIFIER_BYTES}}}$");
                    value["pattern"] = pattern.into();
                }
                _ => {}
            }
            if let Some(max) = field.max {
                value["maximum"] = max.into();
            }
            value["description"] = field.meaning.into();
            if !field.required {
                value["type"] = json!([value["type"], "null"]);
            }
            (field.key.to_owned(), value)
        })
        .collect();
    let required: Vec<_> = fields.iter().filter(|field| field.required).map(|field| field.key).collect();
    let mut schema = json!({ "type": "object", "properties": properties, "required": required });
    if map.is_empty() {
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        schema["title"] = "The health frame, version 1".into();
    }
    schema
}

fn unwritten(error: io::Error) -> CliError {
    CliError::caused("cannot write the output", error)
}

/// The error of the frame at an index, which people count from 1.
fn rejected(index: usize, rejection: Rejection) -> CliError {
    CliError::caused(format!("frame {} is rejected", index + 1), rejection)
}

fn summary(message: &[u8], frame: &Frame<'_>) -> String {
    let form = match message.first() {
        _ if first_packet(message).is_some() => "packet",
        // The first byte of an array.
        Some(0x90..=0x9f | 0xdc | 0xdd) => "compact",
        _ => "named",
    };
    let peers = plural(frame.peers.len() as u64, "remote peer");
    format!(
        "{form}, {} bytes, meeting {}, session {}, peer {}, seq {}{}, {peers}",
        message.len(),
        frame.meeting_id,
        frame.session_id,
        frame.peer_id,
        frame.seq.get(),
        if frame.ended == Some(true) { ", ended" } else { "" },
    )
}

/// Splits the input into its frames. From the first byte that is not MessagePack on, the rest is
/// one message, so that the decoder says what is wrong with it; so is an empty input. After a
/// packet of videocall.rs, which does not tell its length, there are only packets.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut first = true;
    std::iter::from_fn(move || {
        if rest.is_empty() && !first {
            return None;
        }
        first = false;
        if let Some(length) = first_packet(rest) {
            let (packet, after) = rest.split_at(length);
            rest = after;
            return Some(packet);
        }
        let mut deserializer = rmp_serde::Deserializer::new(Cursor::new(rest));
        let length = match IgnoredAny::deserialize(&mut deserializer) {
            Ok(_) => usize::try_from(deserializer.position()).unwrap_or(rest.len()),
            Err(_) => rest.len(),
        };
        let (message, after) = rest.split_at(length);
        rest = after;
        Some(message)
    })
}

fn read(file: Option<&Path>, input: impl Read) -> Result<Vec<u8>, CliError> {
    let (from, read) = match file {
        Some(path) => (path.display().to_string(), open(path).and_then(|file| read_bounded(file, LONGEST))),
        None => ("standard input".to_owned(), read_bounded(input, LONGEST)),
    };
    read.map_err(|error| CliError::caused(format!("cannot read {from}"), error))
}

fn bytes(args: &MessageArgs, input: impl Read) -> Result<Vec<u8>, CliError> {
    let input = read(args.file.as_deref(), input)?;
    if args.hex { from_hex(&String::from_utf8_lossy(&input)) } else { Ok(input) }
}

fn to_hex(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    bytes.chunks(16).map(|bytes| line(bytes) + "\n").collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>, CliError> {
    let code = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().chars());
    let digit = |character: char| {
        let wrong =
            || CliError::failed(format!("`{character}` is not a hex digit; omit --hex to read bytes"));
        // A digit of 16 fits in a byte.
        character.to_digit(16).map(|digit| digit as u8).ok_or_else(wrong)
    };
    let digits =
        code.filter(|character| !character.is_whitespace()).map(digit).collect::<Result<Vec<_>, _>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return Err(CliError::failed("the number of hex digits is odd; the last byte is incomplete"));
    };
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use clap::Parser;
    use protobuf::{Message, MessageField};
    use videocall_types::protos::health_packet::{HealthPacket, NetEqStats, PeerStats};

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        frame: FrameArgs,
    }

    const TWO_FRAMES: &str = r#"
        {"v": 1, "meeting_id": "standup", "session_id": "s-\u0031", "peer_id": "ana", "seq": 7,
         "sent_at_ms": 1764000000000, "server": {"url": "https:\/\/relay.example\/?token=x", "type": "webrtc"},
         "peers": [{"peer_id": "bo", "can_listen": true, "can_see": false, "audio_enabled": true,
                    "video_enabled": false, "audio": {"buffer_ms": 0, "packets_lost": 3.0}}]}
        {"v": 1, "meeting_id": "standup", "session_id": "s-1", "peer_id": "ana", "seq": 8,
         "sent_at_ms": 1764000001000, "ended": true, "peers": []}"#;

    fn frame(arguments: &[&str], input: &[u8]) -> (Vec<u8>, Result<(), CliError>) {
        let command = Command::try_parse_from(["frame"].iter().chain(arguments)).unwrap();
        let mut output = Vec::new();
        let done = run(command.frame, input, &mut output);
        (output, done)
    }

    fn text(arguments: &[&str], input: &[u8]) -> String {
        let (output, done) = frame(arguments, input);
        done.unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn frames_come_back_as_the_json_they_were() {
        let mut decoded = Vec::new();
        for form in ["named", "compact"] {
            let (bytes, done) = frame(&["encode", "--form", form], TWO_FRAMES.as_bytes());
            done.unwrap();
            let hex = text(&["encode", "--form", form, "--hex"], TWO_FRAMES.as_bytes());
            let json = text(&["decode"], &bytes);
            assert_eq!(text(&["decode", "--hex"], hex.as_bytes()), json);
            assert_eq!(frame(&["encode", "--form", form], json.as_bytes()).0, bytes);
            decoded.push(json);
        }
        assert_eq!(decoded[0], decoded[1]);
        assert!(decoded[0].contains("\"url\": \"https://relay.example\""), "{}", decoded[0]);
        assert!(decoded[0].contains("\"buffer_ms\": 0.0"), "{}", decoded[0]);
        assert!(!decoded[0].contains("null"), "absent values are left out: {}", decoded[0]);
    }

    #[test]
    fn check_gives_a_verdict_for_each_frame() {
        let (mut bytes, _) = frame(&["encode"], TWO_FRAMES.as_bytes());
        assert_eq!(
            text(&["check"], &bytes),
            "ok: compact, 86 bytes, meeting standup, session s-1, peer ana, seq 7, 1 remote peer\n\
             ok: compact, 34 bytes, meeting standup, session s-1, peer ana, seq 8, ended, 0 remote peers\n"
        );
        bytes.pop();
        let (output, done) = frame(&["check"], &bytes);
        let output = String::from_utf8(output).unwrap();
        assert!(output.ends_with("\nmalformed: peers: the message is cut short\n"), "{output}");
        assert_eq!(done.unwrap_err().to_string(), "1 of 2 frames rejected");
        assert_eq!(
            String::from_utf8(frame(&["check"], b"").0).unwrap(),
            "malformed: the message is cut short\n"
        );
    }

    /// Two packets of videocall.rs, one after the other.
    fn two_packets() -> Vec<u8> {
        let packet = |timestamp_ms| HealthPacket {
            session_id: "7".into(),
            meeting_id: "standup".into(),
            reporting_user_id: b"ana@example.com".to_vec(),
            timestamp_ms,
            active_server_rtt_ms: 48.5,
            peer_stats: HashMap::from([(
                "bo".into(),
                PeerStats {
                    neteq_stats: MessageField::some(NetEqStats {
                        packets_per_sec: 47.5,
                        ..NetEqStats::default()
                    }),
                    ..PeerStats::default()
                },
            )]),
            ..HealthPacket::default()
        };
        [1_767_225_600_000, 1_767_225_605_000]
            .iter()
            .flat_map(|at| packet(*at).write_to_bytes().unwrap())
            .collect()
    }

    #[test]
    fn packets_are_shown_with_their_rates_and_checked() {
        let packets = two_packets();
        let json = text(&["decode"], &packets);
        let shown: Vec<Value> =
            serde_json::Deserializer::from_str(&json).into_iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[0]["rates"][0]["packets_per_sec"], 47.5);
        assert_eq!(shown[0]["rates"][0]["neteq_per_sec"]["expand"], 0.0);
        assert_eq!(shown[1]["seq"], 1_767_225_605_000_u64);
        assert_eq!(shown[0]["server"]["url"], "relay://unknown");
        assert!(!json.contains("ana@example.com"), "{json}");
        // As a frame it has no rates any more.
        let (frames, done) = frame(&["encode"], json.as_bytes());
        done.unwrap();
        assert!(!text(&["decode"], &frames).contains("rates"));
        let checked = text(&["check"], &packets);
        let ana = callsight_frame::hidden_identifier_of("ana@example.com");
        let first = format!(
            "ok: packet, 64 bytes, meeting standup, session 7, peer {ana}, seq 1767225600000, 1 remote peer"
        );
        assert_eq!(checked.lines().next(), Some(&*first));
        let (output, done) = frame(&["check"], &packets[..packets.len() - 1]);
        let output = String::from_utf8(output).unwrap();
        assert!(output.ends_with("\nmalformed: the packet is cut short\n"), "{output}");
        assert_eq!(done.unwrap_err().to_string(), "1 of 2 frames rejected");
        let (output, _) = frame(&["check"], b"\x12\x01m\x0a\x017");
        assert!(String::from_utf8(output).unwrap().contains("must begin with its session_id"));
    }

    #[test]
    fn what_cannot_be_encoded_is_named() {
        let (_, done) = frame(&["encode"], TWO_FRAMES.replace("\"seq\": 8", "\"seq\": -8").as_bytes());
        assert_eq!(done.unwrap_err().line(), "frame 2 is rejected: out_of_range: seq: -8 is negative");
        let long = TWO_FRAMES.replace("\"peers\": []", &format!("\"peers\": [{}]", vec![
            r#"{"peer_id":"a","can_listen":true,"can_see":true,"audio_enabled":true,"video_enabled":true}"#; 257
        ].join(",")));
        let (_, done) = frame(&["encode"], long.as_bytes());
        let error = done.unwrap_err().line();
        assert!(error.starts_with("frame 2 is rejected: too_many_peers: "), "{error}");
        assert_eq!(frame(&["encode"], b"{").1.unwrap_err().to_string(), "the input is not JSON");
    }

    #[test]
    fn hex_is_read_generously_and_refused_clearly() {
        assert_eq!(from_hex("0a FF # map ff\n\t0\n1\n").unwrap(), [0x0a, 0xff, 0x01]);
        assert_eq!(
            from_hex("0x0a").unwrap_err().to_string(),
            "`x` is not a hex digit; omit --hex to read bytes"
        );
        let odd = from_hex("0a0").unwrap_err().to_string();
        assert_eq!(odd, "the number of hex digits is odd; the last byte is incomplete");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let (_, done) = frame(&["check", "/nowhere/frame.bin"], b"");
        assert_eq!(done.unwrap_err().to_string(), "cannot read /nowhere/frame.bin");
    }
}
