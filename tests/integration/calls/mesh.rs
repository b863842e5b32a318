//! Five participants in Chromium: three with cameras, each linked to both others, and two who only
//! talk to the first one.

use std::collections::BTreeMap;
use std::time::Duration;

use callsight::netem::{Impairment, Share};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::{Link, World, delay, growth, loss, number, peer, session};
use crate::detection;
use crate::kit::browser::{Browser, Page};
use crate::kit::prometheus::Prometheus;
use crate::kit::web::CALLING;
use crate::kit::{media, wait};
use crate::replay::{figures, moment, replayed, until_the_next_step};

const CAMERAS: [&str; 3] = ["ana", "bo", "cy"];
const EVERYBODY: [&str; 5] = ["ana", "bo", "cy", "di", "ed"];
const LINKS: [Link; 5] = [("ana", "bo"), ("ana", "cy"), ("ana", "di"), ("ana", "ed"), ("bo", "cy")];

/// Two who can't reach each other.
const BARRED: Link = ("fay", "gil");

/// How much longer than the network's a measured round trip may be, in milliseconds: what browsers
/// and a busy machine add.
pub(super) const OWN_TIME: f64 = 60.0;

async fn open(browser: &Browser, world: &World, me: &str) -> Page {
    let page = browser.page(320, 240).await;
    page.keep_in_sight().await;
    page.open(&world.page(me, &CAMERAS)).await;
    page
}

