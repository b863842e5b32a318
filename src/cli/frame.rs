//! `callsight frame`: health frames for people and scripts.
//!
//! Frames are binary, and authors of clients need to see what they wrote. JSON has the shape of the
//! named form, so `encode` and `decode` convert between the two. All commands read several frames
//! in sequence, since that is what a capture of a subject has.
//!
//! Invariant: `check` accepts exactly the frames that the exporter accepts.

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, IgnoredAny};

use super::CliError;
use super::dead_letters::{self, DeadLetterArgs};
use callsight_frame::{Form, Frame, Rejection};

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
    #[arg(long, value_enum, default_value_t = FormName::Compact)]
    form: FormName,

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormName {
    /// Arrays in the documented order, the smallest form
    Compact,
    /// Maps with string keys
    Named,
}

impl From<FormName> for Form {
    fn from(name: FormName) -> Self {
        match name {
            FormName::Compact => Self::Compact,
            FormName::Named => Self::Named,
        }
    }
}

/// The error of `callsight frame`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameCommandError {
    /// The input can't be read.
    #[error("cannot read {from}")]
    Read {
        /// The file, or standard input.
        from: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The output can't be written.
    #[error("cannot write the output")]
    Write(#[from] io::Error),
    /// The input of `encode` is not JSON.
    #[error("the input is not JSON")]
    Json(#[source] serde_json::Error),
    /// The input is not hex digits.
    #[error("`{character}` is not a hex digit; omit --hex to read bytes")]
    Hex {
        /// The first other character.
        character: char,
    },
    /// A digit is missing at the end.
    #[error("the number of hex digits is odd; the last byte is incomplete")]
    HalfByte,
    /// A frame can't be encoded or decoded.
    #[error("frame {number} is rejected")]
    Frame {
        /// Position in the input, from 1.
        number: usize,
        /// The rejection.
        source: Rejection,
    },
    /// The dead letters can't be shown.
    #[error(transparent)]
    DeadLetters(#[from] CliError),
    /// `check` has rejected frames, after printing each.
    #[error("{rejected} of {frames} frames rejected")]
    Rejected {
        /// Number of rejected frames.
        rejected: usize,
        /// Number of all frames.
        frames: usize,
    },
}

/// Runs the command on its file, or else on `input`.
pub(crate) fn run(
    args: FrameArgs,
    input: impl Read,
    mut output: impl Write,
) -> Result<(), FrameCommandError> {
    match args.command {
        FrameCommand::Encode(args) => encode(&read(args.file.as_deref(), input)?, &args, &mut output)?,
        FrameCommand::Decode(args) => decode(&bytes(&args, input)?, &mut output)?,
        FrameCommand::Check(args) if args.dead_letters.dlq => {
            return dead_letters::show(args.dead_letters, output).map_err(FrameCommandError::DeadLetters);
        }
        FrameCommand::Check(args) => check(&bytes(&args.message, input)?, &mut output)?,
    }
    Ok(output.flush()?)
}

fn encode(input: &[u8], args: &EncodeArgs, output: &mut impl Write) -> Result<(), FrameCommandError> {
    let values = serde_json::Deserializer::from_slice(input).into_iter::<serde_json::Value>();
    for (index, value) in values.enumerate() {
        let value = value.map_err(FrameCommandError::Json)?;
        let refused = |source| FrameCommandError::Frame { number: index + 1, source };
        let frame = Frame::deserialize(&value).map_err(|error| refused(Rejection::from_decoder(&error)))?;
        let message = frame.encode(args.form.into());
        // Some limits, such as the length, apply only to the encoded frame.
        Frame::decode(&message).map_err(refused)?;
        if args.hex {
            if index > 0 {
                writeln!(output)?;
            }
            write_hex(&message, output)?;
        } else {
            output.write_all(&message)?;
        }
    }
    Ok(())
}

fn decode(input: &[u8], output: &mut impl Write) -> Result<(), FrameCommandError> {
    for (index, message) in messages(input).enumerate() {
        let frame = Frame::decode(message)
            .map_err(|source| FrameCommandError::Frame { number: index + 1, source })?;
        serde_json::to_writer_pretty(&mut *output, &frame).map_err(io::Error::from)?;
        writeln!(output)?;
    }
    Ok(())
}

fn check(input: &[u8], output: &mut impl Write) -> Result<(), FrameCommandError> {
    let (mut frames, mut rejected) = (0, 0);
    for message in messages(input) {
        frames += 1;
        match Frame::decode(message) {
            Ok(frame) => writeln!(output, "ok: {}", summary(message, &frame))?,
            Err(rejection) => {
                rejected += 1;
                writeln!(output, "{rejection}")?;
            }
        }
    }
    if rejected > 0 { Err(FrameCommandError::Rejected { rejected, frames }) } else { Ok(()) }
}

fn summary(message: &[u8], frame: &Frame<'_>) -> String {
    // The first byte of an array is 9x, dc or dd.
    let form = if matches!(message.first(), Some(0x90..=0x9f | 0xdc | 0xdd)) { "compact" } else { "named" };
    let peers = frame.peers.len();
    format!(
        "{form}, {} bytes, meeting {}, session {}, peer {}, seq {}{}, {peers} {}",
        message.len(),
        frame.meeting_id,
        frame.session_id,
        frame.peer_id,
        frame.seq.get(),
        if frame.ended == Some(true) { ", ended" } else { "" },
        if peers == 1 { "remote peer" } else { "remote peers" },
    )
}

/// Splits the input into its frames. From the first byte that is not MessagePack on, the rest is
/// one message, so that the decoder says what is wrong with it; so is an empty input.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut first = true;
    std::iter::from_fn(move || {
        if rest.is_empty() && !first {
            return None;
        }
        first = false;
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

fn read(file: Option<&Path>, mut input: impl Read) -> Result<Vec<u8>, FrameCommandError> {
    let mut bytes = Vec::new();
    let (from, done) = match file {
        Some(path) => {
            let done = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
            (path.display().to_string(), done)
        }
        None => ("standard input".to_owned(), input.read_to_end(&mut bytes)),
    };
    done.map_err(|source| FrameCommandError::Read { from, source })?;
    Ok(bytes)
}

fn bytes(args: &MessageArgs, input: impl Read) -> Result<Vec<u8>, FrameCommandError> {
    let input = read(args.file.as_deref(), input)?;
    if args.hex { from_hex(&String::from_utf8_lossy(&input)) } else { Ok(input) }
}

fn write_hex(bytes: &[u8], output: &mut impl Write) -> io::Result<()> {
    for line in bytes.chunks(16) {
        let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(output, "{}", line.join(" "))?;
    }
    Ok(())
}

fn from_hex(text: &str) -> Result<Vec<u8>, FrameCommandError> {
    let code = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().chars());
    let mut bytes = Vec::new();
    let mut high = None;
    for character in code.filter(|character| !character.is_whitespace()) {
        let digit = character.to_digit(16).ok_or(FrameCommandError::Hex { character })?;
        // Two digits of 16 fit in a byte.
        let digit = u8::try_from(digit).unwrap_or_default();
        match high.take() {
            None => high = Some(digit << 4),
            Some(high) => bytes.push(high | digit),
        }
    }
    if high.is_some() { Err(FrameCommandError::HalfByte) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use callsight_frame::Reason;

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

    fn frame(arguments: &[&str], input: &[u8]) -> (Vec<u8>, Result<(), FrameCommandError>) {
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

    #[test]
    fn what_cannot_be_encoded_is_named() {
        let (_, done) = frame(&["encode"], TWO_FRAMES.replace("\"seq\": 8", "\"seq\": -8").as_bytes());
        match done.unwrap_err() {
            FrameCommandError::Frame { number: 2, source } => {
                assert_eq!(source.to_string(), "out_of_range: seq: -8 is negative");
            }
            other => panic!("{other:?}"),
        }
        let long = TWO_FRAMES.replace("\"peers\": []", &format!("\"peers\": [{}]", vec![
            r#"{"peer_id":"a","can_listen":true,"can_see":true,"audio_enabled":true,"video_enabled":true}"#; 257
        ].join(",")));
        let (_, done) = frame(&["encode"], long.as_bytes());
        assert!(
            matches!(
                done,
                Err(FrameCommandError::Frame {
                    number: 2,
                    source: Rejection { reason: Reason::TooManyPeers, .. }
                })
            ),
            "{done:?}"
        );
        assert!(matches!(frame(&["encode"], b"{").1, Err(FrameCommandError::Json(_))));
    }

    #[test]
    fn hex_is_read_generously_and_refused_clearly() {
        assert_eq!(from_hex("0a FF # map ff\n\t0\n1\n").unwrap(), [0x0a, 0xff, 0x01]);
        assert_eq!(
            from_hex("0x0a").unwrap_err().to_string(),
            "`x` is not a hex digit; omit --hex to read bytes"
        );
        assert!(matches!(from_hex("0a0"), Err(FrameCommandError::HalfByte)));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let (_, done) = frame(&["check", "/nowhere/frame.bin"], b"");
        assert_eq!(done.unwrap_err().to_string(), "cannot read /nowhere/frame.bin");
    }
}
