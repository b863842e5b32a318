//! Callsight compared with the alternatives: the exporter library alone, and gauge vectors with a
//! sweep.
//!
//! Each reads the same compact frames of ten parties and keeps the same values, one series per
//! value, in a process of its own. The comparison favours the others: only Callsight also computes
//! aggregates, finds repeats and enforces budgets. At the end half of the sessions announce that
//! they leave and half fall silent; then each is scraped every 5 s for a minute, with the default
//! idle timeout. These minutes overlap: the next one starts once the one before has been measured.
//!
//! `./dev bench --bench peers -- [SESSIONS]`

mod common;

use std::collections::HashMap;
use std::env;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use callsight_frame::{Decoder, Form, Frame, Operation, Peer};
use common::{CpuTime, Failure};
use criterion::measurement::Measurement;
use metrics::{counter, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKindMask;
use prometheus::{Encoder, GaugeVec, Opts, Registry, TextEncoder};

const PARTIES: usize = 10;
const ROUNDS: u64 = 10;
const IDLE: Duration = Duration::from_secs(30);

/// How long the scrapes continue after all have left, and how often they happen.
const GONE: Duration = Duration::from_secs(60);
const SCRAPE_EVERY: Duration = Duration::from_secs(5);

/// Something that keeps the values of frames and exposes them.
trait Contender {
    fn take(&mut self, frame: &Frame<'_>);

    /// Advances the time to `now`, counted from the start.
    fn pass(&mut self, now: Duration);

    fn scrape(&mut self) -> Vec<u8>;
}

type Make = fn() -> Result<Box<dyn Contender>, Failure>;

const CONTENDERS: [(&str, Make); 3] = [
    ("callsight", || Ok(Box::new(common::World::new()))),
    ("metrics-exporter-prometheus", || Ok(Box::new(Library::new()))),
    ("prometheus-gauge-vectors", || Ok(Box::new(Vectors::new()?))),
];

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag.
    let mut arguments = env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let first = arguments.next();
    if let Some((name, make)) =
        first.as_deref().and_then(|name| CONTENDERS.iter().find(|(known, _)| *known == name))
    {
        let sessions = arguments.next().ok_or("how many sessions?")?.parse()?;
        return run(name, make()?, sessions);
    }
    let sessions = first.unwrap_or_else(|| "500".to_owned());
    let mut waiting = Vec::new();
    for (name, _) in CONTENDERS {
        let mut child =
            Command::new(env::current_exe()?).args([name, &sessions]).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        writeln!(io::stdout(), "{}", lines.next().ok_or("no line")??)?;
        waiting.push((child, lines));
    }
    for (mut child, lines) in waiting {
        for line in lines {
            writeln!(io::stdout(), "{}", line?)?;
        }
        if !child.wait()?.success() {
            return Err("one of them failed".into());
        }
    }
    Ok(())
}

fn run(name: &str, mut contender: Box<dyn Contender>, sessions: usize) -> Result<(), Failure> {
    let names: Vec<_> = (0..sessions).map(|session| common::Names::new(session, PARTIES)).collect();
    let mut decoder = Decoder::default();
    let mut buffer: Vec<Vec<u8>> = names.iter().map(|names| names.frame(1).encode(Form::Compact)).collect();
    let before = common::resident();
    let began = Instant::now();
    let mut spent = Duration::ZERO;
    for seq in 1..=ROUNDS {
        for (message, names) in buffer.iter_mut().zip(&names) {
            *message = names.frame(seq).encode(Form::Compact);
        }
        let start = CpuTime.start();
        for message in &buffer {
            decoder
                .with(message, None, |frame| contender.take(frame))
                .map_err(|rejection| rejection.to_string())?;
        }
        contender.pass(began.elapsed());
        spent += CpuTime.end(start);
    }
    let frames = sessions as f64 * ROUNDS as f64;
    let grown = common::resident().saturating_sub(before);
    let start = CpuTime.start();
    let page = black_box(contender.scrape());
    let scrape = CpuTime.end(start);
    let shown = series(&page);
    let page_bytes = page.len();
    drop(page);
    writeln!(
        io::stdout(),
        "{name}: {:.0} frames a CPU-second ({:.1} µs each), {shown} series, {:.0} bytes of memory each, scrape {:.3} s \
         of {:.1} MB",
        frames / spent.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / frames,
        grown as f64 / shown as f64,
        scrape.as_secs_f64(),
        page_bytes as f64 / 1e6,
    )?;
    for names in names.iter().step_by(2) {
        contender.take(&Frame { ended: Some(true), peers: Vec::new(), ..names.frame(ROUNDS + 1) });
    }
    let gone = Instant::now();
    let at_once = series(&contender.scrape());
    while gone.elapsed() < GONE {
        std::thread::sleep(SCRAPE_EVERY);
        contender.pass(began.elapsed());
        black_box(contender.scrape());
    }
    writeln!(
        io::stdout(),
        "{name}: {at_once} series left when half have said that they leave and half fallen silent, {} after {:.0} s, \
         {:.1} MiB more memory than at the start",
        series(&contender.scrape()),
        gone.elapsed().as_secs_f64(),
        common::resident().saturating_sub(before) as f64 / 1_048_576.0,
    )?;
    Ok(())
}

fn series(page: &[u8]) -> usize {
    let detail =
        |line: &&[u8]| line.starts_with(b"videocall_session_") || line.starts_with(b"videocall_pair_");
    page.split(|byte| *byte == b'\n').filter(detail).count()
}

/// Receives a value of a frame: the metric's name, its labels and the value.
type Shown<'a> = dyn FnMut(&'static str, &[(&'static str, &'a str)], f64) + 'a;

