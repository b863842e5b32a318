//! The budgets, each under attack: what is beyond one is refused and counted, what exists stays
//! right, the aggregates stay complete, and memory stays where it was.

use std::time::Duration;

use callsight_frame::{Form, Frame, MAX_IDENTIFIER_BYTES, MeetingId, Server, ServerType, ServerUrl};

use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::{frame, rtt_ms};
use crate::kit::nats::Nats;
use crate::kit::relay::{Crowd, Relay};
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::wait;

const RTT: &str = "videocall_session_rtt_seconds";
const CAN_LISTEN: &str = "videocall_pair_can_listen";
const SAMPLES: &str = "videocall_audio_samples_total";

/// Samples that each frame of the kit adds for each peer.
const SAMPLES_A_FRAME: f64 = 48_000.0;

/// How long a flood may take on a busy machine, and the memory of it to come back.
const FLOOD_WITHIN: Duration = Duration::from_secs(300);

/// How long a hundred thousand frames may take on a busy machine.
const LONG: Duration = Duration::from_secs(90);

async fn start(extra: &[&str]) -> (Nats, Relay, Callsight) {
    let nats = Nats::start();
    Health::create(&nats).await;
    let relay = Relay::start(&nats).await;
    let args: Vec<_> = ["--create"].iter().chain(extra).copied().collect();
    let mut callsight = Callsight::serve(&nats, &args);
    callsight.ready().await;
    (nats, relay, callsight)
}

fn refused(scrape: &Scrape, limit: &str) -> f64 {
    scrape.value("callsight_refused_total", &[("limit", limit)]).unwrap()
}

fn frames_refused(scrape: &Scrape) -> f64 {
    scrape.value("callsight_frames_refused_total", &[("reason", "max_sessions")]).unwrap()
}

#[expect(clippy::print_stdout, reason = "the figures that docs/performance.md states")]
fn print(what: &str, bytes: usize) {
    println!("{what}: {:.1} MiB resident", bytes as f64 / f64::from(1 << 20));
}

#[tokio::test]
async fn a_meeting_with_a_hundred_thousand_session_ids() {
    const WAVE: usize = 50_000;
    let flags =
        ["--max-sessions=60000", "--max-sessions-per-meeting=100", "--max-series=10000", "--idle-timeout=2m"];
    let (_nats, relay, callsight) = start(&flags).await;
    let meeting = MeetingId::new("flood").unwrap();
    let honest = |seq| Frame { meeting_id: meeting, ..frame("honest", seq, &["bo"]) };
    relay.say(&honest(1)).await;
    relay.say(&frame("elsewhere", 1, &["bo"])).await;
    relay.settle().await;
    let mut frames = 2;
    callsight.folded(LONG, frames).await;
    let idle = callsight.process().resident();
    print("idle", idle);

    let mut most = Vec::new();
    for (wave, seq) in [("a", 2), ("b", 3)] {
        let names: Vec<_> =
            (0..WAVE).map(|number| format!("0b6e5f1c-9d1f-4a51-8a39-{wave}{number:06}")).collect();
        for name in &names {
            relay.say(&Frame { meeting_id: meeting, ..frame(name, 1, &[]) }).await;
        }
        relay.say(&honest(seq)).await;
        relay.settle().await;
        frames += WAVE + 1;
        let scrape = callsight.folded(LONG, frames).await;
        most.push(callsight.process().resident());
        // Everybody is counted, a hundred are shown, and those that were there first still are.
        assert_eq!(scrape.sum("videocall_sessions", &[]), WAVE as f64 + 2.0);
        assert_eq!(scrape.sum("videocall_participants", &[]), WAVE as f64 + 2.0);
        assert_eq!(scrape.sum("videocall_meetings", &[]), 2.0);
        assert_eq!(
            scrape.series(RTT).iter().filter(|(labels, _)| labels["meeting_id"] == "flood").count(),
            100
        );
        assert_eq!(scrape.value(RTT, &[("session_id", "honest")]), Some(rtt_ms(seq) / 1e3));
        assert_eq!(scrape.value(RTT, &[("session_id", "elsewhere")]), Some(rtt_ms(1) / 1e3));
        assert!(refused(&scrape, "sessions_per_meeting") >= (WAVE - 99) as f64);

        for name in &names {
            let last = Frame { ended: Some(true), server: None, ..frame(name, 2, &[]) };
            relay.say(&Frame { meeting_id: meeting, ..last }).await;
        }
        relay.settle().await;
        frames += WAVE;
        let scrape = callsight.folded(LONG, frames).await;
        assert_eq!(scrape.sum("videocall_sessions", &[]), 2.0);
        assert_eq!(scrape.series(RTT).len(), 2);
    }
    print("50,000 live sessions in one meeting", most[0]);
    print("another 50,000, after those have ended", most[1]);
    assert!(most[0] - idle < WAVE * 1_200, "{} bytes a session", (most[0] - idle) / WAVE);
    // Those that have ended are remembered within the budget for sessions.
    let grown = most[1].saturating_sub(most[0]);
    assert!(grown < WAVE * 600, "{} bytes an ended session", grown / WAVE);
}

