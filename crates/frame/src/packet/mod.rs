//! The packet of videocall.rs: a third form of the frame.
//!
//! The relays of videocall.rs publish a protobuf `HealthPacket` on the very subjects of frames, so
//! with a decoder for it an unchanged service has everything that a stream of frames has. But a
//! packet is no frame: it has rates where a frame has counts, an e-mail address where a frame has
//! an identifier, a map in random order, and no address of its server. [`PacketReader`] makes a
//! frame of it, and keeps the texts that are not in the message and what it needs from one packet
//! to the next.
//!
//! Invariants:
//! - A packet's frame keeps the limits of any frame.
//! - A packet that another version or another encoder writes has the same frame: unknown fields are
//!   skipped, and fields may be in any order after the first.

mod protobuf;
mod texts;

use super::identifier::{MeetingId, PeerId, SessionId, is_identifier};
use super::neteq::{AudioRates, Operation};
use super::reject::{Reason, Rejection};
use super::server_url::ServerUrl;
use super::subject::is_token;
use super::words::ServerType;
use super::{Audio, Frame, MAX_FRAME_BYTES, MAX_PEERS};
use super::{Peer, Seq, Server, Video, emptied, range};
use protobuf::{Fault, Fields, Locate, WireValue};
use texts::{HiddenIdentifiers, Text};

/// The key of the first field, `session_id`. As MessagePack it is the number 10, which is no frame.
const FIRST: u8 = 1 << 3 | 2;

/// The keys of the other fields that the first version has. A message that begins with one of them
/// is probably a packet too, of an encoder that begins with another field.
const OTHERS: [u8; 9] = [0x12, 0x1a, 0x20, 0x28, 0x30, 0x3a, 0x42, 0x4a, 0x51];

/// NetEQ's operations in the order of the packet's fields, from 1.
const OPERATIONS: [(Operation, &str); Operation::ALL.len()] = [
    (Operation::Normal, "normal_per_sec"),
    (Operation::Expand, "expand_per_sec"),
    (Operation::Accelerate, "accelerate_per_sec"),
    (Operation::FastAccelerate, "fast_accelerate_per_sec"),
    (Operation::PreemptiveExpand, "preemptive_expand_per_sec"),
    (Operation::Merge, "merge_per_sec"),
    (Operation::ComfortNoise, "comfort_noise_per_sec"),
    (Operation::Dtmf, "dtmf_per_sec"),
    (Operation::Undefined, "undefined_per_sec"),
];

/// Whether a message is a packet.
pub(super) fn begins(message: &[u8]) -> bool {
    message.first() == Some(&FIRST)
}

/// What to say of a message that is neither a frame nor a packet, but may have been meant as one.
pub(super) fn hint(message: &[u8]) -> Option<&'static str> {
    let first = message.first()?;
    if *first == FIRST {
        Some("this is a packet of videocall.rs, which a Decoder reads")
    } else {
        let hint = "a packet of videocall.rs must begin with its session_id";
        OTHERS.contains(first).then_some(hint)
    }
}

/// The length of the first of several packets that follow each other: a packet ends where the next
/// one's `session_id` begins. `None` if the bytes do not begin with a packet.
///
/// ```
/// use callsight_frame::first_packet;
///
/// let two = [&[0x0a, 1, b'a', 0x20, 1][..], &[0x0a, 1, b'b', 0x20, 2]].concat();
/// assert_eq!(first_packet(&two), Some(5));
/// assert_eq!(first_packet(&[0x80]), None);
/// ```
#[must_use]
pub fn first_packet(bytes: &[u8]) -> Option<usize> {
    if !begins(bytes) {
        return None;
    }
    let mut fields = Fields(bytes);
    // What can't be read is part of the packet, so that the decoder says what is wrong with it.
    while let Ok(Some(_)) = fields.next() {
        if begins(fields.0) {
            return Some(bytes.len() - fields.0.len());
        }
    }
    Some(bytes.len())
}

/// Reads packets one after the other in the same memory.
#[derive(Default)]
pub(super) struct PacketReader {
    entries: Vec<Entry<'static>>,
    rates: Vec<Option<AudioRates>>,
    /// What the present packet's frame names and the packet does not: hidden identifiers, and the
    /// server's address.
    texts: String,
    hidden: HiddenIdentifiers,
}

