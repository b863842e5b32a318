//! What `getStats()` of real browsers has, and the frames that the browser client makes of it,
//! compared with the tables of `docs/frame.md`.
//!
//! Browsers differ in what they measure, and change with every version, so a table of statistics
//! rots unless it is compared with them. A page calls itself, and posts what both ends see.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callsight_frame::Frame;
use serde_json::Value;
use warp::Filter;
use warp::http::StatusCode;

use crate::kit::browser::Browser;
use crate::kit::firefox::Firefox;
use crate::kit::{media, wait, web};

const DOC: &str = include_str!("../../../docs/frame.md");

/// RTCP reports come every few seconds, and a browser starts slowly on a busy machine.
const CALL_WITHIN: Duration = Duration::from_secs(120);

/// Statistics that were seen so far, as `inbound-rtp.jitter`, and why the page gave up.
#[derive(Debug, Default)]
struct Seen {
    audio: BTreeSet<String>,
    video: BTreeSet<String>,
    /// Of what belongs to no kind of media, such as a candidate pair.
    other: BTreeSet<String>,
    /// The last frame, as JSON.
    frame: Value,
    failure: Option<String>,
}

impl Seen {
    fn add(&mut self, report: &Value) {
        for entry in report.as_array().unwrap() {
            let names = match entry["kind"].as_str() {
                Some("audio") => &mut self.audio,
                Some("video") => &mut self.video,
                _ => &mut self.other,
            };
            let kind = entry["type"].as_str().unwrap();
            names.extend(entry.as_object().unwrap().keys().map(|member| format!("{kind}.{member}")));
        }
    }

    fn has(&self, statistic: &Statistic) -> bool {
        let names = match statistic.kind {
            "Audio" => &self.audio,
            "Video" => &self.video,
            _ => {
                return [&self.audio, &self.video, &self.other]
                    .iter()
                    .any(|set| set.contains(statistic.name));
            }
        };
        names.contains(statistic.name)
    }
}

/// A statistic that the mapping names, under the heading of a map of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Statistic {
    kind: &'static str,
    name: &'static str,
}

/// The section of the specification from one heading to another.
fn section(from: &str, to: &str) -> &'static str {
    let after = DOC.split_once(from).unwrap_or_else(|| panic!("no {from}")).1;
    after.split_once(to).unwrap_or_else(|| panic!("no {to} after {from}")).0
}

/// The statistics in a text: code of the form `type.member`, with a type of the W3C's.
fn named(text: &'static str) -> impl Iterator<Item = &'static str> {
    const TYPES: [&str; 6] = [
        "candidate-pair",
        "inbound-rtp",
        "local-candidate",
        "outbound-rtp",
        "remote-inbound-rtp",
        "transport",
    ];
    let code = text.split('`').skip(1).step_by(2);
    code.filter(|code| code.split_once('.').is_some_and(|(kind, _)| TYPES.contains(&kind)))
}

/// Every statistic that the mapping names.
fn mapped() -> BTreeSet<Statistic> {
    let mapping = section("\n## From `getStats()`\n", "\n### What browsers lack\n");
    let mut parts = mapping.split("\n### ");
    let rules = parts.next().unwrap();
    let tables = parts.map(|part| part.split_once('\n').unwrap());
    std::iter::once(("", rules))
        .chain(tables)
        .flat_map(|(kind, text)| named(text).map(move |name| Statistic { kind, name }))
        .collect()
}

/// Whether the table of what browsers lack says that a version of a browser has a statistic.
fn documented(statistic: &str, column: usize, version: u32) -> bool {
    let cell = lacking().find(|row| row[0].trim_matches('`') == statistic).map(|row| row[column]);
    match cell {
        None | Some("yes") => true,
        Some("no") => false,
        Some(since) => version >= since.parse().unwrap_or_else(|_| panic!("{statistic:?}: {since}")),
    }
}

fn lacking() -> impl Iterator<Item = Vec<&'static str>> {
    let text = section("\n### What browsers lack\n", "\n## ");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
}

/// The fields of a map of the frame that a version of a browser can fill, by their table.
fn filled(kind: &str, column: usize, version: u32) -> BTreeSet<&'static str> {
    let mapping = section("\n## From `getStats()`\n", "\n### What browsers lack\n");
    let table = mapping.split("\n### ").find_map(|part| part.strip_prefix(kind)).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let fields = rows.flat_map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        let mut statistics = named(cells[1]).map(|name| documented(name, column, version)).peekable();
        // The session's round trip has a substitute; any other field needs all of its statistics.
        let known = statistics.peek().is_some()
            && if kind == "Session" { statistics.any(|known| known) } else { statistics.all(|known| known) };
        cells[0].split('`').skip(1).step_by(2).filter(move |_| known)
    });
    fields.collect()
}