fn calm(answer: &Value) -> bool {
    answer["all"]["sessions"] == EVERYBODY.len() && answer["all"]["sessions_degraded"] == 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_network_does_to_a_call_is_what_is_said_of_it() {
    let world = World::start(&[&LINKS[..], &[BARRED]].concat()).await;
    world.impair(BARRED.0, BARRED.1, loss(1.0));
    world.impair(BARRED.1, BARRED.0, loss(1.0));
    let browser = Browser::start_with(CALLING);
    let barred = [open(&browser, &world, BARRED.0).await, open(&browser, &world, BARRED.1).await];
    let mut pages = BTreeMap::new();
    for me in EVERYBODY {
        pages.insert(me, open(&browser, &world, me).await);
    }
    for me in EVERYBODY {
        let peers = if me == "ana" {
            4
        } else if CAMERAS.contains(&me) {
            2
        } else {
            1
        };
        world
            .frame(me, "hears everybody, whose cameras can be seen", |frame| {
                let all = frame["peers"].as_array().unwrap();
                let heard = |peer: &Value| peer["audio"]["packets_received"].as_u64() > Some(0);
                let seen = |peer: &Value| {
                    let camera =
                        CAMERAS.contains(&me) && CAMERAS.contains(&peer["peer_id"].as_str().unwrap());
                    !camera || peer["video"]["frames_decoded"].as_u64() > Some(0)
                };
                let joined = frame["join"]["state"] == "joined" && frame["tab_visible"] == true;
                joined && all.len() == peers && all.iter().all(|peer| heard(peer) && seen(peer))
            })
            .await;
    }
    the_round_trip_is_what_the_network_adds(&world).await;
    joins_that_fail_are_counted(&world, barred).await;
    world.told("that all is well", calm).await;
    a_cut_freezes_the_video(&world).await;
    world.told("that all is well again", calm).await;
    a_lossy_uplink_is_blamed(&world).await;
    world.told("that all is well once more", calm).await;
    a_long_way_is_an_alert_and_a_report(&world).await;
    an_unwanted_video_is_not_missed(&world, &pages).await;
    for (me, page) in &pages {
        assert_eq!(media::problems(&page.evaluate("page.problems").await), Vec::<&Value>::new(), "{me}");
        assert_eq!(page.complaints(), Vec::<String>::new(), "{me}");
    }
}

async fn the_round_trip_is_what_the_network_adds(world: &World) {
    world.impair("ana", "bo", delay(30));
    world.impair("bo", "ana", delay(50));
    for me in ["ana", "bo"] {
        for pointer in ["/server/rtt_ms", "/send/rtt_ms"] {
            let within = 80.0..80.0 + OWN_TIME;
            let told = |frame: &Value| frame.pointer(pointer).and_then(Value::as_f64);
            let what = format!("{pointer} in {within:?}");
            world.frame(me, &what, |frame| told(frame).is_some_and(|rtt| within.contains(&rtt))).await;
            // None is shorter, by more than the rounding of a browser.
            let after = world.frame(me, "one more", |_| true).await;
            assert!(number(&after, pointer) >= 79.0, "{after}");
        }
    }
    // Those of another link are not concerned.
    let other = world.frame("cy", "a short round trip", |frame| number(frame, "/server/rtt_ms") < 80.0).await;
    assert_eq!(peer(&other, "ana")["can_listen"], true);
    world.impair("ana", "bo", Impairment::default());
    world.impair("bo", "ana", Impairment::default());
}

async fn joins_that_fail_are_counted(world: &World, barred: [Page; 2]) {
    let failed = [("result", "failed"), ("reason", "ice")];
    wait::eventually_async(super::WITHIN, "two failed joins", async || {
        let metrics = world.callsight.metrics().await;
        wait::when(metrics.sum("videocall_joins_total", &failed), |count| *count == 2.0)
    })
    .await;
    // While a join takes too long, nothing says why.
    world
        .told("who could not join", |answer| {
            let session = session(answer, BARRED.0);
            session["evidence"] == "path" && session["degraded_by"] == json!(["audio", "join"])
        })
        .await;
    let joined = [("result", "joined")];
    assert_eq!(world.callsight.metrics().await.sum("videocall_joins_total", &joined), 5.0);
    for page in barred {
        page.close().await;
    }
}

async fn a_cut_freezes_the_video(world: &World) {
    let [bo, cy] = [world.frame("bo", "any", |_| true).await, world.frame("cy", "any", |_| true).await];
    let freezes = |frame: &Value| number(peer(frame, "ana"), "/video/freeze_count");
    let frozen = |frame: &Value| number(peer(frame, "ana"), "/video/total_freezes_duration_ms");
    world.impair("ana", "bo", Impairment { loss: Share::ALL, ..Impairment::default() });
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.impair("ana", "bo", Impairment::default());
    let after = world.frame("bo", "a freeze", |frame| freezes(frame) > freezes(&bo)).await;
    assert!(frozen(&after) - frozen(&bo) >= 1_500.0, "{after}");
    let other = world.frame("cy", "any", |_| true).await;
    // A busy machine may freeze it too, for a moment.
    assert!(frozen(&other) - frozen(&cy) < 1_500.0, "{other}");
}

async fn a_lossy_uplink_is_blamed(world: &World) {
    const LOSS: f64 = 0.25;
    for to in ["bo", "cy", "di", "ed"] {
        world.impair("ana", to, loss(LOSS));
    }
    let before = world.counts("ana", "bo");
    let [sender, receiver] =
        [world.frame("ana", "any", |_| true).await, world.frame("bo", "any", |_| true).await];
    let audio = |frame: &Value| peer(frame, "ana")["audio"].clone();
    let packets =
        |frame: &Value| number(&audio(frame), "/packets_received") + number(&audio(frame), "/packets_lost");
    let last = world.frame("bo", "500 packets", |frame| packets(frame) > packets(&receiver) + 500.0).await;
    let after = world.counts("ana", "bo");
    let dropped = (after.lost - before.lost) as f64 / (after.received - before.received) as f64;
    let received =
        growth(&audio(&receiver), &audio(&last), "/packets_lost") / (packets(&last) - packets(&receiver));
    let concealed = growth(&audio(&receiver), &audio(&last), "/concealed_samples")
        / growth(&audio(&receiver), &audio(&last), "/total_samples");
    let last = world
        .frame("ana", "the far ends' reports", |frame| {
            growth(&sender, frame, "/send/audio_packets_sent") > 2_000.0
        })
        .await;
    let sent = growth(&sender, &last, "/send/audio_packets_lost")
        / growth(&sender, &last, "/send/audio_packets_sent");
    // Reports of the far ends are some seconds old. Opus repairs a lost packet if the next one
    // arrives, so the least that must be concealed is what is lost twice in a row.
    let repaired = dropped * dropped;
    for (what, share, least) in [
        ("lost", received, dropped * 0.6),
        ("sent", sent, dropped * 0.4),
        ("concealed", concealed, repaired * 0.6),
    ] {
        assert!((least..dropped * 1.5).contains(&share), "{what} {share}, dropped {dropped}");
    }
    let answer = world
        .told("the uplink", |answer| {
            answer["verdict"]["cause"] == "uplink"
                && session(answer, "ana")["degraded_by"] == json!(["uplink"])
        })
        .await;
    for other in ["bo", "cy", "di", "ed"] {
        let by = &session(&answer, other)["degraded_by"];
        assert!(by.as_array().is_none_or(|by| !by.contains(&json!("uplink"))), "{other} {by}");
    }
    for to in ["bo", "cy", "di", "ed"] {
        world.impair("ana", to, Impairment::default());
    }
}

/// The first one is far from everybody.
async fn a_long_way_is_an_alert_and_a_report(world: &World) {
    let prometheus = Prometheus::start_shipped(&world.callsight.target());
    wait::eventually_async(wait::PATIENCE, "a scrape of well calls", async || {
        let degraded = prometheus.value("sum(videocall_sessions_degraded)").await;
        wait::when(degraded, |degraded| *degraded == Some(0.0))
    })
    .await;
    let far = |impairment| {
        for peer in ["bo", "cy", "di", "ed"] {
            world.impair("ana", peer, impairment);
            world.impair(peer, "ana", impairment);
        }
    };
    let (begins, since) = (OffsetDateTime::now_utc(), Instant::now());
    far(delay(200));
    let took = detection::until(&prometheus, ("CallRttDegraded", "us"), true, since).await;
    assert!(took <= detection::WITHIN, "{took:?}");
    let all_slow = |answer: &Value| {
        EVERYBODY.iter().all(|me| {
            let session = session(answer, me);
            session["rtt_ms"].as_f64() >= Some(399.0) && session["evidence"] == "path"
        })
    };
    let answer =
        world.told("a long way", |answer| answer["verdict"]["cause"] == "network" && all_slow(answer)).await;
    let evidence = answer["verdict"]["evidence"].as_str().unwrap();
    assert!(evidence.starts_with("Network: round trips are long in all of the 5."), "{evidence}");
    let ends = OffsetDateTime::now_utc();
    far(Impairment::default());
    world.told("that all is well at last", calm).await;
    let calm_again = OffsetDateTime::now_utc();
    until_the_next_step().await;

    let window = [moment(begins - Duration::from_secs(5)), moment(OffsetDateTime::now_utc())];
    let args = ["--region=us", "--from", &window[0], "--to", &window[1], "--step=1s", "--report=-"];
    let page = replayed(&world.nats.url(), &args);
    let verdict = &figures(&page)["verdict"];
    assert_eq!((&verdict["state"], &verdict["cause"]), (&json!("bad"), &json!("network")), "{verdict}");
    let at =
        |which: &str| OffsetDateTime::parse(verdict["spell"][which].as_str().unwrap(), &Rfc3339).unwrap();
    let step = Duration::from_secs(1);
    assert!(begins <= at("began") && at("began") <= ends, "{begins} to {ends}: {verdict}");
    assert!(
        ends - step <= at("ended") && at("ended") <= calm_again + step,
        "{ends} to {calm_again}: {verdict}"
    );
}

/// One whose camera is withheld is missed by the first one, and not by the other, who has not asked
/// for it.
async fn an_unwanted_video_is_not_missed(world: &World, pages: &BTreeMap<&str, Page>) {
    pages["bo"].evaluate("page.health.want('cy', { video: false })").await;
    pages["cy"].evaluate("page.withhold().then(() => true)").await;
    let answer = world
        .told("a missing video", |answer| session(answer, "ana")["degraded_by"] == json!(["video"]))
        .await;
    let frame = world.frame("bo", "unwanted for long", |_| true).await;
    let of_cy = peer(&frame, "cy");
    assert_eq!(
        (&of_cy["video_enabled"], &of_cy["video_wanted"], &of_cy["can_see"]),
        (&json!(true), &json!(false), &json!(true))
    );
    assert_eq!(answer["all"]["sessions_degraded"], 1, "{}", answer["worst_sessions"]);
}