/// An entry of `peer_stats`.
#[derive(Clone, Copy)]
struct Entry<'a> {
    key: &'a str,
    stats: &'a [u8],
    /// Its position in the packet, for the path of an error.
    position: usize,
    peer_id: Text<'a>,
}

/// The fields of a packet as they are on the wire. An empty text and a zero are absent ones.
#[derive(Default)]
struct HealthPacket<'a> {
    session_id: &'a str,
    meeting_id: &'a str,
    reporting_user_id: &'a [u8],
    timestamp_ms: u64,
    audio_enabled: bool,
    video_enabled: bool,
    server_url: &'a str,
    server_type: &'a str,
    server_rtt_ms: f64,
    tab_visible: bool,
    tab_throttled: bool,
}

impl PacketReader {
    /// Reads a packet into a frame with the memory of `peers`.
    pub(super) fn read<'a>(
        &'a mut self,
        message: &'a [u8],
        server_id: Option<&str>,
        peers: Vec<Peer<'a>>,
    ) -> Result<Frame<'a>, Rejection> {
        if message.len() > MAX_FRAME_BYTES {
            let detail = format!("{} bytes, a packet has at most {MAX_FRAME_BYTES}", message.len());
            return Err(Rejection::new(Reason::TooLarge, detail));
        }
        self.read_fields(message, server_id, peers).map_err(Rejection::from)
    }

    fn read_fields<'a>(
        &'a mut self,
        message: &'a [u8],
        server_id: Option<&str>,
        mut peers: Vec<Peer<'a>>,
    ) -> Result<Frame<'a>, Fault> {
        let Self { entries: kept, rates, texts, hidden } = self;
        let mut entries: Vec<Entry<'a>> = std::mem::take(kept);
        let packet = HealthPacket::read(message, &mut entries)?;
        texts.clear();
        let peer_id = hidden.person(packet.reporting_user_id, texts);
        let session_id = hidden.session(packet.session_id, &peer_id, texts);
        let meeting_id = match is_identifier(packet.meeting_id) {
            true => Text::OfMessage(packet.meeting_id),
            false => hidden.hide(packet.meeting_id.as_bytes(), texts),
        };
        let origin = packet.names_no_url().then(|| relay(server_id, texts)).transpose()?;
        // A map has no order. With one, the fold finds each peer where it was in the packet before.
        entries.sort_unstable_by(|one, other| (one.key, one.position).cmp(&(other.key, other.position)));
        entries.dedup_by(|later, earlier| {
            let again = later.key == earlier.key;
            if again {
                *earlier = *later;
            }
            again
        });
        for entry in &mut entries {
            entry.peer_id = hidden.person(entry.key.as_bytes(), texts);
        }

        let texts = &**texts;
        let place = |step| move |rejection| Fault::from(rejection).at(step);
        let server = packet.server(origin.map(|origin| origin.of(texts)))?;
        let seq = Seq::new(packet.timestamp_ms).ok_or_else(|| packet.without_time())?;
        let mut rates = std::mem::take(rates);
        rates.clear();
        peers.clear();
        for Entry { stats, position, peer_id, .. } in &entries {
            let located = |fault: Fault| fault.at(format_args!("[{position}]")).at("peer_stats");
            let peer_id = PeerId::new(peer_id.of(texts)).map_err(Fault::from).map_err(located)?;
            peers.push(Peer::new(peer_id));
            let Some(peer) = peers.last_mut() else { continue };
            rates.push(read_peer(stats, peer).map_err(located)?);
        }
        *kept = emptied(entries);
        Ok(Frame {
            server,
            audio_enabled: Some(packet.audio_enabled),
            video_enabled: Some(packet.video_enabled),
            tab_visible: packet.tab(),
            peers,
            rates,
            ..Frame::new(
                MeetingId::new(meeting_id.of(texts)).map_err(place("meeting_id"))?,
                SessionId::new(session_id.of(texts)).map_err(place("session_id"))?,
                PeerId::new(peer_id.of(texts)).map_err(place("reporting_user_id"))?,
                seq,
                packet.timestamp_ms,
            )
        })
    }

    /// Keeps the memory of a frame's rates for the next packet.
    pub(super) fn keep(&mut self, rates: Vec<Option<AudioRates>>) {
        self.rates = rates;
    }
}

