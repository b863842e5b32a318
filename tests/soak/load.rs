//! Calls that come and go, on servers that come and go, behind relays that come and go.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use callsight_frame::{
    App, Form, Frame, MeetingId, Peer, PeerId, Reason, Seq, Server, ServerType, ServerUrl, SessionId,
};
use callsight_publish::{PublishStats, Publisher, PublisherConfig};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::FRAME_INTERVAL;
use crate::kit::callsight::REGION;
use crate::kit::frames::{frame, full_frame};
use crate::kit::proxy::Proxy;
use crate::kit::supercluster::SETTLED_WITHIN;
use crate::kit::wait;

/// How many sessions are live at a time, apart from floods.
const SESSIONS: usize = 60;

/// The largest meeting.
const PARTIES: usize = 8;

/// How many frames a session sends, most and least.
const FRAMES: std::ops::Range<u64> = 4..24;

/// How many servers take new sessions at a time, and how often one of them is replaced.
const SERVERS: usize = 16;
const SERVER_LIVES: Duration = Duration::from_millis(400);

/// How many relays publish at a time.
const RELAYS: usize = 3;

/// Meetings speak in so many groups, one after the other.
const GROUPS: u32 = 10;

/// How many there have been of everything that has a new name each time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begun {
    pub(super) meetings: u64,
    pub(super) sessions: u64,
    pub(super) servers: u64,
    pub(super) relays: u64,
    others: u64,
}

/// What the streams acknowledged, by the clients' own book.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Published {
    pub(super) acknowledged: u64,
    pub(super) retried: u64,
}

impl Published {
    fn add(&mut self, stats: &PublishStats) {
        self.acknowledged += stats.acknowledged;
        self.retried += stats.retried;
    }
}

pub(super) struct Load {
    rng: StdRng,
    relay_url: String,
    relays: Vec<Publisher>,
    meetings: Vec<Meeting>,
    servers: VecDeque<String>,
    server_born: Instant,
    pub(super) begun: Begun,
    /// By relays that are gone.
    published: Published,
}

struct Meeting {
    name: String,
    members: Vec<Session>,
}

struct Session {
    name: String,
    participant: String,
    server: String,
    /// The release of a client that tells all that a browser knows; others tell little.
    app: Option<String>,
    seq: u64,
    frames_left: u64,
}

impl Load {
    pub(super) async fn start(link: &Proxy, seed: u64) -> Self {
        let mut load = Self {
            rng: StdRng::seed_from_u64(seed),
            relay_url: link.url(),
            relays: Vec::new(),
            meetings: Vec::new(),
            servers: VecDeque::new(),
            server_born: Instant::now(),
            begun: Begun::default(),
            published: Published::default(),
        };
        for _ in 0..RELAYS {
            let relay = load.new_relay().await;
            load.relays.push(relay);
        }
        for _ in 0..SERVERS {
            let server = load.new_server();
            load.servers.push_back(server);
        }
        load
    }

    async fn new_relay(&mut self) -> Publisher {
        self.begun.relays += 1;
        let client = async_nats::ConnectOptions::new()
            .reconnect_delay_callback(|_| Duration::from_millis(100))
            .connect(&self.relay_url)
            .await
            .unwrap();
        let name = format!("relay-{}", self.begun.relays);
        let config = PublisherConfig {
            ack_timeout: Duration::from_secs(2),
            ..PublisherConfig::new(REGION.parse().unwrap(), "relay", name)
        };
        Publisher::start(client, config).await.unwrap()
    }

    fn new_server(&mut self) -> String {
        self.begun.servers += 1;
        format!("https://server-{}.example:4433", self.begun.servers)
    }

    fn new_session(&mut self) -> Session {
        self.begun.sessions += 1;
        let server = self.rng.random_range(0..self.servers.len());
        Session {
            name: format!("session-{}", self.begun.sessions),
            participant: format!("participant-{}", self.begun.sessions),
            server: self.servers[server].clone(),
            // A new one with each server.
            app: self.rng.random_bool(0.5).then(|| format!("web-{}", self.begun.servers)),
            seq: 0,
            frames_left: self.rng.random_range(FRAMES),
        }
    }

    fn new_meeting(&mut self) -> Meeting {
        self.begun.meetings += 1;
        let name = format!("meeting-{}", self.begun.meetings);
        let parties = self.rng.random_range(1..=PARTIES);
        Meeting { name, members: (0..parties).map(|_| self.new_session()).collect() }
    }

