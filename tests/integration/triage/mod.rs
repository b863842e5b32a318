//! The triage page and its API: whether somebody who opens it sees what is wrong.

mod api;
mod causes;
mod page;
mod rewind;
mod sides;

use std::time::Duration;

use callsight_frame::{Frame, MeetingId, Peer, Server, ServerType, ServerUrl};
use serde_json::Value;

use crate::kit::callsight::Callsight;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::relay::Relay;
use crate::kit::wait::{self, PATIENCE};

/// How long a change may take to show. Looks come once a second, more seldom on a busy machine.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// Sessions in meetings of four on a few servers, whose every frame the test writes.
struct Calls {
    sessions: Vec<String>,
    meetings: Vec<String>,
    seq: u64,
}

/// How a session is.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Fine,
    /// Its round trip takes so many milliseconds.
    Slow(f64),
    /// It can't hear its peers, who speak.
    Deaf,
    Hidden,
}

const SERVERS: [&str; 3] =
    ["https://relay-1.example:4433", "https://relay-2.example:4433", "https://relay-3.example:4433"];

impl Calls {
    const MEETING: usize = 4;

    fn new(sessions: usize) -> Self {
        let meeting = |number| match number {
            // Nobody should be able to run a script by the name of his meeting.
            0 => "javascript:alert@1".to_owned(),
            number => format!("meeting-{number}"),
        };
        Self {
            sessions: (0..sessions).map(|number| format!("session-{number}")).collect(),
            meetings: (0..sessions.div_ceil(Self::MEETING)).map(meeting).collect(),
            seq: 0,
        }
    }

    /// Every session says its next frame, each in its mood.
    async fn say(&mut self, relay: &Relay, mood: impl Fn(usize) -> Mood) {
        self.say_more(relay, mood, |_, _| {}).await;
    }

    /// Every session says its next frame, to which the test adds what it likes.
    async fn say_more(
        &mut self,
        relay: &Relay,
        mood: impl Fn(usize) -> Mood,
        add: impl for<'a> Fn(usize, &mut Frame<'a>),
    ) {
        self.seq += 1;
        for session in 0..self.sessions.len() {
            let mut frame = self.frame(session, mood(session));
            add(session, &mut frame);
            relay.say(&frame).await;
        }
        relay.settle().await;
    }

    /// How many frames were said.
    fn said(&self) -> usize {
        self.sessions.len() * usize::try_from(self.seq).unwrap()
    }

    fn frame(&self, session: usize, mood: Mood) -> Frame<'_> {
        let first = session / Self::MEETING * Self::MEETING;
        let others =
            (first..(first + Self::MEETING).min(self.sessions.len())).filter(|other| *other != session);
        let peers: Vec<_> = others.map(|other| self.sessions[other].as_str()).collect();
        let server = ServerUrl::new(SERVERS[session % SERVERS.len()]).unwrap();
        let mut frame = Frame {
            meeting_id: MeetingId::new(&self.meetings[session / Self::MEETING]).unwrap(),
            server: Some(Server {
                rtt_ms: Some(if let Mood::Slow(rtt_ms) = mood { rtt_ms } else { 50.0 }),
                ..Server::new(server, ServerType::WebTransport)
            }),
            tab_visible: Some(mood != Mood::Hidden),
            ..frame(&self.sessions[session], self.seq, &peers)
        };
        for peer in &mut frame.peers {
            // Nothing freezes unless a test says so.
            *peer = Peer { video: None, can_listen: mood != Mood::Deaf, ..peer.clone() };
        }
        frame
    }
}

/// A server, an exporter that is ready, and a relay.
async fn scene(flags: &[&str]) -> (Nats, Callsight, Relay) {
    let nats = Nats::start();
    let flags: Vec<_> = ["--create", "--idle-timeout", "10m"].iter().chain(flags).copied().collect();
    let mut callsight = Callsight::serve(&nats, &flags);
    callsight.ready().await;
    let relay = Relay::start(&nats).await;
    (nats, callsight, relay)
}

/// What the API answers once it satisfies a condition.
async fn told(callsight: &Callsight, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    wait::eventually_async(SHOWN_WITHIN.max(PATIENCE), what, async || {
        let answer = callsight.get("/api/triage").await;
        let json: Value =
            serde_json::from_slice(&answer.body).map_err(|error| Value::from(error.to_string()))?;
        wait::when(json, |json| condition(json)).map_err(|mut json| json["verdict"].take())
    })
    .await
}

/// The verdict's sentence.
fn sentence(answer: &Value) -> &str {
    answer["verdict"]["sentence"].as_str().unwrap_or_default()
}
