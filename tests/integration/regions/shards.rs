//! A region that is shared out between several exporters shows what one would show: all of it, and
//! nothing twice.

mod upgrade;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer::pull;
use callsight::topology::{Shard, dead_letter_stream_config, mirror_config, stream_config};
use callsight_frame::subject::{MeetingPartition, Partition, Region, Subject};
use callsight_frame::{Form, Frame, MeetingId, Server, ServerUrl};

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// Far beyond any test: no session falls idle, and the gauges of each can be compared with its last
/// frame.
const NEVER_IDLE: &str = "--idle-timeout=1h";

/// So many relays that every one of a few shards gets some.
const RELAYS: usize = 24;

/// Meetings of two sessions each, and frames that name a URL of their meeting. Every other meeting
/// is on one relay, which publishes without the meeting's partition. The sessions of the rest are
/// on a relay each, behind the same URL, and these publish with it.
struct Calls {
    sessions: Vec<String>,
    meetings: Vec<String>,
    urls: Vec<String>,
}

impl Calls {
    fn new() -> Self {
        let names =
            |prefix: &str, count: usize| (0..count).map(|number| format!("{prefix}{number}")).collect();
        Self {
            sessions: names("s", 2 * RELAYS),
            meetings: names("meeting-", RELAYS),
            urls: names("https://relay.example:1", RELAYS),
        }
    }

    fn frame(&self, session: usize, seq: u64) -> Frame<'_> {
        let meeting = session / 2;
        let common = frame(&self.sessions[session], seq, &[&self.sessions[session ^ 1]]);
        let server = common
            .server
            .clone()
            .map(|server| Server { url: ServerUrl::new(&self.urls[meeting]).unwrap(), ..server });
        Frame { meeting_id: MeetingId::new(&self.meetings[meeting]).unwrap(), server, ..common }
    }

    fn subject(&self, region: &str, session: usize) -> String {
        let meeting = session / 2;
        match meeting % 2 {
            0 => format!("health.diagnostics.{region}.relay.r{meeting}"),
            _ => {
                let partition = MeetingPartition::of(&self.meetings[meeting]);
                format!("health.diagnostics.{region}.relay.r{session}.{partition}")
            }
        }
    }

    async fn say(&self, health: &Health, session: usize, frame: &Frame<'_>) {
        health.publish_bytes(&self.subject(REGION, session), frame.encode(Form::Compact)).await;
    }

    /// Every session says frame `seq`.
    async fn speak(&self, health: &Health, seq: u64) {
        for session in 0..self.sessions.len() {
            self.say(health, session, &self.frame(session, seq)).await;
        }
    }
}

/// The partition under which a message is stored.
fn partition(message: &async_nats::jetstream::Message) -> Partition {
    Subject::parse(&message.subject).unwrap().partition.unwrap()
}

fn is_of_meeting(partition: Partition) -> bool {
    matches!(partition, Partition::Meeting(_))
}

/// The exporters of a layout, each of which makes its durable.
fn layout(nats: &Nats, of: u32, extra: &[&str]) -> Vec<Callsight> {
    let shards = Shard::all(of).map(|shard| {
        let shard = format!("--shard={shard}");
        Callsight::serve(nats, &[&["--create", NEVER_IDLE, &shard], extra].concat())
    });
    shards.collect()
}

fn durable(number: usize, of: u32) -> String {
    format!("callsight-main-{number}of{of}")
}

fn count(scrape: &Scrape, name: &str) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is whole")]
    let count = scrape.sum(&format!("callsight_frames_{name}_total"), &[]) as u64;
    count
}

fn taken(scrape: &Scrape) -> u64 {
    count(scrape, "folded") + count(scrape, "repeated") + count(scrape, "rejected")
}

async fn scrapes(exporters: &[Callsight]) -> Vec<Scrape> {
    let mut scrapes = Vec::new();
    for exporter in exporters {
        scrapes.push(exporter.metrics().await);
    }
    scrapes
}

