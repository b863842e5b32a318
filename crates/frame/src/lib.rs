//! The health frame: what one client reports about its side of a call, every 1 to 5 seconds.
//!
//! Clients of many versions and languages write frames, and one bad client must neither stop the
//! pipeline nor write what it likes into labels. So the decoder accepts what a client could
//! naturally write (either [`Form`]; unknown keys; whole numbers for floats) and rejects anything
//! else as a whole frame, with a [`Reason`] from a closed vocabulary. A [`Decoder`] also reads the
//! packets of videocall.rs, as frames.
//!
//! Absent is not zero: every optional value is an `Option`. Counters are cumulative since the
//! session began, so a lost, repeated or late frame does not falsify the next one.
//!
//! Invariant: a frame from [`Frame::decode`] is valid. Identifiers are short and plain, numbers are
//! within their ranges, the server's URL is an origin.
//!
//! The specification for clients in any language is
//! [docs/frame.md](https://github.com/callsight/callsight/blob/main/docs/frame.md).
//!
//! ```
//! use callsight_frame::{Form, Frame, MeetingId, Peer, PeerId, Seq, SessionId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (meeting, session) = (MeetingId::new("standup")?, SessionId::new("s-81c2")?);
//! let bo = Peer { can_listen: true, audio_enabled: true, ..Peer::new(PeerId::new("bo")?) };
//! let frame = Frame {
//!     peers: vec![bo],
//!     ..Frame::new(meeting, session, PeerId::new("ana")?, Seq::FIRST, 1_767_225_600_000)
//! };
//! let message = frame.encode(Form::Compact);
//! assert_eq!(Frame::decode(&message)?, frame);
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

mod identifier;
mod neteq;
mod packet;
mod quick;
mod reject;
mod server_url;
pub mod subject;
mod wire;
mod words;

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

pub use identifier::{
    App, MAX_IDENTIFIER_BYTES, MeetingId, PeerId, SessionId, hidden_identifier_of, identifier_of,
};
pub use neteq::{AudioRates, NetEq, Operation};
use packet::PacketReader;
pub use packet::first_packet;
use quick::{Bytes, Quick};
use reject::locate;
pub use reject::{Reason, Rejection};
pub use server_url::ServerUrl;
#[doc(hidden)]
pub use wire::Field;
use wire::{Value, wire_map};
pub use words::{CandidateType, JoinFailure, JoinState, Platform, Protocol, ServerType};

/// Maximum length of a frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// Maximum number of peers in a frame.
pub const MAX_PEERS: usize = 256;

/// Maximum depth of arrays and maps: more than a frame needs, so that unknown values of newer
/// clients fit, and little for any stack.
pub const MAX_NESTING: usize = 32;

/// The highest plausible values. One value beyond them would spoil a sum for as long as the
/// exporter runs, so the frame is rejected; real clients stay far below.
mod range {
    /// A float counts exactly up to here.
    pub(super) const SEQ: u64 = 1 << 53;
    /// The end of the year 9999, so that a clock in microseconds is noticed.
    pub(super) const UNIX_MS: u64 = 253_402_300_799_999;
    /// Ten minutes.
    pub(super) const MILLISECONDS: u64 = 600_000;
    /// Packets or frames in a buffer.
    pub(super) const WAITING: u64 = 1_000_000;
    pub(super) const FPS: u64 = 10_000;
    /// 10 Gbit/s.
    pub(super) const KBPS: u64 = 10_000_000;
    /// The largest side of a picture that a codec can carry.
    pub(super) const PIXELS: u64 = 65_535;
    /// Six years of samples at 48 kHz.
    pub(super) const COUNT: u64 = 10_000_000_000_000;
    /// Of a second of audio, a hundred times as many as there are packets or decisions.
    pub(super) const PER_SECOND: u64 = 10_000;
}

