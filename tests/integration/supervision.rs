//! The consumer finds its way back by itself, whatever happens to its durable, its stream, its
//! server or its link.

use std::process::Command;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;
use callsight::topology::{consumer_config, ensure_streams};
use callsight_frame::Form;
use time::OffsetDateTime;

use crate::kit::callsight::Callsight;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::proxy::Proxy;
use crate::kit::region::RegionServers;
use crate::kit::stream::Health;
use crate::kit::wait;

const DURABLE: &str = "callsight-main";

/// Far less than the 30 s after which JetStream delivers again by itself, and time for two looks
/// and a pause.
const SOON: Duration = Duration::from_secs(15);

/// Waits until so many messages were folded, and tells how many were received and how many of those
/// again.
async fn folded(callsight: &Callsight, frames: f64, within: Duration) -> (f64, f64) {
    callsight
        .metrics_when(within, &format!("{frames} frames to be folded"), |scrape| {
            let count = |name: &str| scrape.sum(&format!("callsight_frames_{name}_total"), &[]);
            let seen = (count("folded"), count("received"), count("redelivered"), count("repeated"));
            wait::when(seen, |seen| (seen.0 - frames).abs() < 0.5)
                .map(|(_, received, again, _)| (received, again))
        })
        .await
}

async fn publish(health: &Health, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        health.publish(&frame("s1", seq, &["bo"])).await;
    }
}

async fn stream(nats: &Nats) -> Stream {
    nats.jetstream().await.get_stream("HEALTH_US").await.unwrap()
}

async fn start(flags: &[&str]) -> (Nats, Health, Callsight) {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut callsight = Callsight::serve(&nats, flags);
    callsight.ready().await;
    (nats, health, callsight)
}

async fn why_not_ready(callsight: &Callsight, what: &str) -> String {
    wait::eventually_async(SOON, what, async || {
        let answer = callsight.get("/readyz").await;
        let seen = (answer.status, answer.text().to_owned());
        wait::when(seen, |(status, text)| *status == 503 && text.contains(what)).map(|(_, text)| text)
    })
    .await
}

#[tokio::test]
async fn a_deleted_durable_is_made_again_after_the_last_frame_folded() {
    let (nats, health, mut callsight) = start(&["--create"]).await;
    publish(&health, 1..=5).await;
    folded(&callsight, 5.0, SOON).await;
    stream(&nats).await.delete_consumer(DURABLE).await.unwrap();
    publish(&health, 6..=9).await;
    assert_eq!(folded(&callsight, 9.0, SOON).await, (9.0, 0.0));
    wait::eventually_async(SOON, "all to be acknowledged", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == 9)
    })
    .await;

    // One that has folded nothing itself knows from the durable where its predecessor was.
    callsight.restart();
    callsight.ready().await;
    stream(&nats).await.delete_consumer(DURABLE).await.unwrap();
    publish(&health, 10..=12).await;
    assert_eq!(folded(&callsight, 3.0, SOON).await, (3.0, 0.0));
}

#[tokio::test]
async fn without_create_a_deleted_durable_is_said_and_found_again() {
    let (nats, health, mut callsight) = start(&["--create"]).await;
    publish(&health, 1..=5).await;
    folded(&callsight, 5.0, SOON).await;
    callsight.terminate();
    let mut callsight = Callsight::serve(&nats, &[]);
    callsight.ready().await;

    stream(&nats).await.delete_consumer(DURABLE).await.unwrap();
    let why = why_not_ready(&callsight, "durable consumer callsight-main does not exist").await;
    assert!(why.contains("callsight serve --create --region us --deployment main"), "{why}");
    assert_eq!(callsight.get("/livez").await.status, 200);

    publish(&health, 6..=7).await;
    let config = async_nats::jetstream::consumer::pull::Config {
        deliver_policy: DeliverPolicy::All,
        ..consumer_config(&"main".parse().unwrap(), OffsetDateTime::now_utc())
    };
    stream(&nats).await.create_consumer(config).await.unwrap();
    callsight.ready().await;
    assert_eq!(folded(&callsight, 2.0, SOON).await, (7.0, 5.0), "what was folded before is passed over");
}

#[tokio::test]
async fn a_stream_made_anew_is_folded_from_its_beginning() {
    let (nats, health, callsight) = start(&["--create"]).await;
    publish(&health, 1..=5).await;
    folded(&callsight, 5.0, SOON).await;
    nats.jetstream().await.delete_stream("HEALTH_US").await.unwrap();
    wait::eventually_async(SOON, "the stream to be made anew", async || {
        nats.jetstream().await.get_stream("HEALTH_US").await.map(drop)
    })
    .await;
    publish(&health, 6..=8).await;
    assert_eq!(folded(&callsight, 8.0, SOON).await, (8.0, 0.0));
}

