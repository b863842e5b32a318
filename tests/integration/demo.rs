//! `callsight demo` shows everything at work, and leaves nothing behind.

mod call;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Mutex;

use crate::ingest::client::send;
use crate::kit::callsight::Callsight;
use crate::kit::http;
use crate::kit::process::{self, Process};
use crate::kit::scrape::Scrape;
use crate::kit::supercluster::SETTLED_WITHIN;
use crate::kit::wait::{self, PATIENCE};

/// Demos take the usual ports where they are free, so that two that start at once may want the
/// same.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The processes that this one has started, by number, with their names.
fn children(process: &Process) -> BTreeSet<(u32, String)> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let number: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        // `number (name) state parent …`, of a process that may have ended meanwhile.
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let parent: u32 = rest.split(' ').nth(1)?.parse().ok()?;
        (parent == process.id()).then(|| (number, name.to_owned()))
    });
    entries.collect()
}

/// Waits until both servers run, and tells their numbers.
fn servers(demo: &Process) -> BTreeSet<u32> {
    servers_with(demo, 1)
}

/// Waits until so many servers of NATS run and Prometheus does, and tells their numbers.
fn servers_with(demo: &Process, nats: usize) -> BTreeSet<u32> {
    let started = wait::eventually(SETTLED_WITHIN, "all servers", || {
        wait::when(children(demo), |children| {
            let count = |name: &str| children.iter().filter(|(_, child)| child == name).count();
            count("nats-server") == nats && count("prometheus") == 1
        })
    });
    started.into_iter().map(|(number, _)| number).collect()
}

fn assert_gone(servers: &BTreeSet<u32>) {
    for number in servers {
        assert!(!Path::new(&format!("/proc/{number}")).exists(), "process {number} has been left behind");
    }
}

/// The address on the line that begins so.
fn address<'a>(output: &'a str, name: &str) -> Option<&'a str> {
    output.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Waits until the demo says where its metrics are.
fn metrics_address(demo: &Process) -> String {
    wait::eventually(PATIENCE, "the address of the metrics", || {
        let output = demo.output();
        address(&output, "metrics ").map(str::to_owned).ok_or(output)
    })
}

/// Asserts that the demo's last words are about frames, all acknowledged.
#[track_caller]
fn assert_all_acknowledged(output: &str) {
    let account =
        output.lines().find(|line| line.starts_with("stopped: ")).unwrap_or_else(|| panic!("{output}"));
    let numbers: Vec<u64> = account.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(
        matches!(numbers[..], [published, acknowledged] if published == acknowledged && published > 40),
        "{account}"
    );
}

