//! A replayed step is what a scrape at that moment has shown.

use std::collections::BTreeMap;
use std::time::Duration;

use callsight_frame::{Frame, ServerUrl};
use time::OffsetDateTime;

use super::{by_second, moment, replayed};
use crate::kit::callsight::{Callsight, REGION};
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::scrape::Scrape;
use crate::kit::stream::Health;
use crate::kit::wait::PATIENCE;

const IDLE: Duration = Duration::from_secs(3);

/// How late a session that fell idle may go: the exporter looks four times a second, and machines
/// are busy.
const TICK: Duration = Duration::from_millis(500);

/// How many scrapes are compared.
const SCRAPES: usize = 8;

/// The calls: what is said in a round, by several sessions of several kinds.
struct Calls<'a> {
    health: &'a Health,
    /// The messages that were stored, and when.
    stored: Vec<OffsetDateTime>,
}

impl Calls<'_> {
    async fn say(&mut self, frame: &Frame<'_>) {
        let sequence = self.health.publish(frame).await;
        self.stored.push(self.health.stored_at(sequence).await);
    }

    async fn round(&mut self, round: u64) {
        // Goes on all the time; its peers come and go.
        let peers: &[&str] = if round.is_multiple_of(3) { &["bo"] } else { &["bo", "cy"] };
        self.say(&frame("steady", round, peers)).await;
        // Falls silent for longer than the idle timeout, and comes back with its counters.
        if round % 9 < 3 {
            self.say(&frame("silent", round, &["bo"])).await;
        }
        // A new one each time, which ends with the next.
        let short = format!("short-{round}");
        self.say(&frame(&short, 1, &["steady"])).await;
        if round > 1 {
            let ended = format!("short-{}", round - 1);
            self.say(&Frame { ended: Some(true), ..frame(&ended, 2, &["steady"]) }).await;
        }
        // Moves to another server and back.
        let mut moving = frame("moving", round, &["bo"]);
        if round.is_multiple_of(2)
            && let Some(server) = &mut moving.server
        {
            server.url = ServerUrl::new("https://relay-2.example:4433").unwrap();
            server.rtt_ms = Some(450.0);
        }
        self.say(&moving).await;
        // Said twice, and something that is no frame.
        let again = self.health.publish_as(&format!("again-{round}"), &moving).await;
        self.stored.push(self.health.stored_at(again).await);
        let subject = format!("health.diagnostics.{REGION}.relay.relay-1");
        let nothing = self.health.publish_bytes(&subject, vec![0xc1]).await;
        self.stored.push(self.health.stored_at(nothing).await);
    }

    /// Whether nothing happened from one moment to another, and no session could have fallen idle.
    fn are_quiet(&self, from: OffsetDateTime, to: OffsetDateTime) -> bool {
        self.stored.iter().all(|at| {
            let idle = *at + IDLE;
            !(from..=to).contains(at) && !(from - TICK..=to).contains(&idle)
        })
    }
}

/// All series of the calls, by name and labels.
fn series(scrape: &Scrape) -> BTreeMap<String, f64> {
    let names = scrape.names().into_iter().filter(|name| name.starts_with("videocall_"));
    names
        .flat_map(|name| {
            let of = scrape.series(name).into_iter();
            of.map(move |(labels, value)| (format!("{name}{labels:?}"), value))
        })
        .collect()
}

/// Two measures that differ by no more than the order in which floats were added.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[tokio::test]
async fn a_step_is_what_a_scrape_at_that_moment_has_shown() {
    let nats = Nats::start();
    let health = Health::create(&nats).await;
    let mut callsight = Callsight::serve(&nats, &["--create", "--idle-timeout=3s", "--pair-max-sessions=0"]);
    callsight.ready().await;
    let begin = OffsetDateTime::now_utc();

    let mut calls = Calls { health: &health, stored: Vec::new() };
    let mut scrapes = Vec::new();
    let deadline = OffsetDateTime::now_utc() + 4 * PATIENCE;
    for round in 1.. {
        calls.round(round).await;
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let sent = calls.stored.len() as f64;
        callsight
            .metrics_when(PATIENCE, "everything to be taken", |scrape| {
                let taken = scrape.sum("callsight_frames_received_total", &[]);
                if same(taken, sent) { Ok(()) } else { Err(taken) }
            })
            .await;
        // The next whole second is the moment of a step. Sleeping is not to wait for anything but
        // the time itself.
        let now = OffsetDateTime::now_utc();
        let second = now.unix_timestamp() + 1;
        let step = OffsetDateTime::from_unix_timestamp(second).unwrap();
        tokio::time::sleep((step - now).unsigned_abs() + Duration::from_millis(5)).await;
        let scrape = callsight.metrics().await;
        if calls.are_quiet(step, OffsetDateTime::now_utc()) {
            scrapes.push((second, scrape));
        }
        if scrapes.len() == SCRAPES {
            break;
        }
        assert!(OffsetDateTime::now_utc() < deadline, "only {} scrapes could be compared", scrapes.len());
        // Between whole seconds, so that what happens in a round is not at a step.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let end = OffsetDateTime::now_utc();

    let args = ["--from", &moment(begin), "--to", &moment(end), "--step=1s", "--idle-timeout=3s"];
    let text = replayed(&nats.url(), &[&args[..], &["--no-replay-label", "--openmetrics=-"]].concat());
    let steps = by_second(&text);
    let mut compared = 0;
    for (second, scrape) in &scrapes {
        let (scraped, replayed) = (series(scrape), series(&steps[second]));
        let keys = |of: &BTreeMap<String, f64>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&replayed), keys(&scraped), "at {second}");
        for (key, value) in &scraped {
            let equal = if key.contains("_age_seconds") {
                // A scrape is a moment after the step.
                (value - replayed[key]).abs() < 2.0
            } else {
                same(*value, replayed[key])
            };
            assert!(equal, "{key} at {second}: scraped {value}, replayed {}", replayed[key]);
            compared += 1;
        }
        for own in
            ["folded", "repeated", "late", "rejected"].map(|own| format!("callsight_frames_{own}_total"))
        {
            assert!(same(scrape.sum(&own, &[]), steps[second].sum(&own, &[])), "{own} at {second}");
        }
    }
    assert!(compared > 150 * SCRAPES, "only {compared} values were compared");
    // Sessions have ended, fallen idle and moved in between, or it would have been no test.
    let last = &scrapes.last().unwrap().1;
    for reason in ["ended", "idle", "moved"] {
        assert!(last.sum("callsight_sessions_removed_total", &[("reason", reason)]) > 0.0, "{reason}");
    }
}
