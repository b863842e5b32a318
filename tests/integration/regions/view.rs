//! A region whose view is cut off: what probes, metrics, the API and the page claim of it, and how
//! long.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use callsight::topology::{
    Deployment, consumer_config, dead_letter_stream_config, mirror_config, placed, stream_config,
};
use callsight_frame::subject::Region;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::interval;

use crate::kit::browser::Browser;
use crate::kit::callsight::Callsight;
use crate::kit::nats::Nats;
use crate::kit::process::{Process, temporary_directory};
use crate::kit::proxy::Proxy;
use crate::kit::supercluster::{SETTLED_WITHIN, SuperCluster};
use crate::kit::tool;
use crate::kit::wait::{self, PATIENCE};

/// The exporter that reads all regions, as `jetstream/permissions` has it.
const GLOBAL: [&str; 5] = [
    "--deployment=global",
    "--nats-inbox-prefix=_INBOX.global",
    "--region=us,apac",
    "--home=us",
    "--idle-timeout=10s",
];

const SESSIONS: u64 = 20;

/// How long anything may be claimed about a region that is cut off, with half as much again for a
/// busy machine.
const SEEN_WITHIN: Duration = Duration::from_secs(15);

/// Calls in one region until it is dropped, or killed as if its relays had crashed.
fn calls(url: &str, region: &str) -> Process {
    Callsight::spawn(&[
        "simulate",
        "--nats-url",
        url,
        &format!("--region={region}"),
        &format!("--sessions={SESSIONS}"),
        "--interval=1s",
    ])
}

/// Both regions with calls, the mirror, and an exporter that reads it.
struct Scene {
    cluster: SuperCluster,
    operator: Context,
    exporter: Callsight,
    _calls: [Process; 2],
}

impl Scene {
    async fn start() -> Self {
        let cluster = SuperCluster::start().await;
        let operator = cluster.jetstream("us", "operator").await;
        let [us, apac]: [Region; 2] = ["us", "apac"].map(|region| region.parse().unwrap());
        for (config, durable) in [
            (placed(stream_config(&us, 1), &us), true),
            (placed(stream_config(&apac, 1), &apac), true),
            (placed(dead_letter_stream_config(&apac, 1), &apac), false),
            (placed(mirror_config(&apac, 1), &us), true),
        ] {
            let name = config.name.clone();
            operator.create_stream(config).await.unwrap();
            if durable {
                let deployment: Deployment = "global".parse().unwrap();
                let config = consumer_config(&deployment, OffsetDateTime::UNIX_EPOCH);
                operator.create_consumer_on_stream(config, &name).await.unwrap();
            }
        }
        let calls = ["us", "apac"].map(|region| calls(&cluster.url(region, "relay"), region));
        let mut exporter = Callsight::serve_at(&cluster.url("us", "global"), &GLOBAL);
        exporter.ready().await;
        let scene = Self { cluster, operator, exporter, _calls: calls };
        good(&scene.exporter, SESSIONS * 2).await;
        scene
    }

    /// Waits until the mirror has taken a frame that it did not have.
    async fn mirror_moves(&self, from: u64) {
        wait::eventually_async(SETTLED_WITHIN, "the mirror to follow", async || {
            wait::when(self.last_sequence("HEALTH_APAC_MIRROR").await, |last| *last > from)
        })
        .await;
    }

    async fn last_sequence(&self, stream: &str) -> u64 {
        self.operator.get_stream(stream).await.unwrap().cached_info().state.last_sequence
    }
}

async fn triage(exporter: &Callsight) -> Value {
    serde_json::from_slice(&exporter.get("/api/triage").await.body).unwrap_or_default()
}

/// `/readyz` of a region, with its status.
async fn readiness(exporter: &Callsight, region: &str) -> (u16, Value) {
    let answer = exporter.get("/readyz").await;
    let mut json: Value = serde_json::from_slice(&answer.body).unwrap();
    let regions = json["regions"].as_array_mut().unwrap();
    (answer.status, regions.iter_mut().find(|one| one["region"] == region).unwrap().take())
}