#[tokio::test]
async fn a_session_with_more_peers_than_are_shown() {
    let (_nats, relay, callsight) = start(&["--max-peers-per-session=16"]).await;
    let names: Vec<_> = (0..256).map(|number| format!("{number:0>128}")).collect();
    let peers: Vec<_> = names.iter().map(String::as_str).collect();
    relay.say(&frame("crowded", 1, &peers)).await;
    relay.say(&frame("crowded", 2, &peers)).await;
    relay.say(&frame("usual", 1, &peers[..3])).await;
    relay.settle().await;
    let scrape = callsight.folded(LONG, 3).await;
    let rows = |session: &str| {
        scrape.series(CAN_LISTEN).iter().filter(|(labels, _)| labels["session_id"] == session).count()
    };
    assert_eq!((rows("crowded"), rows("usual")), (16, 3));
    assert_eq!(refused(&scrape, "peers_per_session"), 240.0);
    assert_eq!(scrape.sum("videocall_peer_connections", &[]), 259.0);
    assert_eq!(scrape.sum(SAMPLES, &[]), (2.0 * 256.0 + 3.0) * SAMPLES_A_FRAME);

    // Others in every frame: nothing of those that departed stays.
    let before = callsight.process().resident();
    for seq in 3..=202 {
        let names: Vec<_> = (0..256).map(|number| format!("{seq}-{number:0>120}")).collect();
        let peers: Vec<_> = names.iter().map(String::as_str).collect();
        relay.say(&frame("crowded", seq, &peers)).await;
    }
    relay.settle().await;
    let scrape = callsight.folded(LONG, 203).await;
    let grown = callsight.process().resident().saturating_sub(before);
    print("200 frames with 256 new peers each, more", grown);
    assert!(grown < 24 << 20, "{grown} bytes");
    assert_eq!(scrape.series(CAN_LISTEN).len(), 16 + 3);
    assert_eq!(scrape.sum("videocall_peer_connections", &[]), 259.0);
}

#[tokio::test]
async fn a_thousand_servers() {
    let (_nats, relay, callsight) = start(&["--max-server-urls=10"]).await;
    let urls: Vec<_> = (0..1_000).map(|number| format!("https://random-{number}.example")).collect();
    let crowd = Crowd::new("", 1_000);
    let on = |session: usize, url: &str, seq| {
        let server = Server::new(ServerUrl::new(&urls[session]).unwrap(), ServerType::WebTransport);
        assert_eq!(url, urls[session]);
        let frame = crowd.frame(session, seq);
        let server = Server { rtt_ms: Some(50.0), ..server };
        Frame { peers: frame.peers, server: Some(server), ..crowd.frame(session, seq) }
    };
    for seq in 1..=2 {
        for (session, url) in urls.iter().enumerate() {
            relay.say(&on(session, url, seq)).await;
        }
    }
    relay.settle().await;
    let scrape = callsight.folded(LONG, 2_000).await;
    let mut sessions = scrape.series("videocall_sessions");
    assert_eq!(sessions.len(), 11);
    sessions.retain(|(labels, _)| labels["server_url"] != "other");
    assert_eq!(sessions.len(), 10);
    assert!(sessions.iter().all(|(labels, value)| {
        *value == 1.0 && urls[..10].iter().any(|url| *url == labels["server_url"])
    }));
    let other = [("server_url", "other")];
    assert_eq!(scrape.value("videocall_sessions", &other), Some(990.0));
    assert_eq!(refused(&scrape, "server_urls"), 990.0);
    assert_eq!(scrape.sum("videocall_rtt_seconds_count", &[]), 2_000.0);
    assert_eq!(scrape.sum(SAMPLES, &[]), 2.0 * 3_000.0 * SAMPLES_A_FRAME);
    assert_eq!(scrape.sum(SAMPLES, &other), 2.0 * 2_970.0 * SAMPLES_A_FRAME);
    assert_eq!(scrape.sum("callsight_sessions_removed_total", &[]), 0.0);
}

