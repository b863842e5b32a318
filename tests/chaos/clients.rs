//! Clients that never rest, and their own book of what they published.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use callsight_frame::{Form, Frame, MeetingId, Seq, SessionId};
use callsight_publish::{PublishStats, Publisher, PublisherConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use crate::kit::frames::frame;
use crate::kit::supercluster::SETTLED_WITHIN;

/// How many sessions of a region are live at a time.
const SESSIONS: usize = 30;

/// How often something is published.
const ROUND: Duration = Duration::from_millis(10);

const PEERS: [&str; 3] = ["ana", "bo", "cy"];

/// The clients behind one relay.
pub(super) struct Clients {
    region: &'static str,
    publisher: Arc<Publisher>,
    rng: StdRng,
    sessions: Vec<(String, u64)>,
    begun: u64,
    /// Numbers what is published under another message id than a frame's own.
    others: u64,
    /// The message id of everything that was accepted for publishing.
    pub(super) published: BTreeSet<String>,
}

impl Clients {
    /// Connects as a relay of a region, to the servers at these addresses alone.
    pub(super) async fn start(
        region: &'static str,
        servers: &[String],
        user: Option<&str>,
        seed: u64,
    ) -> Self {
        let options = match user {
            Some(user) => {
                async_nats::ConnectOptions::with_user_and_password(user.to_owned(), format!("{user}-secret"))
                    .custom_inbox_prefix(format!("_INBOX.{user}"))
            }
            None => async_nats::ConnectOptions::new(),
        };
        let servers: Vec<async_nats::ServerAddr> = servers.iter().map(|url| url.parse().unwrap()).collect();
        let client = options
            .ignore_discovered_servers()
            .reconnect_delay_callback(|_| Duration::from_millis(100))
            .connect(servers)
            .await
            .unwrap();
        let config = PublisherConfig {
            ack_timeout: Duration::from_secs(2),
            ..PublisherConfig::new(region.parse().unwrap(), "relay", "relay-1")
        };
        let publisher = Arc::new(Publisher::start(client, config).await.unwrap());
        let rng = StdRng::seed_from_u64(seed);
        let (sessions, published) = (Vec::new(), BTreeSet::new());
        let mut clients = Self { region, publisher, rng, sessions, begun: 0, others: 0, published };
        for _ in 0..SESSIONS {
            clients.join();
        }
        clients
    }

    pub(super) fn publisher(&self) -> Arc<Publisher> {
        Arc::clone(&self.publisher)
    }

    fn join(&mut self) {
        self.begun += 1;
        self.sessions.push((format!("{}-{}", self.region, self.begun), 0));
    }

    /// Waits until the stream has taken everything.
    pub(super) async fn flush(&self) -> PublishStats {
        let stats = self.publisher.flush(SETTLED_WITHIN).await.unwrap();
        assert_eq!((stats.failed, stats.overflowed), (0, 0), "{stats:?}");
        assert_eq!(stats.acknowledged, self.published.len() as u64, "{stats:?}");
        stats
    }

    /// One client does something.
    async fn act(&mut self) {
        let index = self.rng.random_range(0..self.sessions.len());
        let (session_id, seq) = self.sessions[index].clone();
        match self.rng.random_range(0..100) {
            // A frame once more, as a relay does that forgot that it had sent it.
            0..4 if seq > 0 => {
                let seq = self.rng.random_range(1..=seq);
                self.publish_other("again", payload(&session_id, seq, false)).await;
            }
            4..7 => {
                let garbage = self.garbage(&session_id);
                self.publish_other("garbage", garbage).await;
            }
            // The second overtakes the first.
            7..12 => {
                self.publish(&session_id, seq + 2, false).await;
                self.publish(&session_id, seq + 1, false).await;
                self.sessions[index].1 += 2;
            }
            12 => {
                self.publish(&session_id, seq + 1, true).await;
                self.sessions.swap_remove(index);
                self.join();
            }
            // One gets lost between client and relay.
            13..16 => self.sessions[index].1 += 1,
            _ => {
                self.publish(&session_id, seq + 1, false).await;
                self.sessions[index].1 += 1;
            }
        }
    }

    async fn publish(&mut self, session_id: &str, seq: u64, ended: bool) {
        self.send(session_id, seq, payload(session_id, seq, ended)).await;
    }

    async fn publish_other(&mut self, what: &str, payload: Vec<u8>) {
        self.others += 1;
        self.send(what, self.others, payload).await;
    }

    async fn send(&mut self, session_id: &str, seq: u64, payload: Vec<u8>) {
        self.publisher.room().await.unwrap();
        // That of all frames here.
        let (meeting, id) = (MeetingId::new("standup").unwrap(), SessionId::new(session_id).unwrap());
        self.publisher.publish_encoded(meeting, id, Seq::new(seq).unwrap(), payload.into()).unwrap();
        assert!(self.published.insert(format!("{session_id}:{seq}")));
    }

    fn garbage(&mut self, session_id: &str) -> Vec<u8> {
        let mut frame = payload(session_id, 1, false);
        match self.rng.random_range(0..12) {
            0..4 => (0..self.rng.random_range(0..200)).map(|_| 0xc1).collect(),
            4..8 => {
                frame.truncate(frame.len() / 2);
                frame
            }
            8..11 => {
                frame.push(0);
                frame
            }
            _ => vec![0; 66_000],
        }
    }
}

/// Publishes so many frames in each round, for ever. Whoever holds the lock makes it pause.
pub(super) async fn publish(clients: Arc<Mutex<Clients>>, frames: usize) {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        let mut clients = clients.lock().await;
        for _ in 0..frames {
            clients.act().await;
        }
    }
}

/// Frame `seq` of a session; how many peers it sees follows from that.
fn payload(session_id: &str, seq: u64, ended: bool) -> Vec<u8> {
    let peers = usize::try_from(seq).unwrap() * 7 / 3 % (PEERS.len() + 1);
    Frame { ended: ended.then_some(true), ..frame(session_id, seq, &PEERS[..peers]) }.encode(Form::Compact)
}
