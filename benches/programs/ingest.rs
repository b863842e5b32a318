//! The way in over HTTP: how long 2,000 clients wait for their answers beside an exporter, and what
//! a request costs, compared with a warp handler that only answers.
//!
//! The real binary, a real nats-server, HTTP over the loopback interface, about two minutes.
//! `./dev bench --bench ingest -- [CLIENTS]`

#[path = "../common/mod.rs"]
mod common;
mod rig;

use std::env;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use callsight_frame::{Form, Frame, SessionId};
use callsight_testkit::jwt::hs256;
use callsight_testkit::nats::Nats;
use callsight_testkit::port;
use callsight_testkit::process::Process;
use common::Names;
use futures_util::future::try_join_all;
use rig::{Exporter, Failure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep};
use warp::Filter;
use warp::http::StatusCode;

/// The argument that makes this program the server to compare with.
const PLAIN: &str = "--plain-server";

/// Participants of a meeting.
const PARTIES: usize = 4;

/// How often each client sends a frame, and for how long.
const INTERVAL: Duration = Duration::from_secs(1);
const FRAMES: u64 = 30;

/// Connections that send one request after the other, how many requests each, and how often both
/// servers take their turn.
const CONNECTIONS: usize = 64;
const REQUESTS: u64 = 4_000;
const ROUNDS: usize = 3;

const SECRET: &[u8] = b"a secret of thirty-two bytes or more";

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let [first, port, ..] = &arguments[..]
        && first == PLAIN
    {
        runtime.block_on(plain(port.parse()?));
        return Ok(());
    }
    // `cargo bench` adds a flag.
    let clients = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(2_000);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    runtime.block_on(measure(clients))
}

/// Reads each body and answers as the way in does.
async fn plain(port: u16) {
    let answer = warp::path!("v1" / "frames")
        .and(warp::post())
        .and(warp::header::<String>("authorization"))
        .and(warp::body::bytes())
        .map(|_, _| StatusCode::NO_CONTENT);
    warp::serve(answer).run((Ipv4Addr::LOCALHOST, port)).await;
}

async fn measure(clients: usize) -> Result<(), Failure> {
    let nats = Nats::start();
    let exporter = Exporter::start(&nats, &["--max-series=10000000", "--max-sessions=100000"]).await?;
    let server = ingest(&nats).await?;
    let mut out = io::stdout();

    let (began, before) = (Instant::now(), [&server.process, &exporter.process].map(Process::cpu_time));
    let mut waits: Vec<_> = try_join_all((0..clients).map(|number| speak(server.port, number, clients)))
        .await?
        .into_iter()
        .flatten()
        .collect();
    let took = began.elapsed().as_secs_f64();
    let [ingest, serve] = [(&server.process, before[0]), (&exporter.process, before[1])]
        .map(|(process, before)| 100.0 * process.cpu_time().saturating_sub(before).as_secs_f64() / took);
    rig::folded(&[exporter], waits.len() as f64).await?;
    waits.sort_unstable();
    let at = |share: f64| 1e3 * waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64();
    writeln!(
        out,
        "{clients} clients, a frame a second, all folded: {} answers in {took:.1} s\n  \
         answered within {:.1} ms (median), {:.1} ms (p99), {:.1} ms (p99.9), {:.1} ms (all)\n  \
         {ingest:.0} % of a processor for ingest, {serve:.0} % for serve, {:.1} MiB resident",
        waits.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        server.process.resident() as f64 / 1_048_576.0
    )?;

    let port = port::free();
    let mut command = Command::new(env::current_exe()?);
    let plain = Server { process: Process::spawn("plain", command.args([PLAIN, &port.to_string()])), port };
    plain.wait_until_up().await?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let [ingest, plain] = [&server, &plain].map(|server| server.requests_per_cpu_second(round));
        let (ingest, plain) = (ingest.await?, plain.await?);
        writeln!(
            out,
            "one after the other over {CONNECTIONS} connections: {ingest:.0} requests per second of a processor, \
             {plain:.0} of a handler that only answers, {:.2}",
            ingest / plain
        )?;
        rounds.push(ingest / plain);
    }
    rounds.sort_unstable_by(f64::total_cmp);
    writeln!(out, "median ratio: {:.2}", rounds[ROUNDS / 2])?;
    Ok(())
}

struct Server {
    process: Process,
    port: u16,
}

