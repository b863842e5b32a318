//! What happens to the calls, the links, the server and the exporters.

use std::collections::BTreeMap;
use std::io::Read;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::State;
use callsight::topology::{dead_letter_stream_config, stream_config, stream_name};
use flate2::read::GzDecoder;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, interval, sleep};

use crate::account::Account;
use crate::figures::{Retired, Sample, Usage, disk};
use crate::kit::callsight::{Callsight, REGION};
use crate::kit::http;
use crate::kit::nats::Nats;
use crate::kit::proxy::Proxy;
use crate::kit::supercluster::SETTLED_WITHIN;
use crate::kit::wait;
use crate::load::Load;
use crate::{
    IDLE_TIMEOUT, KEPT, MAX_APPS, MAX_SERIES, MAX_SERVERS, MAX_SESSIONS, SCRAPE_EVERY, SERVER_IDLE, say,
};

/// The size at which a stream discards its oldest messages, of frames and of dead letters.
const MAX_BYTES: [i64; 2] = [2 << 20, 1 << 19];

/// The longest that a link or the server is away.
const LONGEST: f64 = 2.0;

/// What an exporter is asked for.
const PATHS: [&str; 5] = ["/metrics", "/", "/api/triage", "/readyz", "/livez"];

/// What happens, over and over.
const EVENTS: [&str; 9] = [
    "exporters' link cut",
    "exporters' link stalled, then cut",
    "relays' link cut",
    "nats-server killed",
    "relay replaced",
    "flood of sessions",
    "flood of servers",
    "frames under a bad subject",
    "scrapers that hang or vanish",
];

pub(super) struct World {
    nats: Mutex<Nats>,
    pub(super) jetstream: jetstream::Context,
    to_exporters: Proxy,
    to_relays: Proxy,
    pub(super) load: Arc<Mutex<Load>>,
    /// The exporter that lives all the time.
    pub(super) main: Callsight,
    /// The exporter that is replaced again and again, and its address.
    pub(super) colour: Mutex<Callsight>,
    colour_url: std::sync::Mutex<String>,
    began: Instant,
    pub(super) samples: Mutex<Vec<Sample>>,
    pub(super) retired: Mutex<Vec<Retired>>,
    pub(super) events: Mutex<BTreeMap<&'static str, u64>>,
    pub(super) scrapes: AtomicU64,
    pub(super) unready: AtomicU64,
}

impl World {
    pub(super) async fn start(rng: &mut StdRng) -> Self {
        // What was acknowledged survives a kill.
        let nats = Nats::start_with("jetstream { sync_interval: always }", &[]);
        let jetstream = nats.jetstream().await;
        let region = REGION.parse().unwrap();
        let streams = [stream_config(&region, 1), dead_letter_stream_config(&region, 1)];
        for (stream, max_bytes) in streams.into_iter().zip(MAX_BYTES) {
            let small =
                jetstream::stream::Config { max_age: KEPT, duplicate_window: KEPT, max_bytes, ..stream };
            jetstream.create_stream(small).await.unwrap();
        }
        let (to_exporters, to_relays) = (Proxy::to(nats.port()).await, Proxy::to(nats.port()).await);
        let load = Load::start(&to_relays, rng.random()).await;
        let main = exporter(&to_exporters, "main").await;
        let colour = exporter(&to_exporters, "blue").await;
        Self {
            colour_url: std::sync::Mutex::new(colour.url()),
            nats: Mutex::new(nats),
            jetstream,
            to_exporters,
            to_relays,
            load: Arc::new(Mutex::new(load)),
            main,
            colour: Mutex::new(colour),
            began: Instant::now(),
            samples: Mutex::default(),
            retired: Mutex::default(),
            events: Mutex::default(),
            scrapes: AtomicU64::default(),
            unready: AtomicU64::default(),
        }
    }

    pub(super) async fn stream_state(&self) -> State {
        wait::eventually_async(SETTLED_WITHIN, "the stream to answer", async || {
            let stream = self.jetstream.get_stream(stream_name(&REGION.parse().unwrap())).await;
            stream.map(|stream| stream.cached_info().state.clone())
        })
        .await
    }