/// Waits until the exporters have taken so many frames, all together.
async fn taken_together(exporters: &[Callsight], frames: u64) -> Vec<Scrape> {
    wait::eventually_async(PATIENCE, &format!("{frames} frames to be taken"), async || {
        let scrapes = scrapes(exporters).await;
        let sum: u64 = scrapes.iter().map(taken).sum();
        if sum >= frames { Ok(scrapes) } else { Err(sum) }
    })
    .await
}

/// The series that tell of calls, by name and labels: those that the same frames give the same
/// values.
fn calls(scrape: &Scrape, kept: impl Fn(&str) -> bool) -> BTreeMap<String, f64> {
    let names: Vec<_> = scrape.names().into_iter().filter(|name| name.starts_with("videocall_")).collect();
    let names = names.into_iter().filter(|name| !name.ends_with("_age_seconds") && kept(name));
    names
        .flat_map(|name| {
            scrape.series(name).into_iter().map(move |(labels, value)| (format!("{name} {labels:?}"), value))
        })
        .collect()
}

/// What several exporters show together: none of it twice, but for what is counted by release, path
/// or region, which adds up.
fn union(scrapes: &[Scrape], kept: impl Fn(&str) -> bool + Copy) -> BTreeMap<String, f64> {
    let mut union = BTreeMap::new();
    for scrape in scrapes {
        for (series, value) in calls(scrape, kept) {
            let adds_up = ["videocall_client_", "videocall_path_", "videocall_join"];
            match union.entry(series) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(mut entry) => {
                    let is = adds_up.iter().any(|prefix| entry.key().starts_with(prefix));
                    assert!(is, "{} is there twice", entry.key());
                    *entry.get_mut() += value;
                }
            }
        }
    }
    union
}

fn assert_same(together: &BTreeMap<String, f64>, alone: &BTreeMap<String, f64>) {
    assert!(!alone.is_empty());
    let different = alone.iter().filter(|(series, value)| {
        // Sums of observations are added up in another order.
        together.get(*series).is_none_or(|other| (other - *value).abs() > 1e-9 * value.abs())
    });
    let different: Vec<_> = different.map(|(series, value)| (series, value, together.get(series))).collect();
    assert!(different.is_empty(), "{different:#?}");
    let more: BTreeSet<_> = together.keys().filter(|series| !alone.contains_key(*series)).collect();
    assert!(more.is_empty(), "{more:#?}");
}

/// Gauges are right also after a restart; counters begin anew.
fn is_gauge(name: &str) -> bool {
    !["_total", "_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end)) || name.contains("_pair_")
}

#[tokio::test]
async fn three_shards_show_together_what_one_exporter_shows() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut alone = Callsight::serve(&nats, &["--create", NEVER_IDLE, "--deployment=alone"]);
    let mut shards = layout(&nats, 3, &[]);
    alone.ready().await;
    for shard in &mut shards {
        shard.ready().await;
    }

    let (calls_in, mut published) = (Calls::new(), 0);
    for seq in 1..=5 {
        calls_in.speak(&health, seq).await;
    }
    // One leaves, one is refused.
    calls_in.say(&health, 6, &Frame { ended: Some(true), ..calls_in.frame(6, 6) }).await;
    health.publish_bytes(&format!("health.diagnostics.{REGION}.relay.r5"), b"no frame".to_vec()).await;
    published += 5 * 2 * RELAYS as u64 + 2;

    let together = taken_together(&shards, published).await;
    let one = alone.metrics_when(PATIENCE, "all frames", |scrape| {
        wait::when(taken(scrape), |taken| *taken == published).map(|_| ())
    });
    one.await;
    let one = alone.metrics().await;
    for name in ["received", "folded", "repeated", "rejected", "redelivered"] {
        let sum: u64 = together.iter().map(|scrape| count(scrape, name)).sum();
        assert_eq!(sum, count(&one, name), "{name}");
    }
    let stored: BTreeSet<_> = health
        .read()
        .await
        .iter()
        .map(|message| (is_of_meeting(partition(message)), partition(message).number() % 3))
        .collect();
    assert_eq!(stored.len(), 6, "every shard has partitions of both kinds");
    assert_same(&union(&together, |_| true), &calls(&one, |_| true));

    // One dies in the middle of its work. What it had acknowledged stays counted, and the rest
    // comes to its successor.
    for seq in 6..=20 {
        calls_in.speak(&health, seq).await;
        if seq == 12 {
            shards[1].kill9();
        }
    }
    let floor = health.settled_ack_floor_of(&durable(2, 3)).await;
    assert!(floor > 0);
    let own = Shard::all(3).nth(1).unwrap();
    let missed = health
        .read()
        .await
        .into_iter()
        .filter(|message| message.info().unwrap().stream_sequence > floor && own.has(partition(message)));
    let missed = missed.count() as u64;
    assert!(missed > 0);
    shards[1].restart();
    shards[1].ready().await;
    let after = taken_together(&shards[1..2], missed).await;
    assert_eq!((taken(&after[0]), count(&after[0], "received")), (missed, missed));
    assert_eq!(count(&after[0], "redelivered"), 0);

    published = health.messages().await;
    let all = alone.metrics_when(PATIENCE, "all frames", |scrape| {
        wait::when(taken(scrape), |taken| *taken == published).map(|_| ())
    });
    all.await;
    let together = wait::eventually_async(PATIENCE, "the other shards to have all", async || {
        let pending = [1, 3].map(|number| durable(number, 3));
        for name in pending {
            let info = health.durable_named(&name).await;
            if (info.num_pending, info.num_ack_pending) != (0, 0) {
                return Err(info);
            }
        }
        Ok(scrapes(&shards).await)
    })
    .await;
    assert_same(&union(&together, is_gauge), &calls(&alone.metrics().await, is_gauge));
}