wire_map! {
    /// One session's health at one moment, and what it observes of each remote peer.
    "the frame" struct Frame<'a> {
        version("v"): required Version, "Schema version, 1.";
        meeting_id("meeting_id"): required MeetingId<'a>, "The call.";
        session_id("session_id"): required SessionId<'a>, "One participant's one connection to the call; globally unique, new at each join.";
        peer_id("peer_id"): required PeerId<'a>, "The participant.";
        seq("seq"): required Seq [range::SEQ], "1, 2, 3 … within the session: the watermark that reveals repeated and late frames.";
        sent_at_ms("sent_at_ms"): required u64 [range::UNIX_MS], "Client clock, Unix milliseconds; only for the clock-skew metric, never for freshness.";
        ended("ended"): optional bool, "The session's last frame: its series are removed at once.";
        server("server"): optional Server<'a>, "The elected server.";
        audio_enabled("audio_enabled"): optional bool, "The sender's own microphone is on.";
        video_enabled("video_enabled"): optional bool, "The sender's own camera is on.";
        tab_visible("tab_visible"): optional bool, "False while the tab is hidden: its statistics are frozen then, so it is never counted as degraded.";
        peers("peers"): required Vec<Peer<'a>>, "What this session observes of each remote peer; at most 256.";
        client("client"): optional Client<'a>, "The application and the platform that it runs on.";
        path("path"): optional Path, "The network path to the server, or to the peer of a direct call.";
        send("send"): optional Sending, "The media that this session sends: what arrives of it, and what limits it.";
        join("join"): optional Join, "How the session's attempt to join the call goes.";
    } beside rates: Vec<Option<AudioRates>>, "For each of the peers, what a packet of videocall.rs has instead of counts. Empty for frames of our own forms, which have no place for it.";

    /// The elected server.
    "server" struct Server<'a> {
        url("url"): required ServerUrl<'a>, "Address that the client is connected to; reduced to `scheme://host[:port]`.";
        server_type("type"): required ServerType, "`webtransport`, `websocket` or `webrtc`; any other word is read as `other`.";
        rtt_ms("rtt_ms"): optional f64 [range::MILLISECONDS], "Round-trip time to the server as the client measures it, in milliseconds.";
    }

    /// What a session observes of one remote peer.
    "a peer" struct Peer<'a> {
        peer_id("peer_id"): required PeerId<'a>, "The remote participant.";
        can_listen("can_listen"): required bool, "This session can hear the peer.";
        can_see("can_see"): required bool, "This session can see the peer.";
        audio_enabled("audio_enabled"): required bool, "The peer's microphone is on.";
        video_enabled("video_enabled"): required bool, "The peer's camera is on.";
        audio("audio"): optional Audio, "The audio received from the peer.";
        video("video"): optional Video, "The video received from the peer.";
        audio_wanted("audio_wanted"): optional bool, "False while this session does not ask for the peer's audio: it is not missed then. Absent is true.";
        video_wanted("video_wanted"): optional bool, "False while this session does not ask for the peer's video, as of a tile out of sight: it is not missed then. Absent is true.";
        screen("screen"): optional Video, "The shared screen received from the peer.";
    }

    /// The audio received from one remote peer: W3C webrtc-stats, and NetEQ's own. The default has
    /// no value.
    #[derive(Default)]
    "audio" struct Audio {
        buffer_ms("buffer_ms"): optional f64 [range::MILLISECONDS], "Current jitter buffer depth, in milliseconds.";
        target_ms("target_ms"): optional f64 [range::MILLISECONDS], "Jitter buffer depth that NetEQ aims for, in milliseconds.";
        packets_awaiting_decode("packets_awaiting_decode"): optional f64 [range::WAITING], "Packets in the jitter buffer that wait for the decoder.";
        jitter_ms("jitter_ms"): optional f64 [range::MILLISECONDS], "Packet jitter, in milliseconds.";
        packets_received("packets_received"): optional u64 [range::COUNT], "Cumulative packets received, `packetsReceived`.";
        packets_lost("packets_lost"): optional u64 [range::COUNT], "Cumulative packets lost, `packetsLost`.";
        total_samples("total_samples"): optional u64 [range::COUNT], "Cumulative samples played, `totalSamplesReceived`.";
        concealed_samples("concealed_samples"): optional u64 [range::COUNT], "Cumulative samples synthesised because no packet arrived in time, `concealedSamples`.";
        silent_concealed_samples("silent_concealed_samples"): optional u64 [range::COUNT], "Cumulative concealed samples that are silence, which listeners do not notice, `silentConcealedSamples`.";
        neteq("neteq"): optional NetEq, "Cumulative count of NetEQ's decisions by operation.";
        concealment_events("concealment_events"): optional u64 [range::COUNT], "Cumulative gaps that were concealed, `concealmentEvents`.";
        inserted_samples("inserted_samples_for_deceleration"): optional u64 [range::COUNT], "Cumulative samples inserted to play slower, `insertedSamplesForDeceleration`.";
        removed_samples("removed_samples_for_acceleration"): optional u64 [range::COUNT], "Cumulative samples removed to play faster, `removedSamplesForAcceleration`.";
        packets_discarded("packets_discarded"): optional u64 [range::COUNT], "Cumulative packets that arrived too late or too early to be played, `packetsDiscarded`.";
    }

    /// A video received from one remote peer: its camera's or its shared screen's. The default has
    /// no value.
    #[derive(Default)]
    "video" struct Video {
        fps("fps"): optional f64 [range::FPS], "Current rate of decoded frames, per second.";
        frames_buffered("frames_buffered"): optional f64 [range::WAITING], "Frames that wait to be decoded or rendered.";
        bitrate_kbps("bitrate_kbps"): optional f64 [range::KBPS], "Current bit rate, in kilobits per second.";
        frames_decoded("frames_decoded"): optional u64 [range::COUNT], "Cumulative frames decoded, `framesDecoded`.";
        frames_dropped("frames_dropped"): optional u64 [range::COUNT], "Cumulative frames dropped before they were rendered, `framesDropped`.";
        freeze_count("freeze_count"): optional u64 [range::COUNT], "Cumulative freezes, `freezeCount`.";
        packets_received("packets_received"): optional u64 [range::COUNT], "Cumulative packets received, `packetsReceived`.";
        packets_lost("packets_lost"): optional u64 [range::COUNT], "Cumulative packets lost, `packetsLost`.";
        freezes_ms("total_freezes_duration_ms"): optional u64 [range::COUNT], "Cumulative time frozen, in milliseconds, `totalFreezesDuration`.";
        frame_height("frame_height"): optional u64 [range::PIXELS], "Height of the frames, in pixels, `frameHeight`.";
        nack_count("nack_count"): optional u64 [range::COUNT], "Cumulative requests to send a packet again, `nackCount`.";
        pli_count("pli_count"): optional u64 [range::COUNT], "Cumulative requests for a whole picture, `pliCount`.";
    }

    /// The application and the platform that it runs on. The default has no value.
    #[derive(Default)]
    "client" struct Client<'a> {
        app("app"): optional App<'a>, "Release of the application, such as `web-2.14.0`.";
        platform("platform"): optional Platform, "`chrome`, `firefox`, `safari`, `android`, `ios` or `desktop`; any other word is read as `other`.";
    }

    /// The network path of the selected candidate pair. The default has no value.
    #[derive(Default)]
    "path" struct Path {
        candidate_type("candidate_type"): optional CandidateType, "Local candidate: `host`, `srflx`, `prflx` or `relay`; any other word is read as `other`.";
        protocol("protocol"): optional Protocol, "Protocol of the first hop: `udp`, `tcp` or `tls`; any other word is read as `other`.";
        available_outgoing_kbps("available_outgoing_kbps"): optional f64 [range::KBPS], "Estimated bandwidth for what this session sends, in kilobits per second.";
        ice_restarts("ice_restarts"): optional u64 [range::COUNT], "Cumulative ICE restarts.";
    }

    /// The media that a session sends: what the far end reports of it, and what limits it. The
    /// default has no value.
    #[derive(Default)]
    "send" struct Sending {
        rtt_ms("rtt_ms"): optional f64 [range::MILLISECONDS], "Round-trip time of the media, as the far end's reports show it, in milliseconds.";
        audio_packets_sent("audio_packets_sent"): optional u64 [range::COUNT], "Cumulative audio packets sent, `packetsSent`.";
        audio_packets_lost("audio_packets_lost"): optional u64 [range::COUNT], "Cumulative audio packets that the far end lacks, `packetsLost`.";
        video_packets_sent("video_packets_sent"): optional u64 [range::COUNT], "Cumulative video packets sent, `packetsSent`.";
        video_packets_lost("video_packets_lost"): optional u64 [range::COUNT], "Cumulative video packets that the far end lacks, `packetsLost`.";
        fps("frames_per_second"): optional f64 [range::FPS], "Current rate of encoded frames of the largest layer, per second.";
        frame_height("frame_height"): optional u64 [range::PIXELS], "Height of the largest layer's frames, in pixels, `frameHeight`.";
        bitrate_kbps("bitrate_kbps"): optional f64 [range::KBPS], "Current bit rate of all that is sent, in kilobits per second.";
        limited("quality_limitation_durations"): optional QualityLimitation, "Cumulative time for which something limited the video that is sent.";
        nack_count("nack_count"): optional u64 [range::COUNT], "Cumulative requests of the far end to send a packet again, `nackCount`.";
        pli_count("pli_count"): optional u64 [range::COUNT], "Cumulative requests of the far end for a whole picture, `pliCount`.";
    }

    /// For how long something limited the video that is sent, `qualityLimitationDurations`. The
    /// default has no value.
    #[derive(Default)]
    "quality_limitation_durations" struct QualityLimitation {
        cpu_ms("cpu"): optional u64 [range::COUNT], "Cumulative time limited by the processor, in milliseconds.";
        bandwidth_ms("bandwidth"): optional u64 [range::COUNT], "Cumulative time limited by the network, in milliseconds.";
        other_ms("other"): optional u64 [range::COUNT], "Cumulative time limited by something else, in milliseconds.";
    }

    /// An attempt to join a call.
    "join" struct Join {
        state("state"): required JoinState, "`joining`, `joined` or `failed`; any other word is read as `other`.";
        setup_ms("setup_ms"): optional f64 [range::MILLISECONDS], "Time since the attempt began while `joining`, else the time that it took, in milliseconds.";
        reason("reason"): optional JoinFailure, "Why it failed: `ice`, `dtls`, `signaling`, `unauthorized`, `media`, `timeout` or `aborted`; any other word is read as `other`.";
    }
}