#[tokio::test]
async fn a_purged_stream_goes_on() {
    let (nats, health, mut callsight) = start(&["--create"]).await;
    publish(&health, 1..=5).await;
    folded(&callsight, 5.0, SOON).await;
    // And with frames that were delivered and can't be folded any more.
    callsight.process().stop();
    publish(&health, 6..=8).await;
    stream(&nats).await.purge().await.unwrap();
    callsight.process().cont();
    publish(&health, 9..=10).await;
    let folded_at_last = callsight
        .metrics_when(SOON, "the last frame", |scrape| {
            let rtt = scrape.value("videocall_session_rtt_seconds", &[("session_id", "s1")]);
            let folded = scrape.sum("callsight_frames_folded_total", &[]);
            wait::when((rtt, folded), |(rtt, _)| rtt.is_some_and(|rtt| (rtt - 0.05).abs() < 1e-9))
        })
        .await
        .1;
    assert!((7.0..=10.0).contains(&folded_at_last), "{folded_at_last}");
    callsight.ready().await;
}

/// A server and an exporter that folded 20 frames, behind a link. Its store is that of the moment
/// after the fifth, and the link is down.
async fn set_back(flags: &[&str]) -> (Nats, Health, Proxy, Callsight) {
    let mut nats = Nats::start();
    let health = Health::create(&nats).await;
    let link = Proxy::to(nats.port()).await;
    let mut callsight = Callsight::serve_at(&link.url(), &[&["--create"], flags].concat());
    callsight.ready().await;
    publish(&health, 1..=5).await;
    folded(&callsight, 5.0, SOON).await;
    wait::eventually_async(SOON, "an acknowledgement", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == 5)
    })
    .await;
    nats.terminate();
    let backup = nats.store().with_extension("backup");
    copy(nats.store(), &backup);
    nats.restart();
    let is_back = async |nats: &Nats| {
        let jetstream = nats.jetstream().await;
        wait::eventually_async(SOON, "the stream", async || {
            jetstream.get_stream("HEALTH_US").await.map(drop)
        })
        .await;
    };
    is_back(&nats).await;
    let health = Health::at(&nats).await;
    publish(&health, 6..=20).await;
    folded(&callsight, 20.0, wait::PATIENCE).await;

    link.stall();
    nats.terminate();
    std::fs::remove_dir_all(nats.store().join("jetstream")).unwrap();
    copy(&backup.join("jetstream"), &nats.store().join("jetstream"));
    std::fs::remove_dir_all(&backup).unwrap();
    nats.restart();
    is_back(&nats).await;
    let health = Health::at(&nats).await;
    assert_eq!(health.messages().await, 5);
    (nats, health, link, callsight)
}

/// Nothing was passed over, and nothing counted twice.
async fn all_folded(callsight: &mut Callsight, frames: f64) {
    folded(callsight, frames, wait::PATIENCE).await;
    let scrape = callsight.metrics().await;
    let count = |name: &str| scrape.sum(&format!("callsight_frames_{name}_total"), &[]);
    assert_eq!((count("missed"), count("repeated")), (0.0, 0.0));
    callsight.ready().await;
}

#[tokio::test]
async fn a_stream_that_was_set_back_gives_out_new_frames_under_old_sequences() {
    for last in [20, 28, 50] {
        let (_nats, health, link, mut callsight) = set_back(&[]).await;
        // None, fewer and more than the stream had.
        publish(&health, 21..=last).await;
        link.resume();
        callsight.ready().await;
        publish(&health, last + 1..=last + 2).await;
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        all_folded(&mut callsight, (last + 2) as f64).await;
    }
}

#[tokio::test]
async fn a_durable_that_is_past_a_stream_that_was_set_back_is_set_back_too() {
    let (nats, health, link, mut callsight) = set_back(&[]).await;
    publish(&health, 21..=35).await;
    // Its position survived what the stream did not.
    stream(&nats).await.reset_consumer(DURABLE, Some(18)).await.unwrap();
    assert_eq!(health.durable().await.ack_floor.stream_sequence, 17);
    link.resume();
    all_folded(&mut callsight, 35.0).await;
}

/// Publishes each frame until it is stored: the servers may be without a leader.
async fn store(jetstream: &Context, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        let frame = frame("s1", seq, &["bo"]);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("s1:{seq}"));
        wait::eventually_async(wait::PATIENCE, "a frame to be stored", async || {
            let payload = frame.encode(Form::Compact).into();
            let subject = "health.diagnostics.us.relay.relay-1";
            let sent = jetstream.publish_with_headers(subject, headers.clone(), payload).await?;
            sent.await.map(drop)
        })
        .await;
    }
}

