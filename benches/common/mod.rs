//! Frames to measure with: meetings where every session observes every other, with every value
//! present.

// Each benchmark is a crate of its own and uses a part of this.
#![allow(dead_code, clippy::allow_attributes, reason = "used in part by each benchmark")]

use std::error::Error;
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use callsight_fold::series::aggregates::{Aggregates, RegionSeries};
use callsight_fold::series::detail::{DetailPlane, DetailStore};
use callsight_fold::series::exposition::{Format, write_page};
use callsight_fold::{DetailLevel, Fold, FoldSettings, SessionBudget, StreamTime};
use callsight_frame::{
    App, Audio, CandidateType, Client, Frame, Join, JoinState, MeetingId, NetEq, Path, Peer, PeerId,
    Platform, Protocol, QualityLimitation, Sending, Seq, Server, ServerType, ServerUrl, SessionId, Video,
};
use callsight_testkit::process::memory;
use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use protobuf::{Message, MessageField};
use rustix::time::{ClockId, clock_gettime};
use videocall_types::protos::health_packet::{
    HealthPacket, NetEqNetwork, NetEqOperationCounters, NetEqStats, PeerStats, VideoStats,
};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Counts bytes and discards them, as a connection would take them away.
#[derive(Default)]
pub(crate) struct Counting(pub(crate) usize);

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += black_box(bytes).len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Processor time of the thread: on a shared machine, wall-clock time mostly measures other work.
pub(crate) struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// The settings of every benchmark.
pub(crate) fn criterion() -> Criterion<CpuTime> {
    let (warm_up, measurement) = (Duration::from_secs(1), Duration::from_secs(3));
    Criterion::default().with_measurement(CpuTime).warm_up_time(warm_up).measurement_time(measurement)
}

/// When the benchmarks begin, in nanoseconds since the Unix epoch.
pub(crate) const BEGIN: StreamTime = StreamTime::from_unix_nanos(1_760_000_000_000_000_000);

/// The identifiers of one session's frames, as long as they are in practice.
pub(crate) struct Names {
    meeting: String,
    session: String,
    peers: Vec<String>,
}

impl Names {
    /// The identifiers of the session with a number, in meetings of `parties`.
    pub(crate) fn new(session: usize, parties: usize) -> Self {
        let (meeting, own) = (session / parties, session % parties);
        let peer = |place: usize| format!("user-{meeting:06}-{place:02}@example.com");
        Self {
            meeting: format!("meeting-{meeting:010}"),
            session: format!("{:08x}-5c1e-4b7a-9d20-{session:012x}", session.wrapping_mul(2_654_435_761)),
            peers: std::iter::once(own).chain((0..parties).filter(|place| *place != own)).map(peer).collect(),
        }
    }

    /// [`Self::new`], with each identifier padded to `bytes`.
    pub(crate) fn filled(session: usize, parties: usize, bytes: usize) -> Self {
        let Self { meeting, session, peers } = Self::new(session, parties);
        let fill = |id: String| format!("{id:_<bytes$}");
        Self { meeting: fill(meeting), session: fill(session), peers: peers.into_iter().map(fill).collect() }
    }

