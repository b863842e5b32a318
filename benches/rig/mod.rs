//! Real processes to measure: a nats-server, and the exporter as it is shipped.

// Each benchmark is a crate of its own and uses a part of this.
#![allow(dead_code, clippy::allow_attributes, reason = "used in part by each benchmark")]

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::Client;
use flate2::read::GzDecoder;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Anything that takes longer than this is given up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The beginning of an answer that is kept, in bytes. A page begins with the exporter's own series and the aggregates, and
/// goes on with the round trips of the sessions.
const HEAD: usize = 1024 * 1024;

/// A process that is stopped by its id, also when something fails.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// The time that it has had on processors, from the kernel.
    pub(crate) fn cpu_time(&self) -> Result<Duration, Failure> {
        cpu_time(&self.id().to_string())
    }

    /// The memory that it has, in bytes.
    pub(crate) fn resident(&self) -> Result<usize, Failure> {
        self.memory("VmRSS:")
    }

    /// The most that it has had since [`Self::forget_peak`].
    pub(crate) fn peak(&self) -> Result<usize, Failure> {
        self.memory("VmHWM:")
    }

    pub(crate) fn forget_peak(&self) -> Result<(), Failure> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.id()), "5")?)
    }

    fn memory(&self, what: &str) -> Result<usize, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).ok_or("no such line")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
    }
}

/// The time that a process (`self` for this one) has had on processors, from the kernel.
pub(crate) fn cpu_time(process: &str) -> Result<Duration, Failure> {
    /// The kernel's unit here, on every Linux of today.
    const TICKS_A_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_A_SECOND))
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn quiet(command: &mut Command) -> Result<Process, Failure> {
    Ok(Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

/// A nats-server with JetStream, its folder and a connection to it.
pub(crate) struct Nats {
    pub(crate) process: Process,
    pub(crate) client: Client,
    pub(crate) url: String,
    _folder: tempfile::TempDir,
}

impl Nats {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]);
        let process = quiet(command.arg(folder.path()))?;
        let url = format!("nats://127.0.0.1:{port}");
        let options =
            async_nats::ConnectOptions::new().retry_on_initial_connect().subscription_capacity(65_536);
        let client = options.connect(&url).await?;
        Ok(Self { process, client, url, _folder: folder })
    }
}

/// A running `callsight serve`.
pub(crate) struct Exporter {
    pub(crate) process: Process,
    port: u16,
}

impl Exporter {
    pub(crate) async fn start(nats: &Nats, flags: &[&str]) -> Result<Self, Failure> {
        let port = free_port()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_callsight"));
        let listen = format!("127.0.0.1:{port}");
        command.args(["serve", "--region", "us", "--create", "--listen", &listen, "--nats-url", &nats.url]);
        let exporter = Self { process: quiet(command.args(flags))?, port };
        let began = Instant::now();
        while !exporter.get("/readyz", false).await.is_ok_and(|answer| answer.ok) {
            give_up(began, "the exporter is not ready")?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(exporter)
    }

    /// GET of a path, read to its end on a thread of its own.
    pub(crate) async fn get(&self, path: &'static str, gzip: bool) -> Result<Answer, Failure> {
        let port = self.port;
        tokio::task::spawn_blocking(move || get(port, path, gzip)).await?
    }

    /// The sum over a metric's series.
    pub(crate) async fn value(&self, metric: &str) -> Result<f64, Failure> {
        Ok(self.get("/metrics", false).await?.sum(metric))
    }
}

/// Waits until exporters have folded so many frames between them.
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

/// An answer over HTTP: the beginning of its body, its size on the wire, and how long it took from the request to its
/// last byte.
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) head: String,
    pub(crate) bytes: usize,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

impl Answer {
    /// The sum over a metric's series, among those that come before the detail.
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
    // In HTTP 1.0 the body ends with the connection, and is not in chunks that would have to be put together.
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
        // Of a longer page than is kept the end is missing, which is no failure here.
        let _ = GzDecoder::new(body).take(4 * HEAD as u64).read_to_end(&mut text);
    } else {
        text.extend_from_slice(body);
    }
    Ok(Answer { ok, head: String::from_utf8_lossy(&text).into_owned(), bytes, began, took })
}