/// The fields of each map by the key that holds it, the frame's own under an empty one. For tests
/// and tools that compare them with the specification.
#[doc(hidden)]
pub const MAPS: &[(&str, &[Field])] = &[
    ("", Frame::FIELDS),
    ("server", Server::FIELDS),
    ("peers", Peer::FIELDS),
    ("audio", Audio::FIELDS),
    ("neteq", NetEq::FIELDS),
    ("video", Video::FIELDS),
    ("screen", Video::FIELDS),
    ("client", Client::FIELDS),
    ("path", Path::FIELDS),
    ("send", Sending::FIELDS),
    ("quality_limitation_durations", QualityLimitation::FIELDS),
    ("join", Join::FIELDS),
];

/// The form in which a frame is written. The decoder accepts both, mixed at any level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Maps with string keys and without absent values: what JavaScript and Python write naturally.
    Named,
    /// Arrays in the documented order of the fields, nil for an absent value: a quarter of the
    /// bytes.
    Compact,
}

impl<'a> Frame<'a> {
    /// A frame of version 1 with its required fields: no peers, and every optional value absent.
    ///
    /// Later versions of this crate add optional fields, so build a frame as
    /// `Frame { server: Some(server), ..Frame::new(…) }`.
    #[must_use]
    pub const fn new(
        meeting_id: MeetingId<'a>,
        session_id: SessionId<'a>,
        peer_id: PeerId<'a>,
        seq: Seq,
        sent_at_ms: u64,
    ) -> Self {
        Self {
            version: Version,
            meeting_id,
            session_id,
            peer_id,
            seq,
            sent_at_ms,
            ended: None,
            server: None,
            audio_enabled: None,
            video_enabled: None,
            tab_visible: None,
            peers: Vec::new(),
            client: None,
            path: None,
            send: None,
            join: None,
            rates: Vec::new(),
        }
    }