    /// A group of meetings speaks, and what has left is replaced.
    async fn turn(&mut self, group: usize) {
        if self.server_born.elapsed() > SERVER_LIVES {
            self.server_born = Instant::now();
            let server = self.new_server();
            self.servers.pop_front();
            self.servers.push_back(server);
        }
        while self.meetings.iter().map(|meeting| meeting.members.len()).sum::<usize>() < SESSIONS {
            let meeting = self.new_meeting();
            self.meetings.push(meeting);
        }
        let mut meetings = mem::take(&mut self.meetings);
        for meeting in meetings.iter_mut().skip(group).step_by(GROUPS as usize) {
            self.speak(meeting).await;
        }
        meetings.retain(|meeting| !meeting.members.is_empty());
        self.meetings = meetings;
    }

    /// Each member sends a frame, and whoever has sent its last leaves, half of them without a
    /// word.
    async fn speak(&mut self, meeting: &mut Meeting) {
        let participants: Vec<_> =
            meeting.members.iter().map(|session| session.participant.clone()).collect();
        for session in &mut meeting.members {
            session.frames_left -= 1;
            if self.rng.random_bool(0.02) {
                session.server = self.servers.back().unwrap().clone();
            }
            let others = participants.iter().filter(|name| **name != session.participant);
            let others: Vec<_> = others.map(String::as_str).collect();
            let encode = |seq, ended| payload(&meeting.name, session, seq, &others, ended);
            match self.rng.random_range(0..100) {
                0..3 => {
                    let reason = *Reason::ALL.choose(&mut self.rng).unwrap();
                    let bad = rejected(reason, &meeting.name, session, &others);
                    self.publish_other(&meeting.name, bad).await;
                }
                // Once more, as a relay does that forgot that it had sent it.
                3..6 if session.seq > 0 => {
                    self.publish_other(&meeting.name, encode(session.seq, false)).await
                }
                // The second overtakes the first.
                6..9 => {
                    for seq in [session.seq + 2, session.seq + 1] {
                        self.publish(&meeting.name, &session.name, seq, encode(seq, false)).await;
                    }
                    session.seq += 2;
                }
                _ => {
                    let seq = session.seq + 1;
                    let ended = session.frames_left == 0 && self.rng.random_bool(0.5);
                    self.publish(&meeting.name, &session.name, seq, encode(seq, ended)).await;
                    session.seq = seq;
                }
            }
        }
        meeting.members.retain(|session| session.frames_left > 0);
    }

    async fn publish(&mut self, meeting: &str, session: &str, seq: u64, payload: Vec<u8>) {
        let relay = self.relays.choose(&mut self.rng).unwrap();
        relay.room().await.unwrap();
        let (meeting, session) = (MeetingId::new(meeting).unwrap(), SessionId::new(session).unwrap());
        relay.publish_encoded(meeting, session, Seq::new(seq).unwrap(), payload.into()).unwrap();
    }

    /// Under a message id that is not a frame's own.
    async fn publish_other(&mut self, meeting: &str, payload: Vec<u8>) {
        self.begun.others += 1;
        self.publish(meeting, "other", self.begun.others, payload).await;
    }

    /// Sessions of one frame each, in one meeting.
    pub(super) async fn flood_sessions(&mut self, sessions: usize) {
        self.begun.meetings += 1;
        let meeting = format!("meeting-{}", self.begun.meetings);
        for _ in 0..sessions {
            let session = self.new_session();
            self.publish(&meeting, &session.name, 1, payload(&meeting, &session, 1, &[], false)).await;
        }
    }

    /// Servers with one session each, which sends one frame and vanishes, and is of a release of
    /// its own: one that has ended joins none.
    pub(super) async fn flood_servers(&mut self, servers: usize) {
        for number in 0..servers {
            let app = Some(format!("web-{}-{number}", self.begun.servers));
            let session = Session { server: self.new_server(), app, ..self.new_session() };
            self.publish("lonely", &session.name, 1, payload("lonely", &session, 1, &[], false)).await;
        }
    }

    /// A session with one frame, on a server of its own, whose URL is returned.
    pub(super) async fn newcomer(&mut self) -> String {
        let session = Session { server: self.new_server(), ..self.new_session() };
        self.publish("newcomers", &session.name, 1, payload("newcomers", &session, 1, &[], false)).await;
        session.server
    }