/// Passes on every value of a frame that has a series.
fn show<'a>(frame: &'a Frame<'a>, shown: &mut Shown<'a>) {
    let Some(server) = &frame.server else { return };
    let ids = [
        ("region", "us"),
        ("meeting_id", frame.meeting_id.as_str()),
        ("session_id", frame.session_id.as_str()),
        ("peer_id", frame.peer_id.as_str()),
    ];
    let session: Vec<_> = ids
        .into_iter()
        .chain([("server_url", server.url.as_str()), ("server_type", server.server_type.label())])
        .collect();
    let state = |value: Option<bool>| f64::from(u8::from(value == Some(true)));
    shown("videocall_session_rtt_seconds", &session, server.rtt_ms.unwrap_or_default() / 1e3);
    shown("videocall_session_audio_enabled", &session, state(frame.audio_enabled));
    shown("videocall_session_video_enabled", &session, state(frame.video_enabled));
    shown("videocall_session_last_seen", &session, frame.sent_at_ms as f64 / 1e3);
    for peer in &frame.peers {
        pair(peer, &[ids[0], ids[1], ids[2], ("peer_id", peer.peer_id.as_str())], shown);
    }
}

fn pair<'a>(peer: &'a Peer<'a>, labels: &[(&'static str, &'a str); 4], shown: &mut Shown<'a>) {
    let (Some(audio), Some(video)) = (&peer.audio, &peer.video) else { return };
    let count = |value: Option<u64>| value.unwrap_or_default() as f64;
    for (name, value) in [
        ("videocall_pair_can_listen", f64::from(u8::from(peer.can_listen))),
        ("videocall_pair_can_see", f64::from(u8::from(peer.can_see))),
        ("videocall_pair_audio_buffer_seconds", audio.buffer_ms.unwrap_or_default() / 1e3),
        ("videocall_pair_audio_target_seconds", audio.target_ms.unwrap_or_default() / 1e3),
        ("videocall_pair_audio_packets_awaiting_decode", audio.packets_awaiting_decode.unwrap_or_default()),
        ("videocall_pair_audio_samples_total", count(audio.total_samples)),
        ("videocall_pair_audio_concealed_samples_total", count(audio.concealed_samples)),
        ("videocall_pair_audio_silent_concealed_samples_total", count(audio.silent_concealed_samples)),
        ("videocall_pair_video_frames_per_second", video.fps.unwrap_or_default()),
        ("videocall_pair_video_frames_buffered", video.frames_buffered.unwrap_or_default()),
        ("videocall_pair_video_bytes_per_second", video.bitrate_kbps.unwrap_or_default() * 125.0),
        ("videocall_pair_video_freezes_total", count(video.freeze_count)),
    ] {
        shown(name, labels, value);
    }
    let Some(neteq) = &audio.neteq else { return };
    for (operation, value) in Operation::ALL.iter().zip(neteq.counts()) {
        let labels = [labels[0], labels[1], labels[2], labels[3], ("operation", operation.label())];
        shown("videocall_pair_neteq_operations_total", &labels, count(value));
    }
}

