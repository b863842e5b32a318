//! Chromium and Firefox in one call.

use std::time::Duration;

use callsight::netem::Impairment;
use serde_json::Value;

use super::mesh::OWN_TIME;
use super::{WITHIN, World, delay, growth, loss, peer};
use crate::kit::browser::Browser;
use crate::kit::firefox::Firefox;
use crate::kit::web::CALLING;
use crate::kit::{media, wait};

const BOTH: [&str; 2] = ["ana", "fox"];

/// The idle timeout of the world.
const IDLE: Duration = Duration::from_secs(10);

fn other(me: &str) -> &str {
    if me == "ana" { "fox" } else { "ana" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_of_two_makers_say_the_same_of_their_call() {
    let world = World::start(&[("ana", "fox")]).await;
    let browser = Browser::start_with(CALLING);
    let page = browser.page(320, 240).await;
    page.open(&world.page("ana", &BOTH)).await;
    let firefox = Firefox::open(&world.page("fox", &BOTH));
    for (me, platform) in [("ana", "chrome"), ("fox", "firefox")] {
        world
            .frame(me, "hears and sees the other", |frame| {
                let peer = peer(frame, other(me));
                let (heard, seen) = (&peer["audio"]["packets_received"], &peer["video"]["frames_decoded"]);
                let joined = frame["join"]["state"] == "joined" && frame["client"]["platform"] == platform;
                joined && heard.as_u64() > Some(0) && seen.as_u64() > Some(0)
            })
            .await;
    }

    for me in BOTH {
        world.impair(me, other(me), delay(40));
    }
    for me in BOTH {
        for pointer in ["/server/rtt_ms", "/send/rtt_ms"] {
            let within = 79.0..80.0 + OWN_TIME;
            let told = |frame: &Value| frame.pointer(pointer).and_then(Value::as_f64);
            let what = format!("{pointer} in {within:?}");
            world.frame(me, &what, |frame| told(frame).is_some_and(|rtt| within.contains(&rtt))).await;
        }
    }

    for (me, share) in [("ana", 0.0), ("fox", 0.2)] {
        world.impair(me, other(me), loss(share));
    }
    let before = world.counts("fox", "ana");
    let first = [world.frame("ana", "any", |_| true).await, world.frame("fox", "any", |_| true).await];
    let heard = |frame: &Value| peer(frame, "fox")["audio"].clone();
    let came = |frame: &Value| growth(&heard(&first[0]), &heard(frame), "/packets_received");
    let gone = |frame: &Value| growth(&heard(&first[0]), &heard(frame), "/packets_lost");
    // Firefox knows nothing of lost audio here, since Chromium reports only of video.
    let sent = |frame: &Value| growth(&first[1], frame, "/send/video_packets_sent");
    let reported = |frame: &Value| growth(&first[1], frame, "/send/video_packets_lost");
    // What has been dropped since, and what of it may be told: reports come late.
    let in_proportion = |lost: f64, of: f64| {
        let after = world.counts("fox", "ana");
        let dropped = (after.lost - before.lost) as f64 / (after.received - before.received) as f64;
        (dropped * 0.4..dropped * 1.5).contains(&(lost / of))
    };
    world
        .frame("ana", "400 packets, and losses in proportion", |frame| {
            came(frame) > 400.0 && in_proportion(gone(frame), gone(frame) + came(frame))
        })
        .await;
    let at_fox = world
        .frame("fox", "600 packets, and losses in proportion", |frame| {
            sent(frame) > 600.0 && in_proportion(reported(frame), sent(frame))
        })
        .await;
    // A busy machine loses a few by itself.
    let way_back = |name: &str| growth(&first[1], &at_fox, &format!("/peers/0/audio/{name}"));
    assert!(way_back("packets_lost") <= 0.05 * way_back("packets_received"), "{at_fox}");
    world.impair("fox", "ana", Impairment::default());

    // Nothing says that a killed browser is gone, but its silence.
    drop(firefox);
    let sessions = async || {
        let rows = world.callsight.metrics().await.series("videocall_session_last_seen_age_seconds");
        rows.into_iter().map(|(labels, _)| labels["peer_id"].clone()).collect::<Vec<_>>()
    };
    wait::eventually_async(WITHIN, "its session to be gone", async || {
        wait::when(sessions().await, |left| *left == ["ana"])
    })
    .await;
    let idle = world.heard_from("fox").elapsed();
    // The stream may have stored its last frame before the test heard of it.
    assert!(idle + Duration::from_secs(1) >= IDLE, "{idle:?}");
    assert_eq!(world.frames("fox").last().unwrap()["ended"], Value::Null);
    world
        .frame("ana", "that the other can't be heard", |frame| peer(frame, "fox")["can_listen"] == false)
        .await;
    assert_eq!(media::problems(&page.evaluate("page.problems").await), Vec::<&Value>::new());
    assert_eq!(page.complaints(), Vec::<String>::new());
}
