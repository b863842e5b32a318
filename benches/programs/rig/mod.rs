//! The exporter as it ships, a stream full of frames, and what a scrape costs.

// Each benchmark is a crate of its own and uses a part of this.
#![allow(dead_code, clippy::allow_attributes, reason = "used in part by each benchmark")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use callsight::simulate::{SimulateConfig, World};
use callsight_frame::Form;
use callsight_frame::subject::Region;
use callsight_publish::{Publisher, PublisherConfig};
use callsight_testkit::nats::Nats;
use callsight_testkit::port;
use callsight_testkit::process::Process;
use flate2::read::GzDecoder;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// How long anything but storing frames may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// How long storing the last frames may take.
const STORED_WITHIN: Duration = Duration::from_secs(600);

/// The sessions that [`fill`] simulates, and how often each sends a frame.
pub(crate) const SESSIONS: usize = 2000;
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// How many bytes of a response are kept from its beginning. A page begins with the exporter's own
/// series and the aggregates, followed by the round trips of the sessions.
const HEAD: usize = 1024 * 1024;

/// A connection with room for as many messages as the product's own has.
pub(crate) async fn connect(url: &str) -> Result<Client, Failure> {
    Ok(ConnectOptions::new().subscription_capacity(65_536).connect(url).await?)
}

/// Simulated calls of [`SESSIONS`], which begin at `started`, in milliseconds since the Unix epoch.
pub(crate) fn world(region: &Region, meeting_size: usize, started: u64) -> World {
    let config = SimulateConfig {
        regions: vec![region.clone()],
        sessions: SESSIONS,
        meeting_size,
        interval: INTERVAL,
        seed: 1,
        ..SimulateConfig::default()
    };
    World::new(&config, started)
}

/// Publishes frames of simulated calls, and returns their average size in bytes. The calls begin at
/// `started`, in milliseconds since the Unix epoch.
pub(crate) async fn fill(
    client: Client,
    region: &Region,
    frames: usize,
    meeting_size: usize,
    started: u64,
) -> Result<usize, Failure> {
    let mut world = world(region, meeting_size, started);
    let publisher = Publisher::start(client, PublisherConfig::new(region.clone(), "relay", "bench")).await?;
    let (mut published, mut bytes) = (0, 0);
    while published < frames {
        if let Some(event) = world.advance() {
            publisher.room().await?;
            publisher.publish(&event.frame)?;
            bytes += event.frame.encode(Form::Compact).len();
            published += 1;
        }
    }
    publisher.shutdown(STORED_WITHIN).await?;
    Ok(bytes / frames)
}

/// A running `callsight serve`.
pub(crate) struct Exporter {
    pub(crate) process: Process,
    port: u16,
}

impl Exporter {
    pub(crate) async fn start(nats: &Nats, flags: &[&str]) -> Result<Self, Failure> {
        let port = port::free();
        let mut command = Command::new(env!("CARGO_BIN_EXE_callsight"));
        let listen = format!("127.0.0.1:{port}");
        command.args(["serve", "--region", "us", "--create", "--listen", &listen, "--nats-url", &nats.url()]);
        let exporter = Self { process: Process::spawn("callsight", command.args(flags)), port };
        let began = Instant::now();
        while !exporter.get("/readyz", false).await.is_ok_and(|answer| answer.ok) {
            give_up(began, "the exporter is not ready")?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(exporter)
    }

    /// Sends a GET and reads the response to its end, on a thread of its own.
    pub(crate) async fn get(&self, path: &'static str, gzip: bool) -> Result<Answer, Failure> {
        let port = self.port;
        tokio::task::spawn_blocking(move || get(port, path, gzip)).await?
    }

    /// The sum over a metric's series.
    pub(crate) async fn value(&self, metric: &str) -> Result<f64, Failure> {
        Ok(self.get("/metrics", false).await?.sum(metric))
    }
}

/// Waits until exporters have folded this many frames in total.
pub(crate) async fn folded(exporters: &[Exporter], frames: f64) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let mut all = 0.0;
        for exporter in exporters {
            all += exporter.value("callsight_frames_folded_total").await?;
        }
        if all >= frames {
            return Ok(());
        }
        give_up(began, "the frames are not folded")?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) fn give_up(began: Instant, problem: &str) -> Result<(), Failure> {
    if began.elapsed() > DEADLINE { Err(problem.into()) } else { Ok(()) }
}

/// A response: the beginning of its body, its size on the wire, and the time from the request to
/// the last byte.
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) head: String,
    pub(crate) bytes: usize,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

impl Answer {
    /// The sum over a metric's series, except for series of the detail planes.
    pub(crate) fn sum(&self, metric: &str) -> f64 {
        let value = |line: &str| {
            let rest = line.strip_prefix(metric).filter(|rest| rest.starts_with(['{', ' ']))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        self.head.lines().filter_map(value).sum()
    }

    /// The cumulative counts of a histogram, by upper bound.
    pub(crate) fn buckets(&self, metric: &str) -> Vec<(f64, f64)> {
        let bucket = |line: &str| {
            let rest = line.strip_prefix(metric)?.strip_prefix("_bucket{")?;
            let bound = rest.split("le=\"").nth(1)?.split('"').next()?;
            Some((bound.replace("+Inf", "inf").parse().ok()?, rest.rsplit(' ').next()?.parse().ok()?))
        };
        self.head.lines().filter_map(bucket).collect()
    }
}

fn get(port: u16, path: &str, gzip: bool) -> Result<Answer, Failure> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(DEADLINE))?;
    let encoding = if gzip { "gzip" } else { "identity" };
    let began = Instant::now();
    // In HTTP 1.0 the body ends with the connection and is not in chunks.
    write!(connection, "GET {path} HTTP/1.0\r\nHost: x\r\nAccept-Encoding: {encoding}\r\n\r\n")?;
    let mut head = Vec::with_capacity(HEAD);
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = connection.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read;
        head.extend_from_slice(&buffer[..read.min(HEAD - head.len())]);
    }
    let took = began.elapsed();
    let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let ok = status.ends_with(b"200 OK");
    let body = head.windows(4).position(|end| end == b"\r\n\r\n").map_or(&[][..], |end| &head[end + 4..]);
    let mut text = Vec::new();
    if gzip && path == "/metrics" {
        // The end of a long page is not kept, which is no failure here.
        let _ = GzDecoder::new(body).take(4 * HEAD as u64).read_to_end(&mut text);
    } else {
        text.extend_from_slice(body);
    }
    Ok(Answer { ok, head: String::from_utf8_lossy(&text).into_owned(), bytes, began, took })
}
