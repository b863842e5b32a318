//! A relay that publishes thousands of frames, through the product's own publisher.

use callsight_frame::{Frame, MeetingId};
use callsight_publish::{Publisher, PublisherConfig};

use super::callsight::REGION;
use super::frames::frame;
use super::nats::Nats;
use super::wait::PATIENCE;

/// Publishes to the stream of [`REGION`], which must be there.
#[derive(Debug)]
pub(crate) struct Relay(Publisher);

impl Relay {
    pub(crate) async fn start(nats: &Nats) -> Self {
        let config = PublisherConfig::new(REGION.parse().unwrap(), "relay", "relay-1");
        Self(Publisher::start(nats.client().await, config).await.unwrap())
    }

    /// Publishes a frame as soon as the publisher has room.
    pub(crate) async fn say(&self, frame: &Frame<'_>) {
        self.0.room().await.unwrap();
        self.0.publish(frame).unwrap();
    }

    /// Waits until the stream has everything that was published.
    pub(crate) async fn settle(&self) {
        let stats = self.0.flush(PATIENCE).await.unwrap();
        assert_eq!((stats.failed, stats.duplicates), (0, 0));
    }
}

/// Sessions in meetings of four, each of which observes the other three: `s0` to `s3` are in `m0`.
#[derive(Debug)]
pub(crate) struct Crowd {
    sessions: Vec<String>,
    meetings: Vec<String>,
}

impl Crowd {
    /// The sessions of a meeting.
    pub(crate) const MEETING: usize = 4;

    /// Makes sessions whose names begin with a prefix.
    pub(crate) fn new(prefix: &str, sessions: usize) -> Self {
        let names = |letter: &str, count: usize| {
            (0..count).map(|number| format!("{prefix}{letter}{number}")).collect::<Vec<_>>()
        };
        Self { sessions: names("s", sessions), meetings: names("m", sessions.div_ceil(Self::MEETING)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Frame `seq` of a session.
    pub(crate) fn frame(&self, session: usize, seq: u64) -> Frame<'_> {
        let first = session / Self::MEETING * Self::MEETING;
        let members = first..(first + Self::MEETING).min(self.len());
        let others: Vec<_> = members.filter(|other| *other != session).collect();
        let peers: Vec<_> = others.into_iter().map(|other| self.sessions[other].as_str()).collect();
        Frame {
            meeting_id: MeetingId::new(&self.meetings[session / Self::MEETING]).unwrap(),
            ..frame(&self.sessions[session], seq, &peers)
        }
    }

    /// Publishes frame `seq` of every session.
    pub(crate) async fn speak(&self, relay: &Relay, seq: u64) {
        for session in 0..self.len() {
            relay.say(&self.frame(session, seq)).await;
        }
    }

    /// Publishes frame `seq` of every session, as its last.
    pub(crate) async fn leave(&self, relay: &Relay, seq: u64) {
        for session in 0..self.len() {
            relay.say(&Frame { ended: Some(true), ..self.frame(session, seq) }).await;
        }
    }
}