#[tokio::test]
async fn a_region_that_lost_its_power_is_folded_on_where_its_stream_goes_on() {
    for servers in [1, 3] {
        let mut region = RegionServers::start(servers, "2m").await;
        let jetstream = region.jetstream().await;
        ensure_streams(&jetstream, &"us".parse().unwrap(), servers).await.unwrap();
        let durable = consumer_config(&"main".parse().unwrap(), OffsetDateTime::now_utc());
        jetstream.create_consumer_on_stream(durable, "HEALTH_US").await.unwrap();
        region.settled().await;
        region.restart_on_disks_that_forget().await;
        let mut callsight = Callsight::serve_at(&region.url(), &["--create"]);
        callsight.ready().await;
        store(&jetstream, 1..=200).await;
        folded(&callsight, 200.0, wait::PATIENCE).await;

        region.cut_power();
        region.restart().await;
        store(&jetstream, 201..=260).await;
        folded(&callsight, 260.0, wait::PATIENCE).await;
        callsight.ready().await;
    }
}

#[tokio::test]
async fn a_durable_that_a_set_back_stream_lost_begins_where_the_stream_goes_on() {
    let (nats, health, link, mut callsight) = set_back(&["--idle-timeout=2s"]).await;
    publish(&health, 21..=35).await;
    stream(&nats).await.delete_consumer(DURABLE).await.unwrap();
    let last = std::time::SystemTime::from(health.stored_at(health.messages().await).await);
    wait::eventually(SOON, "the frames to be older than a new durable looks back", || {
        wait::when(last.elapsed().unwrap_or_default(), |age| *age > Duration::from_secs(2))
    });
    link.resume();
    all_folded(&mut callsight, 35.0).await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[tokio::test]
async fn while_nats_is_away_sessions_fall_idle_and_the_exporter_is_alive() {
    let (nats, health, mut callsight) = start(&["--create", "--idle-timeout=2s"]).await;
    publish(&health, 1..=1).await;
    folded(&callsight, 1.0, SOON).await;
    nats.stop();
    callsight
        .metrics_when(SOON, "the session to fall idle", |scrape| {
            wait::when(scrape.sum("videocall_sessions", &[]), |sessions| *sessions < 0.5)
        })
        .await;
    why_not_ready(&callsight, "\"ready\":false").await;
    assert_eq!(callsight.get("/livez").await.status, 200);
    nats.cont();
    publish(&health, 2..=2).await;
    assert_eq!(folded(&callsight, 2.0, SOON).await, (2.0, 0.0));
    callsight.ready().await;
}

#[tokio::test]
async fn a_delivery_that_got_lost_is_missed_though_none_follows() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let link = Proxy::to(nats.port()).await;
    let mut callsight = Callsight::serve_at(&link.url(), &["--create"]);
    callsight.ready().await;
    publish(&health, 1..=2).await;
    folded(&callsight, 2.0, SOON).await;

    link.stall();
    publish(&health, 3..=4).await;
    wait::eventually_async(SOON, "both to be on their way", async || {
        wait::when(health.durable().await.num_ack_pending, |pending| *pending == 2)
    })
    .await;
    link.cut();
    link.resume();
    folded(&callsight, 4.0, SOON).await;
}

#[tokio::test]
async fn an_acknowledgement_from_before_does_not_deafen_the_server() {
    let (nats, health, callsight) = start(&["--create"]).await;
    publish(&health, 1..=3).await;
    folded(&callsight, 3.0, SOON).await;
    callsight.process().stop();
    publish(&health, 4..=5).await;
    wait::eventually_async(SOON, "both to be on their way", async || {
        wait::when(health.durable().await.num_ack_pending, |pending| *pending == 2)
    })
    .await;
    // What an exporter wrote that had been attached for long, and the network held back.
    let late = "$JS.ACK.HEALTH_US.callsight-main.1.4.999999.1764000000000000000.0";
    let client = nats.client().await;
    client.publish(late, "".into()).await.unwrap();
    client.flush().await.unwrap();
    callsight.process().cont();
    folded(&callsight, 5.0, SOON).await;
    wait::eventually_async(SOON, "all to be acknowledged", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == 5)
    })
    .await;
    folded(&callsight, 5.0, SOON).await;
}

#[tokio::test]
async fn what_goes_to_a_predecessor_that_vanished_is_not_lost() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let link = Proxy::to(nats.port()).await;
    let mut callsight = Callsight::serve_at(&link.url(), &["--create"]);
    callsight.ready().await;
    publish(&health, 1..=2).await;
    folded(&callsight, 2.0, SOON).await;
    let floor = async || health.durable().await.ack_floor.stream_sequence;
    wait::eventually_async(SOON, "an acknowledgement", async || {
        wait::when(floor().await, |floor| *floor == 2)
    })
    .await;

    // The server goes on delivering to it: it hears of nothing.
    link.lose();
    callsight.kill9();
    publish(&health, 3..=6).await;
    callsight.restart();
    callsight.listening().await;
    publish(&health, 7..=8).await;
    folded(&callsight, 6.0, wait::PATIENCE).await;
    wait::eventually_async(SOON, "an acknowledgement", async || {
        wait::when(floor().await, |floor| *floor == 8)
    })
    .await;
}