    /// Each event happens as often as the others, in random order, and all of them at least once.
    pub(super) async fn events(&self, end: Instant, every: Duration, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut hanging = Vec::new();
        let mut first = true;
        while first || Instant::now() < end {
            let mut deck = EVENTS;
            deck.shuffle(&mut rng);
            for event in deck {
                if !first && Instant::now() >= end {
                    return;
                }
                sleep(every).await;
                let away = Duration::from_secs_f64(rng.random_range(0.1..LONGEST));
                self.event(event, away, &mut hanging).await;
                *self.events.lock().await.entry(event).or_default() += 1;
            }
            first = false;
        }
    }

    async fn event(&self, event: &str, away: Duration, hanging: &mut Vec<TcpStream>) {
        match event {
            "exporters' link cut" => self.to_exporters.cut(),
            "exporters' link stalled, then cut" => {
                self.to_exporters.stall();
                sleep(away).await;
                self.to_exporters.cut();
                self.to_exporters.resume();
            }
            "relays' link cut" => self.to_relays.cut(),
            "nats-server killed" => {
                let mut nats = self.nats.lock().await;
                nats.kill9();
                sleep(away).await;
                nats.restart();
            }
            "relay replaced" => self.load.lock().await.replace_relay().await,
            "flood of sessions" => self.load.lock().await.flood_sessions(3 * MAX_SESSIONS).await,
            "flood of servers" => self.load.lock().await.flood_servers(3 * MAX_SERVERS).await,
            "frames under a bad subject" => {
                for _ in 0..5 {
                    self.load.lock().await.strange_subject(&self.jetstream).await;
                }
            }
            "scrapers that hang or vanish" => {
                hanging.clear();
                for _ in 0..4 {
                    hanging.push(self.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n").await);
                    let mut vanishing = self.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
                    let read = vanishing.read(&mut [0; 100]).await.unwrap();
                    assert!(read > 0, "the exporter answers a scrape");
                }
            }
            other => unreachable!("{other}"),
        }
    }

    async fn ask(&self, request: &str) -> TcpStream {
        let mut connection = TcpStream::connect(self.main.target()).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        connection
    }

    /// Blue and green take turns: the next one starts, gets ready, and the last one goes, with its
    /// durable.
    pub(super) async fn rollouts(&self, end: Instant, every: Duration) {
        let colours = ["blue", "green"];
        for turn in 1.. {
            sleep(every).await;
            let [old_name, new_name] = [turn - 1, turn].map(|turn| colours[turn % 2]);
            let new = exporter(&self.to_exporters, new_name).await;
            let url = new.url();
            url.clone_into(&mut self.colour_url.lock().unwrap());
            let mut old = mem::replace(&mut *self.colour.lock().await, new);
            let usage = Usage::of(old.process());
            let status = old.terminate();
            assert!(status.success(), "{old_name} ended with {status}: {}", old.process().output());
            let nats_url = self.nats.lock().await.url();
            retire(old_name, &url, &nats_url).await;
            self.retired.lock().await.push(Retired { at: self.began.elapsed(), usage });
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// Asks both exporters for everything that they serve, compressed and not.
    pub(super) async fn scrapes(&self, end: Instant) {
        let mut tick = interval(SCRAPE_EVERY);
        while tick.tick().await < end {
            for path in PATHS {
                for encoding in ["identity", "gzip"] {
                    self.scrape(path, encoding).await;
                }
            }
        }
    }

    async fn scrape(&self, path: &str, encoding: &str) {
        let colour = self.colour_url.lock().unwrap().clone();
        let headers = [("accept-encoding", encoding)];
        // It may have been replaced just now.
        if http::get(&format!("{colour}{path}"), &headers).await.is_ok() {
            self.scrapes.fetch_add(1, Ordering::Relaxed);
        }
        let answer = self.main.get_with(path, &headers).await;
        self.scrapes.fetch_add(1, Ordering::Relaxed);
        let status = answer.status;
        if path == "/readyz" && status == 503 {
            self.unready.fetch_add(1, Ordering::Relaxed);
            return;
        }
        assert_eq!(status, 200, "{path}");
        if path == "/metrics" && encoding == "gzip" {
            assert_eq!(answer.header("content-encoding"), Some("gzip"));
            let mut page = String::new();
            GzDecoder::new(&answer.body[..]).read_to_string(&mut page).unwrap();
            assert!(page.contains("\ncallsight_build_info{"), "{page}");
        }
    }

    pub(super) async fn samples(&self, end: Instant, every: Duration, say_every: Duration) {
        let mut tick = interval(every);
        let mut said = Instant::now();
        while tick.tick().await < end {
            let sample = self.sample().await;
            if said.elapsed() >= say_every {
                said = Instant::now();
                self.say(&sample).await;
            }
            self.samples.lock().await.push(sample);
        }
    }

    async fn sample(&self) -> Sample {
        let scrape = self.main.metrics().await;
        let nats = self.nats.try_lock().ok();
        let nats = nats.map(|nats| (Usage::of(nats.process()), disk(nats.store())));
        let process = self.main.process();
        Sample {
            at: self.began.elapsed(),
            exporter: Usage::of(process),
            series: scrape.len() as f64,
            server_series: scrape.values_of("server_url").into_values().sum::<usize>() as f64,
            sessions: scrape.sum("videocall_sessions", &[]),
            frames: Account::of(&scrape, REGION).taken(),
            log: process.output().len() as f64,
            nats,
        }
    }

    async fn say(&self, sample: &Sample) {
        let (begun, published) = {
            let load = self.load.lock().await;
            (load.begun, load.published())
        };
        let Usage { resident, descriptors, threads, cpu, .. } = sample.exporter;
        let nats = sample.nats.map_or("nats-server away".to_owned(), |(usage, disk)| {
            let [resident, disk] = [usage.resident, disk].map(|bytes| bytes / f64::from(1 << 20));
            format!("nats-server {resident:.1} MiB, disk {disk:.2} MiB")
        });
        say(&format!(
            "{:>6.0} s  exporter {:.1} MiB, {descriptors} descriptors, {threads} threads, CPU {:.1} s; \
             {} series, {} live sessions; {nats}; acknowledged {}; begun: {} sessions, {} servers, {} relays; \
             {} rollouts, {} scrapes",
            sample.at.as_secs_f64(),
            resident / f64::from(1 << 20),
            cpu.as_secs_f64(),
            sample.series,
            sample.sessions,
            published.acknowledged,
            begun.sessions,
            begun.servers,
            begun.relays,
            self.retired.lock().await.len(),
            self.scrapes.load(Ordering::Relaxed),
        ));
    }
}

/// An exporter of a deployment, ready.
async fn exporter(link: &Proxy, deployment: &str) -> Callsight {
    let flags = [
        format!("--deployment={deployment}"),
        format!("--idle-timeout={}s", IDLE_TIMEOUT.as_secs()),
        format!("--server-idle={}s", SERVER_IDLE.as_secs()),
        format!("--max-sessions={MAX_SESSIONS}"),
        format!("--max-server-urls={MAX_SERVERS}"),
        format!("--max-apps={MAX_APPS}"),
        format!("--max-series={MAX_SERIES}"),
    ];
    let flags: Vec<_> = std::iter::once("--create").chain(flags.iter().map(String::as_str)).collect();
    let mut exporter = Callsight::serve_at(&link.url(), &flags);
    exporter.ready_within(SETTLED_WITHIN).await;
    exporter
}

/// Deletes a durable as an operator does, who tries again if the server was away just then.
async fn retire(deployment: &'static str, active: &str, nats_url: &str) {
    let args = ["rollout", "retire", "--region", REGION, "--timeout", "20s", "--deployment", deployment];
    let args = [&args[..], &["--active", active, "--nats-url", nats_url]].concat();
    let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
    wait::eventually_async(SETTLED_WITHIN, "the durable to be retired", async || {
        let args = args.clone();
        let run = move || Callsight::run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    })
    .await;
}
