//! The books, compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use callsight_frame::{Audio, Frame, Peer, Video};
use futures_util::StreamExt;

use super::clients::Clients;
use super::faults::World;
use crate::kit::scrape::Scrape;
use crate::kit::wait;

/// How long an account may take to come out right after the last fault.
const SETTLED: Duration = Duration::from_secs(90);

/// The name of a metric, session, peer and operation.
type Key = (String, String, String, String);

/// A message of a stream, by its sequence.
pub(super) type Stored = BTreeMap<u64, Message>;

/// What an exporter says became of the messages that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    received: u64,
    redelivered: u64,
    folded: u64,
    repeated: u64,
    rejected: u64,
    letters_lost: u64,
}

impl Account {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is whole")]
    fn of(scrape: &Scrape) -> Self {
        let count = |name: &str| scrape.sum(&format!("callsight_{name}_total"), &[]) as u64;
        Self {
            received: count("frames_received"),
            redelivered: count("frames_redelivered"),
            folded: count("frames_folded"),
            repeated: count("frames_repeated"),
            rejected: count("frames_rejected"),
            letters_lost: count("dead_letters_lost"),
        }
    }

    /// Messages of the stream, each counted once.
    fn taken(&self) -> u64 {
        self.folded + self.repeated + self.rejected
    }
}

impl World {
    /// Lets everything come to rest, and compares the books of the publisher and of this life of
    /// the exporter.
    pub(super) async fn settle(&mut self, clients: &mut Clients) {
        clients.flush().await;
        let last = self.last_sequence("HEALTH_US").await;
        self.callsight.ready().await;
        let share = last - self.began().unwrap();
        let log = self.callsight.process().output();
        let account = self
            .callsight
            .metrics_when(SETTLED, &format!("an account of {share} messages"), |scrape| {
                let account = Account::of(scrape);
                wait::when(account, |account| account.taken() >= share)
            })
            .await;
        assert_eq!(account.taken(), share, "{account:?}\n{log}");
        assert_eq!(account.received - account.redelivered, share, "{account:?}\n{log}");
        assert_eq!(account.letters_lost, 0, "{account:?}\n{log}");
    }

    /// The stream, which holds what was acknowledged and nothing else.
    pub(super) async fn stream(&self, clients: &Clients) -> Stored {
        let stored = self.read("HEALTH_US").await;
        let ids: BTreeSet<_> = stored.values().map(|message| message_id(message).to_owned()).collect();
        let missing: Vec<_> = clients.published.difference(&ids).collect();
        assert!(missing.is_empty(), "acknowledged and not in the stream: {missing:?}");
        assert_eq!(ids.len(), clients.published.len());
        stored
    }

    /// Every series of sessions and pairs is what the session's last frame says, and there are no
    /// others.
    pub(super) async fn assert_series(&self, stored: &Stored) {
        let mut last: BTreeMap<&str, Frame<'_>> = BTreeMap::new();
        for frame in stored.values().filter_map(|message| Frame::decode(&message.payload).ok()) {
            if last.get(frame.session_id.as_str()).is_none_or(|before| before.seq < frame.seq) {
                last.insert(frame.session_id.as_str(), frame);
            }
        }
        let mut expected = Vec::new();
        for frame in last.values().filter(|frame| frame.ended != Some(true)) {
            expect_frame(frame, &mut expected);
        }
        let expected: BTreeMap<Key, f64> = expected.into_iter().collect();

        let scrape = self.callsight.metrics().await;
        let detail =
            |name: &&str| name.starts_with("videocall_session_") || name.starts_with("videocall_pair_");
        let mut shown = BTreeMap::new();
        for name in scrape.names().into_iter().filter(detail).filter(|name| !name.ends_with("_age_seconds")) {
            for (labels, value) in scrape.series(name) {
                let label = |label: &str| labels.get(label).cloned().unwrap_or_default();
                let key = (name.to_owned(), label("session_id"), label("peer_id"), label("operation"));
                assert!(shown.insert(key, value).is_none());
            }
        }
        let wrong: Vec<_> = expected.iter().filter(|(key, value)| shown.get(*key) != Some(value)).collect();
        assert!(wrong.is_empty(), "not as the last frame says: {wrong:?}");
        let stale: Vec<_> = shown.keys().filter(|key| !expected.contains_key(*key)).collect();
        assert!(stale.is_empty(), "nobody's: {stale:?}");
        assert!(!shown.is_empty());
    }

    /// Every message that is no frame, and no other, has its letter.
    pub(super) async fn assert_dead_letters(&self, stored: &Stored) {
        let rejected = stored.iter().filter(|(_, message)| Frame::decode(&message.payload).is_err());
        let rejected: BTreeSet<_> = rejected.map(|(sequence, _)| *sequence).collect();
        let letters = self.read("HEALTH_US_DLQ").await;
        let written = letters.values().map(|letter| {
            let headers = letter.headers.as_ref().unwrap();
            headers.get("Callsight-Sequence").unwrap().as_str().parse().unwrap()
        });
        assert_eq!(written.collect::<BTreeSet<u64>>(), rejected);
    }

