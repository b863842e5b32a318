//! What answers at green's address may be anything: it never takes over, and never makes a rollout
//! hang or grow.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::fleet::Fleet;
use super::stage::{compare, reasons, verdict};

/// The metrics of a good exporter with one session.
const GOOD: &str = "# HELP callsight_build_info The version.\n\
                    callsight_build_info{version=\"1.0.0\"} 1\n\
                    callsight_live_series{plane=\"session\"} 4\n\
                    videocall_sessions{region=\"us\",server_url=\"a\"} 10\n";

/// What a server answers to `/metrics`.
#[derive(Clone, Copy)]
enum Metrics {
    /// A body of the type of metrics.
    Page(fn() -> Vec<u8>),
    /// A whole answer.
    Raw(fn() -> Vec<u8>),
    /// The same piece again and again, with a pause between.
    Endless(&'static [u8], Duration),
}

/// Serves these metrics, and a good `/readyz` under any other path.
struct Server {
    url: String,
    _task: JoinSet<()>,
}

impl Server {
    async fn start(deployment: &'static str, metrics: Metrics) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(async move {
                    // The other side may hang up at any moment.
                    let _ = answer(connection, deployment, metrics).await;
                });
            }
        });
        Self { url, _task: task }
    }
}

async fn answer(connection: TcpStream, deployment: &str, metrics: Metrics) -> std::io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && connection.read_line(&mut head).await? > 0 {}
    let readiness = serde_json::json!({
        "ready": true, "deployment": deployment,
        "regions": [{"region": "us", "ready": true, "pending_frames": 0, "lag_seconds": 0.0, "live_sessions": 10}],
    });
    let ok =
        |kind: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n").into_bytes();
    let page = |kind: &str, body: Vec<u8>| {
        [ok(kind), format!("content-length: {}\r\n\r\n", body.len()).into_bytes(), body].concat()
    };
    let is_metrics = head.starts_with("GET /metrics ");
    let answer = match metrics {
        _ if !is_metrics => page("application/json", readiness.to_string().into_bytes()),
        Metrics::Page(body) => page("text/plain; version=0.0.4", body()),
        Metrics::Raw(answer) => answer(),
        Metrics::Endless(piece, pause) => {
            connection.write_all(&[ok("text/plain; version=0.0.4"), b"\r\n".to_vec()].concat()).await?;
            loop {
                connection.write_all(piece).await?;
                tokio::time::sleep(pause).await;
            }
        }
    };
    connection.write_all(&answer).await?;
    connection.shutdown().await
}

fn good() -> Vec<u8> {
    GOOD.into()
}

fn lines(of: fn(u32) -> String) -> Vec<u8> {
    (0..200_000).map(of).collect::<String>().into_bytes()
}

/// Ten thousand times as large as it looks.
fn gzip_bomb() -> Vec<u8> {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![b'#'; 1 << 20];
    (0..100).for_each(|_| bomb.write_all(&zeros).unwrap());
    let body = bomb.finish().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}