/// What the counter of samples must have come to: every session counts from its last frame that was
/// counted before.
fn samples_after(
    messages: &[async_nats::jetstream::Message],
    counted: impl Fn(Partition, u64) -> bool,
) -> (u64, u64) {
    let mut growth: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut frames = 0;
    for message in messages {
        let frame = Frame::decode(&message.payload).unwrap();
        let (from, to) = growth.entry(frame.session_id.to_string()).or_default();
        if counted(partition(message), message.info().unwrap().stream_sequence) {
            *from = frame.seq.get();
        } else {
            frames += 1;
        }
        *to = frame.seq.get();
    }
    (frames, growth.values().map(|(from, to)| 48_000 * (to - from)).sum())
}

#[tokio::test]
async fn two_shards_become_three_and_every_frame_counts_once() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut alone = Callsight::serve(&nats, &["--create", NEVER_IDLE, "--deployment=alone"]);
    alone.ready().await;
    let mut old = layout(&nats, 2, &[]);
    for shard in &mut old {
        shard.ready().await;
    }
    let calls_in = Calls::new();
    calls_in.speak(&health, 1).await;
    taken_together(&old, 2 * RELAYS as u64).await;
    // The first stays behind: the two are left at places far from each other.
    old[0].kill9();
    for seq in 2..=5 {
        calls_in.speak(&health, seq).await;
    }

    // The new ones may be there before the old ones are gone, and wait for them.
    let mut new = layout(&nats, 3, &["--shards-before=2"]);
    for shard in &new {
        shard.listening().await;
        let url = "/readyz";
        wait::eventually_async(PATIENCE, "the new shard to say whom it waits for", async || {
            let answer = shard.get(url).await;
            let seen = (answer.status, answer.text().to_owned());
            wait::when(seen, |(status, text)| *status == 503 && text.contains("is still being read"))
        })
        .await;
    }
    assert!(old[1].terminate().success());
    let floors = [
        health.settled_ack_floor_of(&durable(1, 2)).await,
        health.settled_ack_floor_of(&durable(2, 2)).await,
    ];
    assert!(floors[0] < floors[1], "{floors:?}");
    for seq in 6..=7 {
        calls_in.speak(&health, seq).await;
    }
    for shard in &mut new {
        shard.ready().await;
    }

    let messages = health.read().await;
    let halves: Vec<_> = Shard::all(2).collect();
    let counted = |partition: Partition, sequence: u64| {
        halves.iter().zip(floors).any(|(half, floor)| half.has(partition) && sequence <= floor)
    };
    let (frames, samples) = samples_after(&messages, counted);
    for of_meetings in [false, true] {
        let of_kind = messages.iter().filter(|message| is_of_meeting(partition(message)) == of_meetings);
        let counted: BTreeSet<_> = of_kind
            .map(|message| counted(partition(message), message.info().unwrap().stream_sequence))
            .collect();
        assert_eq!(counted.len(), 2, "of both kinds, some frames were counted before and some were not");
    }
    let together = taken_together(&new, frames).await;
    assert_eq!(together.iter().map(taken).sum::<u64>(), frames);
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let expected = samples as f64;
    let sum: f64 = together.iter().map(|scrape| scrape.sum("videocall_audio_samples_total", &[])).sum();
    assert_eq!(sum.to_bits(), expected.to_bits(), "{sum} for {expected}");
    let all = alone.metrics_when(PATIENCE, "all frames", |scrape| {
        wait::when(taken(scrape), |taken| *taken == messages.len() as u64).map(|_| ())
    });
    all.await;
    assert_same(&union(&together, is_gauge), &calls(&alone.metrics().await, is_gauge));

    // Once the new ones are at rest, the old durables may go and the flag may stay: nothing comes
    // again.
    let context = nats.jetstream().await;
    let stream = context.get_stream("HEALTH_US").await.unwrap();
    for number in 1..=2 {
        stream.delete_consumer(&durable(number, 2)).await.unwrap();
    }
    for shard in &mut new {
        assert!(shard.terminate().success());
        shard.restart();
        shard.ready().await;
    }
    assert_eq!(scrapes(&new).await.iter().map(|scrape| count(scrape, "received")).sum::<u64>(), 0);
    assert_same(&union(&scrapes(&new).await, is_gauge), &calls(&alone.metrics().await, is_gauge));
}