impl Contender for common::World {
    fn take(&mut self, frame: &Frame<'_>) {
        self.fold(frame);
    }

    fn pass(&mut self, now: Duration) {
        self.now = common::BEGIN + now;
        self.fold.tick(self.now);
    }

    fn scrape(&mut self) -> Vec<u8> {
        let mut page = Vec::new();
        let written = self.page(&mut page);
        debug_assert!(written.is_ok(), "memory takes any byte");
        page
    }
}

/// The exporter library alone, with its idle timeout: a macro call per value.
struct Library {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Library {
    fn new() -> Self {
        let builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, Some(IDLE));
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self { recorder, handle }
    }
}

impl Contender for Library {
    fn take(&mut self, frame: &Frame<'_>) {
        with_local_recorder(&self.recorder, || {
            show(frame, &mut |name, labels, value| {
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(name, value)| metrics::Label::new(*name, (*value).to_owned()))
                    .collect();
                if name.ends_with("_total") {
                    counter!(name, labels).absolute(value as u64);
                } else {
                    gauge!(name, labels).set(value);
                }
            });
        });
    }

    fn pass(&mut self, _: Duration) {
        self.handle.run_upkeep();
    }

    fn scrape(&mut self) -> Vec<u8> {
        self.handle.render().into_bytes()
    }
}

/// The label values of a session's series, by metric.
type Children = HashMap<&'static str, Vec<Vec<String>>>;

/// Gauge vectors, and a sweep in the scrape that removes what was not written for the idle timeout.
struct Vectors {
    registry: Registry,
    vectors: HashMap<&'static str, GaugeVec>,
    /// The series of each session and when it last wrote them, for the sweep.
    sessions: HashMap<String, (Duration, Children)>,
    now: Duration,
}

impl Vectors {
    fn new() -> Result<Self, Failure> {
        let (registry, mut vectors) = (Registry::new(), HashMap::new());
        let names = common::Names::new(0, 2);
        let frame = names.frame(1);
        let mut found = Vec::new();
        show(&frame, &mut |name, labels, _| {
            found.push((name, labels.iter().map(|(name, _)| *name).collect::<Vec<_>>()));
        });
        for (name, labels) in found {
            if !vectors.contains_key(name) {
                let vector = GaugeVec::new(Opts::new(name, name), &labels)?;
                registry.register(Box::new(vector.clone()))?;
                vectors.insert(name, vector);
            }
        }
        Ok(Self { registry, vectors, sessions: HashMap::new(), now: Duration::ZERO })
    }
}

impl Contender for Vectors {
    fn take(&mut self, frame: &Frame<'_>) {
        let session_id = frame.session_id.as_str();
        let met = self.sessions.contains_key(session_id);
        let (seen, written) = self.sessions.entry(session_id.to_owned()).or_default();
        *seen = self.now;
        show(frame, &mut |name, labels, value| {
            let values: Vec<_> = labels.iter().map(|(_, value)| *value).collect();
            if let Some(vector) = self.vectors.get(name) {
                vector.with_label_values(&values).set(value);
            }
            if !met {
                let owned = values.iter().map(|value| (*value).to_owned()).collect();
                written.entry(name).or_default().push(owned);
            }
        });
    }

    fn pass(&mut self, now: Duration) {
        self.now = now;
    }

    fn scrape(&mut self) -> Vec<u8> {
        let now = self.now;
        for (_, (_, written)) in self.sessions.extract_if(|_, (seen, _)| now.saturating_sub(*seen) > IDLE) {
            for (name, all) in written {
                for values in all {
                    let values: Vec<_> = values.iter().map(String::as_str).collect();
                    if let Some(vector) = self.vectors.get(name) {
                        let removed = vector.remove_label_values(&values);
                        debug_assert!(removed.is_ok(), "it was written once");
                    }
                }
            }
        }
        let mut page = Vec::new();
        let written = TextEncoder::new().encode(&self.registry.gather(), &mut page);
        debug_assert!(written.is_ok(), "memory takes any byte");
        page
    }
}