fn with(value: &str) -> Vec<u8> {
    GOOD.replace("} 10\n", &format!("}} {value}\n")).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_that_is_not_an_exporters_takes_over() {
    let blue = Server::start("blue", Metrics::Page(good)).await;
    let green = Server::start("green", Metrics::Page(good)).await;
    let (code, verdict_of_good) = verdict(&compare(&blue.url, &green.url, "60s", &["--json"]).await);
    assert_eq!((code, verdict_of_good["go"].as_bool()), (Some(0), Some(true)), "{verdict_of_good}");

    let cases: [(&str, Metrics, &str); 18] = [
        (
            "an endless comment",
            // So much at a time that a busy machine reaches the limit before the time is up.
            Metrics::Endless(&[b'#'; 1 << 16], Duration::ZERO),
            "line 1 is",
        ),
        (
            "endless comments",
            Metrics::Endless(b"# HELP a\n", Duration::from_millis(1)),
            "no answer within 10s",
        ),
        ("a slow drip", Metrics::Endless(b"#", Duration::from_millis(200)), "no answer within 10s"),
        ("a gzip bomb", Metrics::Raw(gzip_bomb), "line 1 is not a sample"),
        ("many names", Metrics::Page(|| lines(|number| format!("name_{number} 1\n"))), "one series too many"),
        (
            "many regions",
            Metrics::Page(|| lines(|number| format!("videocall_sessions{{region=\"{number}\"}} 1\n"))),
            "one series too many",
        ),
        (
            "many buckets",
            Metrics::Page(|| {
                lines(|le| format!("videocall_rtt_seconds_bucket{{region=\"us\",le=\"{le}\"}} 1\n"))
            }),
            "one series too many",
        ),
        (
            "many servers",
            Metrics::Page(|| {
                lines(|number| format!("videocall_sessions{{region=\"us\",server_url=\"{number}\"}} 1\n"))
            }),
            "sessions: green has 200,000, more than blue's 10",
        ),
        (
            "broken text",
            Metrics::Page(|| [GOOD, "videocall_sessions{region=\"us"].concat().into()),
            "line 5 is not",
        ),
        ("bytes", Metrics::Page(|| vec![0xff; 1000]), "line 1 is not a sample"),
        ("NaN", Metrics::Page(|| with("NaN")), "sessions: blue has 10, green NaN: they can't be compared"),
        (
            "infinity",
            Metrics::Page(|| with("1e999")),
            "sessions: blue has 10, green inf: they can't be compared",
        ),
        ("nothing", Metrics::Page(Vec::new), "sessions: green has 0, less than blue's 10"),
        ("a long line", Metrics::Page(|| vec![b'a'; 10 << 20]), "line 1 is not a sample"),
        (
            "a page for people",
            Metrics::Raw(|| {
                b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>".to_vec()
            }),
            "is it a callsight exporter?",
        ),
        (
            "a redirect",
            Metrics::Raw(|| b"HTTP/1.1 302 x\r\nlocation: /readyz\r\ncontent-length: 0\r\n\r\n".to_vec()),
            "green answers 302 to /metrics",
        ),
        (
            "a page that breaks off",
            Metrics::Raw(|| [b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", GOOD.as_bytes()].concat()),
            "green does not answer at",
        ),
        (
            "endless headers",
            Metrics::Raw(|| ["HTTP/1.1 200 OK\r\n", &"x-many: header\r\n".repeat(100_000)].concat().into()),
            "green does not answer at",
        ),
    ];
    let blue = &blue.url;
    let attacks = cases.map(|(what, metrics, expected)| async move {
        let green = Server::start("green", metrics).await;
        // One that takes its full time, and another that begins.
        let (code, verdict) = verdict(&compare(blue, &green.url, "18s", &["--json"]).await);
        assert_eq!((code, verdict["go"].as_bool()), (Some(1), Some(false)), "{what}: {verdict}");
        let reasons = reasons(&verdict);
        assert!(reasons.contains(expected), "{what}: {reasons}");
    });
    join_all(attacks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_that_is_too_long_does_not_take_over() {
    let blue = Server::start("blue", Metrics::Page(good)).await;
    let green = Server::start("g".repeat(1 << 20).leak(), Metrics::Page(good)).await;
    let (code, verdict) = verdict(&compare(&blue.url, &green.url, "5s", &["--json"]).await);
    assert_eq!((code, verdict["go"].as_bool()), (Some(1), Some(false)), "{verdict}");
    let reasons = reasons(&verdict);
    let expected = format!("green does not answer at {}: the answer is longer than 1048576 bytes", green.url);
    assert!(reasons.contains(&expected), "{reasons}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_a_monitoring_port_that_is_too_long_stops_a_rollout() {
    let fleet = Fleet::empty().await;
    let monitor = Server::start("g".repeat(4 << 20).leak(), Metrics::Page(good)).await;
    fleet.configure(&[(&fleet.nats.server("us").monitor_url(), &monitor.url)]);
    let deployed = fleet.deploy(&["--image-tag", "1.0.0"]).await;
    deployed.ended("stopped");
    let expected = format!(
        "no answer from the NATS server at {}: the answer is longer than 4194304 bytes; check the address",
        monitor.url
    );
    assert!(deployed.why().contains(&expected), "{}", deployed.why());
    assert_eq!(fleet.changing_calls(), [""; 0]);
}