/// Starts the way in with its defaults, except for the limit of this one address.
async fn ingest(nats: &Nats) -> Result<Server, Failure> {
    let directory = tempfile::tempdir()?;
    let secret = directory.path().join("secret");
    std::fs::write(&secret, SECRET)?;
    let port = port::free();
    let mut command = Command::new(env!("CARGO_BIN_EXE_callsight"));
    command.args(["ingest", "--region", "us", "--server-id", "edge-1", "--nats-url", &nats.url()]);
    command.args(["--rate-address", "1000000", "--rate-participant", "1000000"]);
    command.arg("--listen").arg(format!("127.0.0.1:{port}")).arg("--token-secret").arg(&secret);
    let server = Server { process: Process::spawn("ingest", &mut command), port };
    let began = Instant::now();
    let mut client = server.wait_until_up().await?;
    while client.exchange(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await? != 200 {
        rig::give_up(began, "ingest is not ready")?;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(server)
}

impl Server {
    async fn wait_until_up(&self) -> Result<Connection, Failure> {
        let began = Instant::now();
        loop {
            match Connection::open(self.port).await {
                Ok(connection) => return Ok(connection),
                Err(_) => rig::give_up(began, "the server does not listen")?,
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn requests_per_cpu_second(&self, round: usize) -> Result<f64, Failure> {
        let before = self.process.cpu_time();
        try_join_all((0..CONNECTIONS).map(|number| self.hurry(round, number))).await?;
        let taken = self.process.cpu_time().saturating_sub(before);
        Ok(CONNECTIONS as f64 * REQUESTS as f64 / taken.as_secs_f64())
    }

    /// Sends one request after the other.
    async fn hurry(&self, round: usize, number: usize) -> Result<(), Failure> {
        let client = Client::new(1_000_000 * (1 + round) + number);
        let mut connection = Connection::open(self.port).await?;
        for seq in 1..=REQUESTS {
            connection.accepted(&client.request(seq)).await?;
        }
        Ok(())
    }
}

/// Sends the frames of a session at its interval, and returns how long each waited for its answer.
async fn speak(port: u16, number: usize, clients: usize) -> Result<Vec<Duration>, Failure> {
    let client = Client::new(number);
    sleep(INTERVAL.mul_f64(number as f64 / clients as f64)).await;
    let mut connection = Connection::open(port).await?;
    let mut due = interval(INTERVAL);
    let mut waits = Vec::new();
    for seq in 1..=FRAMES {
        let request = client.request(seq);
        // From when it was due, so that a stall counts for every frame that it holds up.
        let due = due.tick().await;
        connection.accepted(&request).await?;
        waits.push(due.elapsed());
    }
    Ok(waits)
}

/// A participant with a token of its own.
struct Client {
    names: Names,
    session: String,
    token: String,
}

impl Client {
    fn new(number: usize) -> Self {
        let names = Names::new(number, PARTIES);
        let frame = names.frame(1);
        let session = format!("{}:{number}", frame.peer_id);
        let expiry = OffsetDateTime::now_utc().unix_timestamp() + 3_600;
        let claims = json!({
            "meeting_id": frame.meeting_id.as_str(),
            "peer_id": frame.peer_id.as_str(),
            "exp": expiry,
        });
        let token = hs256(SECRET, &claims);
        Self { names, session, token }
    }

    fn request(&self, seq: u64) -> Vec<u8> {
        let session_id = common::id(SessionId::new(&self.session));
        let body = Frame { session_id, ..self.names.frame(seq) }.encode(Form::Compact);
        let head = format!(
            "POST /v1/frames HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/msgpack\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        [head.as_bytes(), &body].concat()
    }
}

/// A connection that is kept alive.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    async fn accepted(&mut self, request: &[u8]) -> Result<(), Failure> {
        match self.exchange(request).await? {
            204 => Ok(()),
            _ => Err(String::from_utf8_lossy(&self.buffer).into()),
        }
    }

    /// Sends a request and returns the status of its answer.
    async fn exchange(&mut self, request: &[u8]) -> Result<u16, Failure> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        while !self.is_whole() {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the connection was closed".into());
            }
        }
        Ok(std::str::from_utf8(&self.buffer)?.split(' ').nth(1).unwrap_or_default().parse()?)
    }

    fn is_whole(&self) -> bool {
        let text = String::from_utf8_lossy(&self.buffer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0)
    }
}