#[tokio::test]
async fn more_series_than_the_default_allows_in_the_smallest_cluster() {
    const MAX: f64 = 125_000.0;
    let (_nats, relay, callsight) = start(&[]).await;
    let idle = callsight.process().resident();
    let (first, late) = (Crowd::new("first", 1_400), Crowd::new("late", 400));
    first.speak(&relay, 1).await;
    relay.settle().await;
    callsight.folded(LONG, 1_400).await;
    late.speak(&relay, 1).await;
    first.speak(&relay, 2).await;
    late.speak(&relay, 2).await;
    relay.settle().await;
    let scrape = callsight.folded(LONG, 3_600).await;
    let live = scrape.sum("callsight_live_series", &[]);
    assert!(live <= MAX && live > MAX - 26.0, "{live}");
    assert!(refused(&scrape, "series") > 0.0);
    // What was there first is whole and goes on; everybody is counted.
    let whole = |crowd: &str, scrape: &Scrape| {
        scrape.series(CAN_LISTEN).iter().filter(|(labels, _)| labels["session_id"].starts_with(crowd)).count()
    };
    assert_eq!(whole("first", &scrape), 1_400 * 3);
    assert_eq!(scrape.value(RTT, &[("session_id", "firsts1399")]), Some(rtt_ms(2) / 1e3));
    assert_eq!(scrape.sum("videocall_sessions", &[]), 1_800.0);
    assert_eq!(scrape.sum(SAMPLES, &[]), 2.0 * 1_800.0 * 3.0 * SAMPLES_A_FRAME);
    let full = callsight.process().resident();
    print("idle, at defaults", idle);
    print("125,000 series and a few scrapes, at defaults", full);
    assert!(full < 64 << 20, "{full} bytes");

    // Room that is given back is used.
    first.leave(&relay, 3).await;
    late.speak(&relay, 3).await;
    relay.settle().await;
    let scrape = callsight.folded(LONG, 5_400).await;
    assert_eq!((whole("first", &scrape), whole("late", &scrape)), (0, 400 * 3));
    assert_eq!(scrape.series(RTT).len(), 400);
    assert_eq!(scrape.sum("callsight_live_series", &[]), 400.0 * 10.0 + 1_200.0 * 26.0);
}

#[tokio::test]
async fn detail_is_as_much_as_is_wanted() {
    let nats = Nats::start();
    Health::create(&nats).await;
    let relay = Relay::start(&nats).await;
    let levels: [(&[&str], usize, usize); 4] = [
        (&["--deployment=off", "--detail=off"], 0, 0),
        (&["--deployment=session", "--detail=session"], 11, 0),
        (&["--deployment=pair", "--detail=pair"], 11, 24 + 3),
        (&["--deployment=small", "--detail=pair", "--pair-max-sessions=3"], 11, 3),
    ];
    let mut exporters = Vec::new();
    for (flags, ..) in levels {
        let flags: Vec<_> = ["--create"].iter().chain(flags).copied().collect();
        let mut callsight = Callsight::serve(&nats, &flags);
        callsight.ready().await;
        exporters.push(callsight);
    }
    // Two meetings of four, and one of three whose sessions see one peer each.
    let crowd = Crowd::new("", 8);
    let names = ["x0", "x1", "x2"];
    for seq in 1..=2 {
        crowd.speak(&relay, seq).await;
        for name in names {
            let frame = frame(name, seq, &["someone"]);
            relay.say(&Frame { meeting_id: MeetingId::new("three").unwrap(), ..frame }).await;
        }
    }
    relay.settle().await;
    for (callsight, (flags, sessions, pairs)) in exporters.iter().zip(levels) {
        let scrape = callsight.folded(LONG, 22).await;
        assert_eq!(scrape.series(RTT).len(), sessions, "{flags:?}");
        assert_eq!(scrape.series(CAN_LISTEN).len(), pairs, "{flags:?}");
        assert_eq!(scrape.sum("videocall_sessions", &[]), 11.0, "{flags:?}");
        assert_eq!(scrape.sum("videocall_peer_connections", &[]), 27.0, "{flags:?}");
        assert_eq!(scrape.sum(SAMPLES, &[]), 2.0 * 27.0 * SAMPLES_A_FRAME, "{flags:?}");
        assert_eq!(scrape.sum("callsight_refused_total", &[]), 0.0, "{flags:?}");
    }
}