    /// A frame under a subject of the stream that is no relay's.
    pub(super) async fn strange_subject(&mut self, jetstream: &jetstream::Context) {
        let session = self.new_session();
        let subject = format!("health.diagnostics.{REGION}.re$lay.relay-1");
        let payload = Bytes::from(payload("strange", &session, 1, &[], false));
        wait::eventually_async(SETTLED_WITHIN, "an acknowledgement", async || {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("{}:strange", session.name));
            let sent = jetstream.publish_with_headers(subject.clone(), headers, payload.clone());
            sent.await?.await.map(drop)
        })
        .await;
        self.published.acknowledged += 1;
    }

    /// One relay is replaced by another, without losing a frame.
    pub(super) async fn replace_relay(&mut self) {
        let new = self.new_relay().await;
        let relay = self.rng.random_range(0..self.relays.len());
        let old = mem::replace(&mut self.relays[relay], new);
        let stats = old.shutdown(SETTLED_WITHIN).await.unwrap();
        assert_sound(&stats);
        self.published.add(&stats);
    }

    /// Waits until the stream has taken everything, and returns how much that was.
    pub(super) async fn flush(&self) -> Published {
        let mut published = self.published;
        for relay in &self.relays {
            let stats = relay.flush(SETTLED_WITHIN).await.unwrap();
            assert_sound(&stats);
            assert_eq!(stats.acknowledged, stats.accepted, "{stats:?}");
            published.add(&stats);
        }
        published
    }

    /// What the streams have acknowledged so far.
    pub(super) fn published(&self) -> Published {
        let mut published = self.published;
        self.relays.iter().for_each(|relay| published.add(&relay.stats()));
        published
    }
}

fn assert_sound(stats: &PublishStats) {
    assert_eq!((stats.failed, stats.overflowed), (0, 0), "{stats:?}");
}

/// Publishes until a time.
pub(super) async fn publish(load: Arc<Mutex<Load>>, end: Instant) {
    let mut tick = interval(FRAME_INTERVAL / GROUPS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for group in (0..GROUPS as usize).cycle() {
        if tick.tick().await >= end {
            return;
        }
        load.lock().await.turn(group).await;
    }
}

fn described<'a>(meeting: &'a str, session: &'a Session, seq: u64, peers: &[&'a str]) -> Frame<'a> {
    let server = Server::new(ServerUrl::new(&session.server).unwrap(), ServerType::WebTransport);
    let mut frame = match &session.app {
        Some(_) => full_frame(&session.name, seq, peers),
        None => frame(&session.name, seq, peers),
    };
    if let Some((client, app)) = frame.client.as_mut().zip(session.app.as_deref()) {
        client.app = App::new(app).ok();
    }
    let rtt_ms = frame.server.as_ref().and_then(|server| server.rtt_ms);
    Frame {
        meeting_id: MeetingId::new(meeting).unwrap(),
        peer_id: PeerId::new(&session.participant).unwrap(),
        server: Some(Server { rtt_ms, ..server }),
        ..frame
    }
}

fn payload(meeting: &str, session: &Session, seq: u64, peers: &[&str], ended: bool) -> Vec<u8> {
    let frame = described(meeting, session, seq, peers);
    Frame { ended: ended.then_some(true), ..frame }.encode(Form::Compact)
}

/// A frame that is rejected for this reason, or for none if the reason is its subject.
fn rejected(reason: Reason, meeting: &str, session: &Session, peers: &[&str]) -> Vec<u8> {
    let mut frame = described(meeting, session, 1, peers);
    let names: Vec<_> = (0..257).map(|number| format!("peer-{number}")).collect();
    let server = frame.server.as_mut().unwrap();
    match reason {
        Reason::NotFinite => server.rtt_ms = Some(f64::NAN),
        Reason::OutOfRange => server.rtt_ms = Some(-1.0),
        Reason::TooManyPeers => {
            frame.peers = names.iter().map(|name| Peer::new(PeerId::new(name).unwrap())).collect();
        }
        _ => {}
    }
    let mut bytes = frame.encode(Form::Compact);
    let at = |text: &str| bytes.windows(text.len()).position(|found| found == text.as_bytes()).unwrap();
    match reason {
        Reason::TooLarge => bytes.resize(66_000, 0),
        Reason::Malformed => bytes.truncate(bytes.len() / 2),
        Reason::MissingField => bytes = vec![0x91, 1],
        Reason::UnsupportedVersion => {
            let version = bytes.iter().position(|byte| *byte == 1).unwrap();
            bytes[version] = 2;
        }
        Reason::BadIdentifier => {
            let place = at(meeting);
            bytes[place] = b' ';
        }
        Reason::BadUrl => {
            let place = at("://");
            bytes[place..place + 3].fill(b'!');
        }
        _ => {}
    }
    bytes
}

#[test]
fn each_kind_of_rejected_frame_is_rejected_for_its_reason() {
    let session = Session {
        name: "session".to_owned(),
        participant: "participant".to_owned(),
        server: "https://server-1.example".to_owned(),
        seq: 0,
        app: Some("web-1".to_owned()),
        frames_left: 1,
    };
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::BadSubject) {
        let bytes = rejected(*reason, "meeting", &session, &["somebody"]);
        assert_eq!(Frame::decode(&bytes).unwrap_err().reason, *reason);
    }
}
