//! Streams and durables from before meetings had partitions: they learn of them without a frame
//! being lost, counted twice, or passed over in silence.

use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::stream::{self, Stream};
use callsight::topology::{Shard, consumer_config, dead_letter_stream_config, stream_config};
use callsight_frame::subject::{MeetingPartition, Partition, Region};
use callsight_frame::{Form, Frame, MeetingId};
use callsight_publish::{Publisher, PublisherConfig};
use futures_util::TryStreamExt;
use time::OffsetDateTime;

use super::{NEVER_IDLE, RELAYS, count, durable, layout, taken, taken_together};
use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// A stream and two shards' durables, as they were declared before meetings had partitions.
async fn declare_as_before(nats: &Nats) -> stream::Config {
    let (context, region) = (nats.jetstream().await, REGION.parse::<Region>().unwrap());
    let now = stream_config(&region, 1);
    let before = stream::Config { subjects: now.subjects[..1].to_vec(), ..now.clone() };
    context.create_stream(before).await.unwrap();
    context.create_stream(dead_letter_stream_config(&region, 1)).await.unwrap();
    let start = OffsetDateTime::now_utc() - Duration::from_secs(60);
    for (shard, number) in Shard::all(2).zip(1..) {
        let mut filter_subjects = shard.subjects(&region);
        filter_subjects.retain(|subject| !subject.contains(".m"));
        assert_eq!(filter_subjects.len(), 32);
        let durable_name = Some(durable(number, 2));
        let whole = consumer_config(&"main".parse().unwrap(), start);
        let config = pull::Config { durable_name, filter_subjects, ..whole };
        context.create_consumer_on_stream(config, "HEALTH_US").await.unwrap();
    }
    now
}

/// Reads one frame of each relay of a shard and acknowledges them, as an exporter of before does.
/// How many wait, the server may say too late.
async fn read_as_before(stream: &Stream, number: usize) -> usize {
    let shard = Shard::all(2).nth(number - 1).unwrap();
    // Servers and meetings have the same hash.
    let partition = |relay: &usize| Partition::Server(MeetingPartition::of(&format!("r{relay}")).number());
    let relays = (0..RELAYS).filter(|relay| shard.has(partition(relay))).count();
    let consumer: PullConsumer = stream.get_consumer(&durable(number, 2)).await.unwrap();
    let messages = consumer.batch().max_messages(relays).expires(PATIENCE).messages().await.unwrap();
    let messages: Vec<_> = messages.try_collect().await.unwrap();
    assert_eq!(messages.len(), relays);
    messages.last().unwrap().double_ack().await.unwrap();
    relays
}

/// Frames of one session in each of many meetings, those of a shard, with the meetings' partitions.
async fn speak_of_meetings(health: &Health, shard: Shard, seq: u64) -> u64 {
    let mut frames = 0;
    for number in 0..RELAYS {
        let (meeting, session) = (format!("meeting-{number}"), format!("of-{number}"));
        let partition = MeetingPartition::of(&meeting);
        if !shard.has(Partition::Meeting(partition)) {
            continue;
        }
        let subject = format!("health.diagnostics.{REGION}.relay.r1.{partition}");
        let meeting_id = MeetingId::new(&meeting).unwrap();
        let payload = Frame { meeting_id, ..frame(&session, seq, &[]) }.encode(Form::Compact);
        health.publish_bytes(&subject, payload).await;
        frames += 1;
    }
    frames
}

/// One frame over each relay, without a partition.
async fn speak_over_relays(health: &Health, seq: u64) {
    for relay in 0..RELAYS {
        let payload = frame(&format!("s{relay}"), seq, &[]).encode(Form::Compact);
        health.publish_bytes(&format!("health.diagnostics.{REGION}.relay.r{relay}"), payload).await;
    }
}

