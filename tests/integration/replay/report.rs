//! The report says what the frames say, and a browser shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{moment, replayed};
use crate::kit::browser::Browser;
use crate::kit::callsight::REGION;
use crate::kit::nats::Nats;
use crate::kit::process::temporary_directory;
use crate::kit::relay::{Crowd, Relay};
use crate::kit::stream::Health;
use crate::kit::wait::{self, PATIENCE};

/// How many frames each session says, four a second, and which of them are bad.
const FRAMES: u64 = 32;
const BAD: std::ops::Range<u64> = 10..22;

/// Calls that are well, then bad by round trip for the first eight of twelve sessions, for the
/// first of them by audio too, then well again; a frame that comes twice and a message that is
/// none. Tells from when to when.
async fn an_incident(nats: &Nats) -> (OffsetDateTime, OffsetDateTime) {
    let health = Health::create(nats).await;
    let relay = Relay::start(nats).await;
    let crowd = Crowd::new("", 12);
    let begin = OffsetDateTime::now_utc();
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    for seq in 1..=FRAMES {
        pace.tick().await;
        for session in 0..crowd.len() {
            let mut frame = crowd.frame(session, seq);
            let bad = BAD.contains(&seq) && session < 8;
            let number = f64::from(u32::try_from(session).unwrap());
            let base = if bad { 400.0 } else { 50.0 };
            frame.server.as_mut().unwrap().rtt_ms = Some(base + 3.0 * number + f64::from(seq as u32) / 8.0);
            for peer in &mut frame.peers {
                peer.can_listen = !(bad && session == 0);
                peer.video.as_mut().unwrap().freeze_count = Some(0);
            }
            relay.say(&frame).await;
        }
    }
    relay.settle().await;
    health.publish_as("again", &crowd.frame(3, 1)).await;
    health.publish_bytes(&format!("health.diagnostics.{REGION}.relay.relay-1"), vec![0xc1]).await;
    let to = OffsetDateTime::now_utc() + Duration::from_secs(1);
    wait::eventually(PATIENCE, "the window to be over", || {
        wait::when(OffsetDateTime::now_utc(), |now| *now > to).map(drop)
    });
    (begin, to)
}

/// What a frame of the JSON lines says.
struct Said {
    at: OffsetDateTime,
    session: String,
    meeting: String,
    rtt: f64,
    slow: bool,
    deaf: bool,
}

fn said(line: &Value) -> Said {
    let frame = &line["frame"];
    let rtt_ms = frame["server"]["rtt_ms"].as_f64().unwrap();
    let deaf = |peer: &Value| peer["audio_enabled"] == true && peer["can_listen"] == false;
    Said {
        at: OffsetDateTime::parse(line["time"].as_str().unwrap(), &Rfc3339).unwrap(),
        session: frame["session_id"].as_str().unwrap().to_owned(),
        meeting: frame["meeting_id"].as_str().unwrap().to_owned(),
        rtt: rtt_ms / 1e3,
        slow: rtt_ms > 300.0,
        deaf: frame["peers"].as_array().unwrap().iter().any(deaf),
    }
}

/// The figures that the page has for programs.
pub(crate) fn figures(page: &str) -> Value {
    let block = page.split_once("id=\"figures\">").unwrap().1.split_once("</script>").unwrap().0;
    serde_json::from_str(block).unwrap()
}

fn close(figure: &Value, expected: f64) -> bool {
    (figure.as_f64().unwrap() - expected).abs() < 1e-6
}