/// Sends the request of the command that the demo shows, with the arguments that a shell makes of
/// it, and asserts that a part of the clients sends to every ingest as well.
async fn assert_frame_is_taken(demo: &Process) {
    let command = wait::eventually(PATIENCE, "the command", || {
        let output = demo.output();
        let command = output.split_once("\n  curl ").and_then(|(_, rest)| rest.split_once("\n\n"));
        command.map(|(command, _)| command.to_owned()).ok_or_else(|| output.clone())
    });
    let script = format!("printf '%s\\n' {command}");
    let words = process::run(Command::new("bash").args(["-c", &script]), "", PATIENCE);
    let words = String::from_utf8(words.stdout).unwrap();
    let words: Vec<_> = words.lines().collect();
    let ["-i", url, "-H", token, "-H", kind, "--data-binary", body] = words[..] else { panic!("{words:?}") };
    let (target, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let headers: Vec<_> = [token, kind].into_iter().filter_map(|header| header.split_once(": ")).collect();
    let answer = send(target, "POST", &format!("/{path}"), &headers, body.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 204, "{command}: {}", answer.text());

    let output = demo.output();
    let ingests = address(&output, "ingest ").unwrap();
    let ingests: Vec<_> = ingests.split_whitespace().filter(|word| word.starts_with("http://")).collect();
    assert_eq!(ingests.len(), 2, "one for each region: {output}");
    for ingest in ingests {
        wait::eventually_async(PATIENCE, "frames of clients", async || {
            let page = http::get(&format!("{ingest}/metrics"), &[]).await?;
            let stored = ("outcome", "stored");
            let stored = Scrape::parse(page.text()).sum("callsight_ingest_frames_total", &[stored]);
            wait::when(stored, |stored| *stored > 3.0).map_err(|stored| format!("{stored} at {ingest}"))
        })
        .await;
    }
}

#[tokio::test]
async fn the_demo_shows_calls_and_cleans_up() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut demo = Callsight::spawn(&["demo", "--duration=8s", "--sessions=40", "--seed=7"]);
    let servers = servers(&demo);
    let metrics = metrics_address(&demo);
    assert_frame_is_taken(&demo).await;
    wait::eventually_async(PATIENCE, "sessions in the metrics", async || {
        let page = http::get(&metrics, &[]).await?;
        wait::when(page.text().contains("\nvideocall_session_rtt_seconds{"), |there| *there)
            .map_err(|_| page.text().to_owned())
    })
    .await;
    let status = demo.ended(PATIENCE);
    let output = demo.output();
    assert!(status.success(), "{output}");
    assert_gone(&servers);

    for (name, scheme) in [
        ("Callsight ", "http://"),
        ("metrics ", "http://"),
        ("Prometheus ", "http://"),
        ("alerts ", "http://"),
        ("ingest ", "http://"),
        ("NATS ", "nats://"),
    ] {
        assert!(
            address(&output, name).is_some_and(|address| address.starts_with(scheme)),
            "{name}: {output}"
        );
    }
    let sessions: Vec<u32> = output
        .lines()
        .filter(|line| line.starts_with("RTT p50 ") && line.contains(" lag "))
        .filter_map(|line| line.split_once(" sessions")?.1.split_whitespace().next()?.parse().ok())
        .collect();
    // Some leave, and some come.
    assert!(sessions.iter().any(|sessions| (30..=50).contains(sessions)), "{output}");
    assert_all_acknowledged(&output);
}

#[tokio::test]
async fn the_demo_stops_when_told_to() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut demo = Callsight::spawn(&["demo", "--sessions=10", "--client=videocall"]);
    let servers = servers(&demo);
    wait::eventually(PATIENCE, "a live line", || {
        wait::when(demo.output(), |output| output.contains("\nRTT p50 ")).map(drop)
    });
    assert!(demo.terminate(Duration::from_secs(10)).success(), "{}", demo.output());
    assert_gone(&servers);
    let output = demo.output();
    let account = output.lines().find(|line| line.starts_with("stopped: ")).unwrap();
    assert!(account.ends_with(" frames published, 0 acknowledged"), "nobody acknowledges packets: {account}");
}

/// How many frames the mirror is behind on each live line that tells it.
fn behind(output: &str) -> Vec<u64> {
    let told =
        output.lines().filter_map(|line| line.split_once("mirror of apac behind by ")?.1.split_once(','));
    told.filter_map(|(frames, _)| frames.parse().ok()).collect()
}

#[tokio::test]
async fn a_bridge_that_is_cut_is_shown_to_fall_behind_and_catch_up() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut demo = Callsight::spawn(&[
        "demo",
        "--regions=us,apac",
        "--cut=apac",
        "--cut-after=8s",
        "--cut-for=12s",
        "--sessions=40",
    ]);
    let servers = servers_with(&demo, 3);
    let metrics = metrics_address(&demo);
    let lag = async |what: &str, condition: fn(&[f64; 2]) -> bool| {
        wait::eventually_async(SETTLED_WITHIN, what, async || {
            let page = http::get(&metrics, &[]).await?;
            let scrape = Scrape::parse(page.text());
            let lag = ["callsight_mirror_lag_seconds", "callsight_mirror_lag_frames"]
                .map(|name| scrape.value(name, &[("region", "apac")]).unwrap_or(f64::NAN));
            let seen = condition(&lag) && scrape.any("videocall_sessions", &[("region", "us")]);
            if seen { Ok(()) } else { Err(format!("{lag:?}")) }
        })
        .await;
    };
    lag("the mirror to be up to date", |[seconds, frames]| *seconds < 4.0 && *frames == 0.0).await;
    assert_frame_is_taken(&demo).await;
    lag("the mirror to hear nothing", |[seconds, _]| *seconds > 8.0).await;
    lag("the mirror to have caught up", |[seconds, frames]| *seconds < 4.0 && *frames == 0.0).await;
    // The live line told the same story, to its end.
    let told = wait::eventually(PATIENCE, "the live line to say that it has caught up", || {
        wait::when(behind(&demo.output()), |told| told.last().is_some_and(|frames| *frames < 5))
    });
    assert!(told.iter().any(|frames| *frames > 20), "{told:?}");
    assert!(demo.output().contains(", LINK CUT\n"), "{}", demo.output());

    assert!(demo.terminate(PATIENCE).success(), "{}", demo.output());
    assert_gone(&servers);
    assert_all_acknowledged(&demo.output());
}

