//! Many connections at the HTTP port cost little and lock nobody out.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::kit::callsight::Callsight;
use crate::kit::certificates::Authority;
use crate::kit::frames::frame;
use crate::kit::nats::Nats;
use crate::kit::stream::Health;
use crate::kit::wait;

/// The open files of the largest crowd, and of the tests that run beside it.
const OPEN_FILES: u64 = 4096;

/// The deadline for headers and handshakes, and some slack for a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);
const SLACK: Duration = Duration::from_secs(10);

async fn exporter(extra: &[&str]) -> (Nats, Callsight) {
    let nats = Nats::start();
    let mut callsight = Callsight::serve(&nats, &[extra, &["--create"]].concat());
    callsight.ready().await;
    (nats, callsight)
}

/// Raises this process's soft limit of open files to what a crowd needs.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < OPEN_FILES) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_FILES), ..limit }).unwrap_or_else(|error| {
            panic!("the test needs {OPEN_FILES} open files, raise the hard limit (ulimit -Hn): {error}")
        });
    }
}

/// The soft and the hard limit of open files of a process.
fn open_files(process: u32) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut limits = line.split_whitespace().map(str::to_owned);
    (limits.next().unwrap(), limits.next().unwrap())
}

async fn connect(callsight: &Callsight) -> TcpStream {
    TcpStream::connect(callsight.target()).await.unwrap()
}

/// Everything that the other side sends until it closes, which it must do in time.
async fn until_closed(stream: &mut TcpStream, within: Duration) -> String {
    let mut answer = Vec::new();
    let read = timeout(within, stream.read_to_end(&mut answer)).await;
    // A connection that is reset is closed too.
    let _ = read.expect("the connection is still open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_exporter_raises_its_limit_of_open_files_and_logs_it() {
    let (_nats, callsight) = exporter(&[]).await;
    let (soft, hard) = open_files(callsight.process().id());
    assert_eq!(soft, hard);
    let log = callsight.process().output();
    assert!(hard == "unlimited" || log.contains(&format!("open_files={hard}")), "{log}");
}

#[tokio::test]
async fn a_thousand_silent_connections_keep_no_scraper_out() {
    allow_open_files();
    let (_nats, callsight) = exporter(&[]).await;
    let mut crowd = Vec::new();
    let began = Instant::now();
    for number in 0..1000 {
        let mut stream = connect(&callsight).await;
        if number % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        }
        crowd.push(stream);
        if number % 100 == 99 {
            let asked = Instant::now();
            callsight.metrics().await;
            assert!(asked.elapsed() < Duration::from_secs(2), "a scrape took {:?}", asked.elapsed());
        }
    }
    // The first of them has not met its deadline yet, so it was not the deadline that made room.
    assert!(began.elapsed() < DEADLINE, "the crowd took {:?} to gather", began.elapsed());
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", callsight.process().id())).unwrap().count();
    // A connection is closed shortly after it was replaced.
    wait::eventually(DEADLINE, "the crowd to be held to 256", || wait::when(fds(), |&fds| fds < 256 + 64));

    // In the end all of them are closed.
    wait::eventually(DEADLINE + SLACK, "the crowd to be gone", || wait::when(fds(), |&fds| fds < 64));
}

const LARGE: &[&str] = &["--max-series", "500000", "--idle-timeout", "5m"];

/// Makes a page of many megabytes, more than the sockets' buffers hold.
async fn large_page(nats: &Nats, callsight: &Callsight) -> Health {
    let health = Health::at(nats).await;
    let peers: Vec<String> = (0..200).map(|number| format!("peer-{number}")).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    for number in 0..45 {
        health.publish(&frame(&format!("s{number}"), 1, &peers)).await;
    }
    folded(callsight, 45.0).await;
    health
}

async fn folded(callsight: &Callsight, frames: f64) {
    callsight
        .metrics_when(wait::PATIENCE, "the frames to be folded", |scrape| {
            let folded = scrape.sum("callsight_frames_folded_total", &[]);
            wait::when(folded, |folded| *folded == frames).map(drop)
        })
        .await;
}

/// The attack: eight readers that never read took all turns, and an honest scraper got 503.
#[tokio::test]
async fn scrapers_that_never_read_keep_no_other_out() {
    let (nats, callsight) = exporter(LARGE).await;
    large_page(&nats, &callsight).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(&callsight).await;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        silent.push(stream);
    }
    for stream in silent.iter_mut().take(4) {
        let mut status = [0; 15];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200 OK");
    }
    callsight.metrics().await;
    let log = callsight.process().output();
    assert!(log.contains("the scraper reads slowly while others wait"), "{log}");
}

#[tokio::test]
async fn a_scraper_that_stops_reading_holds_nothing_up_and_is_given_up() {
    let (nats, callsight) = exporter(LARGE).await;
    let health = large_page(&nats, &callsight).await;
    let mut slow = connect(&callsight).await;
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut status = [0; 15];
    slow.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");

    // While it reads nothing, frames are folded and other requests are answered.
    for seq in 2..=11 {
        health.publish(&frame("s0", seq, &["peer-0"])).await;
    }
    folded(&callsight, 55.0).await;
    let given_up = "scrape given up";
    assert!(!callsight.process().output().contains(given_up), "it was given up before anything was shown");
    wait::eventually(DEADLINE + SLACK, "the scraper to be given up", || {
        wait::when(callsight.process().output(), |log| log.contains(given_up))
    });
}

#[tokio::test]
async fn slow_headers_have_a_deadline_and_so_have_later_requests() {
    let (_nats, callsight) = exporter(&[]).await;
    let mut slow = connect(&callsight).await;
    let mut idle = connect(&callsight).await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let began = Instant::now();
    let dripping = async {
        for letter in b"GET /metrics HTTP/1.1\r\nX-Slow: one letter after the other".iter().cycle() {
            if slow.write_all(&[*letter]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    timeout(DEADLINE + SLACK, dripping).await.expect("dripping goes on");
    assert!(began.elapsed() > DEADLINE / 2, "closed after {:?}", began.elapsed());
    let answer = until_closed(&mut idle, SLACK).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_handshake_has_a_deadline() {
    let authority = Authority::new();
    authority.sign_to("server");
    let web = authority.file("web.yml", "tls_server_config: {cert_file: server.pem, key_file: server.key}\n");
    let callsight = Callsight::serve_at("nats://127.0.0.1:1", &["--web-config", &web]);
    let mut silent = wait::eventually_async(wait::PATIENCE, "it to listen", async || {
        TcpStream::connect(callsight.target()).await
    })
    .await;
    // The beginning of a TLS handshake.
    silent.write_all(b"\x16\x03\x01\x00\xd5").await.unwrap();
    until_closed(&mut silent, DEADLINE + SLACK).await;
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let (_nats, callsight) = exporter(&[]).await;
    let many = "X-Many: header\r\n".repeat(1000);
    let long = format!("X-Long: {}\r\n", "x".repeat(64 * 1024));
    for flood in [many, long] {
        let mut stream = connect(&callsight).await;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{flood}\r\n");
        // It may be refused before all of it is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = until_closed(&mut stream, SLACK).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let mut body = connect(&callsight).await;
    body.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    let answer = until_closed(&mut body, DEADLINE + SLACK).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    callsight.metrics().await;
}