    /// Decodes a frame of either form. The frame borrows its text from the message.
    ///
    /// Packets of videocall.rs need memory of their own: [`Decoder`] reads them too.
    ///
    /// # Errors
    /// A [`Rejection`] when the frame breaks a rule of the specification.
    pub fn decode(message: &'a [u8]) -> Result<Self, Rejection> {
        Self::decode_into(message, Vec::new())
    }

    /// Decodes a frame into the memory of `peers`.
    fn decode_into(message: &'a [u8], peers: Vec<Peer<'a>>) -> Result<Self, Rejection> {
        let mut bytes = Bytes::new(message, peers);
        let short = message.len() <= MAX_FRAME_BYTES;
        match short.then(|| Self::quick(&mut bytes, u64::MAX)).flatten().filter(|_| bytes.is_empty()) {
            Some(frame) => Ok(frame),
            None => Self::decode_carefully(message),
        }
    }

    /// Decodes without the fast path, for tests and the fuzzer that compare the two.
    ///
    /// # Errors
    /// Those of [`Frame::decode`].
    #[doc(hidden)]
    pub fn decode_carefully(message: &'a [u8]) -> Result<Self, Rejection> {
        if message.len() > MAX_FRAME_BYTES {
            let detail = format!("{} bytes, a frame has at most {MAX_FRAME_BYTES}", message.len());
            return Err(Rejection::new(Reason::TooLarge, detail));
        }
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(message);
        // The library rejects the level at which its count reaches zero.
        deserializer.set_max_depth(MAX_NESTING + 1);
        let frame = Self::read(&mut deserializer).map_err(|error| {
            let Rejection { reason, detail } = Rejection::from_decoder(&error);
            let hint = packet::hint(message).map(|hint| format!("; {hint}")).unwrap_or_default();
            Rejection::new(reason, detail + &hint)
        })?;
        // A bool has one byte, so any further byte of the message is one, or of another type.
        match bool::deserialize(&mut deserializer) {
            Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(frame),
            _ => Err(Rejection::new(Reason::Malformed, "more bytes follow the frame")),
        }
    }