/// The server processes of a region among the children, by their configuration.
fn servers_of(region: &str, children: &BTreeSet<u32>) -> Vec<Pid> {
    let config = format!("/{region}.conf");
    let of_region = children.iter().filter(|number| {
        let line = fs::read_to_string(format!("/proc/{number}/cmdline")).unwrap_or_default();
        line.trim_end_matches('\0').ends_with(&config)
    });
    of_region.map(|number| Pid::from_raw(i32::try_from(*number).unwrap()).unwrap()).collect()
}

#[tokio::test]
async fn with_three_servers_a_region_loses_one_and_nothing_else() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut demo = Callsight::spawn(&["demo", "--regions=us,apac", "--servers=3", "--sessions=40"]);
    let servers = servers_with(&demo, 7);
    let metrics = metrics_address(&demo);
    let ready = metrics.replace("/metrics", "/readyz");
    let folded = async || {
        let page = http::get(&metrics, &[]).await?;
        let scrape = Scrape::parse(page.text());
        Ok::<_, String>(
            ["us", "apac"].map(|region| scrape.sum("callsight_frames_folded_total", &[("region", region)])),
        )
    };
    let goes_on = async |what: &str| {
        let before = wait::eventually_async(SETTLED_WITHIN, what, &folded).await;
        wait::eventually_async(SETTLED_WITHIN, what, async || {
            let now = folded().await?;
            let answer = http::get(&ready, &[]).await?;
            let good =
                answer.status == 200 && now.iter().zip(before).all(|(now, before)| *now > before + 20.0);
            if good { Ok(()) } else { Err(format!("{before:?}, then {now:?}: {}", answer.text())) }
        })
        .await;
    };
    goes_on("frames of both regions").await;

    // Every stream is on three servers, of which the demo names all.
    let output = demo.output();
    let hub = address(&output, "NATS ").unwrap();
    assert_eq!(hub.matches("nats://").count(), 3, "{output}");
    let first = hub.split_whitespace().find(|word| word.starts_with("nats://")).unwrap();
    let operator = async_nats::ConnectOptions::with_user_and_password("operator".into(), "operator".into())
        .custom_inbox_prefix("_INBOX.operator")
        .connect(first)
        .await
        .unwrap();
    let jetstream = async_nats::jetstream::new(operator);
    for stream in ["HEALTH_US", "HEALTH_APAC", "HEALTH_APAC_MIRROR", "HEALTH_APAC_DLQ"] {
        let stream = jetstream.get_stream(stream).await.unwrap();
        assert_eq!(stream.cached_info().config.num_replicas, 3, "{stream:?}");
    }

    for region in ["us", "apac"] {
        let members = servers_of(region, &servers);
        assert_eq!(members.len(), 3, "{region}");
        kill_process(members[0], Signal::KILL).unwrap();
    }
    goes_on("frames of both regions without a server each").await;

    assert!(demo.terminate(PATIENCE).success(), "{}", demo.output());
    assert_gone(&servers);
    assert_all_acknowledged(&demo.output());
}