#[tokio::test]
async fn sessions_that_never_stay_leave_nothing_behind() {
    const ROUNDS: u64 = 100;
    const SESSIONS: usize = 200;
    let (_nats, relay, callsight) = start(&[]).await;
    let names: Vec<_> = (0..SESSIONS).map(|number| format!("{number:0>128}")).collect();
    let other = ServerUrl::new("https://relay-2.example:4433").unwrap();
    let mut measured = Vec::new();
    for half in [1..=ROUNDS / 2, ROUNDS / 2 + 1..=ROUNDS] {
        for round in half {
            for name in &names {
                // It jumps far ahead, changes its server, and ends every third time.
                let mut frame = frame(name, round * 1_000_007, &["bo"]);
                let server = frame.server.as_mut().unwrap();
                server.rtt_ms = Some(rtt_ms(round));
                if round % 2 == 0 {
                    server.url = other.clone();
                }
                frame.ended = Some(round % 3 == 0);
                relay.say(&frame).await;
            }
        }
        relay.settle().await;
        callsight.folded(LONG, SESSIONS * usize::try_from(ROUNDS / 2).unwrap() * (measured.len() + 1)).await;
        measured.push(callsight.process().resident());
    }
    let grown = measured[1].saturating_sub(measured[0]);
    print("10,000 more frames of 200 sessions that never stay, more", grown);
    assert!(grown < 8 << 20, "{grown} bytes");
    let scrape = callsight.metrics().await;
    // The last round is no third one.
    assert_eq!(scrape.sum("videocall_sessions", &[]), 200.0);
    assert_eq!(scrape.series(RTT).len(), 200);
    assert_eq!(scrape.sum("videocall_peer_connections", &[]), 200.0);
}

#[tokio::test]
async fn servers_that_come_and_go_leave_their_places_to_others() {
    const SERVERS: usize = 5_000;
    let flags = ["--max-server-urls=100", "--server-idle=1s", "--idle-timeout=1s"];
    let (_nats, relay, callsight) = start(&flags).await;
    let name = |number: usize| format!("churn-{number}");
    fn on<'a>(session: &'a str, url: &'a str) -> Frame<'a> {
        let server = Server::new(ServerUrl::new(url).unwrap(), ServerType::WebTransport);
        Frame { server: Some(server), ..frame(session, 1, &["bo"]) }
    }
    for first in (0..SERVERS).step_by(500) {
        for number in first..first + 500 {
            let name = name(number);
            let url = format!("https://{name}.example");
            relay.say(&on(&name, &url)).await;
        }
        relay.settle().await;
        callsight.folded(LONG, first + 500).await;
        // Nothing is left of them, so that the next ones have their names.
        callsight
            .metrics_when(wait::PATIENCE, "the servers to go", |scrape| {
                let sessions = scrape.series("videocall_sessions");
                let left = sessions.iter().filter(|(labels, _)| labels["server_url"].contains("churn-"));
                wait::when(left.count(), |left| *left == 0).map(drop)
            })
            .await;
    }
    let page = callsight.get("/metrics").await;
    assert!(!page.text().contains("churn-"), "{}", page.text());
    assert!(page.text().contains("server_url=\"other\""));
    relay.say(&on("newcomer", "https://newcomer.example")).await;
    relay.settle().await;
    let scrape = callsight.folded(LONG, SERVERS + 1).await;
    let labels = [("server_url", "https://newcomer.example")];
    assert_eq!(scrape.value(SAMPLES, &labels), Some(SAMPLES_A_FRAME));
}

/// What `/readyz` and the triage page say of the region.
async fn warnings(callsight: &Callsight) -> [String; 2] {
    let (ready, page) = (callsight.get("/readyz").await, callsight.get("/api/triage").await);
    assert_eq!((ready.status, page.status), (200, 200));
    [ready.text().to_owned(), page.text().to_owned()]
}