impl<'a> HealthPacket<'a> {
    fn read(message: &'a [u8], entries: &mut Vec<Entry<'a>>) -> Result<Self, Fault> {
        let mut packet = Self::default();
        let mut fields = Fields(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => packet.session_id = value.text().at("session_id")?,
                2 => packet.meeting_id = value.text().at("meeting_id")?,
                3 => packet.reporting_user_id = value.bytes().at("reporting_user_id")?,
                4 => packet.timestamp_ms = value.whole(range::UNIX_MS).at("timestamp_ms")?,
                5 => packet.audio_enabled = value.flag().at("reporting_audio_enabled")?,
                6 => packet.video_enabled = value.flag().at("reporting_video_enabled")?,
                7 if entries.len() == MAX_PEERS => {
                    let detail = format!("more than {MAX_PEERS}, which is the most of a packet");
                    return Err(Fault::new(Reason::TooManyPeers, detail).at("peer_stats"));
                }
                7 => {
                    let position = entries.len();
                    let entry = Entry::read(value, position);
                    entries.push(
                        entry.map_err(|fault| fault.at(format_args!("[{position}]")).at("peer_stats"))?,
                    );
                }
                8 => packet.server_url = value.text().at("active_server_url")?,
                9 => packet.server_type = value.text().at("active_server_type")?,
                10 => packet.server_rtt_ms = value.measure(range::MILLISECONDS).at("active_server_rtt_ms")?,
                11 => packet.tab_visible = value.flag().at("is_tab_visible")?,
                15 => packet.tab_throttled = value.flag().at("is_tab_throttled")?,
                _ => {}
            }
        }
        for (field, is_empty) in [
            ("session_id", packet.session_id.is_empty()),
            ("meeting_id", packet.meeting_id.is_empty()),
            ("reporting_user_id", packet.reporting_user_id.is_empty()),
        ] {
            if is_empty {
                return Err(Fault::new(Reason::MissingField, "empty, which is absent").at(field));
            }
        }
        Ok(packet)
    }

    /// Whether the packet knows a server of which it does not name the address.
    fn names_no_url(&self) -> bool {
        self.server_url.is_empty() && (!self.server_type.is_empty() || self.server_rtt_ms > 0.0)
    }

    /// The elected server, under the address in the packet, or else under `origin`.
    fn server(&self, origin: Option<&'a str>) -> Result<Option<Server<'a>>, Fault> {
        let url = match origin {
            Some(origin) => ServerUrl::of_origin(origin),
            None if self.server_url.is_empty() => return Ok(None),
            None => ServerUrl::new(self.server_url).map_err(Fault::from).at("active_server_url")?,
        };
        let rtt_ms = Some(self.server_rtt_ms).filter(|rtt_ms| *rtt_ms > 0.0);
        Ok(Some(Server { rtt_ms, ..Server::new(url, ServerType::named(self.server_type)) }))
    }

    /// Whether the tab is shown. Versions that do not know write neither of the two.
    const fn tab(&self) -> Option<bool> {
        match (self.tab_visible, self.tab_throttled) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }

    fn without_time(&self) -> Fault {
        let detail = format!("{}, a packet needs the time of its client's clock", self.timestamp_ms);
        Fault::new(Reason::OutOfRange, detail).at("timestamp_ms")
    }
}

/// Writes the address of a server that only its id is known of.
fn relay<'a>(server_id: Option<&str>, texts: &mut String) -> Result<Text<'a>, Fault> {
    let server_id = server_id.unwrap_or("unknown");
    if !is_token(server_id) {
        return Err(Fault::new(Reason::BadSubject, "the server_id is not a token of a subject"));
    }
    let from = texts.len();
    texts.push_str("relay://");
    texts.extend(server_id.chars().map(|letter| letter.to_ascii_lowercase()));
    Ok(Text::Made(from, texts.len()))
}