/// Compares the page's figures with the frames, step by step.
fn compare(figures: &Value, frames: &[Said]) {
    let mut bad_steps: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut most, mut compared) = (0, 0);
    for step in figures["all"]["steps"].as_array().unwrap() {
        let at = OffsetDateTime::parse(step["at"].as_str().unwrap(), &Rfc3339).unwrap();
        let mut last: BTreeMap<&str, &Said> = BTreeMap::new();
        for said in frames.iter().filter(|said| said.at <= at) {
            last.insert(&said.session, said);
        }
        let count = |is: &dyn Fn(&Said) -> bool| last.values().filter(|said| is(said)).count();
        let meetings = |is: &dyn Fn(&Said) -> bool| {
            last.values().filter(|said| is(said)).map(|said| &said.meeting).collect::<BTreeSet<_>>().len()
        };
        let any = |said: &Said| said.slow || said.deaf;
        let by = |rtt: usize, audio: usize, any: usize| json!({ "rtt": rtt, "audio": audio, "video": 0, "join": 0, "uplink": 0, "any": any });
        let sessions_by = by(count(&|said| said.slow), count(&|said| said.deaf), count(&any));
        let meetings_by = by(meetings(&|said| said.slow), meetings(&|said| said.deaf), meetings(&any));
        assert_eq!(step["sessions"], last.len(), "{step}");
        assert_eq!(step["meetings"], meetings(&|_| true), "{step}");
        assert_eq!(step["sessions_degraded"], sessions_by, "{step}");
        assert_eq!(step["meetings_degraded"], meetings_by, "{step}");
        let mut rtt: Vec<_> = last.values().map(|said| said.rtt).collect();
        rtt.sort_by(f64::total_cmp);
        if let Some(longest) = rtt.last() {
            // Of up to twenty sessions, p95 and p99 are the longest.
            let told = &step["rtt_seconds"];
            assert!(close(&told["p95"], *longest) && close(&told["p99"], *longest), "{step}");
            assert!(close(&told["p50"], rtt[rtt.len().div_ceil(2) - 1]), "{step}");
            compared += 1;
        }
        for said in last.values().filter(|said| any(said)) {
            *bad_steps.entry(&said.session).or_default() += 1;
        }
        most = most.max(count(&any));
    }
    assert!(compared >= 7, "{figures}");
    assert_eq!((&figures["peak"]["sessions_degraded"]["any"], most), (&json!(8), 8));

    let sessions = &figures["sessions"];
    let worst = sessions["worst"].as_array().unwrap();
    assert_eq!((worst.len(), &sessions["degraded"], &sessions["seen"]), (8, &json!(8), &json!(12)));
    for session in worst {
        let name = session["name"].as_str().unwrap();
        let of: Vec<_> = frames.iter().filter(|said| said.session == name).collect();
        let longest = of.iter().map(|said| said.rtt).fold(0.0, f64::max);
        assert!(close(&session["most_rtt_seconds"], longest), "{session}");
        assert_eq!(session["frames"], of.len(), "{session}");
        assert_eq!(session["steps_degraded"], bad_steps[name], "{session}");
    }
    // Only the first can't hear anybody: its pairs are bad, and the other sessions' are not.
    assert_eq!(figures["pairs"]["degraded"], 3);
    assert_eq!(figures["pairs"]["seen"], 36);
}

/// Has a browser show it by day, by night and on paper.
async fn look(path: &Path) {
    let browser = Browser::start();
    let page = browser.page(1280, 900).await;
    page.open(&format!("file://{}", path.display())).await;
    assert!(page.text("#sentence").await.starts_with("Region us was degraded (RTT)"));
    assert_eq!(
        page.evaluate("document.querySelectorAll('.charts > figure > svg.chart').length").await,
        json!(24)
    );
    let drawn = "[...document.querySelectorAll('svg.chart')].every(svg => svg.querySelector('path.line').getAttribute('d').length > 20)";
    assert_eq!(page.evaluate(drawn).await, json!(true));
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)").await;
    for width in [1280, 800] {
        page.resize(width, 900).await;
        let wide = page.evaluate("document.documentElement.scrollWidth - innerWidth").await;
        assert!(wide.as_i64().unwrap() <= 0, "{width}: {wide} pixels too wide");
    }
    let colours =
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color].join()";
    let mut seen = BTreeSet::new();
    for scheme in ["light", "dark"] {
        page.prefer(&[("prefers-color-scheme", scheme)]).await;
        seen.insert(page.evaluate(colours).await.as_str().unwrap().to_owned());
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let printed = page.pdf().await;
    assert!(printed.starts_with(b"%PDF-"));
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn a_report_says_what_the_frames_say() {
    let nats = Nats::start();
    let (from, to) = an_incident(&nats).await;
    let folder = temporary_directory();
    let [page, lines] = ["report.html", "frames.jsonl"].map(|name| folder.path().join(name));
    let (from, to) = (moment(from), moment(to));
    let files = [&page, &lines].map(|path| path.to_str().unwrap());
    let args = ["--from", &from, "--to", &to, "--step=1s", "--report", files[0], "--frames", files[1]];
    assert_eq!(replayed(&nats.url(), &args), "");

    let html = fs::read_to_string(&page).unwrap();
    let lines = fs::read_to_string(&lines).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |outcome: &str| lines.iter().filter(|line| line["outcome"] == outcome).collect::<Vec<_>>();
    let figures = figures(&html);
    let frames = &figures["frames"];
    assert_eq!(frames["messages"], lines.len());
    assert_eq!(frames["folded"], of("folded").len());
    assert_eq!((&frames["repeated"], of("repeated").len()), (&json!(1), 1));
    assert_eq!(frames["by_region"][0]["rejected"], json!({ "malformed": 1 }));
    compare(&figures, &of("folded").into_iter().map(said).collect::<Vec<_>>());
    assert_eq!(figures["verdict"]["state"], "bad");
    assert!(!figures["verdict"]["spell"]["ended"].is_null(), "{}", figures["verdict"]);
    look(&page).await;
}