    /// Encodes the frame.
    ///
    /// The caller ensures what the types can't: numbers are finite and within their ranges, there
    /// are at most [`MAX_PEERS`] peers, and the result has at most [`MAX_FRAME_BYTES`]. Otherwise
    /// decoders reject the frame.
    #[must_use]
    pub fn encode(&self, form: Form) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        let written = match form {
            Form::Named => {
                let mut serializer =
                    rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
                serde::Serialize::serialize(self, &mut serializer)
            }
            Form::Compact => serde::Serialize::serialize(self, &mut rmp_serde::Serializer::new(&mut bytes)),
        };
        debug_assert!(written.is_ok(), "a Vec takes every byte, and every length is known: {written:?}");
        bytes
    }
}

impl<'a> Server<'a> {
    /// A server whose round-trip time is not measured.
    #[must_use]
    pub const fn new(url: ServerUrl<'a>, server_type: ServerType) -> Self {
        Self { url, server_type, rtt_ms: None }
    }
}

impl<'a> Peer<'a> {
    /// A peer whose microphone and camera are off, who is neither heard nor seen, and without
    /// statistics.
    #[must_use]
    pub const fn new(peer_id: PeerId<'a>) -> Self {
        Self {
            peer_id,
            can_listen: false,
            can_see: false,
            audio_enabled: false,
            video_enabled: false,
            audio: None,
            video: None,
            audio_wanted: None,
            video_wanted: None,
            screen: None,
        }
    }
}

/// Decodes frames one after the other in the same memory: frames of either form, and packets of
/// videocall.rs.
///
/// This is the one function that knows what may be on a stream.
#[derive(Default)]
pub struct Decoder {
    /// The memory of the last frame's peers, empty.
    peers: Vec<Peer<'static>>,
    packets: PacketReader,
}