#[tokio::test]
async fn shards_share_out_a_mirror_as_they_do_its_stream() {
    let nats = Nats::start();
    let context = nats.jetstream().await;
    let apac: Region = "apac".parse().unwrap();
    let configs = [stream_config(&apac, 1), dead_letter_stream_config(&apac, 1), mirror_config(&apac, 1)];
    for config in configs {
        context.create_stream(config).await.unwrap();
    }
    let global = |extra: &str| {
        Callsight::serve_at(&nats.url(), &["--region=apac", "--home=us", "--create", NEVER_IDLE, extra])
    };
    let mut alone = global("--deployment=alone");
    let mut shards: Vec<_> = Shard::all(2).map(|shard| global(&format!("--shard={shard}"))).collect();
    alone.ready().await;
    for shard in &mut shards {
        shard.ready().await;
    }
    let calls_in = Calls::new();
    for session in 0..calls_in.sessions.len() {
        let subject = calls_in.subject("apac", session);
        let payload = calls_in.frame(session, 1).encode(Form::Compact).into();
        context.publish(subject, payload).await.unwrap().await.unwrap();
    }

    let frames = 2 * RELAYS as u64;
    let together = taken_together(&shards, frames).await;
    taken_together(std::slice::from_ref(&alone), frames).await;
    assert!(together.iter().all(|scrape| taken(scrape) > 0), "both shards have relays");
    assert_same(&union(&together, |_| true), &calls(&alone.metrics().await, |_| true));
    let own = context.get_stream("HEALTH_APAC").await.unwrap();
    let mirror = context.get_stream("HEALTH_APAC_MIRROR").await.unwrap();
    for number in 1..=2 {
        mirror.get_consumer::<pull::Config>(&durable(number, 2)).await.unwrap();
        own.get_consumer::<pull::Config>(&durable(number, 2)).await.expect_err("it reads the mirror");
    }
}