async fn good(exporter: &Callsight, sessions: u64) {
    let what = format!("{sessions} sessions");
    wait::eventually_async(SETTLED_WITHIN, &what, async || {
        let answer = triage(exporter).await;
        let seen = answer["verdict"]["sentence"].to_string();
        let there = answer["all"]["sessions"] == sessions && seen.contains("Good: ");
        if there { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// Waits until nothing is claimed about a region any more, and says how long that took and why.
async fn cut_off(exporter: &Callsight, region: &str, reasons: &[&str]) -> Value {
    let began = Instant::now();
    let report = wait::eventually_async(SEEN_WITHIN, "the region not to be ready", async || {
        wait::when(readiness(exporter, region).await, |(status, _)| *status == 503)
    })
    .await
    .1;
    let not_ready = began.elapsed();
    assert!(reasons.contains(&report["reason"].as_str().unwrap()), "{report}");
    assert!(report["since"].is_string() && report["lag_seconds"].as_f64() > Some(0.0), "{report}");
    let scrape = exporter.metrics().await;
    assert_eq!(scrape.value("callsight_ready", &[("region", region)]), Some(0.0));
    wait::eventually_async(SEEN_WITHIN, "the page to say that it can't tell", async || {
        let answer = triage(exporter).await;
        let regions = answer["regions"].as_array().cloned().unwrap_or_default();
        let own = regions.iter().find(|one| one["region"] == region).cloned().unwrap_or_default();
        let sentence = answer["verdict"]["sentence"].as_str().unwrap_or_default().to_owned();
        wait::when((own["state"].clone(), sentence), |(state, sentence)| {
            *state == "unknown" && sentence.starts_with(&format!("Can't tell for {region} since "))
        })
    })
    .await;
    let shown = began.elapsed();
    #[expect(clippy::print_stderr, reason = "a measurement, shown by --nocapture")]
    {
        eprintln!(
            "{region} cut off: not ready after {not_ready:.1?}, shown after {shown:.1?}: {}",
            report["why"]
        );
    }
    report
}

/// Waits until everything is ready again.
async fn back(exporter: &Callsight, what: &str) {
    let began = Instant::now();
    wait::eventually_async(SETTLED_WITHIN, "all to be ready again", async || {
        let answer = exporter.get("/readyz").await;
        wait::when(answer.status, |status| *status == 200).map_err(|_| answer.text().to_owned())
    })
    .await;
    #[expect(clippy::print_stderr, reason = "a measurement, shown by --nocapture")]
    {
        eprintln!("{what}: ready again after {:.1?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_region_that_is_dead_or_frozen_is_unknown_through_mirror_and_gateway() {
    let mut scene = Scene::start().await;
    let args = ["--deployment=global", GLOBAL[1], "--region=apac", "--home=us", "--via-gateway"];
    let mut through = Callsight::serve_at(&scene.cluster.url("us", "global"), &args);
    through.ready().await;
    good(&through, SESSIONS).await;
    let browser = Browser::start();
    let page = browser.page(1366, 768).await;
    page.open(&format!("{}/", scene.exporter.url())).await;
    page.until("document.body.dataset.fresh === 'live'").await;

    for frozen in [true, false] {
        if frozen {
            scene.cluster.server("apac").stop();
        } else {
            scene.cluster.server_mut("apac").kill9();
        }
        let report = cut_off(&scene.exporter, "apac", &["mirror_unheard"]).await;
        assert_eq!(report["why"], "the mirror does not hear from its region");
        cut_off(&through, "apac", &["unanswered"]).await;
        assert_eq!(readiness(&scene.exporter, "us").await.1["ready"], true);

        // The page greys what is old, and nothing else.
        page.until("document.querySelector('h1').textContent.startsWith(\"Can't tell for apac since \")")
            .await;
        page.until("document.body.dataset.fresh === 'partly'").await;
        assert_eq!(page.text("#fresh-word").await, "Partly old");
        let old =
            "[...document.querySelectorAll('#regions tbody tr')].map(row => row.classList.contains('old'))";
        assert_eq!(page.evaluate(old).await, json!([false, true]));
        let notes = page.text("#notes").await;
        assert!(
            notes.starts_with("apac since ") && notes.ends_with(report["why"].as_str().unwrap()),
            "{notes}"
        );
        assert_eq!(page.text("#pipeline tbody tr:nth-child(2) td").await, "lost");
        assert_eq!(page.complaints(), Vec::<String>::new());

        // Its sessions fall idle by themselves, which says nothing about them.
        scene
            .exporter
            .metrics_when(PATIENCE, "the sessions to be idle", |scrape| {
                wait::when(scrape.sum("videocall_sessions", &[("region", "apac")]), |live| *live < 0.5)
            })
            .await;
        let region = triage(&scene.exporter).await["regions"][1].clone();
        assert_eq!(region["state"], "unknown");
        // Whoever comes back under a new session is missing for a moment, or counts twice for a
        // while.
        let last_known = region["sessions"].as_u64().unwrap();
        assert!((SESSIONS - 3..SESSIONS + 5).contains(&last_known), "{region}");

        let last = scene.last_sequence("HEALTH_APAC_MIRROR").await;
        if frozen {
            scene.cluster.server("apac").cont();
        } else {
            scene.cluster.server_mut("apac").restart();
        }
        back(&through, "through the gateway, since the server's return").await;
        scene.mirror_moves(last).await;
        back(&scene.exporter, "from the mirror, since it moves").await;
        page.until("document.body.dataset.fresh === 'live'").await;
        good(&scene.exporter, SESSIONS * 2).await;
    }
}

/// Copies the files of a server that is down.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_mirror_whose_origin_was_set_back_is_said_to_be_wrong_until_it_is_remade() {
    let mut scene = Scene::start().await;
    let backup = temporary_directory();
    let apac = scene.cluster.server_mut("apac");
    apac.terminate();
    copy(&apac.store().join("jetstream"), backup.path());
    apac.restart();
    let before = scene.last_sequence("HEALTH_APAC_MIRROR").await;
    scene.mirror_moves(before + 40 * SESSIONS).await;

    let apac = scene.cluster.server_mut("apac");
    apac.terminate();
    let store = apac.store().join("jetstream");
    fs::remove_dir_all(&store).unwrap();
    copy(backup.path(), &store);
    apac.restart();
    let report = wait::eventually_async(SETTLED_WITHIN, "the mirror to be said to be wrong", async || {
        wait::when(readiness(&scene.exporter, "apac").await.1, |report| report["reason"] == "mirror_diverged")
    })
    .await;
    assert!(report["why"].as_str().unwrap().contains("set back to sequence"), "{report}");
    cut_off(&scene.exporter, "apac", &["mirror_diverged"]).await;

    // As docs/topology.md says: the mirror first, its durables once it has everything.
    scene.operator.delete_stream("HEALTH_APAC_MIRROR").await.unwrap();
    let streams = temporary_directory();
    copy(&tool::root().join("jetstream/streams"), &streams.path().join("streams"));
    for folder in [streams.path().to_owned(), tool::root().join("jetstream")] {
        let output = Callsight::run(&[
            "streams",
            "apply",
            "--replicas=1",
            &format!("--dir={}", folder.display()),
            &format!("--nats-url={}", scene.cluster.url("us", "operator")),
        ]);
        assert!(output.status.success(), "{output:?}");
        let last = scene.last_sequence("HEALTH_APAC").await;
        scene.mirror_moves(last).await;
    }
    back(&scene.exporter, "the mirror remade").await;
    good(&scene.exporter, SESSIONS * 2).await;
}

#[tokio::test]
async fn without_nats_nothing_is_claimed() {
    let mut nats = Nats::start();
    let link = Proxy::to(nats.port()).await;
    let mut exporter = Callsight::serve_at(&link.url(), &["--create", "--ready-max-lag=1h"]);
    exporter.ready().await;
    let _calls = calls(&nats.url(), "us");
    good(&exporter, SESSIONS).await;
    let browser = Browser::start();
    let page = browser.page(1366, 768).await;
    page.open(&format!("{}/", exporter.url())).await;
    page.until("document.body.dataset.fresh === 'live'").await;

    for fault in ["killed", "stalled", "lost"] {
        match fault {
            "killed" => nats.kill9(),
            "stalled" => link.stall(),
            _ => link.lose(),
        }
        cut_off(&exporter, "us", &["disconnected", "unanswered"]).await;
        page.until("document.body.dataset.fresh === 'old'").await;
        let grey = "[document.querySelector('#numbers').className, document.querySelector('#regions tr.old') !== null]";
        assert_eq!(page.evaluate(grey).await, json!(["old", true]));
        assert!(page.text("#notes").await.contains("NATS does not answer"));
        // As long as it lasts, and whatever is tried meanwhile.
        let mut looks = interval(Duration::from_millis(500));
        for _ in 0..16 {
            looks.tick().await;
            let (status, report) = readiness(&exporter, "us").await;
            assert_eq!(status, 503);
            assert!(report["why"].as_str().unwrap().starts_with("NATS does not answer"), "{report}");
            let sentence = triage(&exporter).await["verdict"]["sentence"].to_string();
            assert!(sentence.contains("Can't tell for us since "), "{sentence}");
        }
        match fault {
            "killed" => nats.restart(),
            "stalled" => link.resume(),
            _ => link.cut(),
        }
        back(&exporter, fault).await;
        page.until("document.body.dataset.fresh === 'live'").await;
        good(&exporter, SESSIONS).await;
    }
}

#[tokio::test]
async fn a_stream_that_stands_still_is_not_the_end_of_all_calls() {
    let nats = Nats::start();
    let mut exporter = Callsight::serve(&nats, &["--create"]);
    exporter.ready().await;
    let mut calls_of = calls(&nats.url(), "us");
    good(&exporter, SESSIONS).await;
    calls_of.kill9();
    let still = wait::eventually_async(PATIENCE, "the page to say that nothing comes", async || {
        wait::when(triage(&exporter).await, |answer| answer["verdict"]["state"] == "silent")
            .map_err(|answer| answer["verdict"]["sentence"].clone())
    })
    .await;
    let says = format!("when {SESSIONS} sessions were live: calls ended all at once, or nothing is stored");
    let sentence = still["verdict"]["sentence"].as_str().unwrap();
    assert!(
        sentence.starts_with("Silent: no frame from us since ") && sentence.ends_with(&says),
        "{sentence}"
    );
    let (status, report) = readiness(&exporter, "us").await;
    assert_eq!(status, 200, "nothing newer is there");
    assert!(report["warning"].as_str().unwrap().ends_with(&says), "{report}");
    // Sessions fall idle, and it still says so.
    wait::eventually_async(SETTLED_WITHIN, "all sessions to be idle", async || {
        wait::when(triage(&exporter).await["all"]["sessions"].take(), |sessions| *sessions == 0)
    })
    .await;
    assert!(triage(&exporter).await["verdict"]["sentence"].as_str().unwrap().ends_with(&says));

    // Calls that do end say so.
    let mut calls_of = calls(&nats.url(), "us");
    good(&exporter, SESSIONS).await;
    assert!(calls_of.terminate(PATIENCE).success());
    let ended = wait::eventually_async(PATIENCE, "all sessions to have ended", async || {
        wait::when(triage(&exporter).await, |answer| answer["all"]["sessions"] == 0)
            .map_err(|answer| answer["verdict"]["sentence"].clone())
    })
    .await;
    let sentence = ended["verdict"]["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("Silent: no sessions in us, where "), "{sentence}");
    assert_eq!(readiness(&exporter, "us").await.1["warning"], Value::Null);
}
