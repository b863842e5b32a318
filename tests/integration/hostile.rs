//! Attacks by clients, against a real stream and exporter: nobody speaks for another's session, and
//! no value spoils a sum.

use std::time::Duration;

use callsight_frame::{Frame, MeetingId, PeerId, Seq, Server};
use serde_json::Value;
use time::OffsetDateTime;

use crate::kit::callsight::Callsight;
use crate::kit::frames::{frame, rtt_ms};
use crate::kit::nats::Nats;
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};
use crate::replay::{moment, replayed, until_the_next_step};

/// Waits until so many messages have had their effect, and returns a scrape from after that.
async fn taken(callsight: &Callsight, messages: u64) -> Scrape {
    let what = format!("{messages} messages to be taken");
    callsight
        .metrics_when(PATIENCE, &what, |scrape| {
            let count = |outcome| scrape.sum(&format!("callsight_frames_{outcome}_total"), &[]);
            let taken: f64 = ["folded", "repeated", "refused", "rejected"].map(count).iter().sum();
            wait::when(taken, |taken| *taken == messages as f64).map(drop)
        })
        .await;
    callsight.metrics().await
}

fn session<'a>(seq: u64, peer_id: &'a str, meeting_id: &'a str) -> Frame<'a> {
    Frame {
        peer_id: PeerId::new(peer_id).unwrap(),
        meeting_id: MeetingId::new(meeting_id).unwrap(),
        ..frame("victim", seq, &["bo"])
    }
}

/// Ends the victim's session, takes its row over, and hides it behind a watermark: as another
/// participant, from another meeting, and with a number that no frame has.
async fn attack(health: &Health, name: &str) -> u64 {
    let last = |frame| Frame { seq: Seq::new(1 << 53).unwrap(), ..frame };
    let frames = [
        last(session(7, "mallory", "standup")),
        session(7, "victim", "elsewhere"),
        last(session(7, "mallory", "elsewhere")),
        last(session(7, "victim", "standup")),
    ];
    for (index, frame) in frames.iter().enumerate() {
        for ended in [None, Some(true)] {
            let id = format!("{name}:{index}:{ended:?}");
            health.publish_as(&id, &Frame { ended, ..frame.clone() }).await;
        }
    }
    2 * frames.len() as u64
}

fn assert_victim_shows(scrape: &Scrape, seq: u64) {
    let rows = scrape.series("videocall_session_rtt_seconds");
    let [(labels, rtt)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(*rtt, rtt_ms(seq) / 1e3);
    assert_eq!(
        [&*labels["session_id"], &*labels["peer_id"], &*labels["meeting_id"]],
        ["victim", "victim", "standup"]
    );
    assert_eq!(scrape.sum("videocall_sessions", &[]), 1.0);
    assert_eq!(scrape.sum("callsight_sessions_removed_total", &[]), 0.0);
}

#[tokio::test]
async fn nobody_speaks_for_anothers_session() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let begin = OffsetDateTime::now_utc();
    let mut callsight = Callsight::serve(&nats, &["--create", "--idle-timeout=1h"]);
    callsight.ready().await;

    health.publish(&session(1, "victim", "standup")).await;
    let attacks = attack(&health, "live").await;
    health.publish(&session(2, "victim", "standup")).await;
    let scrape = taken(&callsight, attacks + 2).await;
    assert_victim_shows(&scrape, 2);
    let refused =
        |scrape: &Scrape, reason: &str| scrape.sum("callsight_frames_refused_total", &[("reason", reason)]);
    assert_eq!((refused(&scrape, "not_owner"), refused(&scrape, "seq_jump")), (6.0, 2.0));
    assert_eq!(scrape.sum("callsight_frames_folded_total", &[]), 2.0);
    assert_eq!(scrape.sum("callsight_frames_rejected_total", &[]), 0.0);
    assert_eq!(scrape.sum("callsight_dead_letters_total", &[]), 0.0);
    assert_eq!(scrape.sum("videocall_audio_samples_total", &[]), 96_000.0);
    // It is said in the log too.
    let log = callsight.process().output();
    assert!(log.contains("frame refused") && log.contains("not_owner"), "{log}");

    // A restart reads the frames again, and believes the same.
    let last = health.messages().await;
    wait::eventually_async(PATIENCE, "the acknowledgement", async || {
        wait::when(health.durable().await.ack_floor.stream_sequence, |floor| *floor == last)
    })
    .await;
    callsight.kill9();
    callsight.restart();
    callsight.ready().await;
    let more = attack(&health, "again").await;
    health.publish(&session(3, "victim", "standup")).await;
    let scrape = taken(&callsight, more + 1).await;
    assert_victim_shows(&scrape, 3);
    assert_eq!((refused(&scrape, "not_owner"), refused(&scrape, "seq_jump")), (6.0, 2.0));

    // And so does a replay.
    until_the_next_step().await;
    let lines = replayed(&nats.url(), &["--from", &moment(begin), "--frames=-"]);
    let outcomes: Vec<(String, String)> = lines
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            (text("outcome"), text("reason"))
        })
        .collect();
    let count = |outcome: &str, reason: &str| {
        outcomes.iter().filter(|(of, why)| of == outcome && why == reason).count()
    };
    assert_eq!(
        (count("folded", ""), count("refused", "not_owner"), count("refused", "seq_jump")),
        (3, 12, 4),
        "{lines}"
    );
}

#[tokio::test]
async fn no_value_spoils_a_sum() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut callsight = Callsight::serve(&nats, &["--create"]);
    callsight.ready().await;

    health.publish(&frame("honest", 1, &["bo"])).await;
    let extreme = |rtt_ms: f64| {
        let honest = frame("hostile", 1, &["bo"]);
        let server = honest.server.clone().map(|server| Server { rtt_ms: Some(rtt_ms), ..server });
        Frame { server, ..honest }
    };
    health.publish_as("rtt", &extreme(1e300)).await;
    let mut samples = frame("hostile", 1, &["bo"]);
    samples.peers[0].audio.as_mut().unwrap().total_samples = Some(u64::MAX);
    health.publish_as("samples", &samples).await;
    // Within its range, but not within a second.
    let mut jump = frame("hostile", 1, &["bo"]);
    jump.peers[0].audio.as_mut().unwrap().total_samples = Some(10_000_000_000_000);
    health.publish_as("jump", &jump).await;
    health.publish(&frame("honest", 2, &["bo"])).await;

    let scrape = taken(&callsight, 5).await;
    assert_eq!(scrape.sum("callsight_frames_rejected_total", &[("reason", "out_of_range")]), 2.0);
    assert_eq!(scrape.sum("callsight_implausible_growth_total", &[]), 1.0);
    assert_eq!(scrape.sum("videocall_audio_samples_total", &[]), 96_000.0);
    let sum = scrape.sum("videocall_rtt_seconds_sum", &[]);
    assert!((sum - (rtt_ms(1) + rtt_ms(1) + rtt_ms(2)) / 1e3).abs() < 1e-9, "{sum}");
    callsight
        .metrics_when(Duration::from_secs(20), "the dead letters", |scrape| {
            let stored = scrape.sum("callsight_dead_letters_total", &[]);
            wait::when(stored, |stored| *stored == 2.0).map(drop)
        })
        .await;
}
