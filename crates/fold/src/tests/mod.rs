//! The promises of the fold, read off the page that Prometheus would see.

mod budgets;
mod fields;
mod growth;
mod hostile;
mod live;
mod memory;
mod population;
mod properties;
mod rates;
mod reference;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Fold, FoldSettings, Outcome, Refusal, SessionBudget, StreamTime};
use crate::series::aggregates::{Aggregates, RegionSeries};
use crate::series::detail::DetailStore;
use crate::series::exposition::{Format, write_page};
use callsight_frame::{
    Audio, Frame, MeetingId, NetEq, Peer, PeerId, Seq, Server, ServerType, ServerUrl, SessionId, Video,
};

const SECOND: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(30);
const RELAY: &str = "https://relay-1.example:4433";
const OTHER_RELAY: &str = "https://relay-2.example:4433";

/// The frame of a session of Alice's in the meeting `m`, on [`RELAY`], who is alone there.
fn frame(session_id: &str, seq: u64) -> Frame<'_> {
    let (meeting, session) = (MeetingId::new("m").unwrap(), SessionId::new(session_id).unwrap());
    let (alice, seq) = (PeerId::new("alice").unwrap(), Seq::new(seq).unwrap());
    Frame {
        server: Some(Server::new(ServerUrl::new(RELAY).unwrap(), ServerType::WebTransport)),
        ..Frame::new(meeting, session, alice, seq, 1_000_000_000)
    }
}

/// Changes one thing of a frame.
trait FrameExt<'a> {
    fn meeting(self, meeting_id: &'a str) -> Self;
    fn of(self, peer_id: &'a str) -> Self;
    fn rtt(self, rtt_ms: f64) -> Self;
    fn on(self, url: &'a str) -> Self;
    fn sees(self, peer: Peer<'a>) -> Self;
    fn ended(self) -> Self;
    fn hidden(self) -> Self;
}

impl<'a> FrameExt<'a> for Frame<'a> {
    fn meeting(self, meeting_id: &'a str) -> Self {
        Self { meeting_id: MeetingId::new(meeting_id).unwrap(), ..self }
    }

    fn of(self, peer_id: &'a str) -> Self {
        Self { peer_id: PeerId::new(peer_id).unwrap(), ..self }
    }

    fn rtt(mut self, rtt_ms: f64) -> Self {
        self.server.as_mut().unwrap().rtt_ms = Some(rtt_ms);
        self
    }

    fn on(mut self, url: &'a str) -> Self {
        self.server.as_mut().unwrap().url = ServerUrl::new(url).unwrap();
        self
    }

    fn sees(mut self, peer: Peer<'a>) -> Self {
        self.peers.push(peer);
        self
    }

    fn ended(self) -> Self {
        Self { ended: Some(true), ..self }
    }

    fn hidden(self) -> Self {
        Self { tab_visible: Some(false), ..self }
    }
}

/// A peer that is heard and seen and tells nothing else.
fn peer(peer_id: &str) -> Peer<'_> {
    Peer {
        can_listen: true,
        can_see: true,
        audio_enabled: true,
        video_enabled: true,
        ..Peer::new(PeerId::new(peer_id).unwrap())
    }
}

/// Changes one thing of a peer.
trait PeerExt {
    fn samples(self, total: u64, concealed: u64) -> Self;
    fn freezes(self, count: u64) -> Self;
}

impl PeerExt for Peer<'_> {
    fn samples(mut self, total: u64, concealed: u64) -> Self {
        let audio = self.audio.get_or_insert_default();
        audio.total_samples = Some(total);
        audio.concealed_samples = Some(concealed);
        self
    }

    fn freezes(mut self, count: u64) -> Self {
        self.video.get_or_insert_default().freeze_count = Some(count);
        self
    }
}

/// A fold with all that it writes into, and a clock that only the test moves.
struct World {
    fold: Fold,
    detail: DetailStore,
    budget: SessionBudget,
    aggregates: Aggregates,
    now: StreamTime,
}

impl World {
    fn new() -> Self {
        Self::with(FoldSettings::default(), 1_000_000)
    }

    fn with(settings: FoldSettings, max_series: usize) -> Self {
        Self::of(settings, max_series, SessionBudget::new(1_000_000))
    }

    /// A world with room for so many live sessions.
    fn for_sessions(max_sessions: usize) -> Self {
        Self::of(FoldSettings::default(), 1_000_000, SessionBudget::new(max_sessions))
    }

    fn of(settings: FoldSettings, max_series: usize, budget: SessionBudget) -> Self {
        let aggregates = Aggregates::new();
        let own = Arc::new(RegionSeries::register(&**aggregates.recorder(), "us"));
        let detail = DetailStore::new(max_series);
        let recorder = Arc::clone(aggregates.recorder());
        let shared = (recorder, detail.clone(), budget.clone());
        let fold = Fold::new(&"us".parse().unwrap(), settings, shared, own);
        Self { fold, detail, budget, aggregates, now: StreamTime::from_unix_nanos(1_000_000_000_000_000) }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    fn tick(&mut self) {
        self.fold.tick(self.now);
    }

    /// Folds a frame that the stream received just now.
    fn fold(&mut self, frame: &Frame<'_>) -> Outcome {
        self.fold_aged(frame, Duration::ZERO)
    }

    /// Folds a frame that the stream received some time ago.
    fn fold_aged(&mut self, frame: &Frame<'_>, age: Duration) -> Outcome {
        self.fold.frame(frame, self.now - age, self.now)
    }

    fn warm(&mut self, frame: &Frame<'_>, age: Duration) -> Outcome {
        self.fold.warm(frame, self.now - age, self.now)
    }

    /// The page as Prometheus would read it now.
    fn page(&self) -> Page {
        let mut page = Vec::new();
        let now = self.now.unix_seconds();
        write_page(&self.aggregates, &self.detail, now, Format::Text, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let mut series = BTreeMap::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(name.to_owned(), value.parse().unwrap()).is_none(), "twice: {name}");
        }
        Page(series)
    }

    /// The series of the detail planes alone.
    fn details(&self) -> BTreeMap<String, f64> {
        let mut page = self.page();
        page.0.retain(|series, _| {
            series.starts_with("videocall_session_") || series.starts_with("videocall_pair_")
        });
        page.0
    }

    fn values(&self, metric: &str, labels: &[&str]) -> Vec<f64> {
        self.page().values(metric, labels)
    }

    /// The value of a metric's only such series, if there is one.
    fn value(&self, metric: &str, labels: &[&str]) -> Option<f64> {
        let values = self.values(metric, labels);
        assert!(values.len() <= 1, "{metric} {labels:?} has {values:?}");
        values.first().copied()
    }

    fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        self.page().sum(metric, labels)
    }
}

/// Series, by name and labels, and their values.
#[derive(Debug, PartialEq)]
struct Page(BTreeMap<String, f64>);

impl Page {
    /// The values of a metric's series that have all of these label values.
    fn values(&self, metric: &str, labels: &[&str]) -> Vec<f64> {
        let wanted = |series: &str| {
            let (name, rest) = series.split_once('{').unwrap_or((series, ""));
            name == metric && labels.iter().all(|label| rest.contains(&format!("\"{label}\"")))
        };
        self.0.iter().filter(|(series, _)| wanted(series)).map(|(_, value)| *value).collect()
    }

    /// The sum over a metric's such series: what there is in all.
    fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        self.values(metric, labels).iter().sum()
    }
}
