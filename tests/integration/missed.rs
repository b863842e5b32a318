//! What the exporter can't fold is counted and said: frames that were removed unread, a durable
//! that delivers something else, and a server that refuses.

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::Config;
use callsight::topology::{consumer_config, ensure_streams};
use serde_json::Value;
use time::OffsetDateTime;

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::proxy::Proxy;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

const STREAM: &str = "HEALTH_US";
const MISSED: &str = "callsight_frames_missed_total";
const FOLDED: &str = "callsight_frames_folded_total";

async fn publish(health: &Health, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        health.publish(&frame("s1", seq, &["bo"])).await;
    }
}

/// Waits until so many frames were folded and missed.
async fn counted(callsight: &Callsight, folded: f64, missed: f64) {
    callsight
        .metrics_when(PATIENCE, &format!("{folded} folded and {missed} missed frames"), |scrape| {
            wait::when((scrape.sum(FOLDED, &[]), scrape.sum(MISSED, &[])), |seen| *seen == (folded, missed))
        })
        .await;
}

/// What `/readyz` says of the region: its status, why it is not ready, and the warning.
async fn readiness(callsight: &Callsight) -> (u16, String, String) {
    let answer = callsight.get("/readyz").await;
    let report: Value = serde_json::from_slice(&answer.body).unwrap();
    let text = |key: &str| report["regions"][0][key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("why"), text("warning"))
}

async fn why_not_ready(callsight: &Callsight, what: &str) {
    wait::eventually_async(PATIENCE, what, async || {
        wait::when(readiness(callsight).await, |(status, why, _)| *status == 503 && why.contains(what))
    })
    .await;
}

#[tokio::test]
async fn frames_that_a_full_stream_removed_unread_are_counted_and_said() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    publish(&health, 1..=3).await;
    counted(&callsight, 3.0, 0.0).await;
    assert!(callsight.terminate().success());

    let jetstream = nats.jetstream().await;
    let config = jetstream.get_stream(STREAM).await.unwrap().get_info().await.unwrap().config;
    jetstream.update_stream(Config { max_messages: 50, ..config }).await.unwrap();
    publish(&health, 4..=450).await;
    callsight.restart();
    callsight.ready().await;
    counted(&callsight, 50.0, 397.0).await;
    wait::eventually_async(PATIENCE, "a warning", async || {
        let (status, _, warning) = readiness(&callsight).await;
        wait::when((status, warning), |(status, warning)| {
            *status == 200
                && warning
                    .contains("397 frames were removed from the stream or passed over before they were read")
        })
    })
    .await;
    let log = callsight.process().output();
    assert!(
        log.contains("frames were removed from the stream or passed over before they were read"),
        "{log}"
    );

    // What is read in time is not missed, though the stream goes on to remove it.
    publish(&health, 451..=600).await;
    counted(&callsight, 200.0, 397.0).await;
}

#[tokio::test]
async fn frames_that_are_purged_while_the_link_is_down_are_counted() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let link = Proxy::to(nats.port()).await;
    let mut callsight = Callsight::serve_at(&link.url(), &["--create"]);
    callsight.ready().await;
    publish(&health, 1..=2).await;
    counted(&callsight, 2.0, 0.0).await;
    let acknowledged = async |sequence: u64| {
        wait::eventually_async(PATIENCE, "the acknowledgement", async || {
            wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == sequence)
        })
        .await;
    };
    acknowledged(2).await;
    let stream = nats.jetstream().await.get_stream(STREAM).await.unwrap();

    link.lose();
    publish(&health, 3..=32).await;
    stream.purge().keep(5).await.unwrap();
    link.cut();
    counted(&callsight, 7.0, 25.0).await;
    acknowledged(32).await;

    // All of them, and nothing follows.
    link.lose();
    publish(&health, 33..=42).await;
    stream.purge().await.unwrap();
    link.cut();
    counted(&callsight, 7.0, 35.0).await;
    publish(&health, 43..=44).await;
    counted(&callsight, 9.0, 35.0).await;
    callsight.ready().await;
}