impl<'a> Entry<'a> {
    fn read(value: WireValue<'a>, position: usize) -> Result<Self, Fault> {
        let (mut key, mut stats) = ("", &[][..]);
        let mut fields = Fields(value.bytes()?);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => key = value.text().at("key")?,
                2 => stats = value.bytes()?,
                _ => {}
            }
        }
        Ok(Self { key, stats, position, peer_id: Text::OfMessage("") })
    }
}

/// Reads a `PeerStats` into a peer, and returns the rates of its audio.
fn read_peer(stats: &[u8], peer: &mut Peer<'_>) -> Result<Option<AudioRates>, Fault> {
    let mut rates = None;
    let mut fields = Fields(stats);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => peer.can_listen = value.flag().at("can_listen")?,
            2 => peer.can_see = value.flag().at("can_see")?,
            3 => peer.audio_enabled = value.flag().at("audio_enabled")?,
            4 => peer.video_enabled = value.flag().at("video_enabled")?,
            5 => {
                let audio = peer.audio.get_or_insert_default();
                let rates = rates.get_or_insert_default();
                value.bytes().and_then(|stats| read_audio(stats, audio, rates)).at("neteq_stats")?;
            }
            6 => {
                let video = peer.video.get_or_insert_default();
                value.bytes().and_then(|stats| read_video(stats, video)).at("video_stats")?;
            }
            14 => {
                let screen = peer.screen.get_or_insert_default();
                value.bytes().and_then(|stats| read_video(stats, screen)).at("screen_video_stats")?;
            }
            _ => {}
        }
    }
    // A client also does not see what it does not ask for, such as a tile out of sight, and its
    // packet does not tell the one from the other.
    peer.video_wanted = (peer.video_enabled && !peer.can_see).then_some(false);
    Ok(rates)
}

fn read_audio(stats: &[u8], audio: &mut Audio, rates: &mut AudioRates) -> Result<(), Fault> {
    // A buffer may be empty, so here a zero is a measurement.
    (audio.buffer_ms, audio.packets_awaiting_decode) = (Some(0.0), Some(0.0));
    let mut fields = Fields(stats);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => audio.buffer_ms = Some(value.measure(range::MILLISECONDS).at("current_buffer_size_ms")?),
            2 => {
                let waiting = value.measure(range::WAITING).at("packets_awaiting_decode")?;
                audio.packets_awaiting_decode = Some(waiting);
            }
            3 => value.bytes().and_then(|stats| read_network(stats, rates)).at("network")?,
            4 => rates.packets = value.measure(range::PER_SECOND).at("packets_per_sec")?,
            5 => audio.target_ms = known(value.measure(range::MILLISECONDS).at("target_delay_ms")?),
            _ => {}
        }
    }
    Ok(())
}

fn read_network(network: &[u8], rates: &mut AudioRates) -> Result<(), Fault> {
    let mut fields = Fields(network);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            value.bytes().and_then(|counters| read_operations(counters, rates)).at("operation_counters")?;
        }
    }
    Ok(())
}

fn read_operations(counters: &[u8], rates: &mut AudioRates) -> Result<(), Fault> {
    let mut fields = Fields(counters);
    while let Some((number, value)) = fields.next()? {
        let index = (number as usize).wrapping_sub(1);
        if let Some((operation, name)) = OPERATIONS.get(index) {
            rates.operations[*operation as usize] = value.measure(range::PER_SECOND).at(name)?;
        }
    }
    Ok(())
}

fn read_video(stats: &[u8], video: &mut Video) -> Result<(), Fault> {
    // Without pictures the rate is 0. The others are 0 where the client does not count them, as
    // it never counts `frames_decoded`.
    video.fps = Some(0.0);
    let mut fields = Fields(stats);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => video.fps = Some(value.measure(range::FPS).at("fps_received")?),
            2 => video.frames_buffered = known(value.measure(range::WAITING).at("frames_buffered")?),
            4 => {
                #[expect(clippy::cast_precision_loss, reason = "the range is exact")]
                let bitrate_kbps = value.whole(range::KBPS).at("bitrate_kbps")? as f64;
                video.bitrate_kbps = known(bitrate_kbps);
            }
            _ => {}
        }
    }
    Ok(())
}

/// A value that is absent as long as it is 0.
fn known(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}