#[tokio::test]
async fn an_old_stream_and_its_shards_learn_of_meetings_without_missing_a_frame() {
    let nats = Nats::start();
    declare_as_before(&nats).await;
    let health = Health::at(&nats).await;
    let shards = || Shard::all(2).map(|shard| format!("--shard={shard}"));
    let mut shards: Vec<_> = shards().map(|shard| Callsight::serve(&nats, &[NEVER_IDLE, &shard])).collect();
    speak_over_relays(&health, 1).await;
    // The stream has nothing that they would miss.
    for shard in &mut shards {
        shard.ready().await;
    }
    taken_together(&shards, RELAYS as u64).await;

    // A publisher that gives partitions waits, and says what for.
    let publisher = PublisherConfig::new(REGION.parse().unwrap(), "relay", "r1");
    let publisher = Publisher::start(nats.client().await, publisher).await.unwrap();
    let meetings: Vec<_> = (0..RELAYS).map(|number| format!("meeting-{number}")).collect();
    for (number, meeting) in meetings.iter().enumerate() {
        let session = format!("of-{number}");
        let meeting_id = MeetingId::new(meeting).unwrap();
        publisher.publish(&Frame { meeting_id, ..frame(&session, 1, &[]) }).unwrap();
    }
    wait::eventually_async(PATIENCE, "the publisher to say what to do", async || {
        wait::when(publisher.setback(), |why| {
            why.is_some_and(|why| why.contains("`callsight streams apply`"))
        })
    })
    .await;
    let stats = publisher.stats();
    assert_eq!((stats.acknowledged, stats.failed, stats.in_flight), (0, 0, RELAYS as u64), "{stats:?}");

    // Declared anew, while everybody runs: the filters first, then the stream.
    let url = nats.url();
    let streams = |task: &str| {
        let declared = ["--region=us", "--replicas=1", "--deployment=main/2", "--nats-url", &url];
        let output = Callsight::run(&[&["streams", task], &declared[..]].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = streams("verify");
    assert_eq!(code, Some(1), "{said}");
    let lines = [
        "~ consumer HEALTH_US/callsight-main-1of2",
        "filter_subjects: + \"health.diagnostics.us.*.*.m0\" … \"health.diagnostics.us.*.*.m62\" (32)",
        "~ stream   HEALTH_US\n",
        "subjects: + \"health.diagnostics.us.*.*.m0\" … \"health.diagnostics.us.*.*.m63\" (64)",
    ];
    let places: Vec<_> = lines.iter().map(|line| said.find(line).ok_or((line, &said)).unwrap()).collect();
    assert!(places.is_sorted(), "{said}");
    let (code, said) = streams("apply");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(streams("verify").0, Some(0));

    let stats = publisher.flush(PATIENCE).await.unwrap();
    assert_eq!((stats.acknowledged, stats.failed), (RELAYS as u64, 0), "{stats:?}");
    let together = taken_together(&shards, 2 * RELAYS as u64).await;
    assert_eq!(together.iter().map(taken).sum::<u64>(), 2 * RELAYS as u64);
    assert_eq!(together.iter().map(|scrape| count(scrape, "missed")).sum::<u64>(), 0);
    let sessions: f64 = together.iter().map(|scrape| scrape.sum("videocall_sessions", &[])).sum();
    assert!((sessions - 2.0 * RELAYS as f64).abs() < 1e-9, "{sessions}");
    for shard in &mut shards {
        shard.ready().await;
    }
}

#[tokio::test]
async fn a_shard_whose_durable_leaves_meetings_out_says_so_and_counts_what_was_passed_over() {
    let nats = Nats::start();
    let now = declare_as_before(&nats).await;
    let (context, health) = (nats.jetstream().await, Health::at(&nats).await);
    let first = Shard::all(2).next().unwrap();
    context.update_stream(now).await.unwrap();
    let mut stream = context.get_stream("HEALTH_US").await.unwrap();
    let passed = speak_of_meetings(&health, first, 1).await;
    assert!(passed > 1);
    speak_over_relays(&health, 1).await;
    assert!(read_as_before(&stream, 1).await > 0);
    let later = speak_of_meetings(&health, first, 2).await;
    let messages = stream.info().await.unwrap().state.messages;

    // Whoever may not change the durable says what to do.
    let shard = Callsight::serve(&nats, &["--shard=1/2", NEVER_IDLE]);
    shard.listening().await;
    let advice = "`callsight streams apply --region us --deployment main/2`, or restart with --create";
    wait::eventually_async(PATIENCE, "the shard to say what to do", async || {
        let answer = shard.get("/readyz").await;
        let seen = (answer.status, answer.text().to_owned());
        wait::when(seen, |(status, text)| *status == 503 && text.contains(advice))
    })
    .await;
    drop(shard);
    assert_eq!(stream.consumer_info(durable(1, 2)).await.unwrap().config.filter_subjects.len(), 32);

    let mut shard = Callsight::serve(&nats, &["--shard=1/2", "--create", NEVER_IDLE]);
    shard.ready().await;
    shard
        .metrics_when(PATIENCE, "what comes after the durable's position", |scrape| {
            wait::when(taken(scrape), |taken| *taken == later).map(|_| ())
        })
        .await;
    let scrape = shard.metrics().await;
    assert_eq!((count(&scrape, "missed"), count(&scrape, "received")), (passed, later));
    let warning = shard.get("/readyz").await.text().to_owned();
    assert!(
        warning.contains(&format!("{passed} frames were removed from the stream or passed over")),
        "{warning}"
    );
    assert_eq!(stream.consumer_info(durable(1, 2)).await.unwrap().config.filter_subjects.len(), 64);

    // Once is enough.
    assert!(shard.terminate().success());
    shard.restart();
    shard.ready().await;
    assert_eq!(count(&shard.metrics().await, "missed"), 0);
    assert_eq!(stream.info().await.unwrap().state.messages, messages);
}

#[tokio::test]
async fn shards_take_over_from_some_that_did_not_know_of_meetings() {
    let nats = Nats::start();
    let now = declare_as_before(&nats).await;
    let (context, health) = (nats.jetstream().await, Health::at(&nats).await);
    context.update_stream(now).await.unwrap();
    let stream = context.get_stream("HEALTH_US").await.unwrap();
    let all = Shard::all(1).next().unwrap();
    let passed = speak_of_meetings(&health, all, 1).await;
    assert_eq!(passed, RELAYS as u64);
    speak_over_relays(&health, 1).await;
    let both = read_as_before(&stream, 1).await + read_as_before(&stream, 2).await;
    assert_eq!(both, RELAYS);
    // The first stays behind.
    let later = speak_of_meetings(&health, all, 2).await;
    speak_over_relays(&health, 2).await;
    let counted = read_as_before(&stream, 2).await;
    assert!((1..RELAYS).contains(&counted));

    let left = later + (RELAYS - counted) as u64;
    let alone = Callsight::serve(&nats, &["--create", NEVER_IDLE, "--shards-before=2"]);
    for mut after in [layout(&nats, 3, &["--shards-before=2"]), vec![alone]] {
        for exporter in &mut after {
            exporter.ready().await;
        }
        let together = taken_together(&after, left).await;
        let sum = |name: &str| together.iter().map(|scrape| count(scrape, name)).sum::<u64>();
        assert_eq!((sum("folded"), sum("rejected"), sum("repeated")), (left, 0, 0));
        assert_eq!(sum("redelivered"), counted as u64, "what the second had counted");
        assert_eq!(sum("missed"), passed);
    }
}
