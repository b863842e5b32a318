//! The books, compared.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::message::StreamMessage;
use callsight_frame::{Audio, Frame, Peer, Video};
use futures_util::StreamExt;

use crate::account::{Account, began_after};
use crate::faults::Deck;
use crate::kit::scrape::Scrape;
use crate::kit::supercluster::SETTLED_WITHIN;
use crate::kit::wait;
use crate::world::{Exporter, View, World};

/// The name of a metric, session, peer and operation.
type Key = (String, String, String, String);

/// A message of a stream, by its sequence.
pub(super) type Stored = BTreeMap<u64, StreamMessage>;

impl View {
    fn is_missed(&self, sequence: u64) -> bool {
        self.missed.iter().any(|range| range.contains(&sequence))
    }
}

impl World {
    /// Lets everything come to rest, and compares the books of the publishers and of this life of
    /// each exporter.
    pub(super) async fn settle(&mut self) {
        self.pause_clients().await;
        for exporter in &self.exporters {
            exporter.ready().await;
            for view in &exporter.views {
                let last = self.last_sequence(&self.sites[view.site].stream).await;
                let share = last - began_after(&exporter.process, view.region).unwrap();
                let what = format!("an account of {share} messages of {} by {}", view.stream, exporter.name);
                let account = exporter
                    .process
                    .metrics_when(SETTLED_WITHIN, &what, |scrape| {
                        let account = Account::of(scrape, view.region);
                        wait::when(account, |account| account.settled() >= share && account.letters_settled())
                    })
                    .await;
                let log = exporter.process.process().output();
                assert_eq!(account.settled(), share, "{what}: {account:?}\n{log}");
                assert_eq!(
                    account.received - account.redelivered,
                    account.taken(),
                    "{what}: {account:?}\n{log}"
                );
            }
        }
        self.resume_clients();
    }

    /// Each region's messages, which are what was acknowledged and nothing else.
    pub(super) async fn stored(&self) -> Vec<Stored> {
        let mut all = Vec::new();
        for site in &self.sites {
            let mut stored = self.read(&site.stream).await;
            stored.extend(site.removed.iter().map(|(sequence, message)| (*sequence, message.clone())));
            assert_eq!(
                stored.len() as u64,
                self.last_sequence(&site.stream).await,
                "{} has holes",
                site.stream
            );
            let ids: BTreeSet<_> = stored.values().map(|message| message_id(message).to_owned()).collect();
            let published = &site.clients.lock().await.published;
            let missing: Vec<_> = published.difference(&ids).collect();
            assert!(missing.is_empty(), "acknowledged and not in {}: {missing:?}", site.stream);
            assert_eq!(ids.len(), published.len());
            all.push(stored);
        }
        all
    }

