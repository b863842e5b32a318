//! The consumer finds its way back by itself, whatever happens to its durable, its stream, its
//! server or its link.

use std::process::Command;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;
use callsight::topology::consumer_config;
use time::OffsetDateTime;

use crate::kit::callsight::Callsight;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::proxy::Proxy;
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

#[tokio::test]
async fn a_stream_that_was_set_back_gives_out_new_frames_under_old_sequences() {
    let (mut nats, health, callsight) = start(&["--create"]).await;
    publish(&health, 1..=5).await;
    folded(&callsight, 5.0, SOON).await;
    nats.terminate();
    let backup = nats.store().with_extension("backup");
    copy(nats.store(), &backup);
    nats.restart();
    wait::eventually_async(SOON, "the stream", async || {
        nats.jetstream().await.get_stream("HEALTH_US").await.map(drop)
    })
    .await;
    publish(&health, 6..=10).await;
    folded(&callsight, 10.0, SOON).await;

    nats.terminate();
    std::fs::remove_dir_all(nats.store().join("jetstream")).unwrap();
    copy(&backup.join("jetstream"), &nats.store().join("jetstream"));
    std::fs::remove_dir_all(&backup).unwrap();
    nats.restart();
    wait::eventually_async(SOON, "the stream", async || {
        nats.jetstream().await.get_stream("HEALTH_US").await.map(drop)
    })
    .await;
    assert_eq!(health.messages().await, 5);
    publish(&health, 11..=13).await;
    folded(&callsight, 13.0, SOON).await;
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