    /// Frame `seq`: its counters have grown by five seconds' worth since the one before.
    pub(crate) fn frame(&self, seq: u64) -> Frame<'_> {
        let peers = self.peers[1..].iter();
        let peers =
            peers.map(|peer_id| observed(id(PeerId::new(peer_id)), seq, self.salt(peer_id))).collect();
        let url = id(ServerUrl::new("https://relay-17.us.example.com:4433"));
        let server = Server::new(url, ServerType::WebTransport);
        Frame {
            server: Some(Server { rtt_ms: Some(measure(self.salt(""), 20.0)), ..server }),
            audio_enabled: Some(true),
            video_enabled: Some(true),
            tab_visible: Some(true),
            peers,
            ..Frame::new(
                id(MeetingId::new(&self.meeting)),
                id(SessionId::new(&self.session)),
                id(PeerId::new(&self.peers[0])),
                id(Seq::new(seq).ok_or("seq is 0")),
                1_760_000_000_000 + seq * 5000,
            )
        }
    }

    /// Frame `seq` with all that a browser reports beside, and a shared screen.
    pub(crate) fn full_frame(&self, seq: u64) -> Frame<'_> {
        let client = Client { app: App::new("web-2.14.0").ok(), platform: Some(Platform::Chrome) };
        let path = Path {
            candidate_type: Some(CandidateType::ServerReflexive),
            protocol: Some(Protocol::Udp),
            available_outgoing_kbps: Some(measure(self.salt(""), 2000.0)),
            ice_restarts: Some(1),
        };
        let join = Join { state: JoinState::Joined, setup_ms: Some(843.0), reason: None };
        let sending = Sending {
            rtt_ms: Some(measure(self.salt(""), 30.0)),
            fps: Some(30.0),
            frame_height: Some(720),
            bitrate_kbps: Some(measure(self.salt(""), 1500.0)),
            limited: Some(QualityLimitation::default()),
            ..Sending::default()
        };
        let mut frame = Frame {
            client: Some(client),
            path: Some(path),
            join: Some(join),
            send: Some(sending),
            ..self.frame(seq)
        };
        for peer in &mut frame.peers {
            (peer.audio_wanted, peer.video_wanted) = (Some(true), Some(true));
            peer.screen = peer.video.clone();
        }
        advance_full(&mut frame, seq);
        frame
    }

    /// Frame `seq` as a packet of videocall.rs, with all that its clients report.
    pub(crate) fn packet(&self, seq: u64) -> Vec<u8> {
        let peer_stats =
            self.peers[1..].iter().map(|peer_id| (peer_id.clone(), self.stats(peer_id))).collect();
        let packet = HealthPacket {
            session_id: (u64::MAX - u64::from(self.salt(""))).to_string(),
            meeting_id: self.meeting.clone(),
            reporting_user_id: self.peers[0].clone().into_bytes(),
            timestamp_ms: 1_760_000_000_000 + seq * 5000,
            reporting_audio_enabled: true,
            reporting_video_enabled: true,
            peer_stats,
            active_server_type: "webtransport".into(),
            active_server_rtt_ms: measure(self.salt(""), 20.0),
            ..HealthPacket::default()
        };
        id(packet.write_to_bytes())
    }

    /// What a packet says of a peer.
    fn stats(&self, peer_id: &str) -> PeerStats {
        let salt = self.salt(peer_id);
        let operation_counters = MessageField::some(NetEqOperationCounters {
            normal_per_sec: 94.0,
            merge_per_sec: 0.6,
            expand_per_sec: 1.0,
            accelerate_per_sec: 2.2,
            fast_accelerate_per_sec: 0.02,
            preemptive_expand_per_sec: 1.6,
            ..NetEqOperationCounters::default()
        });
        PeerStats {
            can_listen: true,
            can_see: true,
            audio_enabled: true,
            video_enabled: true,
            neteq_stats: MessageField::some(NetEqStats {
                current_buffer_size_ms: measure(salt, 40.0),
                packets_awaiting_decode: 4.0,
                packets_per_sec: 50.0,
                network: MessageField::some(NetEqNetwork { operation_counters, ..NetEqNetwork::default() }),
                ..NetEqStats::default()
            }),
            video_stats: MessageField::some(VideoStats {
                fps_received: measure(salt, 0.0).min(30.0),
                frames_buffered: 2.0,
                bitrate_kbps: u64::from(salt % 2000),
                ..VideoStats::default()
            }),
            ..PeerStats::default()
        }
    }

    /// A number that differs for each pair of a session and a peer.
    fn salt(&self, peer_id: &str) -> u32 {
        let bytes = self.session.bytes().chain(peer_id.bytes());
        bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

/// A value that varies as real ones do.
fn measure(salt: u32, least: f64) -> f64 {
    least + f64::from(salt % 9973) / 128.0
}

fn observed(peer_id: PeerId<'_>, seq: u64, salt: u32) -> Peer<'_> {
    let mut peer = Peer {
        can_listen: true,
        can_see: true,
        audio_enabled: true,
        video_enabled: true,
        audio: Some(Audio {
            buffer_ms: Some(measure(salt, 40.0)),
            target_ms: Some(measure(salt / 3, 40.0).trunc()),
            packets_awaiting_decode: Some(4.0),
            jitter_ms: Some(measure(salt / 5, 1.0)),
            ..Audio::default()
        }),
        video: Some(Video {
            fps: Some(measure(salt, 0.0).min(30.0)),
            frames_buffered: Some(2.0),
            bitrate_kbps: Some(measure(salt, 300.0) * 8.0),
            ..Video::default()
        }),
        ..Peer::new(peer_id)
    };
    count_on(&mut peer, seq + u64::from(salt % 1000));
    peer
}

/// Sets a peer's counters to their values in frame `seq`.
pub(crate) fn count_on(peer: &mut Peer<'_>, seq: u64) {
    if let Some(audio) = &mut peer.audio {
        audio.packets_received = Some(seq * 250);
        audio.packets_lost = Some(seq * 2);
        audio.total_samples = Some(seq * 240_000);
        audio.concealed_samples = Some(seq * 1200);
        audio.silent_concealed_samples = Some(seq * 300);
        audio.neteq = Some(NetEq {
            normal: Some(seq * 470),
            merge: Some(seq * 3),
            expand: Some(seq * 5),
            accelerate: Some(seq * 11),
            fast_accelerate: Some(seq / 10),
            preemptive_expand: Some(seq * 8),
            comfort_noise: Some(0),
            dtmf: Some(0),
            undefined: Some(0),
        });
    }
    if let Some(video) = &mut peer.video {
        video.frames_decoded = Some(seq * 150);
        video.frames_dropped = Some(seq / 4);
        video.freeze_count = Some(seq / 50);
    }
}

/// Turns a frame into frame `seq`, with its counters.
pub(crate) fn advance(frame: &mut Frame<'_>, seq: u64) {
    frame.seq = Seq::new(seq).unwrap_or(Seq::FIRST);
    frame.peers.iter_mut().for_each(|peer| count_on(peer, seq));
}

/// Turns a frame with everything into frame `seq`, with its counters.
pub(crate) fn advance_full(frame: &mut Frame<'_>, seq: u64) {
    advance(frame, seq);
    if let Some(send) = &mut frame.send {
        send.audio_packets_sent = Some(seq * 250);
        send.audio_packets_lost = Some(seq);
        send.video_packets_sent = Some(seq * 900);
        send.video_packets_lost = Some(seq * 4);
        send.nack_count = Some(seq * 3);
        send.pli_count = Some(seq / 20);
        send.limited = Some(QualityLimitation {
            cpu_ms: Some(seq * 40),
            bandwidth_ms: Some(seq * 90),
            other_ms: Some(0),
        });
    }
    for peer in &mut frame.peers {
        if let Some(audio) = &mut peer.audio {
            audio.concealment_events = Some(seq * 2);
            audio.inserted_samples = Some(seq * 480);
            audio.removed_samples = Some(seq * 320);
            audio.packets_discarded = Some(seq / 7);
        }
        for video in [&mut peer.video, &mut peer.screen].into_iter().flatten() {
            video.packets_received = Some(seq * 900);
            video.packets_lost = Some(seq * 3);
            video.freezes_ms = Some(seq * 12);
            video.frame_height = Some(720);
            video.nack_count = Some(seq * 2);
            video.pli_count = Some(seq / 30);
        }
    }
}

#[expect(clippy::panic, reason = "the benchmark itself is wrong")]
pub(crate) fn id<T, E: std::fmt::Debug>(value: Result<T, E>) -> T {
    value.unwrap_or_else(|error| panic!("not a valid frame: {error:?}"))
}

/// This process's resident memory, in bytes.
pub(crate) fn resident() -> usize {
    memory("self", "VmRSS:")
}

/// A fold and what it writes to.
pub(crate) struct World {
    pub(crate) fold: Fold,
    pub(crate) detail: DetailStore,
    pub(crate) aggregates: Aggregates,
    pub(crate) now: StreamTime,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(DetailLevel::Pair, 2_000_000)
    }

    /// A world with a budget of series.
    pub(crate) fn with(detail_level: DetailLevel, max_series: usize) -> Self {
        let aggregates = Aggregates::new();
        let own = Arc::new(RegionSeries::register(&**aggregates.recorder(), "us"));
        let detail = DetailStore::new(max_series);
        let recorder = Arc::clone(aggregates.recorder());
        let settings = FoldSettings { detail: detail_level, ..FoldSettings::default() };
        let shared = (recorder, detail.clone(), SessionBudget::new(1 << 30));
        let fold = Fold::new(&id("us".parse()), settings, shared, own);
        Self { fold, detail, aggregates, now: BEGIN }
    }

    /// The live series of both detail planes.
    pub(crate) fn live_series(&self) -> usize {
        DetailPlane::ALL.iter().map(|plane| self.detail.live_series(*plane)).sum()
    }

    /// Writes a page of metrics.
    pub(crate) fn page(&self, sink: &mut impl Write) -> io::Result<()> {
        write_page(&self.aggregates, &self.detail, self.now.unix_seconds() + 2.5, Format::Text, sink)
    }

    /// Folds a frame that the stream received 5 ms ago.
    pub(crate) fn fold(&mut self, frame: &Frame<'_>) {
        let at = self.now - Duration::from_millis(5);
        self.fold.frame(frame, at, self.now);
    }

    /// Advances the time by 0.2 ms per frame, and does what the clock triggers.
    pub(crate) fn pass(&mut self, frames: u32) {
        self.wait(frames * Duration::from_micros(200));
    }

    /// Advances the time, and does what the clock triggers.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.fold.tick(self.now);
    }
}