    /// Every series of sessions and pairs is what the session's last frame says, and there are no
    /// others. An exporter that was restarted does not know sessions whose frames were removed from
    /// the stream, and one that was not does.
    pub(super) async fn assert_series(&self, stored: &[Stored]) {
        for exporter in &self.exporters {
            let (mut expected, mut possible) = (Vec::new(), Vec::new());
            for view in &exporter.views {
                let site = &self.sites[view.site];
                let mut last: BTreeMap<&str, (u64, Frame<'_>)> = BTreeMap::new();
                let read = stored[view.site].iter().filter(|(sequence, _)| !view.is_missed(**sequence));
                for (sequence, message) in read {
                    let Ok(frame) = Frame::decode(&message.payload) else { continue };
                    if last.get(frame.session_id.as_str()).is_none_or(|(_, before)| before.seq < frame.seq) {
                        last.insert(frame.session_id.as_str(), (*sequence, frame));
                    }
                }
                for (sequence, frame) in last.values().filter(|(_, frame)| frame.ended != Some(true)) {
                    let removed = site.removed.contains_key(sequence);
                    expect_frame(frame, if removed { &mut possible } else { &mut expected });
                }
            }
            let [expected, possible]: [BTreeMap<Key, f64>; 2] =
                [expected, possible].map(|series| series.into_iter().collect());
            let shown = details(&exporter.process.metrics().await);
            let wrong: Vec<_> =
                expected.iter().filter(|(key, value)| shown.get(*key) != Some(value)).collect();
            assert!(wrong.is_empty(), "{}: not as the last frame says: {wrong:?}", exporter.name);
            let known = |key, value| expected.contains_key(key) || possible.get(key) == Some(value);
            let stale: Vec<_> = shown.iter().filter(|(key, value)| !known(*key, *value)).collect();
            assert!(stale.is_empty(), "{}: nobody's: {stale:?}", exporter.name);
            assert!(!shown.is_empty());
        }
    }

    /// No message has a letter that is a frame, and each of the others has one, or was counted as
    /// lost.
    pub(super) async fn assert_dead_letters(&self, stored: &[Stored]) {
        for (index, (site, stored)) in self.sites.iter().zip(stored).enumerate() {
            let all = self.exporters.iter().flat_map(|exporter| &exporter.views);
            let views: Vec<_> = all.filter(|view| view.site == index).collect();
            let was_read = |sequence: &u64| views.iter().any(|view| !view.is_missed(*sequence));
            let rejected = stored.iter().filter(|(_, message)| Frame::decode(&message.payload).is_err());
            let rejected: BTreeSet<u64> = rejected.map(|(sequence, _)| *sequence).filter(was_read).collect();
            let letters = self.read(&format!("{}_DLQ", site.stream)).await;
            let written = letters
                .values()
                .map(|letter| letter.headers.get("Callsight-Sequence").unwrap().as_str().parse().unwrap());
            let written: BTreeSet<u64> = written.collect();
            assert!(written.is_subset(&rejected), "{}: letters about frames", site.region);
            let missing: Vec<_> = rejected.difference(&written).collect();
            let mut lost = 0;
            for exporter in &self.exporters {
                lost += exporter.letters_lost(site.region).await;
            }
            assert!(
                missing.len() as u64 <= lost,
                "{}: letters are missing of {missing:?}, and {lost} are counted as lost",
                site.region
            );
        }
    }

    /// No exporter was ready while its view was older than it may be.
    pub(super) fn assert_readiness(&self) {
        for exporter in &self.exporters {
            let seen = exporter.watch.seen();
            assert!(seen.ready > Duration::ZERO, "{} was never ready", exporter.name);
            assert!(
                seen.falsely_ready.is_empty(),
                "{} was falsely ready, {:.1?}: {}",
                exporter.name,
                seen.falsely_ready,
                seen.example.unwrap_or_default()
            );
        }
    }

    /// The account as a table.
    pub(super) async fn tally(&self, stored: &[Stored], deck: &Deck) -> String {
        let mut text = String::from("\nfault                                  times\n");
        for (fault, times) in &self.faults {
            writeln!(text, "{fault:38} {times:>5}").unwrap();
        }
        writeln!(text, "not tried: {}", deck.missing().join(", ")).unwrap();
        for (site, stored) in self.sites.iter().zip(stored) {
            let clients = site.clients.lock().await;
            let stats = clients.flush().await;
            writeln!(text, "\nregion {}", site.region).unwrap();
            writeln!(
                text,
                "{:>9} published and acknowledged, {} sent again",
                stats.acknowledged, stats.retried
            )
            .unwrap();
            let twice = stored.len() - clients.published.len();
            writeln!(text, "{:>9} stored, of which {twice} twice under one id", stored.len()).unwrap();
        }
        for exporter in &self.exporters {
            self.tally_exporter(&mut text, exporter, stored).await;
        }
        text
    }

    async fn tally_exporter(&self, text: &mut String, exporter: &Exporter, stored: &[Stored]) {
        let scrape = exporter.process.metrics().await;
        for view in &exporter.views {
            let account = Account::of(&scrape, view.region);
            let began = began_after(&exporter.process, view.region).unwrap();
            let lives = view.lives.iter().copied().chain([(began, began + account.settled())]);
            let first = view.lives.first().map_or(began, |(from, _)| *from);
            let mut end = first;
            for (from, to) in lives {
                assert_eq!(end, from, "{}: one life begins where the one before ended", exporter.name);
                end = to;
            }
            assert_eq!(
                (first, end),
                (0, stored[view.site].len() as u64),
                "{}: {}",
                exporter.name,
                view.stream
            );
            let missed: u64 = view.missed.iter().map(|range| range.end() + 1 - range.start()).sum();
            let Account { folded, repeated, rejected, received, redelivered, .. } = account;
            writeln!(text, "\nexporter {}, stream {}", exporter.name, view.stream).unwrap();
            writeln!(text, "{end:>9} accounted for in {} lives; in the last one:", view.lives.len() + 1)
                .unwrap();
            writeln!(
                text,
                "          {folded} folded + {repeated} repeated + {rejected} rejected \
                 = {received} received - {redelivered} delivered again"
            )
            .unwrap();
            writeln!(text, "{missed:>9} lost by removal from the stream, all counted as missed").unwrap();
            writeln!(text, "        0 lost otherwise, 0 doubled").unwrap();
            let letters = exporter.letters_lost(view.region).await;
            writeln!(text, "{letters:>9} dead letters lost while their stream took none").unwrap();
        }
        let seen = exporter.watch.seen();
        writeln!(
            text,
            "{:>8.1?} ready, of which {:.1?} falsely; not ready for {:.1?} while something was broken and for {:.1?} \
             after it was mended; no answer for {:.1?}",
            seen.ready, seen.falsely_ready.values().sum::<Duration>(), seen.unready_while_broken, seen.unready_while_sound, seen.silent
        )
        .unwrap();
        for (fault, lasted) in &seen.falsely_ready {
            writeln!(text, "{lasted:>9.1?} falsely ready after {fault}").unwrap();
        }
        let mut reasons: Vec<_> = seen.reasons.into_iter().collect();
        reasons.sort_by_key(|(_, lasted)| std::cmp::Reverse(*lasted));
        for (reason, lasted) in reasons.into_iter().take(5) {
            writeln!(text, "{lasted:>9.1?} {reason}").unwrap();
        }
    }

    /// A stream as its leader has it, every message.
    ///
    /// The consumer may be on another replica. After faults, replicas of nats-server 2.15.1
    /// disagree for ever about what was purged or discarded, so the leader has the last word.
    pub(super) async fn read(&self, name: &str) -> Stored {
        let stream = self.stream(name).await;
        let state = &stream.cached_info().state;
        let mut stored = Stored::new();
        if state.messages == 0 {
            return stored;
        }
        let config = OrderedConfig::default();
        let consumer = stream.create_consumer(config).await.unwrap();
        let mut messages = consumer.messages().await.unwrap();
        while !stored.contains_key(&state.last_sequence) {
            let message = messages.next().await.unwrap().unwrap();
            let (sequence, time) = message.info().map(|info| (info.stream_sequence, info.published)).unwrap();
            let Message { subject, headers, payload, .. } = message.message;
            if sequence >= state.first_sequence {
                let headers = headers.unwrap_or_default();
                stored.insert(sequence, StreamMessage { subject, sequence, headers, payload, time });
            }
        }
        for sequence in state.first_sequence..=state.last_sequence {
            if let Entry::Vacant(lacking) = stored.entry(sequence) {
                lacking.insert(stream.get_raw_message(sequence).await.unwrap());
            }
        }
        assert_eq!(stored.len() as u64, state.messages, "the stream {name} has holes");
        stored
    }
}

/// The series of sessions and pairs.
fn details(scrape: &Scrape) -> BTreeMap<Key, f64> {
    let detail = |name: &&str| name.starts_with("videocall_session_") || name.starts_with("videocall_pair_");
    let mut shown = BTreeMap::new();
    for name in scrape.names().into_iter().filter(detail).filter(|name| !name.ends_with("_age_seconds")) {
        for (labels, value) in scrape.series(name) {
            let label = |label: &str| labels.get(label).cloned().unwrap_or_default();
            let key = (name.to_owned(), label("session_id"), label("peer_id"), label("operation"));
            assert!(shown.insert(key, value).is_none());
        }
    }
    shown
}

fn message_id(message: &StreamMessage) -> &str {
    message.headers.get("Nats-Msg-Id").unwrap().as_str()
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
        ("audio_jitter_seconds", audio(|audio| audio.jitter_ms.map(|value| value / 1e3))),
        ("audio_packets_awaiting_decode", audio(|audio| audio.packets_awaiting_decode)),
        ("audio_samples_total", audio(|audio| audio.total_samples.map(|count| count as f64))),
        ("audio_concealed_samples_total", audio(|audio| audio.concealed_samples.map(|count| count as f64))),
        (
            "audio_silent_concealed_samples_total",
            audio(|audio| audio.silent_concealed_samples.map(|count| count as f64)),
        ),
        ("audio_packets_received_total", audio(|audio| audio.packets_received.map(|count| count as f64))),
        ("audio_packets_lost_total", audio(|audio| audio.packets_lost.map(|count| count as f64))),
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