impl Decoder {
    /// Decodes a message and lends its frame to `then`. [`Frame::decode`] returns an owned frame
    /// instead.
    ///
    /// `server_id` is that of the message's [subject](subject::Subject), if it is known: the relays
    /// of videocall.rs remove the server's address from their packets, so it names the server.
    ///
    /// # Errors
    /// A [`Rejection`] when the message breaks a rule of the specification.
    pub fn with<T>(
        &mut self,
        message: &[u8],
        server_id: Option<&str>,
        then: impl FnOnce(&Frame<'_>) -> T,
    ) -> Result<T, Rejection> {
        let peers = std::mem::take(&mut self.peers);
        let is_packet = packet::begins(message);
        let frame = if is_packet {
            self.packets.read(message, server_id, peers)?
        } else {
            Frame::decode_into(message, peers)?
        };
        let result = then(&frame);
        let Frame { peers, rates, .. } = frame;
        self.peers = emptied(peers);
        if is_packet {
            self.packets.keep(rates);
        }
        Ok(result)
    }
}

/// Empties a list and keeps its memory for values of another lifetime.
fn emptied<T, U>(mut values: Vec<T>) -> Vec<U> {
    values.clear();
    // An empty list can have any lifetime, and collecting it in place keeps the memory.
    values.into_iter().filter_map(|_| None).collect()
}

/// Reads a frame from other formats of serde, for people and scripts: JSON has the shape of the
/// named form.
///
/// The frame borrows its text, so JSON with escapes must be parsed to a `serde_json::Value` first.
impl<'de: 'a, 'a> Deserialize<'de> for Frame<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(deserializer)
    }
}

/// The schema version. There is one, so the type has one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version;

impl Version {
    const NUMBER: u64 = 1;
}

impl<'de> Value<'de> for Version {
    const KIND: &'static str = "uint";

    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::read(deserializer)? {
            Self::NUMBER => Ok(Self),
            other => {
                let detail = format!("version {other}, this decoder reads {}", Self::NUMBER);
                Err(Rejection::new(Reason::UnsupportedVersion, detail).into_serde())
            }
        }
    }
}

impl serde::Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(Self::NUMBER)
    }
}

/// A frame's number within its session: 1, 2, 3 …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Seq(std::num::NonZeroU64);

impl Seq {
    /// Number of a session's first frame.
    pub const FIRST: Self = Self(std::num::NonZeroU64::MIN);

    /// Wraps a number from 1 to 2^53.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match std::num::NonZeroU64::new(number) {
            Some(number) if number.get() <= range::SEQ => Some(Self(number)),
            _ => None,
        }
    }

    /// Returns the number on the wire.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl<'de> Value<'de> for Seq {
    const KIND: &'static str = "uint";

    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::read(deserializer)?;
        let detail = || match number {
            0 => "0, the first frame of a session has 1".to_owned(),
            _ => format!("{number} is more than {}", range::SEQ),
        };
        Self::new(number).ok_or_else(|| Rejection::new(Reason::OutOfRange, detail()).into_serde())
    }
}

impl<'de: 'a, 'a> Value<'de> for Vec<Peer<'a>> {
    const KIND: &'static str = "array of maps";

    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PeersVisitor;
        impl<'de> Visitor<'de> for PeersVisitor {
            type Value = Vec<Peer<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of peers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                // The claimed length is checked before memory is reserved for it.
                let claimed = seq.size_hint().unwrap_or(0);
                if claimed > MAX_PEERS {
                    return Err(too_many(claimed));
                }
                let mut peers = Vec::with_capacity(claimed);
                loop {
                    let place = format_args!("[{}]", peers.len());
                    let next = seq.next_element::<wire::Slot<Peer<'de>>>();
                    match next.map_err(|error| locate(error, place, "map"))? {
                        None => return Ok(peers),
                        Some(_) if peers.len() == MAX_PEERS => return Err(too_many(MAX_PEERS + 1)),
                        Some(None) => return Err(locate(wire::missing(), place, "map")),
                        Some(Some(wire::Read(peer))) => peers.push(peer),
                    }
                }
            }
        }
        fn too_many<E: Error>(peers: usize) -> E {
            let detail = format!("{peers} peers, a frame has at most {MAX_PEERS}");
            Rejection::new(Reason::TooManyPeers, detail).into_serde()
        }
        // `deserialize_seq` of rmp-serde would accept an empty bin.
        deserializer.deserialize_any(PeersVisitor)
    }
}

/// Runs the README's example with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
