//! A restart leaves no hole, and an outage nothing false: what was live is back before the exporter
//! is ready, and what is old by then feeds the counters alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use callsight_frame::Frame;
use serde_json::Value;

use crate::kit::callsight::Callsight;
use crate::kit::http;
use crate::kit::nats::Nats;
use crate::kit::prometheus::Prometheus;
use crate::kit::relay::{Crowd, Relay};
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

const AGE: &str = "videocall_session_last_seen_age_seconds";
const CAN_LISTEN: &str = "videocall_pair_can_listen";
const SAMPLES: &str = "videocall_audio_samples_total";

/// Samples that each frame of the kit adds for each peer.
const SAMPLES_A_FRAME: f64 = 48_000.0;

async fn start(extra: &[&str]) -> (Nats, Health, Relay, Callsight) {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let relay = Relay::start(&nats).await;
    let args: Vec<_> = ["--create"].iter().chain(extra).copied().collect();
    let mut callsight = Callsight::serve(&nats, &args);
    callsight.ready().await;
    (nats, health, relay, callsight)
}

fn counted(scrape: &Scrape, name: &str) -> f64 {
    scrape.sum(name, &[])
}

/// Waits until the server knows that everything is folded: it would be delivered again otherwise,
/// and rightly so.
async fn until_acknowledged(health: &Health) {
    let last = health.messages().await;
    wait::eventually_async(PATIENCE, "the acknowledgement", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == last)
    })
    .await;
}

/// Asks until it is ready, without a pause, and gives the reasons that it had not to be.
async fn reasons_until_ready(callsight: &Callsight) -> Vec<String> {
    let url = format!("{}/readyz", callsight.url());
    let mut reasons = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // Nobody listens in the first moments.
        let Ok(answer) = http::get(&url, &[]).await else { continue };
        if answer.status == 200 {
            return reasons;
        }
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        reasons.push(answer["regions"][0]["why"].as_str().unwrap().to_owned());
    }
    panic!("not ready within {PATIENCE:?}: {:?}", reasons.last());
}

#[tokio::test]
async fn three_thousand_sessions_are_back_when_it_is_ready() {
    let (_nats, health, relay, mut callsight) = start(&["--max-series=300000"]).await;
    let (crowd, gone) = (Crowd::new("", 3_000), Crowd::new("gone", 100));
    gone.speak(&relay, 1).await;
    crowd.speak(&relay, 1).await;
    gone.leave(&relay, 2).await;
    crowd.speak(&relay, 2).await;
    relay.settle().await;
    callsight.folded(PATIENCE, 2 * (crowd.len() + gone.len())).await;
    assert_eq!(callsight.metrics().await.series(AGE).len(), crowd.len());
    until_acknowledged(&health).await;

    callsight.kill9();
    callsight.restart();
    let start = Instant::now();
    reasons_until_ready(&callsight).await;
    let ready = start.elapsed();
    let scrape = callsight.metrics().await;
    #[expect(clippy::print_stdout, reason = "the figure that this is about")]
    {
        println!("ready {} ms after the start, with 3,000 sessions restored", ready.as_millis());
    }
    let sessions = scrape.series(AGE);
    assert_eq!(sessions.len(), crowd.len());
    assert!(sessions.iter().all(|(labels, _)| !labels["session_id"].starts_with("gone")));
    assert_eq!(scrape.series(CAN_LISTEN).len(), crowd.len() * (Crowd::MEETING - 1));
    assert_eq!(counted(&scrape, "videocall_sessions"), 3_000.0);
    assert_eq!(counted(&scrape, "videocall_meetings"), 750.0);

    // The counters are the new process's own: nothing was fed to them.
    let fed = |name: &&str| {
        let detail = name.starts_with("videocall_pair_") || name.starts_with("videocall_session_");
        let cumulative = ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end));
        name.starts_with("videocall_") && cumulative && !detail && counted(&scrape, name) != 0.0
    };
    assert_eq!(scrape.names().into_iter().filter(fed).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(counted(&scrape, "callsight_frames_received_total"), 0.0);
    assert_eq!(counted(&scrape, "callsight_sessions_removed_total"), 0.0);

    // And they go on from where the sessions were.
    crowd.speak(&relay, 3).await;
    relay.settle().await;
    callsight.folded(PATIENCE, crowd.len()).await;
    let scrape = callsight.metrics().await;
    assert_eq!(counted(&scrape, SAMPLES), 9_000.0 * SAMPLES_A_FRAME);
    assert_eq!(counted(&scrape, "callsight_frames_late_total"), 0.0);
}

#[tokio::test]
async fn a_restart_costs_a_real_prometheus_one_scrape_at_the_most() {
    let (nats, _health, relay, mut callsight) = start(&[]).await;
    let prometheus = Prometheus::start(&[&callsight.target()]);
    let stop = Arc::new(AtomicBool::new(false));
    let talking = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let crowd = Crowd::new("", 80);
            let mut pace = tokio::time::interval(Duration::from_millis(250));
            for seq in 1.. {
                pace.tick().await;
                crowd.speak(&relay, seq).await;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    });
    let samples = async || -> BTreeMap<String, Vec<f64>> {
        let found = prometheus.query("videocall_session_rtt_seconds[2m]").await;
        let series = found.as_array().unwrap().iter().map(|series| {
            let times = series["values"].as_array().unwrap().iter().map(|sample| sample[0].as_f64().unwrap());
            (series["metric"]["session_id"].as_str().unwrap().to_owned(), times.collect())
        });
        series.collect()
    };
    let sampled = async |times: usize| {
        let what = format!("{times} samples of each session");
        wait::eventually_async(PATIENCE, &what, async || {
            let samples = samples().await;
            let fewest = samples.values().map(Vec::len).min().unwrap_or_default();
            if samples.len() == 80 && fewest >= times { Ok(samples) } else { Err((samples.len(), fewest)) }
        })
        .await
    };
    sampled(3).await;
    callsight.kill9();
    callsight.restart();
    let samples = sampled(8).await;
    stop.store(true, Ordering::Relaxed);
    talking.await.unwrap();
    drop(nats);
    for (session_id, times) in samples {
        let holes: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 2.2).collect();
        assert!(holes.is_empty(), "{session_id} has gaps of {holes:?} s at one sample a second");
    }
}