#[tokio::test]
async fn a_million_session_ids_fit_the_smallest_cluster_and_leave_nothing() {
    const FLOOD: usize = 1_000_000;
    const LIMIT: usize = 64 << 20;
    let (nats, relay, callsight) = start(&["--idle-timeout=10s"]).await;
    let idle = callsight.process().resident();
    relay.say(&frame("honest", 1, &["bo"])).await;
    relay.settle().await;
    callsight.folded(LONG, 1).await;
    let flood = nats.client().await;
    let subject = format!("health.diagnostics.{REGION}.relay.relay-1");
    let mut honest = 1;
    let mut sent = 1;
    for first in (0..FLOOD).step_by(10_000) {
        for number in first..first + 10_000 {
            let names = [0, 1, 2, 3].map(|part| format!("0b6e5f1c-9d1f-4a51-{part:04}-{number:012}"));
            let meeting_id = MeetingId::new(&names[1]).unwrap();
            let peers = [names[2].as_str(), names[3].as_str(), "bo"];
            let payload = Frame { meeting_id, ..frame(&names[0], 1, &peers) }.encode(Form::Compact);
            flood.publish(subject.clone(), payload.into()).await.unwrap();
        }
        flood.flush().await.unwrap();
        honest += 1;
        relay.say(&frame("honest", honest, &["bo"])).await;
        relay.settle().await;
        sent += 10_001;
        let scrape = callsight.metrics().await;
        assert!(scrape.sum("videocall_sessions", &[]) <= 5_000.0);
    }
    callsight
        .metrics_when(FLOOD_WITHIN, "the flood to be over", |scrape| {
            let received = scrape.sum("callsight_frames_received_total", &[]);
            wait::when(received, |received| *received >= f64::from(sent)).map(drop)
        })
        .await;
    let scrape = callsight.metrics().await;
    let refused = frames_refused(&scrape);
    assert!(refused > 0.0);
    assert_eq!(scrape.sum("callsight_frames_folded_total", &[]) + refused, f64::from(sent));
    assert_eq!(scrape.sum("callsight_dead_letters_total", &[]), 0.0);
    // What was there first is whole.
    assert_eq!(scrape.value(RTT, &[("session_id", "honest")]), Some(rtt_ms(honest) / 1e3));
    for told in warnings(&callsight).await {
        assert!(told.contains("aggregates are incomplete") && told.contains("--max-sessions"), "{told}");
    }
    let log = callsight.process().output();
    assert!(log.contains("sessions or peers refused"));
    assert!(log.contains("frame refused") && log.contains("max_sessions"));
    let peak = callsight.process().peak();
    print("idle", idle);
    print("at most, while a million sessions began", peak);
    assert!(peak < LIMIT, "{peak} bytes");

    // It recovers by itself.
    callsight
        .metrics_when(wait::PATIENCE, "all sessions to fall idle", |scrape| {
            wait::when(scrape.sum("videocall_sessions", &[]), |live| *live == 0.0).map(drop)
        })
        .await;
    relay.say(&frame("newcomer", 1, &["bo"])).await;
    relay.settle().await;
    callsight.folded(LONG, scrape.sum("callsight_frames_folded_total", &[]) as usize + 1).await;
    assert!(callsight.metrics().await.value(RTT, &[("session_id", "newcomer")]).is_some());
    // The sessions are remembered for two minutes, and freed memory is given back.
    let resident = wait::eventually_async(FLOOD_WITHIN, "memory to come back", async || {
        wait::when(callsight.process().resident(), |resident| *resident < idle + (8 << 20))
    })
    .await;
    print("after it", resident);
    wait::eventually_async(FLOOD_WITHIN, "the warning to end", async || {
        let [ready, _] = warnings(&callsight).await;
        wait::when(ready, |ready| !ready.contains("warning")).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_restart_keeps_the_budget_for_sessions() {
    let (_nats, relay, mut callsight) = start(&["--max-sessions=100", "--idle-timeout=1m"]).await;
    let crowd = Crowd::new("", 300);
    crowd.speak(&relay, 1).await;
    relay.settle().await;
    callsight.folded(LONG, 100).await;
    callsight.restart();
    callsight.ready().await;
    let scrape = callsight.metrics().await;
    assert_eq!(scrape.sum("videocall_sessions", &[]), 100.0);
    crowd.speak(&relay, 2).await;
    relay.settle().await;
    let scrape = callsight.folded(LONG, 100).await;
    assert_eq!(scrape.sum("videocall_sessions", &[]), 100.0);
    assert_eq!(frames_refused(&scrape), 200.0);
}

#[tokio::test]
async fn a_backlog_of_the_largest_frames() {
    const FRAMES: u64 = 2_000;
    let (_nats, relay, mut callsight) = start(&["--max-sessions=100"]).await;
    callsight.terminate();
    let names: Vec<_> = (0..256).map(|number| format!("{number:0>128}")).collect();
    let peers: Vec<_> = names.iter().map(String::as_str).collect();
    for seq in 1..=FRAMES {
        relay.say(&frame("large", seq, &peers)).await;
    }
    relay.settle().await;
    callsight.restart();
    callsight.ready().await;
    callsight.folded(LONG, FRAMES as usize).await;
    let peak = callsight.process().peak();
    print("at most, for a backlog of 2,000 frames of 256 peers", peak);
    assert!(peak < 64 << 20, "{peak} bytes");
}

/// An identifier of the greatest length.
fn long(name: &str, number: usize) -> String {
    format!("{name}{number:0>width$}", width = MAX_IDENTIFIER_BYTES - name.len())
}

/// A session with the longest names, on a server of its own, with as many peers as fit the budget.
fn costly(number: usize, ended: bool) -> Vec<u8> {
    let [session, meeting] = ["session", "meeting"].map(|name| long(name, number));
    let peers: Vec<_> = (0..8).map(|peer| long("peer", 8 * number + peer)).collect();
    let peers: Vec<_> = peers.iter().map(String::as_str).collect();
    let label = "x".repeat(63);
    let url = format!("https://{label}.{label}.{label}.{number:0>40}.example");
    let mut frame = Frame {
        meeting_id: MeetingId::new(&meeting).unwrap(),
        ended: Some(ended),
        ..frame(&session, 1, &peers)
    };
    frame.server.as_mut().unwrap().url = ServerUrl::new(&url).unwrap();
    frame.encode(Form::Compact)
}

#[tokio::test]
async fn clients_that_want_to_fill_the_memory_do_not() {
    const WAVE: usize = 5_000;
    const WAVES: usize = 6;
    let (nats, relay, callsight) = start(&["--idle-timeout=10m"]).await;
    relay.say(&frame("honest", 1, &["bo"])).await;
    relay.settle().await;
    callsight.folded(LONG, 1).await;
    let flood = nats.client().await;
    let subject = format!("health.diagnostics.{REGION}.relay.relay-1");
    let mut waves = 0;
    // They take all places, then all that is remembered of those that ended, and go on.
    for (what, ended) in [("begin", false), ("end at once", true), ("begin", false)] {
        for _ in 0..WAVES {
            for number in waves * WAVE..(waves + 1) * WAVE {
                flood.publish(subject.clone(), costly(number, ended).into()).await.unwrap();
            }
            flood.flush().await.unwrap();
            waves += 1;
            // Somebody scrapes and views meanwhile.
            callsight.metrics().await;
            assert_eq!(callsight.get("/api/triage").await.status, 200);
        }
        let sent = (1 + waves * WAVE) as f64;
        callsight
            .metrics_when(FLOOD_WITHIN, "the flood to be over", |scrape| {
                let received = scrape.sum("callsight_frames_received_total", &[]);
                wait::when(received, |received| *received >= sent).map(drop)
            })
            .await;
        print(&format!("at most, after {} costly sessions {what}", WAVES * WAVE), callsight.process().peak());
    }
    relay.say(&frame("honest", 2, &["bo"])).await;
    relay.settle().await;
    let ended = WAVES * WAVE;
    // Frames of the honest session, of those that have a place, and last ones, which need none.
    let scrape = callsight.folded(LONG, 2 + 4_999 + ended).await;
    assert_eq!(scrape.sum("videocall_sessions", &[]), 5_000.0);
    assert_eq!(frames_refused(&scrape), (2 * ended - 4_999) as f64);
    assert!(scrape.sum("callsight_live_series", &[]) <= 125_000.0);
    assert!(refused(&scrape, "server_urls") > 0.0 && refused(&scrape, "series") > 0.0);
    // What was there first is whole.
    assert_eq!(scrape.value(RTT, &[("session_id", "honest")]), Some(rtt_ms(2) / 1e3));
    let peak = callsight.process().peak();
    assert!(peak < 64 << 20, "{peak} bytes");
}