/// Serves the page of a call, and collects the statistics and the frames that it posts.
async fn serve() -> (String, Arc<Mutex<Seen>>) {
    let seen = Arc::<Mutex<Seen>>::default();
    let post = |path, add: fn(&mut Seen, &[u8])| {
        let seen = Arc::clone(&seen);
        warp::post().and(path).and(warp::body::bytes()).map(move |body: bytes::Bytes| {
            add(&mut seen.lock().unwrap(), &body);
            StatusCode::NO_CONTENT
        })
    };
    let statistics = post(warp::path("statistics").boxed(), |seen, body| {
        seen.add(&serde_json::from_slice(body).unwrap());
    });
    let frames =
        post(warp::path("v1").and(warp::path("frames")).boxed(), |seen, body| match Frame::decode(body) {
            Ok(frame) => seen.frame = serde_json::to_value(&frame).unwrap(),
            Err(rejection) => seen.failure = Some(rejection.to_string()),
        });
    let failure = post(warp::path("failure").boxed(), |seen, body| {
        seen.failure = Some(String::from_utf8_lossy(body).into_owned());
    });
    let pages = web::pages(include_str!("call.html"));
    let url = web::serve(statistics.or(frames).or(failure).or(pages)).await;
    (url, seen)
}

/// Waits until a call has shown every documented statistic, then verifies that it has no other.
async fn compare(seen: &Mutex<Seen>, column: usize, version: u32) {
    let (present, absent): (Vec<_>, Vec<_>) =
        mapped().into_iter().partition(|statistic| documented(statistic.name, column, version));
    wait::eventually_async(CALL_WITHIN, "every statistic that the table promises", async || {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.failure, None);
        let missing: Vec<_> = present.iter().filter(|statistic| !seen.has(statistic)).collect();
        wait::when(missing, Vec::is_empty)
    })
    .await;
    for (kind, map) in [
        ("Audio", "/peers/0/audio"),
        ("Video", "/peers/0/video"),
        ("Video", "/peers/0/screen"),
        ("Send", "/send"),
    ] {
        let expected = filled(kind, column, version);
        assert!(expected.len() > 5, "{kind}: {expected:?}");
        wait::eventually_async(CALL_WITHIN, &format!("{map} to have {expected:?}"), async || {
            let seen = seen.lock().unwrap();
            assert_eq!(seen.failure, None);
            let fields = seen.frame.pointer(map).and_then(Value::as_object).cloned().unwrap_or_default();
            let fields: BTreeSet<_> = fields.keys().cloned().collect();
            wait::when(fields, |fields| fields.iter().map(String::as_str).eq(expected.iter().copied()))
        })
        .await;
    }
    let seen = seen.lock().unwrap();
    for field in filled("Session", column, version) {
        let pointer = format!("/{}", field.replace('.', "/"));
        assert!(seen.frame.pointer(&pointer).is_some(), "{field} of {}", seen.frame);
    }
    let peer = &seen.frame["peers"][0];
    assert_eq!((&peer["can_listen"], &peer["can_see"]), (&true.into(), &true.into()), "{peer}");
    assert_eq!(seen.frame["join"]["state"], "joined");
    let surprising: Vec<_> = absent.iter().filter(|statistic| seen.has(statistic)).collect();
    assert!(surprising.is_empty(), "version {version} has what the table says it lacks: {surprising:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_has_the_statistics_that_the_mapping_names() {
    let _turn = media::turn().await;
    let (url, seen) = serve().await;
    let browser = Browser::start_with(web::CALLING);
    let version = browser.version().await;
    let page = browser.page(640, 480).await;
    page.open(&url).await;
    compare(&seen, 1, version).await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firefox_has_the_statistics_that_the_mapping_names() {
    let _turn = media::turn().await;
    let (url, seen) = serve().await;
    let _browser = Firefox::open(&url);
    compare(&seen, 2, Firefox::version()).await;
}

#[test]
fn every_statistic_that_a_browser_lacks_is_one_of_the_mapping() {
    let mapped: BTreeSet<_> = mapped().into_iter().map(|statistic| statistic.name).collect();
    assert!(mapped.len() > 30, "{mapped:?}");
    for row in lacking() {
        assert!(mapped.contains(row[0].trim_matches('`')), "{row:?}");
        assert_eq!(row.len(), 5, "{row:?}");
        assert!(row[1..4].iter().any(|cell| *cell != "yes"), "no browser lacks it: {row:?}");
    }
}