#[tokio::test]
async fn what_is_old_after_an_outage_feeds_the_counters_and_never_the_gauges() {
    const IDLE: Duration = Duration::from_secs(2);
    let (_nats, health, relay, mut callsight) = start(&["--idle-timeout=2s"]).await;
    let (known, new) = (Crowd::new("known", 40), Crowd::new("new", 40));
    known.speak(&relay, 1).await;
    relay.settle().await;
    callsight.folded(PATIENCE, known.len()).await;
    until_acknowledged(&health).await;
    callsight.kill9();

    // They go on for longer than the idle timeout, and all fall silent before anybody looks.
    let outage = Instant::now();
    let mut rounds = 0_u64;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    while outage.elapsed() < IDLE + IDLE / 4 {
        pace.tick().await;
        rounds += 1;
        known.speak(&relay, 1 + rounds).await;
        new.speak(&relay, rounds).await;
    }
    relay.settle().await;
    let last = SystemTime::from(health.stored_at(health.messages().await).await);
    wait::eventually(PATIENCE, "the last frame to be old", || {
        let age = last.elapsed().unwrap_or_default();
        wait::when(age, |age| *age > IDLE)
    });

    callsight.restart();
    reasons_until_ready(&callsight).await;
    let scrape = callsight.metrics().await;
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let (rounds, frames) = (rounds as f64, rounds as f64 * 80.0);
    assert_eq!(counted(&scrape, "callsight_frames_folded_total"), frames);
    assert_eq!(counted(&scrape, "callsight_frames_late_total"), frames);
    assert_eq!(counted(&scrape, "videocall_rtt_seconds_count"), frames);
    // Of those that are met in their middle, what the first frame shows may have been counted
    // before.
    let grown = 40.0 * 3.0 * SAMPLES_A_FRAME * (rounds + rounds - 1.0);
    assert_eq!(counted(&scrape, SAMPLES), grown);
    for gauge in [
        "videocall_sessions",
        "videocall_meetings",
        "videocall_participants",
        "videocall_peer_connections",
        "videocall_sessions_degraded",
        "callsight_live_series",
        "callsight_sessions_removed_total",
    ] {
        assert_eq!(counted(&scrape, gauge), 0.0, "{gauge}");
    }
    assert_eq!(scrape.series(AGE).len(), 0);
    assert_eq!(scrape.series(CAN_LISTEN).len(), 0);

    // Who speaks again is live again, and was never counted twice.
    new.speak(&relay, 1_000).await;
    relay.settle().await;
    callsight
        .metrics_when(PATIENCE, "those who speak again", |scrape| {
            wait::when(scrape.series(AGE).len(), |rows| *rows == new.len()).map(drop)
        })
        .await;
}

#[tokio::test]
async fn sessions_that_fell_idle_during_the_restart_do_not_come_back() {
    let (_nats, health, relay, mut callsight) = start(&["--idle-timeout=2s"]).await;
    let (silent, talking) = (Crowd::new("silent", 40), Crowd::new("talking", 40));
    silent.speak(&relay, 1).await;
    talking.speak(&relay, 1).await;
    relay.settle().await;
    callsight.folded(PATIENCE, 80).await;
    callsight.kill9();

    let last = SystemTime::from(health.stored_at(health.messages().await).await);
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    for seq in 2.. {
        pace.tick().await;
        talking.speak(&relay, seq).await;
        if last.elapsed().unwrap_or_default() > Duration::from_secs(2) {
            break;
        }
    }
    relay.settle().await;
    callsight.restart();
    reasons_until_ready(&callsight).await;
    let rows = callsight.metrics().await.series(AGE);
    assert_eq!(rows.len(), talking.len());
    assert!(rows.iter().all(|(labels, _)| labels["session_id"].starts_with("talking")));
}

#[tokio::test]
async fn it_is_not_ready_while_it_catches_up() {
    let (_nats, health, relay, mut callsight) = start(&["--ready-max-lag=1s"]).await;
    callsight.kill9();
    let crowd = Crowd::new("", 200);
    for seq in 1..=150 {
        crowd.speak(&relay, seq).await;
    }
    relay.settle().await;
    let backlog = health.messages().await;

    // Frames go on coming meanwhile.
    let stop = Arc::new(AtomicBool::new(false));
    let talking = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            let mut said = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                said += 1;
                relay.say(&Frame { ended: None, ..Crowd::new("late", 4).frame(0, said) }).await;
            }
            relay.settle().await;
        }
    });
    callsight.restart();
    let reasons = reasons_until_ready(&callsight).await;
    let scrape = callsight.metrics().await;
    stop.store(true, Ordering::Relaxed);
    talking.await.unwrap();
    assert!(reasons.iter().any(|reason| reason.starts_with("catching up")), "{reasons:?}");
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let backlog = backlog as f64;
    assert!(counted(&scrape, "callsight_frames_folded_total") >= backlog);
    assert_eq!(
        scrape.series(AGE).iter().filter(|(labels, _)| labels["session_id"].starts_with('s')).count(),
        200
    );
    assert!(counted(&scrape, "callsight_last_folded_frame_age_seconds") <= 3.0);
}