#[tokio::test]
async fn a_durable_that_is_changed_while_it_is_read_is_said_and_nothing_is_lost() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;
    publish(&health, 1..=3).await;
    counted(&callsight, 3.0, 0.0).await;

    let stream = nats.jetstream().await.get_stream(STREAM).await.unwrap();
    let declared = health.durable().await.config;
    for filter in ["health.diagnostics.us.another.>", ""] {
        let config =
            async_nats::jetstream::consumer::Config { filter_subject: filter.to_owned(), ..declared.clone() };
        let request = serde_json::json!({ "stream_name": STREAM, "config": config, "action": "update" });
        let name = declared.durable_name.as_deref().unwrap();
        let subject = match filter {
            "" => format!("CONSUMER.CREATE.{STREAM}.{name}"),
            filter => format!("CONSUMER.CREATE.{STREAM}.{name}.{filter}"),
        };
        let answer: Value = nats.jetstream().await.request(subject, &request).await.map(body).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        if filter.is_empty() {
            break;
        }
        publish(&health, 4..=6).await;
        why_not_ready(&callsight, "callsight-main reads other subjects").await;
    }
    callsight.ready().await;
    counted(&callsight, 6.0, 0.0).await;

    // As one that is paused: it delivers nothing, and pulls look well.
    let until = OffsetDateTime::now_utc() + std::time::Duration::from_secs(3600);
    stream.pause_consumer("callsight-main", until).await.unwrap();
    publish(&health, 7..=8).await;
    why_not_ready(&callsight, "callsight-main is paused").await;
    stream.resume_consumer("callsight-main").await.unwrap();
    callsight.ready().await;
    counted(&callsight, 8.0, 0.0).await;
}

fn body(answer: async_nats::jetstream::response::Response<Value>) -> Value {
    match answer {
        async_nats::jetstream::response::Response::Ok(body) => body,
        async_nats::jetstream::response::Response::Err { error } => serde_json::json!({ "error": error }),
    }
}

/// A server whose user `exporter` may publish to these subjects alone.
async fn nats_that_allows(subjects: &[&str]) -> (Nats, Health) {
    let allowed: Vec<_> = subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
    let nats = Nats::start_with(
        &format!(
            "accounts {{ A {{ jetstream: enabled, users: [ \
               {{ user: exporter, password: right, permissions: {{ publish: {{ allow: [ {} ] }} }} }}, \
               {{ user: operator, password: right }} ] }} }}, no_auth_user: operator",
            allowed.join(", ")
        ),
        &[],
    );
    let jetstream = nats.jetstream().await;
    ensure_streams(&jetstream, &REGION.parse().unwrap(), 1).await.unwrap();
    let start = OffsetDateTime::now_utc() - std::time::Duration::from_secs(60);
    let durable: pull::Config = consumer_config(&"main".parse().unwrap(), start);
    jetstream.create_consumer_on_stream(durable, STREAM).await.unwrap();
    let health = Health::at(&nats).await;
    (nats, health)
}

async fn serve_as(nats: &Nats, password: &str) -> Callsight {
    let url = format!("nats://exporter:{password}@127.0.0.1:{}", nats.port());
    let callsight = Callsight::serve_at(&url, &[]);
    callsight.listening().await;
    callsight
}

#[tokio::test]
async fn a_user_that_is_refused_reads_why_in_readyz() {
    let (nats, _) = nats_that_allows(&["$JS.API.STREAM.INFO.>", "$JS.API.CONSUMER.INFO.>"]).await;
    why_not_ready(&serve_as(&nats, "wrong").await, "authorization violation").await;
    let subject = "Publish to \"$JS.API.CONSUMER.RESET.HEALTH_US.callsight-main\"";
    why_not_ready(&serve_as(&nats, "right").await, subject).await;
}

#[tokio::test]
async fn without_the_permission_to_acknowledge_it_is_not_ready() {
    let (nats, health) = nats_that_allows(&["$JS.API.>"]).await;
    let mut callsight = serve_as(&nats, "right").await;
    callsight.ready().await;
    publish(&health, 1..=3).await;
    why_not_ready(&callsight, "Publish to \"$JS.ACK.HEALTH_US.callsight-main.>\"").await;
    // Attaching again and again, which delivers the frames again, does not make it ready.
    loop {
        let (status, why, _) = readiness(&callsight).await;
        assert_eq!(status, 503, "{why}");
        let scrape = callsight.metrics().await;
        let (folded, again) =
            (scrape.sum(FOLDED, &[]), scrape.sum("callsight_frames_redelivered_total", &[]));
        assert!(folded <= 3.0, "{folded}");
        if folded == 3.0 && again >= 6.0 {
            break;
        }
    }
}