#[tokio::test]
async fn a_meeting_on_many_servers_is_counted_once_if_they_give_its_partition_and_else_by_each_shard() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut alone = Callsight::serve(&nats, &["--create", NEVER_IDLE, "--deployment=alone"]);
    let mut shards = layout(&nats, 2, &[]);
    alone.ready().await;
    for shard in &mut shards {
        shard.ready().await;
    }
    // Two meetings on the same URL, over every server each: a load balancer.
    let servers = RELAYS as u64;
    let retro = MeetingId::new("retro").unwrap();
    for server in 0..RELAYS {
        let standup = frame(&format!("s{server}"), 1, &["bo"]).encode(Form::Compact);
        health.publish_bytes(&format!("health.diagnostics.{REGION}.relay.r{server}"), standup).await;
        let session = format!("t{server}");
        let retro = Frame { meeting_id: retro, ..frame(&session, 1, &["cy"]) }.encode(Form::Compact);
        let last = MeetingPartition::of("retro");
        health
            .publish_bytes(&format!("health.diagnostics.{REGION}.ingest.edge-{server}.{last}"), retro)
            .await;
    }
    let together = taken_together(&shards, 2 * servers).await;
    taken_together(std::slice::from_ref(&alone), 2 * servers).await;
    let one = alone.metrics().await;
    let sum = |name: &str| together.iter().map(|scrape| scrape.sum(name, &[])).sum::<f64>();
    // A session has one server, so what is counted by sessions adds up.
    for name in [
        "videocall_sessions",
        "videocall_peer_connections",
        "videocall_sessions_degraded",
        "videocall_audio_samples_total",
        "videocall_rtt_seconds_count",
    ] {
        assert!((sum(name) - one.sum(name, &[])).abs() < 1e-9, "{name}");
    }
    let of_retro = together
        .iter()
        .map(|scrape| scrape.sum("videocall_session_rtt_seconds", &[("meeting_id", "retro")]) > 0.0)
        .filter(|is_there| *is_there);
    assert_eq!(of_retro.count(), 1, "one shard has all of the meeting whose servers give its partition");
    assert!((one.sum("videocall_meetings", &[]) - 2.0).abs() < 1e-9);
    assert!(
        (sum("videocall_meetings") - 3.0).abs() < 1e-9,
        "docs/sharding.md says that the other meeting is counted by both"
    );
}

#[tokio::test]
async fn a_shard_refuses_what_would_lose_or_double_frames() {
    let nats = Nats::start();
    let context = nats.jetstream().await;
    let why = async |args: &[&str], expected: &str| {
        let exporter = Callsight::serve(&nats, args);
        exporter.listening().await;
        wait::eventually_async(PATIENCE, expected, async || {
            let answer = exporter.get("/readyz").await;
            wait::when(answer.text().to_owned(), |text| text.contains(expected)).map(drop)
        })
        .await;
    };
    let stream = async_nats::jetstream::stream::Config {
        name: "HEALTH_US".to_owned(),
        subjects: vec!["health.diagnostics.us.*.*".to_owned()],
        ..Default::default()
    };
    context.create_stream(stream).await.unwrap();
    why(&["--shard=1/2"], "does not append its servers' 64 partitions").await;

    // What publishers give as a last token no shard might read.
    context.delete_stream("HEALTH_US").await.unwrap();
    let mut stream = stream_config(&REGION.parse().unwrap(), 1);
    stream.subjects.push("health.diagnostics.us.*.*.*".to_owned());
    stream.subjects.retain(|subject| !subject.contains(".m"));
    context.create_stream(stream).await.unwrap();
    why(
        &["--shard=1/2"],
        "takes health.diagnostics.us.*.*.*, under which it would store frames that no shard reads",
    )
    .await;

    context.delete_stream("HEALTH_US").await.unwrap();
    let _health = Health::create(&nats).await;
    why(
        &["--shard=1/2", "--create", "--shards-before=3"],
        "durable consumer callsight-main-1of3 does not exist",
    )
    .await;
    let stream = context.get_stream("HEALTH_US").await.unwrap();
    let everything = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some(durable(1, 2)),
        ack_policy: async_nats::jetstream::consumer::AckPolicy::All,
        ..Default::default()
    };
    stream.create_consumer(everything).await.unwrap();
    why(&["--shard=1/2"], "reads other subjects").await;
}