    /// The account as a table.
    pub(super) async fn tally(&self, clients: &Clients, stored: &Stored) -> String {
        let stats = clients.flush().await;
        let account = Account::of(&self.callsight.metrics().await);
        let mut text = String::from("\nfault                                  times\n");
        for (fault, times) in &self.faults {
            writeln!(text, "{fault:38} {times:>5}").unwrap();
        }
        let reconnections = self.reconnections();
        writeln!(text, "{:38} {reconnections:>5}", "(connections that the exporters made)").unwrap();
        text.push_str("\nlife          from          to   messages\n");
        let began = self.began().unwrap();
        let lives = self.lives.iter().copied().chain([(began, began + account.taken())]);
        let mut sum = self.lives.first().map_or(began, |(from, _)| *from);
        for (life, (from, to)) in lives.enumerate() {
            writeln!(text, "{:>4}  {:>12}{to:>12}{:>11}", life + 1, from + 1, to - from).unwrap();
            assert_eq!(sum, from, "one life begins where the one before ended");
            sum = to;
        }
        assert_eq!(sum, stored.len() as u64);
        let twice = stored.len() - clients.published.len();
        writeln!(
            text,
            "\n{:>9} published and acknowledged, {} sendings repeated",
            stats.acknowledged, stats.retried
        )
        .unwrap();
        writeln!(text, "{twice:>9} stored twice under one id\n{:>9} in the stream", stored.len()).unwrap();
        writeln!(text, "{sum:>9} folded, repeated or rejected in all lives; in the last one:").unwrap();
        let Account { received, redelivered, folded, repeated, rejected, .. } = account;
        writeln!(text, "          {folded} folded + {repeated} repeated + {rejected} rejected").unwrap();
        writeln!(text, "          = {received} received - {redelivered} delivered again").unwrap();
        text
    }

    async fn last_sequence(&self, name: &str) -> u64 {
        let stream = self.jetstream.get_stream(name).await.unwrap();
        stream.get_info().await.unwrap().state.last_sequence
    }

    /// A stream as it is, every message in order.
    async fn read(&self, name: &str) -> Stored {
        let last = self.last_sequence(name).await;
        let mut stored = Stored::new();
        if last == 0 {
            return stored;
        }
        let config = OrderedConfig::default();
        let consumer = self.jetstream.create_consumer_on_stream(config, name).await.unwrap();
        let mut messages = consumer.messages().await.unwrap();
        while !stored.contains_key(&last) {
            let message = messages.next().await.unwrap().unwrap();
            let sequence = message.info().unwrap().stream_sequence;
            stored.insert(sequence, message.message);
        }
        assert_eq!(stored.len() as u64, last, "the stream {name} has holes");
        stored
    }
}

fn message_id(message: &Message) -> &str {
    message.headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap().as_str()
}

/// The series that a live session has after this frame.
fn expect_frame(frame: &Frame<'_>, series: &mut Vec<(Key, f64)>) {
    let state = |state: bool| f64::from(u8::from(state));
    let mut put = |name: &str, peer: &str, value: Option<f64>| {
        let key = (
            format!("videocall_session_{name}"),
            frame.session_id.to_string(),
            peer.to_owned(),
            String::new(),
        );
        series.extend(value.map(|value| (key, value)));
    };
    let own = frame.peer_id.as_str();
    put("rtt_seconds", own, frame.server.as_ref().and_then(|server| server.rtt_ms).map(|rtt| rtt / 1e3));
    put("audio_enabled", own, frame.audio_enabled.map(state));
    put("video_enabled", own, frame.video_enabled.map(state));
    for peer in &frame.peers {
        expect_peer(frame, peer, series);
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn expect_peer(frame: &Frame<'_>, peer: &Peer<'_>, series: &mut Vec<(Key, f64)>) {
    let key = |name: &str, operation: &str| -> Key {
        let name = format!("videocall_pair_{name}");
        (name, frame.session_id.to_string(), peer.peer_id.to_string(), operation.to_owned())
    };
    let audio = |value: fn(&Audio) -> Option<f64>| peer.audio.as_ref().and_then(value);
    let video = |value: fn(&Video) -> Option<f64>| peer.video.as_ref().and_then(value);
    let values = [
        ("can_listen", Some(f64::from(u8::from(peer.can_listen)))),
        ("can_see", Some(f64::from(u8::from(peer.can_see)))),
        ("audio_buffer_seconds", audio(|audio| audio.buffer_ms.map(|value| value / 1e3))),
        ("audio_target_seconds", audio(|audio| audio.target_ms.map(|value| value / 1e3))),
        ("audio_packets_awaiting_decode", audio(|audio| audio.packets_awaiting_decode)),
        ("audio_samples_total", audio(|audio| audio.total_samples.map(|count| count as f64))),
        ("audio_concealed_samples_total", audio(|audio| audio.concealed_samples.map(|count| count as f64))),
        (
            "audio_silent_concealed_samples_total",
            audio(|audio| audio.silent_concealed_samples.map(|count| count as f64)),
        ),
        ("video_frames_per_second", video(|video| video.fps)),
        ("video_frames_buffered", video(|video| video.frames_buffered)),
        ("video_bytes_per_second", video(|video| video.bitrate_kbps.map(|value| value * 125.0))),
        ("video_freezes_total", video(|video| video.freeze_count.map(|count| count as f64))),
    ];
    series.extend(values.into_iter().filter_map(|(name, value)| Some((key(name, ""), value?))));
    let neteq = peer.audio.as_ref().and_then(|audio| audio.neteq.as_ref());
    for (operation, count) in
        callsight_frame::Operation::ALL.iter().zip(neteq.into_iter().flat_map(|neteq| neteq.counts()))
    {
        series.extend(count.map(|count| (key("neteq_operations_total", operation.label()), count as f64)));
    }
}
